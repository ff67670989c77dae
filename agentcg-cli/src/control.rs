//! `agentcg kill`, `agentcg freeze`, `agentcg thaw`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::target::{RootArg, Target};

/// What they act on.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    root: RootArg,
    /// SESSION, SESSION/CALL, or CALL where there is one of that name
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends calls, with the verdict `cancelled`.
    Kill,
    /// Stops processes where they are.
    Freeze,
    /// Lets them go on.
    Thaw,
}

/// Does it to each. All names are looked up before the first is touched.
///
/// # Errors
/// A name that there is not; those of acting.
pub fn run(args: &Args, action: Action) -> Result<ExitCode> {
    let sessions = args.root.sessions()?;
    let targets: Vec<_> =
        args.names.iter().map(|name| Target::find(&sessions, name)).collect::<Result<_>>()?;
    let by = format!("agentcg kill (pid {}, uid {})", std::process::id(), uid());
    let mut status = ExitCode::SUCCESS;
    for (target, name) in targets.into_iter().zip(&args.names) {
        let done = match (action, target) {
            (Action::Kill, Target::Session(session)) => session.kill_calls(&by),
            (Action::Kill, Target::Call(call)) => call.kill(&by),
            (Action::Freeze, Target::Session(session)) => session.freeze().map(|()| true),
            (Action::Freeze, Target::Call(call)) => call.freeze().map(|()| true),
            (Action::Thaw, Target::Session(session)) => session.thaw().map(|()| true),
            (Action::Thaw, Target::Call(call)) => call.thaw().map(|()| true),
        };
        if !done.with_context(|| name.clone())? {
            eprintln!("agentcg: {name}: killed, but some of its processes are not gone yet");
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}
