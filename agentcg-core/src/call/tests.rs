//! Every rule of the verdict and of the advice, as a table; and properties of all evidence.

use std::time::Duration;

use proptest::prelude::*;

use super::advice::{Suggestion, advise};
use super::oom::{Kill, LoggedLimit};
use super::outcome::{Effect, Ended, Scope, Stopped, Verdict, Victim};
use super::usage::{Met, Usage};
use super::verdict::{Evidence, Level, LevelLimits, decide};
use crate::{Error, ErrorKind, MemoryEvents};

use Effect::{Ended as Ends, Hampered, Possible};
use Suggestion as S;
use Verdict as V;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const SESSION: &str = "/sys/fs/cgroup/agentcg/a";
pub(super) const CALL: &str = "/sys/fs/cgroup/agentcg/a/calls/7";

/// A call of 10 s, alone, on a kernel that counts everything; nothing was met.
fn ended(ended: Ended) -> Evidence {
    let met = Met { memory: Some(MemoryEvents::default()), refused_forks: Some(0) };
    let level = |scope, cgroup: &str, limits| Level { scope, cgroup: cgroup.into(), met, limits };
    let none = LevelLimits::default();
    let call = LevelLimits {
        memory_max: Some(512 * MIB),
        memory_high: Some(400 * MIB),
        pids_max: Some(64),
        pids_peak: Some(9),
        cpu_cores: Some(0.5),
    };
    let session = LevelLimits {
        memory_max: Some(2 * GIB),
        memory_high: Some(GIB),
        pids_max: Some(200),
        pids_peak: Some(40),
        cpu_cores: Some(2.0),
    };
    Evidence {
        ended,
        stopped: None,
        duration: Duration::from_secs(10),
        alone: true,
        usage: Usage {
            memory_peak_bytes: Some(100 * MIB),
            cpu_user_us: Some(900_000),
            cpu_system_us: Some(100_000),
            cpu_throttled_us: Some(0),
            pids_peak: Some(9),
            memory_stall_us: Some(0),
            cpu_stall_us: Some(0),
            io_stall_us: Some(0),
            ..Usage::default()
        },
        own: met,
        throttled_above_us: None,
        levels: vec![
            level(Scope::Call, CALL, call),
            level(Scope::Session, "/sys/fs/cgroup/agentcg/a/calls", none),
            level(Scope::Session, SESSION, session),
            level(Scope::Ancestor, "/sys/fs/cgroup/agentcg", none),
        ],
        kill: None,
    }
}

pub(super) fn exited(status: i32) -> Evidence {
    ended(Ended::Exited(status))
}

pub(super) fn signaled(signal: i32) -> Evidence {
    ended(Ended::Signaled { signal, core_dumped: false })
}

fn unknown() -> Evidence {
    ended(Ended::Unknown("waitpid(-1) elsewhere".into()))
}

pub(super) fn not_started(errno: i32) -> Evidence {
    let error = Error::os("start", "/no/such", std::io::Error::from_raw_os_error(errno));
    ended(Ended::NotStarted(error))
}

/// What can happen to a call.
impl Evidence {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn timed_out(self) -> Self {
        self.with(|e| e.stopped = Some(Stopped::TimedOut(Duration::from_secs(10))))
    }

    pub(super) fn cancelled(self, by: &str) -> Self {
        self.with(|e| e.stopped = Some(Stopped::Cancelled(by.into())))
    }

    fn beside_others(self) -> Self {
        self.with(|e| e.alone = false)
    }

    fn memory(self, change: impl FnOnce(&mut MemoryEvents)) -> Self {
        self.with(|e| change(e.own.memory.get_or_insert_default()))
    }

    pub(super) fn at(self, level: usize, change: impl FnOnce(&mut MemoryEvents)) -> Self {
        self.with(|e| change(e.levels[level].met.memory.get_or_insert_default()))
    }

    fn killed(self, kills: u64) -> Self {
        self.memory(|m| m.oom_kill = kills)
    }

    /// As with `memory.oom.group` at a level.
    fn whole(self, level: usize, times: u64) -> Self {
        let own = if level == 0 { times } else { 0 };
        self.memory(|m| m.oom_group_kill = Some(own)).with(|e| {
            for l in &mut e.levels {
                l.met.memory.get_or_insert_default().oom_group_kill = Some(0);
            }
            e.levels[level].met.memory.get_or_insert_default().oom_group_kill = Some(times);
        })
    }

