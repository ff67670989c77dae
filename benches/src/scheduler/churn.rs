//! Whether it stays while everything changes.

use std::time::Duration;

use agentcg_core::Cgroup;
use agentcg_storm::churn::Churn;
use anyhow::Result;

use super::Case;
use super::load::{Group, Job};

pub(super) const CASE: Case = Case {
    name: "churn of 60 s",
    bar: "no exit, no warning",
    noisy: false,
    run: churn,
    text: |f| format!("{} changes, no warning", f[0]),
};

fn churn(place: &Cgroup, _: Duration) -> Result<Vec<f64>> {
    let mut burners = Group::new(place, "burners", 100, Job::Burn, 8)?;
    let mut forks = Group::new(place, "forks", 100, Job::Forks, 1)?;
    burners.go()?;
    forks.go()?;
    let (pids, time) = (burners.pids()?, Duration::from_secs(60));
    let changes = Churn { place, pids: &pids, home: &burners.cgroup, time };
    Ok(vec![changes.run(|_| Ok(()), || Ok(()))? as f64])
}
