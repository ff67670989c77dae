//! Verdicts on a real kernel: a table of ways in which a call can end, each with what its outcome
//! must say. Every row is a test of its own, `verdicts::NAME`.
//!
//! A row says how the call ended, which limit was behind it and at which level, who was killed, and
//! words that the advice must have. Whatever is not said must not be in the outcome: no cause, no
//! victim, no advice.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agentcg_core::{
    Cgroup, Command, Effect, Ended, Limit, Limits, Outcome, Scope, Session, SessionConfig, Stdio,
    Verdict,
};
use anyhow::{Context, Result, ensure};

use crate::calls::Place;
use crate::support::{Need, eventually};
use Effect::{Ended as Ends, Hampered, Possible};
use Scope::{Ancestor, Call, Host};
use Verdict::{
    Cancelled, Completed, Failed, OomKilled, PidsExhausted, Signaled, SpawnFailed, TimedOut,
};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];
const STALLS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi];
const SWAP: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Swap];
/// The whole machine is brought to its limits.
const LAB: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Lab];

const MIB: u64 = 1 << 20;
/// For calls that are to be stopped; what they do before takes less.
const SOON: Duration = Duration::from_millis(400);
/// For those that have to do something before: start a program and be killed for its memory.
const LATER: Duration = Duration::from_secs(4);

/// One way to end.
#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub needs: &'static [Need],
    play: fn(&Stage) -> Result<Outcome>,
    verdict: Verdict,
    how: How,
    why: Why,
    /// The name of the process that was killed for memory; its pid must be one that the call said.
    victim: Option<&'static str>,
    /// Parts of the advice; with none it must be empty.
    advice: &'static [&'static str],
}

/// How the main process must have ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Status(i32),
    Signal(i32),
    Core(i32),
    NotStarted(i32),
    /// By the one or the other: two things happened at once.
    Either(i32, i32),
    /// By this status, or not known where another has collected it (before kernel 6.15).
    Stolen(i32),
}

/// The cause that must be named.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    Nothing,
    /// The limit, its value, its level, what it did.
    Limit(&'static str, f64, Scope, Effect),
    /// The same, if the call waited for memory long enough to call it hampered; else nothing.
    IfStalled(&'static str, f64, Scope),
}

impl Row {
    fn new(
        name: &'static str,
        needs: &'static [Need],
        verdict: Verdict,
        how: How,
        play: fn(&Stage) -> Result<Outcome>,
    ) -> Self {
        let why = Why::Nothing;
        Self { name, needs, play, verdict, how, why, victim: None, advice: &[] }
    }

    fn by(mut self, limit: &'static str, value: u64, scope: Scope, effect: Effect) -> Self {
        self.why = Why::Limit(limit, value as f64, scope, effect);
        self
    }

    /// A limit of a number of CPUs.
    fn by_cpus(mut self, value: f64, scope: Scope) -> Self {
        self.why = Why::Limit("cpu.max", value, scope, Hampered);
        self
    }

    fn if_stalled(mut self, limit: &'static str, value: u64) -> Self {
        self.why = Why::IfStalled(limit, value as f64, Call);
        self
    }

    fn victim(mut self, comm: &'static str) -> Self {
        self.victim = Some(comm);
        self
    }

    fn says(mut self, advice: &'static [&'static str]) -> Self {
        self.advice = advice;
        self
    }

    /// Plays it and compares; all that is wrong is told at once.
    pub fn run(&self) -> Result<()> {
        let stage = Stage::new()?;
        if self.victim.is_some() {
            wait_for_the_log();
        }
        let outcome = (self.play)(&stage)?;
        let mut wrong = self.differences(&outcome);
        if outcome.cgroup.exists() {
            wrong.push(format!("{} is left", outcome.cgroup.display()));
        }
        if let Err(e) = stage.close() {
            wrong.push(format!("{e:#}"));
        }
        ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), outcome.to_json());
        Ok(())
    }

    fn differences(&self, outcome: &Outcome) -> Vec<String> {
        let mut wrong = Vec::new();
        if outcome.verdict != self.verdict {
            wrong.push(format!("verdict: {:?}, expected {:?}", outcome.verdict, self.verdict));
        }
        if !self.how.fits(&outcome.ended) {
            wrong.push(format!("ended: {:?}, expected {:?}", outcome.ended, self.how));
        }
        let cause = outcome.cause.as_ref().map(|c| {
            let value = c.limit_bytes.map(|n| n as f64).or(c.limit_value).unwrap_or(0.0);
            Why::Limit(c.limit, value, c.scope, c.effect)
        });
        let (cause, expected) = (cause.unwrap_or(Why::Nothing), self.why.expected(outcome));
        if cause != expected {
            wrong.push(format!("cause: {cause:?}, expected {expected:?}"));
        }
        let victim = outcome.cause.as_ref().and_then(|c| c.victim.as_ref());
        if victim.map(|v| v.comm.as_str()) != self.victim {
            wrong.push(format!("victim: {victim:?}, expected {:?}", self.victim));
        }
        let pids = said_pids(outcome);
        if let Some(victim) = victim
            && !pids.contains(&victim.pid)
        {
            wrong.push(format!("victim: pid {}, and the call's were {pids:?}", victim.pid));
        }
        if self.advice.is_empty() != outcome.advice.is_empty() && expected == self.why {
            wrong.push(format!("advice: {:?}, expected {:?}", outcome.advice, self.advice));
        }
        for part in self.advice {
            if !outcome.advice.contains(part) {
                wrong.push(format!("advice: {:?} lacks {part:?}", outcome.advice));
            }
        }
        if !outcome.survivors.is_empty() {
            wrong.push(format!("survivors: {:?}", outcome.survivors));
        }
        wrong
    }
}

