//! [`Gate`]: the queue of a runtime, with threads that wait in it.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

use super::{Admission, Capacity, Need, SessionKey, Ticket};
use crate::session::Priority;
use crate::{Error, ErrorKind, Result};

/// Where calls wait until there is room for them.
#[derive(Debug)]
pub(crate) struct Gate {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The runtime has a capacity; otherwise only the sessions may have one.
    bounded: bool,
}

#[derive(Debug)]
struct Queue {
    admission: Admission,
    /// Admitted, and not yet on their way.
    admitted: HashSet<Ticket>,
    /// Of places that someone polls.
    ready: HashMap<Ticket, Arc<OwnedFd>>,
}

impl Queue {
    fn admit(&mut self) -> bool {
        let admitted = self.admission.ready(Instant::now());
        for call in &admitted {
            self.admitted.insert(call.ticket);
            self.tell(call.ticket);
        }
        !admitted.is_empty()
    }

    fn tell(&self, ticket: Ticket) {
        if let Some(fd) = self.ready.get(&ticket) {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }
}

/// Room that a call takes up, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Pass(Option<(Arc<Gate>, Ticket)>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((gate, ticket)) = self.0.take() {
            gate.queue.lock().admission.release(ticket);
            gate.wake();
        }
    }
}

/// What a session is in the queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    gate: Arc<Gate>,
    key: SessionKey,
    bounded: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut queue = self.gate.queue.lock();
        for ticket in queue.admission.remove_session(self.key) {
            // Whoever waits for the place learns at the start of the call that the session is gone.
            queue.tell(ticket);
        }
        drop(queue);
        self.gate.wake();
    }
}

impl Gate {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        let queue = Queue {
            admission: Admission::new(capacity),
            admitted: HashSet::new(),
            ready: HashMap::new(),
        };
        Arc::new(Self {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            bounded: capacity != Capacity::default(),
        })
    }

    pub(crate) fn join(self: &Arc<Self>, capacity: Capacity, priority: Priority) -> Member {
        let key = self.queue.lock().admission.add_session(capacity, priority);
        Member { gate: self.clone(), key, bounded: self.bounded || capacity != Capacity::default() }
    }

    /// Lets the waiting threads look again.
    pub(crate) fn wake(&self) {
        let mut queue = self.queue.lock();
        queue.admit();
        self.changed.notify_all();
    }
}

impl Member {
    /// Takes the last place in the queue; `None` where there is no queue.
    pub(crate) fn enqueue(&self, need: Need, timeout: Option<Duration>) -> Result<Option<Place>> {
        if !self.bounded {
            return Ok(None);
        }
        let since = Instant::now();
        let ticket = self.gate.queue.lock().admission.enqueue(self.key, need, since, timeout)?;
        self.gate.wake();
        Ok(Some(Place { gate: self.gate.clone(), ticket, since, timeout }))
    }
}

/// A place in the queue for admission; made by [`Command::enqueue`](crate::Command::enqueue).
/// Dropping it gives it up.
#[derive(Debug)]
#[must_use = "dropping a place gives it up"]
pub struct Place {
    gate: Arc<Gate>,
    ticket: Ticket,
    since: Instant,
    timeout: Option<Duration>,
}

