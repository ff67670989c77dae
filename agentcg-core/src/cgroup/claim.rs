//! Values that we change in cgroups that may outlive us, and that are put back.
//!
//! What a file held before is kept *on the cgroup*, as an extended attribute
//! `user.agentcg.saved.FILE`: it vanishes with the cgroup and survives us. With it is what we have
//! written since, so that a value that somebody else writes meanwhile stays. A lock (`flock`) on the
//! directory says whether the process that saved it still lives, for the kernel drops it whatever
//! way a process ends. So after `kill -9` the attribute is there and the lock is free, and whoever
//! comes next puts the value back first. User attributes on cgroups exist since kernel 5.7.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, XattrFlags};
use rustix::io::Errno;

use super::Cgroup;
use crate::{Error, ErrorKind, Result};

const SAVED: &str = "user.agentcg.saved.";

/// The exclusive right to change a cgroup's files until it is dropped, which puts them back.
#[derive(Debug)]
pub(crate) struct Claim {
    cgroup: Cgroup,
    _lock: OwnedFd,
    /// A forked child that drops its copy must not put back what its parent still wants changed.
    process: u32,
}

impl Claim {
    /// Takes the lock; values left by a process that died are put back first.
    pub(crate) fn take(cgroup: Cgroup) -> Result<Self> {
        let lock = lock(&cgroup, Lock::Values)?;
        restore(&cgroup)?;
        Ok(Self { cgroup, _lock: lock, process: std::process::id() })
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Writes a file, after saving what it held if this is the first change. What somebody else has
    /// written since the last one is what will be put back.
    pub(crate) fn change(&self, file: &str, value: &str) -> Result<()> {
        let value = as_kept(file, value);
        let now = self.read(file)?;
        if now == value {
            return Ok(());
        }
        let before = self.before_now(file, &now)?;
        // Ours is what is there until the write, and what it writes.
        let saved = [&*before, &*now, &*value].join("\n");
        set_attribute(&self.cgroup, &format!("{SAVED}{file}"), saved.as_bytes())?;
        self.cgroup.write_at_once(file, &value)
    }

    /// What the file held before we changed it, or holds when we have not.
    pub(crate) fn before(&self, file: &str) -> Result<String> {
        self.before_now(file, &self.read(file)?)
    }

    fn before_now(&self, file: &str, now: &str) -> Result<String> {
        let saved = Saved::of(&self.cgroup, &format!("{SAVED}{file}"))?;
        Ok(saved.filter(|s| s.is_ours(now)).map_or_else(|| now.to_owned(), |s| s.before))
    }

    /// Is the file changed, and not put back yet?
    pub(crate) fn is_changed(&self, file: &str) -> Result<bool> {
        has_attribute(&self.cgroup, &format!("{SAVED}{file}"))
    }

    fn read(&self, file: &str) -> Result<String> {
        Ok(self.cgroup.read(file)?.trim_end().to_owned())
    }

    /// Puts one file back, if it is changed.
    pub(crate) fn restore_one(&self, file: &str) -> Result<()> {
        restore_file(&self.cgroup, file, &format!("{SAVED}{file}"))
    }

    /// Puts every changed file back; those that fail are tried again at drop and by the next start.
    pub(crate) fn restore(&self) -> Result<()> {
        restore(&self.cgroup).map(drop)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.process == std::process::id()
            && let Err(e) = self.restore()
        {
            tracing::warn!("{e}");
        }
    }
}

/// What a lock on a cgroup stands for; they do not exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// A runtime owns the subtree; sessions and calls are in use.
    Owner,
    /// Someone has changed values of this cgroup and will put them back.
    Values,
    /// Sessions of a runtime are being made or removed.
    Setup,
    /// Shared: a runtime of several uses the root.
    Member,
}

/// Takes the `flock`, held by the returned descriptor; `Busy` when another has it.
pub(crate) fn lock(cgroup: &Cgroup, lock: Lock) -> Result<OwnedFd> {
    lock_as(cgroup, lock, FlockOperation::NonBlockingLockExclusive)
}

/// As [`lock`]: shared, or waiting for it.
pub(crate) fn lock_as(cgroup: &Cgroup, lock: Lock, how: FlockOperation) -> Result<OwnedFd> {
    // Any file will do that every cgroup has; a descriptor of its own, for that is what holds it.
    let (file, flags) = match lock {
        // Which also says whether processes are left.
        Lock::Owner => ("cgroup.events", OFlags::RDONLY),
        Lock::Values => (".", OFlags::RDONLY | OFlags::DIRECTORY),
        Lock::Setup => ("cgroup.procs", OFlags::RDONLY),
        Lock::Member => ("cgroup.controllers", OFlags::RDONLY),
    };
    let fd = cgroup.open_file(file, flags)?;
    loop {
        match rustix::fs::flock(&fd, how) {
            Ok(()) => return Ok(fd),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another agentcg process controls the cgroup",
                )
                .at(cgroup.path())
                .or_help("stop it, or choose another cgroup"));
            }
            Err(e) => return Err(Error::os("lock", cgroup.path(), e)),
        }
    }
}

