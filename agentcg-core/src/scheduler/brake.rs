//! Cgroups that are held back for a while, whatever their weight.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use libbpf_rs::libbpf_sys;
use parking_lot::Mutex;

use super::not_known;
use crate::bpf::scheduler::{intf, skel::SchedulerSkel};
use crate::cgroup::Cgroup;
use crate::{Error, Result, bpf};

/// Holds cgroups back while they hurt others, by memory for example: a cgroup that is held back,
/// with all below it, runs 5 ms in each 100 ms (less if its `cpu.max` says so) until the time given
/// is over. That is enough to let go of locks and to die, and far from what the kernel takes for a
/// stall.
///
/// From [`Scheduler::brake`](super::Scheduler::brake); cheap to clone, and may be used by any thread.
/// Nothing needs to be undone: the time ends by itself, or with the scheduler.
#[derive(Clone, Debug)]
pub struct Brake(Arc<OwnedFd>);

/// The brake of the scheduler that a runtime has attached, for its other parts: it may come and go
/// while they run.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentBrake(Arc<Mutex<Weak<OwnedFd>>>);

impl CurrentBrake {
    pub(crate) fn set(&self, brake: &Brake) {
        *self.0.lock() = Arc::downgrade(&brake.0);
    }

    pub(crate) fn get(&self) -> Option<Brake> {
        self.0.lock().upgrade().map(Brake)
    }
}

impl Brake {
    pub(super) fn new(skel: &SchedulerSkel<'_>) -> Result<Self> {
        let program = skel.progs.hold_back.as_fd().try_clone_to_owned();
        program
            .map(|fd| Self(Arc::new(fd)))
            .map_err(|e| Error::os("duplicate", "the descriptor of a BPF program", e))
    }

    /// Holds a cgroup back from now on for `time`; a second call moves the end.
    ///
    /// # Errors
    /// `NotFound` when the scheduler does not know the cgroup (it has no cpu controller, or is gone)
    /// or is no longer attached.
    pub fn hold_back(&self, cgroup: &Cgroup, time: Duration) -> Result<()> {
        // At least 1, for 0 means the end.
        self.ask(cgroup, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).max(1))
    }

    /// Ends it before its time. No error when it is not held back.
    ///
    /// # Errors
    /// As [`hold_back`](Self::hold_back).
    pub fn let_go(&self, cgroup: &Cgroup) -> Result<()> {
        self.ask(cgroup, 0)
    }

    fn ask(&self, cgroup: &Cgroup, hold_ns: u64) -> Result<()> {
        let mut hold = intf::sched_hold { cgroup: cgroup.id()?, hold_ns };
        let mut opts = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            ctx_in: (&raw mut hold).cast(),
            ctx_size_in: size_of_val(&hold) as u32,
            ..Default::default()
        };
        // SAFETY: `opts` and `hold`, whose size it has, live through the call.
        let e = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &mut opts) };
        if e < 0 {
            let error = std::io::Error::from_raw_os_error(-e);
            return Err(bpf::error("hold a cgroup back", error, Some(-e)).at(cgroup.path()));
        }
        match -(opts.retval as i32) {
            0 => Ok(()),
            libc::ENOENT => Err(not_known(cgroup)),
            e => {
                let error = std::io::Error::from_raw_os_error(e);
                Err(bpf::error("hold a cgroup back", error, Some(e)).at(cgroup.path()))
            }
        }
    }
}