impl How {
    fn fits(self, ended: &Ended) -> bool {
        match (self, ended) {
            (How::Status(status) | How::Stolen(status), Ended::Exited(s)) => *s == status,
            (How::Stolen(_), Ended::Unknown(_)) => true,
            (How::Signal(signal), Ended::Signaled { signal: s, core_dumped }) => {
                *s == signal && !core_dumped
            }
            (How::Core(signal), Ended::Signaled { signal: s, core_dumped }) => {
                *s == signal && *core_dumped
            }
            (How::Either(one, other), Ended::Signaled { signal, .. }) => {
                *signal == one || *signal == other
            }
            (How::NotStarted(errno), Ended::NotStarted(e)) => e.errno() == Some(errno),
            _ => false,
        }
    }
}

impl Why {
    fn expected(self, outcome: &Outcome) -> Why {
        let Why::IfStalled(limit, value, scope) = self else { return self };
        let stalled = Duration::from_micros(outcome.usage.memory_stall_us.unwrap_or(0));
        // As documented: a tenth of the duration, and 50 ms.
        let hampered = stalled >= Duration::from_millis(50) && stalled * 10 >= outcome.duration;
        if hampered { Why::Limit(limit, value, scope, Hampered) } else { Why::Nothing }
    }
}

/// The pids that a call has printed, one on a line.
fn said_pids(outcome: &Outcome) -> Vec<i32> {
    let out = outcome.stdout.as_ref().map(|o| String::from_utf8_lossy(&o.bytes).into_owned());
    out.unwrap_or_default().lines().filter_map(|l| l.trim().parse().ok()).collect()
}

/// The kernel writes at most ten records of OOM kills in 5 s; when one is missing, so may be the
/// victim. There is nothing to wait for but the time.
fn wait_for_the_log() {
    const BURST: usize = 8;
    static KILLS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());
    let mut kills = KILLS.lock().expect("no panic");
    if kills.len() >= BURST {
        let oldest = kills.remove(0);
        std::thread::sleep(Duration::from_secs(6).saturating_sub(oldest.elapsed()));
    }
    kills.push(Instant::now());
}

/// A runtime and a session for one row.
pub struct Stage {
    place: Place,
    dir: tempfile::TempDir,
    this_program: std::path::PathBuf,
}

impl Stage {
    fn new() -> Result<Self> {
        let place = Place::with(SessionConfig::default())?;
        Ok(Self { place, dir: tempfile::tempdir()?, this_program: std::env::current_exe()? })
    }

    fn close(self) -> Result<()> {
        self.place.close()
    }

    fn session(&self) -> &Session {
        self.place.session()
    }

    /// A shell line, in a directory that it may write to. `$W` is this program, `$$` the shell.
    fn sh(&self, script: &str) -> Command<'_> {
        let mut command = self.place.sh(script);
        command.current_dir(self.dir.path()).env("W", &self.this_program);
        command
    }

    /// The same, with the path of the call's cgroup as `$CG`.
    fn named(&self, script: &str) -> Command<'_> {
        let mut command = self.sh(script);
        command.name("named").env("CG", self.session().path().join("calls/named"));
        command
    }

    /// This program in another role.
    fn worker(&self, job: &str) -> Command<'_> {
        let mut command = self.session().command(&self.this_program);
        command.arg(format!("worker={job}")).current_dir(self.dir.path());
        command
    }

    /// The runtime's root.
    fn root(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(self.session().path().parent().context("root")?)?)
    }

    /// A call of 64 MiB below a limit that others have set.
    fn eater(&self) -> Command<'_> {
        let mut command = self.worker("eat:64");
        // Swap would make it slow instead.
        command.limits(limits(|l| l.swap_max = Some(Limit::Value(0))));
        command
    }
}

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// `memory.max`, without swap.
fn memory(mib: u64) -> Limits {
    limits(|l| {
        l.memory_max = Some(Limit::Value(mib * MIB));
        l.swap_max = Some(Limit::Value(0));
    })
}

fn pids(max: u64) -> Limits {
    limits(|l| l.pids_max = Some(Limit::Value(max)))
}

fn cpus(max: f64) -> Limits {
    limits(|l| l.cpu_max = Some(max))
}

/// Runs until it is told to end; something happens to it meanwhile.
fn meanwhile(
    command: &mut Command<'_>,
    act: impl FnOnce(&agentcg_core::ToolCall) -> Result<()>,
) -> Result<Outcome> {
    let call = command.stdin(Stdio::Null).stdout(Stdio::Capture).spawn()?;
    act(&call)?;
    Ok(call.wait()?)
}

fn kill(pid: i32, signal: i32) -> Result<()> {
    // By a process of its own: it is not the harness that did it.
    let status =
        std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status()?;
    ensure!(status.success());
    Ok(())
}

fn sent(stage: &Stage, signal: i32) -> Result<Outcome> {
    meanwhile(stage.session().command("sleep").arg("1000"), |call| {
        kill(call.pid().context("pid")?, signal)
    })
}

/// The first character after the name in /proc/PID/stat.
fn state(pid: i32) -> Result<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("stat")?;
    rest.chars().next().context("state")
}

fn oom_kills(call: &agentcg_core::ToolCall) -> Result<u64> {
    Ok(Cgroup::open(call.path())?.memory_events()?.oom_kill)
}

