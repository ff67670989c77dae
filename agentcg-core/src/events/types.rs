//! The events, as values and as JSON.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Something that a process did. As JSON: one object with the kind in `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Event {
    /// A program was executed.
    Exec(Exec),
    /// A process ended.
    Exit(Exit),
    /// A process forked.
    Fork(Fork),
    /// A process opened a file, or tried to.
    FileOpen(FileOpen),
    /// Events were lost.
    Dropped(Dropped),
}

/// The kinds of events that can be asked for; see [`EventFilter::kinds`](crate::EventFilter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EventKind {
    /// `EXEC`, tracepoint `sched_process_exec`.
    Exec,
    /// `EXIT`, tracepoint `sched_process_exit`.
    Exit,
    /// `FORK`, tracepoint `sched_process_fork`.
    Fork,
    /// `FILE_OPEN`, tracepoints of `open`, `openat`, `openat2` and `creat`; needs tracefs.
    FileOpen,
}

/// What every event says of the process it is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// ns since boot, suspend included (`CLOCK_BOOTTIME`).
    pub timestamp: u64,
    /// The process (thread group).
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// The command name, at most 15 bytes.
    #[serde(serialize_with = "lossy")]
    pub comm: OsString,
    /// The user.
    pub uid: u32,
    /// The kernel's id of the cgroup, `cgroup_id` in BPF.
    pub cgroup_id: u64,
    /// The cgroup's path; absent when the process was gone before it could be looked up.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy_path")]
    pub cgroup: Option<PathBuf>,
    /// The session it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The tool call it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<String>,
}

/// A program was executed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exec {
    /// The process, after the exec.
    #[serde(flatten)]
    pub origin: Origin,
    /// The path that was executed, as given.
    #[serde(serialize_with = "lossy")]
    pub filename: OsString,
    /// The arguments, up to 16 KiB.
    #[serde(serialize_with = "lossy_list")]
    pub argv: Vec<OsString>,
    /// The arguments joined by blanks, for reading.
    pub full_command: String,
    /// There was more than fits.
    pub argv_truncated: bool,
}

/// A process ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exit {
    /// The process.
    #[serde(flatten)]
    pub origin: Origin,
    /// Its exit code; `None` when a signal killed it.
    pub exit_code: Option<i32>,
    /// The signal that killed it; `None` when it exited.
    pub signal: Option<i32>,
    /// It dumped core.
    pub core_dumped: bool,
    /// Since it was forked, ms.
    pub duration_ms: u64,
    /// CPU time in user mode, µs.
    pub cpu_user_us: u64,
    /// CPU time in the kernel, µs.
    pub cpu_system_us: u64,
    /// The largest resident set, bytes.
    pub memory_peak_bytes: u64,
    /// Read from block devices, bytes.
    pub read_bytes: u64,
    /// Written to block devices, bytes.
    pub write_bytes: u64,
    /// The OOM killer chose it.
    pub oom_killed: bool,
}

/// A process forked. [`Origin`] is the parent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fork {
    /// The parent.
    #[serde(flatten)]
    pub origin: Origin,
    /// The new process.
    pub child_pid: i32,
}

/// A process opened a file, or tried to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileOpen {
    /// The process.
    #[serde(flatten)]
    pub origin: Origin,
    /// The path as the process gave it.
    #[serde(serialize_with = "lossy")]
    pub filepath: OsString,
    /// The `O_*` flags.
    pub flags: u32,
    /// The file descriptor, or minus the errno.
    pub result: i32,
    /// How many opens this event stands for.
    pub count: u64,
}

/// Events were lost between the last event and this one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: DropReason,
}

/// Why events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// The ring buffer was full: the reader was too slow.
    RingFull,
    /// A path or the arguments could not be read from the process; arguments are empty then, a
    /// file event is missing.
    ReadFault,
}

impl Event {
    /// The process it is about; `None` for [`Event::Dropped`].
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Event::Exec(e) => Some(&e.origin),
            Event::Exit(e) => Some(&e.origin),
            Event::Fork(e) => Some(&e.origin),
            Event::FileOpen(e) => Some(&e.origin),
            Event::Dropped(_) => None,
        }
    }

    /// The event as one line of JSON, always valid: bytes that are not UTF-8 become U+FFFD.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are no strings fail, and there is none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn lossy<S: Serializer>(text: &OsStr, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&text.to_string_lossy())
}

fn lossy_path<S: Serializer>(path: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&path.as_deref().unwrap_or(Path::new("")).to_string_lossy())
}

fn lossy_list<S: Serializer>(list: &[OsString], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().map(|t| t.to_string_lossy()))
}
