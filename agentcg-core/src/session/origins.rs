//! Where moved processes came from, and the way back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::Result;
use crate::cgroup::Cgroup;

/// What all sessions of a runtime share: the processes that were moved into them.
#[derive(Debug, Default)]
pub(crate) struct Origins(Mutex<HashMap<i32, Origin>>);

#[derive(Debug)]
struct Origin {
    home: PathBuf,
    oom_score_adj: Option<i32>,
}

/// How much less the OOM killer likes a harness than before.
const LOWER_BY: i32 = 500;

impl Origins {
    pub(super) fn remember(&self, pid: i32, home: PathBuf) {
        self.0.lock().insert(pid, Origin { home, oom_score_adj: None });
    }

    /// Makes the OOM killer take others first, if we may.
    pub(super) fn lower_oom_score(&self, pid: i32) {
        let Some(before) = oom_score_adj(pid) else { return };
        if set_oom_score_adj(pid, (before - LOWER_BY).max(-999))
            && let Some(origin) = self.0.lock().get_mut(&pid)
        {
            origin.oom_score_adj.get_or_insert(before);
        }
    }

    /// Moves the processes of a cgroup (not of its children) back to where they came from, else to
    /// the nearest ancestor outside the runtime that takes processes.
    pub(crate) fn evacuate(&self, cgroup: &Cgroup, outside: &Path) -> Result<()> {
        cgroup.drain(|pid| {
            let origin = self.0.lock().remove(&pid);
            if let Some(score) = origin.as_ref().and_then(|o| o.oom_score_adj) {
                set_oom_score_adj(pid, score);
            }
            match origin.and_then(|o| Cgroup::open(o.home).ok()?.move_pid(pid).ok()) {
                Some(()) => Ok(()),
                None => move_to_ancestor(pid, outside),
            }
        })
    }
}

pub(super) fn oom_score_adj(pid: i32) -> Option<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
}

fn set_oom_score_adj(pid: i32, value: i32) -> bool {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()).is_ok()
}

fn move_to_ancestor(pid: i32, outside: &Path) -> Result<()> {
    let mut last = None;
    for path in outside.ancestors() {
        let Ok(cgroup) = Cgroup::open(path) else {
            break;
        };
        match cgroup.move_pid(pid) {
            Ok(()) => return Ok(()),
            // Died meanwhile.
            Err(e) if e.errno() == Some(libc::ESRCH) => return Ok(()),
            Err(e) => last = Some(e),
        }
    }
    last.map_or(Ok(()), Err)
}
