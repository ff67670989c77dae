//! `agentcg_session_t`.

use std::ffi::{CString, c_char};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::time::Duration;

use agentcg_core::{HintClasses, Priority, Session, SessionConfig};

use crate::args;
use crate::error::{Logged, Result, agentcg_error_t, free_logged, give_text, make, with};
use crate::limits::{AGENTCG_UNSET, agentcg_limits_t};
use crate::log::Log;
use crate::options::{self, Options};
use crate::runtime::{agentcg_runtime_t, capacity};
use crate::usage::agentcg_usage_t;

/// How a session stands against the others when CPU or memory is short.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_priority_t {
    /// `cpu.weight` 100, the kernel's default.
    AGENTCG_PRIORITY_NORMAL = 0,
    /// Served first: `cpu.weight` 150.
    AGENTCG_PRIORITY_HIGH = 1,
    /// Yields to the others: `cpu.weight` 50.
    AGENTCG_PRIORITY_LOW = 2,
}

/// Priority and limits of a session. Fill it with `agentcg_session_options_init`. The library copies
/// what it needs before it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_session_options_t {
    /// The size of the struct; `agentcg_session_options_init` sets it.
    pub size: usize,
    /// Of the whole session; NULL: none.
    pub limits: *const agentcg_limits_t,
    /// Of the cgroup `agent`, in which the harness lives beside its tool calls; NULL: none. Without
    /// a `memory_low` it is unlimited: pressure inside the session takes from the calls first.
    pub agent_limits: *const agentcg_limits_t,
    /// Of each tool call that does not say otherwise; NULL: none.
    pub call_limits: *const agentcg_limits_t,
    /// What the calls of the session may need together, by their limits; others wait. Bytes of
    /// memory; AGENTCG_UNSET (the default): not bounded.
    pub capacity_memory: u64,
    /// As `capacity_memory`, in calls at the same time.
    pub capacity_calls: u64,
    /// As `capacity_memory`, in CPUs; 0 (the default): not bounded.
    pub capacity_cpus: f64,
    /// What `memory:low` in a hint means, bytes. Default 512 MiB.
    pub hint_low: u64,
    /// What `memory:medium` means. Default 2 GiB.
    pub hint_medium: u64,
    /// What `memory:high` means. Default 8 GiB.
    pub hint_high: u64,
    /// The longest time that a hint may ask for, ms; AGENTCG_UNSET (the default): any.
    pub time_max_ms: u64,
    /// An `agentcg_priority_t`. Default AGENTCG_PRIORITY_NORMAL.
    pub priority: u32,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_session_options_t {
    const NAME: &'static str = "session_options";
    const FIRST_SIZE: usize = offset_of!(Self, priority) + size_of::<u32>();
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        limits: ptr::null(),
        agent_limits: ptr::null(),
        call_limits: ptr::null(),
        capacity_memory: AGENTCG_UNSET,
        capacity_calls: AGENTCG_UNSET,
        capacity_cpus: 0.0,
        hint_low: 512 << 20,
        hint_medium: 2 << 30,
        hint_high: 8 << 30,
        time_max_ms: AGENTCG_UNSET,
        priority: agentcg_priority_t::AGENTCG_PRIORITY_NORMAL as u32,
    };
}

impl agentcg_session_options_t {
    /// # Safety
    /// The limits are NULL or initialised.
    unsafe fn to_core(self) -> Result<SessionConfig> {
        let mut config = SessionConfig::default();
        config.priority = match self.priority {
            0 => Priority::Normal,
            1 => Priority::High,
            2 => Priority::Low,
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid priority {n}: expected an agentcg_priority_t"
                )));
            }
        };
        // SAFETY: required of the caller.
        config.limits = unsafe { agentcg_limits_t::to_core(self.limits) }?;
        // SAFETY: required of the caller.
        config.agent = unsafe { agentcg_limits_t::to_core(self.agent_limits) }?;
        // SAFETY: required of the caller.
        config.call = unsafe { agentcg_limits_t::to_core(self.call_limits) }?;
        config.capacity = capacity(self.capacity_memory, self.capacity_calls, self.capacity_cpus);
        let mut classes = HintClasses::default();
        classes.low = self.hint_low;
        classes.medium = self.hint_medium;
        classes.high = self.hint_high;
        config.hint_classes = classes;
        config.time_max =
            (self.time_max_ms != AGENTCG_UNSET).then(|| Duration::from_millis(self.time_max_ms));
        Ok(config)
    }
}

/// One agent's cgroup. Several threads may use it at once. It may outlive its runtime's handle.
#[derive(Debug)]
pub struct agentcg_session_t {
    pub(crate) session: Session,
    name: CString,
    path: CString,
    pub(crate) log: Log,
}

impl Logged for agentcg_session_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

/// Fills in the defaults: priority normal, nothing limited. `size` is `sizeof` the struct. NULL is
/// ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_options_init(
    options: *mut agentcg_session_options_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(options, size) }
}

