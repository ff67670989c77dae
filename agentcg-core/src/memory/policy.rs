//! The decisions, without the kernel: how long a session is protected, and what is a low one's part.

use std::time::{Duration, Instant};

/// The longest window, as a multiple of the configured one.
const LONGEST: u32 = 32;
/// A session that used less of one CPU than this, and did not hurt, for so long, is idle. Shorter
/// pauses are part of its work: what it has would be gone when it goes on.
const IDLE: f64 = 0.01;
const IDLE_FOR: Duration = Duration::from_secs(4);
/// When a protected session is looked at first; then at least every [`PSI_PERIOD`].
const LOOK: Duration = Duration::from_secs(1);
/// Signs within this time are one stall.
const STALL: Duration = Duration::from_millis(200);
/// The kernel brings the times of PSI up to date this often.
const PSI_PERIOD: Duration = Duration::from_secs(2);
/// The machine is short of memory when somebody waits for it for more of the time than this, or
/// kswapd reclaims more than this, bytes a second: others wait for nothing then, and still take what
/// they need.
const PRESSED: f64 = 0.001;
const RECLAIMED: f64 = 1e6;
/// The first and the largest part of the protection that is taken back at once: a 256th, a 16th.
const STEPS: (u32, u32) = (8, 4);

/// What a sign of pain means for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurt {
    /// A window opens.
    Opened,
    /// What was taken back of its protection is needed.
    Missed,
    /// It hurts in spite of its protection: more has to be done.
    Again,
    /// Part of a stall that is known.
    Same,
}

/// What a look at an open window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Stays,
    /// One part in 2 to the power of this can be taken back, to see whether it is needed.
    Less(u32),
    /// It is over.
    Over,
}

/// The time during which one high session is protected.
///
/// It ends the configured time after the last stall when nobody is short of memory any more, and at
/// once when the session has been idle for a while. While others press, ending it would cost the
/// session all that it has and a stall to get it back. So a part of the protection is taken back each
/// time, more and more while the session does not miss it. When it does, it gets all back, and has
/// twice as long until the next try, up to [`LONGEST`] times.
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
    /// The last sign that counted as a stall of its own.
    counted: Instant,
    /// At the last stall, or at a look since.
    seen: Seen,
    /// When it was not idle.
    busy: Seen,
    /// The next look, at the latest.
    look: Instant,
    /// What is taken back next; `None` while the session has all.
    step: Option<u32>,
}

/// What there was at a moment: the CPU time that the session has used, the time that anybody on the
/// machine has waited for memory, and the bytes that kswapd has reclaimed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub at: Instant,
    pub cpu: Option<Duration>,
    pub stalled: Duration,
    pub reclaimed: u64,
}

impl Window {
    pub(super) fn new(base: Duration) -> Self {
        Self { base, length: base, open: None, ended: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Has nothing been taken back since the last stall?
    pub(super) fn is_whole(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.step.is_none())
    }

    pub(super) fn hurt(&mut self, seen: Seen) -> Hurt {
        let now = seen.at;
        let longer = (self.length * 2).min(self.base * LONGEST);
        if let Some(open) = &mut self.open {
            let missed = open.step.take().is_some();
            if missed {
                self.length = longer;
            }
            open.until = open.until.max(now + self.length);
            (open.seen, open.busy) = (seen, seen);
            open.look = now + LOOK;
            if missed {
                open.counted = now;
                return Hurt::Missed;
            }
            if now.saturating_duration_since(open.counted) < STALL {
                return Hurt::Same;
            }
            open.counted = now;
            return Hurt::Again;
        }
        let soon = self.ended.is_some_and(|at| now.saturating_duration_since(at) < self.length);
        self.length = if soon { longer } else { self.base };
        let until = now + self.length;
        let look = now + LOOK;
        self.open =
            Some(Open { since: now, until, counted: now, seen, busy: seen, look, step: None });
        Hurt::Opened
    }

    /// When it has to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until.min(open.look))
    }

    pub(super) fn look(&mut self, seen: Seen) -> Verdict {
        let Some(open) = &mut self.open else { return Verdict::Stays };
        open.look = seen.at + PSI_PERIOD;
        let idle = seen.at.saturating_duration_since(open.busy.at);
        match (seen.cpu, open.busy.cpu) {
            (Some(cpu), Some(before)) if cpu.saturating_sub(before) < idle.mul_f64(IDLE) => {
                if idle >= IDLE_FOR {
                    // What comes next is a new beginning.
                    self.length = self.base;
                    return Verdict::Over;
                }
            }
            _ => open.busy = seen,
        }
        let before = open.seen;
        let elapsed = seen.at.saturating_duration_since(before.at);
        let part_of_it = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64();
        // Less time than this tells nothing of others.
        if elapsed < PSI_PERIOD {
            open.until = open.until.max(before.at + PSI_PERIOD);
            return Verdict::Stays;
        }
        open.seen = seen;
        if seen.at < open.until {
            return Verdict::Stays;
        }
        let reclaimed = seen.reclaimed.saturating_sub(before.reclaimed) as f64;
        if part_of_it(seen.stalled.saturating_sub(before.stalled)) < PRESSED
            && reclaimed / elapsed.as_secs_f64() < RECLAIMED
        {
            return Verdict::Over;
        }
        open.until = seen.at + self.length.max(PSI_PERIOD);
        let step = open.step.map_or(STEPS.0, |step| (step - 1).max(STEPS.1));
        open.step = Some(step);
        Verdict::Less(step)
    }

