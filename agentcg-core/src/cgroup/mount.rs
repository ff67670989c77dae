//! Where cgroup v2 is mounted, and where a process is in it.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// The first cgroup v2 mount of this mount namespace: `/sys/fs/cgroup` on most machines,
/// `/sys/fs/cgroup/unified` beside cgroup v1.
///
/// # Errors
/// `Unsupported` when none is mounted.
pub fn mount_point() -> Result<PathBuf> {
    let file = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(file).map_err(|e| Error::os("read", file, e))?;
    mount_in(&text).ok_or_else(|| {
        Error::unsupported(
            "cgroup v2 is not mounted",
            "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (or boot with systemd.unified_cgroup_hierarchy=1)",
        )
    })
}

/// The mount point, and what of the hierarchy is mounted there: `/`, or a subtree.
///
/// # Errors
/// As [`mount_point`].
pub(crate) fn mount_root() -> Result<(PathBuf, PathBuf)> {
    let file = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(file).map_err(|e| Error::os("read", file, e))?;
    let mount = mount_in(&text);
    mount
        .zip(field_in(&text, 3))
        .ok_or_else(|| Error::new(ErrorKind::Os, "no cgroup2 mount in").at(file))
}

/// mountinfo(5): the mount point is field 5, the type follows the ` - ` separator; blanks in paths
/// are octal escapes.
fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    field_in(mountinfo, 4)
}

fn field_in(mountinfo: &str, field: usize) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next() == Some("cgroup2"))
            .then(|| before.split(' ').nth(field))?
            .map(|p| PathBuf::from(p.replace("\\040", " ")))
    })
}

/// The cgroup that this process is in.
///
/// # Errors
/// As [`path_of`].
pub fn own_path() -> Result<PathBuf> {
    path_of(std::process::id() as i32)
}

/// The cgroup that a process is in, from `/proc/PID/cgroup`.
///
/// # Errors
/// `NotFound` when the process is gone.
pub fn path_of(pid: i32) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).map_err(|e| Error::os("read", &file, e))?;
    let inside = text
        .lines()
        .find_map(|l| l.strip_prefix("0::/"))
        .ok_or_else(|| Error::new(ErrorKind::Os, "no cgroup v2 line in").at(&file))?;
    let mount = mount_point()?;
    Ok(if inside.is_empty() { mount } else { mount.join(Path::new(inside)) })
}

#[cfg(test)]
mod tests {
    use super::mount_in;
    use std::path::Path;

    #[test]
    fn cgroup2_is_found_beside_v1() {
        let hybrid = "\
24 21 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
34 24 0:32 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(mount_in(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(super::field_in(hybrid, 3).unwrap(), Path::new("/"));
        assert_eq!(mount_in("24 21 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
