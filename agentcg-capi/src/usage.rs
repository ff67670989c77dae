//! `agentcg_usage_t`.

use agentcg_core::Usage;

use crate::limits::AGENTCG_UNSET;

/// What a session or a tool call used, descendants included; AGENTCG_UNSET where the kernel does not
/// say it. Later versions may add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct agentcg_usage_t {
    /// The most memory at one time, page cache included, bytes (`memory.peak`, kernel 5.19).
    pub memory_peak_bytes: u64,
    /// Memory now, bytes; only of what still runs (`memory.current`).
    pub memory_current_bytes: u64,
    /// The most swap at one time, bytes (`memory.swap.peak`, kernel 6.5).
    pub swap_peak_bytes: u64,
    /// The largest resident set of one process of a call, bytes (wait4).
    pub max_rss_bytes: u64,
    /// CPU time in user mode, µs (`cpu.stat`).
    pub cpu_user_us: u64,
    /// CPU time in the kernel, µs.
    pub cpu_system_us: u64,
    /// Held back by its own `cpu.max`, summed over the CPUs, µs.
    pub cpu_throttled_us: u64,
    /// Time in which some task waited for a CPU, µs (`cpu.pressure`).
    pub cpu_stall_us: u64,
    /// Time in which some task waited for memory, µs (`memory.pressure`).
    pub memory_stall_us: u64,
    /// Time in which some task waited for I/O, µs (`io.pressure`).
    pub io_stall_us: u64,
    /// Read from block devices, bytes (`io.stat`).
    pub io_read_bytes: u64,
    /// Written to block devices, bytes.
    pub io_write_bytes: u64,
    /// The most processes and threads at one time (`pids.peak`, kernel 6.1).
    pub pids_peak: u64,
    /// How often it went over its own `memory.high` and was slowed for it (`memory.events`).
    pub memory_high_events: u64,
    /// Processes killed by an OOM killer, as the kernel counts them (`memory.events`): one that it chose
    /// with `memory.oom.group` most often twice.
    pub oom_kills: u64,
}

impl agentcg_usage_t {
    /// For members that are not known here: AGENTCG_UNSET.
    pub(crate) const FILL: u8 = 0xff;
}

impl From<&Usage> for agentcg_usage_t {
    fn from(usage: &Usage) -> Self {
        let number = |n: Option<u64>| n.unwrap_or(AGENTCG_UNSET);
        Self {
            memory_peak_bytes: number(usage.memory_peak_bytes),
            memory_current_bytes: number(usage.memory_current_bytes),
            swap_peak_bytes: number(usage.swap_peak_bytes),
            max_rss_bytes: number(usage.max_rss_bytes),
            cpu_user_us: number(usage.cpu_user_us),
            cpu_system_us: number(usage.cpu_system_us),
            cpu_throttled_us: number(usage.cpu_throttled_us),
            cpu_stall_us: number(usage.cpu_stall_us),
            memory_stall_us: number(usage.memory_stall_us),
            io_stall_us: number(usage.io_stall_us),
            io_read_bytes: number(usage.io_read_bytes),
            io_write_bytes: number(usage.io_write_bytes),
            pids_peak: number(usage.pids_peak),
            memory_high_events: number(usage.memory_high_events),
            oom_kills: number(usage.oom_kills),
        }
    }
}
