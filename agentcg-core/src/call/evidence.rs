//! What is known about the end of a call: counters before and after at each level of the tree.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use super::outcome::{Ended, Outcome, Scope, Stopped};
use super::running::Plan;
use super::usage::{Ahead, Files, Met, Usage};
use super::verdict::{Evidence, Level, LevelLimits, MEMORY_STALL_SHARE, THROTTLED_SHARE, decide};
use super::{advice, oom};
use crate::cgroup::{Cgroup, CpuMax, Limit, MemoryEvents, cpu_stat_local, pids_events};
use crate::limits::Limits;
use crate::session::{Calls, killed_by};

/// How long ago the end of a call can be when its outcome is made.
const TEARDOWN: Duration = Duration::from_secs(30);

/// The cgroups above a call, from `SESSION/calls` up to the mount point, with their event files kept
/// open: one read each says what was met meanwhile.
#[derive(Debug)]
pub(crate) struct Ancestors(Vec<Ancestor>);

#[derive(Debug)]
struct Ancestor {
    cgroup: Cgroup,
    scope: Scope,
    /// `memory.events.local`, kernel 5.2.
    memory: Option<OwnedFd>,
    /// `pids.events.local`, kernel 6.11. What `pids.events` counts before says nothing about levels.
    pids: Option<OwnedFd>,
}

/// Counters of the ancestors at one moment.
#[derive(Debug)]
pub(crate) struct Baseline(Box<[Met]>);

impl Ancestors {
    pub(crate) fn open(calls: &Cgroup) -> Self {
        let mut levels = Vec::new();
        for (height, path) in calls.path().ancestors().enumerate() {
            // What is above the mount point is no cgroup.
            let Ok(cgroup) = Cgroup::open(path) else { break };
            let open = |file| cgroup.open_file(file, OFlags::RDONLY).ok();
            let memory = open("memory.events.local");
            let pids = open("pids.events.local");
            let scope = if height < 2 { Scope::Session } else { Scope::Ancestor };
            // The root, and levels without controllers, have no limits. A `pids.max` before 6.11 is
            // a limit too, though it has nothing to be counted.
            if memory.is_some() || pids.is_some() || open("pids.max").is_some() {
                levels.push(Ancestor { cgroup, scope, memory, pids });
            }
        }
        Self(levels)
    }

    pub(crate) fn baseline(&self) -> Baseline {
        Baseline(self.0.iter().map(Ancestor::met).collect())
    }

    /// What each level has met since.
    fn since<'a>(&'a self, before: &'a Baseline) -> impl Iterator<Item = (&'a Ancestor, Met)> {
        self.0.iter().zip(&before.0).map(|(level, before)| {
            let now = level.met();
            let memory = now.memory.zip(before.memory).map(|(now, before)| now.since(&before));
            let forks = now.refused_forks.zip(before.refused_forks);
            let refused_forks = forks.map(|(now, before)| now.saturating_sub(before));
            (level, Met { memory, refused_forks })
        })
    }
}

impl Ancestor {
    fn met(&self) -> Met {
        Met {
            memory: self.memory.as_ref().and_then(|fd| read_at(fd, MemoryEvents::parse)),
            refused_forks: self.pids.as_ref().and_then(|fd| read_at(fd, pids_events)),
        }
    }
}

fn read_at<T>(fd: &OwnedFd, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut buf = [0; 512];
    let n = rustix::io::pread(fd, &mut buf, 0).ok()?;
    parse(std::str::from_utf8(&buf[..n]).ok()?)
}

/// All that the lifecycle of a call knows at its end.
pub(crate) struct End<'a> {
    pub plan: Plan,
    pub calls: &'a Calls,
    pub cgroup: &'a Cgroup,
    pub before: &'a Baseline,
    /// Files of the cgroup that are open already.
    pub ahead: Ahead,
    pub ended: Ended,
    pub stopped: Option<Stopped>,
    /// No other call of the session ran meanwhile.
    pub alone: bool,
    pub started_at: SystemTime,
    pub duration: Duration,
    /// Waited for admission.
    pub queued: Duration,
    /// `ru_maxrss` of the main process and its waited-for children, bytes.
    pub max_rss_bytes: Option<u64>,
}

