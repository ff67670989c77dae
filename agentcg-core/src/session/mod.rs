//! Sessions: one agent's cgroup, with a priority and limits.
//!
//! | cgroup | holds |
//! |---|---|
//! | `SESSION` | the limits; the processes too, as long as there were no tool calls |
//! | `SESSION/agent` | the harness, protected from what its tools do |
//! | `SESSION/calls/CALL` | one tool call each |
//! | `SESSION/background` | what tool calls left running, as asked for |
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | [`Session`], its priority and configuration |
//! | `tree.rs` | the cgroups below a session |
//! | `origins.rs` | where moved processes came from, and the way back |

mod origins;
mod tree;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::admission::{Capacity, GateMember};
use crate::call::{Supervisor, Usage};
use crate::cgroup::{self, Cgroup, CgroupName, Controller, Limit, LimitFile, Lock};
use crate::hint::{Bounds, HintClasses};
use crate::limits::Limits;
use crate::runtime::{MADE, Root};
use crate::scheduler::use_sched_ext;
use crate::{Error, ErrorKind, Result};

pub(crate) use origins::Origins;
pub(crate) use tree::{
    CALL, Calls, NewCall, Orphans, Parts, Presence, dissolve, kill_call, kill_calls, killed_by,
    move_all, remove_orphan, remove_orphans,
};

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
    /// Of the `agent` cgroup, in which the harness lives beside its tool calls. Without a
    /// `memory_low` it is `max`: pressure inside the session takes from the calls first.
    pub agent: Limits,
    /// Of each tool call that does not say otherwise.
    pub call: Limits,
    /// What `memory:low`, `medium` and `high` mean in a hint.
    pub hint_classes: HintClasses,
    /// The longest time that a hint may ask for.
    pub time_max: Option<Duration>,
    /// What the calls of the session may need together, by their limits; others wait.
    pub capacity: Capacity,
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

/// One agent's cgroup.
///
/// Dropping it kills the tool calls that still run, moves other processes back to where they came
/// from and removes the cgroup. A session of a [shared](crate::RuntimeBuilder::shared) runtime that
/// others use too is left to the last of them.
#[derive(Debug)]
#[must_use = "dropping a session removes its cgroup"]
pub struct Session {
    name: CgroupName,
    cgroup: Cgroup,
    config: SessionConfig,
    origins: Arc<Origins>,
    /// The runtime's root is held open, and so not removed, while it has sessions.
    root: Arc<Root>,
    /// Says that the session is in use.
    lock: OwnedFd,
    calls: Mutex<Option<Arc<Calls>>>,
    queue: GateMember,
}

