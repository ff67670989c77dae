//! What cgroups got: counters of the scheduler, and what can be said of an interval.

use std::time::Duration;

use serde::Serialize;

use crate::bpf::scheduler::intf;

const WAITS: usize = intf::SCHED_WAITS as usize;

/// How long tasks waited for a CPU, from when they woke or had to leave one until they ran, by the
/// binary logarithm. Time held back by `cpu.max` is included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitTimes([u64; WAITS]);

impl WaitTimes {
    /// What `part` (0 to 1) of the waits did not exceed, rounded up to a power of two of µs; `None`
    /// when there were none.
    pub fn percentile(&self, part: f64) -> Option<Duration> {
        let rank = (self.0.iter().sum::<u64>() as f64 * part.clamp(0.0, 1.0)).ceil().max(1.0);
        let mut seen = 0;
        let bucket = self.0.iter().position(|n| {
            seen += n;
            seen as f64 >= rank
        })?;
        Some(Duration::from_micros(2 << bucket))
    }
}

/// What a cgroup and all below it got since the scheduler was attached. What cgroups got that are
/// gone counts for the one that they were in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// CPU time used, ns.
    pub run_ns: u64,
    /// Times a task was put on a CPU.
    pub runs: u64,
    /// Times a task had to leave a CPU although it wanted to go on: its slice was over, or another
    /// came first.
    pub preemptions: u64,
    /// Times a task ran on another CPU than the time before.
    pub migrations: u64,
    /// For how long its tasks were held back because a `cpu.max` was used up, ns; summed over the
    /// limits of the cgroup and of those below it, up to the last time each was lifted.
    pub throttled_ns: u64,
    /// The same for those that were held back on request ([`Brake`](super::Brake)), ns.
    pub held_back_ns: u64,
    /// How long its tasks waited.
    pub waits: WaitTimes,
}

impl CgroupUsage {
    pub(super) fn add(&mut self, usage: &intf::sched_usage) {
        self.run_ns += usage.run_ns;
        self.runs += usage.runs;
        self.preemptions += usage.preemptions;
        self.migrations += usage.migrations;
        self.throttled_ns += usage.throttled_ns;
        self.held_back_ns += usage.held_ns;
        for (sum, n) in self.waits.0.iter_mut().zip(&usage.waits) {
            *sum += n;
        }
    }

    /// What was added since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let mut waits = self.waits;
        for (n, had) in waits.0.iter_mut().zip(&before.waits.0) {
            *n = n.saturating_sub(*had);
        }
        Self {
            run_ns: self.run_ns.saturating_sub(before.run_ns),
            runs: self.runs.saturating_sub(before.runs),
            preemptions: self.preemptions.saturating_sub(before.preemptions),
            migrations: self.migrations.saturating_sub(before.migrations),
            throttled_ns: self.throttled_ns.saturating_sub(before.throttled_ns),
            held_back_ns: self.held_back_ns.saturating_sub(before.held_back_ns),
            waits,
        }
    }
}

/// What a session got in an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SessionStats {
    /// Its name.
    pub session: String,
    /// The part of all CPU time of the machine that it used, 0 to 1.
    pub share: f64,
    /// CPU time used.
    pub run_us: u64,
    /// Half of the waits for a CPU were no longer; `None` when there were none.
    pub wait_p50_us: Option<u64>,
    /// 99 % of the waits were no longer.
    pub wait_p99_us: Option<u64>,
    /// For how long its tasks were held back by `cpu.max`.
    pub throttled_us: u64,
    /// For how long they were held back on request.
    pub held_back_us: u64,
    /// Times a task had to leave a CPU although it wanted to go on.
    pub preemptions: u64,
    /// Times a task ran on another CPU than the time before.
    pub migrations: u64,
}

impl SessionStats {
    /// From what the session's cgroup got in `interval` on a machine with so many CPUs.
    pub fn new(session: &str, got: &CgroupUsage, interval: Duration, cpus: usize) -> Self {
        let all = interval.as_nanos() as f64 * cpus as f64;
        let wait = |part| got.waits.percentile(part).map(|t| t.as_micros() as u64);
        Self {
            session: session.to_owned(),
            share: if all > 0.0 { got.run_ns as f64 / all } else { 0.0 },
            run_us: got.run_ns / 1000,
            wait_p50_us: wait(0.5),
            wait_p99_us: wait(0.99),
            throttled_us: got.throttled_ns / 1000,
            held_back_us: got.held_back_ns / 1000,
            preemptions: got.preemptions,
            migrations: got.migrations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_round_up_to_powers_of_two() {
        let mut waits = WaitTimes::default();
        assert_eq!(waits.percentile(0.5), None);
        waits.0[0] = 98;
        waits.0[10] = 2;
        let micros = |part| waits.percentile(part).map(|t| t.as_micros());
        assert_eq!((micros(0.0), micros(0.5), micros(0.98)), (Some(2), Some(2), Some(2)));
        assert_eq!((micros(0.99), micros(1.0)), (Some(2048), Some(2048)));
    }

    #[test]
    fn an_interval_is_the_difference() {
        let mut before = CgroupUsage { run_ns: 5, runs: 1, ..CgroupUsage::default() };
        before.waits.0[3] = 7;
        let mut after = CgroupUsage { run_ns: 2_000_000_005, runs: 4, ..before };
        after.waits.0[3] = 9;
        let got = after.since(&before);
        assert_eq!((got.run_ns, got.runs, got.waits.0[3]), (2_000_000_000, 3, 2));
        let stats = SessionStats::new("a", &got, Duration::from_secs(2), 2);
        assert_eq!((stats.share, stats.wait_p99_us), (0.5, Some(16)));
    }
}
