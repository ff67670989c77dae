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
    /// `1`: `EXEC`, `EXIT` and `FORK` of all processes, `FILE_OPEN` of tracked ones only.
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

/// What to report. A process is *tracked* when its command, pid or cgroup is named here, or when
/// its parent was tracked when it forked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EventFilter {
    /// Whose events; default all.
    pub mode: EventMode,
    /// Command names, at most 15 bytes each. `python` also matches `python3` and
    /// `python3.11`: the name followed by digits and dots.
    pub commands: Vec<String>,
    /// Processes, by pid; with all their descendants.
    pub pids: Vec<i32>,
    /// cgroup v2 directories; with everything below them.
    pub cgroups: Vec<PathBuf>,
    /// `EXIT` is left out for processes that lived less than this.
    pub min_duration: Duration,
    /// The kinds of events; default all.
    pub kinds: Vec<EventKind>,
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
            min_duration: Duration::ZERO,
            kinds: vec![EventKind::Exec, EventKind::Exit, EventKind::Fork, EventKind::FileOpen],
            buffer_bytes: 8 << 20,
        }
    }
}

impl EventFilter {
    /// The longest command name that the kernel keeps.
    pub(super) const COMMAND_LEN: usize = 15;
    /// As many as the kernel side has room for, of each sort of filter.
    pub(super) const MAX_ENTRIES: usize = 1024;

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
        for (what, n) in [
            ("number of commands", self.commands.len()),
            ("number of pids", self.pids.len()),
            ("number of cgroups", self.cgroups.len()),
        ] {
            if n > Self::MAX_ENTRIES {
                return Err(Error::invalid(what, n, "at most 1024"));
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
        Ok(())
    }
}