impl Place {
    /// A descriptor that is readable when the call may start, or never will because its session is
    /// gone. The [`queue_timeout`](crate::Command::queue_timeout) is not seen on it.
    ///
    /// # Errors
    /// Those of `eventfd`.
    pub fn ready_fd(&self) -> Result<Arc<OwnedFd>> {
        let mut queue = self.gate.queue.lock();
        if let Some(fd) = queue.ready.get(&self.ticket) {
            return Ok(fd.clone());
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::os("make", "an eventfd", e))?;
        let fd = Arc::new(fd);
        queue.ready.insert(self.ticket, fd.clone());
        if queue.admitted.contains(&self.ticket) {
            queue.tell(self.ticket);
        }
        Ok(fd)
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// When it was taken.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Waits until the call may start. `cancelled` is asked after each [`Gate::wake`].
    pub(crate) fn wait(self, cancelled: impl Fn() -> bool) -> Result<Pass> {
        let until = self.timeout.and_then(|t| self.since.checked_add(t));
        let mut queue = self.gate.queue.lock();
        loop {
            if queue.admitted.remove(&self.ticket) {
                return Ok(Pass(Some((self.gate.clone(), self.ticket))));
            }
            if !queue.admission.waiting.contains_key(&self.ticket) {
                return Err(Error::new(ErrorKind::NotFound, "the session is closed"));
            }
            if cancelled() {
                let message = "cancelled while waiting for admission";
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                let waited = humantime::format_duration(self.timeout.unwrap_or_default());
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("not admitted within {waited}: other calls hold the capacity"),
                )
                .or_help("wait for them, ask for less, or allow a longer queue time"));
            }
            match until {
                Some(until) => drop(self.gate.changed.wait_until(&mut queue, until)),
                None => self.gate.changed.wait(&mut queue),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.gate.queue.lock();
        queue.ready.remove(&self.ticket);
        // Unless it has become a pass.
        let waiting = queue.admission.cancel(self.ticket);
        let admitted = queue.admitted.remove(&self.ticket);
        if admitted {
            queue.admission.release(self.ticket);
        }
        drop(queue);
        if waiting || admitted {
            // Who was behind it may fit.
            self.gate.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn pass(
        member: &Member,
        timeout: Option<Duration>,
        cancelled: impl Fn() -> bool,
    ) -> Result<Pass> {
        match member.enqueue(Need::default(), timeout)? {
            Some(place) => place.wait(cancelled),
            None => Ok(Pass::default()),
        }
    }

    #[test]
    fn no_more_than_fit_at_once_and_all_in_the_end() {
        let gate = Gate::new(Capacity { calls: Some(3), ..Capacity::default() });
        let member = gate.join(Capacity::default(), Priority::Normal);
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| {
                    let _pass = pass(&member, None, || false).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    now.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!((most.into_inner(), done.into_inner()), (3, 24));
    }

    #[test]
    fn waiting_ends_by_time_and_by_cancelling() {
        let gate = Gate::new(Capacity { calls: Some(1), ..Capacity::default() });
        let member = gate.join(Capacity::default(), Priority::Normal);
        let held = pass(&member, None, || false).unwrap();
        let late = pass(&member, Some(Duration::from_millis(20)), || false);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        let cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pass(&member, None, || cancelled.load(Ordering::SeqCst)));
            while gate.queue.lock().admission.waiting() == 0 {
                std::thread::yield_now();
            }
            cancelled.store(true, Ordering::SeqCst);
            gate.wake();
            assert!(waiting.join().unwrap().is_err());
        });
        drop(held);
        assert!(pass(&member, None, || false).is_ok());
    }

    #[test]
    fn without_a_capacity_nobody_waits() {
        let gate = Gate::new(Capacity::default());
        let member = gate.join(Capacity::default(), Priority::Normal);
        let passes: Vec<_> = (0..100).map(|_| pass(&member, None, || false).unwrap()).collect();
        assert!(passes.iter().all(|pass| pass.0.is_none()));
    }

    #[test]
    fn a_place_can_be_polled_and_given_up() {
        let gate = Gate::new(Capacity { calls: Some(1), ..Capacity::default() });
        let member = gate.join(Capacity::default(), Priority::Normal);
        let place = || member.enqueue(Need::default(), None).unwrap().unwrap();
        let readable = |fd: &OwnedFd| rustix::io::read(fd, &mut [0; 8]).is_ok();
        let first = place();
        assert!(readable(&first.ready_fd().unwrap()));
        let (second, third) = (place(), place());
        let (second_fd, third_fd) = (second.ready_fd().unwrap(), third.ready_fd().unwrap());
        assert!(!readable(&second_fd) && !readable(&third_fd));
        // Given up while waiting, after admission, and as a pass.
        drop(second);
        assert!(!readable(&third_fd));
        drop(first);
        assert!(readable(&third_fd));
        let pass = third.wait(|| false).unwrap();
        let last = place();
        let fd = last.ready_fd().unwrap();
        assert!(!readable(&fd));
        drop(pass);
        assert!(readable(&fd));
        drop(last);
        let queue = gate.queue.lock();
        assert_eq!((queue.admission.waiting(), queue.admission.started()), (0, 0));
        assert!(queue.ready.is_empty() && queue.admitted.is_empty());
    }

    #[test]
    fn the_end_of_the_session_is_seen_by_who_polls() {
        let gate = Gate::new(Capacity { calls: Some(1), ..Capacity::default() });
        let member = gate.join(Capacity::default(), Priority::Normal);
        let held = member.enqueue(Need::default(), None).unwrap().unwrap();
        let waiting = member.enqueue(Need::default(), None).unwrap().unwrap();
        let fd = waiting.ready_fd().unwrap();
        drop(member);
        assert!(rustix::io::read(&fd, &mut [0; 8]).is_ok());
        drop((held, waiting));
        assert_eq!(gate.queue.lock().admission.started(), 0);
    }
}