fn reader_gone(stage: &Stage) -> Result<Outcome> {
    let (read, write) = std::io::pipe()?;
    drop(read);
    Ok(stage.session().command("yes").stdout(OwnedFd::from(write)).spawn()?.wait()?)
}

/// Who ignores SIGCHLD gets no statuses.
fn stolen(stage: &Stage) -> Result<Outcome> {
    // SAFETY: this process has no other children now.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let outcome = stage.sh("exit 9").output();
    // SAFETY: as it was.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    Ok(outcome?)
}

/// Something happens to a frozen call.
fn frozen(
    stage: &Stage,
    act: impl FnOnce(&agentcg_core::ToolCall) -> Result<()>,
) -> Result<Outcome> {
    let mut command = stage.session().command("sleep");
    meanwhile(command.arg("1000"), |call| {
        call.control().freeze(true)?;
        ensure!(Cgroup::open(call.path())?.wait_frozen(true, Duration::from_secs(10))?);
        act(call)
    })
}

/// Two calls at once below a limit of the session: the first one's outcome, and the second is the
/// one that takes much.
fn beside(
    stage: &Stage,
    session: &Limits,
    first: &mut Command<'_>,
    second: &mut Command<'_>,
) -> Result<[Outcome; 2]> {
    stage.session().set_limits(session)?;
    let mut first = first.stdin(Stdio::Piped).stdout(Stdio::Capture).spawn()?;
    let second = second.output()?;
    // It reads until here.
    first.stdin = None;
    Ok([first.wait()?, second])
}

/// A file of this many MiB that no page cache holds.
fn on_disk(mib: u64) -> Result<String> {
    std::fs::write("/proc/sys/vm/drop_caches", "1")?;
    Ok(format!(
        "cat /usr/lib/x86_64-linux-gnu/*.so* /usr/bin/* 2>/dev/null | head -c {mib}M | wc -c"
    ))
}

/// What the host's OOM killer does when an operator asks for it: it takes the process that it likes
/// most, without any shortage.
fn host_oom(stage: &Stage) -> Result<Outcome> {
    let mut command = stage.worker("eat:64,stay");
    let mut call = command.oom_score_adj(1000).stdout(Stdio::Piped).spawn()?;
    let mut out = std::io::BufReader::new(call.stdout.take().context("stdout")?);
    let mut said = String::new();
    while !said.contains("eaten") {
        ensure!(std::io::BufRead::read_line(&mut out, &mut said)? > 0, "it ended: {said}");
    }
    std::fs::write("/proc/sysrq-trigger", "f")?;
    let mut outcome = call.wait()?;
    // The pipe was ours, so the output is not in the outcome yet.
    let kept = agentcg_core::Captured { bytes: said.into_bytes(), ..Default::default() };
    outcome.stdout = Some(kept);
    Ok(outcome)
}

/// Every way to end.
pub fn rows() -> Vec<Row> {
    let mut rows = statuses();
    rows.extend(signals());
    rows.extend(stopped());
    rows.extend(not_started());
    rows.extend(left_behind());
    rows.extend(memory_at_the_call());
    rows.extend(memory_above());
    rows.extend(memory_without_a_kill());
    rows.extend(forks());
    rows.extend(cpu());
    rows
}

fn statuses() -> Vec<Row> {
    use How::{Status, Stolen};
    vec![
        Row::new("status_0", HERE, Completed, Status(0), |s| Ok(s.sh("exit 0").output()?)),
        Row::new("status_1", HERE, Failed, Status(1), |s| Ok(s.sh("exit 1").output()?)),
        Row::new("status_255", HERE, Failed, Status(255), |s| Ok(s.sh("exit 255").output()?)),
        Row::new("a_child_was_killed_9", LIMITS, Failed, Status(137), |s| {
            Ok(s.sh("sh -c 'kill -9 $$'; exit $?").output()?)
        })
        .says(&["SIGKILL", "counted no kill for memory"]),
        Row::new("a_child_was_killed_15", HERE, Failed, Status(143), |s| {
            Ok(s.sh("sh -c 'kill -15 $$'; exit $?").output()?)
        })
        .says(&["SIGTERM"]),
        Row::new("a_killed_child_that_nobody_minds", HERE, Completed, Status(0), |s| {
            Ok(s.sh("sh -c 'kill -9 $$' & wait; true").output()?)
        }),
        Row::new("status_collected_by_others", HERE, Failed, Stolen(9), stolen),
    ]
}

