//! [`Admission`]: a queue in which tool calls wait until what they need is free.
//!
//! It holds no thread and no clock: the caller says what happened and when, and asks who may start.
//!
//! | call | when |
//! |---|---|
//! | [`enqueue`](Admission::enqueue) | a call comes |
//! | [`release`](Admission::release) | a call that had started has ended |
//! | [`cancel`](Admission::cancel), [`remove_session`](Admission::remove_session) | a waiting call is not wanted any more |
//! | [`expire`](Admission::expire) | at [`next_deadline`](Admission::next_deadline) |
//! | [`ready`](Admission::ready) | after each of them |
//!
//! # Who is next
//!
//! | between | rule |
//! |---|---|
//! | calls of one session | first come, first served: a call waits for those before it, however small it is |
//! | sessions | by turns; a session of high priority gets three for the two of a normal and the one of a low one |
//! | a call whose session has no room | it waits for its own session's calls only; other sessions go on |
//! | a big call and the runtime's room | smaller calls of other sessions may pass it [`MAX_PASSED`](Admission::MAX_PASSED) times; then nobody whose turn is later starts until it fits |
//!
//! So as long as calls end, every call starts: only finitely many go before it.

mod gate;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::session::Priority;
use crate::units::size_in_words;
use crate::{Error, ErrorKind, Result};

pub use gate::Place;
pub(crate) use gate::{Gate, Member as GateMember, Pass};

/// What the calls of a session, or of all sessions of a runtime, may need together. What is `None`
/// is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Capacity {
    /// Bytes.
    pub memory: Option<u64>,
    /// Cores, to the thousandth.
    pub cpus: Option<f64>,
    /// Calls at the same time.
    pub calls: Option<usize>,
}

/// What one call needs. What is `None` counts as nothing: such a call waits for
/// [`Capacity::calls`] only.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Need {
    /// Bytes.
    pub memory: Option<u64>,
    /// Cores, to the thousandth.
    pub cpu: Option<f64>,
}

/// A call needs what its limits let it have.
impl From<&Limits> for Need {
    fn from(limits: &Limits) -> Self {
        Self { memory: limits.memory_max.and_then(|m| m.value()), cpu: limits.cpu_max }
    }
}

/// A session in an [`Admission`]; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(u64);

/// A call in an [`Admission`], waiting or started; never given twice, later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A call that may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its ticket, for [`Admission::release`].
    pub ticket: Ticket,
    /// How long it was in the queue.
    pub waited: Duration,
}

/// The queue of one runtime.
///
/// ```
/// use std::time::{Duration, Instant};
/// use agentcg_core::{Admission, Capacity, Need, Priority};
///
/// let mut capacity = Capacity::default();
/// capacity.memory = Some(4 << 30);
/// let mut queue = Admission::new(capacity);
/// let session = queue.add_session(Capacity::default(), Priority::Normal);
///
/// let now = Instant::now();
/// let need = Need { memory: Some(3 << 30), cpu: None };
/// let first = queue.enqueue(session, need, now, None)?;
/// let second = queue.enqueue(session, need, now, None)?;
/// assert_eq!(queue.ready(now)[0].ticket, first);
///
/// queue.release(first);
/// let started = queue.ready(now + Duration::from_secs(2));
/// assert_eq!((started[0].ticket, started[0].waited.as_secs()), (second, 2));
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Admission {
    runtime: Room,
    sessions: BTreeMap<SessionKey, Member>,
    /// Of the calls that wait; those that have started are in `started`.
    waiting: HashMap<Ticket, SessionKey>,
    started: HashMap<Ticket, (SessionKey, Amount)>,
    /// Of tickets and keys.
    next: u64,
    /// The turn of the session that was served last.
    turn: u64,
}

/// What is or may be in use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Amount {
    memory: u64,
    /// Thousandths of a core: sums of whole numbers come back to zero.
    millicores: u64,
    calls: u64,
}

impl From<Need> for Amount {
    fn from(need: Need) -> Self {
        Self {
            memory: need.memory.unwrap_or(0),
            millicores: need.cpu.map_or(0, millicores),
            calls: 1,
        }
    }
}

fn millicores(cores: f64) -> u64 {
    (cores * 1000.0).round() as u64
}

/// One level of capacity.
#[derive(Debug)]
struct Room {
    capacity: Capacity,
    total: Amount,
    used: Amount,
}

