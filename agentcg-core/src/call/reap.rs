//! How a process ended, through its pidfd.

use std::os::fd::{AsRawFd, OwnedFd};

use super::outcome::Ended;

/// `struct pidfd_info` of linux/pidfd.h, its first version; the exit code is there since kernel 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// Collects the status of an ended process, and the largest resident set of it and the children it
/// waited for, bytes.
pub(super) fn reap(pidfd: &OwnedFd) -> (Ended, Option<u64>) {
    // SAFETY: both are plain data, for which zero is valid; the kernel writes them.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    loop {
        // SAFETY: waitid writes to `info` and `usage`, alive here. The libc function has no rusage.
        let r = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                libc::WEXITED | libc::__WALL,
                &raw mut usage,
            )
        };
        if r == 0 {
            break;
        }
        let e = std::io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EINTR) {
            // Someone who waits for any child has taken the status before us.
            return (exit_code(pidfd).unwrap_or_else(|| Ended::Unknown(
                "another part of this process has collected the exit status (wait for any child, or SIGCHLD ignored)".into(),
            )), None);
        }
    }
    // SAFETY: the kernel has filled in a SIGCHLD siginfo, which has a status.
    let status = unsafe { info.si_status() };
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended::Exited(status),
        code => Ended::Signaled { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    // ru_maxrss is in KiB.
    (ended, Some(usage.ru_maxrss as u64 * 1024))
}

/// From the pidfd itself, which keeps the status of a process that was collected by others.
fn exit_code(pidfd: &OwnedFd) -> Option<Ended> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl reads and writes at most the size that is part of its number.
    let r = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if r != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    Some(if libc::WIFEXITED(status) {
        Ended::Exited(libc::WEXITSTATUS(status))
    } else {
        Ended::Signaled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
    })
}
