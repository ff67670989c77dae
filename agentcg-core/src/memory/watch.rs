//! The thread that watches, decides and acts.
//!
//! It sleeps in `poll` on what the kernel tells: PSI triggers of the high cgroups, the ring buffer of
//! the BPF programs, `memory.events`, and the directories in which a cgroup that is gone may come
//! back. While a window is open, or a cgroup may be stuck, it also wakes for the next look; otherwise
//! for nothing.
//!
//! | rung | when | what |
//! |---|---|---|
//! | protect | a high cgroup hurts | its working set, by `memory.low`; by the hooks from the first moment |
//! | reclaim | at the same time | what it lacks, from the low ones that have most (`memory.reclaim`) |
//! | yield | at the same time | low ones over their part get the least `cpu.weight` |
//! | slow | it hurts again in spite of that | low ones over their part: by `memory.high`, and the hooks from the first moment; and on the CPU, where the runtime's scheduler is attached |
//! | freeze | it goes on hurting | low ones over their part, 200 ms of each 600 |

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::hooks::Hooks;
use super::policy::{Hurt, Seen, Verdict, part};
use super::reclaim::Reclaimer;
use super::room::{Room, reclaimed, stalled};
use super::session::{Live, Session, gone};
use super::stats::MemoryStats;
use super::{MemcgConfig, MemoryBackend, MemoryRole, ProtectionWindow, StuckAction, stuck};
use crate::scheduler::CurrentBrake;
use crate::{Error, ErrorKind, Result};

/// A low cgroup is never held below this: it must go on, and what it has is not what hurts.
const FLOOR: u64 = 16 << 20;
/// What a high one that has all may grow by at least before the next stall tells of it, and stay
/// protected; of large ones a quarter.
const GROWTH: u64 = 32 << 20;
/// What shall stay free beside what the high ones lack, so that they need not reclaim themselves: a
/// sixteenth of all there is, within these bounds.
const RESERVE: (u64, u64) = (16 << 20, 256 << 20);
/// Stalls in a row, less than a second between them, until low cgroups are frozen.
const PATIENCE: u64 = 4;
/// The hooks go on for so long when this thread looks too late.
const LATE: Duration = Duration::from_millis(500);
const FROZEN: Duration = Duration::from_millis(200);
const THAWED: Duration = Duration::from_millis(400);

/// What the handle asks of the thread.
pub(super) enum Command {
    Add(PathBuf, MemoryRole),
    Remove(PathBuf),
}
pub(super) type Ask = (Command, SyncSender<Result<()>>);

/// Everything the thread owns.
pub(super) struct Watch {
    config: MemcgConfig,
    backend: MemoryBackend,
    // Order matters: what is changed in cgroups is put back before the hooks go.
    sessions: Vec<Session>,
    hooks: Option<Hooks>,
    reclaimer: Option<Reclaimer>,
    brake: CurrentBrake,
    /// Directories in which a cgroup may come back.
    returns: OwnedFd,
    asked: Receiver<Ask>,
    stats: Arc<Mutex<MemoryStats>>,
    /// Something may have been done to low cgroups since the last release.
    holding: bool,
}

