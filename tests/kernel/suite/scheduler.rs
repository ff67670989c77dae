//! The scheduler.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use agentcg_core::{
    Capabilities, Cgroup, Controller, CpuMax, ErrorKind, Runtime, Scheduler, SchedulerConfig,
    SchedulerExitKind, SchedulerScope, SessionConfig,
};
use agentcg_storm::churn::{Churn, pin};
use anyhow::{Context, Result, bail, ensure};

use crate::support::{
    Need, Test, TestCgroup, Worker, eventually, kind_of, sched_ext_state, sibling,
};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::SchedExt];
/// Where CPUs may be taken away.
const LAB: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::SchedExt, Need::Lab];
const CORES: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::SchedExt, Need::Smt];
const NONE: &[Need] = &[Need::Root, Need::NoSchedExt];
const ISOLATED: &[Need] = &[Need::Root, Need::Isolcpus];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "scheduler::attached_and_detached", needs: HERE, run: attach },
        Test { name: "scheduler::weights_100_to_300_give_1_to_3", needs: HERE, run: weights },
        Test { name: "scheduler::pinned_tasks_keep_their_weights", needs: HERE, run: pinned },
        Test { name: "scheduler::nested_weights_multiply", needs: HERE, run: nested },
        Test { name: "scheduler::a_new_weight_counts_at_once", needs: HERE, run: reweigh },
        Test { name: "scheduler::cpu_max_holds_at_every_level", needs: HERE, run: cpu_max },
        Test { name: "scheduler::a_new_cpu_max_counts_at_once", needs: HERE, run: new_cpu_max },
        Test { name: "scheduler::a_tiny_cpu_max_is_no_stall", needs: HERE, run: tiny_cpu_max },
        Test { name: "scheduler::who_is_held_back_can_be_killed", needs: HERE, run: kill_held },
        Test { name: "scheduler::who_is_held_back_lets_others_run", needs: HERE, run: hold_back },
        Test { name: "scheduler::waking_often_is_no_way_to_more", needs: HERE, run: bounded },
        Test { name: "scheduler::who_sleeps_early_is_charged", needs: HERE, run: short },
        Test { name: "scheduler::a_new_cgroup_is_no_way_to_more", needs: HERE, run: renewed },
        Test { name: "scheduler::high_wakes_before_low", needs: HERE, run: ranks },
        Test { name: "scheduler::nice_values_count_in_a_cgroup", needs: HERE, run: nice },
        Test { name: "scheduler::idle_cgroups_yield", needs: HERE, run: idle },
        Test { name: "scheduler::no_cpu_idles_beside_pinned_tasks", needs: HERE, run: conserving },
        Test { name: "scheduler::cores_threads_and_sockets", needs: CORES, run: topology },
        Test { name: "scheduler::cpus_come_and_go", needs: LAB, run: hotplug },
        Test { name: "scheduler::a_minute_of_churn", needs: LAB, run: churn },
        Test { name: "scheduler::calls_know_that_nobody_counts", needs: HERE, run: call_usage },
        Test { name: "scheduler::agents_only", needs: HERE, run: agents },
        Test { name: "scheduler::a_second_one_is_refused_by_name", needs: HERE, run: second },
        Test { name: "scheduler::sysrq_reaches_the_caller", needs: HERE, run: sysrq },
        Test { name: "scheduler::bad_slices_are_refused", needs: HERE, run: bad_slice },
        Test { name: "scheduler::without_sched_ext_it_says_so", needs: NONE, run: unsupported },
        Test { name: "scheduler::isolcpus_is_named", needs: ISOLATED, run: isolated },
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

/// `cpu.max` with the kernel's default period.
fn limit(group: &Cgroup, cores: f64) -> Result<()> {
    Ok(group.set_cpu_max(CpuMax::from_cores(cores)?)?)
}

fn unlimit(group: &Cgroup) -> Result<()> {
    Ok(group.set_cpu_max(CpuMax { quota: None, period: CpuMax::PERIOD })?)
}

