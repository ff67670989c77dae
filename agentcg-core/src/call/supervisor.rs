//! The thread that watches over the calls of a runtime: one `epoll` for all of them.
//!
//! It sleeps until a process ends, a pipe moves, a cgroup becomes empty or a time is over. A caller
//! waits on the [`Slot`] of its call.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::process::Signal;

use super::outcome::{Outcome, Stopped};
use super::running::{Next, Running, Source};
use super::usage::Usage;
use crate::runtime::check_process;
use crate::{Error, Result};

/// Where a call's outcome appears.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Outcome>,
    /// What it used in the end: there as soon as it is over, also when the outcome has been taken.
    usage: Option<Usage>,
    /// Made when someone wants to poll.
    ready: Option<Arc<OwnedFd>>,
}

impl Slot {
    pub(super) fn set(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        state.usage = Some(outcome.usage.clone());
        state.outcome = Some(outcome);
        if let Some(fd) = &state.ready {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
        self.changed.notify_all();
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        self.state.lock().usage.clone()
    }

    /// Waits until it is there, or the time is over.
    pub(super) fn wait(&self, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.usage.is_none() {
            match until {
                Some(until) => {
                    if self.changed.wait_until(&mut state, until).timed_out() {
                        return state.usage.is_some();
                    }
                }
                None => self.changed.wait(&mut state),
            }
        }
        true
    }

    /// Waits for it and takes it; only the one handle of a call does so.
    pub(super) fn take(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            self.changed.wait(&mut state);
        }
    }

    pub(super) fn ready(&self) -> Result<Arc<OwnedFd>> {
        let mut state = self.state.lock();
        if let Some(fd) = &state.ready {
            return Ok(fd.clone());
        }
        let fd =
            eventfd(state.usage.is_some().into(), EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| Error::os("make", "an eventfd", e))?;
        let fd = Arc::new(fd);
        state.ready = Some(fd.clone());
        Ok(fd)
    }
}

/// What the thread is told.
enum Message {
    Start(u64, Box<Running>, Arc<Slot>),
    Stop { id: u64, why: Stopped, signal: Signal, grace: Option<Duration> },
    Quit,
}

/// The way to the thread.
pub(crate) struct Inbox {
    epoll: OwnedFd,
    wake: OwnedFd,
    messages: Mutex<Vec<Message>>,
    next: AtomicU64,
    /// A forked child has the memory but not the thread.
    process: u32,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    pub(super) fn check_process(&self) -> Result<()> {
        check_process(self.process)
    }

    fn send(&self, message: Message) {
        self.messages.lock().push(message);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn start(&self, running: Running, slot: Arc<Slot>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Start(id, Box::new(running), slot));
        id
    }

    /// Ends a call by a signal: with its own grace, or the one given.
    pub(super) fn stop(&self, id: u64, why: Stopped, signal: Signal, grace: Option<Duration>) {
        // In a forked child there is no thread, and the call is not its own.
        if self.check_process().is_err() {
            return;
        }
        self.send(Message::Stop { id, why, signal, grace });
    }
}

