//! Memory protection: while a high-priority cgroup stalls for memory, it is kept out of reclaim and
//! the low-priority ones are held back.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | [`MemcgConfig`], [`MemoryProtection`], the choice of the backend |
//! | `policy.rs` | how long a session is protected, and what is a low one's part; knows no kernel |
//! | `watch.rs` | the thread: what it waits for, and what it does when |
//! | `session.rs` | one cgroup: its files, its notifications, what was changed |
//! | `ancestors.rs` | protection granted by the cgroups above |
//! | `room.rs` | how much memory is free |
//! | `reclaim.rs` | `memory.reclaim` |
//! | `hooks.rs` | the BPF programs: tracepoints of reclaim, the hooks of `memcg_bpf_ops` |
//! | `stuck.rs` | cgroups that stand still above their `memory.high` |
//! | `stats.rs` | [`MemoryStats`] |

mod ancestors;
mod hooks;
mod policy;
mod reclaim;
mod room;
mod session;
mod stats;
mod stuck;
mod watch;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::cgroup::{Cgroup, Claim};
use crate::scheduler::CurrentBrake;
use crate::{Error, ErrorKind, Result};

use hooks::Hooks;
pub use stats::{
    MemoryRole, MemorySessionStats, MemoryStats, ProtectionWindow, StuckAction, StuckCgroup,
};
use watch::{Ask, Command, Watch};

/// Stalling for 5 % of the shortest window that PSI has makes a high cgroup count as hurting.
const STALL: Duration = Duration::from_millis(25);
const PSI_WINDOW: Duration = Duration::from_millis(500);

/// The mechanism behind [`MemoryProtection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBackend {
    /// `memcg_bpf_ops` where the kernel has it, else `cgroup`.
    #[default]
    Auto,
    /// BPF hooks in the kernel's memory controller, in no released kernel yet.
    MemcgBpfOps,
    /// The cgroup v2 files.
    Cgroup,
}

impl std::str::FromStr for MemoryBackend {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "memcg_bpf_ops" => Ok(Self::MemcgBpfOps),
            "cgroup" => Ok(Self::Cgroup),
            _ => Err(Error::invalid("backend", s, "expected auto, memcg_bpf_ops or cgroup")),
        }
    }
}

/// Whom to protect against whom, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemcgConfig {
    /// The cgroups to protect.
    pub high: Vec<PathBuf>,
    /// The cgroups to hold back while a high one stalls.
    pub low: Vec<PathBuf>,
    /// The longest delay of an allocation batch (256 KiB) of a low one that has a quarter more than
    /// its part; less above the part in proportion, none below. Zero leaves the low ones alone. Only
    /// `memcg_bpf_ops` has it; both backends set `memory.high`, where the kernel chooses the delay (up
    /// to 2 s). Default 50 ms.
    pub delay: Duration,
    /// So many page faults a second of a high cgroup count as a stall while memory is short. 0, the
    /// default: faults do not count. Needs kernel 6.16 (tracepoint `memcg:count_memcg_events`).
    pub threshold: u64,
    /// Protect with `memory.low`, which reclaim honours while it can; default yes.
    pub below_low: bool,
    /// Protect with `memory.min`, which reclaim always honours; default no, for it can push the
    /// machine to kill the others.
    pub below_min: bool,
    /// How long all is protected after the last stall; 100 ms to 60 s, default 1 s. Then the
    /// protection ends, or, while others press, a part of it is taken back each time. When that is
    /// missed, the next try is twice as late, up to 32 times.
    pub window: Duration,
    /// Freeze low cgroups for 200 ms of each 600 when a high one goes on stalling in spite of
    /// everything else; default yes.
    pub freeze: bool,
    /// A cgroup that meets its `memory.high` for so long without progress is stuck; at least 5 s,
    /// default 10 s.
    pub stuck_after: Duration,
    /// What is done then, besides telling; default nothing.
    pub when_stuck: StuckAction,
    /// The mechanism; default the best there is.
    pub backend: MemoryBackend,
}

