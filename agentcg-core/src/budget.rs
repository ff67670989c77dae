//! Tells a tool its budget: environment variables that follow the limits of its call.
//!
//! Many tools size their thread pools and heaps by the machine and know nothing of cgroups. In a
//! call with one core and 1 GiB, on a machine with 64 cores, they start 64 workers, and are
//! throttled or killed for it. `docs/hints.md` has the table, with what each entry was checked
//! with, and the tools that need nothing because they read their cgroup.

use crate::cgroup::Limit;
use crate::limits::Limits;

/// Set to the number of CPUs, after the prefix.
const BY_CPUS: [(&str, &str); 9] = [
    // OpenMP; OpenBLAS, MKL and `nproc` follow it too, and so does `make -j$(nproc)`.
    ("OMP_NUM_THREADS", ""),
    ("RAYON_NUM_THREADS", ""),
    ("MAKEFLAGS", "-j"),
    ("CMAKE_BUILD_PARALLEL_LEVEL", ""),
    ("PYTEST_XDIST_AUTO_NUM_WORKERS", ""),
    ("CARGO_BUILD_JOBS", ""),
    ("GOMAXPROCS", ""),
    ("PYTHON_CPU_COUNT", ""),
    ("VITEST_MAX_WORKERS", ""),
];

/// Bytes of memory to what a variable says.
type Share = fn(u64) -> String;

/// Set to a share of the memory; the rest is for what these heaps do not count: stacks, code,
/// C libraries, page cache.
const BY_MEMORY: [(&str, Share); 2] = [
    ("GOMEMLIMIT", |bytes| (bytes / 10 * 9).to_string()),
    ("NODE_OPTIONS", |bytes| format!("--max-old-space-size={}", ((bytes / 4 * 3) >> 20).max(1))),
];

/// Variables for the environment of a call, from its `cpu_max` and from its `memory_max` (or
/// `memory_high`, when that is less). Without such a limit there are none: the tool's own default
/// is right then.
///
/// `host_cpus` is the number of CPUs that the call may run on: a tool is never told more.
/// `is_set` says whether the environment that the call gets has a variable already; what the caller
/// set is left alone.
///
/// ```
/// use agentcg_core::{Limits, budget};
/// let mut limits = Limits::default();
/// limits.cpu_max = Some(1.5);
/// let variables = budget(&limits, 64, &|name| name == "GOMAXPROCS");
/// assert!(variables.contains(&("MAKEFLAGS", "-j2".to_owned())));
/// assert!(variables.iter().all(|(name, _)| *name != "GOMAXPROCS"));
/// ```
pub fn budget(
    limits: &Limits,
    host_cpus: usize,
    is_set: &dyn Fn(&str) -> bool,
) -> Vec<(&'static str, String)> {
    // GNUMAKEFLAGS would be read after MAKEFLAGS; a caller who sets it has chosen.
    let taken = |name: &str| is_set(name) || (name == "MAKEFLAGS" && is_set("GNUMAKEFLAGS"));
    let mut variables = Vec::new();
    if let Some(cores) = limits.cpu_max.filter(|c| c.is_finite()) {
        let cpus = (cores.ceil() as usize).min(host_cpus).max(1);
        let by_cpus = BY_CPUS.iter().filter(|(name, _)| !taken(name));
        variables.extend(by_cpus.map(|(name, prefix)| (*name, format!("{prefix}{cpus}"))));
    }
    let bytes = [limits.memory_max, limits.memory_high];
    if let Some(bytes) = bytes.into_iter().flatten().filter_map(Limit::value).min() {
        let by_memory = BY_MEMORY.iter().filter(|(name, _)| !taken(name));
        variables.extend(by_memory.map(|(name, value)| (*name, value(bytes))));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    fn get(variables: &[(&'static str, String)], name: &str) -> Option<String> {
        variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
    }

    fn none(_: &str) -> bool {
        false
    }

    #[test]
    fn cores_are_rounded_up_and_never_more_than_there_are() {
        for (cores, cpus) in [(0.01, "1"), (1.0, "1"), (1.01, "2"), (3.5, "4"), (64.0, "8")] {
            let limits = Limits { cpu_max: Some(cores), ..Limits::default() };
            let variables = budget(&limits, 8, &none);
            assert_eq!(variables.len(), BY_CPUS.len());
            assert_eq!(get(&variables, "OMP_NUM_THREADS").unwrap(), cpus);
            assert_eq!(get(&variables, "MAKEFLAGS").unwrap(), format!("-j{cpus}"));
        }
    }

    #[test]
    fn heaps_get_a_share_of_the_smaller_memory_limit() {
        let limits = Limits {
            memory_max: Some(Limit::Value(4 << 30)),
            memory_high: Some(Limit::Value(1000 << 20)),
            ..Limits::default()
        };
        let variables = budget(&limits, 8, &none);
        assert_eq!(get(&variables, "GOMEMLIMIT").unwrap(), (900u64 << 20).to_string());
        assert_eq!(get(&variables, "NODE_OPTIONS").unwrap(), "--max-old-space-size=750");
        assert_eq!(variables.len(), BY_MEMORY.len());
    }

    #[test]
    fn without_limits_nothing_is_said() {
        assert_eq!(budget(&Limits::default(), 8, &none), []);
        let max = Limits { memory_max: Some(Limit::Max), ..Limits::default() };
        assert_eq!(budget(&max, 8, &none), []);
    }

    #[test]
    fn a_caller_with_gnumakeflags_keeps_make_as_it_is() {
        let limits = Limits { cpu_max: Some(2.0), ..Limits::default() };
        let variables = budget(&limits, 8, &|name| name == "GNUMAKEFLAGS");
        assert_eq!(get(&variables, "MAKEFLAGS"), None);
        assert_eq!(variables.len(), BY_CPUS.len() - 1);
    }

    proptest! {
        #[test]
        fn what_the_caller_set_is_left_alone(
            cpu in of(any::<f64>()), memory in of(any::<u64>()), host in 0usize..512, set: [bool; 11],
        ) {
            let names: Vec<_> =
                BY_CPUS.iter().map(|v| v.0).chain(BY_MEMORY.iter().map(|v| v.0)).collect();
            let is_set = |name: &str| names.iter().position(|n| *n == name).is_some_and(|i| set[i]);
            let memory_max = memory.map(Limit::Value);
            let limits = Limits { cpu_max: cpu, memory_max, ..Limits::default() };
            for (name, value) in budget(&limits, host, &is_set) {
                prop_assert!(!is_set(name));
                let number: u64 = value.trim_start_matches(|c: char| !c.is_ascii_digit()).parse()?;
                match BY_CPUS.iter().any(|(n, _)| *n == name) {
                    true => prop_assert!(number >= 1 && number <= host.max(1) as u64),
                    false => prop_assert!(number <= memory.unwrap_or(0).max(1)),
                }
            }
        }
    }
}
