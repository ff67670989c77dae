//! Many tool calls at once, a third of them misbehaving: each must get the right verdict, and nothing
//! may be left, neither in the kernel nor in this process.
//!
//! | kind | what it does | verdict |
//! |---|---|---|
//! | `Nothing` | `true` | completed |
//! | `Status` | exits with a status of its own | failed |
//! | `Echo` | copies its input to its output | completed |
//! | `Daemon` | leaves processes in sessions of their own | completed |
//! | `ForkBomb` | forks up to its `pids.max` | pids_exhausted |
//! | `Hog` | takes more than its `memory.max` | oom_killed |
//! | `Stubborn` | ignores SIGTERM until its time is over | timed_out |
//! | `Closed` | closes its standard descriptors and fails | failed |
//! | `Murdered` | is killed from outside | signaled |

pub mod churn;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentcg_core::{
    Cgroup, Controller, Ended, Limit, Limits, Outcome, Runtime, Scope, Session, SessionConfig,
    Stdio, Verdict, inspect,
};
use anyhow::{Context, Result, ensure};

/// So much may the resident set grow after the first calls: less than half a KiB for each of 10,000.
const GROWTH: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Nothing,
    Status,
    Echo,
    Daemon,
    ForkBomb,
    Hog,
    Stubborn,
    Closed,
    Murdered,
}

const GOOD: [Kind; 3] = [Kind::Nothing, Kind::Status, Kind::Echo];
const BAD: [Kind; 4] = [Kind::Daemon, Kind::Stubborn, Kind::Closed, Kind::Murdered];
/// Need the memory and pids controllers.
const GREEDY: [Kind; 2] = [Kind::ForkBomb, Kind::Hog];

/// How many calls, and how.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Calls in all.
    pub calls: u32,
    /// Calls at the same time, each with a thread that waits for it.
    pub at_once: u32,
    /// After this time no further call is started.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Calls that were made.
    pub calls: u32,
    /// From the first to the last.
    pub elapsed: Duration,
    /// Outcomes of each kind of call.
    kinds: BTreeMap<Kind, u32>,
    /// What was not as it must be, of the first ones all.
    wrong: Vec<String>,
    wrong_calls: u32,
    /// Open descriptors of this process after the first calls, and after all of them.
    pub descriptors: (usize, usize),
    /// Its resident set, bytes.
    pub resident: (u64, u64),
    /// Processes and cgroups of calls after the last call.
    pub left: (usize, usize),
}

impl Storm {
    /// Makes a runtime on this root, runs all of it there, and removes the runtime.
    ///
    /// # Errors
    /// When calls could not be made at all; what they came to is in the report.
    pub fn run(&self, root: &Path) -> Result<Report> {
        let runtime = Runtime::builder().root(root).build()?;
        let session = runtime.session("storm", SessionConfig::default())?;
        let has = |c| runtime.controllers().contains(&c);
        let mut bad = BAD.to_vec();
        if has(Controller::Memory) && has(Controller::Pids) {
            bad.extend(GREEDY);
        }
        let kind = |n: u32| match n.is_multiple_of(3) {
            true => bad[(n / 3) as usize % bad.len()],
            false => GOOD[(n as usize / 3) % GOOD.len()],
        };
        let since = Instant::now();
        let results = Results::default();
        // What is allocated once must not count as growth.
        let first = (self.calls / 10).max(2 * self.at_once).min(self.calls);
        self.batch(&session, 0..first, since, &kind, &results);
        let before = (descriptors()?, resident()?);
        self.batch(&session, first..self.calls, since, &kind, &results);
        let elapsed = since.elapsed();
        let after = (descriptors()?, resident()?);
        let calls = Cgroup::open(session.path().join("calls"))?;
        let mut processes = children_left();
        calls.walk(&mut |c| {
            processes += c.procs()?.len();
            Ok(())
        })?;
        let cgroups = inspect(root)?.iter().map(|s| s.calls.len()).sum();
        drop((session, runtime));
        ensure!(!root.exists(), "the root is left: {}", root.display());
        let results = results.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Report {
            calls: results.kinds.values().sum(),
            elapsed,
            kinds: results.kinds,
            wrong: results.wrong,
            wrong_calls: results.wrong_calls,
            descriptors: (before.0, after.0),
            resident: (before.1, after.1),
            left: (processes, cgroups),
        })
    }

    fn batch(
        &self,
        session: &Session,
        range: std::ops::Range<u32>,
        since: Instant,
        kind: &(dyn Fn(u32) -> Kind + Sync),
        results: &Results,
    ) {
        let next = AtomicU32::new(range.start);
        std::thread::scope(|scope| {
            for _ in 0..self.at_once {
                scope.spawn(|| {
                    while since.elapsed() < self.time {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= range.end {
                            break;
                        }
                        let kind = kind(n);
                        results.add(n, kind, kind.play(session, n).and_then(|o| kind.check(n, &o)));
                    }
                });
            }
        });
    }
}

#[derive(Default)]
struct Results(Mutex<Tally>);

#[derive(Default)]
struct Tally {
    kinds: BTreeMap<Kind, u32>,
    wrong: Vec<String>,
    wrong_calls: u32,
}

impl Results {
    fn add(&self, n: u32, kind: Kind, result: Result<()>) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.kinds.entry(kind).or_default() += 1;
        if let Err(e) = result {
            tally.wrong_calls += 1;
            if tally.wrong.len() < 10 {
                tally.wrong.push(format!("call {n}, {kind:?}: {e:#}"));
            }
        }
    }
}