/// CPUs' worth of time that each group uses, by the clock of this machine.
fn cores(burn: &Burn, seconds: u64) -> Result<Vec<f64>> {
    let at = Instant::now();
    let used = burn.measure(seconds)?;
    let elapsed = at.elapsed().as_micros() as f64;
    Ok(used.iter().map(|u| u / elapsed).collect())
}

/// What CPUs' worth of time a group gets beside others, and that nothing else idles: the sum.
fn cpu_max() -> Result<()> {
    let place = TestCgroup::new()?;
    let half = weighted(&place, "half", 1000)?;
    let outer = weighted(&place, "outer", 1000)?;
    outer.enable(&[Controller::Cpu])?;
    let (inner, loose) =
        (outer.create_child(&"inner".parse()?)?, outer.create_child(&"loose".parse()?)?);
    let rest = weighted(&place, "rest", 1)?;
    // Before and after the scheduler comes; the inner one has more than its parent leaves it.
    limit(&half, 0.5)?;
    limit(&inner, 0.1)?;
    let scheduler = attach_default()?;
    limit(&outer, 0.4)?;
    let burn = Burn::start(vec![half, inner, loose, rest], 4)?;
    let mut got = Vec::new();
    for _ in 0..3 {
        got = cores(&burn, 6)?;
        let want = [0.5, 0.1, 0.3];
        let close =
            got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 0.03 * want + 0.005);
        let idle = 2.0 - got.iter().sum::<f64>();
        if close && idle < 0.1 {
            ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
            return Ok(());
        }
    }
    bail!("half, inner, loose, rest: {got:.3?}")
}

fn new_cpu_max() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![place.child("a")?];
    let _scheduler = attach_default()?;
    let burn = Burn::start(groups, 4)?;
    let a = &burn.groups[0];
    let step = |what: &str, low: f64, high: f64| -> Result<()> {
        std::thread::sleep(Duration::from_millis(100));
        let got = cores(&burn, 2)?[0];
        ensure!((low..high).contains(&got), "{what}: {got:.3} CPUs");
        Ok(())
    };
    step("no limit", 1.0, 2.1)?;
    limit(a, 0.3)?;
    step("limited", 0.27, 0.33)?;
    // The quota of a long period is used up at once; a new limit must not wait for its end.
    a.set_cpu_max(CpuMax {
        quota: Some(Duration::from_millis(10)),
        period: Duration::from_secs(1),
    })?;
    step("a long period", 0.0, 0.05)?;
    limit(a, 0.6)?;
    step("raised", 0.55, 0.65)?;
    a.set_cpu_max(CpuMax {
        quota: Some(Duration::from_millis(10)),
        period: Duration::from_secs(1),
    })?;
    step("a long period again", 0.0, 0.05)?;
    unlimit(a)?;
    step("lifted", 1.0, 2.1)
}

/// Forty tasks on 1 % of a CPU: each has its turn rarely, while the kernel takes a task that did
/// not run for 20 s for a stall.
fn tiny_cpu_max() -> Result<()> {
    let place = TestCgroup::new()?;
    let tiny = place.child("tiny")?;
    let other = place.child("other")?;
    // Limited only now: to start programs takes time too.
    let burn = Burn::start(vec![tiny], 40)?;
    let _other = Burn::start(vec![other], 2)?;
    limit(&burn.groups[0], 0.01)?;
    let scheduler = attach_default()?;
    let got = cores(&burn, 40)?;
    // With so little, 40 processes take minutes to end once the scheduler is gone.
    burn.groups[0].write("cpu.max", "max")?;
    ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    // What they ran until the limit was seen, and a turn each, is owed.
    ensure!((0.005..0.03).contains(&got[0]), "{got:.4?}");
    Ok(())
}

