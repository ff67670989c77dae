//! `agentcg_outcome_t`.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use agentcg_core::{Cause, Effect, Ended, Outcome, Scope, Verdict};

use crate::args;
use crate::error::{agentcg_error_t, free};
use crate::limits::AGENTCG_UNSET;
use crate::usage::agentcg_usage_t;

/// What a call came to, in one word. Later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_verdict_t {
    /// Not known to this version; also that of NULL.
    AGENTCG_VERDICT_UNKNOWN = 0,
    /// It exited with status 0 and nothing of it was killed.
    AGENTCG_VERDICT_COMPLETED = 1,
    /// It exited with another status.
    AGENTCG_VERDICT_FAILED = 2,
    /// A signal that was not ours ended it.
    AGENTCG_VERDICT_SIGNALED = 3,
    /// The OOM killer took it, or a process of it, whatever its exit status.
    AGENTCG_VERDICT_OOM_KILLED = 4,
    /// Its time was over.
    AGENTCG_VERDICT_TIMED_OUT = 5,
    /// It failed, and forks of it had been refused by `pids.max`.
    AGENTCG_VERDICT_PIDS_EXHAUSTED = 6,
    /// It was cancelled, through a handle or by `agentcg kill`.
    AGENTCG_VERDICT_CANCELLED = 7,
    /// The program was never started.
    AGENTCG_VERDICT_SPAWN_FAILED = 8,
}

/// The level of the cgroup tree whose limit was met.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_scope_t {
    /// The call's own cgroup.
    AGENTCG_SCOPE_CALL = 0,
    /// Its session, which it shares with other calls.
    AGENTCG_SCOPE_SESSION = 1,
    /// A cgroup above the session.
    AGENTCG_SCOPE_ANCESTOR = 2,
    /// The machine; inside a container also the cgroups that are not visible there.
    AGENTCG_SCOPE_HOST = 3,
}

/// What a cause did to the call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_effect_t {
    /// It ended it.
    AGENTCG_EFFECT_ENDED = 0,
    /// It slowed it, or took a process of it, without being what ended it.
    AGENTCG_EFFECT_HAMPERED = 1,
    /// It was met while the call ran, but others may be the ones that it hit.
    AGENTCG_EFFECT_POSSIBLE = 2,
}

/// The resource that ended or hampered a call. Its strings belong to the outcome. Later versions may
/// add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_cause_t {
    /// The kernel file of the limit, `memory.max`, `pids.max`, ...; `timeout`; or `memory` for the
    /// machine's.
    pub limit: *const c_char,
    /// What the limit was, bytes; AGENTCG_UNSET for limits that are no sizes.
    pub limit_bytes: u64,
    /// What the limit was, where it is no size: processes, CPUs, ms for `timeout`; else negative.
    pub limit_value: f64,
    /// The cgroup whose limit it was, or NULL.
    pub cgroup: *const c_char,
    /// The command name of the process that the OOM killer chose; NULL where the kernel did not say
    /// it.
    pub victim_comm: *const c_char,
    /// Its process id, or 0.
    pub victim_pid: i32,
    /// An `agentcg_scope_t`: whose limit it was.
    pub scope: u32,
    /// An `agentcg_effect_t`.
    pub effect: u32,
}

/// Output that was kept: all, or the head and the tail. Later versions may add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_output_t {
    /// What was kept, any bytes, no NUL at the end. It belongs to the outcome.
    pub bytes: *const c_char,
    /// How many.
    pub length: usize,
    /// Bytes written by the call in all.
    pub total: u64,
    /// Where bytes are missing: so many bytes into `bytes`; SIZE_MAX when nothing is.
    pub cut_at: usize,
}

/// What came of a tool call. It never changes: any number of threads may read it.
#[derive(Debug)]
pub struct agentcg_outcome_t {
    pub(crate) outcome: Outcome,
    advice: CString,
    error: Option<agentcg_error_t>,
    cause: Option<Texts>,
    json: OnceLock<CString>,
}

/// What a cause says in words, as C has it.
#[derive(Debug)]
struct Texts {
    limit: CString,
    cgroup: Option<CString>,
    comm: Option<CString>,
}