impl Watch {
    pub(super) fn new(
        config: MemcgConfig,
        backend: MemoryBackend,
        hooks: Option<Hooks>,
        brake: CurrentBrake,
        asked: Receiver<Ask>,
        stats: Arc<Mutex<MemoryStats>>,
    ) -> Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let returns =
            inotify::init(flags).map_err(|e| Error::os("create", "an inotify instance", e))?;
        let reclaimer = if config.delay.is_zero() { None } else { Some(Reclaimer::start()?) };
        let (high, low) = (config.high.clone(), config.low.clone());
        let mut watch = Self {
            config,
            backend,
            sessions: Vec::new(),
            hooks,
            reclaimer,
            brake,
            returns,
            asked,
            stats,
            holding: false,
        };
        for path in high {
            watch.add(path, MemoryRole::High)?;
        }
        for path in low {
            watch.add(path, MemoryRole::Low)?;
        }
        watch.publish();
        Ok(watch)
    }

    pub(super) fn run(mut self, wake: &OwnedFd) {
        loop {
            match self.wait(wake) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    tracing::error!("memory protection ends: {e}");
                    break;
                }
            }
        }
        for i in 0..self.sessions.len() {
            self.end_window(i);
        }
        self.release_low();
        self.publish();
    }

    // ---- waiting

    /// Sleeps until something happens and sees to it; `false` at the end of all.
    fn wait(&mut self, wake: &OwnedFd) -> Result<bool> {
        let now = Instant::now();
        let timeout = self.next_look().map(|at| {
            // poll must not return before it.
            let d = at.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec { tv_sec: d.as_secs() as _, tv_nsec: d.subsec_nanos() as _ }
        });
        let live: Vec<(usize, &Live)> = self
            .sessions
            .iter()
            .enumerate()
            .filter_map(|(i, s)| Some((i, s.live.as_ref()?)))
            .collect();
        let mut fds =
            vec![PollFd::new(wake, PollFlags::IN), PollFd::new(&self.returns, PollFlags::IN)];
        let mut of = Vec::new();
        for (i, live) in &live {
            if live.stuck.listens() {
                fds.push(PollFd::new(&live.stuck, PollFlags::PRI));
                of.push((*i, false));
            }
            if let Some(trigger) = &live.trigger {
                fds.push(PollFd::new(trigger, PollFlags::PRI));
                of.push((*i, true));
            }
        }
        if let Some(hooks) = &self.hooks {
            fds.push(PollFd::from_borrowed_fd(hooks.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::os("poll", "memory.pressure", e)),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        drop(live);
        if !ready[0].is_empty() {
            let _ = rustix::io::read(wake, &mut [0; 8]);
            if !self.answer() {
                return Ok(false);
            }
            // The list has changed: what was ready tells of itself again.
            return Ok(true);
        }
        let now = Instant::now();
        for ((i, is_trigger), events) in of.into_iter().zip(&ready[2..]) {
            self.notified(i, is_trigger, *events, now);
        }
        for id in self.hooks.as_ref().map(Hooks::take).unwrap_or_default() {
            let found = self.sessions.iter().position(|s| {
                s.role == MemoryRole::High && s.live.as_ref().is_some_and(|l| l.id == id)
            });
            if let Some(i) = found {
                self.hurt(i, now);
            }
        }
        if !ready[1].is_empty() {
            self.come_and_go();
        }
        self.look(now);
        self.publish();
        Ok(true)
    }

    fn notified(&mut self, i: usize, is_trigger: bool, events: PollFlags, now: Instant) {
        let Some(live) = &mut self.sessions[i].live else { return };
        if is_trigger && events.contains(PollFlags::PRI) && !events.contains(PollFlags::ERR) {
            self.hurt(i, now);
        } else if !is_trigger && !events.is_empty() {
            let Live { stuck, claim, .. } = live;
            stuck.notified(claim.cgroup(), now);
            if claim.cgroup().memory_current().is_err_and(|e| gone(&e)) {
                self.vanished(i);
            }
        } else if events.contains(PollFlags::ERR) {
            self.vanished(i);
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let windows = self.sessions.iter().filter_map(|s| s.window.next_look());
        let frozen = self.sessions.iter().filter_map(|s| Some(s.frozen?.0));
        let stuck = self
            .sessions
            .iter()
            .filter_map(|s| s.live.as_ref()?.stuck.next_look(self.config.stuck_after));
        windows.chain(frozen).chain(stuck).min()
    }

    /// What time alone brings: the end of windows, of freezing, of patience.
    fn look(&mut self, now: Instant) {
        let mut relax = false;
        for i in 0..self.sessions.len() {
            if self.sessions[i].window.next_look().is_some_and(|at| at <= now) {
                let seen = self.seen(i, now);
                let session = &mut self.sessions[i];
                // A look is not before a second without a stall.
                session.in_a_row = 0;
                // What it has given back by itself it lacks no more.
                if let Some(Ok(needs)) = session.live.as_ref().map(Live::working_set) {
                    session.target = session.target.min(needs);
                }
                let verdict = session.window.look(seen);
                match verdict {
                    Verdict::Stays => relax = true,
                    Verdict::Less(step) => {
                        relax = true;
                        self.take_back(i, step, now);
                    }
                    Verdict::Over => self.end_window(i),
                }
            }
            if let Some((at, frozen)) = self.sessions[i].frozen
                && at <= now
            {
                self.thaw(i, frozen, now);
            }
            self.look_for_stuck(i, now);
        }
        if !self.is_active() {
            self.release_low();
        } else if relax {
            self.hold_back(Hurt::Same, 0, now);
        }
    }

    // ---- sessions

    /// Does what was asked for; false when the handle is gone.
    fn answer(&mut self) -> bool {
        loop {
            let (command, reply) = match self.asked.try_recv() {
                Ok(ask) => ask,
                Err(e) => return e == TryRecvError::Empty,
            };
            let done = match command {
                Command::Add(path, role) => self.add(path, role),
                Command::Remove(path) => self.remove(&path),
            };
            // Whoever asked looks at the statistics next.
            self.publish();
            let _ = reply.send(done);
        }
    }

    fn add(&mut self, path: PathBuf, role: MemoryRole) -> Result<()> {
        for other in &self.sessions {
            super::apart(
                &path,
                &other.path,
                role == MemoryRole::High || other.role == MemoryRole::High,
            )?;
        }
        let live = self.open(&path, role)?;
        let session = Session::new(path, role, self.config.window, live);
        self.await_return(&session.path);
        self.sessions.push(session);
        Ok(())
    }

    fn open(&self, path: &PathBuf, role: MemoryRole) -> Result<Live> {
        let mut live = Live::open(path, role)?;
        if let Some(hooks) = &self.hooks {
            live._link = hooks.add(live.cgroup(), role)?;
        }
        Ok(live)
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let Some(i) = self.sessions.iter().position(|s| s.is(path)) else {
            return Err(
                Error::new(ErrorKind::NotFound, "the protection does not have the cgroup").at(path)
            );
        };
        self.end_window(i);
        let session = self.sessions.remove(i);
        if let (Some(hooks), Some(live)) = (&self.hooks, &session.live) {
            hooks.remove(live.id);
        }
        drop(session);
        if !self.is_active() {
            self.release_low();
        }
        Ok(())
    }

    fn vanished(&mut self, i: usize) {
        self.end_window(i);
        let session = &mut self.sessions[i];
        let Some(live) = session.live.take() else { return };
        tracing::info!("{} is gone", session.path.display());
        session.stats.present = false;
        session.frozen = None;
        if let Some(hooks) = &self.hooks {
            hooks.remove(live.id);
        }
        let path = session.path.clone();
        self.await_return(&path);
    }

    /// Has the kernel tell when something is made or removed where the cgroup is, or was.
    fn await_return(&self, path: &Path) {
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::ONLYDIR;
        for above in path.ancestors().skip(1) {
            match inotify::add_watch(&self.returns, above, flags) {
                Ok(_) => return,
                Err(Errno::NOENT) => {}
                Err(e) => {
                    tracing::warn!("{} will not be taken up again: {e}", path.display());
                    return;
                }
            }
        }
    }

    /// Lets go of cgroups that are gone, and takes up those that exist again.
    fn come_and_go(&mut self) {
        while rustix::io::read(&self.returns, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
        for i in 0..self.sessions.len() {
            if let Some(live) = &self.sessions[i].live {
                if !live.cgroup().memory_current().is_err_and(|e| gone(&e)) {
                    continue;
                }
                self.vanished(i);
            }
            let (path, role) = (self.sessions[i].path.clone(), self.sessions[i].role);
            match self.open(&path, role) {
                Ok(live) => {
                    tracing::info!("{} is back", path.display());
                    self.sessions[i].live = Some(live);
                    self.sessions[i].stats.present = true;
                }
                Err(e) if gone(&e) => self.await_return(&path),
                Err(e) => tracing::warn!("{} is back, but not protected: {e}", path.display()),
            }
        }
    }

    // ---- pain

    fn seen(&self, i: usize, at: Instant) -> Seen {
        let cpu = self.sessions[i].live.as_ref().and_then(Live::cpu);
        Seen { at, cpu, stalled: self.stalled(), reclaimed: reclaimed() }
    }

    /// The time so far that tasks have waited for memory, or were made to.
    fn stalled(&self) -> Duration {
        let low = self.sessions.iter().filter(|s| s.role == MemoryRole::Low);
        let delays =
            low.filter_map(|s| Some(self.hooks.as_ref()?.counts(s.live.as_ref()?.id).delay_ms));
        stalled() + Duration::from_millis(delays.sum())
    }

    fn is_active(&self) -> bool {
        self.sessions.iter().any(|s| s.window.is_open())
    }

    fn files(&self) -> Vec<&'static str> {
        [(self.config.below_low, "memory.low"), (self.config.below_min, "memory.min")]
            .into_iter()
            .filter_map(|(wanted, file)| wanted.then_some(file))
            .collect()
    }

    fn hurt(&mut self, i: usize, now: Instant) {
        let session = &mut self.sessions[i];
        let Some(live) = &mut session.live else { return };
        let id = live.id;
        if live.own_limit_hurts() {
            self.stats.lock().ignored += 1;
            if !session.window.is_open()
                && let Some(hooks) = &mut self.hooks
            {
                // The programs have begun to protect it.
                let _ = hooks.unprotect(id);
            }
            return;
        }
        let seen = self.seen(i, now);
        let session = &mut self.sessions[i];
        let hurt = session.window.hurt(seen);
        match hurt {
            Hurt::Same => return,
            Hurt::Opened => {
                tracing::info!("{} stalls for memory: protecting", session.path.display());
                session.stalls = 0;
                self.stats.lock().windows += 1;
            }
            Hurt::Missed => session.in_a_row = 0,
            Hurt::Again => {}
        }
        session.stalls += 1;
        session.in_a_row += 1;
        self.holding = true;
        session.stats.stalls += 1;
        session.stats.active = true;
        let in_a_row = session.in_a_row;
        self.stats.lock().stalls += 1;
        if let Err(e) = self.protect(i, now) {
            tracing::warn!("{e}");
        }
        self.hold_back(hurt, in_a_row, now);
    }

    fn protect(&mut self, i: usize, now: Instant) -> Result<()> {
        let session = &mut self.sessions[i];
        let Some(live) = &session.live else { return Ok(()) };
        session.stats.working_set = live.working_set()?;
        session.target = session.stats.working_set;
        self.enforce(i, now)
    }

    /// Protects less of a session, to see whether it needs what it has.
    fn take_back(&mut self, i: usize, step: u32, now: Instant) {
        let session = &mut self.sessions[i];
        session.target -= session.target >> step;
        if session.target < session.used() / 4 {
            self.end_window(i);
        } else if let Err(e) = self.enforce(i, now) {
            tracing::warn!("{e}");
        }
    }

    fn enforce(&mut self, i: usize, now: Instant) -> Result<()> {
        let files = self.files();
        let session = &self.sessions[i];
        let Some(live) = &session.live else { return Ok(()) };
        let whole = session.window.is_whole();
        let room = if whole { (session.target / 4).max(GROWTH) } else { 0 };
        let bytes = session.target + room;
        if let (MemoryBackend::MemcgBpfOps, Some(hooks)) = (self.backend, &mut self.hooks) {
            // They know all or nothing: what is tried to be taken back they would take all at once.
            let all = if whole { bytes } else { 0 };
            hooks.protect(live.id, session.window.left(now) + LATE, all)?;
        }
        live.protect(&files, bytes)
    }

    /// Gives the low cgroups their parts, and, unless this is only a look, sees that they come down
    /// to them.
    fn hold_back(&mut self, hurt: Hurt, in_a_row: u64, now: Instant) {
        if self.config.delay.is_zero() {
            return;
        }
        // What the high ones may have beyond what they use; less than nothing while it is tried
        // whether they need all.
        let (mut lacks, mut more, mut fresh) = (0, 0, false);
        let mut room = Room { free: u64::MAX, total: u64::MAX };
        for session in self.sessions.iter().filter(|s| s.window.is_open() && s.live.is_some()) {
            lacks += session.target.saturating_sub(session.used());
            more += session.used().saturating_sub(session.target);
            room = room.min(Room::of(&session.path).unwrap_or_default());
            fresh |= session.in_a_row > 0;
        }
        if fresh {
            lacks += (room.total / 16).clamp(RESERVE.0, RESERVE.1);
        }
        let low: Vec<usize> = (0..self.sessions.len())
            .filter(|i| {
                self.sessions[*i].role == MemoryRole::Low && self.sessions[*i].live.is_some()
            })
            .collect();
        let used: Vec<u64> = low.iter().map(|i| self.sessions[*i].used()).collect();
        let allowed = (used.iter().sum::<u64>() + room.free + more).saturating_sub(lacks);
        let part = part(&used, allowed, FLOOR);
        for (i, used) in low.into_iter().zip(used) {
            let over = used.saturating_sub(part);
            if let Err(e) = self.hold_one(i, part, over, hurt) {
                tracing::warn!("{e}");
            }
            if hurt == Hurt::Again && over > 0 {
                self.brake(i);
                if in_a_row > PATIENCE && self.config.freeze {
                    self.freeze(i, now);
                }
            }
        }
    }

    fn hold_one(&mut self, i: usize, part: u64, over: u64, hurt: Hurt) -> Result<()> {
        let session = &mut self.sessions[i];
        let Some(live) = &session.live else { return Ok(()) };
        session.stats.part = part;
        if over > 0 && hurt != Hurt::Same {
            session.stats.active = true;
            if let Some(reclaimer) = &self.reclaimer {
                reclaimer.reclaim(live.cgroup(), over, &session.reclaimed);
            }
            session.stats.yielded += u64::from(live.yield_cpu()?);
        }
        if let (MemoryBackend::MemcgBpfOps, Some(hooks)) = (self.backend, &self.hooks) {
            hooks.set_part(live.id, part)?;
        }
        // One that is held already gets its new part, which may be larger.
        let slow = hurt == Hurt::Again && over > 0;
        if live.stuck_action.is_none() && (slow || live.is_held()?) && live.hold(part)? {
            session.stats.held += u64::from(slow);
        }
        Ok(())
    }

    /// Has the scheduler hold it back, where one is attached.
    fn brake(&mut self, i: usize) {
        let session = &mut self.sessions[i];
        let (Some(brake), Some(live)) = (self.brake.get(), &session.live) else { return };
        match brake.hold_back(live.cgroup(), self.config.window) {
            Ok(()) => {
                session.braked = true;
                session.stats.braked += 1;
            }
            // The scheduler has just gone, or the cgroup has no cpu controller.
            Err(e) => tracing::debug!("{e}"),
        }
    }

    fn freeze(&mut self, i: usize, now: Instant) {
        let session = &mut self.sessions[i];
        let Some(live) = session.live.as_ref().filter(|l| l.stuck_action.is_none()) else { return };
        if session.frozen.is_some() {
            return;
        }
        match live.freeze(true) {
            Ok(true) => session.frozen = Some((now + FROZEN, true)),
            Ok(false) => {}
            Err(e) => tracing::warn!("{e}"),
        }
    }

    /// The end of the time frozen, or of the time that has to pass before the next.
    fn thaw(&mut self, i: usize, frozen: bool, now: Instant) {
        let session = &mut self.sessions[i];
        session.frozen = None;
        let Some(live) = session.live.as_ref().filter(|_| frozen) else { return };
        if let Err(e) = live.freeze(false) {
            tracing::warn!("{e}");
        }
        session.stats.frozen_ms += FROZEN.as_millis() as u64;
        session.frozen = Some((now + THAWED, false));
    }

    fn end_window(&mut self, i: usize) {
        let now = Instant::now();
        let session = &mut self.sessions[i];
        if !session.window.is_open() {
            return;
        }
        let duration = session.window.close(now);
        if let Some(live) = &session.live {
            live.unprotect();
            if let Some(hooks) = &mut self.hooks {
                let _ = hooks.unprotect(live.id);
            }
        }
        session.stats.active = false;
        session.stats.protected_ms += duration.as_millis() as u64;
        tracing::info!(
            "protected {} for {:.1} s ({} stalls)",
            session.path.display(),
            duration.as_secs_f64(),
            session.stalls
        );
        let window = ProtectionWindow {
            started_at: SystemTime::now() - duration,
            duration,
            because_of: session.path.clone(),
            stalls: session.stalls,
        };
        let mut stats = self.stats.lock();
        stats.protected_ms += duration.as_millis() as u64;
        MemoryStats::push(&mut stats.recent, window);
    }

    /// Nobody hurts: the low ones get back what they had.
    fn release_low(&mut self) {
        if !std::mem::take(&mut self.holding) {
            return;
        }
        if let Some(hooks) = &mut self.hooks {
            hooks.release();
        }
        for session in self.sessions.iter_mut().filter(|s| s.role == MemoryRole::Low) {
            let Some(live) = &session.live else { continue };
            session.stats.active = false;
            if matches!(session.frozen, Some((_, true))) {
                session.stats.frozen_ms += FROZEN.as_millis() as u64;
            }
            session.frozen = None;
            if std::mem::take(&mut session.braked)
                && let Some(brake) = self.brake.get()
            {
                // It ends by itself too.
                let _ = brake.let_go(live.cgroup());
            }
            if live.stuck_action.is_none() {
                live.let_go();
            }
        }
    }

    // ---- stuck cgroups

    fn look_for_stuck(&mut self, i: usize, now: Instant) {
        let session = &mut self.sessions[i];
        let Some(live) = &mut session.live else { return };
        let Live { stuck, claim, .. } = live;
        let Some(mut found) = stuck.is_stuck(claim.cgroup(), self.config.stuck_after, now) else {
            return;
        };
        found.action = self.config.when_stuck;
        tracing::warn!(
            "{} stands still above its memory.high of {} bytes: {} events and {} ms of work in {:.1} s",
            found.cgroup.display(),
            found.memory_high,
            found.high_events,
            found.user.as_millis(),
            found.duration.as_secs_f64()
        );
        if let Err(e) = stuck::act(claim, found.action) {
            tracing::warn!("{e}");
            found.action = StuckAction::Report;
        }
        live.stuck_action = Some(found.action).filter(|a| *a != StuckAction::Report);
        MemoryStats::push(&mut self.stats.lock().stuck, found);
    }

    fn publish(&self) {
        let sessions = self
            .sessions
            .iter()
            .map(|session| {
                let mut stats = session.stats.clone();
                stats.reclaimed = session.reclaimed.load(Ordering::Relaxed);
                if let (Some(hooks), Some(live)) = (&self.hooks, &session.live) {
                    let counts = hooks.counts(live.id);
                    stats.calls = counts.calls;
                    stats.answered = counts.answered;
                    stats.delay_ms = counts.delay_ms;
                }
                stats
            })
            .collect();
        let mut stats = self.stats.lock();
        stats.active = self.is_active();
        stats.sessions = sessions;
    }
}
