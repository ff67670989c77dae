//! The cgroups below a session: `agent`, `calls` and `background`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::Origins;
use crate::call::{Ancestors, Stacks};
use crate::cgroup::{self, Cgroup, CgroupName, Controller, Limit, Lock};
use crate::limits::Limits;
use crate::scheduler::SchedExt;
use crate::{ErrorKind, Result};

/// On a call that is killed from outside: by whom, as text.
const KILLED: &str = "user.agentcg.killed";
/// On a call: what it is, as JSON, for whoever looks at the tree.
pub(crate) const CALL: &str = "user.agentcg.call";
/// An attribute has at most 64 KiB; nobody reads that much of a command.
const MAX_COMMAND: usize = 4096;
/// The OOM killer takes tool calls before their harness.
const RAISE_BY: i32 = 500;
/// Killed processes are gone within ms; one in an uninterruptible sleep may stay.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

fn open_or_create(parent: &Cgroup, name: &str) -> Result<Cgroup> {
    parent.child_or_create(&CgroupName::new(name)?).map(|(cgroup, _)| cgroup)
}

fn usable(cgroup: &Cgroup) -> Result<Vec<Controller>> {
    let all = cgroup.controllers()?;
    Ok(all.into_iter().filter(|c| Controller::USED.contains(c)).collect())
}

/// Moves the processes of one cgroup (not of its children) to another.
pub(crate) fn move_all(from: &Cgroup, to: &Cgroup) -> Result<()> {
    from.drain(|pid| match to.move_pid(pid) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        moved => moved,
    })
}

/// The harness's cgroup.
pub(super) fn agent(session: &Cgroup, limits: &Limits) -> Result<Cgroup> {
    let agent = open_or_create(session, "agent")?;
    let handed_on = session.subtree_control()?;
    let mut limits = limits.clone();
    if handed_on.contains(&Controller::Memory) {
        limits.memory_low.get_or_insert(Limit::Max);
    }
    limits.apply(&agent, &handed_on)?;
    Ok(agent)
}

/// Kills every call below a session, and its background, with a note that says who it was.
pub(crate) fn kill_calls(session: &Cgroup, by: &str) -> Result<()> {
    for child in session.children()? {
        match &*child.name() {
            "calls" => {
                for call in child.children()? {
                    // One that is still to be described has no processes yet.
                    if cgroup::has_attribute(&call, CALL)? {
                        kill_call(&call, by)?;
                    }
                }
            }
            "background" => child.kill()?,
            _ => {}
        }
    }
    Ok(())
}

/// Kills a call; its verdict is then `cancelled`, by the one who is named.
pub(crate) fn kill_call(call: &Cgroup, by: &str) -> Result<()> {
    let killed = cgroup::set_attribute(call, KILLED, by.as_bytes()).and_then(|()| call.kill());
    match killed {
        // It was just over.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        killed => killed,
    }
}

/// By whom a call was killed from outside, if it was.
pub(crate) fn killed_by(call: &Cgroup) -> Option<String> {
    let mut buf = [0u8; 256];
    let n = rustix::fs::fgetxattr(call, KILLED, &mut buf[..]).ok()?;
    Some(String::from_utf8_lossy(&buf[..n]).into_owned())
}

/// False when some of its processes are not gone in time.
pub(crate) fn kill_and_wait(cgroup: &Cgroup) -> Result<bool> {
    cgroup.kill()?;
    cgroup.wait_populated(false, KILL_TIMEOUT)
}

/// What becomes of calls without an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Orphans {
    #[default]
    Kill,
    /// Their processes go where the session's processes go.
    MoveOut,
}

/// Ends a session that nobody uses: its calls are killed, other processes go home, all is removed.
pub(crate) fn dissolve(
    session: &Cgroup,
    origins: &Origins,
    outside: &Path,
    orphans: Orphans,
) -> Result<()> {
    session.walk(&mut |c| {
        if c.events()?.frozen {
            c.freeze(false)?;
        }
        Ok(())
    })?;
    if orphans == Orphans::Kill {
        for name in ["calls", "background"] {
            if let Ok(cgroup) = session.child(&CgroupName::new(name)?) {
                kill_and_wait(&cgroup)?;
            }
        }
    }
    session.walk(&mut |c| origins.evacuate(c, outside))?;
    session.remove_tree()
}

