//! `agentcg_memory_t`.

use std::ffi::{CStr, c_char};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::time::Duration;

use agentcg_core::{MemcgConfig, MemoryBackend, MemoryProtection, MemoryRole, StuckAction};

use crate::args;
use crate::error::{Logged, Result, agentcg_error_t, free_logged, give_text, make, with};
use crate::log::Log;
use crate::options::{self, Options};
use crate::runtime::agentcg_runtime_t;

/// The mechanism behind memory protection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_memory_backend_t {
    /// The best one that there is.
    AGENTCG_MEMORY_AUTO = 0,
    /// BPF hooks in the kernel's memory controller.
    AGENTCG_MEMORY_MEMCG_BPF_OPS = 1,
    /// PSI triggers and the cgroup v2 files.
    AGENTCG_MEMORY_CGROUP = 2,
}

/// What is done about a cgroup that stands still above its `memory.high`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_stuck_action_t {
    /// Only tell: in the statistics and the log.
    AGENTCG_STUCK_REPORT = 0,
    /// Freeze it until the protection ends or someone thaws it.
    AGENTCG_STUCK_FREEZE = 1,
    /// Set its `memory.high` to `max` until the protection ends; its `memory.max` holds then.
    AGENTCG_STUCK_LIFT = 2,
}

/// On which side of the protection a cgroup is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_memory_role_t {
    /// Protected while it stalls.
    AGENTCG_MEMORY_HIGH = 0,
    /// Held back while a high one stalls.
    AGENTCG_MEMORY_LOW = 1,
}

/// Whom to protect against whom, and how. Fill it with `agentcg_memcg_options_init`, then set `high`.
/// The library copies what it needs before it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_memcg_options_t {
    /// The size of the struct; `agentcg_memcg_options_init` sets it.
    pub size: usize,
    /// Paths of the cgroups to protect; at least one.
    pub high: *const *const c_char,
    /// How many.
    pub nr_high: usize,
    /// Paths of the cgroups to hold back while a high one stalls; may be NULL with `nr_low` 0.
    pub low: *const *const c_char,
    /// How many.
    pub nr_low: usize,
    /// The longest delay of an allocation batch of a low one that has a quarter more than its part,
    /// ms, at most 2000; less above the part in proportion, none below. 0 leaves them alone. Default
    /// 50. The backend `cgroup` sets `memory.high`, and the kernel chooses the delay.
    pub delay_ms: u64,
    /// How long all is protected after the last stall, ms, 100 to 60000: then less, while others
    /// press; up to 32 times longer while that is missed. Default 1000.
    pub window_ms: u64,
    /// So many page faults a second of a high one count as a stall while memory is short; needs
    /// kernel 6.16. Default 0: faults do not count.
    pub threshold: u64,
    /// A cgroup that meets its `memory.high` for so long without progress is stuck, ms, at least
    /// 5000. Default 10000.
    pub stuck_after_ms: u64,
    /// An `agentcg_memory_backend_t`. Default: the best.
    pub backend: u32,
    /// An `agentcg_stuck_action_t`: what is done then. Default: it is only told.
    pub when_stuck: u32,
    /// Protect with `memory.low`, which reclaim honours while it can. Default true.
    pub below_low: bool,
    /// Protect with `memory.min`, which reclaim always honours, at the risk that others are killed.
    /// Default false.
    pub below_min: bool,
    /// Freeze low ones for 200 ms of each 600 when nothing else helps. Default true.
    pub freeze: bool,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_memcg_options_t {
    const NAME: &'static str = "memcg_options";
    const FIRST_SIZE: usize = offset_of!(Self, freeze) + size_of::<bool>();
    /// The numbers are those of [`MemcgConfig::default`]; a test compares them.
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        high: ptr::null(),
        nr_high: 0,
        low: ptr::null(),
        nr_low: 0,
        delay_ms: 50,
        window_ms: 1000,
        threshold: 0,
        stuck_after_ms: 10_000,
        backend: agentcg_memory_backend_t::AGENTCG_MEMORY_AUTO as u32,
        when_stuck: agentcg_stuck_action_t::AGENTCG_STUCK_REPORT as u32,
        below_low: true,
        below_min: false,
        freeze: true,
    };
}

impl agentcg_memcg_options_t {
    /// # Safety
    /// The lists are as long as they say and contain C strings.
    unsafe fn to_core(self) -> Result<MemcgConfig> {
        let mut config = MemcgConfig::default();
        // SAFETY: required of the caller.
        config.high = unsafe { args::paths(self.high, self.nr_high, "high") }?;
        // SAFETY: required of the caller.
        config.low = unsafe { args::paths(self.low, self.nr_low, "low") }?;
        config.delay = Duration::from_millis(self.delay_ms);
        config.window = Duration::from_millis(self.window_ms);
        config.threshold = self.threshold;
        config.below_low = self.below_low;
        config.below_min = self.below_min;
        config.backend = match self.backend {
            0 => MemoryBackend::Auto,
            1 => MemoryBackend::MemcgBpfOps,
            2 => MemoryBackend::Cgroup,
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid backend {n}: expected an agentcg_memory_backend_t"
                )));
            }
        };
        config.freeze = self.freeze;
        config.stuck_after = Duration::from_millis(self.stuck_after_ms);
        config.when_stuck = match self.when_stuck {
            0 => StuckAction::Report,
            1 => StuckAction::Freeze,
            2 => StuckAction::Lift,
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid when_stuck {n}: expected an agentcg_stuck_action_t"
                )));
            }
        };
        Ok(config)
    }
}