impl End<'_> {
    /// Reads the counters, decides and explains. What the lifecycle itself knows (output,
    /// survivors, ...) is left at its default for it to fill in.
    ///
    /// The cgroup must still be there, with whatever sub-cgroups the call has made.
    pub(crate) fn conclude(mut self) -> Outcome {
        let (mut evidence, no_victim) = self.gather();
        let unavailable = &mut evidence.usage.unavailable;
        if let Some(why) = no_victim {
            unavailable.insert("victim", why);
        }
        let mut notes = self.plan.notes;
        if let Ended::Unknown(why) = &evidence.ended {
            notes.push(format!("the exit status is not known: {why}"));
        }
        if evidence.usage.max_rss_bytes.is_none() {
            let why = match &evidence.ended {
                Ended::NotStarted(_) => "the program was not started",
                _ => "the exit status was collected elsewhere",
            };
            unavailable.insert("max_rss_bytes", why.into());
        }
        Outcome {
            call: self.plan.call,
            session: self.calls.session().to_owned(),
            cgroup: self.cgroup.path().to_owned(),
            command: self.plan.command,
            started_at: self.started_at,
            queued: self.queued,
            hint: self.plan.hint,
            limits: self.plan.limits,
            notes,
            ..evidence.conclude()
        }
    }

    /// The evidence, and why an OOM kill's victim is not known.
    fn gather(&mut self) -> (Evidence, Option<String>) {
        let (calls, ahead) = (self.calls, std::mem::take(&mut self.ahead));
        let (mut usage, mut own) =
            Usage::with_events(self.cgroup, calls.controllers(), ahead, calls.sched_ext());
        usage.max_rss_bytes = self.max_rss_bytes;
        let mut levels = self.sub_cgroups(&mut own);
        let stopped =
            self.stopped.clone().or_else(|| killed_by(self.cgroup).map(Stopped::Cancelled));
        let mut evidence = Evidence {
            ended: self.ended.clone(),
            stopped,
            duration: self.duration,
            alone: self.alone,
            usage,
            own,
            throttled_above_us: None,
            levels: Vec::new(),
            kill: None,
        };
        let mut no_victim = None;
        if evidence.oom_killed() {
            // By the wall clock, unless that was set meanwhile.
            let ago = self.started_at.elapsed().unwrap_or(Duration::MAX);
            let ago = ago.clamp(self.duration, self.duration.saturating_add(TEARDOWN));
            match oom::look_up(self.cgroup.path(), ago) {
                Ok(kill) => evidence.kill = Some(kill),
                Err(why) => no_victim = Some(why),
            }
        }
        if evidence.share(evidence.usage.cpu_stall_us) >= THROTTLED_SHARE {
            let all = Files::of(self.cgroup).parsed(c"cpu.stat.local", cpu_stat_local).ok();
            let own = evidence.usage.cpu_throttled_us.unwrap_or(0);
            evidence.throttled_above_us = all.map(|all| all.saturating_sub(own));
        }
        // The rest costs a dozen files a level, and a call that met no limit needs none of it.
        let risen: Vec<_> = self.calls.ancestors().since(self.before).collect();
        if is_noteworthy(&evidence) || risen.iter().any(|(_, met)| met.is_any()) {
            levels.push(level(self.cgroup, Scope::Call, local(self.cgroup)));
            levels.extend(risen.iter().map(|(a, met)| level(&a.cgroup, a.scope, *met)));
            evidence.levels = levels;
        }
        (evidence, no_victim)
    }

    /// The sub-cgroups that the call has made and that met a limit. Their counters are in the call's
    /// own, but for refused forks before kernel 6.11 (and with the mount option
    /// `memory_localevents`): those are added here.
    fn sub_cgroups(&self, own: &mut Met) -> Vec<Level> {
        // A cgroup without children has two links.
        let has_children = rustix::fs::fstat(self.cgroup.as_fd()).is_ok_and(|s| s.st_nlink > 2);
        if !has_children {
            return Vec::new();
        }
        let mut levels = Vec::new();
        // One that vanishes meanwhile ends the walk; the call's own counters remain.
        let _ = self.cgroup.walk(&mut |cgroup| {
            if cgroup.path() != self.cgroup.path() {
                let mut files = Files::of(cgroup);
                own.include(&Met {
                    memory: files.parsed(c"memory.events", MemoryEvents::parse).ok(),
                    refused_forks: files.parsed(c"pids.events", pids_events).ok(),
                });
                let met = local(cgroup);
                if met.is_any() {
                    levels.push(level(cgroup, Scope::Call, met));
                }
            }
            Ok(())
        });
        // The limit that is nearest to the processes comes first.
        levels.reverse();
        levels
    }
}

