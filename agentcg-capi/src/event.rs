//! `agentcg_event_t`: an event as C reads it.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use agentcg_core::{DropReason, Event, Origin};

use crate::limits::AGENTCG_UNSET;

/// The kinds of events, as bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_event_kind_t {
    /// A program was executed; tracepoint `sched_process_exec`.
    AGENTCG_EVENT_EXEC = 1,
    /// A process ended; tracepoint `sched_process_exit`.
    AGENTCG_EVENT_EXIT = 2,
    /// A process forked; tracepoint `sched_process_fork`.
    AGENTCG_EVENT_FORK = 4,
    /// A file was opened; tracepoints of `open`, `openat`, `openat2`, `creat`; needs tracefs.
    AGENTCG_EVENT_FILE_OPEN = 8,
    /// A line was entered in an interactive bash; a uretprobe on `readline` of `/bin/bash`.
    AGENTCG_EVENT_BASH_READLINE = 16,
    /// The OOM killer chose a process; tracepoint `mark_victim`, kernel 6.9.
    AGENTCG_EVENT_OOM_KILL = 32,
    /// Events were lost. Always reported; it cannot be asked for.
    AGENTCG_EVENT_DROPPED = 1 << 30,
}

use agentcg_event_kind_t as Kind;

/// Something that a process did, or a loss of such reports. It and its strings, which are the
/// system's bytes, belong to the stream and live until the next call of `agentcg_events_next` on it.
///
/// What a kind does not have is 0 or NULL. Later versions may add kinds, and members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_event_t {
    /// An `agentcg_event_kind_t`; 0 for a kind that this version has no members for.
    pub kind: u32,
    /// The process (thread group).
    pub pid: i32,
    /// The process that forked it, also when that is gone by now.
    pub ppid: i32,
    /// The user.
    pub uid: u32,
    /// ns since boot, suspend included (`CLOCK_BOOTTIME`).
    pub timestamp: u64,
    /// The kernel's id of the cgroup.
    pub cgroup_id: u64,
    /// The command name, at most 15 bytes.
    pub comm: *const c_char,
    /// The cgroup's path; NULL when it is older than the stream and gone.
    pub cgroup: *const c_char,
    /// The session, or NULL.
    pub session: *const c_char,
    /// The tool call, or NULL.
    pub tool_call: *const c_char,
    /// EXEC: the path that was executed, as given.
    pub filename: *const c_char,
    /// EXEC: the arguments, with a NULL after them.
    pub argv: *const *const c_char,
    /// EXEC: how many.
    pub argc: usize,
    /// EXEC: there was more than fits.
    pub argv_truncated: bool,
    /// EXIT: it dumped core.
    pub core_dumped: bool,
    /// EXIT: the OOM killer chose it.
    pub oom_killed: bool,
    /// EXIT: the exit code; -1 when a signal killed it.
    pub exit_code: i32,
    /// EXIT: the signal that killed it, or 0.
    pub signal: i32,
    /// FORK: the new process; `pid` is the parent.
    pub child_pid: i32,
    /// EXIT: since it was forked, ms.
    pub duration_ms: u64,
    /// EXIT: CPU time in user mode, µs.
    pub cpu_user_us: u64,
    /// EXIT: CPU time in the kernel, µs.
    pub cpu_system_us: u64,
    /// EXIT: the largest resident set, bytes.
    pub memory_peak_bytes: u64,
    /// EXIT: read from block devices, bytes.
    pub read_bytes: u64,
    /// EXIT: written to block devices, bytes.
    pub write_bytes: u64,
    /// FILE_OPEN: the path, symbolic links followed; as given where the open failed or it is longer
    /// than 255 bytes.
    pub filepath: *const c_char,
    /// FILE_OPEN: the `O_*` flags.
    pub flags: u32,
    /// FILE_OPEN: the file descriptor, or minus the errno.
    pub result: i32,
    /// FILE_OPEN: how many opens it stands for. DROPPED: how many events were lost.
    pub count: u64,
    /// BASH_READLINE: the line, at most 1023 bytes.
    pub command: *const c_char,
    /// OOM_KILL: the cgroup whose `memory.max` was reached; NULL: the machine's memory was.
    pub limit_cgroup: *const c_char,
    /// OOM_KILL: the kernel's id of that cgroup, or 0.
    pub limit_cgroup_id: u64,
    /// OOM_KILL: that `memory.max`, bytes, or AGENTCG_UNSET.
    pub limit_bytes: u64,
    /// DROPPED: why, as in the JSON: `ring_full`, `rate_limited`, ...
    pub reason: *const c_char,
}

