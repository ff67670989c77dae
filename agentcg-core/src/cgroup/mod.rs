//! cgroup v2, through directory file descriptors.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | [`Cgroup`]: open, create, remove, read, write, processes, kill, freeze |
//! | `name.rs` | [`CgroupName`]: what a cgroup may be called |
//! | `files.rs` | the formats of the kernel's files |
//! | `mount.rs` | where cgroup v2 is mounted, and where we are in it |
//! | `wait.rs` | notifications: populated, frozen, pressure |
//! | `claim.rs` | changed values that are put back, also after `kill -9` |

mod claim;
mod files;
mod mount;
mod name;
mod wait;

pub(crate) use claim::{
    Claim, Lock, attribute_value, has_attribute, lock, lock_as, remove_attribute,
    restore_abandoned, set_attribute,
};
pub use files::{
    Controller, CpuMax, CpuStat, Events, Limit, LimitFile, MemoryEvents, Pressure, Stall,
};
pub(crate) use files::{IoStat, cpu_stat_local, pids_events};
pub(crate) use mount::mount_root;
pub use mount::{mount_point, own_path, path_of};
pub use name::CgroupName;
pub(crate) use wait::PressureTrigger;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

/// How long [`Cgroup::remove`] waits for the last process to be gone.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open cgroup v2 directory.
///
/// All files are reached through the directory's file descriptor, so a cgroup that is removed and
/// made anew under the same name is never mistaken for this one: its files then give `ENODEV`.
/// Dropping it closes the descriptor and nothing else.
#[derive(Debug)]
pub struct Cgroup {
    dir: OwnedFd,
    path: PathBuf,
}

