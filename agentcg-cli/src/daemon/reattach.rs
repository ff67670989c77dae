//! The scheduler of the daemon, which the kernel may detach.

use std::time::{Duration, Instant};

use agentcg_core::{Runtime, Scheduler, SchedulerConfig, SchedulerExitKind};

use super::part;

/// How long the daemon waits before it attaches the scheduler again, at the first, second, ... exit.
/// After the last one the machine is better off without.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// A scheduler that is attached again after an error, a few times.
pub(super) struct Reattached {
    pub(super) scheduler: Option<Scheduler>,
    exits: usize,
    again: Option<Instant>,
}

impl Reattached {
    /// Attaches it, if wanted.
    pub(super) fn new(runtime: &Runtime, wanted: bool) -> Self {
        let mut new = Self { scheduler: None, exits: 0, again: None };
        if wanted {
            new.attach(runtime);
        }
        new
    }

    fn attach(&mut self, runtime: &Runtime) {
        self.scheduler = part("scheduler", runtime.start_scheduler(SchedulerConfig::default()));
    }

    /// How long until [`look`](Self::look) has something to do.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.again.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Notices that the kernel has detached it, and attaches it again when it is time to.
    pub(super) fn look(&mut self, runtime: &Runtime) {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            self.attach(runtime);
        }
        let Some(exit) = self.scheduler.as_ref().and_then(Scheduler::exited) else {
            return;
        };
        self.scheduler = None;
        let pause = pause_after(exit.kind, self.exits);
        self.exits += 1;
        let next = match pause {
            Some(pause) => format!("it is attached again in {} s", pause.as_secs()),
            None => "it stays off".to_owned(),
        };
        tracing::error!("the kernel detached the scheduler: {exit}; its own schedules now, {next}");
        if !exit.dump.is_empty() {
            tracing::debug!("{}", exit.dump);
        }
        self.again = pause.map(|p| Instant::now() + p);
    }
}

/// How long to stay out; `None`: for good.
fn pause_after(kind: SchedulerExitKind, exits_before: usize) -> Option<Duration> {
    // Somebody at the keyboard wants it gone.
    if kind == SchedulerExitKind::SysRq {
        return None;
    }
    PAUSES.get(exits_before).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_times_with_longer_and_longer_pauses() {
        let pauses: Vec<_> = (0..5).map(|n| pause_after(SchedulerExitKind::Stall, n)).collect();
        assert!(pauses[..3].is_sorted() && pauses[..3].iter().all(Option::is_some));
        assert_eq!(pauses[3..], [None, None]);
        assert_eq!(pause_after(SchedulerExitKind::SysRq, 0), None);
    }
}
