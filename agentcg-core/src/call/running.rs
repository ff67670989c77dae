//! One call from the moment its process runs until its cgroup is gone: a state machine that the
//! supervisor drives by what the kernel reports.
//!
//! | state | what comes | what is done |
//! |---|---|---|
//! | running | its main process has ended | `cgroup.kill` for what is left of it |
//! | running | timeout, cancel | SIGTERM to all of it, after the grace `cgroup.kill` |
//! | ending | `cgroup.events` says empty, or the wait for it is over | measure, decide, remove the cgroup |

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::evidence::{Baseline, End};
use super::outcome::{Ended, Outcome, Sample, Stopped, Survivor};
use super::stdio::{Collect, Feed};
use super::usage::Ahead;
use super::{US, processes};
use crate::admission::Pass;
use crate::cgroup::Cgroup;
use crate::limits::Limits;
use crate::session::{Calls, killed_by};

/// The time line is halved when it is longer than this.
const MAX_SAMPLES: usize = 4096;
/// Who interrupts a call wants to go on soon.
const INTERRUPTED_GRACE: Duration = Duration::from_millis(250);

/// What the kernel may report about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Source {
    /// The main process has ended.
    Exit = 0,
    /// Standard input takes more.
    Stdin = 1,
    /// Standard output has something.
    Stdout = 2,
    /// Standard error has something.
    Stderr = 3,
    /// `cgroup.events` has changed.
    Events = 4,
}

impl Source {
    pub(super) const ALL: [Source; 5] =
        [Source::Exit, Source::Stdin, Source::Stdout, Source::Stderr, Source::Events];

    fn poll_flags(self) -> PollFlags {
        match self {
            Source::Stdin => PollFlags::OUT,
            Source::Events => PollFlags::PRI,
            _ => PollFlags::IN,
        }
    }

    /// The same bits for `epoll`.
    pub(super) fn flags(self) -> EventFlags {
        EventFlags::from_bits_truncate(self.poll_flags().bits().into())
    }
}

/// What was asked for, as far as it concerns the course of the call.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub call: String,
    pub command: Vec<String>,
    pub hint: Option<String>,
    pub limits: Limits,
    pub notes: Vec<String>,
    pub timeout: Option<Duration>,
    pub grace: Duration,
    pub teardown: Duration,
    pub background: bool,
    pub sample: Option<Duration>,
}

/// A call that has been started.
#[derive(Debug)]
pub(super) struct Running {
    pub plan: Plan,
    pub calls: Arc<Calls>,
    pub cgroup: Arc<Cgroup>,
    /// `cgroup.events`, locked: says that the call has an owner, until it is gone.
    pub lock: OwnedFd,
    pub pidfd: OwnedFd,
    pub before: Baseline,
    /// Files for the end.
    pub ahead: Ahead,
    pub presence: crate::session::Presence,
    /// Room in the queue.
    pub pass: Pass,
    pub started: Instant,
    pub started_at: SystemTime,
    pub queued: Duration,
    pub input: Option<Feed>,
    pub capture: [Option<Collect>; 2],
    pub end: Ending,
}

/// How far the end has come.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub stopped: Option<Stopped>,
    /// When SIGTERM becomes `cgroup.kill`.
    kill_at: Option<Instant>,
    ended: Option<(Ended, Option<u64>, Duration)>,
    /// `cgroup.events`, once something was left to be killed; and until when it is waited for.
    events: Option<OwnedFd>,
    give_up_at: Option<Instant>,
    killed: u32,
    background: Vec<i32>,
    survivors: Vec<Survivor>,
    timeline: Vec<Sample>,
    interval: Duration,
    sample_at: Option<Instant>,
}

/// What the supervisor has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for more.
    Wait,
    /// Wait, and for a new source too.
    Watch(Source),
    /// This source is done with.
    Forget(Source),
    /// The call is over: [`Running::finish`].
    Finish,
}

