//! The `cgroup` backend: waits for PSI triggers of the high cgroups; on one of them protects what
//! they use now and stops the low ones from growing, for a window.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{MemcgConfig, MemoryStats, ProtectionWindow, protectable_ancestors};
use crate::cgroup::{Cgroup, Claim, PressureTrigger};
use crate::{Error, ErrorKind, Result};

/// Stalling for 5 % of the shortest window that PSI has makes a high cgroup count as hurting.
const STALL: Duration = Duration::from_millis(25);
const PSI_WINDOW: Duration = Duration::from_millis(500);
/// A low cgroup is never held below this: it must go on, and what it has is not what hurts.
const FLOOR: u64 = 32 << 20;
const RECENT: usize = 1000;

struct High {
    claim: Claim,
    trigger: PressureTrigger,
    faults: u64,
}

struct Open {
    until: Instant,
    since: Instant,
    window: ProtectionWindow,
}

/// Everything the thread owns.
pub(super) struct Watch {
    config: MemcgConfig,
    high: Vec<High>,
    low: Vec<Claim>,
    /// `memory.low` holds only as far as every ancestor grants it.
    ancestors: Vec<Claim>,
    open: Option<Open>,
    stats: Arc<Mutex<MemoryStats>>,
}

impl Watch {
    pub(super) fn new(config: MemcgConfig, stats: Arc<Mutex<MemoryStats>>) -> Result<Self> {
        let mut high = Vec::new();
        let mut ancestors: HashMap<PathBuf, Claim> = HashMap::new();
        for path in &config.high {
            let cgroup = Cgroup::open(path)?;
            let trigger = PressureTrigger::memory(&cgroup, STALL, PSI_WINDOW)?;
            let faults = faults(&cgroup)?;
            high.push(High { claim: Claim::take(cgroup)?, trigger, faults });
            for ancestor in protectable_ancestors(path) {
                if ancestors.contains_key(&ancestor) {
                    continue;
                }
                match Claim::take(Cgroup::open(&ancestor)?) {
                    Ok(claim) => drop(ancestors.insert(ancestor, claim)),
                    // Another protection below the same ancestor sees to it.
                    Err(e) if e.kind() == ErrorKind::Busy => tracing::warn!("{e}"),
                    Err(e) => return Err(e),
                }
            }
        }
        let low = config
            .low
            .iter()
            .map(|path| Claim::take(Cgroup::open(path)?))
            .collect::<Result<_>>()?;
        let ancestors = ancestors.into_values().collect();
        Ok(Self { config, high, low, ancestors, open: None, stats })
    }