impl Evidence {
    /// Decides and explains; what is not evidence is at its default.
    pub(super) fn conclude(self) -> Outcome {
        let (verdict, cause) = decide(&self);
        let (advice, suggestions) = advice::advise(&self, verdict, cause.as_ref());
        Outcome {
            call: String::new(),
            session: String::new(),
            cgroup: PathBuf::new(),
            command: Vec::new(),
            started_at: SystemTime::UNIX_EPOCH,
            duration: self.duration,
            queued: Duration::ZERO,
            ended: self.ended,
            hint: None,
            limits: Limits::default(),
            verdict,
            cause,
            usage: self.usage,
            advice,
            suggestions,
            stdout: None,
            stderr: None,
            killed_processes: 0,
            background: Vec::new(),
            survivors: Vec::new(),
            timeline: Vec::new(),
            notes: Vec::new(),
            retries: Vec::new(),
        }
    }
}

impl Met {
    fn is_any(&self) -> bool {
        self.refused_forks.is_some_and(|n| n > 0)
            || self.memory.is_some_and(|m| m.high > 0 || m.max > 0 || m.oom > 0 || m.oom_kill > 0)
    }

    /// The counters of a descendant, which may be in these already.
    fn include(&mut self, below: &Met) {
        self.refused_forks = self.refused_forks.max(below.refused_forks);
        if let (Some(own), Some(below)) = (&mut self.memory, &below.memory) {
            own.high = own.high.max(below.high);
            own.max = own.max.max(below.max);
            own.oom = own.oom.max(below.oom);
            own.oom_kill = own.oom_kill.max(below.oom_kill);
            own.oom_group_kill = own.oom_group_kill.max(below.oom_group_kill);
        }
    }
}

fn is_noteworthy(e: &Evidence) -> bool {
    e.own.is_any()
        || e.share(e.usage.memory_stall_us) >= MEMORY_STALL_SHARE
        || e.throttled_share(e.usage.cpu_throttled_us) > 0.0
        || e.throttled_share(e.throttled_above_us) > 0.0
}

fn local(cgroup: &Cgroup) -> Met {
    let mut files = Files::of(cgroup);
    Met {
        memory: files.parsed(c"memory.events.local", MemoryEvents::parse).ok(),
        refused_forks: files.parsed(c"pids.events.local", pids_events).ok(),
    }
}

fn level(cgroup: &Cgroup, scope: Scope, met: Met) -> Level {
    let mut files = Files::of(cgroup);
    let mut limit =
        |file| files.parsed(file, |t| t.parse::<Limit>().ok()).ok().and_then(Limit::value);
    let limits = LevelLimits {
        memory_max: limit(c"memory.max"),
        memory_high: limit(c"memory.high"),
        pids_max: limit(c"pids.max"),
        pids_peak: limit(c"pids.peak"),
        cpu_cores: files.parsed(c"cpu.max", CpuMax::parse).ok().and_then(|max| max.cores()),
    };
    Level { scope, cgroup: cgroup.path().to_owned(), met, limits }
}