impl Room {
    fn new(capacity: Capacity) -> Self {
        let total = Amount {
            memory: capacity.memory.unwrap_or(u64::MAX),
            millicores: capacity.cpus.map_or(u64::MAX, millicores),
            calls: capacity.calls.map_or(u64::MAX, |n| n as u64),
        };
        Self { capacity, total, used: Amount::default() }
    }

    fn fits(&self, amount: Amount) -> bool {
        let fits = |used: u64, more: u64, total| used.saturating_add(more) <= total;
        fits(self.used.memory, amount.memory, self.total.memory)
            && fits(self.used.millicores, amount.millicores, self.total.millicores)
            && fits(self.used.calls, amount.calls, self.total.calls)
    }

    /// Sums of what is not bounded may grow beyond 64 bits in theory; they wrap, and wrap back.
    fn take(&mut self, amount: Amount) {
        self.used.memory = self.used.memory.wrapping_add(amount.memory);
        self.used.millicores = self.used.millicores.wrapping_add(amount.millicores);
        self.used.calls = self.used.calls.wrapping_add(amount.calls);
    }

    fn give_back(&mut self, amount: Amount) {
        self.used.memory = self.used.memory.wrapping_sub(amount.memory);
        self.used.millicores = self.used.millicores.wrapping_sub(amount.millicores);
        self.used.calls = self.used.calls.wrapping_sub(amount.calls);
    }

    /// Why it could never fit, in words.
    fn never(&self, need: Need, whose: &str) -> Option<Error> {
        let amount = Amount::from(need);
        let (needs, has, help) = if amount.memory > self.total.memory {
            let has = size_in_words(self.total.memory);
            let help = "ask for less memory, or raise the memory that may be in use";
            (format!("{} of memory", size_in_words(amount.memory)), has, help)
        } else if amount.millicores > self.total.millicores {
            let has = self.capacity.cpus.unwrap_or_default().to_string();
            let help = "ask for fewer cores, or raise the cores that may be in use";
            (format!("{} cores", need.cpu.unwrap_or_default()), has, help)
        } else if self.total.calls == 0 {
            ("to start".to_owned(), "no calls".to_owned(), "let it have one call or more")
        } else {
            return None;
        };
        let what = format!("the call needs {needs}, and {whose} has {has} in all");
        Some(Error::new(ErrorKind::InvalidInput, what).or_help(help))
    }
}

#[derive(Debug)]
struct Member {
    room: Room,
    priority: Priority,
    queue: VecDeque<Waiting>,
    /// The session with the smallest is served first; each start adds to it, the less the higher
    /// the priority.
    turn: u64,
}

impl Member {
    fn stride(&self) -> u64 {
        // A common multiple of the weights 150, 100 and 50, so that nothing is lost.
        300 / u64::from(self.priority.cpu_weight())
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    amount: Amount,
    since: Instant,
    deadline: Option<Instant>,
    /// How many calls have started although it was this one's turn.
    passed: u32,
}

impl Admission {
    /// How many calls may pass one that does not fit into the runtime's capacity yet.
    ///
    /// A machine that runs small calls meanwhile is not idle; a big call waits for no more than
    /// these to end.
    pub const MAX_PASSED: u32 = 8;

