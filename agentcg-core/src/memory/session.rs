//! One cgroup under protection: its files, its notifications, what was changed there.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::ancestors::Ancestors;
use super::policy::Window;
use super::stuck::StuckWatch;
use super::{
    MemoryRole, MemorySessionStats, PSI_WINDOW, STALL, StuckAction, raise,
    require_memory_controller,
};
use crate::cgroup::{Cgroup, Claim, LimitFile, PressureTrigger};
use crate::{Error, ErrorKind, Result};

/// A cgroup that is to be protected or held back, whether it exists just now or not.
pub(super) struct Session {
    pub path: PathBuf,
    pub role: MemoryRole,
    pub live: Option<Live>,
    pub stats: MemorySessionStats,
    pub reclaimed: Arc<AtomicU64>,
    // High.
    pub window: Window,
    /// Stalls in the open window.
    pub stalls: u64,
    /// Stalls since the last second without one.
    pub in_a_row: u64,
    /// What is protected, bytes.
    pub target: u64,
    /// When somebody may be frozen again, and until when it is.
    pub frozen: Option<(Instant, bool)>,
    /// The scheduler was asked to hold it back.
    pub braked: bool,
}

/// What there is of a cgroup that exists.
pub(super) struct Live {
    // Order matters: hooks and notifications go before the values are put back.
    /// The link of `memcg_bpf_ops`.
    pub _link: Option<OwnedFd>,
    pub trigger: Option<PressureTrigger>,
    pub stuck: StuckWatch,
    pub ancestors: Option<Ancestors>,
    pub claim: Claim,
    pub id: u64,
    /// What was done when it was stuck, and holds until the end.
    pub stuck_action: Option<StuckAction>,
    /// `max` and `high` of `memory.events.local`: its own limit at work.
    own_limit: u64,
}

impl Live {
    /// Opens the cgroup; values that a dead process has left there are put back.
    pub(super) fn open(path: &PathBuf, role: MemoryRole) -> Result<Self> {
        let cgroup = Cgroup::open(path)?;
        require_memory_controller(&cgroup)?;
        let high = role == MemoryRole::High;
        let trigger =
            high.then(|| PressureTrigger::memory(&cgroup, STALL, PSI_WINDOW)).transpose()?;
        let stuck = StuckWatch::new(&cgroup)?;
        let id = cgroup.id()?;
        let claim = Claim::take(cgroup)?;
        let ancestors = high.then(|| Ancestors::of(path)).transpose()?;
        let own_limit = own_limit(claim.cgroup());
        Ok(Self {
            _link: None,
            trigger,
            stuck,
            ancestors,
            claim,
            id,
            stuck_action: None,
            own_limit,
        })
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        self.claim.cgroup()
    }

    /// Whether it is the cgroup's own limit that hurts, against which no protection helps: it was
    /// met since the last time, and the cgroup is at it.
    pub(super) fn own_limit_hurts(&mut self) -> bool {
        let now = own_limit(self.cgroup());
        let met = now > std::mem::replace(&mut self.own_limit, now);
        let cgroup = self.cgroup();
        let limit = [LimitFile::MemoryHigh, LimitFile::MemoryMax]
            .into_iter()
            .filter_map(|file| cgroup.limit(file).ok()?.value())
            .min();
        let used = cgroup.memory_current().unwrap_or(0);
        met && limit.is_some_and(|limit| used + (limit >> 4) >= limit)
    }

    /// What it uses and what was taken from it: the memory that it needs to run without stalls.
    pub(super) fn working_set(&self) -> Result<u64> {
        let cgroup = self.cgroup();
        let used = cgroup.memory_current()?;
        // Without swap accounting only what is there is known.
        let swapped = cgroup
            .read("memory.swap.current")
            .ok()
            .and_then(|t| t.trim_end().parse::<u64>().ok())
            .unwrap_or(0);
        let wanted = used + swapped;
        // Room to grow in, for allocations before the next measurement.
        Ok(wanted + wanted / 16)
    }

    pub(super) fn cpu(&self) -> Option<Duration> {
        self.cgroup().cpu_stat().ok().map(|s| Duration::from_micros(s.usage_usec))
    }

    /// Raises the protection in these files, here and above.
    pub(super) fn protect(&self, files: &[&str], bytes: u64) -> Result<()> {
        for file in files {
            raise(&self.claim, file, bytes)?;
        }
        if let Some(ancestors) = &self.ancestors {
            ancestors.grant(files, bytes);
        }
        Ok(())
    }

    /// Takes the protection back, here and above.
    pub(super) fn unprotect(&self) {
        if let Some(ancestors) = &self.ancestors {
            ancestors.grant(&[], 0);
        }
        self.put_back(&["memory.low", "memory.min"]);
    }

    /// Ends what slowed a low cgroup.
    pub(super) fn let_go(&self) {
        self.put_back(&["memory.high", "cpu.weight", "cgroup.freeze"]);
    }

    fn put_back(&self, files: &[&str]) {
        for file in files {
            if let Err(e) = self.claim.restore_one(file) {
                tracing::warn!("{e}");
            }
        }
    }

    /// Gives a low cgroup the least `cpu.weight` that there is: one that swaps is busy in the kernel, and
    /// what the high one waits for then is the CPU. Nothing to do without the cpu controller, and for
    /// one with `cpu.idle`, whose weight reads 0. That file itself would lose the weight.
    pub(super) fn yield_cpu(&self) -> Result<bool> {
        match self.cgroup().cpu_weight() {
            Ok(0 | 1) => return Ok(false),
            Ok(_) => {}
            Err(e) if gone(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
        self.claim.change("cpu.weight", "1")?;
        Ok(true)
    }

    pub(super) fn is_held(&self) -> Result<bool> {
        self.claim.is_changed("memory.high")
    }

    /// Holds a low cgroup at its part. A limit that is stricter is left.
    pub(super) fn hold(&self, part: u64) -> Result<bool> {
        let before: crate::Limit = self.claim.before("memory.high")?.parse()?;
        if before.value().is_none_or(|v| v > part) {
            self.claim.change("memory.high", &part.to_string())?;
            return Ok(true);
        }
        self.claim.restore_one("memory.high")?;
        Ok(false)
    }

    pub(super) fn freeze(&self, frozen: bool) -> Result<bool> {
        if frozen {
            // One that somebody else has frozen is theirs.
            if self.cgroup().read("cgroup.freeze")?.trim_end() != "0" {
                return Ok(false);
            }
            self.claim.change("cgroup.freeze", "1")?;
        } else {
            self.claim.restore_one("cgroup.freeze")?;
        }
        Ok(true)
    }
}

fn own_limit(cgroup: &Cgroup) -> u64 {
    let text = cgroup.read("memory.events.local").unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    value("high") + value("max")
}

impl Session {
    pub(super) fn new(path: PathBuf, role: MemoryRole, window: Duration, live: Live) -> Self {
        let stats = MemorySessionStats::new(path.clone(), role);
        Self {
            path,
            role,
            live: Some(live),
            stats,
            reclaimed: Arc::default(),
            window: Window::new(window),
            stalls: 0,
            in_a_row: 0,
            target: 0,
            frozen: None,
            braked: false,
        }
    }

    pub(super) fn is(&self, path: &std::path::Path) -> bool {
        self.path == path
    }

    pub(super) fn used(&self) -> u64 {
        self.live.as_ref().and_then(|l| l.cgroup().memory_current().ok()).unwrap_or(0)
    }
}

pub(super) fn gone(e: &Error) -> bool {
    e.kind() == ErrorKind::NotFound
}