impl Kind {
    fn play(self, session: &Session, n: u32) -> Result<Outcome> {
        let shell = |script: &str| {
            let mut command = session.command("sh");
            command.args(["-c", script]);
            command
        };
        Ok(match self {
            Kind::Nothing => session.command("true").output()?,
            Kind::Status => shell(&format!("exit {}", status(n))).output()?,
            Kind::Echo => {
                let mut command = session.command("cat");
                command.stdin(Stdio::Bytes(n.to_string().into_bytes())).output()?
            }
            Kind::Daemon => shell("setsid sleep 1000 & (setsid sleep 1000 &) ; exit 0").output()?,
            Kind::ForkBomb => {
                let mut limits = Limits::default();
                limits.pids_max = Some(Limit::Value(10));
                shell("while :; do sleep 1000 & done").limits(limits).output()?
            }
            Kind::Hog => {
                let mut limits = Limits::default();
                limits.memory_max = Some(Limit::Value(8 << 20));
                limits.swap_max = Some(Limit::Value(0));
                let mut command = session.command("dd");
                command.args(["if=/dev/zero", "of=/dev/null", "bs=32M", "count=1"]);
                command.limits(limits).output()?
            }
            Kind::Stubborn => {
                let mut command = shell("trap '' TERM; while :; do sleep 1000; done");
                let (timeout, grace) = (Duration::from_millis(100), Duration::from_millis(20));
                command.timeout(timeout).grace(grace).output()?
            }
            Kind::Closed => shell("exec 0<&- 1>&- 2>&-; exit 3").output()?,
            Kind::Murdered => {
                let mut command = session.command("sleep");
                let call = command.arg("1000").stdin(Stdio::Null).spawn()?;
                let pid = call.pid().context("no pid")?;
                // SAFETY: a signal to a child that nobody else ends or collects before.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                call.wait()?
            }
        })
    }

    fn check(self, n: u32, outcome: &Outcome) -> Result<()> {
        let ended = &outcome.ended;
        let (verdict, ends_so) = match self {
            Kind::Nothing | Kind::Echo | Kind::Daemon => {
                (Verdict::Completed, *ended == Ended::Exited(0))
            }
            Kind::Status => (Verdict::Failed, *ended == Ended::Exited(status(n))),
            Kind::Closed => (Verdict::Failed, *ended == Ended::Exited(3)),
            Kind::ForkBomb => (Verdict::PidsExhausted, *ended == Ended::Exited(2)),
            Kind::Hog => (Verdict::OomKilled, outcome.signal() == Some(libc::SIGKILL)),
            // SIGTERM may come before it is ignored.
            Kind::Stubborn => (Verdict::TimedOut, outcome.signal().is_some()),
            Kind::Murdered => (Verdict::Signaled, outcome.signal() == Some(libc::SIGKILL)),
        };
        let cause = outcome.cause.as_ref().map(|c| (c.limit, c.scope));
        let caused_so = match self {
            Kind::ForkBomb => cause == Some(("pids.max", Scope::Call)),
            Kind::Hog => cause == Some(("memory.max", Scope::Call)),
            Kind::Stubborn => cause == Some(("timeout", Scope::Call)),
            // On a machine that is this busy others may slow it, and that is said.
            _ => cause.is_none_or(|(limit, scope)| limit == "memory" && scope == Scope::Host),
        };
        let said = outcome.stdout.as_ref().map_or(&[][..], |o| &o.bytes);
        let said_so = self != Kind::Echo || said == n.to_string().as_bytes();
        let left_so = self != Kind::Daemon || outcome.killed_processes > 0;
        let right = outcome.verdict == verdict && ends_so && caused_so && said_so && left_so;
        ensure!(right, "{}", outcome.to_json());
        ensure!(outcome.survivors.is_empty(), "survivors: {:?}", outcome.survivors);
        ensure!(!outcome.cgroup.exists(), "{} is left", outcome.cgroup.display());
        Ok(())
    }
}

fn status(n: u32) -> i32 {
    1 + (n % 120) as i32
}

fn descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    // SAFETY: only returns a number.
    Ok(pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

/// Children of this process that nobody has collected, 0 or 1.
fn children_left() -> usize {
    // SAFETY: collects nothing (WNOWAIT), and writes to a value of our own.
    let r = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    };
    usize::from(r == 0)
}

impl Report {
    /// All verdicts right, nothing left, this process as large as before.
    ///
    /// # Errors
    /// The report, when not.
    pub fn check(&self) -> Result<()> {
        let flat =
            self.descriptors.0 == self.descriptors.1 && self.resident.1 <= self.resident.0 + GROWTH;
        ensure!(self.wrong_calls == 0 && self.left == (0, 0) && flat, "{self}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = f64::from(self.calls) / seconds.max(1e-9);
        writeln!(f, "{} calls in {seconds:.1} s, {rate:.0} a second", self.calls)?;
        for (kind, n) in &self.kinds {
            writeln!(f, "  {:12} {n:6}", format!("{kind:?}"))?;
        }
        writeln!(f, "wrong: {}", self.wrong_calls)?;
        for wrong in &self.wrong {
            writeln!(f, "  {wrong}")?;
        }
        writeln!(f, "left: {} processes, {} cgroups", self.left.0, self.left.1)?;
        writeln!(f, "descriptors: {} before, {} after", self.descriptors.0, self.descriptors.1)?;
        let mib = |n: u64| n as f64 / f64::from(1 << 20);
        write!(
            f,
            "resident: {:.1} MiB before, {:.1} MiB after",
            mib(self.resident.0),
            mib(self.resident.1)
        )
    }
}
