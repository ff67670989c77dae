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

use crate::turns::by_turns;
use beside::Other;
pub use load::job;

/// Something measured under one scheduler.
struct Case {
    name: &'static str,
    /// What it should be.
    bar: &'static str,
    /// Whether what else the host does shows, so that it is measured several times, by turns.
    noisy: bool,
    run: fn(&Cgroup, Duration) -> Result<Vec<f64>>,
    /// The figures of one run as text.
    text: fn(&[f64]) -> String,
}

impl Case {
    /// The median of each figure, and the least and the greatest of the last one.
    fn summary(&self, runs: &[Vec<f64>]) -> String {
        let sorted = |figure: usize| {
            let mut all: Vec<f64> = runs.iter().map(|run| run[figure]).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let figures: Vec<Vec<f64>> = (0..runs[0].len()).map(sorted).collect();
        let medians: Vec<f64> = figures.iter().map(|all| all[all.len() / 2]).collect();
        let text = (self.text)(&medians);
        match figures.last().map(Vec::as_slice) {
            Some([least, .., greatest]) => {
                let digits = if *greatest < 1000.0 { 2 } else { 0 };
                format!("{text} ({least:.digits$} to {greatest:.digits$})")
            }
            _ => text,
        }
    }
}

/// Who schedules.
enum Who {
    Eevdf,
    /// Another program's scheduler.
    Other(PathBuf),
    Agentcg,
}

impl Who {
    /// The figures; `None` when the kernel has thrown the other scheduler out meanwhile.
    fn measure(&self, case: &Case, place: &Cgroup, time: Duration) -> Result<Option<Vec<f64>>> {
        match self {
            Who::Eevdf => (case.run)(place, time).map(Some),
            Who::Other(program) => {
                let other = Other::start(program)?;
                let got = (case.run)(place, time);
                if other.ended()? { Ok(None) } else { got.map(Some) }
            }
            Who::Agentcg => {
                let scheduler = Scheduler::attach(&SchedulerConfig::default(), None)?;
                let got = (case.run)(place, time)?;
                if let Some(exit) = scheduler.exited() {
                    bail!("the kernel detached the scheduler: {exit}\n{}", exit.dump);
                }
                Ok(Some(got))
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

/// Measures the cases with `only` in their names; the noisy ones so many times.
pub fn run(seconds: u64, rounds: usize, only: &str, beside: Option<PathBuf>) -> Result<()> {
    let time = Duration::from_secs(seconds);
    let all: Vec<Who> = [Some(Who::Eevdf), beside.map(Who::Other), Some(Who::Agentcg)]
        .into_iter()
        .flatten()
        .collect();
    let top = Cgroup::open(mount_point()?)?;
    top.enable(&[Controller::Cpu])?;
    let place = top.create_child(&"agentcg-bench".parse()?)?;
    place.enable(&[Controller::Cpu])?;
    println!("Noisy cases {rounds} times by turns: medians, and the last figure's range");
    println!(
        "Wake-ups: how late half and 99 % come, and 99 % of the part in which they wait for a CPU"
    );
    print!("{:<44} {:<22}", "", "bar");
    all.iter().for_each(|who| print!(" {:<46}", who.name()));
    println!();
    for case in shares::CASES
        .iter()
        .chain(&latency::CASES)
        .chain([&churn::CASE])
        .filter(|c| c.name.contains(only))
    {
        print!("{:<44} {:<22}", case.name, case.bar);
        std::io::stdout().flush()?;
        let rounds = if case.noisy { rounds } else { 1 };
        for runs in by_turns(&all, rounds, |who| who.measure(case, &place, time))? {
            let runs: Option<Vec<_>> = runs.into_iter().collect();
            print!(" {:<46}", runs.map_or("ejected".to_owned(), |runs| case.summary(&runs)));
        }
        println!();
    }
    if "decision cost".contains(only) {
        cost::run(&place, time)?;
    }
    if "cost of messages".contains(only) {
        cost::of_messages(&place)?;
    }
    place.remove()?;
    Ok(())
}
