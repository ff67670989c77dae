//! What the protection has done, as types and as JSON.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::MemoryBackend;

/// A time during which a high cgroup was protected.
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

/// A cgroup that its own `memory.high` has brought to a standstill: see
/// [`MemcgConfig::stuck_after`](super::MemcgConfig::stuck_after).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StuckCgroup {
    /// When it was found; RFC 3339 in JSON.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// The cgroup.
    pub cgroup: PathBuf,
    /// For how long it was watched without progress. `duration_ms` in JSON.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// How often it met its `memory.high` meanwhile: `high` in `memory.events`.
    pub high_events: u64,
    /// CPU time in user mode meanwhile, ms. `user_ms` in JSON.
    #[serde(rename = "user_ms", serialize_with = "milliseconds")]
    pub user: Duration,
    /// Its `memory.current`, bytes.
    pub memory_current: u64,
    /// Its `memory.high`, bytes.
    pub memory_high: u64,
    /// What was done about it.
    pub action: StuckAction,
}

/// What is done about a cgroup that makes no progress above its `memory.high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckAction {
    /// Only tell.
    #[default]
    Report,
    /// Freeze it (`cgroup.freeze`) until the protection ends or someone thaws it.
    Freeze,
    /// Set its `memory.high` to `max` until the protection ends; its `memory.max` holds then.
    Lift,
}

impl std::str::FromStr for StuckAction {
    type Err = crate::Error;
    fn from_str(s: &str) -> crate::Result<Self> {
        match s {
            "report" => Ok(Self::Report),
            "freeze" => Ok(Self::Freeze),
            "lift" => Ok(Self::Lift),
            _ => Err(crate::Error::invalid(
                "action when stuck",
                s,
                "expected report, freeze or lift",
            )),
        }
    }
}

/// On which side of the protection a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryRole {
    /// Protected while it hurts.
    High,
    /// Held back while a high one hurts.
    Low,
}

impl std::str::FromStr for MemoryRole {
    type Err = crate::Error;
    fn from_str(s: &str) -> crate::Result<Self> {
        match s {
            "high" => Ok(Self::High),
            "low" => Ok(Self::Low),
            _ => Err(crate::Error::invalid("role", s, "expected high or low")),
        }
    }
}

/// What was done for or with one cgroup. Fields that do not apply to its role stay 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemorySessionStats {
    /// The cgroup.
    pub cgroup: PathBuf,
    /// Its side.
    pub role: MemoryRole,
    /// False while it does not exist: it is taken up again when it comes back.
    pub present: bool,
    /// High: it is protected now. Low: it is slowed now.
    pub active: bool,
    /// High: its stalls that counted.
    pub stalls: u64,
    /// High: the time it was protected, ms, without the open window.
    pub protected_ms: u64,
    /// High: what it was found to need, the last time it was measured, bytes.
    pub working_set: u64,
    /// Low: what it may have while a high one hurts, bytes; 0 before that was known.
    pub part: u64,
    /// Questions of the kernel to the BPF hooks (backend `memcg_bpf_ops`).
    pub calls: u64,
    /// Those that were answered with protection or a delay.
    pub answered: u64,
    /// The delays of these, together, ms, summed over its tasks.
    pub delay_ms: u64,
    /// Low: times its `memory.high` was set.
    pub held: u64,
    /// Low: times its `cpu.weight` was lowered.
    pub yielded: u64,
    /// Low: times the runtime's scheduler was told to hold it back.
    pub braked: u64,
    /// Low: bytes reclaimed from it (`memory.reclaim`).
    pub reclaimed: u64,
    /// Low: the time it was frozen, ms.
    pub frozen_ms: u64,
}

impl MemorySessionStats {
    pub(super) fn new(cgroup: PathBuf, role: MemoryRole) -> Self {
        Self {
            cgroup,
            role,
            present: true,
            active: false,
            stalls: 0,
            protected_ms: 0,
            working_set: 0,
            part: 0,
            calls: 0,
            answered: 0,
            delay_ms: 0,
            held: 0,
            yielded: 0,
            braked: 0,
            reclaimed: 0,
            frozen_ms: 0,
        }
    }
}

/// What the protection has done so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryStats {
    /// The mechanism.
    pub backend: MemoryBackend,
    /// Reclaim is seen when it begins (BPF); otherwise pressure (PSI) tells, within 50 ms.
    pub sees_reclaim: bool,
    /// A window is open now.
    pub active: bool,
    /// Stalls that counted.
    pub stalls: u64,
    /// Stalls that came from the cgroup's own limit, against which nothing protects.
    pub ignored: u64,
    /// Windows opened.
    pub windows: u64,
    /// The time protected, ms, without the open windows; that of several cgroups adds up.
    pub protected_ms: u64,
    /// By cgroup.
    pub sessions: Vec<MemorySessionStats>,
    /// Cgroups that were found without progress, the last 1000.
    pub stuck: Vec<StuckCgroup>,
    /// The last windows, at most 1000.
    pub recent: Vec<ProtectionWindow>,
}

impl MemoryStats {
    /// Adds to one of the lists, which keep the last 1000.
    pub(super) fn push<T>(list: &mut Vec<T>, new: T) {
        if list.len() == 1000 {
            list.remove(0);
        }
        list.push(new);
    }
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&humantime::format_rfc3339_millis(*at))
}

fn milliseconds<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(d.as_millis() as u64)
}
