//! The process monitor.
//!
//! | file | subject |
//! |---|---|
//! | `types.rs` | [`Event`] and its JSON |
//! | `filter.rs` | [`EventFilter`]: what is wanted; filtered in the kernel |
//! | `decode.rs` | ring buffer records to events |
//! | `file_probe.rs` | the tracepoints of the open system calls |
//! | `stream.rs` | [`EventStream`] |

mod decode;
mod file_probe;
mod filter;
mod stream;
mod types;

pub(crate) use file_probe::SyscallTracepoints;
pub use filter::{EventFilter, EventMode};
pub(crate) use stream::try_load;
pub use stream::{EventStream, MissingProbe};
pub use types::{DropReason, Dropped, Event, EventKind, Exec, Exit, FileOpen, Fork, Origin};