fn signals() -> Vec<Row> {
    use How::{Core, Signal};
    vec![
        Row::new("itself_9", LIMITS, Signaled, Signal(libc::SIGKILL), |s| {
            Ok(s.sh("kill -9 $$").output()?)
        })
        .says(&["SIGKILL", "counted no kill for memory"]),
        Row::new("itself_15", HERE, Signaled, Signal(libc::SIGTERM), |s| {
            Ok(s.sh("kill -15 $$").output()?)
        })
        .says(&["SIGTERM"]),
        Row::new("itself_hup", HERE, Signaled, Signal(libc::SIGHUP), |s| {
            Ok(s.worker("die_of:1").output()?)
        })
        .says(&["SIGHUP"]),
        Row::new("itself_realtime", HERE, Signaled, Signal(40), |s| {
            Ok(s.worker("die_of:40").output()?)
        })
        .says(&["signal 40"]),
        Row::new("segv", HERE, Signaled, Signal(libc::SIGSEGV), |s| {
            Ok(s.worker("die_of:11").output()?)
        })
        .says(&["crashed (SIGSEGV)"]),
        Row::new("segv_with_core", LAB, Signaled, Core(libc::SIGSEGV), |s| {
            let mut command = s.sh("kill -SEGV $$");
            Ok(command.rlimit(libc::RLIMIT_CORE, 1 << 30, 1 << 30).output()?)
        })
        .says(&["crashed (SIGSEGV)"]),
        Row::new("abort", HERE, Signaled, Signal(libc::SIGABRT), |s| {
            Ok(s.worker("die_of:6").output()?)
        })
        .says(&["crashed (SIGABRT)"]),
        Row::new("illegal_instruction", HERE, Signaled, Signal(libc::SIGILL), |s| {
            Ok(s.worker("die_of:4").output()?)
        })
        .says(&["crashed (SIGILL)"]),
        Row::new("killed_from_outside_9", LIMITS, Signaled, Signal(libc::SIGKILL), |s| sent(s, 9))
            .says(&["another process", "counted no kill for memory"]),
        Row::new("killed_from_outside_9_uncounted", HERE, Signaled, Signal(libc::SIGKILL), |s| {
            sent(s, 9)
        })
        .says(&["another process", "memory"]),
        Row::new("killed_from_outside_15", HERE, Signaled, Signal(libc::SIGTERM), |s| sent(s, 15))
            .says(&["SIGTERM"]),
        Row::new("killed_through_its_cgroup", HERE, Signaled, Signal(libc::SIGKILL), |s| {
            meanwhile(s.session().command("sleep").arg("1000"), |call| {
                Ok(std::fs::write(call.path().join("cgroup.kill"), "1")?)
            })
        })
        .says(&["another process"]),
        Row::new("the_reader_is_gone", HERE, Signaled, Signal(libc::SIGPIPE), reader_gone)
            .says(&["SIGPIPE", "reader"]),
        Row::new("rlimit_cpu", HERE, Signaled, Signal(libc::SIGXCPU), |s| {
            Ok(s.worker("burn_for:10000")
                .rlimit(libc::RLIMIT_CPU, 1, 10)
                .rlimit(libc::RLIMIT_CORE, 0, 0)
                .output()?)
        })
        .says(&["RLIMIT_CPU"]),
        Row::new("rlimit_fsize", HERE, Signaled, Signal(libc::SIGXFSZ), |s| {
            Ok(s.sh("exec dd if=/dev/zero of=big bs=4096 count=100")
                .rlimit(libc::RLIMIT_FSIZE, 8192, 8192)
                .rlimit(libc::RLIMIT_CORE, 0, 0)
                .output()?)
        })
        .says(&["RLIMIT_FSIZE"]),
        Row::new("rlimit_as_aborts", HERE, Signaled, Signal(libc::SIGABRT), |s| {
            Ok(s.worker("eat:1024")
                .rlimit(libc::RLIMIT_AS, 512 * MIB, 512 * MIB)
                .rlimit(libc::RLIMIT_CORE, 0, 0)
                .output()?)
        })
        .says(&["crashed (SIGABRT)"]),
        Row::new("rlimit_as_is_handled", HERE, Failed, How::Status(1), |s| {
            Ok(s.sh("exec dd if=/dev/zero of=/dev/null bs=512M count=1")
                .rlimit(libc::RLIMIT_AS, 128 * MIB, 128 * MIB)
                .output()?)
        }),
        Row::new("rlimit_nproc_is_no_pids_max", LIMITS, Failed, How::Status(2), |s| {
            Ok(s.sh("sleep 0 & wait")
                .current_dir("/")
                .uid(65533)
                .rlimit(libc::RLIMIT_NPROC, 0, 0)
                .limits(pids(100))
                .output()?)
        }),
    ]
}