impl Default for MemcgConfig {
    fn default() -> Self {
        Self {
            high: Vec::new(),
            low: Vec::new(),
            delay: Duration::from_millis(50),
            threshold: 0,
            below_low: true,
            below_min: false,
            window: Duration::from_secs(1),
            freeze: true,
            stuck_after: Duration::from_secs(10),
            when_stuck: StuckAction::Report,
            backend: MemoryBackend::Auto,
        }
    }
}

impl MemcgConfig {
    fn check(&self) -> Result<()> {
        if self.high.is_empty() {
            return Err(Error::invalid("high", "[]", "name at least one cgroup to protect"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.window) {
            return Err(Error::invalid("window", self.window, "expected 100 ms to 60 s"));
        }
        if self.delay > Duration::from_secs(2) {
            return Err(Error::invalid("delay", self.delay, "the kernel allows 2 s at most"));
        }
        // The kernel's own delays last up to 2 s each.
        if self.stuck_after < Duration::from_secs(5) {
            return Err(Error::invalid(
                "time until stuck",
                self.stuck_after,
                "expected 5 s or more",
            ));
        }
        for (i, a) in self.high.iter().enumerate() {
            for b in self.low.iter().chain(&self.high[i + 1..]) {
                apart(a, b, true)?;
            }
        }
        Ok(())
    }
}

/// Low cgroups may contain each other; a high one contains no other, and is in none.
fn apart(a: &Path, b: &Path, one_is_high: bool) -> Result<()> {
    let nested = a.starts_with(b) || b.starts_with(a);
    if (one_is_high && nested) || a == b {
        return Err(Error::invalid(
            "cgroups",
            (a, b),
            "one contains the other; high and low must not overlap",
        ));
    }
    Ok(())
}

/// Running protection; dropping it ends it and puts back every value that it changed.
///
/// One thread sleeps in `poll` until the kernel tells of a stall or a window ends.
#[derive(Debug)]
#[must_use = "dropping the protection ends it"]
pub struct MemoryProtection {
    ask: Option<Sender<Ask>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<MemoryStats>>,
    backend: MemoryBackend,
    /// A forked child has no such thread, and must not end its parent's.
    process: u32,
}

impl MemoryProtection {
    /// Starts protecting. Values that a killed process left changed in these cgroups are put back
    /// first. Needs the memory controller and PSI in the high cgroups.
    ///
    /// # Errors
    /// `InvalidInput` for overlapping or bad options and for what is no cgroup; `NotFound`;
    /// `Unsupported` without memory controller or PSI, for [`MemoryBackend::MemcgBpfOps`] on a kernel
    /// without it, and for a threshold on one without the tracepoint; `Busy` when another process
    /// protects one of the cgroups, or has attached such hooks to it, above or below.
    pub fn attach(config: MemcgConfig) -> Result<Self> {
        Self::start(config, CurrentBrake::default())
    }

    pub(crate) fn start(config: MemcgConfig, brake: CurrentBrake) -> Result<Self> {
        config.check()?;
        let revision = crate::probe::memcg_bpf_ops_revision();
        if config.backend == MemoryBackend::MemcgBpfOps && revision.is_none() {
            return Err(memcg_bpf_ops_missing());
        }
        for path in config.high.iter().chain(&config.low) {
            require_memory_controller(&Cgroup::open(path)?)?;
        }
        if config.threshold > 0 {
            hooks::require_fault_events()?;
        }
        let revision = revision.filter(|_| config.backend != MemoryBackend::Cgroup);
        let (hooks, backend) = match Hooks::load(&config, revision) {
            Ok(hooks) if revision.is_some() => (Some(hooks), MemoryBackend::MemcgBpfOps),
            Ok(hooks) => (Some(hooks), MemoryBackend::Cgroup),
            // What was asked for has to work; PSI alone does for the rest.
            Err(e) if config.backend == MemoryBackend::MemcgBpfOps || config.threshold > 0 => {
                return Err(e);
            }
            Err(e) => {
                tracing::info!("reclaim is seen through memory.pressure only: {e}");
                (None, MemoryBackend::Cgroup)
            }
        };
        let stats = Arc::new(Mutex::new(MemoryStats {
            backend,
            sees_reclaim: hooks.is_some(),
            active: false,
            stalls: 0,
            ignored: 0,
            windows: 0,
            protected_ms: 0,
            sessions: Vec::new(),
            stuck: Vec::new(),
            recent: Vec::new(),
        }));
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map(Arc::new)
            .map_err(|e| Error::os("create", "an eventfd", e))?;
        let (ask, asked) = channel();
        let watch = Watch::new(config, backend, hooks, brake, asked, stats.clone())?;
        let thread = {
            let wake = wake.clone();
            // Whoever started it hears its warnings too.
            let log = tracing::dispatcher::get_default(Clone::clone);
            std::thread::Builder::new()
                .name("agentcg-memory".into())
                .spawn(move || tracing::dispatcher::with_default(&log, || watch.run(&wake)))
                .map_err(|e| Error::os("start a thread", "agentcg-memory", e))?
        };
        let process = std::process::id();
        Ok(Self { ask: Some(ask), wake, thread: Some(thread), stats, backend, process })
    }

    /// The mechanism in use.
    pub fn backend(&self) -> MemoryBackend {
        self.backend
    }

    /// Takes one more cgroup up. One that is removed later is taken up again when it comes back.
    ///
    /// # Errors
    /// As [`attach`](Self::attach) for this cgroup; `NotFound` when the protection has ended.
    pub fn add(&self, cgroup: impl Into<PathBuf>, role: MemoryRole) -> Result<()> {
        self.ask(Command::Add(cgroup.into(), role))
    }

    /// Lets go of a cgroup; what was changed in it is put back.
    ///
    /// # Errors
    /// `NotFound` when the protection does not have it, or has ended.
    pub fn remove(&self, cgroup: impl Into<PathBuf>) -> Result<()> {
        self.ask(Command::Remove(cgroup.into()))
    }

    fn ask(&self, command: Command) -> Result<()> {
        let ended = || Error::new(ErrorKind::NotFound, "the memory protection has ended");
        let (reply, answer) = sync_channel(1);
        let ask = self.ask.as_ref().ok_or_else(ended)?;
        ask.send((command, reply)).map_err(|_| ended())?;
        self.wake();
        answer.recv().map_err(|_| ended())?
    }

    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// What it has done so far.
    pub fn stats(&self) -> MemoryStats {
        self.stats.lock().clone()
    }
}

impl Drop for MemoryProtection {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        // What the thread finds when it wakes.
        self.ask = None;
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the memory protection's thread has panicked");
        }
    }
}

