//! Attaching to the tracepoints of the open system calls.
//!
//! A tracepoint is named by a number that only tracefs tells. Where tracefs is not mounted, a
//! detached mount of our own (fsmount(2), root only) gives it without anybody seeing a mount.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::{Link, ProgramMut};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::{Error, ErrorKind, Result};

const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The `events/syscalls` directory of a tracefs.
pub(crate) struct SyscallTracepoints(OwnedFd);

impl SyscallTracepoints {
    pub(crate) fn open() -> Result<Self> {
        let dir = |root: &OwnedFd| {
            openat(
                root,
                "events/syscalls",
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        for mount in MOUNTS {
            let Ok(root) = openat(CWD, mount, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            if let Ok(found) = dir(&root) {
                return Ok(Self(found));
            }
        }
        detached_tracefs()
            .and_then(|root| dir(&root))
            .map(Self)
            .map_err(|e| {
                Error::os("open events/syscalls of tracefs at", MOUNTS[0], e).or_help(
                    "mount it: mount -t tracefs tracefs /sys/kernel/tracing (needs CONFIG_FTRACE_SYSCALLS)",
                )
            })
    }

    /// `None` when this architecture has no such system call.
    fn id(&self, name: &str) -> Result<Option<u64>> {
        let path = format!("{name}/id");
        let failed = |e: std::io::Error| Error::os("read the tracepoint id", &path, e);
        let file = match openat(&self.0, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(failed(e.into())),
        };
        let text = std::io::read_to_string(file).map_err(failed)?;
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::new(ErrorKind::Os, "unexpected content of").at(&path).detail(text))
    }

    /// Attaches a program to a system call's tracepoint; `None` where there is no such call.
    pub(crate) fn attach(&self, name: &str, program: &ProgramMut<'_>) -> Result<Option<Link>> {
        let Some(id) = self.id(name)? else {
            return Ok(None);
        };
        let event = open_tracepoint(id).map_err(|e| Error::os("open the tracepoint", name, e))?;
        let link = program
            .attach_perf_event(event.as_raw_fd())
            .map_err(crate::bpf::libbpf("attach to a system call's tracepoint"))?;
        // The link owns and closes the descriptor from here on.
        std::mem::forget(event);
        Ok(Some(link))
    }
}

fn detached_tracefs() -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// `struct perf_event_attr` in its first version (`PERF_ATTR_SIZE_VER0`): all a tracepoint needs.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}

fn open_tracepoint(id: u64) -> std::io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: usize = 8;
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: id,
        ..Default::default()
    };
    // SAFETY: perf_event_open(2) reads `size` bytes of `attr`, which lives through the call. The
    // event is opened on CPU 0 for all processes; a BPF program on it sees all CPUs.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