impl Session {
    pub(crate) fn create(
        root: Arc<Root>,
        origins: Arc<Origins>,
        name: CgroupName,
        config: SessionConfig,
    ) -> Result<Self> {
        config.limits.check()?;
        config.agent.check()?;
        config.call.check()?;
        config.hint_classes.check()?;
        // Nobody joins or leaves meanwhile.
        let setup = root.setup()?;
        let (cgroup, made) = match root.shared() {
            true => root.cgroup().child_or_create(&name)?,
            false => (root.cgroup().create_child(&name)?, true),
        };
        let lock =
            match cgroup::lock_as(&cgroup, Lock::Owner, FlockOperation::NonBlockingLockShared) {
                Ok(lock) => lock,
                Err(e) => {
                    if made {
                        cgroup.remove()?;
                    }
                    return Err(e);
                }
            };
        drop(setup);
        let queue = root.gate().join(config.capacity, config.priority);
        let calls = Mutex::default();
        let session = Self { name, cgroup, config, origins, root, lock, calls, queue };
        if made {
            // From here on dropping the session removes the cgroup.
            cgroup::set_attribute(&session.cgroup, MADE, b"1")?;
            session.config.apply(&session.cgroup, session.root.controllers())?;
        }
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

    /// Changes limits while it runs; what is `None` stays as it is.
    ///
    /// # Errors
    /// `InvalidInput`; `Unsupported` for a limit whose controller is missing.
    pub fn set_limits(&self, limits: &Limits) -> Result<()> {
        limits.apply(&self.cgroup, self.root.controllers())
    }

    /// Moves a process with all its threads into the session; its later children are born there.
    /// Once there are tool calls it goes to the session's `agent` cgroup.
    ///
    /// # Errors
    /// Those of [`Cgroup::move_pid`].
    pub fn move_pid(&self, pid: i32) -> Result<()> {
        let home = cgroup::path_of(pid)?;
        let moved = match self.calls.lock().is_some() {
            true => self.agent()?.move_pid(pid),
            false => self.cgroup.move_pid(pid),
        };
        match moved {
            // Another process has made tool calls here: no process may be beside them.
            Err(e) if e.kind() == ErrorKind::Busy => self.agent()?.move_pid(pid)?,
            moved => moved?,
        }
        if !home.starts_with(self.root.cgroup().path()) {
            self.origins.remember(pid, home);
        }
        if self.root.partial_scheduler() {
            use_sched_ext(pid, true)?;
        }
        Ok(())
    }

    /// Moves the harness itself into the session's `agent` cgroup, and makes it the last that the
    /// OOM killer takes: its `oom_score_adj` is lowered by 500 until the session ends (needs
    /// CAP_SYS_RESOURCE; without it the score stays).
    ///
    /// # Errors
    /// Those of [`move_pid`](Self::move_pid).
    pub fn move_agent(&self, pid: i32) -> Result<()> {
        self.calls()?;
        self.move_pid(pid)?;
        self.origins.lower_oom_score(pid);
        Ok(())
    }

    /// What it and its tool calls have used so far.
    ///
    /// # Errors
    /// `NotFound` when the cgroup is gone. What this kernel does not count is `None`, with the reason.
    pub fn usage(&self) -> Result<Usage> {
        let usage = Usage::read(&self.cgroup);
        // Every cgroup has CPU times: without them there is no cgroup.
        if usage.cpu_user_us.is_none() {
            self.cgroup.cpu_stat()?;
        }
        Ok(usage)
    }

    /// Stops all processes of the session, tool calls included, where they are: `cgroup.freeze`
    /// (kernel 5.2). Do not freeze the session that you are in.
    ///
    /// # Errors
    /// Those of [`Cgroup::freeze`].
    pub fn freeze(&self) -> Result<()> {
        self.cgroup.freeze(true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Those of [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.cgroup.freeze(false)
    }

    /// Kills the tool calls of the session, all of them, with the verdict `cancelled`, and what
    /// they left in the background. The harness lives.
    ///
    /// # Errors
    /// Those of [`Cgroup::kill`].
    pub fn kill_calls(&self) -> Result<()> {
        tree::kill_calls(&self.cgroup, "the session")
    }

    /// Kills every process of the session, the harness included: `cgroup.kill` (kernel 5.14). Do
    /// not kill the session that you are in.
    ///
    /// # Errors
    /// Those of [`Cgroup::kill`].
    pub fn kill(&self) -> Result<()> {
        self.kill_calls()?;
        self.cgroup.kill()
    }

    /// The `agent` cgroup, made when it is needed.
    fn agent(&self) -> Result<Cgroup> {
        tree::agent(&self.cgroup, &self.config.agent)
    }

    pub(crate) fn calls(&self) -> Result<Arc<Calls>> {
        let mut calls = self.calls.lock();
        if let Some(calls) = &*calls {
            return Ok(calls.clone());
        }
        let _setup = self.root.setup()?;
        let made = Arc::new(Calls::make(
            self.name(),
            &self.cgroup,
            &self.config.agent,
            self.root.shared(),
        )?);
        *calls = Some(made.clone());
        Ok(made)
    }

    pub(crate) fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What the session lets a call have, from the kernel's files, for another may have set them.
    pub(crate) fn bounds(&self) -> Bounds {
        let limit = |file| self.cgroup.limit(file).ok().and_then(Limit::value);
        Bounds {
            memory_max: limit(LimitFile::MemoryMax),
            pids_max: limit(LimitFile::PidsMax),
            cpu_max: self.cgroup.cpu_max().ok().and_then(|max| max.cores()),
            time: self.config.time_max,
        }
    }

    pub(crate) fn queue(&self) -> &GateMember {
        &self.queue
    }

    pub(crate) fn new_call(&self, name: Option<&str>) -> Result<NewCall> {
        self.root.check_process()?;
        self.calls()?.new_call(name)
    }

    pub(crate) fn supervisor(&self) -> Result<&Supervisor> {
        self.root.supervisor()
    }

    pub(crate) fn partial_scheduler(&self) -> bool {
        self.root.partial_scheduler()
    }

    fn leave(&self) -> Result<()> {
        if let Some(calls) = self.calls.lock().take() {
            calls.end();
        }
        let _setup = self.root.setup()?;
        match rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Others are in it: the last of them removes it.
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(e) => return Err(Error::os("lock", self.path(), e)),
        }
        dissolve(&self.cgroup, &self.origins, self.root.outside(), Orphans::Kill)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.root.check_process().is_err() {
            return;
        }
        if let Err(e) = self.leave() {
            tracing::warn!("session {} stays: {e}", self.name);
        }
    }
}
