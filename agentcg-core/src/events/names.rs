//! Cgroup ids to paths, sessions and tool calls.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::types::{Event, Origin};
use crate::cgroup::{Cgroup, mount_point, path_of};

/// Names remembered; beyond it the cache starts anew.
const MAX_NAMES: usize = 64 << 10;

/// A cgroup, and what it is to us.
#[derive(Clone, Debug, PartialEq)]
struct Name {
    path: Arc<Path>,
    session: Option<Arc<str>>,
    tool_call: Option<Arc<str>>,
}

/// Knows every cgroup by its id: those that were there at first from a walk, later ones from the
/// kernel, which names each in the ring buffer before anything can run in it.
pub(super) struct CgroupNames {
    names: HashMap<u64, Option<Name>>,
    mount: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl CgroupNames {
    pub(super) fn new(root: Option<&Path>) -> Self {
        let mount = mount_point().ok();
        let mut names = Self { names: HashMap::new(), mount, root: root.map(Path::to_path_buf) };
        names.walk();
        names
    }

    fn walk(&mut self) {
        let Some(Ok(top)) = self.mount.as_ref().map(Cgroup::open) else {
            return;
        };
        // What vanishes meanwhile needs no name; what comes is named in the ring.
        let _ = top.walk(&mut |cgroup| {
            self.add(cgroup.id()?, cgroup.path());
            Ok(())
        });
    }

    fn add(&mut self, id: u64, path: &Path) {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        let name = self.name(path);
        self.names.insert(id, Some(name));
    }

    /// The kernel made a cgroup; `inside` is its path in the hierarchy.
    pub(super) fn made(&mut self, id: u64, inside: &OsStr) {
        let Some(mount) = &self.mount else { return };
        let path = mount.join(Path::new(inside).strip_prefix("/").unwrap_or(Path::new(inside)));
        self.add(id, &path);
    }

    /// ROOT/SESSION/..., and tool calls in ROOT/SESSION/calls/CALL.
    fn name(&self, path: &Path) -> Name {
        let inside = self.root.as_ref().and_then(|root| path.strip_prefix(root).ok());
        let mut parts = inside.into_iter().flat_map(Path::iter).map(|p| p.to_string_lossy());
        let session = parts.next().map(Arc::from);
        let tool_call =
            parts.next().filter(|p| p == "calls").and_then(|_| parts.next()).map(Arc::from);
        Name { path: path.into(), session, tool_call }
    }

    pub(super) fn complete(&mut self, event: &mut Event) {
        if let Event::OomKill(kill) = event
            && let Some(id) = kill.limit_cgroup_id
        {
            kill.limit_cgroup = self.look_up(id, None).map(|n| n.path);
        }
        if let Some(origin) = event.origin_mut() {
            self.complete_origin(origin);
        }
    }

    fn complete_origin(&mut self, origin: &mut Origin) {
        if let Some(name) = self.look_up(origin.cgroup_id, Some(origin.pid)) {
            origin.cgroup = Some(name.path);
            origin.session = name.session;
            origin.tool_call = name.tool_call;
        }
    }

    fn look_up(&mut self, id: u64, pid: Option<i32>) -> Option<Name> {
        if let Some(known) = self.names.get(&id) {
            return known.clone();
        }
        // Only where the ring was full when the cgroup was made, or the cache has started anew.
        let path = pid.and_then(|pid| through_process(id, pid));
        let found = path.map(|p| self.name(&p));
        self.names.insert(id, found.clone());
        found
    }
}

/// Through a process that was in it; it may be gone or have moved by now, so the id is compared
/// before the answer is believed.
fn through_process(id: u64, pid: i32) -> Option<PathBuf> {
    let path = path_of(pid).ok()?;
    (Cgroup::open(&path).ok()?.id().ok()? == id).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_tool_calls_are_told_by_the_path() {
        let names =
            CgroupNames { names: HashMap::new(), mount: None, root: Some("/c/agentcg".into()) };
        let of = |path: &str| {
            let name = names.name(Path::new(path));
            (
                name.session.as_deref().map(str::to_owned),
                name.tool_call.as_deref().map(str::to_owned),
            )
        };
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(of("/c/agentcg"), (None, None));
        assert_eq!(of("/c/other/a"), (None, None));
        assert_eq!(of("/c/agentcg/a/agent"), (some("a"), None));
        assert_eq!(of("/c/agentcg/a/calls/7/inner"), (some("a"), some("7")));
    }
}
