//! `agentcg_session_t`.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;

use agentcg_core::{Limit, Priority, Session, SessionConfig};

use crate::args;
use crate::error::{Result, agentcg_error_t, free, guard};
use crate::runtime::agentcg_runtime_t;

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

/// A limit that is left as the kernel has it.
pub const AGENTCG_UNSET: u64 = u64::MAX;
/// No limit: `max` in the kernel's file.
pub const AGENTCG_UNLIMITED: u64 = u64::MAX - 1;

/// Priority and limits of a session. Fill it with `agentcg_session_config_init`, then set what you
/// want: 0 is a limit too. It may change with the SONAME.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_session_config_t {
    /// An `agentcg_priority_t`.
    pub priority: u32,
    /// `cpu.weight`, 1 to 10000; 0 (unset): that of the priority.
    pub cpu_weight: u32,
    /// CPUs' worth of time (`cpu.max`), as in 1.5; 0 (unset): no limit.
    pub cpu_max: f64,
    /// `memory.low` in bytes, AGENTCG_UNLIMITED or AGENTCG_UNSET; so are the next three.
    pub memory_low: u64,
    /// `memory.high`.
    pub memory_high: u64,
    /// `memory.max`.
    pub memory_max: u64,
    /// `memory.swap.max`.
    pub swap_max: u64,
    /// `pids.max`: processes and threads, AGENTCG_UNLIMITED or AGENTCG_UNSET.
    pub pids_max: u64,
}

impl agentcg_session_config_t {
    const UNSET: Self = Self {
        priority: agentcg_priority_t::AGENTCG_PRIORITY_NORMAL as u32,
        cpu_weight: 0,
        cpu_max: 0.0,
        memory_low: AGENTCG_UNSET,
        memory_high: AGENTCG_UNSET,
        memory_max: AGENTCG_UNSET,
        swap_max: AGENTCG_UNSET,
        pids_max: AGENTCG_UNSET,
    };

    fn to_core(self) -> Result<SessionConfig> {
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
        config.limits.cpu_weight = (self.cpu_weight != 0).then_some(self.cpu_weight);
        config.limits.cpu_max = (self.cpu_max != 0.0).then_some(self.cpu_max);
        config.limits.memory_low = limit(self.memory_low);
        config.limits.memory_high = limit(self.memory_high);
        config.limits.memory_max = limit(self.memory_max);
        config.limits.swap_max = limit(self.swap_max);
        config.limits.pids_max = limit(self.pids_max);
        Ok(config)
    }
}

fn limit(value: u64) -> Option<Limit> {
    match value {
        AGENTCG_UNSET => None,
        AGENTCG_UNLIMITED => Some(Limit::Max),
        value => Some(Limit::Value(value)),
    }
}

/// One agent's cgroup. Several threads may use it at once. It may outlive its runtime's handle.
#[derive(Debug)]
pub struct agentcg_session_t {
    pub(crate) session: Session,
    path: CString,
}

/// Fills in the defaults: priority normal, nothing limited. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_config_init(config: *mut agentcg_session_config_t) {
    if !config.is_null() {
        // SAFETY: the caller's struct, which need not be initialised.
        unsafe { config.write(agentcg_session_config_t::UNSET) }
    }
}

/// Makes a session: the cgroup `name` below the runtime's root.
///
/// `name` is one path component in UTF-8, at most 128 bytes, not starting with a dot and without
/// the prefix of a kernel file (`memory.`). `config` NULL: the defaults. `out` receives the session,
/// which the caller frees with `agentcg_session_free`.
///
/// Errors, with nothing left behind: INVALID_INPUT for a bad name or limit; ALREADY_EXISTS;
/// UNSUPPORTED for a limit whose controller the root does not have; PERMISSION_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_open(
    runtime: *const agentcg_runtime_t,
    name: *const c_char,
    config: *const agentcg_session_config_t,
    out: *mut *mut agentcg_session_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(out, "out") }?;
        // SAFETY: the caller passes NULL or a runtime that it has not freed.
        let runtime = unsafe { args::handle(runtime, "runtime") }?;
        // SAFETY: the caller passes NULL or a C string.
        let name = unsafe { args::text(name, "name") }?;
        // SAFETY: the caller passes NULL or an initialised struct.
        let config = unsafe { config.as_ref() }.unwrap_or(&agentcg_session_config_t::UNSET);
        let session = runtime.0.session(name, config.to_core()?)?;
        let path = CString::new(session.path().as_os_str().as_bytes()).unwrap_or_default();
        *out = Box::into_raw(Box::new(agentcg_session_t { session, path }));
        Ok(())
    })
}

/// The path of the session's cgroup directory. It belongs to the session and lives as long as that.
/// NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_path(session: *const agentcg_session_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a session that it has not freed.
    unsafe { session.as_ref() }.map_or(std::ptr::null(), |s| s.path.as_ptr())
}

/// What the session has used so far, as a JSON object: `cpu_user_us`, `cpu_system_us`,
/// `cpu_throttled_us`, `memory_current_bytes`, `memory_peak_bytes`, `swap_peak_bytes`,
/// `memory_stall_us`, `cpu_stall_us`, `io_stall_us`, `io_read_bytes`, `io_write_bytes`, `pids_peak`,
/// `memory_high_events`, `oom_kills`. What the kernel did not give, as without the memory
/// controller, is left out, and named with the reason in `unavailable`.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_usage_json(
    session: *const agentcg_session_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        // SAFETY: the caller passes NULL or a session that it has not freed.
        let session = unsafe { args::handle(session, "session") }?;
        *out = args::string(session.session.usage()?.to_json())?;
        Ok(())
    })
}

/// Ends a session: processes that are left are moved back to where they came from, and the cgroup
/// is removed. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_free(session: *mut agentcg_session_t) {
    // SAFETY: the caller passes NULL or a session that it got, once.
    unsafe { free(session) }
}
