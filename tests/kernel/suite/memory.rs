//! Memory protection.

use std::path::Path;
use std::time::Duration;

use agentcg_core::{
    Cgroup, ErrorKind, Limit, LimitFile, MemcgConfig, MemoryBackend, MemoryProtection, MemoryRole,
    MemorySessionStats, Runtime, SchedulerConfig, StuckAction,
};
use anyhow::{Context, Result, ensure};

use crate::support::{Need, Test, TestCgroup, Worker, eventually, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Swap];
const FILES: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi];
const NO_OPS: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::NoMemcgOps];
const SCHEDULED: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Swap, Need::SchedExt];
const OPS: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Swap, Need::MemcgOps];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "memory::a_stall_opens_a_window_that_ends", needs: HERE, run: window },
        Test { name: "memory::what_others_write_in_a_window_stays", needs: HERE, run: others },
        Test { name: "memory::what_hurts_again_slows_low", needs: HERE, run: slowed },
        Test { name: "memory::what_hurts_again_loses_the_cpu", needs: SCHEDULED, run: braked },
        Test { name: "memory::kill_9_in_a_window_is_put_right", needs: HERE, run: killed },
        Test { name: "memory::without_pain_nothing_is_touched", needs: FILES, run: quiet },
        Test { name: "memory::misuse_is_refused", needs: FILES, run: misuse },
        Test { name: "memory::memcg_bpf_ops_is_unsupported_by_name", needs: NO_OPS, run: no_ops },
        Test { name: "memory::a_child_hurts_for_its_session", needs: HERE, run: child },
        Test { name: "memory::idle_high_is_not_protected", needs: HERE, run: idle },
        Test { name: "memory::its_own_limit_is_no_stall", needs: HERE, run: own_limit },
        Test { name: "memory::cgroups_come_and_go", needs: FILES, run: come_and_go },
        Test { name: "memory::groups_share_their_ancestors", needs: HERE, run: groups },
        Test { name: "memory::a_stuck_cgroup_is_reported", needs: FILES, run: stuck },
        Test { name: "memory::a_stuck_cgroup_is_frozen", needs: FILES, run: stuck_frozen },
        Test { name: "memory::a_stuck_cgroup_gets_its_max", needs: FILES, run: stuck_lifted },
        Test { name: "memory::hooks_protect_and_delay", needs: OPS, run: hooks },
        Test { name: "memory::hooks_without_pain_decide_nothing", needs: OPS, run: hooks_quiet },
        Test { name: "memory::hooks_follow_a_cgroup_that_comes_back", needs: OPS, run: hooks_back },
        Test { name: "memory::hooks_on_many_cgroups", needs: OPS, run: hooks_many },
        Test { name: "memory::hooks_do_not_nest", needs: OPS, run: hooks_nested },
        Test { name: "memory::hooks_of_the_dead_are_gone", needs: OPS, run: hooks_killed },
        Test { name: "memory::doctor_says_which_backend", needs: FILES, run: doctor },
    ]
}

#[derive(Debug, PartialEq, Eq)]
struct Values {
    /// The high one's `memory.low`, and its parent's.
    low: Limit,
    parent: Limit,
    /// The low one's `memory.high` and `cpu.weight`.
    high: Limit,
    weight: String,
}

/// Two groups that together need more than their parent may have, so that both swap.
struct Tight {
    // The workers go before the cgroups they live in.
    workers: Vec<Worker>,
    high: Cgroup,
    low: Cgroup,
    place: TestCgroup,
}

impl Tight {
    fn new() -> Result<Self> {
        let place = TestCgroup::new()?;
        place.cgroup().set_limit(LimitFile::MemoryMax, Limit::Value(96 << 20))?;
        let (high, low) = (place.child("high")?, place.child("low")?);
        Ok(Self { workers: Vec::new(), high, low, place })
    }

