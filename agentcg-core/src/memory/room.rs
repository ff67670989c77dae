//! How much memory can still be had, by a cgroup below its ancestors' limits and on the machine; how
//! long somebody waits for it, and what is reclaimed.

use std::path::Path;
use std::time::Duration;

use crate::cgroup::{Cgroup, LimitFile, Pressure};

/// The memory of a place: of all below a limit, or of the machine. Ordered by what is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Room {
    /// Bytes that need not be reclaimed first.
    pub free: u64,
    /// Bytes that there are.
    pub total: u64,
}

impl Room {
    /// Where a cgroup finds least: below one of the limits above it, or on the machine. `None` when
    /// nothing is known.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let limits = path.ancestors().skip(1).filter_map(|above| {
            let cgroup = Cgroup::open(above).ok()?;
            let total = [LimitFile::MemoryHigh, LimitFile::MemoryMax]
                .into_iter()
                .filter_map(|file| cgroup.limit(file).ok()?.value())
                .min()?;
            Some(Self { free: total.saturating_sub(cgroup.memory_current().ok()?), total })
        });
        let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| machine(&t));
        limits.chain(machine).min()
    }
}

/// `MemFree` and `MemTotal` of `/proc/meminfo`.
fn machine(meminfo: &str) -> Option<Room> {
    let value = |key: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(key))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    Some(Room { free: value("MemFree:")?, total: value("MemTotal:")? })
}

/// The time so far that some task on the machine has waited for memory; `memory.high` counts.
pub(super) fn stalled() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    Pressure::parse(&text).map_or(Duration::ZERO, |p| Duration::from_micros(p.some.total_usec))
}

/// The bytes that kswapd has reclaimed so far. What a limit reclaims is not in it: there somebody waits.
pub(super) fn reclaimed() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let pages = text.lines().find_map(|l| l.strip_prefix("pgsteal_kswapd ")?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn free_memory_of_the_machine() {
        let text = "MemTotal:         484632 kB\nMemFree:           12345 kB\nMemAvailable: 1 kB\n";
        let room = super::Room { free: 12345 << 10, total: 484_632 << 10 };
        assert_eq!(super::machine(text), Some(room));
        assert_eq!(super::machine("MemTotal: 1 kB\n"), None);
    }
}
