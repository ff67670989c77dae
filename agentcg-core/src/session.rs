//! Sessions: one agent's cgroup, with a priority and limits.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Cgroup, CgroupName, Controller};
use crate::limits::Limits;
use crate::scheduler::use_sched_ext;
use crate::{CpuStat, Error, ErrorKind, MemoryEvents, Result};

/// How a session stands against the others when CPU or memory is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Served first: `cpu.weight` 150.
    High,
    /// `cpu.weight` 100, the kernel's default.
    #[default]
    Normal,
    /// Yields to the others: `cpu.weight` 50.
    Low,
}

impl Priority {
    /// The `cpu.weight` that goes with it.
    pub fn cpu_weight(self) -> u32 {
        match self {
            Priority::High => 150,
            Priority::Normal => 100,
            Priority::Low => 50,
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "high" => Ok(Self::High),
            "normal" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            _ => Err(Error::invalid("priority", s, "expected high, normal or low")),
        }
    }
}

/// Priority and limits of a session.
///
/// ```
/// use agentcg_core::{Priority, SessionConfig};
/// let mut config = SessionConfig::default();
/// config.priority = Priority::Low;
/// config.limits.memory_max = Some("512M".parse()?);
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Against the other sessions.
    pub priority: Priority,
    /// Of the whole session. Without a `cpu_weight` it gets that of the priority.
    pub limits: Limits,
}

impl SessionConfig {
    /// Writes the limits. The weight that merely goes with the priority is left out where there is
    /// no cpu controller (capability `cpu_controller` says so).
    fn apply(&self, cgroup: &Cgroup, controllers: &[Controller]) -> Result<()> {
        if controllers.contains(&Controller::Cpu) && self.limits.cpu_weight.is_none() {
            cgroup.set_cpu_weight(self.priority.cpu_weight())?;
        }
        self.limits.apply(cgroup, controllers)
    }
}

/// What a session has used, from the kernel's files. Without the memory controller the memory
/// fields are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SessionUsage {
    /// CPU time.
    pub cpu: CpuStat,
    /// Now, bytes.
    pub memory_current_bytes: Option<u64>,
    /// The most since the session was made, bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Time in which some task stalled for memory, µs.
    pub memory_stall_us: Option<u64>,
    /// How often limits were met.
    pub memory_events: Option<MemoryEvents>,
}

/// What all sessions of a runtime share: where the processes came from that were moved into them.
#[derive(Debug, Default)]
pub(crate) struct Origins(Mutex<HashMap<i32, std::path::PathBuf>>);

impl Origins {
    /// Moves the processes of a cgroup (not of its children) back to where they came from, else to
    /// the nearest ancestor outside the runtime that takes processes.
    pub(crate) fn evacuate(&self, cgroup: &Cgroup, outside: &Path) -> Result<()> {
        // New ones may be forked while we move; each round leaves fewer to do so.
        for _ in 0..100 {
            let pids = cgroup.procs()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                let home = self.0.lock().remove(&pid);
                let moved = home.and_then(|h| Cgroup::open(h).ok()?.move_pid(pid).ok());
                if moved.is_none() {
                    move_to_ancestor(pid, outside)?;
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "processes fork faster than they can be moved out of")
            .at(cgroup.path()))
    }
}

fn move_to_ancestor(pid: i32, outside: &Path) -> Result<()> {
    let mut last = None;
    for path in outside.ancestors() {
        let Ok(cgroup) = Cgroup::open(path) else {
            break;
        };
        match cgroup.move_pid(pid) {
            Ok(()) => return Ok(()),
            // Died meanwhile.
            Err(e) if e.errno() == Some(libc::ESRCH) => return Ok(()),
            Err(e) => last = Some(e),
        }
    }
    last.map_or(Ok(()), Err)
}

/// One agent's cgroup.
///
/// Dropping it moves the processes that are left back to where they came from and removes the
/// cgroup.
#[derive(Debug)]
#[must_use = "dropping a session removes its cgroup"]
pub struct Session {
    name: CgroupName,
    cgroup: Cgroup,
    config: SessionConfig,
    origins: Arc<Origins>,
    /// The runtime's root is held open, and so not removed, while it has sessions.
    root: Arc<crate::runtime::Root>,
}

impl Session {
    pub(crate) fn create(
        root: Arc<crate::runtime::Root>,
        origins: Arc<Origins>,
        name: CgroupName,
        config: SessionConfig,
    ) -> Result<Self> {
        config.limits.check()?;
        let cgroup = root.cgroup().create_child(&name)?;
        let session = Self { name, cgroup, config, origins, root };
        // From here on dropping the session removes the cgroup.
        cgroup::set_attribute(&session.cgroup, crate::runtime::MADE, b"1")?;
        session.config.apply(&session.cgroup, session.root.controllers())?;
        Ok(session)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.config.priority
    }

    /// Its cgroup, for whatever this type has no method for.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Where it is: `/sys/fs/cgroup/agentcg/NAME`.
    pub fn path(&self) -> &Path {
        self.cgroup.path()
    }

    /// Moves a process with all its threads into the session; its later children are born there.
    ///
    /// # Errors
    /// Those of [`Cgroup::move_pid`].
    pub fn move_pid(&self, pid: i32) -> Result<()> {
        let home = cgroup::path_of(pid)?;
        self.cgroup.move_pid(pid)?;
        if !home.starts_with(self.root.cgroup().path()) {
            self.origins.0.lock().insert(pid, home);
        }
        if self.root.partial_scheduler() {
            use_sched_ext(pid, true)?;
        }
        Ok(())
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// Those of reading `cpu.stat`; what else cannot be read is `None`.
    pub fn usage(&self) -> Result<SessionUsage> {
        Ok(SessionUsage {
            cpu: self.cgroup.cpu_stat()?,
            memory_current_bytes: self.cgroup.memory_current().ok(),
            memory_peak_bytes: self.cgroup.memory_peak().ok(),
            memory_stall_us: self.cgroup.memory_pressure().ok().map(|p| p.some.total_usec),
            memory_events: self.cgroup.memory_events().ok(),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let outside = self.root.outside();
        let done =
            self.origins.evacuate(&self.cgroup, outside).and_then(|()| self.cgroup.remove_tree());
        if let Err(e) = done {
            tracing::warn!("session {} stays: {e}", self.name);
        }
    }
}