/// By us: the timeout, the handle, the session; with whatever the process does about it.
fn stopped() -> Vec<Row> {
    use How::{Either, Signal, Status};
    let soon = |row: Row| row.by("timeout", SOON.as_millis() as u64, Call, Ends);
    vec![
        soon(Row::new("timeout_obeyed", HERE, TimedOut, Signal(libc::SIGTERM), |s| {
            Ok(s.session().command("sleep").arg("1000").timeout(SOON).output()?)
        }))
        .says(&["timeout of 400 ms"]),
        Row::new("timeout_while_it_waits", HERE, TimedOut, Signal(libc::SIGTERM), |s| {
            Ok(s.session().command("sleep").arg("1000").timeout(LATER / 2).output()?)
        })
        .by("timeout", 2000, Call, Ends)
        .says(&["timeout of 2 s", "waiting"]),
        soon(Row::new("timeout_ignored", HERE, TimedOut, Signal(libc::SIGKILL), |s| {
            Ok(s.worker("ignore_term").timeout(SOON).grace(SOON / 4).output()?)
        }))
        .says(&["timeout of 400 ms"]),
        soon(Row::new("timeout_without_grace", HERE, TimedOut, Signal(libc::SIGKILL), |s| {
            let mut command = s.session().command("sleep");
            Ok(command.arg("1000").timeout(SOON).grace(Duration::ZERO).output()?)
        }))
        .says(&["timeout of 400 ms"]),
        soon(Row::new("timeout_and_a_clean_exit", HERE, TimedOut, Status(0), |s| {
            Ok(s.sh("trap 'exit 0' TERM; while :; do sleep 0.02; done").timeout(SOON).output()?)
        }))
        .says(&["timeout of 400 ms"]),
        soon(Row::new("timeout_at_work", HERE, TimedOut, Signal(libc::SIGTERM), |s| {
            Ok(s.worker("burn_for:100000").timeout(SOON).output()?)
        }))
        .says(&["timeout of 400 ms", "time"]),
        soon(Row::new("timeout_of_a_stopped_one", HERE, TimedOut, Signal(libc::SIGKILL), |s| {
            Ok(s.sh("kill -STOP $$").timeout(SOON).grace(SOON / 4).output()?)
        }))
        .says(&["timeout of 400 ms"]),
        soon(Row::new("timeout_of_a_frozen_one", HERE, TimedOut, Signal(libc::SIGTERM), |s| {
            let mut command = s.session().command("sleep");
            meanwhile(command.arg("1000").timeout(SOON).grace(SOON / 4), |call| {
                Ok(call.control().freeze(true)?)
            })
        }))
        .says(&["timeout of 400 ms"]),
        Row::new("stopped_and_continued", HERE, Completed, Status(0), |s| {
            meanwhile(&mut s.sh("kill -STOP $$; exit 0"), |call| {
                let pid = call.pid().context("pid")?;
                eventually("it is stopped", || Ok(state(pid)? == 'T'))?;
                kill(pid, libc::SIGCONT)
            })
        }),
        Row::new("frozen_and_killed", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            frozen(s, |call| {
                call.kill();
                Ok(())
            })
        })
        .says(&["on purpose, by the caller"]),
        Row::new("frozen_and_killed_by_a_stranger", HERE, Signaled, Signal(libc::SIGKILL), |s| {
            frozen(s, |call| kill(call.pid().context("pid")?, 9))
        })
        .says(&["another process"]),
        Row::new("cancelled", HERE, Cancelled, Signal(libc::SIGTERM), |s| {
            meanwhile(s.session().command("sleep").arg("1000"), |call| {
                call.cancel();
                Ok(())
            })
        })
        .says(&["on purpose, by the caller", "do not retry"]),
        Row::new("cancelled_and_ignored", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            let mut command = s.worker("ignore_term");
            let mut call = command.grace(SOON / 4).stdout(Stdio::Piped).spawn()?;
            let mut out = std::io::BufReader::new(call.stdout.take().context("stdout")?);
            std::io::BufRead::read_line(&mut out, &mut String::new())?;
            call.cancel();
            Ok(call.wait()?)
        })
        .says(&["on purpose"]),
        Row::new("killed_by_the_handle", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            meanwhile(s.session().command("sleep").arg("1000"), |call| {
                call.kill();
                Ok(())
            })
        })
        .says(&["on purpose, by the caller"]),
        Row::new("killed_by_a_canceller", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            let mut command = s.session().command("sleep");
            let canceller = command.arg("1000").canceller();
            meanwhile(&mut command, |_| Ok(canceller.cancel()?))
        })
        .says(&["on purpose, by the caller"]),
        Row::new("killed_by_the_session", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            let mut command = s.session().command("sleep");
            meanwhile(command.arg("1000"), |_| Ok(s.session().kill_calls()?))
        })
        .says(&["on purpose, by the session"]),
        Row::new("killed_by_another_agentcg", HERE, Cancelled, Signal(libc::SIGKILL), |s| {
            let mut command = s.session().command("sleep");
            meanwhile(command.arg("1000"), |call| {
                let job = format!("worker=mark_and_kill:{}", call.path().display());
                let status = std::process::Command::new(&s.this_program).arg(job).status()?;
                ensure!(status.success());
                Ok(())
            })
        })
        .says(&["on purpose, by agentcg kill (pid "]),
        Row::new("killed_twice", HERE, Cancelled, Either(libc::SIGTERM, libc::SIGKILL), |s| {
            meanwhile(s.session().command("sleep").arg("1000"), |call| {
                call.cancel();
                call.kill();
                Ok(())
            })
        })
        .says(&["on purpose"]),
    ]
}

fn not_started() -> Vec<Row> {
    use How::NotStarted;
    vec![
        Row::new("no_such_program", HERE, SpawnFailed, NotStarted(libc::ENOENT), |s| {
            Ok(s.session().command("no-such-program").output()?)
        })
        .says(&["not started", "no-such-program", "PATH"]),
        Row::new("not_executable", HERE, SpawnFailed, NotStarted(libc::EACCES), |s| {
            let path = s.dir.path().join("script");
            std::fs::write(&path, "#!/bin/sh\n")?;
            Ok(s.session().command(path).output()?)
        })
        .says(&["not started", "Permission denied"]),
        Row::new("no_program_at_all", HERE, SpawnFailed, NotStarted(libc::ENOEXEC), |s| {
            script(s, "no magic number, no #!\n")
        })
        .says(&["not started", "#!/bin/sh"]),
        Row::new("no_such_interpreter", HERE, SpawnFailed, NotStarted(libc::ENOENT), |s| {
            script(s, "#!/no/such/interpreter\n")
        })
        .says(&["not started", "interpreter"]),
        Row::new("no_such_directory", HERE, SpawnFailed, NotStarted(libc::ENOENT), |s| {
            Ok(s.session().command("true").current_dir("/nowhere").output()?)
        })
        .says(&["not started", "/nowhere"]),
        Row::new("arguments_too_long", HERE, SpawnFailed, NotStarted(libc::E2BIG), |s| {
            Ok(s.session().command("true").arg("x".repeat(200 << 10)).output()?)
        })
        .says(&["not started", "Argument list too long"]),
        Row::new("no_process_allowed", LIMITS, SpawnFailed, NotStarted(libc::EAGAIN), |s| {
            Ok(s.session().command("true").limits(pids(0)).output()?)
        })
        .by("pids.max", 0, Call, Ends)
        .says(&["not started", "pids.max of 0", "pids:16"]),
    ]
}