    fn squeeze(&mut self) -> Result<()> {
        for group in [&self.high, &self.low] {
            let mut worker = Worker::start_in(group, &format!("loop_over:{}", 72 << 20))?;
            worker.go()?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn config(&self) -> MemcgConfig {
        let mut config = MemcgConfig::default();
        config.high = vec![self.high.path().into()];
        config.low = vec![self.low.path().into()];
        config.backend = MemoryBackend::Cgroup;
        config
    }

    fn ops(&self) -> MemcgConfig {
        let mut config = self.config();
        config.backend = MemoryBackend::MemcgBpfOps;
        config
    }

    /// What protection may change.
    fn values(&self) -> Result<Values> {
        Ok(Values {
            low: self.high.limit(LimitFile::MemoryLow)?,
            parent: self.place.cgroup().limit(LimitFile::MemoryLow)?,
            high: self.low.limit(LimitFile::MemoryHigh)?,
            weight: self.low.read("cpu.weight")?,
        })
    }
}

fn window() -> Result<()> {
    let mut tight = Tight::new()?;
    // A value that an administrator set comes back, and not just the default.
    tight.low.set_limit(LimitFile::MemoryHigh, Limit::Value(1 << 30))?;
    tight.low.write("cpu.weight", "50")?;
    let before = tight.values()?;
    let protection = MemoryProtection::attach(tight.config())?;
    ensure!(protection.backend() == MemoryBackend::Cgroup);
    tight.squeeze()?;
    eventually("a window opens", || Ok(protection.stats().active))?;
    eventually("the high one is protected", || {
        let now = tight.values()?;
        Ok(now.low.value() > Some(0) && now.parent.value() > Some(0))
    })?;
    eventually("the low one yields the CPU", || Ok(tight.values()?.weight.trim() == "1"))?;
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    ensure!(tight.values()? == before);
    let stats = protection.stats();
    ensure!(stats.windows >= 1 && stats.stalls >= 1 && stats.protected_ms >= 1000, "{stats:?}");
    ensure!(stats.recent[0].because_of == tight.high.path());
    Ok(())
}

fn others() -> Result<()> {
    let mut tight = Tight::new()?;
    let protection = MemoryProtection::attach(tight.config())?;
    tight.squeeze()?;
    eventually("what protection changes is changed", || {
        let now = tight.values()?;
        Ok(now.low.value() > Some(0) && now.weight.trim() == "1")
    })?;
    tight.high.set_limit(LimitFile::MemoryLow, Limit::Value(4 << 20))?;
    tight.low.set_limit(LimitFile::MemoryHigh, Limit::Value(1 << 30))?;
    tight.low.write("cpu.weight", "70")?;
    // It may be changed again.
    std::thread::sleep(Duration::from_millis(1500));
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    let after = tight.values()?;
    ensure!(after.low == Limit::Value(4 << 20) && after.high == Limit::Value(1 << 30), "{after:?}");
    ensure!(after.weight.trim() == "70" && after.parent == Limit::Value(0), "{after:?}");
    Ok(())
}

fn slowed() -> Result<()> {
    let mut tight = Tight::new()?;
    tight.low.set_limit(LimitFile::MemoryHigh, Limit::Value(1 << 30))?;
    let before = tight.values()?;
    let mut config = tight.config();
    // Without protection it hurts again and again, and low has more than the least.
    config.below_low = false;
    let protection = MemoryProtection::attach(config)?;
    tight.squeeze()?;
    eventually("the low one is held", || Ok(tight.values()?.high.value() < Some(1 << 30)))?;
    ensure!(tight.values()?.high.value() >= Some(16 << 20), "it has to make progress");
    ensure!(tight.values()?.low == before.low, "nothing is protected");
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    ensure!(tight.values()? == before);
    Ok(())
}

fn braked() -> Result<()> {
    let mut tight = Tight::new()?;
    let runtime = Runtime::builder().root(tight.place.path().join("root")).build()?;
    let mut config = tight.config();
    config.below_low = false;
    // The scheduler may come later, and go earlier.
    let protection = runtime.attach_memcg_ops(config)?;
    let scheduler = runtime.start_scheduler(SchedulerConfig::default())?;
    tight.squeeze()?;
    eventually("the low one is held back", || Ok(of(&protection, tight.low.path())?.braked > 0))?;
    ensure!(of(&protection, tight.high.path())?.braked == 0);
    drop(scheduler);
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    Ok(())
}

fn killed() -> Result<()> {
    let mut tight = Tight::new()?;
    let before = tight.values()?;
    let job = format!("protect:{},{}", tight.high.path().display(), tight.low.path().display());
    let holder = Worker::start(&job)?;
    tight.squeeze()?;
    eventually("a window opens", || Ok(tight.values()? != before))?;
    // Another one meanwhile is told so, and changes nothing.
    ensure!(kind_of(MemoryProtection::attach(tight.config()))? == ErrorKind::Busy);
    holder.kill_9()?;
    ensure!(tight.values()? != before, "nobody can have put it back");
    tight.workers.clear();
    drop(MemoryProtection::attach(tight.config())?);
    ensure!(tight.values()? == before);
    Ok(())
}

fn quiet() -> Result<()> {
    let tight = Tight::new()?;
    let before = tight.values()?;
    let protection = MemoryProtection::attach(tight.config())?;
    let mut worker = Worker::start_in(&tight.low, &format!("loop_over:{}", 32 << 20))?;
    worker.go()?;
    std::thread::sleep(Duration::from_millis(700));
    ensure!(tight.values()? == before && protection.stats().stalls == 0);
    drop(worker);
    Ok(())
}

fn misuse() -> Result<()> {
    let tight = Tight::new()?;
    let refused = |change: &dyn Fn(&mut MemcgConfig)| {
        let mut config = tight.config();
        change(&mut config);
        kind_of(MemoryProtection::attach(config))
    };
    let plain = tight.high.create_child(&"plain".parse()?)?;
    ensure!(refused(&|c| c.high.clear())? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.low = c.high.clone())? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.high = vec!["/proc".into()])? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.low = vec!["/sys/fs/cgroup/none".into()])? == ErrorKind::NotFound);
    ensure!(refused(&|c| c.high = vec![plain.path().into()])? == ErrorKind::Unsupported);
    ensure!(refused(&|c| c.window = Duration::ZERO)? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.delay = Duration::from_secs(3))? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.stuck_after = Duration::ZERO)? == ErrorKind::InvalidInput);
    let first = MemoryProtection::attach(tight.config())?;
    ensure!(refused(&|_| ())? == ErrorKind::Busy);
    ensure!(kind_of(first.add(tight.low.path(), MemoryRole::High))? == ErrorKind::InvalidInput);
    ensure!(kind_of(first.add("/sys/fs/cgroup/none", MemoryRole::Low))? == ErrorKind::NotFound);
    ensure!(kind_of(first.remove("/sys/fs/cgroup/none"))? == ErrorKind::NotFound);
    drop(first);
    // The tracepoint of page faults is there, or its name is said.
    let mut config = tight.config();
    config.threshold = 1000;
    let tracepoint = Path::new("/sys/kernel/tracing/events/memcg/count_memcg_events").exists();
    match MemoryProtection::attach(config) {
        Ok(_) => ensure!(tracepoint),
        Err(e) => {
            ensure!(!tracepoint && e.kind() == ErrorKind::Unsupported, "{e}");
            ensure!(e.to_string().contains("count_memcg_events"), "{e}");
        }
    }
    Ok(())
}

