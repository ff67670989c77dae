use super::*;
use proptest::option::of;
use proptest::prelude::*;

fn calls(calls: usize) -> Capacity {
    Capacity { calls: Some(calls), ..Capacity::default() }
}

fn memory(bytes: u64) -> Capacity {
    Capacity { memory: Some(bytes), ..Capacity::default() }
}

fn needs(bytes: u64) -> Need {
    Need { memory: Some(bytes), cpu: None }
}

fn tickets(admitted: &[Admitted]) -> Vec<Ticket> {
    admitted.iter().map(|a| a.ticket).collect()
}

#[test]
fn first_come_first_served_within_a_session() {
    let now = Instant::now();
    let mut queue = Admission::new(memory(10));
    let session = queue.add_session(Capacity::default(), Priority::Normal);
    let [a, b, c] = [6, 6, 1].map(|n| queue.enqueue(session, needs(n), now, None).unwrap());
    assert_eq!(tickets(&queue.ready(now)), [a]);
    assert!(queue.ready(now).is_empty(), "the small one waits behind the big one");
    assert!(queue.release(a));
    let later = now + Duration::from_millis(5);
    let started = queue.ready(later);
    assert_eq!(tickets(&started), [b, c]);
    assert_eq!(started[0].waited, Duration::from_millis(5));
    assert!(!queue.release(a), "released once");
}

#[test]
fn a_full_session_does_not_hold_up_the_others() {
    let now = Instant::now();
    let mut queue = Admission::new(calls(10));
    let full = queue.add_session(calls(1), Priority::High);
    let other = queue.add_session(Capacity::default(), Priority::Low);
    let a = queue.enqueue(full, Need::default(), now, None).unwrap();
    let waits = queue.enqueue(full, Need::default(), now, None).unwrap();
    let others: Vec<_> =
        (0..9).map(|_| queue.enqueue(other, Need::default(), now, None).unwrap()).collect();
    let started = tickets(&queue.ready(now));
    assert_eq!(started.len(), 10);
    assert!(started.contains(&a) && others.iter().all(|t| started.contains(t)));
    queue.release(a);
    assert_eq!(tickets(&queue.ready(now)), [waits]);
}

#[test]
fn sessions_are_served_by_priority_and_none_is_forgotten() {
    let now = Instant::now();
    let mut queue = Admission::new(calls(1));
    let sessions = [Priority::Low, Priority::Normal, Priority::High]
        .map(|p| queue.add_session(Capacity::default(), p));
    let mut owner = HashMap::new();
    for (i, session) in sessions.into_iter().enumerate() {
        for _ in 0..100 {
            owner.insert(queue.enqueue(session, Need::default(), now, None).unwrap(), i);
        }
    }
    let mut served = [0; 3];
    for _ in 0..120 {
        let [call] = queue.ready(now)[..] else { panic!("one at a time") };
        served[owner[&call.ticket]] += 1;
        queue.release(call.ticket);
    }
    assert!((18..=22).contains(&served[0]), "{served:?}");
    assert!((38..=42).contains(&served[1]), "{served:?}");
    assert!((58..=62).contains(&served[2]), "{served:?}");
}