fn kill_held() -> Result<()> {
    let place = TestCgroup::new()?;
    let scheduler = attach_default()?;
    let burn = Burn::start(vec![place.child("held")?], 4)?;
    let held = &burn.groups[0];
    held.set_cpu_max(CpuMax {
        quota: Some(Duration::from_millis(1)),
        period: Duration::from_secs(1),
    })?;
    std::thread::sleep(Duration::from_millis(500));
    held.kill()?;
    let at = Instant::now();
    eventually("all are gone", || Ok(!held.events()?.populated))?;
    ensure!(at.elapsed() < Duration::from_secs(8), "{:?}", at.elapsed());
    ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    Ok(())
}

fn hold_back() -> Result<()> {
    let place = TestCgroup::new()?;
    let hurts = weighted(&place, "hurts", 10_000)?;
    hurts.enable(&[Controller::Cpu])?;
    let inner = hurts.create_child(&"inner".parse()?)?;
    let rest = weighted(&place, "rest", 1)?;
    let scheduler = attach_default()?;
    let brake = scheduler.brake();
    let burn = Burn::start(vec![inner, rest], 2)?;
    let step = |what: &str, low: f64, high: f64| -> Result<()> {
        std::thread::sleep(Duration::from_millis(100));
        let got = cores(&burn, 2)?;
        ensure!((low..high).contains(&got[0]), "{what}: {got:.3?} CPUs");
        ensure!(got.iter().sum::<f64>() > 1.8, "{what}: {got:.3?} CPUs");
        Ok(())
    };
    step("before", 1.8, 2.1)?;
    brake.hold_back(&hurts, Duration::from_secs(60))?;
    step("held back", 0.01, 0.06)?;
    // A higher cpu.max is no way out; a lower one counts.
    limit(&hurts, 0.5)?;
    step("with a cpu.max", 0.01, 0.06)?;
    limit(&hurts, 0.02)?;
    step("with a low cpu.max", 0.01, 0.03)?;
    unlimit(&hurts)?;
    step("without again", 0.01, 0.06)?;
    brake.let_go(&hurts)?;
    step("let go", 1.8, 2.1)?;
    brake.hold_back(&hurts, Duration::from_secs(1))?;
    step("held back for a second", 0.3, 1.5)?;
    step("it is over", 1.8, 2.1)?;
    let usage = scheduler.cgroup_usage(&hurts)?;
    ensure!(usage.held_back_ns > 5_000_000_000 && usage.throttled_ns > 0, "{usage:?}");
    scheduler.detach();
    let e = brake.hold_back(&hurts, Duration::from_secs(1));
    ensure!(kind_of(e)? == ErrorKind::NotFound);
    Ok(())
}

