//! Finds cgroups that stand still above their `memory.high`.
//!
//! The kernel throttles a task above `memory.high` for up to 2 s at each allocation batch, and where
//! nothing can be reclaimed (no swap, everything in use) that goes on for ever: the task lives, holds
//! its locks, and gets nowhere. `memory.events` tells of every throttling; the CPU time in user mode
//! tells of progress.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::{StuckAction, StuckCgroup};
use crate::cgroup::{Cgroup, Claim, LimitFile};
use crate::{Limit, Result};

/// Less of one CPU in user mode is no progress.
const PROGRESS: f64 = 0.01;

/// The state of the counters at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    high: u64,
    user: Duration,
}

/// Watches one cgroup, its descendants included.
#[derive(Debug)]
pub(super) struct StuckWatch {
    /// `memory.events`, of which the kernel notifies.
    events: OwnedFd,
    high: u64,
    since: Option<Look>,
    told: bool,
}

impl StuckWatch {
    pub(super) fn new(cgroup: &Cgroup) -> Result<Self> {
        let events = cgroup.open_file("memory.events", OFlags::RDONLY)?;
        let mut watch = Self { events, high: 0, since: None, told: false };
        watch.arm();
        watch.high = cgroup.memory_events()?.high;
        Ok(watch)
    }

    /// Reading arms the notification.
    fn arm(&mut self) {
        let _ = rustix::io::pread(&self.events, &mut [0; 512], 0);
    }

    /// The file has changed: begins to watch when `high` has risen.
    pub(super) fn notified(&mut self, cgroup: &Cgroup, now: Instant) {
        self.arm();
        let Ok(look) = look(cgroup, now) else { return };
        if look.high > self.high && self.since.is_none() {
            self.since = Some(look);
        }
        self.high = look.high;
    }

    /// Is a change of the file of interest? Not while it is watched: the kernel tells of the throttling
    /// up to 100 times a second.
    pub(super) fn listens(&self) -> bool {
        self.since.is_none()
    }

    pub(super) fn next_look(&self, after: Duration) -> Option<Instant> {
        self.since.map(|look| look.at + after)
    }

    /// When the time is up: has it stood still? Said once, until it moves again.
    pub(super) fn is_stuck(
        &mut self,
        cgroup: &Cgroup,
        after: Duration,
        now: Instant,
    ) -> Option<StuckCgroup> {
        let before = self.since.filter(|look| now >= look.at + after)?;
        self.since = None;
        let look = look(cgroup, now).ok()?;
        let events = look.high.saturating_sub(before.high);
        let elapsed = now.saturating_duration_since(before.at);
        let user = look.user.saturating_sub(before.user);
        if events == 0 || user.as_secs_f64() > elapsed.as_secs_f64() * PROGRESS {
            self.told = false;
            return None;
        }
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        Some(StuckCgroup {
            at: SystemTime::now(),
            cgroup: cgroup.path().to_path_buf(),
            duration: elapsed,
            high_events: events,
            user,
            memory_current: cgroup.memory_current().ok()?,
            memory_high: cgroup.limit(LimitFile::MemoryHigh).ok()?.value().unwrap_or(u64::MAX),
            action: StuckAction::Report,
        })
    }
}

impl AsFd for StuckWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn look(cgroup: &Cgroup, at: Instant) -> Result<Look> {
    let user = Duration::from_micros(cgroup.cpu_stat()?.user_usec);
    Ok(Look { at, high: cgroup.memory_events()?.high, user })
}

/// Does what was configured.
pub(super) fn act(claim: &Claim, action: StuckAction) -> Result<()> {
    match action {
        StuckAction::Report => Ok(()),
        StuckAction::Freeze => claim.change("cgroup.freeze", "1"),
        StuckAction::Lift => claim.change("memory.high", &Limit::Max.to_string()),
    }
}
