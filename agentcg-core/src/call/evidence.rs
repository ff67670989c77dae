//! What is known about the end of a call: counters before and after at each level of the tree.

use std::time::{Duration, SystemTime};

use super::outcome::{Ended, Outcome, Stopped};
use crate::cgroup::Cgroup;
use crate::limits::Limits;

/// The cgroups above a call, from `SESSION/calls` up to the mount point, with their event files kept open.
#[derive(Debug)]
pub(crate) struct Ancestors {}

/// Counters of the ancestors at one moment.
#[derive(Debug)]
pub(crate) struct Baseline {}

impl Ancestors {
    pub(crate) fn open(_calls: &Cgroup) -> Self {
        Self {}
    }

    pub(crate) fn baseline(&self) -> Baseline {
        Baseline {}
    }
}

/// All that the lifecycle of a call knows at its end.
pub(crate) struct End<'a> {
    pub cgroup: &'a Cgroup,
    pub ancestors: &'a Ancestors,
    pub before: &'a Baseline,
    pub ended: Ended,
    pub stopped: Option<Stopped>,
    /// No other call of the session ran meanwhile.
    pub alone: bool,
    pub limits: &'a Limits,
    pub session: &'a str,
    pub call: &'a str,
    pub command: &'a [String],
    pub started_at: SystemTime,
    pub duration: Duration,
    /// `ru_maxrss` of the main process and its waited-for children, bytes.
    pub max_rss_bytes: Option<u64>,
}

impl End<'_> {
    /// Reads the counters, decides and explains. What the lifecycle itself knows (output,
    /// survivors, ...) is left at its default for it to fill in.
    pub(crate) fn conclude(self) -> Outcome {
        use super::outcome::Verdict;
        let verdict = match (&self.stopped, &self.ended) {
            (_, Ended::NotStarted(_)) => Verdict::SpawnFailed,
            (Some(Stopped::TimedOut(_)), _) => Verdict::TimedOut,
            (Some(_), _) => Verdict::Cancelled,
            (_, Ended::Exited(0)) => Verdict::Completed,
            (_, Ended::Signaled { .. }) => Verdict::Signaled,
            _ => Verdict::Failed,
        };
        Outcome {
            call: self.call.into(),
            session: self.session.into(),
            cgroup: self.cgroup.path().into(),
            command: self.command.to_vec(),
            started_at: self.started_at,
            duration: self.duration,
            queued: Duration::ZERO,
            ended: self.ended,
            hint: None,
            limits: self.limits.clone(),
            verdict,
            cause: None,
            usage: super::usage::Usage::read(self.cgroup),
            advice: String::new(),
            suggestions: vec![],
            stdout: None,
            stderr: None,
            killed_processes: 0,
            background: vec![],
            survivors: vec![],
            timeline: vec![],
            notes: vec![],
            retries: vec![],
        }
    }
}