fn memcg_bpf_ops_missing() -> Error {
    Error::unsupported(
        "this kernel has no memcg_bpf_ops",
        "no released kernel has it yet; use the backend cgroup",
    )
}

/// Sets a file, but not below what an administrator has set.
fn raise(claim: &Claim, file: &str, bytes: u64) -> Result<()> {
    let before: crate::Limit = claim.before(file)?.parse()?;
    match before.value() {
        Some(v) if v < bytes => claim.change(file, &bytes.to_string()),
        _ => claim.restore_one(file),
    }
}

fn require_memory_controller(cgroup: &Cgroup) -> Result<()> {
    match cgroup.memory_current() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(Error::unsupported(
            "no memory controller in",
            "enable it: echo +memory > cgroup.subtree_control in every ancestor",
        )
        .at(cgroup.path())),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(high: &[&str], low: &[&str]) -> MemcgConfig {
        MemcgConfig {
            high: high.iter().map(PathBuf::from).collect(),
            low: low.iter().map(PathBuf::from).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn overlap_is_refused() {
        assert!(config(&["/c/a", "/c/b"], &["/c/d", "/c/d/e"]).check().is_ok());
        for (high, low) in [
            (vec!["/c/a"], vec!["/c/a"]),
            (vec!["/c/a"], vec!["/c/a/b"]),
            (vec!["/c/a/b"], vec!["/c/a"]),
            (vec!["/c/a", "/c/a/b"], vec![]),
            (vec![], vec!["/c/a"]),
        ] {
            let e = config(&high, &low).check().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
        }
    }
}
