//! The scheduler.

use std::os::fd::AsFd;
use std::time::Duration;

use agentcg_core::{
    Cgroup, ErrorKind, Runtime, Scheduler, SchedulerConfig, SchedulerExitKind, SchedulerScope,
    SessionConfig,
};
use anyhow::{Context, Result, ensure};

use crate::support::{Need, Test, TestCgroup, Worker, eventually, kind_of, sched_ext_state};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::SchedExt];
const NONE: &[Need] = &[Need::Root, Need::NoSchedExt];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "scheduler::attached_and_detached", needs: HERE, run: attach },
        Test { name: "scheduler::weights_100_to_300_give_1_to_3", needs: HERE, run: weights },
        Test { name: "scheduler::pinned_tasks_keep_their_weights", needs: HERE, run: pinned },
        Test { name: "scheduler::nested_weights_multiply", needs: HERE, run: nested },
        Test { name: "scheduler::a_new_weight_counts_at_once", needs: HERE, run: reweigh },
        Test { name: "scheduler::cgroups_come_and_go_under_load", needs: HERE, run: churn },
        Test { name: "scheduler::agents_only", needs: HERE, run: agents },
        Test { name: "scheduler::a_second_one_is_refused_by_name", needs: HERE, run: second },
        Test { name: "scheduler::sysrq_reaches_the_caller", needs: HERE, run: sysrq },
        Test { name: "scheduler::bad_slices_are_refused", needs: HERE, run: bad_slice },
        Test { name: "scheduler::without_sched_ext_it_says_so", needs: NONE, run: unsupported },
    ]
}

fn attach_default() -> Result<Scheduler> {
    Ok(Scheduler::attach(&SchedulerConfig::default(), None)?)
}

fn attach() -> Result<()> {
    ensure!(sched_ext_state()? == "disabled");
    let scheduler = attach_default()?;
    ensure!(sched_ext_state()? == "enabled");
    ensure!(scheduler.exited().is_none());
    let exit = scheduler.detach();
    ensure!(exit.kind == SchedulerExitKind::Detached, "{exit:?}");
    ensure!(!exit.reason.is_empty(), "the kernel gives a reason");
    ensure!(sched_ext_state()? == "disabled");
    drop(attach_default()?);
    ensure!(sched_ext_state()? == "disabled");
    Ok(())
}

/// Burners in several cgroups, and what each cgroup uses.
struct Burn {
    groups: Vec<Cgroup>,
    workers: Vec<Worker>,
}

impl Burn {
    fn start(groups: Vec<Cgroup>, each: usize) -> Result<Self> {
        let mut workers = Vec::new();
        for group in &groups {
            for _ in 0..each {
                workers.push(Worker::start_in(group, "burn")?);
            }
        }
        for worker in &mut workers {
            worker.go()?;
        }
        // Past the start, where the first ones run alone.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self { groups, workers })
    }

    /// CPU time of each group in the next seconds, µs.
    fn measure(&self, seconds: u64) -> Result<Vec<f64>> {
        let read = || -> Result<Vec<u64>> {
            self.groups.iter().map(|g| Ok(g.cpu_stat()?.usage_usec)).collect()
        };
        let before = read()?;
        std::thread::sleep(Duration::from_secs(seconds));
        let after = read()?;
        Ok(after.iter().zip(&before).map(|(a, b)| (a - b) as f64).collect())
    }
}

fn weighted(place: &TestCgroup, name: &str, weight: u32) -> Result<Cgroup> {
    let group = place.child(name)?;
    group.set_cpu_weight(weight)?;
    Ok(group)
}

/// The host may be busy beside the guest, which distorts single runs: the median of up to five,
/// fewer when the first ones agree with what is wanted.
fn median_ratio(burn: &Burn, seconds: u64, want: f64, tolerance: f64) -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let used = burn.measure(seconds)?;
        ratios.push(used[1] / used[0]);
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        if ratios.len() % 2 == 1 && (median - want).abs() <= tolerance {
            return Ok(());
        }
    }
    anyhow::bail!("ratios {ratios:.2?}, wanted {want} +- {tolerance}")
}

fn weights() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![weighted(&place, "a", 100)?, weighted(&place, "b", 300)?];
    let _scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    median_ratio(&burn, 10, 3.0, 0.15)
}

fn pinned() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![weighted(&place, "a", 100)?, weighted(&place, "b", 300)?];
    let scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    for worker in &burn.workers {
        pin(worker.pid(), 0)?;
    }
    median_ratio(&burn, 5, 3.0, 0.3)?;
    ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    Ok(())
}

