//! [`Outcome`]: what came of a tool call, and the types it is made of.
//!
//! Its JSON is described by `docs/outcome.schema.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::advice::Suggestion;
use super::clone::Step;
use super::usage::Usage;
use crate::cgroup::Limit;
use crate::history::{CommandKey, History, Run};
use crate::limits::Limits;

/// What a call came to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// It exited with status 0 and nothing of it was killed.
    Completed,
    /// It exited with another status.
    Failed,
    /// A signal that was not ours ended it.
    Signaled,
    /// The OOM killer took it, or a process of it, whatever its exit status.
    OomKilled,
    /// Its time was over.
    TimedOut,
    /// It failed, and forks of it had been refused by `pids.max`.
    PidsExhausted,
    /// It was cancelled, through the handle or `agentcg kill`.
    Cancelled,
    /// The program was never started.
    SpawnFailed,
}

/// How the main process ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ended {
    /// By `exit`, with this status.
    Exited(i32),
    /// By this signal.
    Signaled {
        /// Its number.
        signal: i32,
        /// A core dump was made.
        core_dumped: bool,
    },
    /// It ended, but another part of this process has collected its status.
    Unknown(String),
    /// It was never started, for this reason.
    NotStarted(crate::Error),
}

/// Why we ended a call ourselves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stopped {
    /// Its timeout.
    TimedOut(Duration),
    /// Asked for, by whom as text: "the caller", "agentcg kill (pid 12, uid 0)".
    Cancelled(String),
}

/// A process, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Its process id.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
}

/// The level of the cgroup tree whose limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The call's own cgroup.
    Call,
    /// Its session, which it shares with other calls.
    Session,
    /// A cgroup above the session.
    Ancestor,
    /// The machine.
    Host,
}

/// What a [`Cause`] did to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It ended it.
    Ended,
    /// It slowed it, or took a process of it, without being what ended it.
    Hampered,
    /// It was met while the call ran, but others may be the ones that it hit.
    Possible,
}

/// The resource that ended or hampered a call.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cause {
    /// The kernel file of the limit, `memory.max`, `pids.max`, ...; `timeout`; or `memory` for the machine's.
    pub limit: &'static str,
    /// What the limit was, bytes; absent for limits that are no sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What the limit was, where it is no size: processes, cores, ms for `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_value: Option<f64>,
    /// Whose limit. Inside a container `host` includes the cgroups that are not visible there.
    pub scope: Scope,
    /// The cgroup whose limit it was.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy")]
    pub cgroup: Option<PathBuf>,
    /// What it did to the call.
    pub effect: Effect,
    /// Who was killed, where the kernel said it.
    pub victim: Option<Victim>,
}

/// Output that was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// What was kept: all, or the head and the tail.
    pub bytes: Vec<u8>,
    /// Bytes written by the call in all.
    pub total: u64,
    /// Where bytes are missing: this many bytes into `bytes`; `None` when nothing is.
    pub cut_at: Option<usize>,
}

impl Captured {
    /// Bytes that were not kept.
    pub fn dropped(&self) -> u64 {
        self.total.saturating_sub(self.bytes.len() as u64)
    }
}

/// Numbers only: the output itself is in the outcome, not in its JSON.
impl Serialize for Captured {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Numbers {
            bytes: usize,
            total: u64,
            dropped: u64,
        }
        let bytes = self.bytes.len();
        Numbers { bytes, total: self.total, dropped: self.dropped() }.serialize(s)
    }
}

/// A process that was still there when the call had been killed and the wait for it was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Survivor {
    /// Its process id.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// Its state as in `/proc/PID/stat`: `D` is uninterruptible.
    pub state: char,
}

/// One sample of a call's time line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Since the start of the call, ms.
    pub at_ms: u64,
    /// CPU time so far, µs.
    pub cpu_us: u64,
    /// `memory.current`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Time stalled for memory so far, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stall_us: Option<u64>,
    /// `pids.current`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

/// What came of a tool call: how it ended and why, what it used, and what to do about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The call's name, unique among the session's calls.
    pub call: String,
    /// The session's name.
    pub session: String,
    /// The call's cgroup, which is gone by now.
    pub cgroup: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The wall clock at its start.
    pub started_at: SystemTime,
    /// From its start until its main process had ended.
    pub duration: Duration,
    /// Time spent waiting for admission before the start.
    pub queued: Duration,
    /// How the main process ended.
    pub ended: Ended,
    /// The hint it was started with, as text.
    pub hint: Option<String>,
    /// The limits of its cgroup.
    pub limits: Limits,
    /// In one word.
    pub verdict: Verdict,
    /// The resource behind the verdict, or that hampered the call.
    pub cause: Option<Cause>,
    /// What it used.
    pub usage: Usage,
    /// What an agent should do about it, in words; empty when there is nothing to say.
    pub advice: String,
    /// The same as data.
    pub suggestions: Vec<Suggestion>,
    /// Standard output, when it was captured.
    pub stdout: Option<Captured>,
    /// Standard error, when it was captured.
    pub stderr: Option<Captured>,
    /// Processes left behind by the main process, which were killed with the call.
    pub killed_processes: u32,
    /// Processes that lived on in the session's `background` cgroup, as asked for.
    pub background: Vec<i32>,
    /// Processes that could not be killed in time.
    pub survivors: Vec<Survivor>,
    /// Usage over time, when asked for.
    pub timeline: Vec<Sample>,
    /// How the limits were changed to fit: "memory 4 GiB clamped to the session's 2 GiB".
    pub notes: Vec<String>,
    /// The calls that were tried before this one and retried.
    pub retries: Vec<Outcome>,
}