    /// Killed by the limit of this level.
    pub(super) fn oom_at(self, level: usize) -> Self {
        let own = |m: &mut MemoryEvents| m.oom = u64::from(level == 0);
        self.killed(1).memory(own).at(level, |m| m.oom = 1)
    }

    pub(super) fn logged(self, limit: Option<LoggedLimit>) -> Self {
        let victim = Victim { pid: 412, comm: "python3".into() };
        self.with(|e| e.kill = Some(Kill { victim, limit }))
    }

    /// A fork was refused by this level, as kernel 6.11 and later count it.
    pub(super) fn refused_at(self, level: usize) -> Self {
        self.with(|e| {
            e.levels[level].met.refused_forks = Some(3);
            e.levels[level].limits.pids_peak = e.levels[level].limits.pids_max;
            if level == 0 {
                e.own.refused_forks = Some(3);
            }
        })
    }

    /// The same before kernel 6.11, which has no `pids.events.local`.
    fn refused_before_6_11(self, level: usize) -> Self {
        self.refused_at(level).with(|e| {
            e.own.refused_forks = Some(3);
            e.levels.iter_mut().for_each(|l| l.met.refused_forks = None);
        })
    }

    pub(super) fn stalled(self, ms: u64) -> Self {
        self.with(|e| e.usage.memory_stall_us = Some(ms * 1000))
    }

    fn throttled(self, ms: u64) -> Self {
        self.with(|e| e.usage.cpu_throttled_us = Some(ms * 1000))
    }

    /// As on a machine whose cgroup v2 has no controllers.
    pub(super) fn without_controllers(self) -> Self {
        self.with(|e| {
            e.own = Met::default();
            e.levels.clear();
            e.usage.cpu_throttled_us = None;
            e.usage.memory_peak_bytes = None;
            e.usage.pids_peak = None;
        })
    }
}

type Expected<'a> = Option<(&'a str, Scope, Effect)>;

fn call<'a>(limit: &'a str, effect: Effect) -> Expected<'a> {
    Some((limit, Scope::Call, effect))
}

fn session<'a>(limit: &'a str, effect: Effect) -> Expected<'a> {
    Some((limit, Scope::Session, effect))
}

fn host(effect: Effect) -> Expected<'static> {
    Some(("memory", Scope::Host, effect))
}

/// Evidence, the verdict and cause that it must give, words that must be in the advice (none: it is
/// empty), and the suggestions.
struct Row(&'static str, Evidence, Verdict, Expected<'static>, &'static [&'static str], Vec<S>);

fn hint(hint: &str) -> S {
    S::RetryWithHint { hint: hint.into() }
}

fn next_time(hint: &str) -> S {
    S::HintNextTime { hint: hint.into() }
}

fn more_time() -> S {
    S::RaiseTimeout { hint: "time:20s".into() }
}

fn check(rows: Vec<Row>) {
    for Row(name, evidence, verdict, cause, words, suggestions) in rows {
        let (found, why) = decide(&evidence);
        assert_eq!(found, verdict, "{name}");
        let shown = why.as_ref().map(|c| (c.limit, c.scope, c.effect));
        assert_eq!(shown, cause, "{name}");
        let (text, suggested) = advise(&evidence, found, why.as_ref());
        assert_eq!(suggested, suggestions, "{name}: {text}");
        assert_eq!(text.is_empty(), words.is_empty(), "{name}: {text}");
        for word in words {
            assert!(text.contains(word), "{name}: no {word:?} in: {text}");
        }
    }
}

#[test]
fn nothing_happened() {
    check(vec![
        Row("exit 0", exited(0), V::Completed, None, &[], vec![]),
        Row("exit 1", exited(1), V::Failed, None, &[], vec![]),
        Row("exit 127", exited(127), V::Failed, None, &[], vec![]),
        Row("no controllers", exited(0).without_controllers(), V::Completed, None, &[], vec![]),
        Row("unknown status", unknown(), V::Failed, None, &[], vec![]),
        Row(
            "a shell whose child was killed",
            exited(137),
            V::Failed,
            None,
            &["SIGKILL", "no kill for memory"],
            vec![],
        ),
        Row(
            "the same without controllers",
            exited(137).without_controllers(),
            V::Failed,
            None,
            &["SIGKILL", "not known"],
            vec![],
        ),
        Row("a shell whose child crashed", exited(139), V::Failed, None, &["SIGSEGV"], vec![]),
        Row("a status above 128 that is no signal", exited(255), V::Failed, None, &[], vec![]),
    ]);
}