fn script(stage: &Stage, text: &str) -> Result<Outcome> {
    use std::os::unix::fs::PermissionsExt;
    let path = stage.dir.path().join("script");
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(stage.session().command(path).output()?)
}

fn left_behind() -> Vec<Row> {
    use How::Status;
    vec![
        Row::new("daemonised", HERE, Completed, Status(0), |s| {
            let outcome =
                s.sh("setsid sh -c 'sleep 1000 & sleep 1000' >&- 2>&- <&- & exit 0").output()?;
            ensure!(outcome.killed_processes > 0, "nothing was left: {outcome:?}");
            Ok(outcome)
        }),
        Row::new("daemonised_and_failed", HERE, Failed, Status(4), |s| {
            Ok(s.sh("setsid sleep 1000 & exit 4").output()?)
        }),
        Row::new("left_in_the_background", HERE, Completed, Status(0), |s| {
            let outcome = s.sh("sleep 1000 & exit 0").background(true).output()?;
            ensure!(outcome.background.len() == 1 && outcome.killed_processes == 0);
            Ok(outcome)
        }),
        Row::new("cgroups_of_its_own", HERE, Completed, Status(0), |s| {
            let line = "sleep 1000 & cd $CG && mkdir -p a/b c && \
                        echo $! >a/b/cgroup.procs && echo 0 >c/cgroup.procs";
            Ok(s.named(line).output()?)
        }),
    ]
}

fn memory_at_the_call() -> Vec<Row> {
    use How::{NotStarted, Signal, Status};
    let killed = |row: Row| row.by("memory.max", 32 * MIB, Call, Ends).victim("eater");
    vec![
        killed(Row::new("memory", LIMITS, OomKilled, Signal(libc::SIGKILL), |s| {
            Ok(s.worker("eat:64").limits(memory(32)).output()?)
        }))
        .says(&["eater", "the call's memory.max of 32 MiB", "memory:64M"]),
        killed(Row::new("memory_of_a_child_takes_all", LIMITS, OomKilled, Signal(9), |s| {
            Ok(s.sh("$W worker=eat:64; exit 0").limits(memory(32)).output()?)
        }))
        .says(&["other process", "memory:64M"]),
        killed(Row::new("memory_in_a_pipeline", LIMITS, OomKilled, Status(0), |s| {
            let mut command = s.sh("$W worker=eat:64 | cat; exit 0");
            Ok(command.limits(memory(32)).oom_group(false).output()?)
        }))
        .says(&["status 0", "do not rely", "memory:64M"]),
        killed(Row::new("memory_of_a_worker_of_a_pool", LIMITS, OomKilled, Status(1), |s| {
            let mut command = s
                .sh("for n in 1 2 64; do $W worker=eat:$n & all=\"$all $!\"; done; \
                 for p in $all; do wait $p || bad=1; done; exit $bad");
            Ok(command.limits(memory(32)).oom_group(false).output()?)
        }))
        .says(&["status 1", "memory:64M", "fewer workers"]),
        killed(Row::new("memory_of_one_that_left_its_parent", LIMITS, OomKilled, Status(0), |s| {
            // Who allocates between the kill and the death may be killed too. So the shell waits for the end of a
            // pipe in which nothing comes, and which the eater has open as long as it lives.
            let mut command = s.named("exec 4>&1; : $(setsid $W worker=eat:64 3>&1 >&4 &); exit 0");
            Ok(command.limits(memory(32)).oom_group(false).output()?)
        }))
        .says(&["do not rely"]),
        // What is written to a tmpfs is memory.
        Row::new("memory_in_a_tmpfs", LIMITS, OomKilled, Signal(9), |s| {
            let file = format!("/dev/shm/agentcg-test-{}", std::process::id());
            let outcome = s
                .sh(&format!("echo $$; exec head -c 64M /dev/zero >{file}"))
                .limits(memory(32))
                .output();
            std::fs::remove_file(file)?;
            Ok(outcome?)
        })
        .by("memory.max", 32 * MIB, Call, Ends)
        .victim("head")
        .says(&["memory:64M"]),
        Row::new("memory_of_a_cgroup_of_its_own", LIMITS, OomKilled, Status(0), |s| {
            let line = "mkdir $CG/sub && echo 0 >$CG/sub/cgroup.procs && \
                        echo +memory >$CG/cgroup.subtree_control && \
                        echo 16M >$CG/sub/memory.max && echo 0 >$CG/sub/memory.swap.max && \
                        $W worker=eat:64; exit 0";
            Ok(s.named(line).output()?)
        })
        .by("memory.max", 16 * MIB, Call, Ends)
        .victim("eater")
        .says(&["no larger hint"]),
        Row::new("memory_and_then_the_timeout", LIMITS, TimedOut, Signal(libc::SIGTERM), |s| {
            let mut command = s.sh("$W worker=eat:64; exec sleep 1000");
            Ok(command.limits(memory(32)).oom_group(false).timeout(LATER).output()?)
        })
        .by("memory.max", 32 * MIB, Call, Hampered)
        .victim("eater")
        .says(&["timeout", "Before that", "memory:64M"]),
        Row::new("memory_and_then_cancelled", LIMITS, Cancelled, Signal(libc::SIGTERM), |s| {
            let mut command = s.sh("$W worker=eat:64; exec sleep 1000");
            meanwhile(command.limits(memory(32)).oom_group(false), |call| {
                eventually("the child is killed", || Ok(oom_kills(call)? > 0))?;
                call.cancel();
                Ok(())
            })
        })
        .by("memory.max", 32 * MIB, Call, Hampered)
        .victim("eater")
        .says(&["on purpose"]),
        // The kernel cannot even make the process.
        Row::new("memory_for_no_process", LIMITS, SpawnFailed, NotStarted(libc::ENOMEM), |s| {
            Ok(s.session().command("true").limits(memory(0)).output()?)
        })
        .by("memory.max", 0, Call, Ends)
        .says(&["the call's memory.max of 0 bytes", "larger limit"]),
    ]
}

