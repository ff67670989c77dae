//! The verdict, decided from evidence; pure, so that every rule has a test.
//!
//! The first rule that fits decides:
//!
//! | evidence | verdict |
//! |---|---|
//! | the program was never started | `spawn_failed` |
//! | we stopped it, or `agentcg kill` did | `timed_out`, `cancelled` |
//! | `oom_kill` of the call's own `memory.events` is not 0 | `oom_killed`, whatever the status |
//! | status 0 | `completed` |
//! | another status or SIGABRT, and a fork of it was refused by `pids.max` | `pids_exhausted` |
//! | a signal | `signaled` |
//! | another status, or one that is not known | `failed` |
//!
//! SIGABRT is there because that is how a C++ or Rust program ends that cannot make a thread.

use std::path::PathBuf;
use std::time::Duration;

use super::oom::{Kill, LoggedLimit};
use super::outcome::{Cause, Effect, Ended, Scope, Stopped, Verdict};
use super::usage::{Met, Usage};

/// Memory hampered a call when it waited for memory at least this share of its duration...
pub(crate) const MEMORY_STALL_SHARE: f64 = 0.10;
/// `cpu.max` hampered it when it was held back for this share of the CPU time it wanted (what it
/// got and what it was denied), and of its duration.
pub(crate) const THROTTLED_SHARE: f64 = 0.25;
/// ... and either for at least this long: less is noise.
pub(crate) const HAMPERED_AT_LEAST: Duration = Duration::from_millis(50);

/// What is known about the end of a call.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub ended: Ended,
    pub stopped: Option<Stopped>,
    pub duration: Duration,
    /// No other call of the session ran meanwhile.
    pub alone: bool,
    pub usage: Usage,
    /// Limits met by the call, its sub-cgroups included; whose limits is not said by these.
    pub own: Met,
    /// Held back by the `cpu.max` of levels above, summed over the CPUs, µs (kernel 6.6).
    pub throttled_above_us: Option<u64>,
    /// A sub-cgroup of the call that met its own limit, the call, and what is above it. Empty when
    /// no counter rose.
    pub levels: Vec<Level>,
    /// What the kernel log says about the OOM kill.
    pub kill: Option<Kill>,
}

/// One level of the tree: what was met of its own limits while the call ran.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    pub scope: Scope,
    pub cgroup: PathBuf,
    /// `memory.events.local` and `pids.events.local` (kernel 6.11), risen since the start.
    pub met: Met,
    pub limits: LevelLimits,
}

/// The limits of one level; `None` is no limit, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LevelLimits {
    pub memory_max: Option<u64>,
    pub memory_high: Option<u64>,
    pub pids_max: Option<u64>,
    pub pids_peak: Option<u64>,
    pub cpu_cores: Option<f64>,
}

impl Level {
    fn cause(&self, limit: &'static str, effect: Effect) -> Cause {
        let (mut bytes, mut value) = (None, None);
        match limit {
            "memory.max" => bytes = self.limits.memory_max,
            "memory.high" => bytes = self.limits.memory_high,
            "pids.max" => value = self.limits.pids_max.map(|n| n as f64),
            _ => value = self.limits.cpu_cores,
        }
        Cause {
            limit,
            limit_bytes: bytes,
            limit_value: value,
            scope: self.scope,
            cgroup: Some(self.cgroup.clone()),
            effect,
            victim: None,
        }
    }

    fn memory(&self, what: impl Fn(&crate::MemoryEvents) -> u64) -> bool {
        self.met.memory.as_ref().is_some_and(|m| what(m) > 0)
    }

    fn refused(&self) -> bool {
        self.met.refused_forks.is_some_and(|n| n > 0)
    }
}

/// A cause whose cgroup is not known.
fn cause_at(limit: &'static str, scope: Scope, effect: Effect) -> Cause {
    Cause { limit, limit_bytes: None, limit_value: None, scope, cgroup: None, effect, victim: None }
}

impl Evidence {
    /// A process of the call was killed by an OOM killer.
    pub(crate) fn oom_killed(&self) -> bool {
        self.own.memory.is_some_and(|m| m.oom_kill > 0)
    }

    /// How many of its processes an OOM killer has certainly killed, and whether there were no more.
    ///
    /// Where the kernel kills a cgroup whole (`memory.oom.group`), it counts the process that it chose
    /// and then all in the cgroup that still have memory, most often that one again. How many times it
    /// did so, in the call or in a cgroup above, is known since kernel 5.17.
    pub(crate) fn oom_kills(&self) -> (u64, bool) {
        let Some(own) = self.own.memory else { return (0, true) };
        let above = self.levels.iter().filter(|l| l.scope != Scope::Call);
        let counters = above.filter_map(|l| l.met.memory.as_ref()).chain([&own]);
        let groups: Option<u64> = counters.map(|m| m.oom_group_kill).sum();
        let few = own.oom_kill.min(1);
        (own.oom_kill.saturating_sub(groups.unwrap_or(u64::MAX)).max(few), groups == Some(0))
    }

