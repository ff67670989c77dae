//! What agentcg costs and gives, beside the alternatives, in one run.
//!
//! | measurement | beside |
//! |---|---|
//! | `fairness` | the kernel's EEVDF; needs sched_ext and the cpu controller |
//! | `events` | no monitor |
//! | `calls` | `std::process` |
//! | `bindings` | C and Go beside the library itself |
//! | `wrappers` | the command itself, a shell script, `systemd-run`, BenchExec's `runexec` |
//! | `storm` | nothing: all verdicts must be right, and nothing may be left |
//!
//! Absolute times mean little on a shared machine: look at the ratios. `benches/run.sh` runs the
//! first in a guest and the second on the host.

#![allow(clippy::print_stdout)]

mod bindings;
mod calls;
mod events;
mod fairness;
mod storm;
mod wrappers;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// CPU shares of two groups with weights 100 and 300
    Fairness {
        /// Length of one measurement
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// What the process monitor adds to running a program
    Events {
        /// Programs run for each measurement
        #[arg(long, default_value_t = 1000)]
        runs: u32,
    },
    /// What a tool call costs beside std::process
    Calls {
        /// Calls of each kind
        #[arg(long, default_value_t = 500)]
        rounds: u32,
        /// Memory of the large parent; 0 leaves it out
        #[arg(long, default_value_t = 4)]
        large_gib: usize,
    },
    /// What C and Go add to a call, and how fast they read events
    Bindings {
        /// Where benches/run.sh has built the programs
        directory: std::path::PathBuf,
        /// Calls of each kind
        #[arg(long, default_value_t = 4000)]
        rounds: u32,
        /// Processes whose events are read
        #[arg(long, default_value_t = 8000)]
        processes: u32,
    },
    /// What agentcg run and agentcg-bash cost as programs
    Wrappers {
        /// Runs of each kind
        #[arg(long, default_value_t = 300)]
        rounds: u32,
    },
    /// Many calls at once, a third of them misbehaving
    Storm {
        /// Calls in all
        #[arg(long, default_value_t = 10_000)]
        calls: u32,
        /// Calls at the same time
        #[arg(long, default_value_t = 32)]
        at_once: u32,
    },
    /// What `bindings` has Rust do
    #[command(hide = true)]
    Serve { root: std::path::PathBuf },
    /// Uses CPU until it is killed
    #[command(hide = true)]
    Burn,
}

fn main() -> anyhow::Result<()> {
    let what = Cli::parse().what;
    if !matches!(what, What::Burn | What::Serve { .. }) {
        let found = agentcg_core::Capabilities::probe();
        let cpus = std::thread::available_parallelism()?;
        println!("kernel {} ({}), {cpus} CPUs", found.kernel, found.machine);
    }
    match what {
        What::Fairness { seconds } => fairness::run(seconds),
        What::Events { runs } => events::run(runs),
        What::Calls { rounds, large_gib } => calls::run(rounds, large_gib),
        What::Bindings { directory, rounds, processes } => {
            bindings::run(&directory, rounds, processes)
        }
        What::Wrappers { rounds } => wrappers::measure(rounds),
        What::Storm { calls, at_once } => storm::run(calls, at_once),
        What::Serve { root } => bindings::serve(root),
        What::Burn => fairness::burn(),
    }
}
