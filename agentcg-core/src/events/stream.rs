use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use parking_lot::Mutex;
use serde::Serialize;

use super::EventFilter;
use super::decode::{Record, decode};
use super::monitor::{Loss, Subscription};
use super::names::CgroupNames;
use super::types::{DropReason, Dropped, Event};
use crate::bpf::libbpf;
use crate::{Error, Result};

/// Records taken from the ring at most before events are handed out.
const BATCH: usize = 512;
/// How often the kernel is asked at most whether it skipped a probe: that takes system calls.
const SKIPPED_INTERVAL: Duration = Duration::from_millis(50);

/// A probe that could not be attached; the others work.
#[derive(Debug)]
pub struct MissingProbe {
    /// What is missing.
    pub what: &'static str,
    /// Why.
    pub error: Error,
}

/// What a stream has delivered and what was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventStats {
    /// Events delivered, [`Event::Dropped`] left out.
    pub received: u64,
    /// Lost because the ring buffer was full.
    pub ring_full: u64,
    /// File events beyond the rate limit.
    pub rate_limited: u64,
    /// Delivered, with a path or arguments missing.
    pub read_fault: u64,
    /// Processes and opens for which the kernel had no memory.
    pub map_full: u64,
    /// Runs of a probe that the kernel skipped.
    pub recursion: u64,
}

impl EventStats {
    /// Events that were not delivered.
    pub fn dropped(&self) -> u64 {
        self.ring_full + self.rate_limited + self.map_full + self.recursion
    }
}

/// The events of a filter, in the order in which the kernel wrote them.
///
/// An iterator that blocks; [`AsFd`] gives a descriptor that is readable when events wait, for
/// `poll`, `epoll` or asyncio, with [`try_next`](Self::try_next). All streams of a process share one
/// set of probes, each with a filter and a buffer of its own, at most 16. Dropping one detaches what
/// no other needs.
#[must_use = "dropping the stream detaches its probes"]
pub struct EventStream {
    // Order matters: the ring is read through a descriptor of the subscription.
    ring: RingBuffer<'static>,
    queue: Arc<Mutex<VecDeque<Record>>>,
    /// Taken from `queue` in one go.
    batch: VecDeque<Record>,
    subscription: Subscription,
    reported: Loss,
    skipped_reported: u64,
    skipped_read: Instant,
    received: u64,
    names: CgroupNames,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("missing", &self.missing()).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Subscribes. `sessions_root` is the cgroup whose children are sessions. Needs CAP_BPF and
    /// CAP_PERFMON (or root) and BTF; kernel 6.4.
    ///
    /// # Errors
    /// `InvalidInput` for a filter that cannot be; `PermissionDenied`; `Bpf`; `NotFound` for a
    /// cgroup or pid that does not exist; `Busy` at the 17th stream.
    pub fn open(filter: &EventFilter, sessions_root: Option<&Path>) -> Result<Self> {
        filter.check()?;
        let subscription = Subscription::new(filter)?;
        // After the subscription: a cgroup made now is either walked or named in the ring.
        let names = CgroupNames::new(sessions_root);
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let ring = ring(&subscription, queue.clone())?;
        Ok(Self {
            ring,
            queue,
            batch: VecDeque::new(),
            subscription,
            reported: Loss::default(),
            skipped_reported: 0,
            skipped_read: Instant::now(),
            received: 0,
            names,
        })
    }

    /// Probes that could not be attached, and why; everything else is delivered.
    pub fn missing(&self) -> &[MissingProbe] {
        &self.subscription.missing
    }

    /// What was delivered and lost so far.
    ///
    /// # Errors
    /// `Bpf` when the kernel's counters cannot be read.
    pub fn stats(&self) -> Result<EventStats> {
        let loss = self.subscription.loss();
        Ok(EventStats {
            received: self.received,
            ring_full: loss.ring_full,
            rate_limited: loss.rate_limited,
            read_fault: loss.read_fault,
            map_full: loss.map_full,
            recursion: self.subscription.skipped()?,
        })
    }

    /// The next event if one waits; never blocks.
    ///
    /// # Errors
    /// `Bpf` when the ring buffer cannot be read.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.pop() {
            return Ok(Some(event));
        }
        self.drain()?;
        Ok(self.pop())
    }

    /// The next event, waiting for it at most so long.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(left)?;
        }
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // poll(2) takes 32 bits of ms in older kernels; an hour is as good as for ever in a loop.
        let timeout = timeout.min(Duration::from_secs(3600));
        let spec = Timespec::try_from(timeout).ok();
        match poll(&mut [PollFd::new(self, PollFlags::IN)], spec.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(Error::os("poll", "the event ring buffer", e)),
        }
    }

    fn pop(&mut self) -> Option<Event> {
        loop {
            match self.batch.pop_front()? {
                Record::Cgroup(id, path) => self.names.made(id, &path),
                Record::Event(mut event) => {
                    self.names.complete(&mut event);
                    self.received += u64::from(!matches!(event, Event::Dropped(_)));
                    return Some(event);
                }
            }
        }
    }

    fn newly_skipped(&mut self) -> Result<u64> {
        if self.skipped_read.elapsed() < SKIPPED_INTERVAL {
            return Ok(0);
        }
        self.skipped_read = Instant::now();
        let now = self.subscription.skipped()?.max(self.skipped_reported);
        Ok(now - std::mem::replace(&mut self.skipped_reported, now))
    }

    /// Takes a batch from the ring, then looks whether the kernel had to drop something.
    fn drain(&mut self) -> Result<()> {
        let n = self.ring.consume_raw_n(BATCH);
        if n < 0 {
            return Err(Error::os(
                "read",
                "the event ring buffer",
                std::io::Error::from_raw_os_error(-n),
            ));
        }
        std::mem::swap(&mut self.batch, &mut self.queue.lock());
        if n > 0 {
            self.subscription.taken();
        }
        let now = self.subscription.loss();
        let before = std::mem::replace(&mut self.reported, now);
        for (count, reason) in [
            (now.ring_full - before.ring_full, DropReason::RingFull),
            (now.rate_limited - before.rate_limited, DropReason::RateLimited),
            (now.read_fault - before.read_fault, DropReason::ReadFault),
            (now.map_full - before.map_full, DropReason::MapFull),
            (self.newly_skipped()?, DropReason::Recursion),
        ] {
            if count > 0 {
                self.batch.push_back(Record::Event(Event::Dropped(Dropped { count, reason })));
            }
        }
        Ok(())
    }
}

impl Iterator for EventStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_timeout(Duration::MAX / 4).transpose()
    }
}

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libbpf keeps the epoll descriptor open as long as the ring lives, as does `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

fn ring(
    subscription: &Subscription,
    queue: Arc<Mutex<VecDeque<Record>>>,
) -> Result<RingBuffer<'static>> {
    let page_size = rustix::param::page_size() as u64;
    let mut builder = RingBufferBuilder::new();
    builder
        .add(&subscription.ring, move |bytes: &[u8]| {
            match decode(bytes, page_size) {
                Some(record) => queue.lock().push_back(record),
                None => tracing::warn!("a record of {} bytes is of no known kind", bytes.len()),
            }
            0
        })
        .map_err(libbpf("open the ring buffer"))?;
    builder.build().map_err(libbpf("open the ring buffer"))
}