    /// How much longer it lasts at least.
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

    /// The CPU time used and the time stalled until then.
    fn seen(at: Instant, cpu: f64, stalled: f64) -> Seen {
        Seen { at, cpu: Some(s(cpu)), stalled: s(stalled), reclaimed: 0 }
    }

    fn at(at: Instant) -> Seen {
        seen(at, 0.0, 0.0)
    }

    #[test]
    fn a_window_lasts_from_the_last_stall() {
        let t = Instant::now();
        let mut w = Window::new(s(3.0));
        assert_eq!(w.hurt(at(t)), Hurt::Opened);
        assert_eq!(w.hurt(at(t + s(0.1))), Hurt::Same);
        assert_eq!(w.hurt(at(t + s(0.15))), Hurt::Same);
        // Pain without a pause counts again and again.
        assert_eq!(w.hurt(at(t + s(0.25))), Hurt::Again);
        assert_eq!(w.hurt(seen(t + s(0.6), 0.6, 0.5)), Hurt::Again);
        assert_eq!(w.next_look(), Some(t + s(1.6)));
        assert_eq!(w.look(seen(t + s(1.6), 1.6, 0.5)), Verdict::Stays);
        assert_eq!(w.next_look(), Some(t + s(3.6)));
        // Not before two seconds have gone by since the last look at the others.
        assert_eq!(w.look(seen(t + s(2.6), 2.6, 0.5)), Verdict::Stays);
        assert_eq!(w.look(seen(t + s(3.6), 3.6, 0.5)), Verdict::Stays);
        assert_eq!(w.look(seen(t + s(4.6), 4.6, 0.5)), Verdict::Over);
        assert_eq!(w.close(t + s(4.6)), s(4.6));
        assert!(!w.is_open());
    }

    #[test]
    fn while_others_press_a_part_is_taken_back_each_time() {
        let t = Instant::now();
        let mut w = Window::new(s(2.0));
        w.hurt(at(t));
        let busy = |now: f64| seen(t + s(now), now, now);
        for (now, step) in [(2.0, 8), (4.0, 7), (6.0, 6), (8.0, 5), (10.0, 4), (12.0, 4)] {
            assert_eq!(w.look(busy(now)), Verdict::Less(step));
            assert_eq!(w.left(t + s(now)), s(2.0));
        }
        // It misses it: all is given back, and the next try is later.
        assert_eq!(w.hurt(busy(12.5)), Hurt::Missed);
        assert_eq!(w.left(t + s(12.5)), s(4.0));
        assert_eq!(w.hurt(busy(12.6)), Hurt::Same);
        assert_eq!(w.look(busy(14.6)), Verdict::Stays);
        assert_eq!(w.look(busy(16.6)), Verdict::Less(8));
        for _ in 0..9 {
            w.hurt(busy(17.0));
            w.open.as_mut().unwrap().step = Some(8);
        }
        assert_eq!(w.left(t + s(17.0)), s(64.0));
        // Nobody presses any more.
        assert_eq!(w.look(seen(t + s(81.0), 81.0, 17.0)), Verdict::Over);
    }

    #[test]
    fn what_kswapd_reclaims_presses_too() {
        let t = Instant::now();
        let mut w = Window::new(s(2.0));
        w.hurt(at(t));
        let after = |now: f64, reclaimed| Seen { reclaimed, ..seen(t + s(now), now, 0.0) };
        assert_eq!(w.look(after(2.0, 3_000_000)), Verdict::Less(8));
        assert_eq!(w.look(after(4.0, 4_000_000)), Verdict::Over);
    }

    #[test]
    fn pain_right_after_the_end_doubles_the_window() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        let mut now = t;
        for length in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0] {
            assert_eq!(w.hurt(at(now)), Hurt::Opened);
            assert_eq!(w.left(now), s(length));
            now += s(length);
            w.close(now);
            now += s(0.5);
        }
        // After a time without pain as long as the window, it is the first again.
        now += s(32.0);
        w.hurt(at(now));
        assert_eq!(w.left(now), BASE);
    }

    #[test]
    fn an_idle_session_loses_its_protection() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        w.length = s(16.0);
        w.ended = Some(t);
        w.hurt(seen(t, 5.0, 0.0));
        // Busy, then idle, whoever presses.
        assert_eq!(w.next_look(), Some(t + s(1.0)));
        assert_eq!(w.look(seen(t + s(1.0), 5.9, 1.0)), Verdict::Stays);
        for now in [3.0, 4.9] {
            assert_eq!(w.look(seen(t + s(now), 5.9, now)), Verdict::Stays);
        }
        assert_eq!(w.look(seen(t + s(5.0), 5.901, 5.0)), Verdict::Over);
    }

    #[test]
    fn a_session_that_hurts_is_not_idle() {
        let t = Instant::now();
        let mut w = Window::new(BASE);
        w.length = s(16.0);
        w.ended = Some(t);
        w.hurt(seen(t, 5.0, 0.0));
        // It waits for its pages and uses no CPU.
        w.hurt(seen(t + s(0.9), 5.0, 0.9));
        assert_eq!(w.look(seen(t + s(1.0), 5.0, 1.0)), Verdict::Stays);
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
