//! `agentcg doctor`.

use std::process::ExitCode;

use agentcg_core::Capabilities;
use anyhow::Result;
use comfy_table::{Table, presets};

use crate::output::{Output, name};

/// Options of `agentcg doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// Prints what this machine can do. Status 0 when tool calls can be run and measured, else 1.
///
/// # Errors
/// Those of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let found = Capabilities::probe();
    let mut out = Output::default();
    if args.json {
        out.line(&serde_json::to_string_pretty(&found)?)?;
    } else {
        out.line(&text(&found))?;
    }
    out.flush()?;
    Ok(if found.can_run_and_measure() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(found: &Capabilities) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for c in &found.capabilities {
        let ok = if c.supported { "yes" } else { "no" };
        table.add_row([c.name, ok, &c.detail]);
        if let Some(fix) = &c.fix {
            table.add_row(["", "", &format!("-> {fix}")]);
        }
    }
    let b = found.backends;
    format!(
        "kernel {} ({})\n\n{}\n\nscheduler: {}\nmemory:    {}\nevents:    {}\ntool calls can be run and measured: {}",
        found.kernel,
        found.machine,
        table.trim_fmt(),
        name(b.scheduler),
        b.memory.map_or("none".into(), name),
        if b.events { "BPF" } else { "none" },
        if found.can_run_and_measure() { "yes" } else { "no" },
    )
}