    /// This share of the duration; 0 when it is too short or not known.
    pub(crate) fn share(&self, us: Option<u64>) -> f64 {
        let time = Duration::from_micros(us.unwrap_or(0));
        if time < HAMPERED_AT_LEAST || self.duration.is_zero() {
            return 0.0;
        }
        time.div_duration_f64(self.duration)
    }

    /// The share of the CPU time it wanted that it was denied; 0 when that did not hamper it.
    pub(crate) fn throttled_share(&self, throttled_us: Option<u64>) -> f64 {
        let got = self.usage.cpu_us().unwrap_or(0) as f64;
        let denied = throttled_us.unwrap_or(0) as f64;
        let share = denied / (denied + got).max(1.0);
        let heavy = share.min(self.share(throttled_us)) >= THROTTLED_SHARE;
        if heavy { share } else { 0.0 }
    }

    /// It ended otherwise than by status 0.
    fn unsuccessful(&self) -> bool {
        self.ended != Ended::Exited(0)
    }

    /// Nobody but the call can have met the limits of this level.
    fn has_alone(&self, scope: Scope) -> bool {
        scope == Scope::Call || scope == Scope::Session && self.alone
    }
}

/// What a call came to, and which resource ended or hampered it.
pub(crate) fn decide(e: &Evidence) -> (Verdict, Option<Cause>) {
    if let Ended::NotStarted(error) = &e.ended {
        if matches!(e.stopped, Some(Stopped::Cancelled(_))) {
            return (Verdict::Cancelled, None);
        }
        let refused = match error.errno() {
            Some(libc::EAGAIN) => refused_fork(e),
            Some(libc::ENOMEM) => refused_memory(e),
            _ => None,
        };
        return (Verdict::SpawnFailed, refused.map(|c| with_effect(c, Effect::Ended)));
    }
    let oom = oom_kill(e);
    match &e.stopped {
        Some(Stopped::TimedOut(timeout)) => {
            let timeout = Cause {
                limit_value: Some(timeout.as_secs_f64() * 1e3),
                ..cause_at("timeout", Scope::Call, Effect::Ended)
            };
            let oom = oom.map(|c| with_effect(c, Effect::Hampered));
            return (Verdict::TimedOut, Some(oom.unwrap_or(timeout)));
        }
        Some(Stopped::Cancelled(_)) => {
            return (Verdict::Cancelled, oom.map(|c| with_effect(c, Effect::Hampered)));
        }
        None => {}
    }
    if oom.is_some() {
        return (Verdict::OomKilled, oom);
    }
    let refused = refused_fork(e).filter(|c| c.effect != Effect::Possible);
    match e.ended {
        Ended::Exited(0) => (Verdict::Completed, hampered(e)),
        Ended::Exited(_) | Ended::Signaled { signal: libc::SIGABRT, .. } if refused.is_some() => {
            (Verdict::PidsExhausted, refused.map(|c| with_effect(c, Effect::Ended)))
        }
        Ended::Signaled { .. } => (Verdict::Signaled, hampered(e)),
        _ => (Verdict::Failed, hampered(e)),
    }
}

fn with_effect(cause: Cause, effect: Effect) -> Cause {
    Cause { effect, ..cause }
}

/// The `memory.max` that had no room for the first process, though nobody could be killed for it.
fn refused_memory(e: &Evidence) -> Option<Cause> {
    let level = e.levels.iter().find(|l| l.memory(|m| m.oom))?;
    Some(level.cause("memory.max", Effect::Hampered))
}

/// The limit behind an OOM kill in the call. The kernel log says it exactly. Without it: `oom` rises
/// at the level whose limit was met, and at none when the whole machine was short.
fn oom_kill(e: &Evidence) -> Option<Cause> {
    if !e.oom_killed() {
        return None;
    }
    let logged = e.kill.as_ref().and_then(|k| k.limit.as_ref());
    let host = || cause_at("memory", Scope::Host, Effect::Ended);
    let mut cause = match logged {
        Some(LoggedLimit::Host) => host(),
        Some(LoggedLimit::Cgroup(path)) => match e.levels.iter().find(|l| l.cgroup == *path) {
            Some(level) => level.cause("memory.max", Effect::Ended),
            None => {
                let call = e.levels.iter().find(|l| l.scope == Scope::Call);
                let below = call.is_some_and(|c| path.starts_with(&c.cgroup));
                let scope = if below { Scope::Call } else { Scope::Ancestor };
                let cgroup = Some(path.clone());
                Cause { cgroup, ..cause_at("memory.max", scope, Effect::Ended) }
            }
        },
        None => match e.levels.iter().find(|l| l.memory(|m| m.oom)) {
            Some(level) => level.cause("memory.max", Effect::Ended),
            // Of a sub-cgroup that is gone.
            None if e.own.memory.is_some_and(|m| m.oom > 0) => {
                cause_at("memory.max", Scope::Call, Effect::Ended)
            }
            None => host(),
        },
    };
    cause.victim = e.kill.as_ref().map(|k| k.victim.clone());
    Some(cause)
}