fn no_ops() -> Result<()> {
    let tight = Tight::new()?;
    let e = MemoryProtection::attach(tight.ops()).unwrap_err();
    ensure!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("memcg_bpf_ops"), "{e}");
    Ok(())
}

/// The statistics of one cgroup.
fn of(protection: &MemoryProtection, cgroup: &Path) -> Result<MemorySessionStats> {
    let stats = protection.stats();
    let found = stats.sessions.into_iter().find(|s| s.cgroup == cgroup);
    found.with_context(|| format!("no statistics of {}", cgroup.display()))
}

fn child() -> Result<()> {
    let mut tight = Tight::new()?;
    let call = tight.high.create_child(&"call".parse()?)?;
    let protection = MemoryProtection::attach(tight.config())?;
    for group in [&call, &tight.low] {
        let mut worker = Worker::start_in(group, &format!("loop_over:{}", 72 << 20))?;
        worker.go()?;
        tight.workers.push(worker);
    }
    eventually("its session is protected", || Ok(of(&protection, tight.high.path())?.active))?;
    drop(tight.workers.drain(..));
    Ok(())
}

fn idle() -> Result<()> {
    let mut tight = Tight::new()?;
    let protection = MemoryProtection::attach(tight.config())?;
    let mut idle = Worker::start_in(&tight.high, "eat:60,stay")?;
    ensure!(idle.line()? == "eaten");
    let mut worker = Worker::start_in(&tight.low, &format!("loop_over:{}", 80 << 20))?;
    worker.go()?;
    tight.workers.push(worker);
    eventually("low has pushed it out", || Ok(tight.low.memory_current()? > 70 << 20))?;
    let stats = protection.stats();
    ensure!(!stats.active && stats.windows == 0, "{stats:?}");
    drop(idle);
    Ok(())
}

