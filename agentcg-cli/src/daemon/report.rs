//! What the daemon has to say at its end.

use std::collections::BTreeMap;

use agentcg_core::{MemoryStats, SchedulerStats, Usage};
use serde::Serialize;

use super::Daemon;

#[derive(Serialize)]
pub(super) struct Report {
    schema: u32,
    sessions: BTreeMap<String, SessionReport>,
    scheduler: Option<SchedulerStats>,
    memory: Option<MemoryStats>,
}

#[derive(Serialize)]
struct SessionReport {
    cgroup: String,
    cpu_weight: Option<u32>,
    processes_moved: u64,
    usage: Option<Usage>,
}

impl Report {
    pub(super) fn new(daemon: &Daemon) -> Self {
        let sessions = daemon
            .sessions
            .iter()
            .map(|(session, moved)| {
                let report = SessionReport {
                    cgroup: session.path().display().to_string(),
                    cpu_weight: session.cgroup().cpu_weight().ok(),
                    processes_moved: *moved,
                    usage: session.usage().ok(),
                };
                (session.name().to_owned(), report)
            })
            .collect();
        Self {
            schema: 1,
            sessions,
            scheduler: daemon.scheduler.scheduler.as_ref().map(|s| s.stats()),
            memory: daemon.memory.as_ref().map(|m| m.stats()),
        }
    }
}