    pub(super) fn run(mut self, stop: &OwnedFd) {
        loop {
            match self.wait(stop) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    tracing::error!("memory protection ends: {e}");
                    break;
                }
            }
        }
        self.close();
    }

    /// Sleeps until a stall, the end of the window or the end of all (`false`).
    fn wait(&mut self, stop: &OwnedFd) -> Result<bool> {
        let left = self.open.as_ref().map(|o| o.until.saturating_duration_since(Instant::now()));
        let timeout =
            left.map(|d| Timespec { tv_sec: d.as_secs() as _, tv_nsec: d.subsec_nanos() as _ });
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(self.high.iter().map(|h| PollFd::new(&h.trigger, PollFlags::PRI)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::os("poll", "memory.pressure", e)),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if !ready[0].is_empty() {
            return Ok(false);
        }
        // Backwards, for a cgroup that is gone is taken out of the list.
        for i in (0..self.high.len()).rev() {
            let events = ready[i + 1];
            if events.contains(PollFlags::ERR) {
                tracing::info!("{} is gone", self.high[i].claim.cgroup().path().display());
                self.high.remove(i);
            } else if events.contains(PollFlags::PRI) {
                self.stalled(i);
            }
        }
        if self.open.as_ref().is_some_and(|o| Instant::now() >= o.until) {
            self.close();
        }
        Ok(true)
    }

    fn stalled(&mut self, i: usize) {
        let high = &mut self.high[i];
        let now = faults(high.claim.cgroup()).unwrap_or(high.faults);
        let new = now.saturating_sub(high.faults);
        high.faults = now;
        if new < self.config.threshold {
            self.stats.lock().ignored += 1;
            return;
        }
        self.stats.lock().stalls += 1;
        let until = Instant::now() + self.config.window;
        if let Some(open) = &mut self.open {
            open.until = until;
            open.window.stalls += 1;
            return;
        }
        let because_of = high.claim.cgroup().path().to_path_buf();
        tracing::info!("{} stalls for memory: protecting", because_of.display());
        let window = ProtectionWindow {
            started_at: SystemTime::now(),
            duration: Duration::ZERO,
            because_of,
            stalls: 1,
        };
        self.open = Some(Open { until, since: Instant::now(), window });
        {
            let mut stats = self.stats.lock();
            stats.active = true;
            stats.windows += 1;
        }
        if let Err(e) = self.protect() {
            tracing::warn!("{e}");
        }
    }

    /// Saves and changes: first the protection, then what holds the others back.
    fn protect(&self) -> Result<()> {
        let files: Vec<&str> =
            [(self.config.below_low, "memory.low"), (self.config.below_min, "memory.min")]
                .into_iter()
                .filter_map(|(wanted, file)| wanted.then_some(file))
                .collect();
        let mut granted: HashMap<&Path, u64> = HashMap::new();
        for high in &self.high {
            let cgroup = high.claim.cgroup();
            let used = cgroup.memory_current()?;
            for file in &files {
                raise(&high.claim, file, used)?;
            }
            for ancestor in cgroup.path().ancestors().skip(1) {
                *granted.entry(ancestor).or_default() += used;
            }
        }
        for ancestor in &self.ancestors {
            let sum = granted.get(ancestor.cgroup().path()).copied().unwrap_or(0);
            for file in &files {
                raise(ancestor, file, sum)?;
            }
        }
        if self.config.delay.is_zero() {
            return Ok(());
        }
        for low in &self.low {
            let used = low.cgroup().memory_current()?.max(FLOOR);
            let before = low.cgroup().limit(crate::LimitFile::MemoryHigh)?;
            if before.value().is_none_or(|v| v > used) {
                low.change("memory.high", &used.to_string())?;
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        let claims = self.high.iter().map(|h| &h.claim).chain(&self.low).chain(&self.ancestors);
        for claim in claims {
            if let Err(e) = claim.restore() {
                tracing::warn!("{e}");
            }
        }
        open.window.duration = open.since.elapsed();
        tracing::info!(
            "protected {} for {:.1} s ({} stalls)",
            open.window.because_of.display(),
            open.window.duration.as_secs_f64(),
            open.window.stalls
        );
        let mut stats = self.stats.lock();
        stats.active = false;
        stats.protected_ms += open.window.duration.as_millis() as u64;
        if stats.recent.len() == RECENT {
            stats.recent.remove(0);
        }
        stats.recent.push(open.window);
    }
}

/// Never lowers what an administrator has set.
fn raise(claim: &Claim, file: &str, bytes: u64) -> Result<()> {
    let before: crate::Limit = claim.cgroup().read(file)?.parse()?;
    match before.value() {
        Some(v) if v < bytes => claim.change(file, &bytes.to_string()),
        _ => Ok(()),
    }
}

/// Major faults and refaults so far: pages that had to be read back.
fn faults(cgroup: &Cgroup) -> Result<u64> {
    let text = cgroup.read("memory.stat")?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_once(' '))
        .filter(|(key, _)| {
            matches!(*key, "pgmajfault" | "workingset_refault_anon" | "workingset_refault_file")
        })
        .filter_map(|(_, n)| n.trim().parse::<u64>().ok())
        .sum())
}