#[test]
fn what_can_never_fit_is_refused_with_the_way_out() {
    let now = Instant::now();
    let mut queue = Admission::new(Capacity { cpus: Some(2.0), ..memory(8 << 30) });
    let session = queue.add_session(memory(2 << 30), Priority::Normal);
    let free = queue.add_session(Capacity::default(), Priority::Normal);
    let none = queue.add_session(calls(0), Priority::Normal);
    let cpu = Need { memory: None, cpu: Some(2.5) };
    for (session, need, words) in [
        (session, needs(3 << 30), "needs 3 GiB of memory, and its session has 2 GiB in all"),
        (free, needs(9 << 30), "needs 9 GiB of memory, and the runtime has 8 GiB in all"),
        (free, cpu, "needs 2.5 cores, and the runtime has 2 in all"),
        (none, Need::default(), "its session has no calls in all"),
    ] {
        let e = queue.enqueue(session, need, now, None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert!(e.message().contains(words), "{e}");
        assert!(e.help().is_some());
    }
    // All of it is not too much.
    let all = Need { memory: Some(8 << 30), cpu: Some(2.0) };
    queue.enqueue(free, all, now, None).unwrap();
    assert_eq!(queue.ready(now).len(), 1);
}

#[test]
fn timeouts_and_removal_take_calls_out() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let mut queue = Admission::new(calls(1));
    let session = queue.add_session(Capacity::default(), Priority::Normal);
    let mut call = |timeout| queue.enqueue(session, Need::default(), now, timeout).unwrap();
    let (a, b, c, d) = (call(None), call(Some(second * 2)), call(Some(second)), call(None));
    assert_eq!(tickets(&queue.ready(now)), [a]);
    assert_eq!(queue.next_deadline(), Some(now + second));
    assert_eq!(queue.expire(now), []);
    assert_eq!(queue.expire(now + second), [c]);
    assert_eq!(queue.expire(now + second * 5), [b]);
    assert_eq!((queue.next_deadline(), queue.waiting()), (None, 1));
    assert!(!queue.cancel(b) && !queue.cancel(a), "expired, and started");
    assert_eq!(queue.remove_session(session), [d]);
    let gone = queue.enqueue(session, Need::default(), now, None).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    // What it had started is still there.
    let other = queue.add_session(Capacity::default(), Priority::Normal);
    queue.enqueue(other, Need::default(), now, None).unwrap();
    assert!(queue.ready(now).is_empty());
    assert!(queue.release(a));
    assert_eq!(queue.ready(now).len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue { session: usize, memory: Option<u64>, millicores: Option<u64>, timeout: Option<u64> },
    Release(prop::sample::Index),
    Cancel(prop::sample::Index),
    Wait(u64),
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let enqueue = (0usize..4, of(0u64..120), of(1u64..5000), of(0u64..40)).prop_map(
        |(session, memory, millicores, timeout)| Step::Enqueue {
            session,
            memory,
            millicores,
            timeout,
        },
    );
    prop_oneof![
        6 => enqueue,
        4 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (0u64..20).prop_map(Step::Wait),
        1 => (0usize..40).prop_map(Step::Remove),
    ]
}

fn capacity() -> impl Strategy<Value = Capacity> {
    (of(1u64..200), of(1u64..8000), of(1usize..6)).prop_map(|(memory, millicores, calls)| {
        let cpus = millicores.map(|m| m as f64 / 1000.0);
        Capacity { memory, cpus, calls }
    })
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)]
}

/// The same, kept by the test itself.
#[derive(Default)]
struct Model {
    waiting: Vec<(usize, Ticket, Need)>,
    started: Vec<(usize, Ticket, Need)>,
}

impl Model {
    fn start(&mut self, admitted: &[Admitted]) {
        for call in admitted {
            let at = self.waiting.iter().position(|w| w.1 == call.ticket).expect("it waited");
            let call = self.waiting.remove(at);
            assert!(self.waiting.iter().all(|w| w.0 != call.0 || w.1 > call.1), "order");
            self.started.push(call);
        }
    }

    fn check(&self, of: impl Fn(usize) -> bool, capacity: Capacity) {
        let calls: Vec<_> = self.started.iter().filter(|c| of(c.0)).map(|c| c.2).collect();
        let memory: u64 = calls.iter().filter_map(|n| n.memory).sum();
        let cpu: f64 = calls.iter().filter_map(|n| n.cpu).sum();
        assert!(capacity.memory.is_none_or(|m| memory <= m));
        assert!(capacity.cpus.is_none_or(|c| cpu <= c + 1e-6));
        assert!(capacity.calls.is_none_or(|n| calls.len() <= n));
    }
}

