//! Where a call's standard input comes from and its output goes to.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::capture::Capture;
use crate::Error;

/// One of the three standard descriptors of a call.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// The same as ours.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe, whose other end is [`ToolCall::stdin`](super::ToolCall::stdin) or its like.
    Piped,
    /// Standard output or error: kept, within the limit of
    /// [`Command::capture_limit`](super::Command::capture_limit), for the outcome.
    Capture,
    /// Standard error only: where standard output goes.
    Stdout,
    /// Standard input only: these bytes, then the end.
    Bytes(Vec<u8>),
    /// An open file, pipe or socket.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Stdio::Fd(fd)
    }
}

impl From<std::fs::File> for Stdio {
    fn from(file: std::fs::File) -> Self {
        Stdio::Fd(file.into())
    }
}

/// The three, opened.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// The child's ends; `None` means inherited, and one may be in several places.
    pub theirs: [Option<Arc<OwnedFd>>; 3],
    /// What becomes 3, 4, ...: numbered above all of these.
    pub extra: Vec<Option<OwnedFd>>,
    /// Standard error is a copy of standard output, also of an inherited one.
    pub merged: bool,
    /// Our ends, for the user.
    pub ours: [Option<OwnedFd>; 3],
    /// What is fed.
    pub input: Option<Feed>,
    /// What is kept, of standard output and error.
    pub capture: [Option<Collect>; 2],
}

/// Bytes for standard input that are still to be written.
#[derive(Debug)]
pub(super) struct Feed {
    pub fd: OwnedFd,
    pub bytes: Vec<u8>,
    pub written: usize,
}

impl Feed {
    /// Writes what there is room for. A reader that is gone is `PIPE`, without the signal that ends
    /// a program which does not ignore it, as those in C do not: it is held back, and taken from
    /// this thread.
    pub(super) fn write(&self) -> Result<usize, Errno> {
        let bytes = &self.bytes[self.written..];
        // SAFETY: the sets are values of our own; only this thread's mask and signals are touched.
        unsafe {
            let [mut pipe, mut before, mut waiting]: [libc::sigset_t; 3] = std::mem::zeroed();
            libc::sigemptyset(&mut pipe);
            libc::sigaddset(&mut pipe, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
            // One that waits already is not ours.
            let others = libc::sigpending(&mut waiting) == 0
                && libc::sigismember(&waiting, libc::SIGPIPE) == 1;
            let written = rustix::io::write(&self.fd, bytes);
            if written == Err(Errno::PIPE) && !others {
                let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                let interrupted =
                    || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
                while libc::sigtimedwait(&pipe, std::ptr::null_mut(), &now) < 0 && interrupted() {}
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            written
        }
    }
}

/// A pipe that is read into a [`Capture`].
#[derive(Debug)]
pub(super) struct Collect {
    pub fd: OwnedFd,
    pub kept: Capture,
}

impl Opened {
    pub(super) fn new(
        stdio: [&Stdio; 3],
        extra: &[Option<OwnedFd>],
        capture_limit: usize,
    ) -> crate::Result<Self> {
        let mut opened = Self::default();
        let first = 3 + extra.len() as RawFd;
        for fd in extra {
            opened.extra.push(fd.as_ref().map(|fd| copy_from(fd, first)).transpose()?);
        }
        let mut null = None;
        for (i, how) in stdio.into_iter().enumerate() {
            let theirs = match (how, i) {
                (Stdio::Inherit, _) => None,
                (Stdio::Null, _) => {
                    if null.is_none() {
                        null = Some(Arc::new(open_null()?));
                    }
                    opened.theirs[i] = null.clone();
                    continue;
                }
                (Stdio::Fd(fd), _) => Some(above_2(fd)?),
                (Stdio::Piped, 0) => {
                    let (read, write) = pipe()?;
                    opened.ours[0] = Some(write);
                    Some(read)
                }
                (Stdio::Piped, _) => {
                    let (read, write) = pipe()?;
                    opened.ours[i] = Some(read);
                    Some(write)
                }
                (Stdio::Bytes(bytes), 0) => {
                    let (read, write) = pipe()?;
                    nonblocking(&write)?;
                    opened.input = Some(Feed { fd: write, bytes: bytes.clone(), written: 0 });
                    Some(read)
                }
                (Stdio::Capture, 1 | 2) => {
                    let (read, write) = pipe()?;
                    nonblocking(&read)?;
                    opened.capture[i - 1] =
                        Some(Collect { fd: read, kept: Capture::new(capture_limit) });
                    Some(write)
                }
                (Stdio::Stdout, 2) => {
                    opened.merged = true;
                    None
                }
                (_, i) => {
                    let which = ["standard input", "standard output", "standard error"][i];
                    return Err(Error::invalid("stdio", how, format!("not for {which}")));
                }
            };
            opened.theirs[i] = theirs.map(Arc::new);
        }
        Ok(opened)
    }

    /// The numbers that become 0, 1 and 2.
    pub(super) fn raw(&self) -> [Option<RawFd>; 3] {
        let mut raw = self.theirs.each_ref().map(|fd| fd.as_ref().map(|fd| fd.as_raw_fd()));
        if self.merged {
            // The child connects 1 before 2.
            raw[2] = Some(1);
        }
        raw
    }
}

/// The numbers of descriptors.
pub(super) fn raw(fds: &[Option<OwnedFd>]) -> Vec<Option<RawFd>> {
    fds.iter().map(|fd| fd.as_ref().map(AsRawFd::as_raw_fd)).collect()
}

fn open_null() -> crate::Result<OwnedFd> {
    let fd = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", "/dev/null", e))?;
    if fd.as_raw_fd() > 2 { Ok(fd) } else { above_2(&fd) }
}

/// A copy that is none of 0, 1, 2: where ours are closed, a new descriptor may get such a number, and
/// connecting one would overwrite the other.
fn above_2(fd: &OwnedFd) -> crate::Result<OwnedFd> {
    copy_from(fd, 3)
}

fn copy_from(fd: &OwnedFd, first: RawFd) -> crate::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, first)
        .map_err(|e| Error::os("duplicate", "a descriptor", e))
}

fn pipe() -> crate::Result<(OwnedFd, OwnedFd)> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::os("make", "a pipe", e))?;
    if read.as_raw_fd() > 2 && write.as_raw_fd() > 2 {
        return Ok((read, write));
    }
    Ok((above_2(&read)?, above_2(&write)?))
}

fn nonblocking(fd: &OwnedFd) -> crate::Result<()> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::os("set", "a pipe non-blocking", e))
}