fn own_limit() -> Result<()> {
    let place = TestCgroup::new()?;
    let high = place.child("high")?;
    high.set_limit(LimitFile::MemoryMax, Limit::Value(32 << 20))?;
    let mut config = MemcgConfig::default();
    config.high = vec![high.path().into()];
    let protection = MemoryProtection::attach(config)?;
    let mut worker = Worker::start_in(&high, &format!("loop_over:{}", 48 << 20))?;
    worker.go()?;
    eventually("its stalls are seen", || Ok(protection.stats().ignored > 0))?;
    let stats = protection.stats();
    ensure!(stats.windows == 0 && !stats.active, "{stats:?}");
    drop(worker);
    Ok(())
}

fn come_and_go() -> Result<()> {
    let place = TestCgroup::new()?;
    let name = |i: usize| format!("high-{i}");
    let all = (0..40).map(|i| place.child(&name(i))).collect::<Result<Vec<_>>>()?;
    let mut config = MemcgConfig::default();
    config.high = all[..20].iter().map(|c| c.path().into()).collect();
    let protection = MemoryProtection::attach(config)?;
    for cgroup in &all[20..] {
        protection.add(cgroup.path(), MemoryRole::Low)?;
    }
    ensure!(protection.stats().sessions.len() == 40);
    protection.remove(all[39].path())?;
    ensure!(protection.stats().sessions.len() == 39);
    // What was let go of can be taken by another.
    let mut other = MemcgConfig::default();
    other.high = vec![all[39].path().into()];
    drop(MemoryProtection::attach(other)?);
    for i in [0, 20] {
        all[i].remove()?;
        eventually("it is missed", || Ok(!of(&protection, all[i].path())?.present))?;
        let again = place.child(&name(i))?;
        eventually("it is back", || Ok(of(&protection, again.path())?.present))?;
    }
    Ok(())
}

fn groups() -> Result<()> {
    let mut tight = Tight::new()?;
    let before = tight.values()?;
    let (other, third) = (tight.place.child("other")?, tight.place.child("third")?);
    let mut config = tight.config();
    config.high = vec![other.path().into()];
    config.low = vec![third.path().into()];
    let second = MemoryProtection::attach(config)?;
    let first = MemoryProtection::attach(tight.config())?;
    tight.squeeze()?;
    eventually("the parent grants it", || Ok(tight.values()?.parent.value() > Some(0)))?;
    // The ancestor's value is not the second one's to put back.
    drop(second);
    eventually("it goes on", || Ok(tight.values()?.parent.value() > Some(0)))?;
    tight.workers.clear();
    drop(first);
    ensure!(tight.values()? == before);
    Ok(())
}