/// The kernel counts no throttling then: that is absent, and not zero.
fn call_usage() -> Result<()> {
    let place = TestCgroup::new()?;
    let runtime = Runtime::builder().root(place.path().join("root")).build()?;
    let session = runtime.session("a", SessionConfig::default())?;
    let known = session.command("true").output()?.usage;
    ensure!(known.cpu_throttled_us == Some(0), "{known:?}");
    let scheduler = runtime.start_scheduler(SchedulerConfig::default())?;
    let usage = session.command("true").output()?.usage;
    ensure!(usage.cpu_throttled_us.is_none(), "{usage:?}");
    let why = usage.unavailable.get("cpu_throttled_us").context("no reason")?;
    ensure!(why.contains("agentcg"), "{why}");
    drop(scheduler);
    Ok(())
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
    bail!("ratios {ratios:.2?}, wanted {want} +- {tolerance}")
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

fn nested() -> Result<()> {
    let place = TestCgroup::new()?;
    let a = weighted(&place, "a", 100)?;
    a.enable(&[Controller::Cpu])?;
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

/// Who wakes often does not take more than its share by that, whatever its rank.
fn bounded() -> Result<()> {
    let place = TestCgroup::new()?;
    let high = weighted(&place, "high", 150)?;
    let other = place.child("other")?;
    let _scheduler = attach_default()?;
    let mut naps = Vec::new();
    for _ in 0..4 {
        naps.push(Worker::start_in(&high, "nap:20")?);
    }
    for nap in &mut naps {
        nap.go()?;
    }
    let mut burn = Burn::start(vec![other], 4)?;
    burn.groups.push(high);
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let used = burn.measure(4)?;
        ratios.push(used[1] / used[0]);
    }
    ratios.sort_by(f64::total_cmp);
    // Who sleeps may get less.
    ensure!((0.9..1.75).contains(&ratios[1]), "{ratios:.2?} for weights of 1.5");
    Ok(())
}

/// What tasks used that sleep before the kernel's next tick, to the scheduler and to the kernel.
fn short() -> Result<()> {
    let place = TestCgroup::new()?;
    let scheduler = attach_default()?;
    let group = place.child("naps")?;
    let mut naps =
        (0..3).map(|_| Worker::start_in(&group, "nap:500")).collect::<Result<Vec<_>>>()?;
    let read = || -> Result<[f64; 2]> {
        Ok([
            scheduler.cgroup_usage(&group)?.run_ns as f64,
            group.cpu_stat()?.usage_usec as f64 * 1000.0,
        ])
    };
    let before = read()?;
    for nap in &mut naps {
        nap.go()?;
    }
    std::thread::sleep(Duration::from_secs(4));
    let after = read()?;
    let [ours, kernels] = [0, 1].map(|i| after[i] - before[i]);
    ensure!((0.95..1.05).contains(&(ours / kernels)), "{ours} of {kernels} ns");
    Ok(())
}

/// A new cgroup for each of its calls is no way to more.
fn renewed() -> Result<()> {
    let place = TestCgroup::new()?;
    let (a, b) = (place.child("a")?, place.child("b")?);
    b.enable(&[Controller::Cpu])?;
    let call = b.create_child(&"call".parse()?)?;
    let _scheduler = attach_default()?;
    let burn = Burn::start(vec![a, call], 2)?;
    let used = || -> Result<[f64; 2]> {
        Ok([burn.groups[0].cpu_stat()?.usage_usec as f64, b.cpu_stat()?.usage_usec as f64])
    };
    let before = used()?;
    let end = Instant::now() + Duration::from_secs(6);
    let (mut now, mut n) = (Cgroup::open(burn.groups[1].path())?, 0);
    while Instant::now() < end {
        n += 1;
        let next = b.create_child(&format!("call{n}").parse()?)?;
        for worker in &burn.workers[2..] {
            next.move_pid(worker.pid())?;
        }
        now.remove()?;
        now = next;
        std::thread::sleep(Duration::from_millis(15));
    }
    let after = used()?;
    let ratio = (after[1] - before[1]) / (after[0] - before[0]);
    // To be moved off a CPU costs a turn; who leaves a cgroup before the last does begins afresh.
    ensure!((0.7..1.3).contains(&ratio), "{ratio:.2} after {n} cgroups");
    Ok(())
}

/// Beside burners, the wake-ups of a high session wait less than those of a low one.
fn ranks() -> Result<()> {
    let place = TestCgroup::new()?;
    let scheduler = attach_default()?;
    let mut groups = Vec::new();
    for i in 0..4 {
        groups.push(place.child(&format!("burn{i}"))?);
    }
    let sessions = [weighted(&place, "high", 150)?, weighted(&place, "low", 50)?];
    let mut naps = Vec::new();
    for session in &sessions {
        naps.push(Worker::start_in(session, "nap:20000")?);
    }
    let _burn = Burn::start(groups, 2)?;
    for nap in &mut naps {
        nap.go()?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let read = || -> agentcg_core::Result<Vec<_>> {
        sessions.iter().map(|s| scheduler.cgroup_usage(s)).collect()
    };
    let before = read()?;
    std::thread::sleep(Duration::from_secs(6));
    let after = read()?;
    let waits = |i: usize| after[i].since(&before[i]).waits.percentile(0.75).context("no waits");
    let (high, low) = (waits(0)?, waits(1)?);
    ensure!(high * 2 <= low, "high {high:?}, low {low:?}");
    Ok(())
}

/// CPU time of a process, ns.
fn run_time(worker: &Worker) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", worker.pid()))?;
    Ok(text.split(' ').next().context("empty")?.parse()?)
}

/// Nice values share out what their cgroup gets, and nothing else.
fn nice() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![place.child("a")?, place.child("b")?];
    let _scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    for worker in &burn.workers {
        pin(worker.pid(), 0)?;
    }
    // Those of a run all along: the change must count for them as well.
    // SAFETY: two numbers.
    let r = unsafe { libc::setpriority(libc::PRIO_PROCESS, burn.workers[0].pid() as u32, 5) };
    ensure!(r == 0, "{}", std::io::Error::last_os_error());
    std::thread::sleep(Duration::from_millis(200));
    let times = || burn.workers.iter().map(run_time).collect::<Result<Vec<_>>>();
    let before = times()?;
    std::thread::sleep(Duration::from_secs(8));
    let got: Vec<f64> = times()?.iter().zip(before).map(|(a, b)| a - b).collect();
    // 1024 to 335
    let ratio = got[1] / got[0];
    ensure!((2.4..3.9).contains(&ratio), "nice 0 to nice 5: {ratio:.2}");
    let groups = (got[0] + got[1]) / (got[2] + got[3]);
    ensure!((0.88..1.14).contains(&groups), "the groups: {groups:.2}");
    Ok(())
}

