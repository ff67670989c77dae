//! How much memory can still be had: by a cgroup below its ancestors' limits, and on the machine.

use std::path::Path;

use crate::cgroup::{Cgroup, LimitFile};

/// The least of what the limits above the cgroup leave, and of what the machine has free. Memory
/// that has to be reclaimed first does not count. `None` when nothing is known.
pub(super) fn free_for(path: &Path) -> Option<u64> {
    let limits = path.ancestors().skip(1).filter_map(|above| {
        let cgroup = Cgroup::open(above).ok()?;
        let limit = [LimitFile::MemoryHigh, LimitFile::MemoryMax]
            .into_iter()
            .filter_map(|file| cgroup.limit(file).ok()?.value())
            .min()?;
        Some(limit.saturating_sub(cgroup.memory_current().ok()?))
    });
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| free(&t));
    limits.chain(machine).min()
}

/// `MemFree` of `/proc/meminfo`, bytes.
fn free(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemFree:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn free_memory_of_the_machine() {
        let text = "MemTotal:         484632 kB\nMemFree:           12345 kB\nMemAvailable: 1 kB\n";
        assert_eq!(super::free(text), Some(12345 << 10));
        assert_eq!(super::free("MemTotal: 1 kB\n"), None);
    }
}
