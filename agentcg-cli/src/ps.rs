//! `agentcg ps`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::output::Output;
use crate::target::RootArg;
use crate::terminal;
use crate::view;

/// Options of `agentcg ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    root: RootArg,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// Shows the sessions and calls that there are now.
///
/// # Errors
/// Those of reading the cgroups and of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let sessions = args.root.sessions()?;
    let mut out = Output::default();
    if args.json {
        let root = args.root.path()?;
        let all = serde_json::json!({ "root": root.to_string_lossy(), "sessions": sessions });
        out.line(&serde_json::to_string_pretty(&all)?)?;
    } else if sessions.is_empty() {
        out.line("no sessions")?;
    } else {
        let cpu = |_: &std::path::Path, usage: &agentcg_core::Usage| {
            usage.cpu_us().map_or_else(view::dash, |us| view::duration(Duration::from_micros(us)))
        };
        out.line(&view::table(&sessions, &cpu, terminal::width()))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
