//! `agentcg_limits_t`, and sizes as people write them.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};
use std::ptr;

use agentcg_core::{Limit, Limits};

use crate::args;
use crate::error::{Result, agentcg_error_t, guard};
use crate::options::{self, Options};

/// Not set: the default, or a limit that is left as the kernel has it. In a usage: the kernel did
/// not give this number.
pub const AGENTCG_UNSET: u64 = u64::MAX;
/// No limit: `max` in the kernel's file.
pub const AGENTCG_UNLIMITED: u64 = u64::MAX - 1;

/// What a session or a tool call may take. Fill it with `agentcg_limits_init`, then set what you
/// want: 0 is a limit too. The library copies what it needs before it returns.
///
/// Numbers are bytes, or processes and threads; AGENTCG_UNLIMITED or AGENTCG_UNSET (the default).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_limits_t {
    /// The size of the struct; `agentcg_limits_init` sets it.
    pub size: usize,
    /// `memory.min`: never reclaimed.
    pub memory_min: u64,
    /// `memory.low`: reclaimed only when nothing else is left.
    pub memory_low: u64,
    /// `memory.high`: above it the processes are slowed and reclaimed.
    pub memory_high: u64,
    /// `memory.max`: above it the OOM killer comes.
    pub memory_max: u64,
    /// `memory.swap.max`.
    pub swap_max: u64,
    /// `pids.max`: processes and threads.
    pub pids_max: u64,
    /// CPUs' worth of time (`cpu.max`), as in 1.5; 0 (unset): no limit.
    pub cpu_max: f64,
    /// `cpu.weight`, 1 to 10000; 0 (unset): that of the priority.
    pub cpu_weight: u32,
    /// `io.weight`, 1 to 10000, for devices with BFQ or iocost; 0: unset.
    pub io_weight: u32,
    /// Lines of `io.max`: "259:0 rbps=10M wiops=100"; may be NULL with `nr_io_max` 0.
    pub io_max: *const *const c_char,
    /// How many.
    pub nr_io_max: usize,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_limits_t {
    const NAME: &'static str = "limits";
    const FIRST_SIZE: usize = offset_of!(Self, nr_io_max) + size_of::<usize>();
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        memory_min: AGENTCG_UNSET,
        memory_low: AGENTCG_UNSET,
        memory_high: AGENTCG_UNSET,
        memory_max: AGENTCG_UNSET,
        swap_max: AGENTCG_UNSET,
        pids_max: AGENTCG_UNSET,
        cpu_max: 0.0,
        cpu_weight: 0,
        io_weight: 0,
        io_max: ptr::null(),
        nr_io_max: 0,
    };
}

impl agentcg_limits_t {
    /// NULL: no limits.
    ///
    /// # Safety
    /// `given` is NULL or initialised, and its list is as long as it says.
    pub(crate) unsafe fn to_core(given: *const Self) -> Result<Limits> {
        // SAFETY: required of the caller.
        let given = unsafe { options::read(given) }?;
        let mut limits = Limits::default();
        limits.memory_min = limit(given.memory_min);
        limits.memory_low = limit(given.memory_low);
        limits.memory_high = limit(given.memory_high);
        limits.memory_max = limit(given.memory_max);
        limits.swap_max = limit(given.swap_max);
        limits.pids_max = limit(given.pids_max);
        limits.cpu_max = (given.cpu_max != 0.0).then_some(given.cpu_max);
        limits.cpu_weight = (given.cpu_weight != 0).then_some(given.cpu_weight);
        limits.io_weight = (given.io_weight != 0).then_some(given.io_weight);
        // SAFETY: required of the caller.
        let lines = unsafe { args::texts(given.io_max, given.nr_io_max, "io_max") }?;
        for line in lines {
            limits.io_max.push(line.parse()?);
        }
        Ok(limits)
    }
}

fn limit(value: u64) -> Option<Limit> {
    match value {
        AGENTCG_UNSET => None,
        AGENTCG_UNLIMITED => Some(Limit::Max),
        value => Some(Limit::Value(value)),
    }
}

/// Fills in the defaults: nothing is limited. `size` is `sizeof` the struct. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_limits_init(limits: *mut agentcg_limits_t, size: usize) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(limits, size) }
}

/// Reads a size as people write it, `512M`, `1.5G`, `4096`, into bytes; `max` is
/// AGENTCG_UNLIMITED. K, M and G are powers of 1024. Callable from any thread.
///
/// Errors: INVALID_INPUT for another text, naming it, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_parse_limit(
    text: *const c_char,
    bytes_out: *mut u64,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a number.
        let out = unsafe { args::place(bytes_out, "bytes_out") }?;
        // SAFETY: the caller passes NULL or a C string.
        let limit: Limit = unsafe { args::text(text, "text") }?.parse()?;
        *out = limit.value().unwrap_or(AGENTCG_UNLIMITED);
        Ok(())
    })
}
