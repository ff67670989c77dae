//! Tool calls: one command and all its descendants, in a cgroup of its own.
//!
//! | file | subject |
//! |---|---|
//! | `command.rs` | [`Command`]: what is to be started, and how |
//! | `cancel.rs` | [`Canceller`]: an end from outside, at any time |
//! | `clone.rs`, `strings.rs` | a process born in its cgroup; its arguments and environment |
//! | `stdio.rs`, `capture.rs` | standard input and output, kept output |
//! | `running.rs` | a call from start to end, as a state machine |
//! | `supervisor.rs` | the thread that drives all calls of a runtime |
//! | `processes.rs`, `reap.rs` | the processes of a call; how one ended |
//! | `usage.rs` | [`Usage`]: what a cgroup took, from the kernel's files |
//! | `evidence.rs` | the counters of a call and of the cgroups above it, before and after |
//! | `oom.rs` | the victim and the limit of an OOM kill, from the kernel log |
//! | `verdict.rs`, `advice.rs` | the verdict, decided from the evidence; what to do about it |
//! | `outcome.rs` | [`Outcome`]: all of it together, and its JSON |
//! | `mod.rs` | [`ToolCall`]: the handle |

mod advice;
mod cancel;
mod capture;
mod clone;
mod command;
mod evidence;
#[cfg(test)]
mod examples;
mod oom;
mod outcome;
mod processes;
mod reap;
mod running;
mod stdio;
mod strings;
mod supervisor;
#[cfg(test)]
mod tests;
mod usage;
mod verdict;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Result;
use crate::cgroup::Cgroup;
use crate::history::History;

pub use advice::Suggestion;
pub use cancel::Canceller;
pub(crate) use clone::Stacks;
pub use command::Command;
pub(crate) use evidence::Ancestors;
pub(crate) use oom::open_log as open_kernel_log;
pub use oom::parse as parse_kernel_log;
use outcome::Stopped;
pub use outcome::{
    Captured, Cause, Effect, Ended, Outcome, Sample, Scope, Survivor, Verdict, Victim,
};
pub(crate) use processes::count as count_processes;
use reap::reap;
pub use stdio::Stdio;
pub(crate) use supervisor::Supervisor;
use supervisor::{Inbox, Slot};
pub use usage::Usage;

/// Our ends of a call's standard input, output and error.
type Pipes = [Option<OwnedFd>; 3];

/// Who cancels a call through its handle, in the words of the advice.
const US: &str = "the caller";

/// A call that has been started. Dropping it kills all of its processes.
#[derive(Debug)]
#[must_use = "dropping a tool call kills it"]
pub struct ToolCall {
    control: CallControl,
    /// The writing end of standard input, with [`Stdio::Piped`]. Dropping it is the end of the input.
    pub stdin: Option<std::fs::File>,
    /// The reading end of standard output, with [`Stdio::Piped`].
    pub stdout: Option<std::fs::File>,
    /// The reading end of standard error, with [`Stdio::Piped`].
    pub stderr: Option<std::fs::File>,
    ready: Option<Arc<OwnedFd>>,
    /// Where what it took is remembered.
    history: Option<History>,
    /// The calls that were tried before this one.
    retries: Vec<Outcome>,
}

/// Controls a call from anywhere, while another thread waits for it.
#[derive(Clone, Debug)]
pub struct CallControl {
    /// `None` when it was never started.
    id: Option<u64>,
    name: String,
    cgroup: Arc<Cgroup>,
    slot: Arc<Slot>,
    inbox: Arc<Inbox>,
    pid: Option<i32>,
}

impl ToolCall {
    fn new(control: CallControl, pipes: Pipes, history: Option<History>) -> Self {
        let [stdin, stdout, stderr] = pipes.map(|pipe| pipe.map(Into::into));
        Self { control, stdin, stdout, stderr, ready: None, history, retries: Vec::new() }
    }

    /// A handle for other threads.
    pub fn control(&self) -> &CallControl {
        &self.control
    }

    /// Its name: that of its cgroup.
    pub fn name(&self) -> &str {
        &self.control.name
    }

    /// Its cgroup's path, `ROOT/SESSION/calls/NAME`.
    pub fn path(&self) -> &Path {
        self.control.cgroup.path()
    }

