//! The scheduler beside the kernel's EEVDF: one case after the other, each with both, in one run.

mod cost;
mod latency;
mod load;
mod shares;

use std::time::Duration;

use agentcg_core::{Cgroup, Controller, Scheduler, SchedulerConfig, mount_point};
use anyhow::{Result, bail};

pub use load::job;

/// Something measured under one scheduler; gives its figures as text.
struct Case {
    name: &'static str,
    /// What it should be.
    bar: &'static str,
    run: fn(&Cgroup, Duration) -> Result<String>,
}

/// Measures the cases with `only` in their names.
pub fn run(seconds: u64, only: &str) -> Result<()> {
    let top = Cgroup::open(mount_point()?)?;
    top.enable(&[Controller::Cpu])?;
    let place = top.create_child(&"agentcg-bench".parse()?)?;
    place.enable(&[Controller::Cpu])?;
    println!("{:<46} {:<22} {:<26} agentcg", "", "bar", "EEVDF");
    for case in shares::CASES.iter().chain(&latency::CASES).filter(|c| c.name.contains(only)) {
        let got = |ours: bool| -> Result<String> {
            let scheduler =
                ours.then(|| Scheduler::attach(&SchedulerConfig::default(), None)).transpose()?;
            let got = (case.run)(&place, Duration::from_secs(seconds))?;
            if let Some(exit) = scheduler.and_then(|s| s.exited()) {
                bail!("the kernel detached the scheduler: {exit}\n{}", exit.dump);
            }
            Ok(got)
        };
        println!("{:<46} {:<22} {:<26} {}", case.name, case.bar, got(false)?, got(true)?);
    }
    if "decision cost".contains(only) {
        cost::run(&place, Duration::from_secs(seconds))?;
    }
    place.remove()?;
    Ok(())
}
