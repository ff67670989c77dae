//! The program `agentcg`: one part of agentcg, or one command, at a time.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::{self, Action};
use crate::tool_call::FAILED;
use crate::{doctor, memcg, output, process, ps, report, run, scheduler, top};

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
    /// Show the sessions and tool calls that there are now
    Ps(ps::Args),
    /// Show sessions and tool calls as they use CPU and memory
    Top(top::Args),
    /// Kill tool calls, one or all of a session; their verdict is `cancelled`
    Kill(control::Args),
    /// Stop the processes of a tool call or session where they are
    Freeze(control::Args),
    /// Let them go on
    Thaw(control::Args),
    /// Sum up a log of outcomes by command
    Report(report::Args),
    /// Share the CPU by cgroup weight, with a sched_ext scheduler
    Scheduler(scheduler::Args),
    /// Protect the memory of some cgroups against others
    Memcg(memcg::Args),
    /// Print what processes do, as one JSON object a line
    Process(process::Args),
}

/// Does what the arguments say; the first is the name of the program. Installs signal handlers and a
/// log, so it is for a process that has nothing else to do.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            // 2 might be the status of the command that was to be run.
            let runs = args.get(1).is_some_and(|a| a == "run");
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
        Command::Ps(args) => ps::run(args),
        Command::Top(args) => top::run(args),
        Command::Kill(args) => control::run(args, Action::Kill),
        Command::Freeze(args) => control::run(args, Action::Freeze),
        Command::Thaw(args) => control::run(args, Action::Thaw),
        Command::Report(args) => report::run(args),
        Command::Scheduler(args) => scheduler::run(args),
        Command::Memcg(args) => memcg::run(args),
        Command::Process(args) => process::run(args),
    };
    output::finish("agentcg", result)
}
