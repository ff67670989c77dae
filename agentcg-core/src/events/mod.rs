//! The process monitor.
//!
//! | file | subject |
//! |---|---|
//! | `types.rs` | [`Event`] and its JSON |
//! | `filter.rs` | [`EventFilter`]: what is wanted; filtered in the kernel |
//! | `monitor.rs` | the loaded programs, shared by all streams |
//! | `file_probe.rs` | the tracepoints of the open system calls |
//! | `decode.rs` | ring buffer records to events |
//! | `names.rs` | cgroup ids to paths, sessions and tool calls |
//! | `stream.rs` | [`EventStream`] |

mod decode;
mod file_probe;
mod filter;
mod monitor;
mod names;
mod stream;
mod types;

/// Decodes one ring buffer record.
pub fn decode_event(bytes: &[u8]) -> Option<Event> {
    match decode::decode(bytes, 4096)? {
        decode::Record::Event(event) => Some(event),
        decode::Record::Cgroup(..) => None,
    }
}

/// Checks a filter.
pub fn check(filter: &EventFilter) -> crate::Result<()> {
    filter.check()
}

pub(crate) use file_probe::SyscallTracepoints;
pub use filter::{EventFilter, EventMode};
pub(crate) use monitor::try_load;
pub use stream::{EventStats, EventStream, MissingProbe};
pub use types::{
    BashReadline, Comm, DropReason, Dropped, Event, EventKind, Exec, Exit, FileOpen, Fork, OomKill,
    Origin,
};
