//! The events, as values and as JSON.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Something that a process did. As JSON: one object with the kind in `event`;
/// `docs/events.schema.json` describes it.
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
    /// A line was entered in an interactive bash.
    BashReadline(BashReadline),
    /// The OOM killer chose a process.
    OomKill(OomKill),
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
    /// `BASH_READLINE`, a uretprobe on `readline` of `/bin/bash`.
    BashReadline,
    /// `OOM_KILL`, tracepoint `mark_victim`; kernel 6.9.
    OomKill,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [EventKind; 6] = [
        EventKind::Exec,
        EventKind::Exit,
        EventKind::Fork,
        EventKind::FileOpen,
        EventKind::BashReadline,
        EventKind::OomKill,
    ];

    /// The name that the event has in JSON.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Exec => "EXEC",
            EventKind::Exit => "EXIT",
            EventKind::Fork => "FORK",
            EventKind::FileOpen => "FILE_OPEN",
            EventKind::BashReadline => "BASH_READLINE",
            EventKind::OomKill => "OOM_KILL",
        }
    }
}

impl std::str::FromStr for EventKind {
    type Err = crate::Error;
    fn from_str(s: &str) -> crate::Result<Self> {
        let wanted = s.to_ascii_uppercase();
        Self::ALL.into_iter().find(|k| k.name() == wanted).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            crate::Error::invalid("event kind", s, format!("expected one of {names}"))
        })
    }
}

/// A command name as the kernel keeps it: at most 15 bytes, any but NUL.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Comm {
    bytes: [u8; 15],
    len: u8,
}

impl Comm {
    /// From the kernel's buffer, up to the first NUL.
    pub(crate) fn new(kernel: &[u8]) -> Self {
        let mut comm = Self::default();
        for (to, from) in comm.bytes.iter_mut().zip(kernel.iter().take_while(|b| **b != 0)) {
            *to = *from;
            comm.len += 1;
        }
        comm
    }
}

impl AsRef<OsStr> for Comm {
    fn as_ref(&self) -> &OsStr {
        OsStr::from_bytes(&self.bytes[..usize::from(self.len)])
    }
}

impl std::ops::Deref for Comm {
    type Target = OsStr;
    fn deref(&self) -> &OsStr {
        self.as_ref()
    }
}

impl PartialEq<str> for Comm {
    fn eq(&self, other: &str) -> bool {
        self.as_ref() == OsStr::new(other)
    }
}

impl PartialEq<&str> for Comm {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        lossy(self.as_ref(), s)
    }
}

/// What every event says of the process it is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// ns since boot, suspend included (`CLOCK_BOOTTIME`).
    pub timestamp: u64,
    /// The process (thread group).
    pub pid: i32,
    /// The process that forked it, also when that is gone by now.
    pub ppid: i32,
    /// The command name.
    pub comm: Comm,
    /// The user.
    pub uid: u32,
    /// The kernel's id of the cgroup, `cgroup_id` in BPF.
    pub cgroup_id: u64,
    /// The cgroup's path; absent when the cgroup is older than the stream and gone.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lossy_path")]
    pub cgroup: Option<Arc<Path>>,
    /// The session it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub session: Option<Arc<str>>,
    /// The tool call it belongs to, if any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub tool_call: Option<Arc<str>>,
}

/// A program was executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Exec {
    /// The process, after the exec.
    pub origin: Origin,
    /// The path that was executed, as given.
    pub filename: OsString,
    /// The arguments, up to [`EventFilter::args_bytes`](crate::EventFilter).
    pub argv: Vec<OsString>,
    /// There was more than fits.
    pub argv_truncated: bool,
}

impl Exec {
    /// The arguments joined by blanks, for reading.
    pub fn full_command(&self) -> String {
        let mut text = String::new();
        for (i, arg) in self.argv.iter().enumerate() {
            if i > 0 {
                text.push(' ');
            }
            text += &arg.to_string_lossy();
        }
        text
    }
}

/// By hand, for `full_command` is made only when it is wanted.
impl Serialize for Exec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Json<'a> {
            #[serde(flatten)]
            origin: &'a Origin,
            #[serde(serialize_with = "lossy")]
            filename: &'a OsStr,
            #[serde(serialize_with = "lossy_list")]
            argv: &'a [OsString],
            full_command: String,
            argv_truncated: bool,
        }
        Json {
            origin: &self.origin,
            filename: &self.filename,
            argv: &self.argv,
            full_command: self.full_command(),
            argv_truncated: self.argv_truncated,
        }
        .serialize(s)
    }
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
    /// The path of the file from the root of its mount namespace, symbolic links followed; as the
    /// process gave it where the open failed or the path is longer than 255 bytes.
    #[serde(serialize_with = "lossy")]
    pub filepath: OsString,
    /// The `O_*` flags.
    pub flags: u32,
    /// The file descriptor, or minus the errno.
    pub result: i32,
    /// How many opens this event stands for: a thread that opens the same path again and again
    /// gives one event for the first and one for the others.
    pub count: u64,
}

/// A line was entered in an interactive bash.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BashReadline {
    /// The shell.
    #[serde(flatten)]
    pub origin: Origin,
    /// The line, at most 1023 bytes.
    #[serde(serialize_with = "lossy")]
    pub command: OsString,
}

/// The OOM killer chose a process. [`Origin`] is the victim.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OomKill {
    /// The victim.
    #[serde(flatten)]
    pub origin: Origin,
    /// The cgroup whose `memory.max` was reached; `None`: the machine's memory was.
    #[serde(serialize_with = "lossy_path")]
    pub limit_cgroup: Option<Arc<Path>>,
    /// The kernel's id of that cgroup.
    pub limit_cgroup_id: Option<u64>,
    /// That `memory.max`, bytes.
    pub limit_bytes: Option<u64>,
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
    /// A thread opened more files in a second than
    /// [`EventFilter::open_rate`](crate::EventFilter) allows.
    RateLimited,
    /// The event was delivered, but its path or some of its arguments could not be read.
    ReadFault,
    /// The kernel had no memory to remember a process or an open; a process that is not remembered
    /// is not tracked, and its descendants are not.
    MapFull,
    /// The kernel skipped a probe, for another task on that CPU was in the middle of it. What it
    /// would have reported is not known: perhaps nothing that the stream wants, and perhaps a
    /// process to track.
    Recursion,
}

impl Event {
    /// The process it is about; `None` for [`Event::Dropped`].
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Event::Exec(e) => Some(&e.origin),
            Event::Exit(e) => Some(&e.origin),
            Event::Fork(e) => Some(&e.origin),
            Event::FileOpen(e) => Some(&e.origin),
            Event::BashReadline(e) => Some(&e.origin),
            Event::OomKill(e) => Some(&e.origin),
            Event::Dropped(_) => None,
        }
    }

    pub(super) fn origin_mut(&mut self) -> Option<&mut Origin> {
        match self {
            Event::Exec(e) => Some(&mut e.origin),
            Event::Exit(e) => Some(&mut e.origin),
            Event::Fork(e) => Some(&mut e.origin),
            Event::FileOpen(e) => Some(&mut e.origin),
            Event::BashReadline(e) => Some(&mut e.origin),
            Event::OomKill(e) => Some(&mut e.origin),
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

fn lossy_path<S: Serializer>(path: &Option<Arc<Path>>, s: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path.as_os_str(), s),
        None => s.serialize_none(),
    }
}

fn shared<S: Serializer>(text: &Option<Arc<str>>, s: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(s)
}

fn lossy_list<S: Serializer>(list: &[OsString], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().map(|t| t.to_string_lossy()))
}
