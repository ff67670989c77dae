//! Sessions and tool calls as anyone sees them from outside, in the cgroup tree alone.
//!
//! Nothing is locked or changed by looking, so what is reported may be over a moment later; what
//! ends meanwhile is left out. A view remembers the kernel's id of its cgroup: acting on one that
//! is over is `NotFound`, also when its name has been given to another.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, Serializer};

use crate::call::{Usage, count_processes};
use crate::cgroup::{self, Cgroup, CgroupName, Lock, own_path};
use crate::runtime::MADE;
use crate::session::{self, CALL, Orphans};
use crate::{Error, ErrorKind, Result};

/// How long killed, or stopping, processes are waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel does it at once, or not at all.
const THAW_TIMEOUT: Duration = Duration::from_secs(1);

/// A session, seen from outside.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SessionView {
    /// Its name.
    pub name: String,
    /// Its cgroup.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// All of its processes are stopped.
    pub frozen: bool,
    /// Its processes, those of the calls included.
    pub processes: u32,
    /// Processes that calls have left running, as asked for.
    pub background: Vec<i32>,
    /// What it has used so far.
    pub usage: Usage,
    /// Its calls, the longest-running first.
    pub calls: Vec<CallView>,
    #[serde(skip)]
    id: u64,
}

/// A tool call, seen from outside.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CallView {
    /// Its name.
    pub name: String,
    /// The name of its session.
    pub session: String,
    /// Its cgroup.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// The command, shortened; `None` when that is not known.
    pub command: Option<String>,
    /// The process that started it and waits for it.
    pub owner: Option<i32>,
    /// The owner lives. Otherwise the next runtime on this root removes the call.
    pub owner_alive: bool,
    /// When it was started, ms since 1970.
    pub started_ms: Option<u64>,
    /// All of its processes are stopped.
    pub frozen: bool,
    /// Its processes.
    pub processes: u32,
    /// What it has used so far.
    pub usage: Usage,
    #[serde(skip)]
    id: u64,
}

/// What the attribute on a call says.
#[derive(Debug, Default, Deserialize)]
struct Description {
    command: Option<String>,
    owner: Option<i32>,
    started_ms: Option<u64>,
}

/// The sessions below a runtime's root, by name; none when there is no such cgroup.
///
/// # Errors
/// `InvalidInput` when it is no cgroup; those of reading it.
pub fn inspect(root: &Path) -> Result<Vec<SessionView>> {
    let root = match Cgroup::open(root) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        root => root?,
    };
    let mut sessions = Vec::new();
    for session in root.children()? {
        if cgroup::has_attribute(&session, MADE)? {
            match look_at_session(&session) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                view => sessions.push(view?),
            }
        }
    }
    Ok(sessions)
}

fn look_at_session(session: &Cgroup) -> Result<SessionView> {
    let child = |name: &str| session.child(&CgroupName::new(name)?);
    let name = session.name().into_owned();
    let mut calls = Vec::new();
    match child("calls") {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        all => {
            for call in all?.children()? {
                if !cgroup::has_attribute(&call, CALL)? {
                    // Made ahead of a call that is still to come.
                    continue;
                }
                match look_at_call(&call, &name) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    view => calls.push(view?),
                }
            }
        }
    }
    calls.sort_by_key(|c| c.started_ms);
    Ok(SessionView {
        path: session.path().to_owned(),
        frozen: session.events()?.frozen,
        processes: count_processes(session),
        background: child("background").and_then(|b| b.procs()).unwrap_or_default(),
        usage: Usage::read(session),
        calls,
        id: session.id()?,
        name,
    })
}

fn look_at_call(call: &Cgroup, session: &str) -> Result<CallView> {
    let attribute = cgroup::attribute_value(call, CALL).unwrap_or_default();
    let what: Description = serde_json::from_slice(&attribute).unwrap_or_default();
    Ok(CallView {
        name: call.name().into_owned(),
        session: session.to_owned(),
        path: call.path().to_owned(),
        command: what.command,
        owner: what.owner,
        owner_alive: has_owner(call)?,
        started_ms: what.started_ms,
        frozen: call.events()?.frozen,
        processes: count_processes(call),
        usage: Usage::read(call),
        id: call.id()?,
    })
}