    /// The main process; `None` when it could not be started.
    pub fn pid(&self) -> Option<i32> {
        self.control.pid
    }

    /// What it has used so far, or in all when it has ended.
    pub fn usage(&self) -> Usage {
        self.control.usage()
    }

    /// Closes our end of standard input and waits until the call is over and its cgroup gone.
    ///
    /// # Errors
    /// `InvalidInput` in a forked child: the call is its parent's, which alone sees its end.
    pub fn wait(mut self) -> Result<Outcome> {
        self.stdin = None;
        self.control.check_process()?;
        let mut outcome = self.control.slot.take();
        outcome.learn(self.history.as_ref());
        outcome.retries = std::mem::take(&mut self.retries);
        Ok(outcome)
    }

    /// Waits at most so long; true when the call is over and [`wait`](Self::wait) returns at once.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        self.control.wait_timeout(timeout)
    }

    /// Is it over? In a forked child: false, for it cannot know.
    pub fn is_finished(&self) -> bool {
        self.wait_timeout(Duration::ZERO).unwrap_or(false)
    }

    /// A descriptor that is readable when the call is over, for event loops.
    ///
    /// # Errors
    /// Those of `eventfd`; as [`wait`](Self::wait).
    pub fn ready_fd(&mut self) -> Result<BorrowedFd<'_>> {
        self.control.check_process()?;
        let ready = match self.ready.take() {
            Some(ready) => ready,
            None => self.control.slot.ready()?,
        };
        Ok(OwnedFd::as_fd(self.ready.insert(ready)))
    }

    /// Ends it: SIGTERM to all processes, `cgroup.kill` after the grace. Its verdict is `cancelled`.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Kills it at once. Its verdict is `cancelled`.
    pub fn kill(&self) {
        self.control.kill();
    }
}

impl CallControl {
    /// As [`ToolCall::wait_timeout`]; a time beyond what a clock can hold is for ever.
    ///
    /// # Errors
    /// As [`ToolCall::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        self.check_process()?;
        Ok(self.slot.wait(Instant::now().checked_add(timeout)))
    }

    /// As [`ToolCall::cancel`].
    pub fn cancel(&self) {
        self.stop(US, Signal::TERM, None);
    }

    /// As [`ToolCall::kill`].
    pub fn kill(&self) {
        self.stop(US, Signal::TERM, Some(Duration::ZERO));
    }

    /// A forked child has the memory of its parent, but not the thread that watches over the call.
    fn check_process(&self) -> Result<()> {
        self.inbox.check_process()
    }

    fn stop(&self, by: impl Into<String>, signal: Signal, grace: Option<Duration>) {
        if let Some(id) = self.id {
            self.inbox.stop(id, Stopped::Cancelled(by.into()), signal, grace);
        }
    }

    /// As [`cancel`](Self::cancel), with another signal in place of SIGTERM; `by` says who it was,
    /// for the advice: "SIGINT to agentcg run".
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal.
    pub fn interrupt(&self, signal: i32, by: impl Into<String>) -> Result<()> {
        self.stop(by, processes::signal_of(signal)?, None);
        Ok(())
    }

    /// Sends a signal to the main process, and leaves it at that. It may have ended: then nothing
    /// is done.
    ///
    /// # Errors
    /// `InvalidInput` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let signal = processes::signal_of(signal)?;
        if let Some(pid) = self.pid {
            processes::signal_in(&self.cgroup, pid, signal);
        }
        Ok(())
    }

    /// Stops (or continues) all processes of the call where they are: `cgroup.freeze`.
    ///
    /// # Errors
    /// `NotFound` when the call is over.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.cgroup.freeze(frozen)
    }

    /// As [`ToolCall::usage`].
    pub fn usage(&self) -> Usage {
        if self.check_process().is_err() {
            return Usage::read(&self.cgroup);
        }
        self.slot.usage().unwrap_or_else(|| {
            let now = Usage::read(&self.cgroup);
            // It may have ended while we read: then the last word was said before.
            self.slot.usage().unwrap_or(now)
        })
    }
}

impl Drop for ToolCall {
    fn drop(&mut self) {
        if !self.is_finished() {
            self.kill();
        }
    }
}