/// The thread. Dropped, it ends; the sessions have seen to it that no call is left.
#[derive(Debug)]
pub(crate) struct Supervisor {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    pub(crate) fn start() -> Result<Self> {
        let failed = |e: Errno| Error::os("make", "an epoll instance", e);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(failed)?;
        let inbox = Arc::new(Inbox {
            epoll,
            wake,
            messages: Mutex::default(),
            next: AtomicU64::new(0),
            process: std::process::id(),
        });
        let theirs = inbox.clone();
        // Whoever started it hears its warnings too.
        let log = tracing::dispatcher::get_default(Clone::clone);
        let thread = std::thread::Builder::new()
            .name("agentcg-calls".into())
            .spawn(move || {
                let watch = Watch { inbox: theirs, calls: HashMap::new(), times: BTreeSet::new() };
                tracing::dispatcher::with_default(&log, || watch.run());
            })
            .map_err(|e| Error::os("start", "the thread for tool calls", e))?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// The way to the thread, unless this is a forked child.
    pub(super) fn inbox(&self) -> Result<&Arc<Inbox>> {
        self.inbox.check_process()?;
        Ok(&self.inbox)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.inbox().is_ok() {
            self.inbox.send(Message::Quit);
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

const WAKE: u64 = u64::MAX;

/// The thread's state.
struct Watch {
    inbox: Arc<Inbox>,
    calls: HashMap<u64, (Running, Arc<Slot>)>,
    times: BTreeSet<(Instant, u64)>,
}

impl Drop for Watch {
    /// Whoever waits for a call that is left, for it cannot be killed, is told.
    fn drop(&mut self) {
        for (_, (call, slot)) in self.calls.drain() {
            slot.set(call.finish());
        }
    }
}

impl Watch {
    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            let left =
                self.times.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            events.clear();
            match epoll::wait(
                &self.inbox.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    // Only a bug can cause it.
                    tracing::error!("tool calls are not watched any more: epoll_wait: {e}");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let mut count = [0; 8];
                        let _ = rustix::io::read(&self.inbox.wake, &mut count);
                        let messages = std::mem::take(&mut *self.inbox.messages.lock());
                        for message in messages {
                            if !self.on_message(message) {
                                return;
                            }
                        }
                    }
                    data => {
                        if let Some(source) = Source::ALL.get((data & 7) as usize) {
                            self.act(data >> 3, |call| call.on_event(*source));
                        }
                    }
                }
            }
            let now = Instant::now();
            while let Some((at, id)) = self.times.first().copied()
                && at <= now
            {
                self.times.pop_first();
                self.act(id, |call| call.on_time(now));
            }
        }
    }

    /// False: the thread is to end.
    fn on_message(&mut self, message: Message) -> bool {
        match message {
            Message::Start(id, mut call, slot) => {
                call.begin();
                for source in Source::ALL {
                    if let Err(e) = self.watch(id, &call, source) {
                        tracing::error!("call {}: epoll_ctl: {e}", call.plan.call);
                    }
                }
                self.calls.insert(id, (*call, slot));
                self.act(id, |_| Next::Wait);
            }
            Message::Stop { id, why, signal, grace } => self.act(id, |call| {
                let grace = grace.unwrap_or(call.plan.grace);
                call.stop(why, signal, grace);
                Next::Wait
            }),
            Message::Quit => return false,
        }
        true
    }

    fn watch(&self, id: u64, call: &Running, source: Source) -> Result<(), Errno> {
        match call.fd(source) {
            Some(fd) => epoll::add(
                &self.inbox.epoll,
                fd,
                EventData::new_u64((id << 3) | source as u64),
                source.flags(),
            ),
            None => Ok(()),
        }
    }

    fn forget(&self, call: &mut Running, source: Source) {
        if let Some(fd) = call.fd(source) {
            let _ = epoll::delete(&self.inbox.epoll, fd);
        }
        call.close(source);
    }

    /// Lets a call act, and keeps the books.
    fn act(&mut self, id: u64, act: impl FnOnce(&mut Running) -> Next) {
        let Some((mut call, slot)) = self.calls.remove(&id) else { return };
        if let Some(at) = call.deadline() {
            self.times.remove(&(at, id));
        }
        match act(&mut call) {
            Next::Finish => {
                for source in Source::ALL {
                    self.forget(&mut call, source);
                }
                return slot.set(call.finish());
            }
            Next::Watch(source) => {
                let _ = epoll::delete(&self.inbox.epoll, call.pidfd.as_fd());
                if let Err(e) = self.watch(id, &call, source) {
                    tracing::error!("call {}: epoll_ctl: {e}", call.plan.call);
                }
            }
            Next::Forget(source) => self.forget(&mut call, source),
            Next::Wait => {}
        }
        if let Some(at) = call.deadline() {
            self.times.insert((at, id));
        }
        self.calls.insert(id, (call, slot));
    }
}