/// Makes a session: the cgroup `name` below the runtime's root.
///
/// `name` is one path component in UTF-8, at most 128 bytes, not starting with a dot and without
/// the prefix of a kernel file (`memory.`). `options` NULL: the defaults. `out` receives the
/// session, which the caller frees with `agentcg_session_free`.
///
/// Errors, with nothing left behind: INVALID_INPUT for a bad name or limit; ALREADY_EXISTS;
/// UNSUPPORTED for a limit whose controller the root does not have; PERMISSION_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_open(
    runtime: *const agentcg_runtime_t,
    name: *const c_char,
    options: *const agentcg_session_options_t,
    out: *mut *mut agentcg_session_t,
) -> *mut agentcg_error_t {
    let open = |runtime: &agentcg_runtime_t| {
        // SAFETY: the caller passes NULL or a C string.
        let name = unsafe { args::text(name, "name") }?;
        // SAFETY: the caller passes NULL or an initialised struct.
        let options = unsafe { options::read(options) }?;
        // SAFETY: its limits are NULL or initialised.
        let config = unsafe { options.to_core() }?;
        let session = runtime.runtime.session(name, config)?;
        Ok(agentcg_session_t {
            name: args::c_string(session.name()),
            path: args::c_string(session.path()),
            session,
            log: runtime.log.clone(),
        })
    };
    // SAFETY: the caller passes NULL, or a runtime that it has not freed and a place for a pointer.
    unsafe { make(runtime, "runtime", out, open) }
}

/// The session's name. It belongs to the session and lives as long as that. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_name(session: *const agentcg_session_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { session.as_ref() }.map_or(ptr::null(), |s| s.name.as_ptr())
}

/// The path of the session's cgroup directory. It belongs to the session and lives as long as that.
/// NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_path(session: *const agentcg_session_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { session.as_ref() }.map_or(ptr::null(), |s| s.path.as_ptr())
}

/// Changes limits while the session runs; what is unset stays as it is.
///
/// Errors: INVALID_INPUT; UNSUPPORTED for a limit whose controller the root does not have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_set_limits(
    session: *const agentcg_session_t,
    limits: *const agentcg_limits_t,
) -> *mut agentcg_error_t {
    let set = |session: &agentcg_session_t| {
        // SAFETY: the caller passes NULL or an initialised struct.
        Ok(session.session.set_limits(&unsafe { agentcg_limits_t::to_core(limits) }?)?)
    };
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", set) }
}

/// Moves the harness itself into the session's cgroup `agent`, and makes it the last that the OOM
/// killer takes: its `oom_score_adj` is lowered by 500 until the session ends (needs
/// CAP_SYS_RESOURCE; without it the score stays).
///
/// Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_move_agent(
    session: *const agentcg_session_t,
    pid: i32,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", |s| Ok(s.session.move_agent(pid)?)) }
}

/// What the session and its calls have used so far, into the caller's struct; `size` is `sizeof`
/// that. What the kernel did not give is AGENTCG_UNSET; `agentcg_session_usage_json` has the
/// reasons.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_usage(
    session: *const agentcg_session_t,
    usage_out: *mut agentcg_usage_t,
    size: usize,
) -> *mut agentcg_error_t {
    let read = |session: &agentcg_session_t| {
        // SAFETY: the caller passes NULL or a place.
        unsafe { args::place(usage_out.cast::<u8>(), "usage_out") }?;
        let usage = agentcg_usage_t::from(&session.session.usage()?);
        // SAFETY: the caller's struct is as large as it says.
        unsafe { args::give(&usage, usage_out, size, agentcg_usage_t::FILL) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", read) }
}

/// What the session has used so far, as a JSON object with the names of `agentcg_usage_t`. What the
/// kernel did not give, as without the memory controller, is left out, and named with the reason in
/// `unavailable`.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_usage_json(
    session: *const agentcg_session_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL, or a session that it has not freed and a place for a pointer.
    unsafe { give_text(session, "session", json_out, |s| Ok(s.session.usage()?.to_json())) }
}

/// Stops all processes of the session where they are, tool calls included (`cgroup.freeze`, kernel
/// 5.2), or lets them go on. Do not freeze the session that you are in.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_freeze(
    session: *const agentcg_session_t,
    frozen: bool,
) -> *mut agentcg_error_t {
    let freeze =
        |s: &agentcg_session_t| Ok(if frozen { s.session.freeze() } else { s.session.thaw() }?);
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", freeze) }
}

/// Kills the tool calls of the session, all of them, with the verdict `cancelled`, and what they
/// left in the background. The harness lives.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_kill_calls(
    session: *const agentcg_session_t,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", |s| Ok(s.session.kill_calls()?)) }
}

/// Kills every process of the session, the harness included (`cgroup.kill`, kernel 5.14). Do not
/// kill the session that you are in.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_kill(
    session: *const agentcg_session_t,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { with(session, "session", |s| Ok(s.session.kill()?)) }
}

/// Ends a session: tool calls that run are killed, other processes that are left are moved back to
/// where they came from, and the cgroup is removed. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_free(session: *mut agentcg_session_t) {
    // SAFETY: the caller passes NULL or a session that it got, once.
    unsafe { free_logged(session) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        // SAFETY: no limits.
        let ours = unsafe { agentcg_session_options_t::DEFAULTS.to_core() }.unwrap();
        assert_eq!(ours, SessionConfig::default());
    }
}