    /// An empty queue; `capacity` is for all sessions together.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            runtime: Room::new(capacity),
            sessions: BTreeMap::new(),
            waiting: HashMap::new(),
            started: HashMap::new(),
            next: 0,
            turn: 0,
        }
    }

    /// A session with a capacity of its own.
    pub fn add_session(&mut self, capacity: Capacity, priority: Priority) -> SessionKey {
        let key = SessionKey(self.number());
        let room = Room::new(capacity);
        self.sessions.insert(key, Member { room, priority, queue: VecDeque::new(), turn: 0 });
        key
    }

    /// Ends a session: its waiting calls are cancelled and returned; those that have started count
    /// against the runtime until they are released.
    pub fn remove_session(&mut self, session: SessionKey) -> Vec<Ticket> {
        let queue = self.sessions.remove(&session).map(|m| m.queue).unwrap_or_default();
        let tickets: Vec<_> = queue.iter().map(|w| w.ticket).collect();
        for ticket in &tickets {
            self.waiting.remove(ticket);
        }
        tickets
    }

    /// Puts a call at the end of its session's queue. Without a `timeout` it waits as long as it
    /// takes.
    ///
    /// # Errors
    /// `InvalidInput` when it needs more than the whole capacity, which no waiting would change;
    /// `NotFound` for a session that was removed.
    pub fn enqueue(
        &mut self,
        session: SessionKey,
        need: Need,
        now: Instant,
        timeout: Option<Duration>,
    ) -> Result<Ticket> {
        let ticket = Ticket(self.number());
        let Some(member) = self.sessions.get_mut(&session) else {
            return Err(Error::new(ErrorKind::NotFound, "the session is closed"));
        };
        let never = member.room.never(need, "its session");
        if let Some(error) = never.or_else(|| self.runtime.never(need, "the runtime")) {
            return Err(error);
        }
        if member.queue.is_empty() {
            // Who was away has saved up nothing. One more than the last turn, not the same: else
            // a stream of new sessions could keep the turn, and those who wait, where they are.
            member.turn = member.turn.max(self.turn + member.stride());
        }
        member.queue.push_back(Waiting {
            ticket,
            amount: need.into(),
            since: now,
            deadline: timeout.and_then(|t| now.checked_add(t)),
            passed: 0,
        });
        self.waiting.insert(ticket, session);
        Ok(ticket)
    }

    /// The calls that may start now, in order; from here on they count as started, until
    /// [`release`](Self::release).
    #[must_use = "these calls hold their share of the capacity until they are released"]
    pub fn ready(&mut self, now: Instant) -> Vec<Admitted> {
        let mut admitted = Vec::new();
        while let Some(key) = self.next_session() {
            let Some(member) = self.sessions.get_mut(&key) else { break };
            let Some(call) = member.queue.pop_front() else { break };
            member.room.take(call.amount);
            self.runtime.take(call.amount);
            self.turn = member.turn;
            member.turn += member.stride();
            self.waiting.remove(&call.ticket);
            self.started.insert(call.ticket, (key, call.amount));
            let waited = now.saturating_duration_since(call.since);
            admitted.push(Admitted { ticket: call.ticket, waited });
        }
        admitted
    }

    /// The session whose first call may start.
    fn next_session(&mut self) -> Option<SessionKey> {
        let first = |(key, member): (&SessionKey, &Member)| {
            let call = member.queue.front().filter(|call| member.room.fits(call.amount))?;
            Some((member.turn, call.ticket, *key, call.amount, call.passed))
        };
        let mut order: Vec<_> = self.sessions.iter().filter_map(first).collect();
        order.sort_unstable_by_key(|&(turn, ticket, ..)| (turn, ticket));
        let mut passed = Vec::new();
        for (_, _, key, amount, times) in order {
            if self.runtime.fits(amount) {
                for key in passed {
                    let queue = self.sessions.get_mut(&key).map(|member| &mut member.queue);
                    if let Some(call) = queue.and_then(VecDeque::front_mut) {
                        call.passed += 1;
                    }
                }
                return Some(key);
            }
            if times >= Self::MAX_PASSED {
                return None;
            }
            passed.push(key);
        }
        None
    }

    /// Frees what a started call held; `false` when it had not started, or was released before.
    pub fn release(&mut self, ticket: Ticket) -> bool {
        let Some((session, amount)) = self.started.remove(&ticket) else { return false };
        self.runtime.give_back(amount);
        if let Some(member) = self.sessions.get_mut(&session) {
            member.room.give_back(amount);
        }
        true
    }

    /// Takes a call out of the queue; `false` when it does not wait (any more).
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(session) = self.waiting.remove(&ticket) else { return false };
        if let Some(member) = self.sessions.get_mut(&session) {
            member.queue.retain(|call| call.ticket != ticket);
        }
        true
    }

    /// Takes the calls out of the queue whose timeout is over, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        let mut expired = Vec::new();
        for member in self.sessions.values_mut() {
            member.queue.retain(|call| {
                let over = call.deadline.is_some_and(|d| d <= now);
                if over {
                    expired.push(call.ticket);
                }
                !over
            });
        }
        for ticket in &expired {
            self.waiting.remove(ticket);
        }
        expired.sort_unstable();
        expired
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.sessions.values().flat_map(|m| &m.queue).filter_map(|call| call.deadline).min()
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many calls have started and were not released.
    pub fn started(&self) -> usize {
        self.started.len()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests;