impl Texts {
    fn of(cause: &Cause) -> Self {
        Self {
            limit: args::c_string(cause.limit),
            cgroup: cause.cgroup.as_ref().map(args::c_string),
            comm: cause.victim.as_ref().map(|v| args::c_string(&v.comm)),
        }
    }
}

impl agentcg_outcome_t {
    pub(crate) fn new(outcome: Outcome) -> Self {
        Self {
            advice: args::c_string(&outcome.advice),
            error: match &outcome.ended {
                Ended::NotStarted(error) => Some(error.clone().into()),
                _ => None,
            },
            cause: outcome.cause.as_ref().map(Texts::of),
            json: OnceLock::new(),
            outcome,
        }
    }
}

fn verdict(outcome: &Outcome) -> agentcg_verdict_t {
    match outcome.verdict {
        Verdict::Completed => agentcg_verdict_t::AGENTCG_VERDICT_COMPLETED,
        Verdict::Failed => agentcg_verdict_t::AGENTCG_VERDICT_FAILED,
        Verdict::Signaled => agentcg_verdict_t::AGENTCG_VERDICT_SIGNALED,
        Verdict::OomKilled => agentcg_verdict_t::AGENTCG_VERDICT_OOM_KILLED,
        Verdict::TimedOut => agentcg_verdict_t::AGENTCG_VERDICT_TIMED_OUT,
        Verdict::PidsExhausted => agentcg_verdict_t::AGENTCG_VERDICT_PIDS_EXHAUSTED,
        Verdict::Cancelled => agentcg_verdict_t::AGENTCG_VERDICT_CANCELLED,
        Verdict::SpawnFailed => agentcg_verdict_t::AGENTCG_VERDICT_SPAWN_FAILED,
        _ => agentcg_verdict_t::AGENTCG_VERDICT_UNKNOWN,
    }
}

/// What the call came to. AGENTCG_VERDICT_UNKNOWN for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_verdict(
    outcome: *const agentcg_outcome_t,
) -> agentcg_verdict_t {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }
        .map_or(agentcg_verdict_t::AGENTCG_VERDICT_UNKNOWN, |o| verdict(&o.outcome))
}

/// The name of a verdict as the JSON has it, `oom_killed`; `unknown` for a number that is none.
/// Static: it must not be freed. Callable from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn agentcg_verdict_name(verdict: u32) -> *const c_char {
    const NAMES: [&CStr; 9] = [
        c"unknown",
        c"completed",
        c"failed",
        c"signaled",
        c"oom_killed",
        c"timed_out",
        c"pids_exhausted",
        c"cancelled",
        c"spawn_failed",
    ];
    NAMES.get(verdict as usize).unwrap_or(&NAMES[0]).as_ptr()
}

/// The exit status of the main process; -1 when a signal ended it, it was never started, or its
/// status is not known, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_exit_code(outcome: *const agentcg_outcome_t) -> i32 {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.and_then(|o| o.outcome.exit_code()).unwrap_or(-1)
}

/// The signal that ended the main process, or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_signal(outcome: *const agentcg_outcome_t) -> i32 {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.and_then(|o| o.outcome.signal()).unwrap_or(0)
}

/// The status that a shell would show: that of the command, 128 + n for signal n, 127 for a program
/// that was not found, 126 for one that cannot be executed; -1 when it is not known, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_shell_status(outcome: *const agentcg_outcome_t) -> i32 {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.and_then(|o| o.outcome.shell_status()).unwrap_or(-1)
}

/// From the start until the main process had ended, µs. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_duration_us(outcome: *const agentcg_outcome_t) -> u64 {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.map_or(0, |o| o.outcome.duration.as_micros() as u64)
}

/// The wait for admission before the start, µs. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_queued_us(outcome: *const agentcg_outcome_t) -> u64 {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.map_or(0, |o| o.outcome.queued.as_micros() as u64)
}

/// What an agent should do about it, in words; empty when there is nothing to say. It belongs to the
/// outcome and lives as long as that. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_advice(
    outcome: *const agentcg_outcome_t,
) -> *const c_char {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.map_or(ptr::null(), |o| o.advice.as_ptr())
}

/// Why the program was never started (AGENTCG_VERDICT_SPAWN_FAILED): NOT_FOUND,
/// PERMISSION_DENIED, ... It belongs to the outcome: do not free it. NULL when it was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_error(
    outcome: *const agentcg_outcome_t,
) -> *const agentcg_error_t {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    let outcome = unsafe { outcome.as_ref() };
    outcome.and_then(|o| o.error.as_ref()).map_or(ptr::null(), ptr::from_ref)
}

