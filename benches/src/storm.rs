//! Many calls at once, a third of them misbehaving: all verdicts right, nothing left, flat.

use std::time::Duration;

use agentcg_core::mount_point;
use agentcg_storm::Storm;
use anyhow::Result;

pub fn run(calls: u32, at_once: u32) -> Result<()> {
    let root = mount_point()?.join(format!("agentcg-storm-{}", std::process::id()));
    let report = Storm { calls, at_once, time: Duration::MAX }.run(&root)?;
    println!("\n{report}");
    report.check()
}