/// Running memory protection. Several threads may use it at once.
#[derive(Debug)]
pub struct agentcg_memory_t {
    protection: MemoryProtection,
    log: Log,
}

impl Logged for agentcg_memory_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

/// Fills in the defaults, with nobody to protect. `size` is `sizeof` the struct. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memcg_options_init(
    options: *mut agentcg_memcg_options_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(options, size) }
}

/// Starts to protect the memory of some cgroups against others, while they stall for it. Needs the
/// memory controller and PSI. While the runtime's scheduler is attached, low ones that do not let the
/// high ones be are held back on the CPU too.
///
/// `out` receives the protection, which the caller frees with `agentcg_memory_free`.
///
/// Errors: INVALID_INPUT for overlapping cgroups, bad options and what is no cgroup; NOT_FOUND;
/// UNSUPPORTED without memory controller, PSI, the backend, or what a threshold needs; BUSY when one of the cgroups is
/// protected already; PERMISSION_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_attach_memcg_ops(
    runtime: *const agentcg_runtime_t,
    options: *const agentcg_memcg_options_t,
    out: *mut *mut agentcg_memory_t,
) -> *mut agentcg_error_t {
    let attach = |runtime: &agentcg_runtime_t| {
        // SAFETY: the caller passes NULL or an initialised struct.
        let options = unsafe { options::read(options) }?;
        // SAFETY: its lists are as long as they say.
        let config = unsafe { options.to_core() }?;
        let protection = runtime.runtime.attach_memcg_ops(config)?;
        Ok(agentcg_memory_t { protection, log: runtime.log.clone() })
    };
    // SAFETY: the caller passes NULL, or a runtime that it has not freed and a place for a pointer.
    unsafe { make(runtime, "runtime", out, attach) }
}

/// The name of the mechanism in use: `memcg_bpf_ops` or `cgroup`. Static: it must not be freed. NULL
/// for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memory_backend(memory: *const agentcg_memory_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a protection that it has not freed.
    unsafe { memory.as_ref() }.map_or(ptr::null(), |m| {
        let name: &CStr = match m.protection.backend() {
            MemoryBackend::Auto => c"auto",
            MemoryBackend::MemcgBpfOps => c"memcg_bpf_ops",
            MemoryBackend::Cgroup => c"cgroup",
        };
        name.as_ptr()
    })
}

/// Takes one more cgroup up, in an `agentcg_memory_role_t`. One that is removed later is taken up
/// again when it comes back.
///
/// Errors: those of `agentcg_attach_memcg_ops` for this cgroup.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memory_add(
    memory: *const agentcg_memory_t,
    cgroup: *const c_char,
    role: u32,
) -> *mut agentcg_error_t {
    let add = |memory: &agentcg_memory_t| {
        // SAFETY: the caller passes NULL or a C string.
        let cgroup = unsafe { args::path(cgroup, "cgroup") }?;
        let role = match role {
            0 => MemoryRole::High,
            1 => MemoryRole::Low,
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid role {n}: expected an agentcg_memory_role_t"
                )));
            }
        };
        Ok(memory.protection.add(cgroup, role)?)
    };
    // SAFETY: the caller passes NULL or a protection that it has not freed.
    unsafe { with(memory, "memory", add) }
}

/// Lets go of a cgroup; what was changed in it is put back.
///
/// Errors: NOT_FOUND when the protection does not have it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memory_remove(
    memory: *const agentcg_memory_t,
    cgroup: *const c_char,
) -> *mut agentcg_error_t {
    let remove = |memory: &agentcg_memory_t| {
        // SAFETY: the caller passes NULL or a C string.
        let cgroup = unsafe { args::path(cgroup, "cgroup") }?;
        Ok(memory.protection.remove(cgroup)?)
    };
    // SAFETY: the caller passes NULL or a protection that it has not freed.
    unsafe { with(memory, "memory", remove) }
}

/// What the protection has done so far, as JSON: `backend`, `sees_reclaim`, `active`, `stalls`,
/// `ignored`, `windows`, `protected_ms`, `sessions` (by cgroup), `stuck`, `recent` (the last windows);
/// docs/memory.md says what each is.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memory_stats_json(
    memory: *const agentcg_memory_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL, or a protection that it has not freed and a place for a pointer.
    unsafe { give_text(memory, "memory", json_out, |m| args::json(&m.protection.stats())) }
}

/// Ends the protection and puts back every value that it changed. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_memory_free(memory: *mut agentcg_memory_t) {
    // SAFETY: the caller passes NULL or a protection that it got, once.
    unsafe { free_logged(memory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        // SAFETY: empty lists.
        let ours = unsafe { agentcg_memcg_options_t::DEFAULTS.to_core() }.unwrap();
        assert_eq!(format!("{ours:?}"), format!("{:?}", MemcgConfig::default()));
    }
}
