use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Capability;
use crate::cgroup::{Cgroup, CgroupName, Controller, mount_point, own_path};
use crate::{Error, ErrorKind, Result};

const BOOT_V2: &str =
    "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1=all) and mount cgroup2";

pub(super) fn probe() -> Vec<Capability> {
    let mut list = Vec::new();
    let mount = mount_point();
    list.push(Capability::attempt(
        "cgroup2",
        mount.as_ref().map(|m| m.display().to_string()).map_err(Error::clone),
        BOOT_V2,
    ));
    let place = mount.as_ref().map_err(Error::clone).and_then(|m| Place::find(m));
    list.push(Capability::attempt(
        "cgroup_create",
        place
            .as_ref()
            .map(|p| format!("below {}", p.parent.path().display()))
            .map_err(Error::clone),
        "run as root, or in a subtree delegated to this user (systemd: Delegate=yes)",
    ));
    let available = mount
        .as_ref()
        .map_err(Error::clone)
        .and_then(|m| match &place {
            Ok(p) => p.parent.controllers(),
            Err(_) => Cgroup::open(m)?.controllers(),
        })
        .unwrap_or_default();
    for (name, c) in [
        ("cpu_controller", Controller::Cpu),
        ("memory_controller", Controller::Memory),
        ("io_controller", Controller::Io),
        ("pids_controller", Controller::Pids),
        ("cpuset_controller", Controller::Cpuset),
    ] {
        list.push(if available.contains(&c) {
            Capability::yes(name, "")
        } else if v1_has(c) {
            Capability::no(name, format!("{c} is bound to cgroup v1"), BOOT_V2)
        } else {
            Capability::no(
                name,
                format!("{c} is not in cgroup.controllers"),
                format!("enable it: echo +{c} > cgroup.subtree_control in every ancestor"),
            )
        });
    }
    list.extend(inside(place.ok(), available.contains(&Controller::Memory)));
    list.push(psi());
    list.push(clone_into_cgroup());
    list.push(match crate::call::open_kernel_log() {
        Ok(_) => Capability::yes("kernel_log", "/dev/kmsg"),
        Err(why) => Capability::no("kernel_log", why, "run as root, or with CAP_SYSLOG"),
    });
    list
}

fn v1_has(c: Controller) -> bool {
    std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| {
        text.lines()
            .filter_map(|l| l.split(':').nth(1))
            .any(|list| list.split(',').any(|name| name == c.name()))
    })
}

/// Where we may make cgroups, proved by a cgroup that is removed at the end.
struct Place {
    parent: Cgroup,
    made: Cgroup,
}