/// Puts back what saved attributes say; returns how many values that were.
fn restore(cgroup: &Cgroup) -> Result<usize> {
    let mut restored = 0;
    let mut first_error = None;
    for name in attributes(cgroup)? {
        let Some(file) = name.strip_prefix(SAVED) else {
            continue;
        };
        match restore_file(cgroup, file, &name) {
            Ok(()) => restored += 1,
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    first_error.map_or(Ok(restored), Err)
}

/// Writes back what the file held, unless somebody else has written to it since.
fn restore_file(cgroup: &Cgroup, file: &str, attribute: &str) -> Result<()> {
    let Some(saved) = Saved::of(cgroup, attribute)? else { return Ok(()) };
    let put_back = || {
        let now = cgroup.read(file)?;
        if saved.is_ours(now.trim_end()) { cgroup.write(file, &saved.before) } else { Ok(()) }
    };
    match put_back() {
        Ok(()) => {}
        // The cgroup itself is gone: nothing is left to put back.
        Err(e) if e.errno() == Some(Errno::NODEV.raw_os_error()) => return Ok(()),
        Err(e) => return Err(e),
    }
    remove_attribute(cgroup, attribute)
}

/// A saved value.
struct Saved {
    before: String,
    /// What the file holds when only we have written to it since; empty: anything.
    ours: Vec<String>,
}

impl Saved {
    fn of(cgroup: &Cgroup, attribute: &str) -> Result<Option<Self>> {
        let none = [Errno::NODATA, Errno::OPNOTSUPP, Errno::NODEV, Errno::NOENT];
        let value = match attribute_value(cgroup, attribute) {
            Err(e) if none.iter().any(|none| e.errno() == Some(none.raw_os_error())) => {
                return Ok(None);
            }
            value => value?,
        };
        let value = String::from_utf8_lossy(&value);
        let mut lines = value.lines().map(str::to_owned);
        let before = lines.next().unwrap_or_default();
        Ok(Some(Self { before, ours: lines.collect() }))
    }

    fn is_ours(&self, now: &str) -> bool {
        self.ours.is_empty() || self.ours.iter().any(|one| one == now)
    }
}

/// The value as the kernel will show it: it counts memory in pages.
fn as_kept(file: &str, value: &str) -> String {
    let page = rustix::param::page_size() as u64;
    match value.parse::<u64>() {
        Ok(bytes) if file.starts_with("memory.") => (bytes / page * page).to_string(),
        _ => value.to_owned(),
    }
}

pub(crate) fn remove_attribute(cgroup: &Cgroup, name: &str) -> Result<()> {
    rustix::fs::fremovexattr(cgroup, name)
        .map_err(|e| Error::os(format!("remove attribute {name} of"), cgroup.path(), e))
}

pub(crate) fn set_attribute(cgroup: &Cgroup, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(cgroup, name, value, XattrFlags::empty()).map_err(|e| {
        Error::os(format!("set attribute {name} of"), cgroup.path(), e)
            .or_help("cgroups have user attributes since kernel 5.7")
    })
}

pub(crate) fn has_attribute(cgroup: &Cgroup, name: &str) -> Result<bool> {
    Ok(attributes(cgroup)?.iter().any(|a| a == name))
}

/// The names of a cgroup's extended attributes; none where the kernel has no attributes.
fn attributes(cgroup: &Cgroup) -> Result<Vec<String>> {
    let mut buf = vec![0u8; 16 << 10];
    let n = match rustix::fs::flistxattr(cgroup, buf.as_mut_slice()) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOENT) => 0,
        Err(e) => return Err(Error::os("list attributes of", cgroup.path(), e)),
    };
    Ok(buf[..n]
        .split(|b| *b == 0)
        .filter(|s| !s.is_empty())
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect())
}

pub(crate) fn attribute_value(cgroup: &Cgroup, name: &str) -> Result<Vec<u8>> {
    // The most that an attribute can have.
    let mut buf = vec![0u8; 64 << 10];
    let n = rustix::fs::fgetxattr(cgroup, name, buf.as_mut_slice())
        .map_err(|e| Error::os(format!("read attribute {name} of"), cgroup.path(), e))?;
    buf.truncate(n);
    Ok(buf)
}

/// Walks the tree below `top` and puts back whatever dead processes left changed. Returns the
/// number of values. Cgroups that a live process has claimed are left alone.
pub(crate) fn restore_abandoned(top: &Path) -> Result<usize> {
    let mut restored = 0;
    Cgroup::open(top)?.walk(&mut |cgroup| {
        if attributes(cgroup)?.iter().any(|a| a.starts_with(SAVED)) {
            match lock(cgroup, Lock::Values) {
                Ok(_lock) => restored += restore(cgroup)?,
                Err(e) if e.kind() == ErrorKind::Busy => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    })?;
    Ok(restored)
}