impl Outcome {
    /// Adds what it took to a history, if the kernel says it.
    ///
    /// # Errors
    /// Those of writing the history's file.
    pub fn record(&self, history: &History) -> crate::Result<()> {
        let Some(peak_bytes) = self.usage.memory_peak_bytes.filter(|peak| *peak > 0) else {
            return Ok(());
        };
        let limit_bytes = self.limits.memory_max.and_then(Limit::value);
        let own = self.cause.as_ref().is_some_and(|c| c.scope == Scope::Call);
        let oom_killed = self.verdict == Verdict::OomKilled && own;
        let run = Run { peak_bytes, limit_bytes, oom_killed };
        history.record(&CommandKey::normalise(&self.command), run)
    }

    /// The same for a call that may have a history; what is in the way of it is only logged.
    pub(super) fn learn(&self, history: Option<&History>) {
        if let Some(history) = history
            && let Err(e) = self.record(history)
        {
            tracing::warn!("{e}");
        }
    }

    /// The version of the JSON form.
    pub const SCHEMA: u32 = 1;

    /// It exited with status 0 and nothing of it was killed.
    pub fn success(&self) -> bool {
        self.verdict == Verdict::Completed
    }

    /// The exit status of the main process; `None` when a signal ended it, it was never started, or
    /// the status is not known.
    pub fn exit_code(&self) -> Option<i32> {
        match self.ended {
            Ended::Exited(status) => Some(status),
            _ => None,
        }
    }

    /// The signal that ended the main process.
    pub fn signal(&self) -> Option<i32> {
        match self.ended {
            Ended::Signaled { signal, .. } => Some(signal),
            _ => None,
        }
    }

    /// The status that a shell would show: that of the command, 128 + n for signal n, 127 for a
    /// program that was not found, 126 for one that cannot be executed; `None` when it was not
    /// started for another reason, or its status is not known.
    pub fn shell_status(&self) -> Option<i32> {
        match &self.ended {
            Ended::Exited(status) => Some(*status),
            Ended::Signaled { signal, .. } => Some(128 + signal),
            Ended::NotStarted(e) if e.what() == Step::Execute.text() => match e.errno() {
                Some(libc::ENOENT | libc::ENOTDIR) => Some(127),
                _ => Some(126),
            },
            Ended::NotStarted(_) | Ended::Unknown(_) => None,
        }
    }

    /// As JSON on one line, without the captured output.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are no strings fail, and there is none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Json::of(self).serialize(s)
    }
}

/// An outcome as its JSON has it: what the interface promises always, the rest where there is any.
#[derive(Serialize)]
struct Json<'a> {
    schema: u32,
    call: &'a str,
    session: &'a str,
    #[serde(serialize_with = "lossy_path")]
    cgroup: &'a Path,
    command: &'a [String],
    started_at: String,
    duration_ms: u64,
    exit_code: Option<i32>,
    signal: Option<i32>,
    hint: Option<&'a str>,
    limits: &'a Limits,
    verdict: Verdict,
    cause: Option<&'a Cause>,
    usage: &'a Usage,
    unavailable: &'a BTreeMap<&'static str, String>,
    advice: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    suggestions: &'a [Suggestion],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    core_dumped: bool,
    #[serde(skip_serializing_if = "is_zero")]
    queued_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<&'a Captured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<&'a Captured>,
    #[serde(skip_serializing_if = "is_zero")]
    killed_processes: u64,
    #[serde(skip_serializing_if = "is_empty")]
    background: &'a [i32],
    #[serde(skip_serializing_if = "is_empty")]
    survivors: &'a [Survivor],
    #[serde(skip_serializing_if = "is_empty")]
    timeline: &'a [Sample],
    #[serde(skip_serializing_if = "is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "is_empty")]
    retries: &'a [Outcome],
}

impl<'a> Json<'a> {
    fn of(o: &'a Outcome) -> Self {
        let error = match &o.ended {
            Ended::NotStarted(error) => Some(error.to_string()),
            _ => None,
        };
        Self {
            schema: Outcome::SCHEMA,
            call: &o.call,
            session: &o.session,
            cgroup: &o.cgroup,
            command: &o.command,
            started_at: rfc3339(o.started_at),
            duration_ms: whole_ms(o.duration),
            exit_code: o.exit_code(),
            signal: o.signal(),
            hint: o.hint.as_deref(),
            limits: &o.limits,
            verdict: o.verdict,
            cause: o.cause.as_ref(),
            usage: &o.usage,
            unavailable: &o.usage.unavailable,
            advice: &o.advice,
            suggestions: &o.suggestions,
            error,
            core_dumped: matches!(o.ended, Ended::Signaled { core_dumped: true, .. }),
            queued_ms: whole_ms(o.queued),
            stdout: o.stdout.as_ref(),
            stderr: o.stderr.as_ref(),
            killed_processes: o.killed_processes.into(),
            background: &o.background,
            survivors: &o.survivors,
            timeline: &o.timeline,
            notes: &o.notes,
            retries: &o.retries,
        }
    }
}

/// Times that the formatter refuses (a clock that is not set) become the nearest that it takes.
fn rfc3339(time: SystemTime) -> String {
    // 9999-12-31T23:59:59Z
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    humantime::format_rfc3339_millis(time).to_string()
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn is_empty<T>(list: &&[T]) -> bool {
    list.is_empty()
}

fn is_false(b: &bool) -> bool {
    !b
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn lossy_path<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&path.to_string_lossy())
}

fn lossy<S: Serializer>(path: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|p| p.to_string_lossy()).serialize(s)
}