impl Cgroup {
    /// Opens an existing cgroup by its path, `/sys/fs/cgroup/...`.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`; `InvalidInput` when it is not a cgroup v2 directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let dir = fs::openat(CWD, path, dir_flags(), Mode::empty()).map_err(|e| match e {
            Errno::NOTDIR => not_a_cgroup(path),
            e => Error::os("open cgroup", path, e),
        })?;
        Self::checked(dir, path.to_path_buf())
    }

    fn checked(dir: OwnedFd, path: PathBuf) -> Result<Self> {
        let stat = fs::fstatfs(&dir).map_err(|e| Error::os("statfs", &path, e))?;
        // CGROUP2_SUPER_MAGIC
        if stat.f_type != 0x6367_7270 {
            return Err(not_a_cgroup(&path));
        }
        Ok(Self { dir, path })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of its path.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    /// The kernel's 64-bit id of the cgroup: the inode number, and what BPF sees as `cgroup_id`.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn id(&self) -> Result<u64> {
        fs::fstat(&self.dir).map(|s| s.st_ino).map_err(|e| Error::os("stat", &self.path, e))
    }

    /// Opens a child.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn child(&self, name: &CgroupName) -> Result<Cgroup> {
        let path = self.path.join(name.as_str());
        let dir =
            fs::openat(&self.dir, name.as_str(), dir_flags() | OFlags::NOFOLLOW, Mode::empty())
                .map_err(|e| Error::os("open cgroup", &path, e))?;
        // What is a directory in a cgroup is a cgroup.
        Ok(Self { dir, path })
    }

    /// Makes a child, `mkdir`.
    ///
    /// # Errors
    /// `AlreadyExists`; `PermissionDenied`; `Os` with `EAGAIN` at `cgroup.max.descendants`.
    pub fn create_child(&self, name: &CgroupName) -> Result<Cgroup> {
        let path = self.path.join(name.as_str());
        fs::mkdirat(&self.dir, name.as_str(), Mode::from_raw_mode(0o755))
            .map_err(|e| Error::os("create cgroup", &path, e).or_help(create_help(e)))?;
        self.child(name)
    }

    /// Opens a child, after making it where it is missing; true when it was made.
    pub(crate) fn child_or_create(&self, name: &CgroupName) -> Result<(Cgroup, bool)> {
        match self.create_child(name) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok((self.child(name)?, false)),
            made => Ok((made?, true)),
        }
    }

    /// The children, by name; a child that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn children(&self) -> Result<Vec<Cgroup>> {
        let failed = |e| Error::os("read cgroup", &self.path, e);
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if entry.file_type() != fs::FileType::Directory || name == "." || name == ".." {
                continue;
            }
            let path = self.path.join(name);
            match fs::openat(&self.dir, name, dir_flags(), Mode::empty()) {
                Ok(dir) => found.push(Self { dir, path }),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(Error::os("open cgroup", path, e)),
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// This cgroup and everything below it, parents before children.
    ///
    /// # Errors
    /// Those of [`children`](Self::children).
    pub fn walk(&self, visit: &mut dyn FnMut(&Cgroup) -> Result<()>) -> Result<()> {
        visit(self)?;
        for child in self.children()? {
            child.walk(visit)?;
        }
        Ok(())
    }

    /// Removes the cgroup, which must have no processes and no children; waits up to 2 s for
    /// processes that are just dying.
    ///
    /// # Errors
    /// `Busy` when it is still populated then or has children. Removing what is gone already is
    /// success.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        loop {
            match fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => {}
                Err(e) => {
                    return Err(Error::os("remove cgroup", &self.path, e)
                        .or_help("it still has processes or child cgroups"));
                }
            }
            if self.children()?.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                self.wait_populated(false, left)?;
            } else {
                return Err(Error::os("remove cgroup", &self.path, Errno::BUSY)
                    .or_help("it has child cgroups"));
            }
        }
    }

    /// Removes everything below, then the cgroup itself.
    ///
    /// # Errors
    /// `Busy` when a process is left somewhere.
    pub fn remove_tree(&self) -> Result<()> {
        // Mostly there is nothing below.
        match fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        for child in self.children()? {
            child.remove_tree()?;
        }
        self.remove()
    }

    /// As [`remove_tree`](Self::remove_tree) of a child, without walking down its whole path.
    pub(crate) fn remove_child(&self, child: &Cgroup) -> Result<()> {
        match fs::unlinkat(&self.dir, &*child.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(_) => child.remove_tree(),
        }
    }

    // ---- files

    /// Opens one of the cgroup's files.
    pub(crate) fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd> {
        fs::openat(&self.dir, file, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| self.file_error("open", file, e))
    }

    /// The whole content of a file of this cgroup.
    ///
    /// # Errors
    /// `NotFound` when the controller is not enabled here or the kernel does not have the file.
    pub fn read(&self, file: &str) -> Result<String> {
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let mut text = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match rustix::io::read(&fd, &mut buf) {
                Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
                Ok(n) => text.extend_from_slice(&buf[..n]),
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.file_error("read", file, e)),
            }
        }
    }

    /// Writes a file of this cgroup, in one system call.
    ///
    /// # Errors
    /// As [`read`](Self::read); `InvalidInput` where the kernel refuses the value.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        self.write_as(file, value, OFlags::empty())
    }

    /// The same, without the reclaim that lowering `memory.high` is for: it is left to those who
    /// allocate next (kernel 6.16; older ones reclaim here).
    pub(crate) fn write_at_once(&self, file: &str, value: &str) -> Result<()> {
        self.write_as(file, value, OFlags::NONBLOCK)
    }

    fn write_as(&self, file: &str, value: &str, flags: OFlags) -> Result<()> {
        let fd = self.open_file(file, OFlags::WRONLY | flags)?;
        match rustix::io::write(&fd, value.as_bytes()) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.file_error(format!("write {value:?} to"), file, e)),
        }
    }

    fn file_error(
        &self,
        what: impl Into<std::borrow::Cow<'static, str>>,
        file: &str,
        e: Errno,
    ) -> Error {
        let error = Error::os(what, self.path.join(file), e);
        match (e, file.split_once('.')) {
            (Errno::NOENT, Some((controller, _))) if controller != "cgroup" => error.or_help(
                format!("the {controller} controller is not enabled here, or this kernel does not have the file"),
            ),
            _ => error,
        }
    }

    fn parsed<T>(&self, file: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.read(file)?;
        parse(&text).ok_or_else(|| {
            Error::new(ErrorKind::Os, "unexpected content of").at(self.path.join(file)).detail(text)
        })
    }

    /// Reads one limit.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn limit(&self, file: LimitFile) -> Result<Limit> {
        self.parsed(file.name(), |t| t.parse().ok())
    }

    /// Writes one limit.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn set_limit(&self, file: LimitFile, limit: Limit) -> Result<()> {
        self.write(file.name(), &limit.to_string())
    }

    /// `cpu.weight`, 1 to 10000.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn cpu_weight(&self) -> Result<u32> {
        self.parsed("cpu.weight", |t| t.trim_end().parse().ok())
    }

    /// Sets `cpu.weight`.
    ///
    /// # Errors
    /// `InvalidInput` outside 1 to 10000; those of [`write`](Self::write).
    pub fn set_cpu_weight(&self, weight: u32) -> Result<()> {
        check_weight(weight)?;
        self.write("cpu.weight", &weight.to_string())
    }

    /// `cpu.max`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn cpu_max(&self) -> Result<CpuMax> {
        self.parsed("cpu.max", CpuMax::parse)
    }

    /// Sets `cpu.max`.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn set_cpu_max(&self, max: CpuMax) -> Result<()> {
        self.write("cpu.max", &max.to_string())
    }

    /// `cpu.stat`; the times are there without any controller.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn cpu_stat(&self) -> Result<CpuStat> {
        self.parsed("cpu.stat", CpuStat::parse)
    }

    /// `memory.current`, bytes.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn memory_current(&self) -> Result<u64> {
        self.parsed("memory.current", |t| t.trim_end().parse().ok())
    }

    /// `memory.peak`, bytes (kernel 5.19).
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn memory_peak(&self) -> Result<u64> {
        self.parsed("memory.peak", |t| t.trim_end().parse().ok())
    }

    /// `memory.events`, descendants included.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        self.parsed("memory.events", MemoryEvents::parse)
    }

    /// `memory.pressure`; needs PSI (`CONFIG_PSI`, `psi=1`).
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn memory_pressure(&self) -> Result<Pressure> {
        self.parsed("memory.pressure", Pressure::parse)
    }

    /// `cgroup.events`; the root cgroup has none.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn events(&self) -> Result<Events> {
        self.parsed("cgroup.events", Events::parse)
    }

    // ---- controllers

    /// The controllers this cgroup may use: `cgroup.controllers`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn controllers(&self) -> Result<Vec<Controller>> {
        Ok(Controller::list(&self.read("cgroup.controllers")?))
    }

    /// The controllers it hands to its children: `cgroup.subtree_control`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn subtree_control(&self) -> Result<Vec<Controller>> {
        Ok(Controller::list(&self.read("cgroup.subtree_control")?))
    }

    /// Hands controllers to the children, one write each.
    ///
    /// # Errors
    /// `Busy` when the cgroup itself holds processes (the no-internal-process rule).
    pub fn enable(&self, controllers: &[Controller]) -> Result<()> {
        for c in controllers {
            self.write("cgroup.subtree_control", &format!("+{c}")).map_err(|e| {
                if e.kind() == ErrorKind::Busy {
                    e.or_help("the cgroup holds processes itself; move them into a child of it")
                } else {
                    e
                }
            })?;
        }
        Ok(())
    }

    // ---- processes

    /// The processes directly in this cgroup: `cgroup.procs`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn procs(&self) -> Result<Vec<i32>> {
        self.parsed("cgroup.procs", |t| t.lines().map(|l| l.parse().ok()).collect())
    }

    /// Moves a process, all its threads, into this cgroup. What it has already charged stays where
    /// it was charged.
    ///
    /// # Errors
    /// `NotFound` when the process is gone; `PermissionDenied`; `Busy` when this cgroup hands
    /// controllers to children and so may hold no processes itself.
    pub fn move_pid(&self, pid: i32) -> Result<()> {
        if pid <= 0 {
            return Err(Error::invalid("pid", pid, "expected a positive number"));
        }
        self.write("cgroup.procs", &pid.to_string()).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.or_help(format!("process {pid} does not exist")),
            _ => e,
        })
    }

    /// Gives every process of this cgroup (not of its children) to `away`, until none is left.
    pub(crate) fn drain(&self, mut away: impl FnMut(i32) -> Result<()>) -> Result<()> {
        // They may fork meanwhile; each round leaves fewer to do so.
        for _ in 0..100 {
            let pids = self.procs()?;
            if pids.is_empty() {
                return Ok(());
            }
            pids.into_iter().try_for_each(&mut away)?;
        }
        Err(Error::new(ErrorKind::Busy, "processes fork faster than they can be moved out of")
            .at(self.path()))
    }

    /// Kills every process in it and below, with no way to escape by forking: `cgroup.kill`
    /// (kernel 5.14). Returns at once; [`wait_populated`](Self::wait_populated) waits for the end.
    ///
    /// # Errors
    /// `NotFound` on an older kernel and on the root cgroup.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Stops or continues every process in it and below: `cgroup.freeze`.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

pub(crate) fn check_weight(weight: u32) -> Result<()> {
    if !(1..=10_000).contains(&weight) {
        return Err(Error::invalid("cpu weight", weight, "expected 1 to 10000"));
    }
    Ok(())
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn not_a_cgroup(path: &Path) -> Error {
    Error::new(ErrorKind::InvalidInput, "not a cgroup v2 directory:").at(path)
}

fn create_help(e: Errno) -> &'static str {
    match e {
        Errno::PERM | Errno::ACCESS | Errno::ROFS => {
            "run as root, or in a subtree delegated to this user (systemd: Delegate=yes)"
        }
        Errno::EXIST => "choose another name or remove it",
        Errno::AGAIN => "cgroup.max.depth or cgroup.max.descendants of an ancestor is reached",
        _ => "the parent must be a cgroup v2 directory",
    }
}
