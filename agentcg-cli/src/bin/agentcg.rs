//! `agentcg`: one part of agentcg, or one command, at a time.

use std::process::ExitCode;

use agentcg_cli::{doctor, memcg, output, process, scheduler};
use clap::{Parser, Subcommand};

/// Control and measure what AI agents' tool calls take from this machine
#[derive(Parser)]
#[command(name = "agentcg", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what this kernel and your privileges allow, why not, and how to get it
    Doctor(doctor::Args),
    /// Share the CPU by cgroup weight, with a sched_ext scheduler
    Scheduler(scheduler::Args),
    /// Protect the memory of some cgroups against others
    Memcg(memcg::Args),
    /// Print what processes do, as one JSON object a line
    Process(process::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::log_to_stderr(match cli.command {
        Command::Memcg(_) => "info",
        _ => "warn",
    });
    let result = match &cli.command {
        Command::Doctor(args) => doctor::run(args),
        Command::Scheduler(args) => scheduler::run(args),
        Command::Memcg(args) => memcg::run(args),
        Command::Process(args) => process::run(args),
    };
    output::finish("agentcg", result)
}