/// The mark comes after the lock, so that looking is not in the way of an owner who takes it.
fn has_owner(call: &Cgroup) -> Result<bool> {
    if !cgroup::has_attribute(call, CALL)? {
        return Ok(true);
    }
    match cgroup::lock(call, Lock::Owner) {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == ErrorKind::Busy => Ok(true),
        Err(e) => Err(e),
    }
}

/// The same cgroup again, if it still is.
fn reopen(path: &Path, id: u64) -> Result<Cgroup> {
    let cgroup = Cgroup::open(path)?;
    if cgroup.id()? == id {
        return Ok(cgroup);
    }
    Err(Error::new(ErrorKind::NotFound, "it is over:").at(path))
}

/// Frozen processes cannot thaw themselves.
fn freeze(cgroup: &Cgroup, frozen: bool) -> Result<()> {
    if frozen && own_path()?.starts_with(cgroup.path()) {
        return Err(Error::new(ErrorKind::InvalidInput, "this process is itself in")
            .at(cgroup.path())
            .or_help("freeze it from outside"));
    }
    cgroup.freeze(frozen)?;
    let timeout = if frozen { KILL_TIMEOUT } else { THAW_TIMEOUT };
    if cgroup.wait_frozen(frozen, timeout)? {
        return Ok(());
    }
    Err(match frozen {
        true => Error::new(
            ErrorKind::TimedOut,
            "not all processes stop (they may sleep uninterruptibly) in",
        ),
        false => Error::new(ErrorKind::Busy, "still frozen, with a cgroup above it:")
            .or_help("thaw its session"),
    }
    .at(cgroup.path()))
}

impl CallView {
    /// When it was started.
    pub fn started(&self) -> Option<SystemTime> {
        self.started_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    /// Kills it and waits until its processes are gone: false when some are not. Its owner sees the
    /// verdict `cancelled`, by the one who is named; without an owner its cgroup is removed too.
    ///
    /// # Errors
    /// `NotFound` when it is over; `PermissionDenied`.
    pub fn kill(&self, by: &str) -> Result<bool> {
        let call = reopen(&self.path, self.id)?;
        session::kill_call(&call, by)?;
        let gone = match call.wait_populated(false, KILL_TIMEOUT) {
            Err(e) if e.kind() == ErrorKind::NotFound => true,
            gone => gone?,
        };
        if gone && !has_owner(&call).unwrap_or(true) {
            let outside = call.path().parent().unwrap_or(call.path());
            session::remove_orphan(&call, outside, Orphans::Kill)?;
        }
        Ok(gone)
    }

    /// Stops its processes where they are.
    ///
    /// # Errors
    /// `NotFound` when it is over; `InvalidInput` when this process is in it.
    pub fn freeze(&self) -> Result<()> {
        freeze(&reopen(&self.path, self.id)?, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// `NotFound` when it is over.
    pub fn thaw(&self) -> Result<()> {
        freeze(&reopen(&self.path, self.id)?, false)
    }
}

impl SessionView {
    /// Kills its calls and what they left in the background; the harness lives. As
    /// [`CallView::kill`], also for calls that were started since.
    ///
    /// # Errors
    /// As [`CallView::kill`].
    pub fn kill_calls(&self, by: &str) -> Result<bool> {
        let session = reopen(&self.path, self.id)?;
        session::kill_calls(&session, by)?;
        let mut gone = true;
        for call in &self.calls {
            match call.kill(by) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                killed => gone &= killed?,
            }
        }
        Ok(gone)
    }

    /// Stops all of its processes, the harness included, where they are.
    ///
    /// # Errors
    /// As [`CallView::freeze`].
    pub fn freeze(&self) -> Result<()> {
        freeze(&reopen(&self.path, self.id)?, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`CallView::thaw`].
    pub fn thaw(&self) -> Result<()> {
        freeze(&reopen(&self.path, self.id)?, false)
    }
}

fn lossy<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&path.to_string_lossy())
}
