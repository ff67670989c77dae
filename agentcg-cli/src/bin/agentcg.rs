//! `agentcg`: one part of agentcg, or one command, at a time.

use std::process::ExitCode;

use agentcg_cli::tool_call::FAILED;
use agentcg_cli::{doctor, memcg, output, process, run, scheduler};
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
    /// Run a command as a tool call: in a cgroup of its own, limited, measured, ended whole
    Run(Box<run::Args>),
    /// Share the CPU by cgroup weight, with a sched_ext scheduler
    Scheduler(scheduler::Args),
    /// Protect the memory of some cgroups against others
    Memcg(memcg::Args),
    /// Print what processes do, as one JSON object a line
    Process(process::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            // 2 might be the status of the command that was to be run.
            let runs = std::env::args_os().nth(1).is_some_and(|a| a == "run");
            return match e.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if runs => ExitCode::from(FAILED),
                _ => ExitCode::from(2),
            };
        }
    };
    match cli.command {
        Command::Run(_) => output::log_warnings(),
        Command::Memcg(_) => output::log_to_stderr("info"),
        _ => output::log_to_stderr("warn"),
    }
    let result = match &cli.command {
        Command::Doctor(args) => doctor::run(args),
        Command::Run(args) => return run::run(args),
        Command::Scheduler(args) => scheduler::run(args),
        Command::Memcg(args) => memcg::run(args),
        Command::Process(args) => process::run(args),
    };
    output::finish("agentcg", result)
}