fn pin(pid: i32, cpu: usize) -> Result<()> {
    // SAFETY: the set is plain bits, initialised by zeroing, and lives through the call.
    let r = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(pid, size_of_val(&set), &set)
    };
    ensure!(r == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

fn nested() -> Result<()> {
    let place = TestCgroup::new()?;
    let a = weighted(&place, "a", 100)?;
    a.enable(&[agentcg_core::Controller::Cpu])?;
    let b = a.create_child(&"b".parse()?)?;
    let c = a.create_child(&"c".parse()?)?;
    let d = weighted(&place, "d", 200)?;
    let _scheduler = attach_default()?;
    let burn = Burn::start(vec![b, c, d], 2)?;
    let used = burn.measure(8)?;
    let sum: f64 = used.iter().sum();
    for (share, want) in used.iter().map(|u| u / sum).zip([1.0 / 6.0, 1.0 / 6.0, 2.0 / 3.0]) {
        ensure!((share - want).abs() < 0.04, "shares {used:?}");
    }
    Ok(())
}

fn reweigh() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![weighted(&place, "a", 100)?, weighted(&place, "b", 100)?];
    let _scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    median_ratio(&burn, 3, 1.0, 0.15)?;
    burn.groups[1].set_cpu_weight(400)?;
    std::thread::sleep(Duration::from_millis(100));
    median_ratio(&burn, 3, 4.0, 0.5)
}

fn churn() -> Result<()> {
    let place = TestCgroup::new()?;
    let scheduler = attach_default()?;
    for round in 0..15 {
        let a = weighted(&place, &format!("a{round}"), 1 + round * 600)?;
        let b = place.child(&format!("b{round}"))?;
        let mut workers = vec![Worker::start_in(&a, "burn")?, Worker::start_in(&b, "burn")?];
        for worker in &mut workers {
            worker.go()?;
        }
        a.move_pid(workers[1].pid())?;
        b.move_pid(workers[0].pid())?;
        pin(workers[0].pid(), round as usize % 2)?;
        b.set_cpu_weight(10_000 - round * 600)?;
        drop(workers);
        a.remove()?;
        b.remove()?;
        ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    }
    Ok(())
}

fn policy(pid: i32) -> i32 {
    // SAFETY: only asks.
    unsafe { libc::sched_getscheduler(pid) }
}

fn agents() -> Result<()> {
    const SCHED_EXT: i32 = 7;
    let place = TestCgroup::new()?;
    let runtime = Runtime::builder().root(place.path().join("root")).build()?;
    let early = runtime.session("early", SessionConfig::default())?;
    let (inside, late, outside) =
        (Worker::start("sleep")?, Worker::start("sleep")?, Worker::start("sleep")?);
    early.move_pid(inside.pid())?;
    let mut config = SchedulerConfig::default();
    config.scope = SchedulerScope::Agents;
    let scheduler = runtime.start_scheduler(config)?;
    early.move_pid(late.pid())?;
    let switched = std::fs::read_to_string("/sys/kernel/sched_ext/switch_all")?;
    ensure!(switched.trim() == "0");
    ensure!(policy(inside.pid()) == SCHED_EXT && policy(late.pid()) == SCHED_EXT);
    ensure!(policy(outside.pid()) == libc::SCHED_OTHER);
    drop(scheduler);
    ensure!(policy(inside.pid()) == libc::SCHED_OTHER && policy(late.pid()) == libc::SCHED_OTHER);
    Ok(())
}

fn second() -> Result<()> {
    let first = attach_default()?;
    let e = Scheduler::attach(&SchedulerConfig::default(), None).unwrap_err();
    ensure!(e.kind() == ErrorKind::Busy && e.to_string().contains("agentcg"), "{e}");
    ensure!(first.exited().is_none() && sched_ext_state()? == "enabled");
    Ok(())
}

fn sysrq() -> Result<()> {
    let scheduler = attach_default()?;
    std::fs::write("/proc/sysrq-trigger", "S").context("sysrq-trigger")?;
    let mut fds = [libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&scheduler.as_fd()),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: one pollfd, which lives through the call.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) };
    ensure!(n == 1, "its descriptor did not become readable");
    let exit = scheduler.exited().context("it has not exited")?;
    ensure!(exit.kind == SchedulerExitKind::SysRq, "{exit:?}");
    eventually("the kernel's scheduler is back", || Ok(sched_ext_state()? == "disabled"))?;
    drop(scheduler);
    drop(attach_default()?);
    Ok(())
}

fn bad_slice() -> Result<()> {
    for slice in [Duration::ZERO, Duration::from_secs(2)] {
        let mut config = SchedulerConfig::default();
        config.slice = slice;
        ensure!(kind_of(Scheduler::attach(&config, None))? == ErrorKind::InvalidInput);
    }
    Ok(())
}

fn unsupported() -> Result<()> {
    let e = Scheduler::attach(&SchedulerConfig::default(), None).unwrap_err();
    ensure!(e.kind() == ErrorKind::Unsupported, "{e}");
    ensure!(e.help().is_some_and(|h| h.contains("CONFIG_SCHED_CLASS_EXT")), "{e}");
    Ok(())
}