/// What the call used, into the caller's struct; `size` is `sizeof` that. What the kernel did not
/// give is AGENTCG_UNSET; the JSON has the reasons. For NULL nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_usage(
    outcome: *const agentcg_outcome_t,
    usage_out: *mut agentcg_usage_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    if let Some(outcome) = unsafe { outcome.as_ref() } {
        let usage = agentcg_usage_t::from(&outcome.outcome.usage);
        // SAFETY: the caller's struct is as large as it says.
        unsafe { args::give(&usage, usage_out, size, agentcg_usage_t::FILL) };
    }
}

/// The resource behind the verdict, or that hampered the call, into the caller's struct; `size` is
/// `sizeof` that. False, and nothing is written, when there is none, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_cause(
    outcome: *const agentcg_outcome_t,
    cause_out: *mut agentcg_cause_t,
    size: usize,
) -> bool {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    let Some(outcome) = (unsafe { outcome.as_ref() }) else { return false };
    let (Some(cause), Some(texts)) = (&outcome.outcome.cause, &outcome.cause) else { return false };
    let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |t| t.as_ptr());
    let cause = agentcg_cause_t {
        limit: texts.limit.as_ptr(),
        limit_bytes: cause.limit_bytes.unwrap_or(AGENTCG_UNSET),
        limit_value: cause.limit_value.unwrap_or(-1.0),
        cgroup: text(&texts.cgroup),
        victim_comm: text(&texts.comm),
        victim_pid: cause.victim.as_ref().map_or(0, |v| v.pid),
        scope: match cause.scope {
            Scope::Call => agentcg_scope_t::AGENTCG_SCOPE_CALL,
            Scope::Session => agentcg_scope_t::AGENTCG_SCOPE_SESSION,
            Scope::Ancestor => agentcg_scope_t::AGENTCG_SCOPE_ANCESTOR,
            Scope::Host => agentcg_scope_t::AGENTCG_SCOPE_HOST,
        } as u32,
        effect: match cause.effect {
            Effect::Ended => agentcg_effect_t::AGENTCG_EFFECT_ENDED,
            Effect::Hampered => agentcg_effect_t::AGENTCG_EFFECT_HAMPERED,
            Effect::Possible => agentcg_effect_t::AGENTCG_EFFECT_POSSIBLE,
        } as u32,
    };
    // SAFETY: the caller's struct is as large as it says.
    unsafe { args::give(&cause, cause_out, size, 0) };
    true
}

/// Standard output (`fd` 1) or error (2) that was captured, into the caller's struct; `size` is
/// `sizeof` that. False, and nothing is written, when it was not captured, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_output(
    outcome: *const agentcg_outcome_t,
    fd: i32,
    output_out: *mut agentcg_output_t,
    size: usize,
) -> bool {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    let Some(outcome) = (unsafe { outcome.as_ref() }) else { return false };
    let captured = match fd {
        1 => &outcome.outcome.stdout,
        2 => &outcome.outcome.stderr,
        _ => return false,
    };
    let Some(captured) = captured else { return false };
    let output = agentcg_output_t {
        bytes: captured.bytes.as_ptr().cast(),
        length: captured.bytes.len(),
        total: captured.total,
        cut_at: captured.cut_at.unwrap_or(usize::MAX),
    };
    // SAFETY: the caller's struct is as large as it says.
    unsafe { args::give(&output, output_out, size, 0) };
    true
}

/// The outcome as JSON on one line, as `agentcg run --report` writes it, described by
/// `docs/outcome.schema.json`; without the captured output. It belongs to the outcome and lives as
/// long as that. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_json(outcome: *const agentcg_outcome_t) -> *const c_char {
    // SAFETY: the caller passes NULL or an outcome that it has not freed.
    unsafe { outcome.as_ref() }.map_or(ptr::null(), |o| {
        o.json.get_or_init(|| args::c_string(o.outcome.to_json())).as_ptr()
    })
}

/// Frees an outcome. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_outcome_free(outcome: *mut agentcg_outcome_t) {
    // SAFETY: the caller passes NULL or an outcome that it got, once.
    unsafe { free(outcome) }
}