const NOTHING: agentcg_event_t = agentcg_event_t {
    kind: 0,
    pid: 0,
    ppid: 0,
    uid: 0,
    timestamp: 0,
    cgroup_id: 0,
    comm: ptr::null(),
    cgroup: ptr::null(),
    session: ptr::null(),
    tool_call: ptr::null(),
    filename: ptr::null(),
    argv: ptr::null(),
    argc: 0,
    argv_truncated: false,
    core_dumped: false,
    oom_killed: false,
    exit_code: 0,
    signal: 0,
    child_pid: 0,
    duration_ms: 0,
    cpu_user_us: 0,
    cpu_system_us: 0,
    memory_peak_bytes: 0,
    read_bytes: 0,
    write_bytes: 0,
    filepath: ptr::null(),
    flags: 0,
    result: 0,
    count: 0,
    command: ptr::null(),
    limit_cgroup: ptr::null(),
    limit_cgroup_id: 0,
    limit_bytes: AGENTCG_UNSET,
    reason: ptr::null(),
};

/// The event that a stream gave last, and the memory that its pointers point to. It is used again
/// for each event, so that none costs an allocation.
#[derive(Debug)]
pub(crate) struct Current {
    given: agentcg_event_t,
    event: Option<Event>,
    text: Vec<u8>,
    argv: Vec<*const c_char>,
}

// SAFETY: the pointers are to memory of its own and to static strings.
unsafe impl Send for Current {}

impl Default for Current {
    fn default() -> Self {
        Self { given: NOTHING, event: None, text: Vec::new(), argv: Vec::new() }
    }
}

impl Current {
    pub(crate) fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// Keeps an event, and gives it as C has it.
    pub(crate) fn keep(&mut self, event: Event) -> &agentcg_event_t {
        self.text.clear();
        self.argv.clear();
        // Room for all of it first: what has been pointed to must not move.
        self.text.reserve(room(&event));
        self.given = NOTHING;
        if let Some(origin) = event.origin() {
            self.origin(origin);
        }
        self.details(&event);
        self.event = Some(event);
        &self.given
    }

    fn text(&mut self, text: impl AsRef<OsStr>) -> *const c_char {
        let start = self.text.len();
        self.text.extend_from_slice(text.as_ref().as_bytes());
        self.text.push(0);
        self.text[start..].as_ptr().cast()
    }

    fn optional(&mut self, text: Option<impl AsRef<OsStr>>) -> *const c_char {
        text.map_or(ptr::null(), |text| self.text(text))
    }

    fn origin(&mut self, origin: &Origin) {
        self.given.pid = origin.pid;
        self.given.ppid = origin.ppid;
        self.given.uid = origin.uid;
        self.given.timestamp = origin.timestamp;
        self.given.cgroup_id = origin.cgroup_id;
        self.given.comm = self.text(origin.comm);
        self.given.cgroup = self.optional(origin.cgroup.as_ref().map(|p| p.as_os_str()));
        self.given.session = self.optional(origin.session.as_deref());
        self.given.tool_call = self.optional(origin.tool_call.as_deref());
    }

    fn details(&mut self, event: &Event) {
        match event {
            Event::Exec(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_EXEC as u32;
                self.given.filename = self.text(&e.filename);
                for argument in &e.argv {
                    let argument = self.text(argument);
                    self.argv.push(argument);
                }
                self.given.argc = self.argv.len();
                self.argv.push(ptr::null());
                self.given.argv = self.argv.as_ptr();
                self.given.argv_truncated = e.argv_truncated;
            }
            Event::Exit(e) => {
                let given = &mut self.given;
                given.kind = Kind::AGENTCG_EVENT_EXIT as u32;
                given.exit_code = e.exit_code.unwrap_or(-1);
                given.signal = e.signal.unwrap_or(0);
                given.core_dumped = e.core_dumped;
                given.oom_killed = e.oom_killed;
                given.duration_ms = e.duration_ms;
                given.cpu_user_us = e.cpu_user_us;
                given.cpu_system_us = e.cpu_system_us;
                given.memory_peak_bytes = e.memory_peak_bytes;
                given.read_bytes = e.read_bytes;
                given.write_bytes = e.write_bytes;
            }
            Event::Fork(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_FORK as u32;
                self.given.child_pid = e.child_pid;
            }
            Event::FileOpen(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_FILE_OPEN as u32;
                self.given.filepath = self.text(&e.filepath);
                self.given.flags = e.flags;
                self.given.result = e.result;
                self.given.count = e.count;
            }
            Event::BashReadline(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_BASH_READLINE as u32;
                self.given.command = self.text(&e.command);
            }
            Event::OomKill(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_OOM_KILL as u32;
                self.given.limit_cgroup = self.optional(e.limit_cgroup.as_deref());
                self.given.limit_cgroup_id = e.limit_cgroup_id.unwrap_or(0);
                self.given.limit_bytes = e.limit_bytes.unwrap_or(AGENTCG_UNSET);
            }
            Event::Dropped(e) => {
                self.given.kind = Kind::AGENTCG_EVENT_DROPPED as u32;
                self.given.count = e.count;
                self.given.reason = reason(e.reason).as_ptr();
            }
            _ => {}
        }
    }
}