fn memory_above() -> Vec<Row> {
    use How::{Signal, Status};
    vec![
        Row::new("memory_of_the_session", LIMITS, OomKilled, Signal(libc::SIGKILL), |s| {
            s.session().set_limits(&memory(32))?;
            Ok(s.eater().output()?)
        })
        .by("memory.max", 32 * MIB, Scope::Session, Ends)
        .victim("eater")
        .says(&["the session's memory.max of 32 MiB", "No other call"]),
        Row::new("memory_of_the_session_beside_another", LIMITS, OomKilled, Signal(9), |s| {
            let [other, this] =
                beside(s, &memory(32), &mut s.sh("read line; exit 3"), &mut s.eater())?;
            ensure!(other.verdict == Failed && other.cause.is_none(), "{}", other.to_json());
            Ok(this)
        })
        .by("memory.max", 32 * MIB, Scope::Session, Ends)
        .victim("eater")
        .says(&["Other calls of the session", "retry when fewer run"]),
        Row::new("memory_of_the_session_took_another", LIMITS, Completed, Status(0), |s| {
            let [this, other] =
                beside(s, &memory(32), &mut s.sh("read line; exit 0"), &mut s.eater())?;
            ensure!(other.verdict == OomKilled, "{}", other.to_json());
            Ok(this)
        }),
        Row::new("memory_above_the_session", LIMITS, OomKilled, Signal(libc::SIGKILL), |s| {
            s.root()?.write("memory.max", "32M")?;
            Ok(s.eater().output()?)
        })
        .by("memory.max", 32 * MIB, Ancestor, Ends)
        .victim("eater")
        .says(&["above the session", "retry later"]),
        Row::new("memory_of_the_lower_of_two", LIMITS, OomKilled, Signal(libc::SIGKILL), |s| {
            s.session().set_limits(&limits(|l| l.memory_max = Some(Limit::Value(48 * MIB))))?;
            Ok(s.worker("eat:64").limits(memory(32)).output()?)
        })
        .by("memory.max", 32 * MIB, Call, Ends)
        .victim("eater")
        // Not twice as much: the session has no more.
        .says(&["memory:48M"]),
        Row::new("memory_of_the_machine", LAB, OomKilled, Signal(libc::SIGKILL), host_oom)
            .by("memory", 0, Host, Ends)
            .victim("eater")
            .says(&["the machine's memory", "retry later"]),
        Row::new("memory_of_the_session_in_a_pipeline", LIMITS, OomKilled, Status(0), |s| {
            s.session().set_limits(&memory(32))?;
            Ok(s.sh("$W worker=eat:64 | cat; exit 0").oom_group(false).output()?)
        })
        .by("memory.max", 32 * MIB, Scope::Session, Ends)
        .victim("eater")
        .says(&["status 0", "do not rely"]),
    ]
}

fn memory_without_a_kill() -> Vec<Row> {
    use How::Status;
    vec![
        Row::new("memory_below_the_limit", LIMITS, Completed, Status(0), |s| {
            Ok(s.worker("eat:16").limits(memory(64)).output()?)
        }),
        // The page cache gives way.
        Row::new("page_cache_up_to_the_limit", LAB, Completed, Status(0), |s| {
            let outcome = s.sh(&on_disk(96)?).limits(memory(24)).output()?;
            let peak = outcome.usage.memory_peak_bytes.context("peak")?;
            ensure!(peak > 20 * MIB && peak <= 24 * MIB, "peak {peak}");
            ensure!(said_pids(&outcome) == [96 * MIB as i32], "{outcome:?}");
            Ok(outcome)
        })
        .if_stalled("memory.max", 24 * MIB),
        Row::new("memory_high", STALLS, Completed, Status(0), |s| {
            let mut command = s.worker("eat:18");
            let outcome = command
                .limits(limits(|l| {
                    l.memory_high = Some(Limit::Value(16 * MIB));
                    l.swap_max = Some(Limit::Value(0));
                }))
                .output()?;
            ensure!(outcome.usage.memory_high_events.is_some_and(|n| n > 0), "{outcome:?}");
            Ok(outcome)
        })
        .if_stalled("memory.high", 16 * MIB),
        Row::new("swapped", SWAP, Completed, Status(0), |s| {
            let mut command = s.worker("eat:48");
            let limits = limits(|l| l.memory_max = Some(Limit::Value(32 * MIB)));
            let outcome = command.limits(limits).output()?;
            ensure!(outcome.usage.swap_peak_bytes.is_some_and(|n| n > 8 * MIB), "{outcome:?}");
            Ok(outcome)
        })
        .if_stalled("memory.max", 32 * MIB),
        // Nobody may be killed, so the kernel tries for ever.
        Row::new("memory_and_nobody_to_kill", LIMITS, TimedOut, How::Signal(15), |s| {
            let mut command = s.worker("eat:64");
            Ok(command.limits(memory(32)).oom_score_adj(-1000).timeout(LATER / 2).output()?)
        })
        .by("timeout", 2000, Call, Ends)
        .says(&["timeout of 2 s", "the call's memory.max of 32 MiB", "memory:64M"]),
    ]
}

