//! [`Gate`]: the queue of a runtime, with threads that wait in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

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
}

impl Queue {
    fn admit(&mut self) -> bool {
        let admitted = self.admission.ready(Instant::now());
        let any = !admitted.is_empty();
        self.admitted.extend(admitted.into_iter().map(|a| a.ticket));
        any
    }
}

/// Room that a call takes up, until it is dropped.
#[derive(Debug)]
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
        self.gate.queue.lock().admission.remove_session(self.key);
        self.gate.wake();
    }
}

impl Gate {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        let queue = Queue { admission: Admission::new(capacity), admitted: HashSet::new() };
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
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Waits until a call of this session may start. `cancelled` is asked after each
    /// [`Gate::wake`].
    pub(crate) fn pass(
        &self,
        need: Need,
        timeout: Option<Duration>,
        cancelled: impl Fn() -> bool,
    ) -> Result<Pass> {
        if !self.bounded {
            return Ok(Pass(None));
        }
        let since = Instant::now();
        let mut queue = self.gate.queue.lock();
        let ticket = queue.admission.enqueue(self.key, need, since, timeout)?;
        loop {
            if queue.admit() {
                self.gate.changed.notify_all();
            }
            if queue.admitted.remove(&ticket) {
                return Ok(Pass(Some((self.gate.clone(), ticket))));
            }
            if cancelled() {
                queue.admission.cancel(ticket);
                drop(queue);
                // Who was behind it may fit.
                self.gate.wake();
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "cancelled while waiting for admission",
                ));
            }
            let until = timeout.and_then(|t| since.checked_add(t));
            if until.is_some_and(|until| until <= Instant::now()) {
                queue.admission.cancel(ticket);
                drop(queue);
                self.gate.wake();
                let waited = humantime::format_duration(timeout.unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_fit_at_once_and_all_in_the_end() {
        let gate = Gate::new(Capacity { calls: Some(3), ..Capacity::default() });
        let member = gate.join(Capacity::default(), Priority::Normal);
        let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| {
                    let _pass = member.pass(Need::default(), None, || false).unwrap();
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
        let held = member.pass(Need::default(), None, || false).unwrap();
        let late = member.pass(Need::default(), Some(Duration::from_millis(20)), || false);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        let cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope
                .spawn(|| member.pass(Need::default(), None, || cancelled.load(Ordering::SeqCst)));
            while gate.queue.lock().admission.waiting() == 0 {
                std::thread::yield_now();
            }
            cancelled.store(true, Ordering::SeqCst);
            gate.wake();
            assert!(waiting.join().unwrap().is_err());
        });
        drop(held);
        assert!(member.pass(Need::default(), None, || false).is_ok());
    }

    #[test]
    fn without_a_capacity_nobody_waits() {
        let gate = Gate::new(Capacity::default());
        let member = gate.join(Capacity::default(), Priority::Normal);
        let passes: Vec<_> =
            (0..100).map(|_| member.pass(Need::default(), None, || false).unwrap()).collect();
        assert!(passes.iter().all(|pass| pass.0.is_none()));
    }
}