#[test]
fn memory_kills() {
    let call_path = || Some(LoggedLimit::Cgroup(CALL.into()));
    check(vec![
        Row(
            "the main process",
            signaled(9)
                .oom_at(0)
                .with(|e| e.usage.memory_peak_bytes = Some(512 * MIB))
                .logged(call_path()),
            V::OomKilled,
            call("memory.max", Ends),
            &[
                "python3 (pid 412)",
                "the call's memory.max of 512 MiB",
                "peak: 512 MiB",
                "will fail again",
                "memory:1G",
                "-n 2",
            ],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "a child in a pipeline, exit 0",
            exited(0).oom_at(0),
            V::OomKilled,
            call("memory.max", Ends),
            &["A process of it", "do not rely on"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "an xdist worker, exit 1",
            exited(1).oom_at(0),
            V::OomKilled,
            call("memory.max", Ends),
            &["exited with status 1"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "the whole group",
            signaled(9).oom_at(0).killed(5).whole(0, 1).logged(None),
            V::OomKilled,
            call("memory.max", Ends),
            &["python3 (pid 412) and at least 3 other processes of it were killed"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "the whole group: one process, counted twice",
            signaled(9).oom_at(0).killed(2).whole(0, 1).logged(None),
            V::OomKilled,
            call("memory.max", Ends),
            &["python3 (pid 412) was killed"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "the whole group, and its process was gone before it was counted again",
            signaled(9).oom_at(0).killed(1).whole(0, 1),
            V::OomKilled,
            call("memory.max", Ends),
            &["A process of it was killed"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "the session killed whole: the call's own counters do not say so",
            signaled(9).oom_at(2).killed(3).whole(2, 1),
            V::OomKilled,
            session("memory.max", Ends),
            &["A process and at least 1 other process of it were killed"],
            vec![S::ReduceParallelism, S::DoNotRetry],
        ),
        Row(
            "one after the other",
            exited(1).oom_at(0).killed(3).whole(0, 0).logged(None),
            V::OomKilled,
            call("memory.max", Ends),
            &["python3 (pid 412) and 2 other processes of it were killed"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "before kernel 5.17 nobody knows",
            signaled(9).oom_at(0).killed(5).logged(None).with(|e| {
                e.own.memory.as_mut().unwrap().oom_group_kill = None;
            }),
            V::OomKilled,
            call("memory.max", Ends),
            &["python3 (pid 412) was killed"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "a single process",
            signaled(9).oom_at(0).with(|e| e.usage.pids_peak = Some(1)),
            V::OomKilled,
            call("memory.max", Ends),
            &["smaller inputs"],
            vec![hint("memory:1G")],
        ),
        Row(
            "the hint is as large as the session allows",
            signaled(9).oom_at(0).with(|e| e.levels[2].limits.memory_max = Some(768 * MIB)),
            V::OomKilled,
            call("memory.max", Ends),
            &["memory:768M"],
            vec![hint("memory:768M"), S::ReduceParallelism],
        ),
        Row(
            "the session allows no more",
            signaled(9).oom_at(0).with(|e| e.levels[2].limits.memory_max = Some(520 * MIB)),
            V::OomKilled,
            call("memory.max", Ends),
            &["no larger hint"],
            vec![S::DoNotRetry, S::ReduceParallelism],
        ),
        Row(
            "the session's limit, alone",
            signaled(9).oom_at(2),
            V::OomKilled,
            session("memory.max", Ends),
            &["the session's memory.max of 2 GiB", "No other call"],
            vec![S::ReduceParallelism, S::DoNotRetry],
        ),
        Row(
            "the session's limit, beside others",
            signaled(9).oom_at(2).beside_others(),
            V::OomKilled,
            session("memory.max", Ends),
            &["Other calls of the session"],
            vec![S::WaitAndRetry, S::ReduceParallelism],
        ),
        Row(
            "a limit above the session",
            signaled(9).oom_at(3).with(|e| e.levels[3].limits.memory_max = Some(4 * GIB)),
            V::OomKilled,
            Some(("memory.max", Scope::Ancestor, Ends)),
            &["memory.max of 4 GiB of /sys/fs/cgroup/agentcg"],
            vec![S::WaitAndRetry, S::ReduceParallelism],
        ),
        Row(
            "the whole machine",
            signaled(9).killed(1),
            V::OomKilled,
            host(Ends),
            &["the machine's memory"],
            vec![S::WaitAndRetry, S::ReduceParallelism],
        ),
        Row(
            "the log knows better than a neighbour's counter",
            signaled(9).oom_at(2).beside_others().logged(Some(LoggedLimit::Host)),
            V::OomKilled,
            host(Ends),
            &["the machine's memory", "python3"],
            vec![S::WaitAndRetry, S::ReduceParallelism],
        ),
        Row(
            "a limit that the call has set itself",
            exited(1).killed(1).logged(Some(LoggedLimit::Cgroup(format!("{CALL}/sub").into()))),
            V::OomKilled,
            call("memory.max", Ends),
            &["no larger hint"],
            vec![S::DoNotRetry, S::ReduceParallelism],
        ),
        Row(
            "a sub-cgroup that is gone",
            exited(1).killed(1).memory(|m| m.oom = 1),
            V::OomKilled,
            call("memory.max", Ends),
            &["the call's memory.max"],
            vec![S::DoNotRetry, S::ReduceParallelism],
        ),
        Row(
            "the status is not known",
            unknown().oom_at(0),
            V::OomKilled,
            call("memory.max", Ends),
            &["memory:1G"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "a kill in a neighbour is not ours",
            signaled(9).at(2, |m| m.oom = 1).beside_others(),
            V::Signaled,
            None,
            &["no kill for memory"],
            vec![S::RetryUnchanged],
        ),
        Row(
            "an allocation failed, nothing was killed",
            exited(1).memory(|m| m.oom = 1).at(0, |m| m.oom = 1),
            V::Failed,
            call("memory.max", Hampered),
            &["An allocation failed", "512 MiB"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
    ]);
}

#[test]
fn signals() {
    let outside = |signal| signaled(signal);
    check(vec![
        Row(
            "kill -9",
            outside(9),
            V::Signaled,
            None,
            &["SIGKILL", "no kill for memory"],
            vec![S::RetryUnchanged],
        ),
        Row(
            "kill -9 without controllers",
            outside(9).without_controllers(),
            V::Signaled,
            None,
            &["SIGKILL", "not known"],
            vec![S::RetryUnchanged],
        ),
        Row("kill -15", outside(15), V::Signaled, None, &["SIGTERM"], vec![S::RetryUnchanged]),
        Row(
            "a crash",
            outside(11),
            V::Signaled,
            None,
            &["SIGSEGV", "crash again"],
            vec![S::DoNotRetry],
        ),
        Row("abort", outside(6), V::Signaled, None, &["SIGABRT"], vec![S::DoNotRetry]),
        Row(
            "ulimit -t",
            outside(libc::SIGXCPU),
            V::Signaled,
            None,
            &["RLIMIT_CPU"],
            vec![S::DoNotRetry],
        ),
        Row(
            "ulimit -f",
            outside(libc::SIGXFSZ),
            V::Signaled,
            None,
            &["RLIMIT_FSIZE"],
            vec![S::DoNotRetry],
        ),
        Row("| head", outside(13), V::Signaled, None, &["SIGPIPE"], vec![]),
        Row(
            "a real-time signal",
            outside(40),
            V::Signaled,
            None,
            &["signal 40"],
            vec![S::RetryUnchanged],
        ),
    ]);
}

#[test]
fn stopped_by_us() {
    let idle = |e: Evidence| e.with(|e| e.usage.cpu_user_us = Some(1000));
    check(vec![
        Row(
            "it worked",
            signaled(15).timed_out(),
            V::TimedOut,
            call("timeout", Ends),
            &["timeout of 10 s", "1 s of CPU time"],
            vec![more_time()],
        ),
        Row(
            "it waited",
            idle(signaled(9).timed_out()),
            V::TimedOut,
            call("timeout", Ends),
            &["was waiting", "without prompts"],
            vec![S::DoNotRetry],
        ),
        Row(
            "it caught SIGTERM and exited with 0",
            exited(0).timed_out(),
            V::TimedOut,
            call("timeout", Ends),
            &["timeout of 10 s"],
            vec![more_time()],
        ),
        Row(
            "a process of it had been killed for memory",
            signaled(15).oom_at(0).timed_out(),
            V::TimedOut,
            call("memory.max", Hampered),
            &["timeout of 10 s", "Before that: A process of it was killed", "memory:1G"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "for the machine's memory",
            signaled(15).killed(1).timed_out(),
            V::TimedOut,
            host(Hampered),
            &["the machine's memory"],
            vec![S::WaitAndRetry],
        ),
        Row(
            "it was throttled",
            signaled(15).throttled(9000).timed_out(),
            V::TimedOut,
            call("timeout", Ends),
            &["cpu.max of 0.5 CPUs", "90 %", "cpu:1"],
            vec![hint("cpu:1"), more_time()],
        ),
        Row(
            "the session was short of memory",
            signaled(15).stalled(6000).at(2, |m| m.high = 9).timed_out(),
            V::TimedOut,
            call("timeout", Ends),
            &["the session's memory.high of 1 GiB", "60 %"],
            vec![S::WaitAndRetry, more_time()],
        ),
        Row(
            "the CPUs were busy",
            signaled(15).timed_out().with(|e| e.usage.cpu_stall_us = Some(8_000_000)),
            V::TimedOut,
            call("timeout", Ends),
            &["free CPU 80 %"],
            vec![S::WaitAndRetry, more_time()],
        ),
        Row(
            "the disk was slow",
            signaled(15).timed_out().with(|e| e.usage.io_stall_us = Some(7_000_000)),
            V::TimedOut,
            call("timeout", Ends),
            &["disk I/O 70 %"],
            vec![more_time()],
        ),
        Row(
            "cancelled through the handle",
            signaled(9).cancelled("the caller"),
            V::Cancelled,
            None,
            &["on purpose, by the caller"],
            vec![S::DoNotRetry],
        ),
        Row(
            "cancelled by agentcg kill, after an OOM kill",
            signaled(9).oom_at(0).cancelled("agentcg kill (pid 12, uid 0)"),
            V::Cancelled,
            call("memory.max", Hampered),
            &["agentcg kill (pid 12"],
            vec![S::DoNotRetry],
        ),
        Row(
            "by nobody in particular",
            signaled(9).cancelled(""),
            V::Cancelled,
            None,
            &["on purpose:"],
            vec![S::DoNotRetry],
        ),
    ]);
}

#[test]
fn refused_forks() {
    check(vec![
        Row(
            "a fork bomb",
            exited(1).refused_at(0),
            V::PidsExhausted,
            call("pids.max", Ends),
            &["the call's pids.max of 64", "-n 2", "pids:128"],
            vec![S::ReduceParallelism, hint("pids:128")],
        ),
        Row(
            "terminate called: no thread",
            signaled(6).refused_at(0),
            V::PidsExhausted,
            call("pids.max", Ends),
            &["the call's pids.max"],
            vec![S::ReduceParallelism, hint("pids:128")],
        ),
        Row(
            "killed from outside",
            signaled(9).refused_at(0),
            V::Signaled,
            call("pids.max", Hampered),
            &["SIGKILL", "the call's pids.max of 64"],
            vec![S::RetryUnchanged, S::ReduceParallelism],
        ),
        Row(
            "it managed with less",
            exited(0).refused_at(0),
            V::Completed,
            call("pids.max", Hampered),
            &["refused a fork", "pids:128"],
            vec![S::ReduceParallelism, next_time("pids:128")],
        ),
        Row(
            "before 6.11",
            exited(1).refused_before_6_11(0),
            V::PidsExhausted,
            call("pids.max", Ends),
            &["the call's pids.max of 64"],
            vec![S::ReduceParallelism, hint("pids:128")],
        ),
        Row(
            "the session's, before 6.11",
            exited(1).refused_before_6_11(2).beside_others(),
            V::PidsExhausted,
            session("pids.max", Ends),
            &["the session's pids.max of 200", "shared"],
            vec![S::ReduceParallelism, S::WaitAndRetry],
        ),
        Row(
            "the session's, alone",
            exited(1).refused_at(2),
            V::PidsExhausted,
            session("pids.max", Ends),
            &["the session's pids.max of 200"],
            vec![S::ReduceParallelism, S::WaitAndRetry],
        ),
        Row(
            "the session's, beside others that can be the ones",
            exited(1).refused_at(2).beside_others(),
            V::Failed,
            session("pids.max", Possible),
            &["perhaps one of its own"],
            vec![S::WaitAndRetry],
        ),
        Row(
            "the same, and it succeeded",
            exited(0).refused_at(2).beside_others(),
            V::Completed,
            None,
            &[],
            vec![],
        ),
        Row(
            "a limit that is not visible",
            exited(1).refused_before_6_11(0).with(|e| e.levels.clear()),
            V::PidsExhausted,
            Some(("pids.max", Scope::Ancestor, Ends)),
            &["a pids.max above the session"],
            vec![S::ReduceParallelism, S::WaitAndRetry],
        ),
        Row(
            "memory goes first",
            exited(1).refused_at(0).oom_at(0),
            V::OomKilled,
            call("memory.max", Ends),
            &["memory:1G"],
            vec![hint("memory:1G"), S::ReduceParallelism],
        ),
        Row(
            "refused, and then hung",
            signaled(15).refused_at(0).timed_out(),
            V::TimedOut,
            call("timeout", Ends),
            &["refused a fork", "pids:128"],
            vec![S::ReduceParallelism, hint("pids:128"), more_time()],
        ),
        Row(
            "the status is not known",
            unknown().refused_at(0),
            V::Failed,
            call("pids.max", Hampered),
            &["pids:128"],
            vec![S::ReduceParallelism, hint("pids:128")],
        ),
    ]);
}

#[test]
fn slowed() {
    check(vec![
        Row(
            "memory.high",
            exited(0).memory(|m| m.high = 9).at(0, |m| m.high = 9).stalled(3400),
            V::Completed,
            call("memory.high", Hampered),
            &["the call's memory.high of 400 MiB", "34 %", "memory:800M"],
            vec![next_time("memory:800M")],
        ),
        Row(
            "reclaim at memory.max",
            exited(0).memory(|m| m.max = 99).at(0, |m| m.max = 99).stalled(2000),
            V::Completed,
            call("memory.max", Hampered),
            &["the call's memory.max of 512 MiB", "memory:1G"],
            vec![next_time("memory:1G")],
        ),
        Row(
            "a little",
            exited(0).at(0, |m| m.high = 9).stalled(900),
            V::Completed,
            None,
            &[],
            vec![],
        ),
        Row(
            "a large share of a short time",
            exited(0)
                .at(0, |m| m.high = 9)
                .stalled(40)
                .with(|e| e.duration = Duration::from_millis(60)),
            V::Completed,
            None,
            &[],
            vec![],
        ),
        Row(
            "memory.high without PSI",
            exited(0).at(0, |m| m.high = 9).with(|e| e.usage.memory_stall_us = None),
            V::Completed,
            call("memory.high", Possible),
            &["may have been slowed"],
            vec![next_time("memory:800M")],
        ),
        Row(
            "the session's memory.high, beside others",
            exited(0).at(2, |m| m.high = 9).stalled(5000).beside_others(),
            V::Completed,
            session("memory.high", Possible),
            &["may have been slowed by the session's"],
            vec![],
        ),
        Row(
            "the machine's memory",
            exited(0).stalled(5000),
            V::Completed,
            host(Hampered),
            &["the machine's memory", "50 %"],
            vec![],
        ),
        Row(
            "memory stall without counters",
            exited(0).stalled(5000).without_controllers(),
            V::Completed,
            None,
            &[],
            vec![],
        ),
        Row(
            "slowed, and failed",
            exited(2).at(0, |m| m.high = 9).stalled(3400),
            V::Failed,
            call("memory.high", Hampered),
            &["If that is why"],
            vec![hint("memory:800M")],
        ),
        Row(
            "cpu.max",
            exited(0).throttled(4000),
            V::Completed,
            call("cpu.max", Hampered),
            &["cpu.max of 0.5 CPUs", "80 %", "cpu:1"],
            vec![next_time("cpu:1")],
        ),
        Row("a little cpu.max", exited(0).throttled(2000), V::Completed, None, &[], vec![]),
        Row(
            "the session's cpu.max",
            exited(0).with(|e| e.throttled_above_us = Some(5_000_000)),
            V::Completed,
            session("cpu.max", Hampered),
            &["the session's cpu.max of 2 CPUs"],
            vec![],
        ),
        Row(
            "a cpu.max that is not visible",
            exited(0).with(|e| {
                e.throttled_above_us = Some(5_000_000);
                e.levels.truncate(1);
            }),
            V::Completed,
            Some(("cpu.max", Scope::Ancestor, Hampered)),
            &["a cpu.max above the session"],
            vec![],
        ),
    ]);
}

#[test]
fn never_started() {
    let busy = ended(Ended::NotStarted(Error::new(ErrorKind::TimedOut, "the queue is full")));
    check(vec![
        Row(
            "no such program",
            not_started(libc::ENOENT),
            V::SpawnFailed,
            None,
            &["/no/such: No such file"],
            vec![S::DoNotRetry],
        ),
        Row(
            "not executable",
            not_started(libc::EACCES),
            V::SpawnFailed,
            None,
            &["Permission denied"],
            vec![S::DoNotRetry],
        ),
        Row(
            "not admitted in time",
            busy,
            V::SpawnFailed,
            None,
            &["the queue is full"],
            vec![S::WaitAndRetry],
        ),
        Row(
            "the session's pids.max",
            not_started(libc::EAGAIN).refused_at(2),
            V::SpawnFailed,
            session("pids.max", Ends),
            &["the session's pids.max of 200"],
            vec![S::WaitAndRetry],
        ),
        Row(
            "the call's pids.max",
            not_started(libc::EAGAIN).refused_at(0),
            V::SpawnFailed,
            call("pids.max", Ends),
            &["the call's pids.max", "pids:"],
            vec![S::RetryWithHint { hint: "pids:128".into() }],
        ),
        Row(
            "the call's memory.max",
            not_started(libc::ENOMEM).at(0, |m| m.oom = 1),
            V::SpawnFailed,
            call("memory.max", Ends),
            &["the call's memory.max", "a larger limit"],
            vec![S::DoNotRetry],
        ),
        Row(
            "ENOMEM without a limit",
            not_started(libc::ENOMEM),
            V::SpawnFailed,
            None,
            &["not started"],
            vec![S::DoNotRetry],
        ),
        Row(
            "EAGAIN without a limit",
            not_started(libc::EAGAIN),
            V::SpawnFailed,
            None,
            &["not started"],
            vec![S::WaitAndRetry],
        ),
        Row(
            "a limit without EAGAIN",
            not_started(libc::ENOENT).refused_at(0),
            V::SpawnFailed,
            None,
            &["No such file"],
            vec![S::DoNotRetry],
        ),
    ]);
}

fn any_ended() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        (-1..300i32).prop_map(exited),
        (1..65i32).prop_map(signaled),
        Just(unknown()),
        prop::sample::select(vec![libc::ENOENT, libc::EAGAIN, libc::ENOMEM]).prop_map(not_started),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 2 => 1..9u64, 1 => any::<u64>()]
}

fn memory_events() -> impl Strategy<Value = Option<MemoryEvents>> {
    prop::option::weighted(
        0.8,
        (count(), count(), count(), count()).prop_map(|(high, max, oom, oom_kill)| MemoryEvents {
            high,
            max,
            oom,
            oom_kill,
            ..MemoryEvents::default()
        }),
    )
}

fn met() -> impl Strategy<Value = Met> {
    (memory_events(), prop::option::of(count()))
        .prop_map(|(memory, refused_forks)| Met { memory, refused_forks })
}

fn stop() -> impl Strategy<Value = Option<Stopped>> {
    prop_oneof![
        3 => Just(None),
        1 => any::<Duration>().prop_map(|d| Some(Stopped::TimedOut(d))),
        1 => ".{0,9}".prop_map(|by| Some(Stopped::Cancelled(by))),
    ]
}

prop_compose! {
    fn any_evidence()(
        e in any_ended(),
        stopped in stop(),
        duration in any::<Duration>(),
        alone in any::<bool>(),
        own in met(),
        levels in prop::collection::vec((met(), prop::option::of(any::<u64>()), prop::option::of(any::<f64>())), 4),
        kept in 0..5usize,
        times in prop::array::uniform4(prop::option::of(any::<u64>())),
        limit in prop::option::of(prop::sample::select(vec![
            None,
            Some(LoggedLimit::Host),
            Some(LoggedLimit::Cgroup(CALL.into())),
            Some(LoggedLimit::Cgroup(SESSION.into())),
            Some(LoggedLimit::Cgroup("/x".into())),
        ])),
    ) -> Evidence {
        let mut e = Evidence { stopped, duration, alone, own, ..e };
        for (level, (met, limit, cores)) in e.levels.iter_mut().zip(levels) {
            level.met = met;
            level.limits.memory_max = limit;
            level.limits.memory_high = limit;
            level.limits.pids_max = limit;
            level.limits.cpu_cores = cores;
        }
        e.levels.truncate(kept);
        [e.usage.memory_stall_us, e.usage.cpu_throttled_us, e.usage.cpu_user_us, e.throttled_above_us] = times;
        match limit {
            Some(limit) => e.logged(limit),
            None => e,
        }
    }
}

proptest! {
    #[test]
    fn no_claim_without_evidence(e in any_evidence()) {
        let (verdict, cause) = decide(&e);
        let (text, suggestions) = advise(&e, verdict, cause.as_ref());
        let started = !matches!(e.ended, Ended::NotStarted(_));
        let oom_kill = e.own.memory.is_some_and(|m| m.oom_kill > 0);

        prop_assert_eq!(verdict == V::OomKilled, oom_kill && started && e.stopped.is_none());
        prop_assert_eq!(text.contains("killed by the kernel for memory"),
            oom_kill && (verdict == V::OomKilled || verdict == V::TimedOut));
        prop_assert_eq!(verdict == V::TimedOut, started && matches!(e.stopped, Some(Stopped::TimedOut(_))));
        // What was cancelled while it waited is no failure to start.
        let cancelled = matches!(e.stopped, Some(Stopped::Cancelled(_)));
        prop_assert_eq!(verdict == V::Cancelled, cancelled);
        prop_assert_eq!(verdict == V::SpawnFailed, !started && !cancelled);
        if verdict == V::Completed {
            prop_assert_eq!(e.ended.clone(), Ended::Exited(0));
        }
        if let Some(cause) = &cause {
            prop_assert!(cause.victim.is_none() || oom_kill);
            let ends = matches!(verdict, V::OomKilled | V::TimedOut | V::PidsExhausted | V::SpawnFailed);
            prop_assert!(ends || cause.effect != Ends, "{:?} {:?}", verdict, cause);
        }
        if verdict == V::PidsExhausted {
            let refused = |m: &Met| m.refused_forks.is_some_and(|n| n > 0);
            let here = |l: &Level| l.scope == Scope::Call || l.scope == Scope::Session && e.alone;
            prop_assert!(refused(&e.own) || e.levels.iter().any(|l| here(l) && refused(&l.met)));
        }
        prop_assert!(!text.is_empty() || suggestions.is_empty());
        let both = suggestions.contains(&S::RetryUnchanged) && suggestions.contains(&S::DoNotRetry);
        prop_assert!(!both);
        prop_assert!(!text.contains('\n') || matches!(e.stopped, Some(Stopped::Cancelled(_))));
    }

    /// A hint that is advised can be given: sizes and durations are what the parsers take.
    #[test]
    fn hints_are_valid(e in any_evidence()) {
        let (verdict, cause) = decide(&e);
        for suggestion in advise(&e, verdict, cause.as_ref()).1 {
            let (S::RetryWithHint { hint } | S::HintNextTime { hint } | S::RaiseTimeout { hint }) = suggestion else {
                continue;
            };
            match hint.split_once(':').unwrap() {
                ("memory", size) => prop_assert!(crate::parse_size(size).unwrap() > 0, "{}", hint),
                ("time", time) => prop_assert!(!crate::parse_duration(time).unwrap().is_zero()),
                ("pids", n) => prop_assert!(n.parse::<f64>().unwrap() >= 1.0, "{}", hint),
                ("cpu", n) => prop_assert!(n.parse::<f64>().is_ok(), "{}", hint),
                _ => prop_assert!(false, "{}", hint),
            }
        }
    }
}
