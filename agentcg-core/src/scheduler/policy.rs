//! The scheduling policy of single processes, for schedulers that take only those who ask.

use std::io;

use crate::{Error, Result};

/// `SCHED_EXT` of linux/sched.h.
const SCHED_EXT: i32 = 7;

/// Sets the policy of every thread of a process to `SCHED_EXT`, or from that back to
/// `SCHED_OTHER`. Threads with another policy (real-time, batch, idle) are left alone, and so is a
/// process that is gone.
pub(crate) fn use_sched_ext(pid: i32, on: bool) -> Result<()> {
    let (from, to) =
        if on { (libc::SCHED_OTHER, SCHED_EXT) } else { (SCHED_EXT, libc::SCHED_OTHER) };
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Ok(());
    };
    for thread in threads.flatten() {
        let Some(tid) = thread.file_name().to_str().and_then(|t| t.parse::<i32>().ok()) else {
            continue;
        };
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: two system calls on a thread id; `param` lives through the second.
        let done = unsafe {
            libc::sched_getscheduler(tid) != from || libc::sched_setscheduler(tid, to, &param) == 0
        };
        let e = io::Error::last_os_error();
        if !done && e.raw_os_error() != Some(libc::ESRCH) {
            return Err(Error::os("set the scheduling policy of process", pid.to_string(), e));
        }
    }
    Ok(())
}
