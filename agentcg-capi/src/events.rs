//! `agentcg_events_t`.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use agentcg_core::{Event, EventFilter, EventKind, EventMode, EventStream};

use crate::args;
use crate::error::{Logged, Result, agentcg_error_t, free_logged, give_text, guard, make};
use crate::event::{Current, agentcg_event_kind_t, agentcg_event_t};
use crate::log::Log;
use crate::options::{self, Options};
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

const KINDS: [(u32, EventKind); 6] = [
    (agentcg_event_kind_t::AGENTCG_EVENT_EXEC as u32, EventKind::Exec),
    (agentcg_event_kind_t::AGENTCG_EVENT_EXIT as u32, EventKind::Exit),
    (agentcg_event_kind_t::AGENTCG_EVENT_FORK as u32, EventKind::Fork),
    (agentcg_event_kind_t::AGENTCG_EVENT_FILE_OPEN as u32, EventKind::FileOpen),
    (agentcg_event_kind_t::AGENTCG_EVENT_BASH_READLINE as u32, EventKind::BashReadline),
    (agentcg_event_kind_t::AGENTCG_EVENT_OOM_KILL as u32, EventKind::OomKill),
];

/// What to report; filtered in the kernel. Fill it with `agentcg_event_filter_init`. The library
/// copies what it needs before it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_event_filter_t {
    /// The size of the struct; `agentcg_event_filter_init` sets it.
    pub size: usize,
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

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_event_filter_t {
    const NAME: &'static str = "event_filter";
    const FIRST_SIZE: usize = offset_of!(Self, buffer_bytes) + size_of::<u32>();
    /// The numbers are those of [`EventFilter::default`]; a test compares them.
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        mode: agentcg_event_mode_t::AGENTCG_EVENTS_ALL as u32,
        kinds: ALL_KINDS,
        commands: ptr::null(),
        nr_commands: 0,
        pids: ptr::null(),
        nr_pids: 0,
        cgroups: ptr::null(),
        nr_cgroups: 0,
        uids: ptr::null(),
        nr_uids: 0,
        executables: ptr::null(),
        nr_executables: 0,
        min_duration_ms: 0,
        delay_ms: 10,
        open_window_ms: 100,
        open_rate: 1000,
        args_bytes: 16 << 10,
        buffer_bytes: 8 << 20,
    };
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

const ALL_KINDS: u32 = (1 << KINDS.len()) - 1;

fn kinds(bits: u32) -> Result<Vec<EventKind>> {
    if bits & !ALL_KINDS != 0 {
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
pub struct agentcg_events_t {
    stream: EventStream,
    current: Current,
    log: Log,
}

impl Logged for agentcg_events_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

/// Fills in the defaults: all kinds of events of all processes. `size` is `sizeof` the struct. NULL
/// is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_event_filter_init(
    filter: *mut agentcg_event_filter_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(filter, size) }
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
    let subscribe = |runtime: &agentcg_runtime_t| {
        // SAFETY: the caller passes NULL or an initialised struct.
        let filter = unsafe { options::read(filter) }?;
        // SAFETY: its lists are as long as they say.
        let filter = unsafe { filter.to_core() }?;
        let stream = runtime.runtime.subscribe(filter)?;
        Ok(agentcg_events_t { stream, current: Current::default(), log: runtime.log.clone() })
    };
    // SAFETY: the caller passes NULL, or a runtime that it has not freed and a place for a pointer.
    unsafe { make(runtime, "runtime", out, subscribe) }
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
    let missing = |events: &agentcg_events_t| {
        let missing = events.stream.missing().iter();
        let list: Vec<_> = missing
            .map(|m| serde_json::json!({"what": m.what, "error": m.error.to_string()}))
            .collect();
        args::json(&list)
    };
    // SAFETY: the caller passes NULL, or a stream that it has not freed and that no other thread
    // uses, and a place for a pointer.
    unsafe { give_text(events, "events", json_out, missing) }
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
    // SAFETY: the caller passes NULL, or a stream that it has not freed and that no other thread
    // uses, and a place for a pointer.
    unsafe { give_text(events, "events", json_out, |e| args::json(&e.stream.stats()?)) }
}

/// A descriptor for poll(2) or an event loop that is readable when events wait. Then call
/// `agentcg_events_next` with a time-out of 0 until it gives NULL: events that were taken from the
/// kernel already do not show here. It belongs to the stream: do not read from it, do not close it.
/// -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_fd(events: *const agentcg_events_t) -> i32 {
    // SAFETY: the caller passes NULL or a stream that it has not freed.
    unsafe { events.as_ref() }.map_or(-1, |e| e.stream.as_fd().as_raw_fd())
}

/// The next event; lost ones are reported as AGENTCG_EVENT_DROPPED. Waits at most `timeout_ms`, for
/// ever with -1, not at all with 0; signals do not end the wait.
///
/// `out` receives NULL when the time is over, or the event, which belongs to the stream and lives
/// until the next call of this function, or until the stream is freed.
///
/// Errors: BPF or OS when the kernel's buffer cannot be read; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_next(
    events: *mut agentcg_events_t,
    timeout_ms: i64,
    out: *mut *const agentcg_event_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::place(out, "out") }?;
        *out = ptr::null();
        // SAFETY: the caller passes NULL or a stream that it has not freed and that no other thread
        // uses.
        let events = unsafe { args::handle_mut(events, "events") }?;
        let stream = &mut events.stream;
        let event = events.log.heard(|| match u64::try_from(timeout_ms) {
            Ok(0) => stream.try_next(),
            Ok(ms) => stream.next_timeout(Duration::from_millis(ms)),
            Err(_) => stream.next().transpose(),
        })?;
        if let Some(event) = event {
            *out = events.current.keep(event);
        }
        Ok(())
    })
}

/// The event that `agentcg_events_next` gave last, as one line of JSON described by
/// `docs/events.schema.json`.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`; NULL before the
/// first event.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_json(
    events: *const agentcg_events_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    let last = |events: &agentcg_events_t| Ok(events.current.event().map(Event::to_json));
    // SAFETY: the caller passes NULL, or a stream that it has not freed and that no other thread
    // uses, and a place for a pointer.
    unsafe { give_text(events, "events", json_out, last) }
}

/// Detaches the probes. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_events_free(events: *mut agentcg_events_t) {
    // SAFETY: the caller passes NULL or a stream that it got, once.
    unsafe { free_logged(events) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        // SAFETY: empty lists.
        let ours = unsafe { agentcg_event_filter_t::DEFAULTS.to_core() }.unwrap();
        assert_eq!(format!("{ours:?}"), format!("{:?}", EventFilter::default()));
    }
}
