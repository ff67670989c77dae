//! Many calls at once, a third of them misbehaving.

use std::time::Duration;

use agentcg_core::mount_point;
use agentcg_storm::Storm;
use anyhow::{Result, ensure};

use crate::support::{Need, Test};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];

pub fn tests() -> Vec<Test> {
    vec![Test { name: "storm::right_verdicts_and_nothing_left", needs: HERE, run: storm }]
}

fn storm() -> Result<()> {
    let root = mount_point()?.join(format!("agentcg-storm-{}", std::process::id()));
    // An emulated machine takes thirty times as long to start a program.
    let emulated = std::env::var_os("AGENTCG_LAB").is_some();
    let (calls, seconds) = if emulated { (400, 150) } else { (10_000, 60) };
    let storm = Storm { calls, at_once: 32, time: Duration::from_secs(seconds) };
    let report = storm.run(&root)?;
    report.check()?;
    ensure!(report.calls >= 200, "too slow to say anything: {report}");
    Ok(())
}
