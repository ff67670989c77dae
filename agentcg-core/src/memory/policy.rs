//! The decisions, without the kernel: how long a session is protected, and what is a low one's part.

use std::time::{Duration, Instant};

/// The longest window, as a multiple of the configured one.
const LONGEST: u32 = 32;
/// A session that used less of one CPU than this, and did not hurt, is idle.
const IDLE: f64 = 0.01;
/// How often at least a protected session is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Signs within this time are one stall.
const STALL: Duration = Duration::from_millis(200);

/// What a sign of pain means for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurt {
    /// A window opens.
    Opened,
    /// It hurts in spite of its protection: more has to be done.
    Again,
    /// Part of a stall that is known.
    Same,
}

/// The time during which one high session is protected.
///
/// It lasts for the configured time after the last stall. When a session hurts again as soon as its
/// protection ends, the next window is twice as long, up to [`LONGEST`] times: probing whether the
/// protection is still needed costs the session a stall each time. A session that is idle meanwhile
/// loses its protection at once.
#[derive(Debug)]
pub(super) struct Window {
    base: Duration,
    length: Duration,
    open: Option<Open>,
    ended: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    until: Instant,
    last: Instant,
    /// The last sign that counted as a stall of its own.
    counted: Instant,
    /// When it was looked at last, and the CPU time it had used then.
    looked: Option<(Instant, Duration)>,
}

impl Window {
    pub(super) fn new(base: Duration) -> Self {
        Self { base, length: base, open: None, ended: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn hurt(&mut self, now: Instant) -> Hurt {
        if let Some(open) = &mut self.open {
            open.until = open.until.max(now + self.length);
            open.last = now;
            open.looked = None;
            if now.saturating_duration_since(open.counted) < STALL {
                return Hurt::Same;
            }
            open.counted = now;
            return Hurt::Again;
        }
        let soon = self.ended.is_some_and(|at| now.saturating_duration_since(at) < self.length);
        self.length = if soon { (self.length * 2).min(self.base * LONGEST) } else { self.base };
        let until = now + self.length;
        self.open = Some(Open { since: now, until, last: now, counted: now, looked: None });
        Hurt::Opened
    }

    /// When it has to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        let look = open.looked.map_or(open.last, |(at, _)| at) + self.base.max(LOOK);
        Some(open.until.min(look))
    }

    /// Is it over, given the CPU time that the session has used so far?
    pub(super) fn is_over(&mut self, now: Instant, cpu: Option<Duration>) -> bool {
        let Some(open) = &mut self.open else { return false };
        if now >= open.until {
            return true;
        }
        let (Some(cpu), true) = (cpu, now >= open.last + self.base.max(LOOK)) else {
            return false;
        };
        let Some((at, before)) = open.looked else {
            open.looked = Some((now, cpu));
            return false;
        };
        let elapsed = now.saturating_duration_since(at);
        if elapsed < self.base.max(LOOK) {
            return false;
        }
        open.looked = Some((now, cpu));
        let idle = cpu.saturating_sub(before).as_secs_f64() < elapsed.as_secs_f64() * IDLE;
        if idle {
            // What comes next is a new beginning.
            self.length = self.base;
        }
        idle
    }

    /// How much longer it lasts.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |o| o.until.saturating_duration_since(now))
    }

    /// Ends it; the time that it lasted.
    pub(super) fn close(&mut self, now: Instant) -> Duration {
        self.ended = Some(now);
        self.open.take().map_or(Duration::ZERO, |o| now.saturating_duration_since(o.since))
    }
}

/// The part of each low session when `allowed` bytes are shared so that none has less than another
/// wants: the level at which the larger ones are cut.
pub(super) fn part(used: &[u64], allowed: u64, floor: u64) -> u64 {
    let mut sorted = used.to_vec();
    sorted.sort_unstable();
    let mut left = allowed;
    let mut level = 0;
    for (i, want) in sorted.iter().enumerate() {
        level = left / (sorted.len() - i) as u64;
        if *want > level {
            break;
        }
        left -= want;
        // All fit so far; the largest may grow by what is left.
        level = want + left;
    }
    level.max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(1);

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_window_lasts_from_the_last_stall() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        assert_eq!(w.hurt(t), Hurt::Opened);
        assert_eq!(w.hurt(t + s(0.1)), Hurt::Same);
        assert_eq!(w.hurt(t + s(0.15)), Hurt::Same);
        // Pain without a pause counts again and again.
        assert_eq!(w.hurt(t + s(0.25)), Hurt::Again);
        assert_eq!(w.hurt(t + s(0.6)), Hurt::Again);
        assert!(!w.is_over(t + s(1.5), None));
        assert!(w.is_over(t + s(1.6), None));
        assert_eq!(w.close(t + s(1.6)), s(1.6));
        assert!(!w.is_open());
    }

    #[test]
    fn pain_right_after_the_end_doubles_the_window() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        let mut now = t;
        for length in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0] {
            assert_eq!(w.hurt(now), Hurt::Opened);
            assert_eq!(w.left(now), s(length));
            now += s(length);
            w.close(now);
            now += s(0.5);
        }
        // After a time without pain as long as the window, it is the first again.
        now += s(32.0);
        w.hurt(now);
        assert_eq!(w.left(now), BASE);
    }

    #[test]
    fn an_idle_session_loses_its_protection() {
        let t = Instant::now();
        let mut w = Window::new(s(10.0));
        w.length = s(10.0);
        w.hurt(t);
        assert_eq!(w.next_look(), Some(t + s(10.0)));
        let mut w = Window::new(BASE);
        w.ended = Some(t);
        w.length = s(16.0);
        w.hurt(t + s(0.1));
        let t = t + s(0.1);
        // Busy, then idle.
        assert!(!w.is_over(t + s(1.0), Some(s(5.0))));
        assert_eq!(w.next_look(), Some(t + s(2.0)));
        assert!(!w.is_over(t + s(2.0), Some(s(5.9))));
        assert!(w.is_over(t + s(3.0), Some(s(5.901))));
    }

    #[test]
    fn a_session_that_hurts_is_not_idle() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        w.ended = Some(t);
        w.length = s(16.0);
        w.hurt(t);
        assert!(!w.is_over(t + s(1.0), Some(s(5.0))));
        // It waits for its pages and uses no CPU.
        w.hurt(t + s(1.9));
        assert!(!w.is_over(t + s(2.0), Some(s(5.0))));
    }

    #[test]
    fn parts_cut_the_larger_ones() {
        assert_eq!(part(&[100], 60, 10), 60);
        assert_eq!(part(&[100, 20], 100, 10), 80);
        assert_eq!(part(&[100, 100], 100, 10), 50);
        assert_eq!(part(&[100, 90, 20], 140, 10), 60);
        // Nobody is over: the largest may grow.
        assert_eq!(part(&[10, 20], 100, 10), 90);
        // Never below the floor.
        assert_eq!(part(&[100], 0, 10), 10);
        assert_eq!(part(&[], 100, 10), 10);
    }
}
