//! What agentcg costs and gives, beside the alternatives, in one run.
//!
//! | measurement | beside |
//! |---|---|
//! | `fairness` | the kernel's EEVDF; needs sched_ext and the cpu controller |
//! | `events` | no monitor |
//!
//! Absolute times mean little on a shared machine: look at the ratios. `benches/run.sh` runs the
//! first in a guest and the second on the host.

#![allow(clippy::print_stdout)]

mod events;
mod fairness;

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
    /// Uses CPU until it is killed
    #[command(hide = true)]
    Burn,
}

fn main() -> anyhow::Result<()> {
    let what = Cli::parse().what;
    if !matches!(what, What::Burn) {
        let found = agentcg_core::Capabilities::probe();
        let cpus = std::thread::available_parallelism()?;
        println!("kernel {} ({}), {cpus} CPUs", found.kernel, found.machine);
    }
    match what {
        What::Fairness { seconds } => fairness::run(seconds),
        What::Events { runs } => events::run(runs),
        What::Burn => fairness::burn(),
    }
}