/// Removes calls whose owner is dead from a session that others still use.
pub(crate) fn remove_orphans(session: &Cgroup, outside: &Path, orphans: Orphans) -> Result<()> {
    let Ok(calls) = session.child(&CgroupName::new("calls")?) else { return Ok(()) };
    for call in calls.children()? {
        // An owner takes the lock before it says what it is.
        if !cgroup::has_attribute(&call, CALL)? {
            continue;
        }
        let Ok(_lock) = cgroup::lock(&call, Lock::Owner) else { continue };
        match remove_orphan(&call, outside, orphans) {
            // Its owner was just removing it.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Removes a call that has no owner.
pub(crate) fn remove_orphan(call: &Cgroup, outside: &Path, orphans: Orphans) -> Result<()> {
    if orphans == Orphans::Kill {
        kill_and_wait(call)?;
    }
    call.walk(&mut |c| Origins::default().evacuate(c, outside))?;
    call.remove_tree()
}

/// The calls of a session.
#[derive(Debug)]
pub(crate) struct Calls {
    session: String,
    home: std::path::PathBuf,
    cgroup: Cgroup,
    controllers: Vec<Controller>,
    sched_ext: SchedExt,
    /// Other processes may have calls here too.
    shared: bool,
    /// Of our calls, unless they say otherwise.
    oom_score_adj: Option<i32>,
    /// CPUs that we may run on, and so our calls.
    cpus: usize,
    ancestors: Ancestors,
    stacks: Stacks,
    next: AtomicU64,
    /// Made while another call was running, for the next one to start sooner.
    spare: Mutex<Option<Empty>>,
    live: Mutex<Live>,
    idle: Condvar,
}

/// The cgroup of a call that is not described yet, locked.
#[derive(Debug)]
struct Empty {
    cgroup: Cgroup,
    lock: OwnedFd,
}

/// The calls of this process that run.
#[derive(Debug, Default)]
struct Live {
    names: BTreeMap<u64, String>,
    started: u64,
}

/// A call that counts as running, until it is dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    calls: Arc<Calls>,
    number: u64,
    alone_at_start: bool,
}

impl Presence {
    pub(crate) fn was_alone_at_start(&self) -> bool {
        self.alone_at_start
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut live = self.calls.live.lock();
        live.names.remove(&self.number);
        if live.names.is_empty() {
            self.calls.idle.notify_all();
        }
    }
}

impl Calls {
    /// Makes room for calls: a cgroup that hands controllers on may not hold processes itself, so
    /// those of the session move to its `agent` cgroup first.
    pub(super) fn make(
        name: &str,
        session: &Cgroup,
        protection: &Limits,
        shared: bool,
    ) -> Result<Self> {
        let controllers = usable(session)?;
        if !session.procs()?.is_empty() {
            move_all(session, &open_or_create(session, "agent")?)?;
        }
        session.enable(&controllers)?;
        if session.child(&CgroupName::new("agent")?).is_ok() {
            agent(session, protection)?;
        }
        let cgroup = open_or_create(session, "calls")?;
        cgroup.enable(&controllers)?;
        Ok(Self {
            session: name.to_owned(),
            home: session.path().to_owned(),
            ancestors: Ancestors::open(&cgroup),
            cgroup,
            controllers,
            sched_ext: SchedExt::open(),
            shared,
            oom_score_adj: super::origins::oom_score_adj(std::process::id() as i32)
                .map(|ours| (ours.max(0) + RAISE_BY).min(1000)),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            stacks: Stacks::default(),
            next: AtomicU64::new(1),
            spare: Mutex::default(),
            live: Mutex::default(),
            idle: Condvar::new(),
        })
    }

    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    pub(crate) fn ancestors(&self) -> &Ancestors {
        &self.ancestors
    }

    pub(crate) fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    pub(crate) fn oom_score_adj(&self) -> Option<i32> {
        self.oom_score_adj
    }

    pub(crate) fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    pub(crate) fn sched_ext(&self) -> &SchedExt {
        &self.sched_ext
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus
    }

    /// No other call of the session ran beside this one.
    pub(crate) fn was_alone(&self, presence: &Presence) -> bool {
        presence.alone_at_start
            && self.live.lock().started == presence.number
            // Those of other processes are seen only while they are there.
            && !(self.shared && self.cgroup.children().is_ok_and(|c| c.len() > 1))
    }

    pub(super) fn new_call(self: Arc<Self>, name: Option<&str>) -> Result<NewCall> {
        let spare = if name.is_none() { self.spare.lock().take() } else { None };
        let Empty { cgroup, lock } = match spare {
            Some(spare) => spare,
            None => self.empty(name)?,
        };
        let mut live = self.live.lock();
        live.started += 1;
        let number = live.started;
        let alone_at_start = live.names.is_empty();
        live.names.insert(number, cgroup.name().into_owned());
        drop(live);
        let presence = Presence { calls: self.clone(), number, alone_at_start };
        Ok(NewCall(Some(Parts { calls: self, cgroup: Arc::new(cgroup), lock, presence })))
    }

    fn empty(&self, name: Option<&str>) -> Result<Empty> {
        let cgroup = match name {
            Some(name) => self.cgroup.create_child(&CgroupName::new(name)?)?,
            None => loop {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                let name = CgroupName::new(format!("{}-{n}", std::process::id()))?;
                match self.cgroup.create_child(&name) {
                    // Of a process that had our pid before.
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                    made => break made?,
                }
            },
        };
        let made = || {
            // Locked before it is described: a description without a lock is a leftover.
            let lock = cgroup::lock(&cgroup, Lock::Owner)?;
            if self.controllers.contains(&Controller::Memory) {
                cgroup.write("memory.oom.group", "1")?;
            }
            Ok(lock)
        };
        match made() {
            Ok(lock) => Ok(Empty { cgroup, lock }),
            Err(e) => {
                cgroup.remove()?;
                Err(e)
            }
        }
    }

    /// Makes the cgroup of the next call ahead of it, once there has been more than one call. The
    /// end of the session removes it. Not where others share the session: they would see it.
    pub(crate) fn prepare_next(&self) {
        if self.shared || self.live.lock().started < 2 {
            return;
        }
        let mut spare = self.spare.lock();
        if spare.is_none() {
            // What is in the way of it will be met, and said, by the call that needs it.
            *spare = self.empty(None).ok();
        }
    }

    /// Removes a call's cgroup, and what it made below.
    pub(crate) fn remove(&self, call: &Cgroup) -> Result<()> {
        self.cgroup.remove_child(call)
    }

    /// Moves what is left of a call to the session's `background`; returns the processes.
    pub(crate) fn move_to_background(&self, call: &Cgroup) -> Vec<i32> {
        let mut moved = Vec::new();
        let done = Cgroup::open(&self.home)
            .and_then(|home| open_or_create(&home, "background"))
            .and_then(|background| {
                call.walk(&mut |c| {
                    c.drain(|pid| {
                        match background.move_pid(pid) {
                            Err(e) if e.kind() == ErrorKind::NotFound => {}
                            done => moved.push(done.map(|()| pid)?),
                        }
                        Ok(())
                    })
                })
            });
        if let Err(e) = done {
            tracing::warn!("{e}");
        }
        moved
    }

    /// Kills the calls of this process and waits until they are over.
    pub(super) fn end(&self) {
        let mut live = self.live.lock();
        for name in live.names.values() {
            let killed = CgroupName::new(name.clone())
                .and_then(|name| self.cgroup.child(&name))
                .and_then(|call| kill_call(&call, "the end of the session"));
            if let Err(e) = killed
                && e.kind() != ErrorKind::NotFound
            {
                tracing::warn!("{e}");
            }
        }
        while !live.names.is_empty() {
            if self.idle.wait_for(&mut live, 2 * KILL_TIMEOUT).timed_out() {
                tracing::warn!("{} calls of session {} do not end", live.names.len(), self.session);
                return;
            }
        }
    }
}

/// What is said on the cgroup of a call.
#[derive(Serialize)]
struct Description<'a> {
    command: &'a str,
    owner: u32,
    started_ms: u64,
}

/// The cgroup of a call that is about to be started. Dropping it removes the cgroup.
#[derive(Debug)]
pub(crate) struct NewCall(Option<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    pub calls: Arc<Calls>,
    pub cgroup: Arc<Cgroup>,
    pub lock: OwnedFd,
    pub presence: Presence,
}

impl NewCall {
    fn parts(&self) -> &Parts {
        // It is taken only by `into_parts`, which consumes it.
        self.0.as_ref().unwrap_or_else(|| unreachable!())
    }

    pub(crate) fn name(&self) -> Cow<'_, str> {
        self.cgroup().name()
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.parts().cgroup
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.parts().calls
    }

    pub(crate) fn configure(&self, limits: &Limits, oom_group: bool) -> Result<()> {
        let Parts { calls, cgroup, .. } = self.parts();
        limits.apply(cgroup, &calls.controllers)?;
        if !oom_group && calls.controllers.contains(&Controller::Memory) {
            cgroup.write("memory.oom.group", "0")?;
        }
        Ok(())
    }

    /// Says on the cgroup what the call is.
    pub(crate) fn describe(&self, command: &[String]) -> Result<()> {
        let mut text = command.join(" ");
        text.truncate(text.floor_char_boundary(MAX_COMMAND));
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        let call = Description { command: &text, owner: std::process::id(), started_ms: started };
        // Text and numbers always make JSON.
        let call = serde_json::to_vec(&call).unwrap_or_default();
        cgroup::set_attribute(self.cgroup(), CALL, &call)
    }

    pub(crate) fn into_parts(mut self) -> Parts {
        self.0.take().unwrap_or_else(|| unreachable!())
    }
}

impl Drop for NewCall {
    fn drop(&mut self) {
        if let Some(parts) = self.0.take()
            && let Err(e) = parts.cgroup.remove()
        {
            tracing::warn!("{e}");
        }
    }
}