impl Place {
    /// The top as root; else our own cgroup and its ancestors, for a delegated subtree.
    fn find(mount: &Path) -> Result<Self> {
        let own = own_path().unwrap_or_else(|_| mount.to_path_buf());
        let mut tried: Vec<PathBuf> = vec![mount.to_path_buf()];
        tried.extend(own.ancestors().take_while(|p| p.starts_with(mount)).map(Path::to_path_buf));
        let mut first = None;
        for path in tried {
            match Self::at(&path) {
                Ok(place) => return Ok(place),
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.unwrap_or_else(|| Error::new(ErrorKind::NotFound, "no cgroup at").at(mount)))
    }

    fn at(path: &Path) -> Result<Self> {
        let parent = Cgroup::open(path)?;
        let made = parent
            .create_child(&CgroupName::new(format!("agentcg-probe-{}", std::process::id()))?)?;
        Ok(Self { parent, made })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = self.made.remove() {
            tracing::warn!("{e}");
        }
    }
}

/// What can be seen in a cgroup only.
fn inside(place: Option<Place>, memory: bool) -> Vec<Capability> {
    let Some(place) = &place else {
        let no =
            |name| Capability::no(name, "no cgroup could be made to look at", "see cgroup_create");
        return [
            "cgroup_kill",
            "cgroup_freeze",
            "memory_peak",
            "memory_peak_reset",
            "memory_reclaim",
        ]
        .map(no)
        .into();
    };
    let made = &place.made;
    let mut list = vec![
        Capability::attempt(
            "cgroup_kill",
            made.kill().map(|()| String::new()),
            "needs kernel 5.14",
        ),
        Capability::attempt(
            "cgroup_freeze",
            made.freeze(true).map(|()| String::new()),
            "needs kernel 5.2",
        ),
    ];
    let _ = made.freeze(false);
    if !memory {
        let no = |name| Capability::no(name, "no memory controller", "see memory_controller");
        list.extend(["memory_peak", "memory_peak_reset", "memory_reclaim"].map(no));
        return list;
    }
    let looked = with_memory(place, |cgroup| {
        let peak = cgroup.memory_peak();
        let reset = cgroup.write("memory.peak", "reset");
        let reclaim = cgroup.write("memory.reclaim", "0");
        (peak.map(drop), reset, reclaim)
    });
    let (peak, reset, reclaim) = match looked {
        Ok(results) => results,
        Err(e) => (Err(e.clone()), Err(e.clone()), Err(e)),
    };
    let seen = |r: Result<()>| r.map(|()| String::new());
    list.push(Capability::attempt("memory_peak", seen(peak), "needs kernel 5.19"));
    list.push(Capability::attempt("memory_peak_reset", seen(reset), "needs kernel 6.12"));
    list.push(Capability::attempt("memory_reclaim", seen(reclaim), "needs kernel 5.19"));
    list
}

/// Runs `look` on the cgroup that was made, when it has its memory files: they are there where the
/// parent hands the controller on.
fn with_memory<T>(place: &Place, look: impl FnOnce(&Cgroup) -> T) -> Result<T> {
    if place.made.memory_current().is_ok() {
        return Ok(look(&place.made));
    }
    // The parent has the controller and hands it to nobody. Switched on and off again it would
    // disturb nobody either, but only where nobody lives below.
    if place.parent.children()?.len() > 1 {
        return Err(Error::unsupported(
            "the memory controller is not handed to children of",
            "enable it: echo +memory > cgroup.subtree_control",
        )
        .at(place.parent.path()));
    }
    place.parent.enable(&[Controller::Memory])?;
    let result = look(&place.made);
    place.parent.write("cgroup.subtree_control", "-memory")?;
    Ok(result)
}

fn psi() -> Capability {
    let fix = "boot with psi=1 (needs CONFIG_PSI)";
    match std::fs::read("/proc/pressure/memory") {
        Ok(_) => Capability::yes("psi", "/proc/pressure/memory"),
        Err(e) => {
            Capability::attempt("psi", Err(Error::os("read", "/proc/pressure/memory", e)), fix)
        }
    }
}

/// clone3 with a descriptor that is no cgroup: a kernel that knows the flag says EBADF before it
/// makes a process, one that does not says EINVAL or ENOSYS.
fn clone_into_cgroup() -> Capability {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let name = "clone3_into_cgroup";
    let fix = "needs kernel 5.7, and a container runtime whose seccomp profile allows clone3";
    let Ok(not_a_cgroup) = std::fs::File::open("/proc/self/status") else {
        return Capability::no(name, "/proc is not mounted", "mount -t proc proc /proc");
    };
    // struct clone_args of linux/sched.h, version 2
    let mut args = [0u64; 11];
    args[0] = CLONE_INTO_CGROUP;
    args[4] = libc::SIGCHLD as u64;
    args[10] = not_a_cgroup.as_raw_fd() as u64;
    // SAFETY: clone3 reads 88 bytes of `args`. The descriptor is not a cgroup directory, so the
    // kernel refuses before a child exists; were there one after all, it would leave at once.
    let r = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    if r == 0 {
        // SAFETY: we are an unexpected child; _exit runs nothing of the parent's.
        unsafe { libc::_exit(0) };
    }
    let e = std::io::Error::last_os_error();
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BADF) => Capability::yes(name, ""),
        _ => Capability::attempt(
            name,
            Err(Error::os("try", "clone3 with CLONE_INTO_CGROUP", e)),
            fix,
        ),
    }
}