fn forks() -> Vec<Row> {
    use How::{Signal, Status};
    vec![
        Row::new("forks", LIMITS, PidsExhausted, Status(7), |s| {
            Ok(s.worker("forks:50,7").limits(pids(20)).output()?)
        })
        .by("pids.max", 20, Call, Ends)
        .says(&["the call's pids.max of 20", "pids:40"]),
        Row::new("a_shell_cannot_fork", LIMITS, PidsExhausted, Status(2), |s| {
            Ok(s.sh("while :; do sleep 1000 & done").limits(pids(10)).output()?)
        })
        .by("pids.max", 10, Call, Ends)
        .says(&["pids:20"]),
        Row::new("refused_forks_are_handled", LIMITS, Completed, Status(0), |s| {
            Ok(s.worker("forks:50,0").limits(pids(20)).output()?)
        })
        .by("pids.max", 20, Call, Hampered)
        .says(&["the call's pids.max of 20", "pids:40"]),
        Row::new("forks_below_the_limit", LIMITS, Completed, Status(0), |s| {
            Ok(s.worker("forks:10,7").limits(pids(20)).output()?)
        }),
        Row::new("threads", LIMITS, PidsExhausted, Status(7), |s| {
            Ok(s.worker("exhaust_threads:50,7").limits(pids(20)).output()?)
        })
        .by("pids.max", 20, Call, Ends)
        .says(&["fork or thread"]),
        Row::new("no_thread_and_abort", LIMITS, PidsExhausted, Signal(libc::SIGABRT), |s| {
            let mut command = s.worker("exhaust_threads:50,abort");
            Ok(command.limits(pids(20)).rlimit(libc::RLIMIT_CORE, 0, 0).output()?)
        })
        .by("pids.max", 20, Call, Ends)
        .says(&["fork or thread"]),
        Row::new("forks_of_the_session_alone", LIMITS, PidsExhausted, Status(7), |s| {
            s.session().set_limits(&pids(20))?;
            Ok(s.worker("forks:50,7").output()?)
        })
        .by("pids.max", 20, Scope::Session, Ends)
        .says(&["the session's pids.max of 20"]),
        // Since kernel 6.11 the session counts them, and so does not say whose they were.
        Row::new("forks_of_the_session_beside_another", LIMITS, Failed, Status(7), |s| {
            let [_, this] =
                beside(s, &pids(20), &mut s.sh("read line; exit 0"), &mut s.worker("forks:50,7"))?;
            Ok(this)
        })
        .by("pids.max", 20, Scope::Session, Possible)
        .says(&["perhaps"]),
        Row::new("forks_of_another_do_not_matter", LIMITS, Completed, Status(0), |s| {
            let [this, other] =
                beside(s, &pids(20), &mut s.sh("read line; exit 0"), &mut s.worker("forks:50,7"))?;
            ensure!(other.exit_code() == Some(7), "{other:?}");
            Ok(this)
        }),
        Row::new("forks_above_the_session", LIMITS, Failed, Status(7), |s| {
            s.root()?.write("pids.max", "20")?;
            Ok(s.worker("forks:50,7").output()?)
        })
        .by("pids.max", 20, Ancestor, Possible)
        .says(&["perhaps"]),
        Row::new("forks_and_then_the_timeout", LIMITS, TimedOut, Signal(libc::SIGTERM), |s| {
            Ok(s.worker("forks:50,stay").limits(pids(20)).timeout(LATER / 2).output()?)
        })
        .by("timeout", 2000, Call, Ends)
        .says(&["timeout of 2 s", "refused a fork", "pids:40"]),
    ]
}

fn cpu() -> Vec<Row> {
    use How::{Signal, Status};
    vec![
        Row::new("cpu_held_back", LIMITS, Completed, Status(0), |s| {
            Ok(s.worker("burn_for:300").limits(cpus(0.2)).output()?)
        })
        .by_cpus(0.2, Call)
        .says(&["the call's cpu.max of 0.2 CPUs", "cpu:0.4"]),
        Row::new("cpu_not_held_back", LIMITS, Completed, Status(0), |s| {
            Ok(s.worker("burn_for:200").limits(cpus(1.9)).output()?)
        }),
        Row::new("cpu_held_back_by_the_session", STALLS, Completed, Status(0), |s| {
            s.session().set_limits(&cpus(0.2))?;
            Ok(s.worker("burn_for:300").output()?)
        })
        .by_cpus(0.2, Scope::Session)
        .says(&["the session's cpu.max of 0.2 CPUs"]),
        Row::new("cpu_held_back_above_the_session", STALLS, Completed, Status(0), |s| {
            s.root()?.write("cpu.max", "20000 100000")?;
            Ok(s.worker("burn_for:300").output()?)
        })
        .by_cpus(0.2, Ancestor)
        .says(&["above the session"]),
        Row::new("cpu_held_back_and_failed", LIMITS, Failed, Status(6), |s| {
            Ok(s.sh("$W worker=burn_for:300; exit 6").limits(cpus(0.2)).output()?)
        })
        .by_cpus(0.2, Call)
        .says(&["If that is why", "cpu:0.4"]),
        Row::new("cpu_held_back_until_the_timeout", LIMITS, TimedOut, Signal(15), |s| {
            Ok(s.worker("burn_for:100000").limits(cpus(0.2)).timeout(LATER / 2).output()?)
        })
        .by("timeout", 2000, Call, Ends)
        .says(&["timeout of 2 s", "cpu:0.4"]),
    ]
}