/// A cgroup that can give nothing back and wants more than its `memory.high`.
fn standstill(action: StuckAction) -> Result<(TestCgroup, Cgroup, MemoryProtection, Worker)> {
    let place = TestCgroup::new()?;
    let low = place.child("low")?;
    low.set_limit(LimitFile::SwapMax, Limit::Value(0))?;
    low.set_limit(LimitFile::MemoryHigh, Limit::Value(4 << 20))?;
    let mut config = MemcgConfig::default();
    config.high = vec![place.child("high")?.path().into()];
    config.low = vec![low.path().into()];
    config.stuck_after = Duration::from_secs(5);
    config.when_stuck = action;
    let protection = MemoryProtection::attach(config)?;
    let mut worker = Worker::start_in(&low, &format!("loop_over:{}", 64 << 20))?;
    worker.go()?;
    eventually("it is found", || Ok(!protection.stats().stuck.is_empty()))?;
    let found = &protection.stats().stuck[0];
    ensure!(found.cgroup == low.path() && found.action == action, "{found:?}");
    ensure!(found.high_events > 0 && found.memory_high == 4 << 20, "{found:?}");
    ensure!(found.duration >= Duration::from_secs(5), "{found:?}");
    Ok((place, low, protection, worker))
}

fn stuck() -> Result<()> {
    let (_place, low, protection, worker) = standstill(StuckAction::Report)?;
    ensure!(low.limit(LimitFile::MemoryHigh)? == Limit::Value(4 << 20));
    ensure!(low.read("cgroup.freeze")?.trim() == "0");
    drop((worker, protection));
    Ok(())
}

fn stuck_frozen() -> Result<()> {
    let (_place, low, protection, worker) = standstill(StuckAction::Freeze)?;
    eventually("it is frozen", || Ok(low.events()?.frozen))?;
    drop(protection);
    eventually("it is thawed at the end", || Ok(!low.events()?.frozen))?;
    drop(worker);
    Ok(())
}

fn stuck_lifted() -> Result<()> {
    let (_place, low, protection, mut worker) = standstill(StuckAction::Lift)?;
    // It goes on: a pass over all of it.
    worker.line()?;
    drop(worker);
    drop(protection);
    ensure!(low.limit(LimitFile::MemoryHigh)? == Limit::Value(4 << 20));
    Ok(())
}

fn hooks() -> Result<()> {
    let mut tight = Tight::new()?;
    let before = tight.values()?;
    let protection = MemoryProtection::attach(tight.ops())?;
    ensure!(protection.backend() == MemoryBackend::MemcgBpfOps);
    tight.squeeze()?;
    eventually("the hooks protect", || {
        let high = of(&protection, tight.high.path())?;
        Ok(high.active && high.answered > 0)
    })?;
    eventually("the hooks delay", || Ok(of(&protection, tight.low.path())?.delay_ms > 0))?;
    // The files hold what the hooks do not, while a part of it is taken back.
    let now = tight.values()?;
    ensure!(now.low.value() > Some(0) && now.parent.value() > Some(0), "{now:?}");
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    ensure!(tight.values()? == before);
    ensure!(of(&protection, tight.high.path())?.calls >= 1);
    Ok(())
}

fn hooks_quiet() -> Result<()> {
    let tight = Tight::new()?;
    let protection = MemoryProtection::attach(tight.ops())?;
    let mut worker = Worker::start_in(&tight.low, &format!("loop_over:{}", 32 << 20))?;
    worker.go()?;
    worker.line()?;
    let low = of(&protection, tight.low.path())?;
    ensure!((low.calls, low.answered, low.delay_ms) == (0, 0, 0), "{low:?}");
    drop(worker);
    Ok(())
}

