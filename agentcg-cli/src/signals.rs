//! SIGINT and SIGTERM as something to poll.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Readable after SIGINT or SIGTERM.
#[derive(Debug)]
pub struct Signals(UnixStream);

impl Signals {
    /// Takes the two signals over.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn install() -> Result<Self> {
        let (read, write) = UnixStream::pair().context("make a socket pair")?;
        read.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)
                .context("install a signal handler")?;
        }
        Ok(Self(read))
    }

    /// Has one come?
    pub fn received(&mut self) -> bool {
        let mut buf = [0; 16];
        matches!(self.0.read(&mut buf), Ok(n) if n > 0)
    }

    /// Sleeps until a signal comes, one of `others` is readable, or the time is over. True: a
    /// signal came.
    ///
    /// # Errors
    /// Those of `poll`.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<bool> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let timeout = timeout.and_then(|d| Timespec::try_from(d).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        drop(fds);
        Ok(self.received())
    }
}
