use std::path::PathBuf;
use std::time::Duration;

use super::types::EventKind;
use crate::{Error, Result};

/// Which processes' events are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventMode {
    /// `0`: everything.
    #[default]
    All,
    /// `1`: `FILE_OPEN` of tracked processes only, the others of all processes.
    FilesOfTracked,
    /// `2`: only tracked processes.
    TrackedOnly,
}

impl EventMode {
    /// The mode of a number as the command line has it.
    ///
    /// # Errors
    /// `InvalidInput` for anything but 0, 1 and 2.
    pub fn from_number(n: u32) -> Result<Self> {
        match n {
            0 => Ok(Self::All),
            1 => Ok(Self::FilesOfTracked),
            2 => Ok(Self::TrackedOnly),
            _ => Err(Error::invalid("mode", n, "expected 0, 1 or 2")),
        }
    }
}

/// What to report, decided in the kernel. A process is *tracked* when its command, pid, user,
/// cgroup or executable is named here, or when its parent was tracked when it forked.
///
/// ```
/// use agentcg_core::{EventFilter, EventKind, EventMode};
/// let mut filter = EventFilter::default();
/// filter.mode = EventMode::TrackedOnly;
/// filter.commands = vec!["pytest".into()];
/// filter.kinds = vec![EventKind::Exec, EventKind::Exit];
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EventFilter {
    /// Whose events; default all.
    pub mode: EventMode,
    /// Command names, at most 15 bytes each. `python` also matches `python3` and `python3.11`: the
    /// name followed by digits and dots.
    pub commands: Vec<String>,
    /// Processes, by pid; with all their descendants.
    pub pids: Vec<i32>,
    /// cgroup v2 directories; with everything below them.
    pub cgroups: Vec<PathBuf>,
    /// Users.
    pub uids: Vec<u32>,
    /// What the path given to exec begins with, at most 251 bytes: `/opt/agent/`.
    pub executables: Vec<PathBuf>,
    /// `EXIT` is left out for processes that lived less than this.
    pub min_duration: Duration,
    /// The kinds of events; default all.
    pub kinds: Vec<EventKind>,
    /// Arguments are cut beyond this many bytes; default 16 KiB, at most 1 MiB and a quarter of the
    /// buffer.
    pub args_bytes: u32,
    /// How long an event may wait for others before the reader is woken; default 10 ms, at most
    /// 1 s, zero: at once. The wake-up is nearly all that an event costs.
    pub delay: Duration,
    /// Repeated opens of one path by a thread within this time become one event; default 100 ms.
    pub open_window: Duration,
    /// `FILE_OPEN` events of one thread in a second; more are counted as dropped. Default 1000.
    pub open_rate: u32,
    /// The size of the ring buffer in bytes, rounded up to a power of two; default 8 MiB.
    pub buffer_bytes: u32,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self {
            mode: EventMode::default(),
            commands: Vec::new(),
            pids: Vec::new(),
            cgroups: Vec::new(),
            uids: Vec::new(),
            executables: Vec::new(),
            min_duration: Duration::ZERO,
            kinds: EventKind::ALL.into(),
            args_bytes: 16 << 10,
            delay: Duration::from_millis(10),
            open_window: Duration::from_millis(100),
            open_rate: 1000,
            buffer_bytes: 8 << 20,
        }
    }
}

impl EventFilter {
    /// The longest command name that the kernel keeps.
    const COMMAND_LEN: usize = 15;
    /// The longest prefix that the kernel side compares.
    pub(super) const PREFIX_LEN: usize = 251;
    /// Of each sort, so that several subscribers have room in the kernel's maps.
    const MAX_ENTRIES: usize = 256;

    /// It names processes to track.
    pub fn tracks(&self) -> bool {
        !(self.commands.is_empty()
            && self.pids.is_empty()
            && self.cgroups.is_empty()
            && self.uids.is_empty()
            && self.executables.is_empty())
    }

    pub(super) fn check(&self) -> Result<()> {
        for c in &self.commands {
            let why = if c.is_empty() {
                "it is empty"
            } else if c.len() > Self::COMMAND_LEN {
                "the kernel keeps 15 bytes of a command name"
            } else if c.contains('\0') {
                "it contains a NUL"
            } else {
                continue;
            };
            return Err(Error::invalid("command", c, why));
        }
        for path in &self.executables {
            let len = path.as_os_str().len();
            if len == 0 || len > Self::PREFIX_LEN {
                return Err(Error::invalid("executable", path, "expected 1 to 251 bytes"));
            }
        }
        for (what, n) in [
            ("number of commands", self.commands.len()),
            ("number of pids", self.pids.len()),
            ("number of cgroups", self.cgroups.len()),
            ("number of uids", self.uids.len()),
            ("number of executables", self.executables.len()),
        ] {
            if n > Self::MAX_ENTRIES {
                return Err(Error::invalid(what, n, "at most 256"));
            }
        }
        if let Some(pid) = self.pids.iter().find(|p| **p <= 0) {
            return Err(Error::invalid("pid", pid, "expected a positive number"));
        }
        if self.kinds.is_empty() {
            return Err(Error::invalid("kinds", "[]", "nothing to report"));
        }
        if !(4096..=1 << 30).contains(&self.buffer_bytes) {
            return Err(Error::invalid(
                "buffer size",
                self.buffer_bytes,
                "expected 4 KiB to 1 GiB",
            ));
        }
        if self.args_bytes > 1 << 20 {
            return Err(Error::invalid("size of arguments", self.args_bytes, "at most 1 MiB"));
        }
        if self.delay > Duration::from_secs(1) {
            return Err(Error::invalid("delay", self.delay, "at most 1 s"));
        }
        Ok(())
    }
}