fn hooks_back() -> Result<()> {
    let mut tight = Tight::new()?;
    let protection = MemoryProtection::attach(tight.ops())?;
    for (name, role) in [("high", MemoryRole::High), ("low", MemoryRole::Low)] {
        let old = if role == MemoryRole::High { &mut tight.high } else { &mut tight.low };
        old.remove()?;
        eventually("it is missed", || Ok(!of(&protection, old.path())?.present))?;
        *old = tight.place.child(name)?;
        eventually("it is back", || Ok(of(&protection, old.path())?.present))?;
    }
    tight.squeeze()?;
    eventually("the hooks protect the new one", || {
        Ok(of(&protection, tight.high.path())?.answered > 0)
    })?;
    eventually("and are asked about the new low one", || {
        Ok(of(&protection, tight.low.path())?.calls > 0)
    })?;
    tight.workers.clear();
    Ok(())
}

fn hooks_many() -> Result<()> {
    let place = TestCgroup::new()?;
    let make = |role: &str| (0..40).map(|i| place.child(&format!("{role}-{i}"))).collect();
    let (high, low): (Result<Vec<Cgroup>>, Result<Vec<Cgroup>>) = (make("high"), make("low"));
    let (high, low) = (high?, low?);
    let config = |range: std::ops::Range<usize>| {
        let mut config = MemcgConfig::default();
        config.high = high[range.clone()].iter().map(|c| c.path().into()).collect();
        config.low = low[range].iter().map(|c| c.path().into()).collect();
        config.backend = MemoryBackend::MemcgBpfOps;
        config
    };
    // Two groups that know nothing of each other.
    let first = MemoryProtection::attach(config(0..30))?;
    let second = MemoryProtection::attach(config(30..39))?;
    second.add(high[39].path(), MemoryRole::High)?;
    first.remove(low[0].path())?;
    second.add(low[0].path(), MemoryRole::Low)?;
    ensure!(first.stats().sessions.len() == 59 && second.stats().sessions.len() == 20);
    Ok(())
}

fn hooks_nested() -> Result<()> {
    let tight = Tight::new()?;
    let mut config = tight.ops();
    config.high = vec![tight.place.path().into()];
    config.low.clear();
    let _above = MemoryProtection::attach(config)?;
    let e = MemoryProtection::attach(tight.ops()).unwrap_err();
    ensure!(e.kind() == ErrorKind::Busy && e.errno() == Some(libc::EBUSY), "{e}");
    Ok(())
}

fn hooks_killed() -> Result<()> {
    let tight = Tight::new()?;
    let job =
        format!("protect_by_hooks:{},{}", tight.high.path().display(), tight.low.path().display());
    let holder = Worker::start(&job)?;
    ensure!(kind_of(MemoryProtection::attach(tight.ops()))? == ErrorKind::Busy);
    holder.kill_9()?;
    // The kernel lets go of links a moment after the process.
    eventually("the hooks are gone", || Ok(MemoryProtection::attach(tight.ops()).is_ok()))?;
    Ok(())
}

fn doctor() -> Result<()> {
    let found = agentcg_core::Capabilities::probe();
    let tight = Tight::new()?;
    let mut config = tight.config();
    config.backend = MemoryBackend::Auto;
    let protection = MemoryProtection::attach(config)?;
    ensure!(Some(protection.backend()) == found.backends.memory, "{found:?}");
    ensure!(protection.stats().sees_reclaim == found.supports("btf"));
    // Only the lab's own kernel has it.
    let ours = std::env::var("AGENTCG_LAB").is_ok_and(|k| k == "memcg");
    ensure!(found.supports("memcg_bpf_ops") == ours);
    Ok(())
}