impl Running {
    /// The descriptor behind a source, and whether it is to be watched from the start.
    pub(super) fn fd(&self, source: Source) -> Option<BorrowedFd<'_>> {
        match source {
            Source::Exit => Some(self.pidfd.as_fd()),
            Source::Stdin => self.input.as_ref().map(|f| f.fd.as_fd()),
            Source::Stdout => self.capture[0].as_ref().map(|c| c.fd.as_fd()),
            Source::Stderr => self.capture[1].as_ref().map(|c| c.fd.as_fd()),
            Source::Events => self.end.events.as_ref().map(|f| f.as_fd()),
        }
    }

    /// The next moment at which [`on_time`](Self::on_time) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = match self.end.stopped {
            None if self.end.ended.is_none() => self.plan.timeout.map(|t| self.started + t),
            _ => None,
        };
        let times = [timeout, self.end.kill_at, self.end.give_up_at, self.end.sample_at];
        times.into_iter().flatten().min()
    }

    /// A source is done with. Output that was kept stays, with its descriptor, until the end.
    pub(super) fn close(&mut self, source: Source) {
        if source == Source::Stdin {
            self.input = None;
        }
    }

    /// Starts the time line.
    pub(super) fn begin(&mut self) {
        if let Some(every) = self.plan.sample {
            self.end.interval = every;
            self.sample();
        }
    }

    pub(super) fn on_event(&mut self, source: Source) -> Next {
        match source {
            Source::Exit => self.on_exit(),
            Source::Stdin => self.feed(),
            Source::Stdout => self.collect(0),
            Source::Stderr => self.collect(1),
            Source::Events => self.on_events(),
        }
    }

    pub(super) fn on_time(&mut self, now: Instant) -> Next {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.end.sample_at) {
            self.sample();
        }
        if due(self.end.give_up_at) {
            self.end.survivors = processes::survivors(&self.cgroup);
            return Next::Finish;
        }
        if due(self.end.kill_at) {
            self.end.kill_at = None;
            self.kill();
        } else if let Some(timeout) = self.plan.timeout
            && self.end.stopped.is_none()
            && self.end.ended.is_none()
            && due(Some(self.started + timeout))
        {
            self.stop(Stopped::TimedOut(timeout), Signal::TERM, self.plan.grace);
        }
        Next::Wait
    }

    /// A signal to all of it now, SIGKILL after the grace.
    pub(super) fn stop(&mut self, why: Stopped, signal: Signal, grace: Duration) {
        if self.end.ended.is_some() {
            return;
        }
        self.end.stopped.get_or_insert(why);
        let kill_at = Instant::now() + grace;
        if grace.is_zero() {
            self.end.kill_at = None;
            self.kill();
        } else if self.end.kill_at.is_none_or(|at| kill_at < at) {
            self.end.kill_at = Some(kill_at);
            processes::signal_all(&self.cgroup, signal);
        }
    }

    /// Whoever killed the cgroup when it was still empty has not met the process; the note is from
    /// before the kill.
    pub(super) fn kill_if_killed_before(&self) {
        if killed_by(&self.cgroup).is_some() {
            self.kill();
        }
    }

    fn kill(&self) {
        if let Err(e) = self.cgroup.kill() {
            tracing::warn!("call {}: {e}", self.plan.call);
        }
    }

    fn on_exit(&mut self) -> Next {
        let duration = self.started.elapsed();
        let (ended, max_rss) = super::reap(&self.pidfd);
        self.end.ended = Some((ended, max_rss, duration));
        self.end.kill_at = None;
        if !self.populated() {
            return Next::Finish;
        }
        if self.plan.background && self.end.stopped.is_none() {
            self.end.background = self.calls.move_to_background(&self.cgroup);
            if !self.populated() {
                return Next::Finish;
            }
        }
        // Armed before the kill, so that no change is missed.
        match self.cgroup.open_file("cgroup.events", rustix::fs::OFlags::RDONLY) {
            Ok(fd) => self.end.events = Some(fd),
            Err(e) => {
                tracing::warn!("call {}: {e}", self.plan.call);
                return Next::Finish;
            }
        }
        self.end.killed = processes::count(&self.cgroup);
        self.kill();
        self.end.give_up_at = Some(Instant::now() + self.plan.teardown);
        match self.on_events() {
            Next::Wait => Next::Watch(Source::Events),
            next => next,
        }
    }

    fn on_events(&self) -> Next {
        // Reading arms the notification.
        match &self.end.events {
            Some(events) if populated(events) => Next::Wait,
            _ => Next::Finish,
        }
    }

    fn populated(&self) -> bool {
        populated(&self.lock)
    }

    fn feed(&mut self) -> Next {
        let Some(feed) = &mut self.input else { return Next::Forget(Source::Stdin) };
        loop {
            match feed.write() {
                Ok(n) => feed.written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Next::Wait,
                // The reader is gone: that is its business.
                Err(_) => break,
            }
            if feed.written == feed.bytes.len() {
                break;
            }
        }
        Next::Forget(Source::Stdin)
    }

    fn collect(&mut self, which: usize) -> Next {
        let source = [Source::Stdout, Source::Stderr][which];
        let Some(collect) = &mut self.capture[which] else { return Next::Forget(source) };
        let mut buf = [0; 64 << 10];
        loop {
            match rustix::io::read(&collect.fd, &mut buf) {
                Ok(0) => return Next::Forget(source),
                Ok(n) => collect.kept.push(&buf[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Next::Wait,
                Err(_) => return Next::Forget(source),
            }
            // A call that writes without end must not keep the others waiting.
            if self.end.ended.is_none() {
                return Next::Wait;
            }
        }
    }

    fn sample(&mut self) {
        let end = &mut self.end;
        if end.timeline.len() >= MAX_SAMPLES {
            let mut keep = false;
            end.timeline.retain(|_| {
                keep = !keep;
                keep
            });
            end.interval *= 2;
        }
        end.timeline.push(Sample {
            at_ms: self.started.elapsed().as_millis() as u64,
            cpu_us: self.cgroup.cpu_stat().map_or(0, |s| s.usage_usec),
            memory_bytes: self.cgroup.memory_current().ok(),
            memory_stall_us: self.cgroup.memory_pressure().ok().map(|p| p.some.total_usec),
            pids: self.cgroup.read("pids.current").ok().and_then(|t| t.trim().parse().ok()),
        });
        // From now, not from when it was due: a machine that cannot keep up gets fewer.
        end.sample_at = Some(Instant::now() + end.interval);
    }

    /// Measures, decides and removes the cgroup.
    pub(super) fn finish(mut self) -> Outcome {
        // All writers that we know are dead, so what is in the pipes is all there will be.
        let [_, _] = [self.collect(0), self.collect(1)];
        if self.plan.sample.is_some() {
            self.sample();
        }
        let (ended, max_rss_bytes, duration) = self.end.ended.take().unwrap_or_else(|| {
            (Ended::Unknown("it did not end".into()), None, self.started.elapsed())
        });
        let mut outcome = End {
            plan: self.plan,
            calls: &self.calls,
            cgroup: &self.cgroup,
            before: &self.before,
            ahead: self.ahead,
            ended,
            stopped: self.end.stopped.take(),
            alone: self.calls.was_alone(&self.presence),
            started_at: self.started_at,
            duration,
            queued: self.queued,
            max_rss_bytes,
        }
        .conclude();
        let [stdout, stderr] = self.capture.map(|c| c.map(|c| c.kept.finish()));
        (outcome.stdout, outcome.stderr) = (stdout, stderr);
        outcome.killed_processes = self.end.killed;
        outcome.background = self.end.background;
        outcome.survivors = self.end.survivors;
        outcome.timeline = self.end.timeline;
        if let Err(e) = self.calls.remove(&self.cgroup) {
            tracing::warn!("call {} stays: {e}", outcome.call);
        }
        drop(self.presence);
        drop(self.pass);
        outcome
    }

    /// Sees it through to its end in the calling thread, without a supervisor. `interrupted` is asked
    /// after a signal handler has run: true ends the call.
    pub(super) fn run(mut self, interrupted: &mut dyn FnMut() -> bool) -> Outcome {
        let mut sources = Source::ALL.to_vec();
        self.begin();
        // Not in a crowd, which would have many descriptors then.
        if self.presence.was_alone_at_start() {
            self.ahead = Ahead::open(&self.cgroup, self.calls.controllers());
        }
        // A signal that came while it was started has been handled by now.
        let mut ask = true;
        loop {
            if std::mem::take(&mut ask) && interrupted() {
                let grace = self.plan.grace.min(INTERRUPTED_GRACE);
                self.stop(Stopped::Cancelled(US.into()), Signal::TERM, grace);
            }
            let next = match self.poll(&sources) {
                Ok(Some(source)) => self.on_event(source),
                Ok(None) => self.on_time(Instant::now()),
                Err(Errno::INTR) => {
                    ask = true;
                    Next::Wait
                }
                Err(e) => {
                    tracing::error!("call {}: poll: {e}", self.plan.call);
                    self.kill();
                    Next::Finish
                }
            };
            match next {
                Next::Finish => return self.finish(),
                Next::Forget(source) => {
                    self.close(source);
                    sources.retain(|s| *s != source);
                }
                // The process has ended; now its cgroup is waited for.
                Next::Watch(_) => sources.retain(|s| *s != Source::Exit),
                Next::Wait => {}
            }
        }
    }

    /// What comes first; `None` when a time is over.
    fn poll(&self, sources: &[Source]) -> Result<Option<Source>, Errno> {
        let left = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let watched: Vec<_> =
            sources.iter().filter_map(|s| self.fd(*s).map(|fd| (*s, fd))).collect();
        let mut fds: Vec<_> =
            watched.iter().map(|(s, fd)| PollFd::from_borrowed_fd(*fd, s.poll_flags())).collect();
        poll(&mut fds, timeout.as_ref())?;
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        Ok(ready.map(|i| watched[i].0))
    }
}

/// What `cgroup.events` says.
fn populated(events: &OwnedFd) -> bool {
    let mut buf = [0; 64];
    match rustix::io::pread(events, &mut buf, 0) {
        Ok(n) => !buf[..n].starts_with(b"populated 0"),
        // Else it has been removed, so it is empty.
        Err(e) => e != Errno::NODEV,
    }
}
