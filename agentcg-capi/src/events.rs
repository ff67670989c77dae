//! `agentcg_events_t`.

use std::ffi::c_char;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use agentcg_core::{EventFilter, EventKind, EventMode, EventStream};

use crate::args;
use crate::error::{Result, agentcg_error_t, free, guard};
use crate::runtime::agentcg_runtime_t;

/// Whose events are delivered. A process is tracked when its command, pid, user, cgroup or executable
/// is named in the filter, or when its parent was tracked when it forked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_event_mode_t {
    /// Everybody's.
    AGENTCG_EVENTS_ALL = 0,
    /// Everybody's, but FILE_OPEN of tracked processes only.
    AGENTCG_EVENTS_FILES_OF_TRACKED = 1,
    /// Those of tracked processes.
    AGENTCG_EVENTS_TRACKED_ONLY = 2,
}

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
}

const KINDS: [(u32, EventKind); 6] = [
    (agentcg_event_kind_t::AGENTCG_EVENT_EXEC as u32, EventKind::Exec),
    (agentcg_event_kind_t::AGENTCG_EVENT_EXIT as u32, EventKind::Exit),
    (agentcg_event_kind_t::AGENTCG_EVENT_FORK as u32, EventKind::Fork),
    (agentcg_event_kind_t::AGENTCG_EVENT_FILE_OPEN as u32, EventKind::FileOpen),
    (agentcg_event_kind_t::AGENTCG_EVENT_BASH_READLINE as u32, EventKind::BashReadline),
    (agentcg_event_kind_t::AGENTCG_EVENT_OOM_KILL as u32, EventKind::OomKill),
];

/// What to report; filtered in the kernel. Fill it with `agentcg_event_filter_init`. The library
/// copies what it needs before it returns. It may change with the SONAME.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_event_filter_t {
    /// An `agentcg_event_mode_t`.
    pub mode: u32,
    /// `agentcg_event_kind_t` bits. Default: all.
    pub kinds: u32,
    /// Command names to track, at most 15 bytes each; `python` also matches `python3` and
    /// `python3.11`. May be NULL with `nr_commands` 0, as the other lists may; each has at most 256
    /// entries.
    pub commands: *const *const c_char,
    /// How many.
    pub nr_commands: usize,
    /// Processes to track.
    pub pids: *const i32,
    /// How many.
    pub nr_pids: usize,
    /// Paths of cgroup v2 directories to track, with everything below them.
    pub cgroups: *const *const c_char,
    /// How many.
    pub nr_cgroups: usize,
    /// Users to track.
    pub uids: *const u32,
    /// How many.
    pub nr_uids: usize,
    /// Processes to track, by what the path given to exec begins with, at most 251 bytes each.
    pub executables: *const *const c_char,
    /// How many.
    pub nr_executables: usize,
    /// EXIT is left out for processes that lived less than this, ms. Default 0.
    pub min_duration_ms: u64,
    /// How long an event may wait for others before the descriptor becomes readable, ms, at most
    /// 1000; 0: not at all, at many times the cost. Default 10.
    pub delay_ms: u64,
    /// Repeated opens of one path by a thread within this time become one event, ms. Default 100.
    pub open_window_ms: u64,
    /// FILE_OPEN events of one thread in a second; more are counted as dropped. Default 1000.
    pub open_rate: u32,
    /// Arguments of EXEC are cut beyond this many bytes, at most 1 MiB and a quarter of the buffer.
    /// Default 16 KiB.
    pub args_bytes: u32,
    /// The size of the kernel's buffer in bytes, 4 KiB to 1 GiB, rounded up to a power of two.
    /// Default 8 MiB.
    pub buffer_bytes: u32,
}

impl agentcg_event_filter_t {
    /// # Safety
    /// The lists are as long as they say, and those of pointers contain C strings.
    unsafe fn to_core(self) -> Result<EventFilter> {
        let mut filter = EventFilter::default();
        filter.mode = EventMode::from_number(self.mode)?;
        // SAFETY: required of the caller.
        filter.commands = unsafe { args::texts(self.commands, self.nr_commands, "commands") }?;
        // SAFETY: required of the caller.
        filter.pids = unsafe { args::slice(self.pids, self.nr_pids, "pids") }?.to_vec();
        // SAFETY: required of the caller.
        filter.cgroups = unsafe { args::paths(self.cgroups, self.nr_cgroups, "cgroups") }?;
        // SAFETY: required of the caller.
        filter.uids = unsafe { args::slice(self.uids, self.nr_uids, "uids") }?.to_vec();
        // SAFETY: required of the caller.
        let paths = unsafe { args::paths(self.executables, self.nr_executables, "executables") };
        filter.executables = paths?;
        filter.min_duration = Duration::from_millis(self.min_duration_ms);
        filter.kinds = kinds(self.kinds)?;
        filter.delay = Duration::from_millis(self.delay_ms);
        filter.open_window = Duration::from_millis(self.open_window_ms);
        filter.open_rate = self.open_rate;
        filter.args_bytes = self.args_bytes;
        filter.buffer_bytes = self.buffer_bytes;
        Ok(filter)
    }
}

fn kinds(bits: u32) -> Result<Vec<EventKind>> {
    let all = KINDS.iter().fold(0, |all, (bit, _)| all | bit);
    if bits & !all != 0 {
        return Err(agentcg_error_t::invalid(format!(
            "invalid kinds {bits:#x}: expected bits of agentcg_event_kind_t"
        )));
    }
    let wanted = KINDS.iter().filter(|(bit, _)| bits & bit != 0);
    Ok(wanted.map(|(_, kind)| *kind).collect())
}