/// Bytes of all texts of an event, each with a NUL.
fn room(event: &Event) -> usize {
    let of = |text: &OsStr| text.len() + 1;
    let origin = event.origin().map_or(0, |o| {
        of(&o.comm)
            + o.cgroup.as_ref().map_or(0, |p| of(p.as_os_str()))
            + o.session.as_ref().map_or(0, |s| s.len() + 1)
            + o.tool_call.as_ref().map_or(0, |c| c.len() + 1)
    });
    origin
        + match event {
            Event::Exec(e) => of(&e.filename) + e.argv.iter().map(|a| of(a)).sum::<usize>(),
            Event::FileOpen(e) => of(&e.filepath),
            Event::BashReadline(e) => of(&e.command),
            Event::OomKill(e) => e.limit_cgroup.as_ref().map_or(0, |p| of(p.as_os_str())),
            _ => 0,
        }
}

/// As the JSON has it.
fn reason(reason: DropReason) -> &'static CStr {
    match reason {
        DropReason::RingFull => c"ring_full",
        DropReason::RateLimited => c"rate_limited",
        DropReason::ReadFault => c"read_fault",
        DropReason::MapFull => c"map_full",
        DropReason::Recursion => c"recursion",
        _ => c"unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentcg_core::{Dropped, Exec, Fork, OomKill};
    use std::path::Path;

    fn origin(cgroup: &str) -> Origin {
        Origin {
            timestamp: 5,
            pid: 7,
            ppid: 1,
            comm: Default::default(),
            uid: 3,
            cgroup_id: 9,
            cgroup: Some(Path::new(cgroup).into()),
            session: Some("s".into()),
            tool_call: None,
        }
    }

    fn text(p: *const c_char) -> String {
        // SAFETY: strings of a `Current` end with NUL and live as long as it.
        unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
    }

    #[test]
    fn every_text_is_where_its_pointer_points() {
        let mut current = Current::default();
        for n in [0, 3, 300] {
            let argv: Vec<std::ffi::OsString> = (0..n).map(|i| "x".repeat(i % 7).into()).collect();
            let exec = Exec {
                origin: origin("/c/s"),
                filename: "/bin/true".into(),
                argv: argv.clone(),
                argv_truncated: true,
            };
            let given = *current.keep(Event::Exec(exec));
            assert_eq!((given.kind, given.pid, given.argc, given.argv_truncated), (1, 7, n, true));
            assert_eq!(text(given.filename), "/bin/true");
            assert_eq!((text(given.cgroup), text(given.session)), ("/c/s".into(), "s".into()));
            assert!(given.tool_call.is_null());
            // SAFETY: as many arguments and a NULL.
            let list = unsafe { std::slice::from_raw_parts(given.argv, n + 1) };
            assert!(list[n].is_null());
            assert!(list[..n].iter().zip(&argv).all(|(c, a)| *text(*c) == **a));
        }
    }

    #[test]
    fn what_a_kind_does_not_have_is_nothing() {
        let mut current = Current::default();
        let limit_cgroup = Some(Path::new("/c/s/calls/1").into());
        let (limit_cgroup_id, limit_bytes) = (Some(4), Some(4096));
        let kill = OomKill { origin: origin("/c"), limit_cgroup, limit_cgroup_id, limit_bytes };
        let given = *current.keep(Event::OomKill(kill));
        assert_eq!((text(given.limit_cgroup), given.limit_bytes), ("/c/s/calls/1".into(), 4096));
        let given = *current.keep(Event::Fork(Fork { origin: origin("/c"), child_pid: 8 }));
        assert_eq!((given.kind, given.child_pid, given.limit_bytes), (4, 8, AGENTCG_UNSET));
        assert!(given.limit_cgroup.is_null() && given.argv.is_null());
        let lost = Dropped { count: 2, reason: DropReason::RingFull };
        let given = *current.keep(Event::Dropped(lost));
        assert_eq!((given.kind, given.count, given.pid), (1 << 30, 2, 0));
        assert_eq!(text(given.reason), "ring_full");
        let json: serde_json::Value =
            serde_json::from_str(&current.event().unwrap().to_json()).unwrap();
        assert_eq!(json["reason"], text(given.reason));
    }
}