proptest! {
    #[test]
    fn capacity_is_never_exceeded_and_everyone_is_served(
        runtime in capacity(),
        members in prop::array::uniform4((capacity(), priority())),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut now = Instant::now();
        let mut queue = Admission::new(runtime);
        let mut keys = members.map(|(c, p)| Some(queue.add_session(c, p)));
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Enqueue { session, memory, millicores, timeout } => {
                    let need = Need { memory, cpu: millicores.map(|m| m as f64 / 1000.0) };
                    let Some(key) = keys[session] else { continue };
                    let timeout = timeout.map(Duration::from_millis);
                    if let Ok(ticket) = queue.enqueue(key, need, now, timeout) {
                        model.waiting.push((session, ticket, need));
                    }
                }
                Step::Release(index) if !model.started.is_empty() => {
                    let call = model.started.remove(index.index(model.started.len()));
                    prop_assert!(queue.release(call.1));
                }
                Step::Cancel(index) if !model.waiting.is_empty() => {
                    let call = model.waiting.remove(index.index(model.waiting.len()));
                    prop_assert!(queue.cancel(call.1));
                }
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    let expired = queue.expire(now);
                    model.waiting.retain(|w| !expired.contains(&w.1));
                    prop_assert!(queue.next_deadline().is_none_or(|d| d > now));
                }
                Step::Remove(session) if session < keys.len() => {
                    if let Some(key) = keys[session].take() {
                        let gone = queue.remove_session(key);
                        model.waiting.retain(|w| w.0 != session);
                        prop_assert!(gone.is_sorted());
                    }
                }
                _ => {}
            }
            model.start(&queue.ready(now));
            model.check(|_| true, runtime);
            for (session, (capacity, _)) in members.iter().enumerate() {
                model.check(|s| s == session, *capacity);
            }
            prop_assert_eq!((queue.waiting(), queue.started()), (model.waiting.len(), model.started.len()));
        }
        // Once nothing new comes and calls end, all start; and what they held comes back.
        while queue.started() + queue.waiting() > 0 {
            prop_assert!(!model.started.is_empty(), "{} wait for nothing", queue.waiting());
            for call in model.started.drain(..) {
                queue.release(call.1);
            }
            model.start(&queue.ready(now));
        }
        prop_assert_eq!(queue.runtime.used, Amount::default());
    }

    /// A call that needs everything, against sessions that always have more small calls, and new
    /// sessions that keep coming: not more than there is room for, or each one's share would go to
    /// nothing, and the wait beyond any bound.
    #[test]
    fn a_big_call_starts_however_many_small_ones_come(
        big in priority(), others in prop::collection::vec(priority(), 1..6), newcomers: bool,
        size in 1u64..60, same_session: bool,
    ) {
        let now = Instant::now();
        let mut queue = Admission::new(memory(100));
        let own = queue.add_session(Capacity::default(), big);
        let keys: Vec<_> =
            others.iter().map(|p| queue.add_session(Capacity::default(), *p)).collect();
        let mut running = VecDeque::new();
        let mut wanted = None;
        for round in 0..4000 {
            for key in &keys {
                queue.enqueue(*key, needs(size), now, None).unwrap();
            }
            if newcomers && round % 2 == 0 {
                let key = queue.add_session(Capacity::default(), Priority::High);
                queue.enqueue(key, needs(size), now, None).unwrap();
            }
            if same_session {
                queue.enqueue(own, needs(1), now, None).unwrap();
            }
            if round == 5 {
                wanted = Some(queue.enqueue(own, needs(100), now, None).unwrap());
            }
            let started = tickets(&queue.ready(now));
            if wanted.is_some_and(|w| started.contains(&w)) {
                return Ok(());
            }
            running.extend(started);
            if let Some(ticket) = running.pop_front() {
                queue.release(ticket);
            }
        }
        prop_assert!(false, "never started");
    }
}
