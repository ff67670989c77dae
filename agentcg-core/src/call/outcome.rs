//! [`Outcome`]: what came of a tool call, and the types it is made of.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::usage::Usage;
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
#[derive(Clone, Debug)]
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
    /// Whose limit.
    pub scope: Scope,
    /// The cgroup whose limit it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
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
        self.total - self.bytes.len() as u64
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
    pub started_at: std::time::SystemTime,
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
    pub suggestions: Vec<super::verdict::Suggestion>,
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
    /// It exited with status 0 and nothing of it was killed.
    pub fn success(&self) -> bool {
        self.verdict == Verdict::Completed
    }
}
