//! [`Runtime`]: the owner of one cgroup subtree and of what is attached on its behalf.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Access, FlockOperation};

use crate::admission::{Capacity, Gate};
use crate::call::Supervisor;
use crate::cgroup::{self, Cgroup, CgroupName, Controller, Lock, mount_point, own_path};
use crate::events::{EventFilter, EventStream};
use crate::memory::{MemcgConfig, MemoryProtection};
use crate::scheduler::{CurrentBrake, Scheduler, SchedulerConfig, SchedulerScope};
use crate::session::{self, Origins, Orphans, Session, SessionConfig};
use crate::{Capabilities, Error, ErrorKind, Result};

/// On a cgroup that a runtime made and removes.
pub(crate) const MADE: &str = "user.agentcg.made";
/// Beside the root: what lived in its parent before.
const OCCUPANTS: &str = "agentcg-occupants";
/// On a cgroup whose `cgroup.subtree_control` a runtime added controllers to: their names.
const ENABLED: &str = "user.agentcg.enabled";

/// Options of a [`Runtime`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RuntimeBuilder {
    root: Option<PathBuf>,
    shared: bool,
    orphans: Orphans,
    capacity: Capacity,
}

impl RuntimeBuilder {
    /// The cgroup below which the sessions are made; it is made if it is missing, in an existing
    /// parent. Default: `agentcg` below the cgroup v2 mount, or below our own cgroup where that
    /// is all we may write to (a subtree that systemd delegated).
    pub fn root(mut self, path: impl Into<PathBuf>) -> Self {
        self.root = Some(path.into());
        self
    }

    /// Several processes use the root at once, also beside the one that owns it: a session that is
    /// there already is joined, with the priority and limits that it has, and the last one out
    /// removes it. Default: false, we own the root alone.
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Tool calls whose harness was killed: `true` moves their processes out, to the parent of the
    /// root, instead of killing them. Default: false.
    pub fn keep_orphans(mut self, keep: bool) -> Self {
        self.orphans = if keep { Orphans::MoveOut } else { Orphans::Kill };
        self
    }

    /// What the tool calls of all sessions may need together, by their limits; others wait until it
    /// is free. Other processes of a shared root are not counted. Default: not bounded.
    pub fn capacity(mut self, capacity: Capacity) -> Self {
        self.capacity = capacity;
        self
    }

    /// Takes the subtree: removes what a dead runtime left there, enables the controllers down to
    /// it, and locks it.
    ///
    /// # Errors
    /// `Unsupported` without cgroup v2; `InvalidInput` when the parent is no cgroup;
    /// `PermissionDenied`; `Busy` when another process owns it.
    pub fn build(self) -> Result<Runtime> {
        let path = match &self.root {
            Some(path) => path.clone(),
            None => Runtime::default_root()?,
        };
        let root = Arc::new(Root::take(&path, &self)?);
        Ok(Runtime { root, origins: Arc::default(), brake: CurrentBrake::default() })
    }
}

/// The owner of one cgroup subtree and of everything attached on its behalf.
///
/// Several may live in one process or machine, each with a root of its own; a second one on the same
/// root is refused. Dropping the runtime, after its sessions, removes the cgroups that it made and
/// switches controllers off again that it switched on. After `kill -9` the next runtime on the same
/// root does that first; processes that were left are moved to the parent.
///
/// ```no_run
/// use agentcg_core::{Runtime, SessionConfig};
/// let runtime = Runtime::new()?;
/// let session = runtime.session("agent-1", SessionConfig::default())?;
/// runtime.move_pid(std::process::id() as i32, &session)?;
/// println!("{:?}", session.usage()?);
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the runtime removes what it made"]
pub struct Runtime {
    root: Arc<Root>,
    origins: Arc<Origins>,
    brake: CurrentBrake,
}

impl Runtime {
    /// A runtime on the default root.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Where [`Runtime::new`] has its root; see [`RuntimeBuilder::root`].
    ///
    /// # Errors
    /// As [`mount_point`].
    pub fn default_root() -> Result<PathBuf> {
        let mount = mount_point()?;
        let writable =
            |path: &Path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let own = own_path().unwrap_or_else(|_| mount.clone());
        let parent = if !writable(&mount) && writable(&own) { own } else { mount };
        Ok(parent.join("agentcg"))
    }

    /// Options first.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// The root cgroup.
    pub fn root(&self) -> &Cgroup {
        self.root.cgroup()
    }

    /// The controllers that sessions have.
    pub fn controllers(&self) -> &[Controller] {
        self.root.controllers()
    }

