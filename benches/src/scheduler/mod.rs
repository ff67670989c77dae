//! The scheduler beside the kernel's EEVDF, and beside another sched_ext scheduler where one is
//! given: one case after the other, each with all, in one run.

mod beside;
mod churn;
mod cost;
mod latency;
mod load;
mod shares;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use agentcg_core::{Cgroup, Controller, Scheduler, SchedulerConfig, mount_point};
use anyhow::{Result, bail};

use beside::Other;
pub use load::job;

/// Something measured under one scheduler; gives its figures as text.
struct Case {
    name: &'static str,
    /// What it should be.
    bar: &'static str,
    run: fn(&Cgroup, Duration) -> Result<String>,
}

/// Who schedules.
enum Who {
    Eevdf,
    /// Another program's scheduler.
    Other(PathBuf),
    Agentcg,
}

impl Who {
    fn measure(&self, case: &Case, place: &Cgroup, time: Duration) -> Result<String> {
        match self {
            Who::Eevdf => (case.run)(place, time),
            Who::Other(program) => {
                let other = Other::start(program)?;
                let got = (case.run)(place, time);
                // That it was thrown out is a result too.
                Ok(if other.ended()? { "ejected".into() } else { got? })
            }
            Who::Agentcg => {
                let scheduler = Scheduler::attach(&SchedulerConfig::default(), None)?;
                let got = (case.run)(place, time)?;
                if let Some(exit) = scheduler.exited() {
                    bail!("the kernel detached the scheduler: {exit}\n{}", exit.dump);
                }
                Ok(got)
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Who::Eevdf => "EEVDF".into(),
            Who::Other(program) => {
                program.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Who::Agentcg => "agentcg".into(),
        }
    }
}

/// Measures the cases with `only` in their names.
pub fn run(seconds: u64, only: &str, beside: Option<PathBuf>) -> Result<()> {
    let all: Vec<Who> = [Some(Who::Eevdf), beside.map(Who::Other), Some(Who::Agentcg)]
        .into_iter()
        .flatten()
        .collect();
    let top = Cgroup::open(mount_point()?)?;
    top.enable(&[Controller::Cpu])?;
    let place = top.create_child(&"agentcg-bench".parse()?)?;
    place.enable(&[Controller::Cpu])?;
    print!("{:<46} {:<22}", "", "bar");
    all.iter().for_each(|who| print!(" {:<26}", who.name()));
    println!();
    for case in shares::CASES
        .iter()
        .chain(&latency::CASES)
        .chain([&churn::CASE])
        .filter(|c| c.name.contains(only))
    {
        print!("{:<46} {:<22}", case.name, case.bar);
        for who in &all {
            print!(" {:<26}", who.measure(case, &place, Duration::from_secs(seconds))?);
            std::io::stdout().flush()?;
        }
        println!();
    }
    if "decision cost".contains(only) {
        cost::run(&place, Duration::from_secs(seconds))?;
    }
    if "cost of messages".contains(only) {
        cost::of_messages(&place)?;
    }
    place.remove()?;
    Ok(())
}
