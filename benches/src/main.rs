//! What agentcg costs and gives, beside the alternatives, in one run.
//!
//! | measurement | beside |
//! |---|---|
//! | `scheduler` | the kernel's EEVDF, and another sched_ext scheduler; needs sched_ext and the cpu controller |
//! | `events` | no monitor |
//! | `calls` | `std::process` |
//! | `bindings` | C and Go beside the library itself |
//! | `wrappers` | the command itself, a shell script, `systemd-run`, BenchExec's `runexec` |
//! | `memory` | no protection, a static `memory.low`, a fixed delay |
//! | `storm` | nothing: all verdicts must be right, and nothing may be left |
//!
//! Absolute times mean little on a shared machine: look at the ratios. `benches/run.sh` runs the
//! first in a guest and the second on the host.

#![allow(clippy::print_stdout)]

mod bindings;
mod calls;
mod events;
mod memory;
mod scheduler;
mod storm;
mod turns;
mod wrappers;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// CPU shares, wake-ups and message passing
    Scheduler {
        /// Length of one measurement of shares
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// How often to measure the cases in which what else the host does shows
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
        rounds: u8,
        /// Only the cases with this in their names
        #[arg(long, default_value = "")]
        only: String,
        /// Another sched_ext scheduler's program, measured beside
        #[arg(long, value_name = "PROGRAM")]
        beside: Option<std::path::PathBuf>,
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
    /// Memory protection beside the alternatives; in a guest with little memory, and swap
    Memory(memory::Args),
    /// What `bindings` has Rust do
    #[command(hide = true)]
    Serve { root: std::path::PathBuf },
    /// A process of the case that is measured
    #[command(hide = true)]
    MemoryWorker {
        /// What to do
        job: String,
        /// Where to say how it went
        record: std::path::PathBuf,
    },
    /// The load of `scheduler`
    #[command(hide = true)]
    Job { name: String, count: usize },
}

fn main() -> anyhow::Result<()> {
    let what = Cli::parse().what;
    if !matches!(what, What::Job { .. } | What::MemoryWorker { .. } | What::Serve { .. }) {
        let found = agentcg_core::Capabilities::probe();
        let cpus = std::thread::available_parallelism()?;
        println!("kernel {} ({}), {cpus} CPUs", found.kernel, found.machine);
    }
    match what {
        What::Scheduler { seconds, rounds, only, beside } => {
            scheduler::run(seconds, rounds.into(), &only, beside)
        }
        What::Events { runs } => events::run(runs),
        What::Calls { rounds, large_gib } => calls::run(rounds, large_gib),
        What::Bindings { directory, rounds, processes } => {
            bindings::run(&directory, rounds, processes)
        }
        What::Wrappers { rounds } => wrappers::measure(rounds),
        What::Memory(args) => memory::run(&args),
        What::MemoryWorker { job, record } => memory::work(&job, &record),
        What::Storm { calls, at_once } => storm::run(calls, at_once),
        What::Serve { root } => bindings::serve(root),
        What::Job { name, count } => scheduler::job(&name, count),
    }
}
