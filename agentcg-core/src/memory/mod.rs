//! Memory protection: while a high-priority cgroup stalls for memory, it is kept out of reclaim and
//! the low-priority ones are held back.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | [`MemcgConfig`], [`MemoryProtection`], the choice of the backend |
//! | `cgroup_backend.rs` | the backend for every cgroup v2 kernel: PSI triggers, `memory.low`, `memory.high` |

mod cgroup_backend;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use crate::cgroup::Cgroup;
use crate::{Error, ErrorKind, Result};

use cgroup_backend::Watch;

/// The mechanism behind [`MemoryProtection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBackend {
    /// The best one that there is: today always `cgroup`.
    #[default]
    Auto,
    /// BPF hooks in the kernel's memory controller.
    MemcgBpfOps,
    /// PSI triggers and the cgroup v2 files.
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
    /// How long an allocation of a low one may be delayed; zero leaves them alone. The `cgroup`
    /// backend sets `memory.high` in place of it, and the kernel chooses the delay (up to 2 s).
    pub delay: Duration,
    /// A stall counts only when the high cgroup also had at least this many major faults and
    /// refaults since the last one; 0 (the default): every stall counts.
    pub threshold: u64,
    /// Protect with `memory.low`, which reclaim honours while it can; default yes.
    pub below_low: bool,
    /// Protect with `memory.min`, which reclaim always honours; default no, for it can push the
    /// machine to kill the others.
    pub below_min: bool,
    /// How long the protection lasts after the last stall; 100 ms to 60 s, default 1 s.
    pub window: Duration,
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
        for (i, a) in self.high.iter().enumerate() {
            let others = self.low.iter().chain(&self.high[i + 1..]);
            if let Some(b) = others.clone().find(|b| a.starts_with(b) || b.starts_with(a)) {
                return Err(Error::invalid(
                    "cgroups",
                    (a, b),
                    "one contains the other; high and low must not overlap",
                ));
            }
        }
        Ok(())
    }
}

/// A time during which the high cgroups were protected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProtectionWindow {
    /// When the first stall was reported; RFC 3339 in JSON.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: SystemTime,
    /// How long it lasted; up to now for the one that is open. `duration_ms` in JSON.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// The cgroup whose stall opened it.
    pub because_of: PathBuf,
    /// Stalls within it.
    pub stalls: u64,
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_str(&humantime::format_rfc3339_millis(*at))
}

fn milliseconds<S: serde::Serializer>(d: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_u64(d.as_millis() as u64)
}

/// What the protection has done so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryStats {
    /// A window is open now.
    pub active: bool,
    /// Stalls reported by the kernel that counted.
    pub stalls: u64,
    /// Stalls below the threshold.
    pub ignored: u64,
    /// Windows opened.
    pub windows: u64,
    /// The time protected, ms.
    pub protected_ms: u64,
    /// The last windows, at most 1000.
    pub recent: Vec<ProtectionWindow>,
}

/// Running protection; dropping it ends it and puts back every value that it changed.
///
/// One thread sleeps in `poll` until the kernel reports a stall or a window ends.
#[derive(Debug)]
#[must_use = "dropping the protection ends it"]
pub struct MemoryProtection {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<Mutex<MemoryStats>>,
    /// A forked child has no such thread, and must not end its parent's.
    process: u32,
}

impl MemoryProtection {
    /// Starts protecting. Values that a killed process left changed in these cgroups are put back
    /// first. Needs the memory controller and PSI in the high cgroups.
    ///
    /// # Errors
    /// `InvalidInput` for overlapping or bad options and for what is no cgroup; `NotFound`;
    /// `Unsupported` without memory controller or PSI, and for [`MemoryBackend::MemcgBpfOps`];
    /// `Busy` when another process protects one of the cgroups.
    pub fn attach(config: MemcgConfig) -> Result<Self> {
        config.check()?;
        if config.backend == MemoryBackend::MemcgBpfOps {
            return Err(memcg_bpf_ops_missing());
        }
        for path in config.high.iter().chain(&config.low) {
            require_memory_controller(&Cgroup::open(path)?)?;
        }
        let stats = Arc::new(Mutex::new(MemoryStats::default()));
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map(Arc::new)
            .map_err(|e| Error::os("create", "an eventfd", e))?;
        let watch = Watch::new(config, stats.clone())?;
        let thread = {
            let stop = stop.clone();
            // Whoever started it hears its warnings too.
            let log = tracing::dispatcher::get_default(Clone::clone);
            std::thread::Builder::new()
                .name("agentcg-memory".into())
                .spawn(move || tracing::dispatcher::with_default(&log, || watch.run(&stop)))
                .map_err(|e| Error::os("start a thread", "agentcg-memory", e))?
        };
        Ok(Self { stop, thread: Some(thread), stats, process: std::process::id() })
    }

    /// The mechanism in use.
    pub fn backend(&self) -> MemoryBackend {
        MemoryBackend::Cgroup
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
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the memory protection's thread has panicked");
        }
    }
}

fn memcg_bpf_ops_missing() -> Error {
    match crate::probe::memcg_bpf_ops_revision() {
        None => Error::unsupported(
            "this kernel has no memcg_bpf_ops",
            "no released kernel has it yet; use the backend cgroup",
        ),
        Some(revision) => Error::unsupported(
            format!(
                "this kernel has memcg_bpf_ops (revision {revision}), this version of agentcg does not use it"
            ),
            "use the backend cgroup",
        ),
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

/// The ancestors of a cgroup, itself left out, that have a `memory.low`.
fn protectable_ancestors(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .skip(1)
        .take_while(|p| p.join("memory.low").exists())
        .map(Path::to_path_buf)
        .collect()
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
