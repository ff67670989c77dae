//! What the scheduler's own programs take, by the kernel's run-time statistics of BPF.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use agentcg_core::{Cgroup, Scheduler, SchedulerConfig};
use anyhow::{Result, ensure};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

use super::load::{self, Group, Job};

/// The cost of one decision with more and more active cgroups.
pub(super) fn run(place: &Cgroup, time: Duration) -> Result<()> {
    println!(
        "\ndecision cost: time in all the scheduler's programs for each time a task is put on a CPU"
    );
    let mut first = None;
    for count in [2usize, 8, 32, 128] {
        let mut groups = Vec::new();
        for i in 0..count {
            groups.push(Group::new(place, &format!("g{i}"), 100, Job::Burn, 1)?);
        }
        let _scheduler = Scheduler::attach(&SchedulerConfig::default(), None)?;
        let _stats = enable()?;
        for group in &mut groups {
            group.go()?;
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = total();
        std::thread::sleep(time.min(Duration::from_secs(5)));
        let after = total();
        load::kill(&groups);
        let runs = (after.1 - before.1).max(1);
        let ns = (after.0 - before.0) as f64 / runs as f64;
        let first = first.get_or_insert(ns);
        println!(
            "{count:>5} cgroups: {ns:>8.0} ns, {:.2} times the first; {runs} decisions",
            ns / *first
        );
    }
    Ok(())
}

/// What each program takes while a byte goes back and forth between two processes.
pub(super) fn of_messages(place: &Cgroup) -> Result<()> {
    println!("\ncost of messages: each program's part in the case of the pipe");
    let _scheduler = Scheduler::attach(&SchedulerConfig::default(), None)?;
    let _stats = enable()?;
    let mut group = Group::new(place, "messages", 100, Job::Pipe, 1)?;
    let before = programs();
    group.go()?;
    let messages = 2 * group.numbers()?.iter().sum::<u64>();
    let (mut all, each) = (0.0, |n: u64| n as f64 / messages.max(1) as f64);
    for (name, (ns, runs)) in programs() {
        let (ns_before, runs_before) = before.get(&name).copied().unwrap_or_default();
        let (ns, runs) = (ns - ns_before, runs - runs_before);
        if runs > 0 {
            all += each(ns);
            let once = ns as f64 / runs as f64;
            println!(
                "{name:<16} {:>5.2} runs and {:>6.0} ns a message, {once:>6.0} ns a run",
                each(runs),
                each(ns)
            );
        }
    }
    println!("all of them: {all:.0} ns a message; {messages} messages");
    Ok(())
}

/// Run-time statistics are on as long as the descriptor is open.
fn enable() -> Result<OwnedFd> {
    // SAFETY: only asks for a descriptor.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    ensure!(fd >= 0, "BPF run-time statistics: {}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Time in our programs, ns, and how often a CPU chose a task.
fn total() -> (u64, u64) {
    let programs = programs();
    let runs = programs.get("agentcg_dispatc").map_or(0, |(_, runs)| *runs);
    (programs.values().map(|(ns, _)| ns).sum(), runs)
}

/// Our programs: time in them, ns, and how often they ran, by the name that the kernel keeps.
fn programs() -> BTreeMap<String, (u64, u64)> {
    ProgInfoIter::default()
        .map(|p| (p.name.to_string_lossy().into_owned(), (p.run_time_ns, p.run_cnt)))
        .filter(|(name, _)| name.starts_with("agentcg_"))
        .collect()
}
