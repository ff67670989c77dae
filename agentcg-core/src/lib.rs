//! Control and measure what AI agents' tool calls take from a Linux machine.
//!
//! | start here | for |
//! |---|---|
//! | [`Runtime`] | the owner of a cgroup subtree and of everything below |
//! | [`Session`] | one agent's cgroup, with a priority and limits |
//! | [`Command`], [`Outcome`] | one tool call: limited, measured, ended whole, explained |
//! | [`Hint`], [`History`], [`Capacity`] | what a call needs, what it took before, waiting for room |
//! | [`Scheduler`] | a sched_ext CPU scheduler by cgroup weight |
//! | [`MemoryProtection`] | high-priority memory is kept while it is short |
//! | [`EventStream`] | what processes do: exec, exit, fork, file open |
//! | [`Hint`], [`History`], [`budget`](fn@budget), [`Admission`] | what a call needs, took before, is told, and waits for |
//! | [`Capabilities`] | what this kernel allows, why not, and how to get it |
//! | [`inspect()`] | the sessions and calls of a root, seen from outside |
//! | [`Cgroup`] | cgroup v2 itself |
//!
//! Handles undo what they did when they are dropped; what a killed process left is undone by the
//! next [`Runtime`]. Errors say what failed, where, what the kernel answered and the way out. The
//! library prints nothing (it logs through `tracing`), installs no signal handlers and changes no
//! state of the process. Calls that are not waited for at once are watched by one thread a runtime.
//!
//! Needs kernel 5.14 with cgroup v2 (for `cgroup.kill`); everything above that is probed.
//!
//! ```no_run
//! use agentcg_core::{Priority, Runtime, SchedulerConfig, SessionConfig};
//!
//! let runtime = Runtime::new()?;
//! let mut config = SessionConfig::default();
//! config.priority = Priority::High;
//! let session = runtime.session("agent-1", config)?;
//! let scheduler = runtime.start_scheduler(SchedulerConfig::default())?;
//! let outcome = session.command("make").arg("test").hint("memory:2G".parse()?).output()?;
//! println!("{:?}: {}", outcome.verdict, outcome.advice);
//! # Ok::<(), agentcg_core::Error>(())
//! ```

mod admission;
mod bpf;
mod budget;
mod call;
mod cgroup;
mod error;
mod events;
mod hint;
mod history;
mod inspect;
mod limits;
mod memory;
mod probe;
mod runtime;
mod scheduler;
mod session;
mod units;

/// What reads foreign bytes, for the fuzz targets; not part of the interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::call::parse_kernel_log;
    pub use crate::events::{check, decode_event as decode};
}

pub use admission::{Admission, Admitted, Capacity, Need, Place, SessionKey, Ticket};
pub use budget::budget;
pub use call::{
    CallControl, Canceller, Captured, Cause, Command, Effect, Ended, Outcome, Sample, Scope, Stdio,
    Suggestion, Survivor, ToolCall, Usage, Verdict, Victim,
};
pub use cgroup::{
    Cgroup, CgroupName, Controller, CpuMax, CpuStat, Events, Limit, LimitFile, MemoryEvents,
    Pressure, Stall, mount_point, own_path, path_of,
};
pub use error::{Error, ErrorKind, Result};
pub use events::{
    BashReadline, Comm, DropReason, Dropped, Event, EventFilter, EventKind, EventMode, EventStats,
    EventStream, Exec, Exit, FileOpen, Fork, MissingProbe, OomKill, Origin,
};
pub use hint::{Bounds, Hint, HintClasses, MemoryHint, Resolved};
pub use history::{CommandKey, History, Run};
pub use inspect::{CallView, SessionView, inspect};
pub use limits::{IoMax, Limits};
pub use memory::{
    MemcgConfig, MemoryBackend, MemoryProtection, MemoryRole, MemorySessionStats, MemoryStats,
    ProtectionWindow, StuckAction, StuckCgroup,
};
pub use probe::{Backends, Capabilities, Capability, SchedulerBackend};
pub use runtime::{Runtime, RuntimeBuilder};
pub use scheduler::{
    Brake, CgroupRuntime, CgroupUsage, Scheduler, SchedulerConfig, SchedulerExit,
    SchedulerExitKind, SchedulerScope, SchedulerStats, SessionStats, WaitTimes,
};
pub use session::{Priority, Session, SessionConfig};
pub use units::{parse_duration, parse_size};
