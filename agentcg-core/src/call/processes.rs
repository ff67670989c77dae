//! The processes of a call's cgroup and everything below it.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::outcome::Survivor;
use crate::cgroup::{Cgroup, path_of};
use crate::{Error, Result};

/// Visits every process; what cannot be read has vanished.
fn each(cgroup: &Cgroup, visit: &mut dyn FnMut(i32)) {
    let _ = cgroup.walk(&mut |c| {
        // A threaded cgroup has no readable cgroup.procs; its domain lists its processes.
        for pid in c.procs().unwrap_or_default() {
            visit(pid);
        }
        Ok(())
    });
}

/// What vanishes meanwhile, or may not be read, counts as empty.
pub(crate) fn count(cgroup: &Cgroup) -> u32 {
    let mut n = 0;
    each(cgroup, &mut |_| n += 1);
    n
}

/// Sends a signal to every process. A pid that went to a stranger meanwhile is not hit: the process
/// is held by a pidfd before its cgroup is looked at.
pub(super) fn signal_all(cgroup: &Cgroup, signal: Signal) {
    each(cgroup, &mut |pid| signal_in(cgroup, pid, signal));
}

/// As [`signal_all`], to one of them.
pub(super) fn signal_in(cgroup: &Cgroup, pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if path_of(pid.as_raw_nonzero().get()).is_ok_and(|p| p.starts_with(cgroup.path())) {
        // It may have ended: then there is nothing to be done.
        let _ = pidfd_send_signal(&process, signal);
    }
}

pub(super) fn signal_of(number: i32) -> Result<Signal> {
    Signal::from_named_raw(number)
        .ok_or_else(|| Error::invalid("signal", number, "expected the number of a signal"))
}

/// Who is still there, with the state that explains it.
pub(super) fn survivors(cgroup: &Cgroup) -> Vec<Survivor> {
    let mut all = Vec::new();
    each(cgroup, &mut |pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // pid (comm) state ...; the name may hold anything, also parentheses.
        let inside = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
        if let Some((comm, rest)) = inside {
            let state = rest.trim_start().chars().next().unwrap_or('?');
            all.push(Survivor { pid, comm: comm.to_owned(), state });
        }
    });
    all
}