    /// What this kernel and our privileges allow.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::probe()
    }

    /// Makes a session.
    ///
    /// # Errors
    /// `InvalidInput` for a bad name or limit; `AlreadyExists`; `Unsupported` for a limit whose
    /// controller is missing. Nothing is left then.
    pub fn session(&self, name: &str, config: SessionConfig) -> Result<Session> {
        let name = CgroupName::new(name)?;
        Session::create(self.root.clone(), self.origins.clone(), name, config)
    }

    /// Attaches the sched_ext scheduler; see [`Scheduler::attach`].
    ///
    /// # Errors
    /// As [`Scheduler::attach`].
    pub fn start_scheduler(&self, config: SchedulerConfig) -> Result<Scheduler> {
        let scheduler = Scheduler::attach(&config, Some(self.root().path()))?;
        let partial = config.scope == SchedulerScope::Agents;
        self.root.partial_scheduler.store(partial, Ordering::Relaxed);
        self.brake.set(&scheduler.brake());
        Ok(scheduler)
    }

    /// Protects the memory of high-priority cgroups against low-priority ones; see
    /// [`MemoryProtection::attach`]. While this runtime's scheduler is attached, low ones that do
    /// not let the high ones be are held back on the CPU too ([`Brake`](crate::Brake)).
    ///
    /// # Errors
    /// As [`MemoryProtection::attach`].
    pub fn attach_memcg_ops(&self, config: MemcgConfig) -> Result<MemoryProtection> {
        MemoryProtection::start(config, self.brake.clone())
    }

    /// Subscribes to process events; see [`EventStream::open`].
    ///
    /// # Errors
    /// As [`EventStream::open`].
    pub fn subscribe(&self, filter: EventFilter) -> Result<EventStream> {
        EventStream::open(&filter, Some(self.root().path()))
    }

    /// Moves a process with all its threads into a session.
    ///
    /// # Errors
    /// As [`Session::move_pid`].
    pub fn move_pid(&self, pid: i32, session: &Session) -> Result<()> {
        session.move_pid(pid)
    }
}

/// The locked root cgroup. The last of the runtime and its sessions to be dropped releases it.
#[derive(Debug)]
pub(crate) struct Root {
    cgroup: Cgroup,
    outside: PathBuf,
    controllers: Vec<Controller>,
    partial_scheduler: AtomicBool,
    /// That we own it; a shared runtime does not.
    lock: Mutex<Option<OwnedFd>>,
    /// That it is in use; only a shared runtime has it.
    member: Option<OwnedFd>,
    shared: bool,
    supervisor: OnceLock<Supervisor>,
    gate: Arc<Gate>,
    process: u32,
}

