//! From what the last runs took to what the next may have.

/// Runs of one command that are kept: so many runs later a peak is forgotten.
pub(super) const RUNS: usize = 8;

/// Seconds after which a run is forgotten: 30 days.
pub(super) const MAX_AGE: u64 = 30 * 24 * 3600;

/// The least that is proposed, bytes: a shell and an interpreter start with this.
const FLOOR: u64 = 64 << 20;

/// What is proposed is a whole number of these.
const STEP: u64 = 1 << 20;

/// What one run of a command took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The most memory that it had, bytes.
    pub peak_bytes: u64,
    /// Its own `memory.max`, bytes, if it had one.
    pub limit_bytes: Option<u64>,
    /// Whether the OOM killer ended it, or a part of it, at its own limit.
    pub oom_killed: bool,
}

/// The largest of what each of the runs asks for, oldest first:
///
/// | run | asks for |
/// |---|---|
/// | it ended by itself | its peak and a margin: a quarter, and three quarters more shared by all runs there are, so twice the peak of a single run, and a third more than the largest of eight |
/// | the same, but its peak was within 3 % of its limit | its peak: page cache fills any limit, so the limit was enough, and a margin would grow with every run |
/// | it was OOM killed | twice its peak, until a later run that was not killed has shown a peak as large |
///
/// At least 64 MiB, in whole MiB.
pub(super) fn propose(runs: &[Run]) -> Option<u64> {
    let count = u64::try_from(runs.len()).ok().filter(|n| *n > 0)?;
    let ask = |(i, run): (usize, &Run)| {
        let peak = run.peak_bytes;
        let margin = (peak / 4).saturating_add(peak / 4 * 3 / count);
        let at_limit = run.limit_bytes.is_some_and(|limit| peak >= limit - limit / 32);
        let shown = || runs[i + 1..].iter().any(|r| !r.oom_killed && r.peak_bytes >= peak);
        match run.oom_killed {
            true if !shown() => peak.saturating_mul(2),
            false if !at_limit => peak.saturating_add(margin),
            _ => peak,
        }
    };
    let most = runs.iter().enumerate().map(ask).max()?.max(FLOOR);
    Some(most.checked_next_multiple_of(STEP).unwrap_or(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    const M: u64 = 1 << 20;

    fn ended(mib: u64) -> Run {
        Run { peak_bytes: mib * M, limit_bytes: None, oom_killed: false }
    }

    fn killed(mib: u64) -> Run {
        Run { limit_bytes: Some(mib * M), oom_killed: true, ..ended(mib) }
    }

    #[test]
    fn the_more_is_known_the_smaller_the_margin() {
        assert_eq!(propose(&[]), None);
        assert_eq!(propose(&[ended(400)]), Some(800 * M));
        assert_eq!(propose(&[ended(400), ended(100)]), Some(650 * M));
        assert_eq!(propose(&[ended(800); 8]), Some(1075 * M));
        assert_eq!(propose(&[ended(1)]), Some(FLOOR));
        assert_eq!(propose(&[Run { peak_bytes: (100 << 20) + 1, ..ended(0) }]), Some(201 * M));
    }

    #[test]
    fn a_killed_run_asks_for_double_until_the_need_is_known() {
        assert_eq!(propose(&[killed(512)]), Some(1024 * M));
        assert_eq!(propose(&[killed(512), killed(1024)]), Some(2048 * M));
        // Smaller runs later do not tell what the killed one would have needed.
        assert_eq!(propose(&[killed(512), ended(10)]), Some(1024 * M));
        assert_eq!(propose(&[killed(512), ended(600)]), Some(975 * M));
    }

    #[test]
    fn a_limit_that_the_page_cache_filled_does_not_grow() {
        let full = Run { limit_bytes: Some(512 * M), ..ended(510) };
        assert_eq!(propose(&[full]), Some(510 * M));
        assert_eq!(propose(&[full; 8]), Some(510 * M));
    }

    proptest! {
        #[test]
        fn no_less_than_any_peak_and_no_more_than_double(
            runs in prop::collection::vec((any::<u64>(), of(any::<u64>()), any::<bool>()), 1..RUNS),
        ) {
            let runs: Vec<_> = runs
                .into_iter()
                .map(|(peak_bytes, limit_bytes, oom_killed)| Run { peak_bytes, limit_bytes, oom_killed })
                .collect();
            let most = runs.iter().map(|r| r.peak_bytes).max().unwrap();
            let proposal = propose(&runs).unwrap();
            prop_assert!(proposal >= most);
            prop_assert!(proposal <= most.saturating_mul(2).max(FLOOR).saturating_add(STEP));
        }
    }
}