fn idle() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![place.child("a")?, place.child("b")?];
    groups[0].write("cpu.idle", "1")?;
    let scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    let part = || -> Result<f64> {
        let used = burn.measure(3)?;
        Ok(used[0] / (used[0] + used[1]))
    };
    let got = part()?;
    ensure!(got < 0.05, "an idle group has {got:.3}");
    burn.groups[0].write("cpu.idle", "0")?;
    std::thread::sleep(Duration::from_millis(200));
    let got = part()?;
    ensure!((0.42..0.58).contains(&got), "no longer idle, it has {got:.3}");
    burn.groups[1].write("cpu.idle", "1")?;
    std::thread::sleep(Duration::from_millis(200));
    let got = part()?;
    ensure!(got > 0.95, "beside an idle one it has {got:.3}");
    burn.groups[1].write("cpu.idle", "0")?;
    burn.groups[1].write("cpu.weight.nice", "-5")?;
    let weight = scheduler.cgroup_runtime(&burn.groups[1])?.weight;
    ensure!(weight == burn.groups[1].cpu_weight()? && weight > 200, "weight {weight}");
    Ok(())
}

/// No CPU idles while somebody waits who may run there.
fn conserving() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![weighted(&place, "a", 1)?, weighted(&place, "b", 10_000)?];
    let scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    // Three on CPU 0, of which the heavy ones want it most; the fourth has the other for itself.
    for worker in &burn.workers[1..] {
        pin(worker.pid(), 0)?;
    }
    for _ in 0..3 {
        let before = run_time(&burn.workers[0])?;
        let at = Instant::now();
        let all = cores(&burn, 3)?.iter().sum::<f64>();
        let alone = (run_time(&burn.workers[0])? - before) / at.elapsed().as_nanos() as f64;
        ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
        if all > 1.95 && alone > 0.95 {
            return Ok(());
        }
    }
    bail!("a CPU idles")
}

/// The CPU that a process runs on, or ran last.
fn cpu_of(worker: &Worker) -> Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid()))?;
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    Ok(fields.split_whitespace().nth(36).context("too short")?.parse()?)
}

