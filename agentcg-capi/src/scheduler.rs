//! `agentcg_scheduler_t`.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use agentcg_core::{Scheduler, SchedulerConfig, SchedulerScope};

use crate::args;
use crate::error::{Logged, Result, agentcg_error_t, free_logged, give_text, make};
use crate::log::Log;
use crate::options::{self, Options};
use crate::runtime::agentcg_runtime_t;

/// Which tasks the scheduler takes over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_scheduler_scope_t {
    /// Every normal task of the machine.
    AGENTCG_SCHEDULER_ALL = 0,
    /// Only processes placed in the runtime's sessions, and their children.
    AGENTCG_SCHEDULER_AGENTS = 1,
}

/// How to schedule. Fill it with `agentcg_scheduler_options_init`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_scheduler_options_t {
    /// The size of the struct; `agentcg_scheduler_options_init` sets it.
    pub size: usize,
    /// How long a task runs before others are looked at: 100 to 1000000 µs, default 5000.
    pub slice_us: u64,
    /// An `agentcg_scheduler_scope_t`.
    pub scope: u32,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_scheduler_options_t {
    const NAME: &'static str = "scheduler_options";
    const FIRST_SIZE: usize = offset_of!(Self, scope) + size_of::<u32>();
    /// The numbers are those of [`SchedulerConfig::default`]; a test compares them.
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        slice_us: 5000,
        scope: agentcg_scheduler_scope_t::AGENTCG_SCHEDULER_ALL as u32,
    };
}

impl agentcg_scheduler_options_t {
    fn to_core(self) -> Result<SchedulerConfig> {
        let mut config = SchedulerConfig::default();
        config.slice = Duration::from_micros(self.slice_us);
        config.scope = match self.scope {
            0 => SchedulerScope::All,
            1 => SchedulerScope::Agents,
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid scope {n}: expected an agentcg_scheduler_scope_t"
                )));
            }
        };
        Ok(config)
    }
}

/// The attached sched_ext scheduler. One thread at a time may use it.
#[derive(Debug)]
pub struct agentcg_scheduler_t {
    scheduler: Scheduler,
    log: Log,
}

impl Logged for agentcg_scheduler_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

/// Fills in the defaults: a slice of 5 ms, all tasks. `size` is `sizeof` the struct. NULL is
/// ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_scheduler_options_init(
    options: *mut agentcg_scheduler_options_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(options, size) }
}

/// Attaches a CPU scheduler that shares the CPU by `cpu.weight`. Needs root and a kernel with
/// sched_ext (6.16). There can be one on a machine (`/sys/kernel/sched_ext/state`).
///
/// `options` NULL: the defaults. `out` receives the scheduler, which the caller frees with
/// `agentcg_scheduler_free`.
///
/// Errors: UNSUPPORTED without sched_ext; BUSY when another scheduler is attached, naming it;
/// INVALID_INPUT for a bad slice or scope; PERMISSION_DENIED; BPF.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_start_scheduler(
    runtime: *const agentcg_runtime_t,
    options: *const agentcg_scheduler_options_t,
    out: *mut *mut agentcg_scheduler_t,
) -> *mut agentcg_error_t {
    let start = |runtime: &agentcg_runtime_t| {
        // SAFETY: the caller passes NULL or an initialised struct.
        let config = unsafe { options::read(options) }?.to_core()?;
        let scheduler = runtime.runtime.start_scheduler(config)?;
        Ok(agentcg_scheduler_t { scheduler, log: runtime.log.clone() })
    };
    // SAFETY: the caller passes NULL, or a runtime that it has not freed and a place for a pointer.
    unsafe { make(runtime, "runtime", out, start) }
}

/// Why the kernel detached the scheduler, as JSON (`kind`, `code`, `reason`, `message`, `dump`), or
/// NULL while it is attached.
///
/// `json_out` receives NULL or a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_scheduler_exited(
    scheduler: *mut agentcg_scheduler_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    let exited = |scheduler: &agentcg_scheduler_t| {
        scheduler.scheduler.exited().map(|exit| args::json(&exit)).transpose()
    };
    // SAFETY: the caller passes NULL, or a scheduler that it has not freed and that no other thread
    // uses, and a place for a pointer.
    unsafe { give_text(scheduler, "scheduler", json_out, exited) }
}

/// Counters since it was attached, as JSON: `direct` (wake-ups straight to an idle CPU), `queued`,
/// `kept` (times a task ran on because nobody stood before it), `displaced` (times a CPU had to
/// choose again because another had put back a task that came first).
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_scheduler_stats_json(
    scheduler: *mut agentcg_scheduler_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL, or a scheduler that it has not freed and that no other thread
    // uses, and a place for a pointer.
    unsafe { give_text(scheduler, "scheduler", json_out, |s| args::json(&s.scheduler.stats())) }
}

/// A descriptor for poll(2) that becomes readable when the kernel detaches the scheduler. It belongs
/// to the scheduler: do not read from it, do not close it. -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_scheduler_fd(scheduler: *const agentcg_scheduler_t) -> i32 {
    // SAFETY: the caller passes NULL or a scheduler that it has not freed.
    unsafe { scheduler.as_ref() }.map_or(-1, |s| s.scheduler.as_fd().as_raw_fd())
}

/// Detaches the scheduler; the kernel's own takes over. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_scheduler_free(scheduler: *mut agentcg_scheduler_t) {
    // SAFETY: the caller passes NULL or a scheduler that it got, once.
    unsafe { free_logged(scheduler) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        let ours = agentcg_scheduler_options_t::DEFAULTS.to_core().unwrap();
        assert_eq!(format!("{ours:?}"), format!("{:?}", SchedulerConfig::default()));
    }
}