/// A stream of process events, in the order in which the kernel wrote them. One thread at a time may
/// use it.
#[derive(Debug)]
pub struct agentcg_events_t(EventStream);

/// Fills in the defaults: all kinds of events of all processes. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_event_filter_init(filter: *mut agentcg_event_filter_t) {
    if !filter.is_null() {
        let core = EventFilter::default();
        let defaults = agentcg_event_filter_t {
            mode: agentcg_event_mode_t::AGENTCG_EVENTS_ALL as u32,
            kinds: KINDS.iter().fold(0, |all, (bit, _)| all | bit),
            commands: std::ptr::null(),
            nr_commands: 0,
            pids: std::ptr::null(),
            nr_pids: 0,
            cgroups: std::ptr::null(),
            nr_cgroups: 0,
            uids: std::ptr::null(),
            nr_uids: 0,
            executables: std::ptr::null(),
            nr_executables: 0,
            min_duration_ms: core.min_duration.as_millis() as u64,
            delay_ms: core.delay.as_millis() as u64,
            open_window_ms: core.open_window.as_millis() as u64,
            open_rate: core.open_rate,
            args_bytes: core.args_bytes,
            buffer_bytes: core.buffer_bytes,
        };
        // SAFETY: the caller's struct, which need not be initialised.
        unsafe { filter.write(defaults) }
    }
}

/// Attaches the probes that a filter needs. Needs root, or CAP_BPF and CAP_PERFMON, and a kernel
/// with BTF.
///
/// `filter` NULL: the defaults. `out` receives the stream, which the caller frees with
/// `agentcg_events_free`.
///
/// Errors: INVALID_INPUT for a filter that cannot be; NOT_FOUND for a cgroup or pid that does not
/// exist; BUSY at the 17th stream of the process; PERMISSION_DENIED; BPF.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_subscribe(
    runtime: *const agentcg_runtime_t,
    filter: *const agentcg_event_filter_t,
    out: *mut *mut agentcg_events_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(out, "out") }?;
        // SAFETY: the caller passes NULL or a runtime that it has not freed.
        let runtime = unsafe { args::handle(runtime, "runtime") }?;
        // SAFETY: the caller passes NULL or an initialised struct.
        let filter = match unsafe { filter.as_ref() } {
            // SAFETY: its lists are as long as they say.
            Some(filter) => unsafe { filter.to_core() }?,
            None => EventFilter::default(),
        };
        let stream = runtime.0.subscribe(filter)?;
        *out = Box::into_raw(Box::new(agentcg_events_t(stream)));
        Ok(())
    })
}

/// What the filter asks for and this kernel cannot give (FILE_OPEN without tracefs), as a JSON array
/// of `{"what", "error"}`; everything else is delivered.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_missing_json(
    events: *mut agentcg_events_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        // SAFETY: the caller passes NULL or a stream that it has not freed and that no other thread
        // uses.
        let events = unsafe { args::handle_mut(events, "events") }?;
        let missing = events.0.missing().iter();
        let list: Vec<_> = missing
            .map(|m| serde_json::json!({"what": m.what, "error": m.error.to_string()}))
            .collect();
        *out = args::json(&list)?;
        Ok(())
    })
}

/// What was delivered and lost so far, as JSON: `received`, `ring_full`, `rate_limited`,
/// `read_fault`, `map_full`, `recursion`.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: BPF when the kernel's counters cannot be read; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_stats_json(
    events: *mut agentcg_events_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        // SAFETY: the caller passes NULL or a stream that it has not freed and that no other thread
        // uses.
        let events = unsafe { args::handle_mut(events, "events") }?;
        *out = args::json(&events.0.stats()?)?;
        Ok(())
    })
}

/// A descriptor for poll(2) or an event loop that is readable when events wait. Then call
/// `agentcg_events_next` with a time-out of 0 until it gives NULL: events that were taken from the
/// kernel already do not show here. It belongs to the stream: do not read from it, do not close it.
/// -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_fd(events: *const agentcg_events_t) -> i32 {
    // SAFETY: the caller passes NULL or a stream that it has not freed.
    unsafe { events.as_ref() }.map_or(-1, |e| e.0.as_fd().as_raw_fd())
}

/// The next event as one line of JSON with the kind in `event`; lost events are reported as
/// `DROPPED`. Waits at most `timeout_ms`, for ever with -1, not at all with 0; signals do not end
/// the wait.
///
/// `json_out` receives NULL when the time is over, or a string that the caller frees with
/// `agentcg_string_free`.
///
/// Errors: BPF or OS when the kernel's buffer cannot be read; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_next(
    events: *mut agentcg_events_t,
    timeout_ms: i64,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        // SAFETY: the caller passes NULL or a stream that it has not freed and that no other thread
        // uses.
        let stream = &mut unsafe { args::handle_mut(events, "events") }?.0;
        let event = match u64::try_from(timeout_ms) {
            Ok(ms) => stream.next_timeout(Duration::from_millis(ms))?,
            Err(_) => stream.next().transpose()?,
        };
        if let Some(event) = event {
            *out = args::string(event.to_json())?;
        }
        Ok(())
    })
}

/// Detaches the probes. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_free(events: *mut agentcg_events_t) {
    // SAFETY: the caller passes NULL or a stream that it got, once.
    unsafe { free(events) }
}