/// Four CPUs: two sockets, each with a cache of its own and a core of two threads.
fn topology() -> Result<()> {
    let scheduler = attach_default()?;
    {
        let place = TestCgroup::new()?;
        let groups = vec![weighted(&place, "a", 100)?, weighted(&place, "b", 300)?];
        let burn = Burn::start(groups, 4)?;
        median_ratio(&burn, 5, 3.0, 0.15)?;
        let all = cores(&burn, 3)?.iter().sum::<f64>();
        ensure!(all > 3.8, "{all:.2} of 4 CPUs");
    }
    // Who wakes beside a burner goes to the other core.
    let place = TestCgroup::new()?;
    let burn = Burn::start(vec![place.child("burn")?], 1)?;
    pin(burn.workers[0].pid(), 0)?;
    let mut nap = Worker::start_in(&place.child("nap")?, "nap:20000")?;
    nap.go()?;
    let (beside, mut shared) = (sibling(0)?, 0);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(30));
        shared += usize::from(cpu_of(&nap)? == beside);
    }
    ensure!(shared < 25, "{shared} of 100 times on the core of the burner");
    // A CPU that is isolated runs what is put there, and nothing else.
    let isolated = TestCgroup::new()?;
    let top = isolated.path().parent().context("no parent")?;
    std::fs::write(top.join("cgroup.subtree_control"), "+cpuset")?;
    let set = |file: &str, value: &str| std::fs::write(isolated.path().join(file), value);
    set("cpuset.cpus", "3")?;
    set("cpuset.cpus.partition", "isolated")?;
    let state = std::fs::read_to_string(isolated.path().join("cpuset.cpus.partition"))?;
    ensure!(state.trim() == "isolated", "{state}");
    let alone = Burn::start(vec![isolated.child("alone")?], 1)?;
    let others = Burn::start(vec![place.child("others")?], 6)?;
    let got = (cores(&alone, 3)?[0], cores(&others, 3)?[0] + cores(&burn, 1)?[0]);
    ensure!(got.0 > 0.95 && (2.8..3.1).contains(&got.1), "isolated and others: {got:.2?}");
    ensure!(cpu_of(&alone.workers[0])? == 3);
    ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    Ok(())
}

const CPU1: &str = "/sys/devices/system/cpu/cpu1/online";

fn hotplug() -> Result<()> {
    let place = TestCgroup::new()?;
    let groups = vec![weighted(&place, "a", 100)?, weighted(&place, "b", 300)?];
    let scheduler = attach_default()?;
    let burn = Burn::start(groups, 2)?;
    pin(burn.workers[0].pid(), 1)?;
    for _ in 0..3 {
        std::fs::write(CPU1, "0")?;
        let used = burn.measure(2)?;
        ensure!(used.iter().all(|u| *u > 100_000.0), "with one CPU: {used:?}");
        std::fs::write(CPU1, "1")?;
        let all = cores(&burn, 2)?.iter().sum::<f64>();
        ensure!(all > 1.8, "with both again: {all:.2}");
        ensure!(scheduler.exited().is_none(), "{:?}", scheduler.exited());
    }
    Ok(())
}

/// A minute of everything that may change under a scheduler.
fn churn() -> Result<()> {
    let place = TestCgroup::new()?;
    let home = place.child("home")?;
    let scheduler = attach_default()?;
    let mut workers = Vec::new();
    for i in 0..12 {
        workers.push(Worker::start_in(&home, ["burn", "nap:500", "nap:20000"][i % 3])?);
    }
    for worker in &mut workers {
        worker.go()?;
    }
    let pids: Vec<i32> = workers.iter().map(Worker::pid).collect();
    let time = Duration::from_secs(60);
    let steps = Churn { place: place.cgroup(), pids: &pids, home: &home, time }.run(
        |group| Ok(scheduler.brake().hold_back(group, Duration::from_millis(200))?),
        || match scheduler.exited() {
            Some(exit) => bail!("{exit}\n{}", exit.dump),
            None => Ok(()),
        },
    )?;
    drop(workers);
    ensure!(scheduler.detach().kind == SchedulerExitKind::Detached);
    ensure!(steps > 1000, "only {steps} steps");
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

/// The kernel refuses every sched_ext scheduler then, with EINVAL and a line in its log.
fn isolated() -> Result<()> {
    let e = Scheduler::attach(&SchedulerConfig::default(), None).unwrap_err();
    ensure!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("isolcpus="), "{e}");
    ensure!(!Capabilities::probe().supports("sched_ext"));
    Ok(())
}