impl Root {
    fn take(path: &Path, options: &RuntimeBuilder) -> Result<Self> {
        let shared = options.shared;
        let mount = mount_point()?;
        let (parent, name) = match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
            (Some(parent), Some(name)) => (Cgroup::open(parent)?, CgroupName::new(name)?),
            _ => {
                return Err(Error::invalid(
                    "runtime root",
                    path,
                    "expected a path below the cgroup v2 mount",
                ));
            }
        };
        let (cgroup, setup) = loop {
            let cgroup = match open_or_make(&parent, &name) {
                // It was there and is gone, or was made and is gone: others use this root too.
                Err(e) if e.kind() == ErrorKind::NotFound && parent.id().is_ok() => continue,
                cgroup => cgroup?,
            };
            let setup = cgroup::lock_as(&cgroup, Lock::Setup, FlockOperation::LockExclusive);
            // Who had the lock before us may have removed it.
            if parent.child(&name).and_then(|c| c.id()).ok() == cgroup.id().ok() {
                break (cgroup, setup?);
            }
        };
        let (lock, member) = if shared {
            let how = FlockOperation::NonBlockingLockShared;
            (None, Some(cgroup::lock_as(&cgroup, Lock::Member, how)?))
        } else {
            (Some(cgroup::lock(&cgroup, Lock::Owner)?), None)
        };
        let mut root = Self {
            outside: parent.path().to_path_buf(),
            cgroup,
            controllers: Vec::new(),
            partial_scheduler: AtomicBool::new(false),
            lock: Mutex::new(lock),
            member,
            shared,
            supervisor: OnceLock::new(),
            gate: Gate::new(options.capacity),
            process: std::process::id(),
        };
        // Room that another shared runtime has made, or one that was killed.
        if let Ok(room) = parent.child(&CgroupName::new(OCCUPANTS)?)
            && cgroup::has_attribute(&room, MADE)?
        {
            root.outside = room.path().to_path_buf();
        }
        // From here on dropping the root undoes what was done.
        let taken = root.remove_leftovers(options.orphans).and_then(|()| {
            if !shared {
                restore_values(&mount);
            }
            root.enable_controllers(&mount)
        });
        drop(setup);
        taken.map(|()| root)
    }

    /// While it is held, no session of this root is made or removed.
    pub(crate) fn setup(&self) -> Result<OwnedFd> {
        self.check_process()?;
        cgroup::lock_as(&self.cgroup, Lock::Setup, FlockOperation::LockExclusive)
    }

    /// That this is not a forked child: it has our memory, and our locks are its locks too, but what
    /// they stand for is its parent's.
    pub(crate) fn check_process(&self) -> Result<()> {
        check_process(self.process)
    }

    pub(crate) fn shared(&self) -> bool {
        self.shared
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The thread that watches over tool calls, started when it is first needed.
    pub(crate) fn supervisor(&self) -> Result<&Supervisor> {
        if let Some(supervisor) = self.supervisor.get() {
            return Ok(supervisor);
        }
        let started = Supervisor::start()?;
        // Where two threads were at it, the second one ends here.
        Ok(self.supervisor.get_or_init(|| started))
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(crate) fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// The parent: where processes go when a session ends.
    pub(crate) fn outside(&self) -> &Path {
        &self.outside
    }

    pub(crate) fn partial_scheduler(&self) -> bool {
        self.partial_scheduler.load(Ordering::Relaxed)
    }

    /// Sessions that nobody holds, and calls that nobody holds in sessions that are still used, have
    /// lost their owner. Cgroups that agentcg did not make are left alone.
    fn remove_leftovers(&self, orphans: Orphans) -> Result<()> {
        for session in self.cgroup.children()? {
            if !cgroup::has_attribute(&session, MADE)? {
                continue;
            }
            match cgroup::lock(&session, Lock::Owner) {
                Ok(_lock) => {
                    tracing::info!(
                        "removing what a killed process left: {}",
                        session.path().display()
                    );
                    session::dissolve(&session, &Origins::default(), &self.outside, orphans)?;
                }
                Err(e) if e.kind() == ErrorKind::Busy => {
                    session::remove_orphans(&session, &self.outside, orphans)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// From the mount down to the root, every level must hand the controllers on. Levels that are
    /// not ours to write (a delegated subtree) are taken as they are.
    fn enable_controllers(&mut self, mount: &Path) -> Result<()> {
        for level in self.levels(mount)? {
            let on = level.subtree_control()?;
            let wanted: Vec<_> = level
                .controllers()?
                .into_iter()
                .filter(|c| Controller::USED.contains(c) && !on.contains(c))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            if is_occupied(&level)
                && let Err(e) = self.make_room(&level)
            {
                if e.kind() != ErrorKind::PermissionDenied {
                    let names: Vec<_> = wanted.iter().map(|c| c.name()).collect();
                    tracing::warn!("no controllers {}: {e}", names.join(", "));
                }
                continue;
            }
            for c in wanted {
                // Noted first: after a crash in between, switching it off is harmless.
                let mut noted = enabled_by_us(&level)?;
                noted.push(c);
                let names: Vec<_> = noted.iter().map(|c| c.name()).collect();
                let done = cgroup::set_attribute(&level, ENABLED, names.join(" ").as_bytes())
                    .and_then(|()| level.enable(&[c]));
                match done {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::PermissionDenied => break,
                    Err(e) => tracing::warn!("no {c} controller: {e}"),
                }
            }
        }
        self.controllers = self.cgroup.subtree_control()?;
        Ok(())
    }

    /// The parent of the root holds processes, typically ourselves in a scope that was delegated to
    /// us, and so may not hand controllers on: they move to a child of it. Without delegation the
    /// processes are another manager's.
    fn make_room(&mut self, parent: &Cgroup) -> Result<()> {
        let is_parent = Some(parent.path()) == self.cgroup.path().parent();
        if !is_parent || rustix::process::geteuid().is_root() && !delegated(parent) {
            return Err(Error::new(ErrorKind::Busy, "processes live in")
                .at(parent.path())
                .or_help(
                    "choose a root whose parent is delegated (systemd: Delegate=yes) or empty",
                ));
        }
        let name = CgroupName::new(OCCUPANTS)?;
        let room = open_or_make(parent, &name)?;
        session::move_all(parent, &room)?;
        self.outside = room.path().to_path_buf();
        Ok(())
    }

    /// Beside the root in this cgroup: the room that we have made there.
    fn has_room_in(&self, level: &Cgroup) -> bool {
        self.outside.file_name() == Some(OCCUPANTS.as_ref())
            && self.outside.parent() == Some(level.path())
    }

    /// The cgroups from the mount point down to the root, both included.
    fn levels(&self, mount: &Path) -> Result<Vec<Cgroup>> {
        let mut paths: Vec<_> =
            self.cgroup.path().ancestors().take_while(|p| p.starts_with(mount)).collect();
        paths.reverse();
        paths.into_iter().map(Cgroup::open).collect()
    }

    fn release(&self) -> Result<()> {
        // The thread first: nothing of ours may run on.
        let _setup = self.setup()?;
        if !self.is_last()? {
            return Ok(());
        }
        let mut lock = self.lock.lock();
        if lock.is_none() {
            match cgroup::lock(&self.cgroup, Lock::Owner) {
                Ok(taken) => *lock = Some(taken),
                // It has an owner: that one ends it.
                Err(e) if e.kind() == ErrorKind::Busy => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        if self.shared && !self.cgroup.children()?.is_empty() {
            return Ok(());
        }
        let made = cgroup::has_attribute(&self.cgroup, MADE)?;
        for level in self.levels(&mount_point()?)?.iter().rev() {
            let ours = level.path() == self.cgroup.path();
            // Other cgroups there may rely on the controllers by now: then they stay on.
            let known = usize::from(!ours) + usize::from(self.has_room_in(level));
            let others = level.children()?.len() > known;
            let enabled = enabled_by_us(level)?;
            if enabled.is_empty() || others {
                continue;
            }
            for c in enabled {
                level.write("cgroup.subtree_control", &format!("-{c}"))?;
            }
            cgroup::remove_attribute(level, ENABLED)?;
        }
        if made {
            self.cgroup.remove()?;
        }
        self.give_room_back()
    }

    /// No other shared runtime uses the root. One that comes waits until we have released it.
    fn is_last(&self) -> Result<bool> {
        let how = FlockOperation::NonBlockingLockExclusive;
        let alone = match &self.member {
            Some(member) => {
                rustix::fs::flock(member, how).map_err(|e| Error::os("lock", self.cgroup.path(), e))
            }
            None => cgroup::lock(&self.cgroup, Lock::Member).map(drop),
        };
        match alone {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::Busy => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn give_room_back(&self) -> Result<()> {
        if self.outside.file_name() != Some(OCCUPANTS.as_ref()) {
            return Ok(());
        }
        let Some(parent) = self.outside.parent() else { return Ok(()) };
        let parent = Cgroup::open(parent)?;
        // Where others there rely on the controllers, no process may live beside them.
        if !parent.subtree_control()?.is_empty() {
            return Ok(());
        }
        let room = Cgroup::open(&self.outside)?;
        session::move_all(&room, &parent)?;
        room.remove()
    }
}

/// It holds processes, and is not the root of the hierarchy, which may.
///
/// Such a cgroup could still hand on cpu and pids. But then it is the root of a threaded subtree, and
/// nothing below it may hold processes any more.
fn is_occupied(cgroup: &Cgroup) -> bool {
    cgroup.read("cgroup.type").is_ok() && cgroup.procs().is_ok_and(|pids| !pids.is_empty())
}

fn open_or_make(parent: &Cgroup, name: &CgroupName) -> Result<Cgroup> {
    let (cgroup, made) = parent.child_or_create(name)?;
    if made {
        cgroup::set_attribute(&cgroup, MADE, b"1")?;
    }
    Ok(cgroup)
}

/// That it is this process which made something.
pub(crate) fn check_process(made_by: u32) -> Result<()> {
    if made_by == std::process::id() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "the runtime was made before this process was forked")
        .or_help("make a Runtime of its own in the forked process"))
}

/// systemd marks what it delegated; the first name is for the system's manager, the second for users'.
fn delegated(cgroup: &Cgroup) -> bool {
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| cgroup::attribute_value(cgroup, name).is_ok_and(|v| v == b"1"))
}

/// Values that no live process answers for any more.
fn restore_values(mount: &Path) {
    match cgroup::restore_abandoned(mount) {
        Ok(0) => {}
        Ok(n) => tracing::info!("put back {n} cgroup values that a killed process left changed"),
        Err(e) => {
            tracing::warn!("could not put back all values that a killed process left: {e}")
        }
    }
}

fn enabled_by_us(level: &Cgroup) -> Result<Vec<Controller>> {
    if !cgroup::has_attribute(level, ENABLED)? {
        return Ok(Vec::new());
    }
    let names = cgroup::attribute_value(level, ENABLED)?;
    Ok(Controller::list(&String::from_utf8_lossy(&names)))
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            return;
        }
        if let Err(e) = self.release() {
            tracing::warn!("the root {} stays: {e}", self.cgroup.path().display());
        }
    }
}
