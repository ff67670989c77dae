//! The signals that reach a program while it waits for a tool call, with where they came from.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// They end a call, or are meant for it.
const CAUGHT: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// The terminal sent it, and so to every process of the foreground group, the call's too.
    pub from_terminal: bool,
}

/// Keeps signals from ending this process and makes them readable, until it is dropped. Make it
/// before the first thread is started. Signals that are ignored (`nohup`) stay so.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Takes them over.
    ///
    /// # Errors
    /// Those of `signalfd`.
    pub fn catch() -> nix::Result<Self> {
        let ignored = ignored();
        let caught: SigSet =
            CAUGHT.into_iter().filter(|s| ignored & (1 << (*s as u32 - 1)) == 0).collect();
        let before = caught.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    /// The next one that has come.
    pub fn next(&self) -> Option<Received> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        // Of the signals that we catch the kernel itself sends only what a terminal causes.
        Some(Received { signal, from_terminal: info.ssi_code == SI_KERNEL })
    }
}

/// asm-generic/siginfo.h
const SI_KERNEL: i32 = 0x80;

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// The ignored signals of this process, bit n - 1 for signal n: `SigIgn` of proc(5).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0)
}
