//! Kernel notifications: kernfs wakes `POLLPRI` waiters when a file's content changes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Cgroup, Events};
use crate::{Error, Result};

impl Cgroup {
    /// Waits until the cgroup has processes, or has none; `false` when the time is over first.
    /// Sleeps in `poll` on `cgroup.events`, no polling loop.
    ///
    /// # Errors
    /// Those of reading `cgroup.events`.
    pub fn wait_populated(&self, populated: bool, timeout: Duration) -> Result<bool> {
        self.wait_events(timeout, |e| e.populated == populated)
    }

    /// Waits until the cgroup is frozen, or thawed; `false` when the time is over first.
    ///
    /// # Errors
    /// Those of reading `cgroup.events`.
    pub fn wait_frozen(&self, frozen: bool, timeout: Duration) -> Result<bool> {
        self.wait_events(timeout, |e| e.frozen == frozen)
    }

    fn wait_events(&self, timeout: Duration, done: impl Fn(&Events) -> bool) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        let fd = self.open_file("cgroup.events", OFlags::RDONLY)?;
        let mut buf = [0; 64];
        loop {
            // Reading arms the notification: a change after it wakes the poll.
            let n = match rustix::io::pread(&fd, &mut buf, 0) {
                Ok(n) => n,
                // The cgroup was removed: it has no processes any more.
                Err(Errno::NODEV) => 0,
                Err(e) => return Err(Error::os("read", self.path().join("cgroup.events"), e)),
            };
            let text = String::from_utf8_lossy(&buf[..n]);
            let events = Events::parse(&text).unwrap_or(Events { populated: false, frozen: false });
            if done(&events) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if n == 0 || left.is_zero() {
                return Ok(false);
            }
            let wait = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&fd, PollFlags::PRI)], wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::os("poll", self.path().join("cgroup.events"), e)),
            }
        }
    }
}

/// A PSI trigger: its descriptor is `POLLPRI`-ready when tasks of the cgroup stalled on memory for
/// `stall` within `window`. At most one notification a window. The trigger lives as long as the
/// descriptor.
#[derive(Debug)]
pub(crate) struct PressureTrigger(OwnedFd);

impl PressureTrigger {
    pub(crate) fn memory(cgroup: &Cgroup, stall: Duration, window: Duration) -> Result<Self> {
        let fd = cgroup.open_file("memory.pressure", OFlags::RDWR | OFlags::NONBLOCK)?;
        let spec = format!("some {} {}\0", stall.as_micros(), window.as_micros());
        rustix::io::write(&fd, spec.as_bytes()).map_err(|e| {
            Error::os(
                "set a PSI trigger on",
                cgroup.path().join("memory.pressure"),
                e,
            )
            .or_help("needs CONFIG_PSI, psi=1 and, for windows that are no multiple of 2 s, CAP_SYS_RESOURCE")
        })?;
        Ok(Self(fd))
    }
}

impl AsFd for PressureTrigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
