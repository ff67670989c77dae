//! What the scheduler's own programs take, by the kernel's run-time statistics of BPF.

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
        let before = total()?;
        std::thread::sleep(time.min(Duration::from_secs(5)));
        let after = total()?;
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

/// Run-time statistics are on as long as the descriptor is open.
fn enable() -> Result<OwnedFd> {
    // SAFETY: only asks for a descriptor.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    ensure!(fd >= 0, "BPF run-time statistics: {}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Time in our programs, ns, and how often a task began to run.
fn total() -> Result<(u64, u64)> {
    let (mut ns, mut runs) = (0, 0);
    for program in ProgInfoIter::default() {
        let name = program.name.to_string_lossy();
        if name.starts_with("agentcg_") {
            ns += program.run_time_ns;
            if name.starts_with("agentcg_dispatc") {
                runs += program.run_cnt;
            }
        }
    }
    Ok((ns, runs))
}