/// The `pids.max` that refused a fork. Before kernel 6.11 the call counts its refused forks whoever's
/// limit it was, from then on the level counts whose limit it was, whoever forked.
fn refused_fork(e: &Evidence) -> Option<Cause> {
    let limited = |l: &&Level| l.limits.pids_max.is_some();
    let reached = |l: &&Level| {
        l.limits.pids_peak.zip(l.limits.pids_max).is_none_or(|(peak, max)| peak >= max)
    };
    if e.own.refused_forks.is_some_and(|n| n > 0) {
        let levels = || e.levels.iter().filter(limited);
        let owner = levels()
            .find(|l| l.refused() && reached(l))
            .or_else(|| levels().find(reached))
            .or_else(|| levels().next());
        return Some(match owner {
            Some(level) => level.cause("pids.max", Effect::Hampered),
            None => cause_at("pids.max", Scope::Ancestor, Effect::Hampered),
        });
    }
    let level = e.levels.iter().find(|l| l.refused())?;
    let certain = e.has_alone(level.scope);
    Some(level.cause("pids.max", if certain { Effect::Hampered } else { Effect::Possible }))
}

/// What hampered a call without ending it, the worst first.
pub(crate) fn hampered(e: &Evidence) -> Option<Cause> {
    let refused = refused_fork(e);
    let (certain, possible): (Option<_>, Option<_>) = match refused {
        Some(c) if c.effect == Effect::Possible => (None, Some(c)),
        other => (other, None),
    };
    certain
        .or_else(|| failed_allocation(e))
        .or_else(|| memory_stall(e))
        .or_else(|| throttled(e))
        // Other calls may as well be the ones that it hit: worth naming only when this one failed.
        .or_else(|| possible.filter(|_| e.unsuccessful()))
}

/// An allocation that failed at the call's own limit without anything killed for it.
fn failed_allocation(e: &Evidence) -> Option<Cause> {
    let level = e.levels.iter().find(|l| l.scope == Scope::Call && l.memory(|m| m.oom))?;
    (e.unsuccessful() && !e.oom_killed()).then(|| level.cause("memory.max", Effect::Hampered))
}

fn memory_stall(e: &Evidence) -> Option<Cause> {
    let own_high = |l: &&Level| l.scope == Scope::Call && l.memory(|m| m.high);
    if e.usage.memory_stall_us.is_none() {
        // How much it was slowed is not known without PSI.
        let level = e.levels.iter().find(own_high)?;
        return Some(level.cause("memory.high", Effect::Possible));
    }
    if e.share(e.usage.memory_stall_us) < MEMORY_STALL_SHARE {
        return None;
    }
    match e.levels.iter().find(|l| l.memory(|m| m.high.max(m.max))) {
        Some(level) => {
            let limit = if level.memory(|m| m.high) { "memory.high" } else { "memory.max" };
            let certain = e.has_alone(level.scope);
            Some(level.cause(limit, if certain { Effect::Hampered } else { Effect::Possible }))
        }
        // Only who counts at every level can say that no cgroup's limit was met.
        None => (!e.levels.is_empty() && e.levels.iter().all(|l| l.met.memory.is_some()))
            .then(|| cause_at("memory", Scope::Host, Effect::Hampered)),
    }
}

fn throttled(e: &Evidence) -> Option<Cause> {
    let limited = |l: &&Level| l.limits.cpu_cores.is_some();
    if e.throttled_share(e.usage.cpu_throttled_us) > 0.0 {
        let call = e.levels.iter().filter(|l| l.scope == Scope::Call).find(limited);
        return Some(match call {
            Some(level) => level.cause("cpu.max", Effect::Hampered),
            None => cause_at("cpu.max", Scope::Call, Effect::Hampered),
        });
    }
    if e.throttled_share(e.throttled_above_us) > 0.0 {
        let above = e.levels.iter().filter(|l| l.scope != Scope::Call).find(limited);
        return Some(match above {
            Some(level) => level.cause("cpu.max", Effect::Hampered),
            None => cause_at("cpu.max", Scope::Ancestor, Effect::Hampered),
        });
    }
    None
}
