//! The arithmetic of the scheduler (`bpf/shares.h`), built for user space, against a simple model:
//! exact shares as fractions, and a machine whose time is divided by them.

#![cfg(test)]

use proptest::prelude::*;

const ONE: u64 = 1 << 10;
const MAX_INVERSE: u64 = 1 << 32;
const MEAN_SPAN: u64 = 100_000_000;
const MEAN_BITS: u32 = 16;
const MAX_ACTIVE: u64 = 1 << 24;
const SLICE: u64 = 5_000_000;
const LAG: u64 = 20 * SLICE;

mod c {
    unsafe extern "C" {
        pub(super) safe fn shares_inverse_below(inverse: u64, total: u64, weight: u64) -> u64;
        pub(super) safe fn shares_mean_after(mean: u64, active: u64, passed: u64) -> u64;
        pub(super) safe fn shares_virtual(ns: u64, inverse: u64) -> u64;
        pub(super) safe fn shares_later(a: u64, b: u64) -> u64;
        pub(super) safe fn shares_before(a: u64, b: u64) -> bool;
    }
}

/// A group of one level: its weight, and what all active siblings weigh with it.
#[derive(Clone, Debug)]
struct Level {
    weight: u64,
    total: u64,
}

fn level() -> impl Strategy<Value = Level> {
    (1u64..=10_000, 0u64..=200_000)
        .prop_map(|(weight, others)| Level { weight, total: weight + others })
}

/// Two levels of groups; the leaves have tasks that always want to run.
#[derive(Clone, Debug)]
struct Tree(Vec<(u64, Vec<u64>)>);

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = 50u64..=400;
    prop::collection::vec((50u64..=400, prop::collection::vec(leaf, 1..4)), 1..5).prop_map(Tree)
}

impl Tree {
    /// 1 / share of each leaf, by the scheduler's arithmetic, and the share by the model.
    fn leaves(&self) -> Vec<(u64, f64)> {
        let total: u64 = self.0.iter().map(|(w, _)| w).sum();
        let mut leaves = Vec::new();
        for (weight, below) in &self.0 {
            let sum: u64 = below.iter().sum();
            for leaf in below {
                let inverse = c::shares_inverse_below(ONE, sum, *leaf);
                let inverse = c::shares_inverse_below(inverse, total, *weight);
                let share = *leaf as f64 / sum as f64 * *weight as f64 / total as f64;
                leaves.push((inverse, share));
            }
        }
        leaves
    }
}

/// What each leaf runs on so many CPUs in `time` ns when slices are granted as the scheduler does
/// it; each leaf has a task for each CPU. `part` of 256 of a slice is used, differently each time.
fn simulate(leaves: &[(u64, f64)], cpus: usize, time: u64, parts: &[u64]) -> Vec<u64> {
    struct Running {
        ends: u64,
        leaf: usize,
        used: u64,
    }
    let mut finish = vec![0u64; leaves.len()];
    let mut now = 0u64;
    let mut got = vec![0u64; leaves.len()];
    // Where each waiting task stands, and of which leaf it is.
    let mut queue: Vec<(u64, usize)> = Vec::new();
    let charge = |finish: &mut [u64], now: u64, leaf: usize| {
        let start = c::shares_later(finish[leaf], now.wrapping_sub(LAG));
        finish[leaf] = start.wrapping_add(c::shares_virtual(SLICE, leaves[leaf].0));
        start
    };
    for leaf in 0..leaves.len() {
        for _ in 0..cpus {
            queue.push((charge(&mut finish, now, leaf), leaf));
        }
    }
    let mut running: Vec<Running> = Vec::new();
    let (mut clock, mut step) = (0, 0);
    loop {
        while running.len() < cpus {
            let first = (0..queue.len())
                .reduce(|a, b| if c::shares_before(queue[b].0, queue[a].0) { b } else { a })
                .expect("there are more tasks than CPUs");
            let (start, leaf) = queue.swap_remove(first);
            now = c::shares_later(now, start);
            step += 1;
            let used = SLICE * parts[step % parts.len()] / 256;
            running.push(Running { ends: clock + used, leaf, used });
        }
        let next = (0..running.len()).min_by_key(|i| running[*i].ends).expect("one runs");
        let done = running.swap_remove(next);
        clock = done.ends;
        if clock > time {
            return got;
        }
        got[done.leaf] += done.used;
        // What was not used is given back.
        let inverse = leaves[done.leaf].0;
        let unused = c::shares_virtual(SLICE, inverse) - c::shares_virtual(done.used, inverse);
        finish[done.leaf] = finish[done.leaf].wrapping_sub(unused);
        queue.push((charge(&mut finish, now, done.leaf), done.leaf));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// 1 / share is right to one percent, unless it is so small that it is capped.
    #[test]
    fn inverse_shares_are_products(levels in prop::collection::vec(level(), 1..8)) {
        let (mut inverse, mut exact) = (ONE, 1.0);
        for level in &levels {
            inverse = c::shares_inverse_below(inverse, level.total, level.weight);
            exact *= level.total as f64 / level.weight as f64;
        }
        prop_assert!(inverse <= MAX_INVERSE);
        // A slice of a second fits.
        prop_assert!(1_000_000_000u64.checked_mul(inverse).is_some());
        let capped = exact * ONE as f64 >= MAX_INVERSE as f64 * 0.99;
        let got = inverse as f64 / ONE as f64;
        prop_assert!(capped || (got / exact - 1.0).abs() < 0.01, "{got} for {exact}");
    }

    /// The mean of a weight that comes and goes is that weight times the part of the time that it
    /// is there, however often it is looked at; so nobody is charged by the moment.
    #[test]
    fn the_mean_is_one_over_time(
        always in 1u64..=10_000, at_times in 1u64..=10_000, on in 1_000_000u64..20_000_000,
        off in 1_000_000u64..20_000_000, looks in 1u64..50,
    ) {
        let mut mean = always << MEAN_BITS;
        let (mut sum, mut rounds) = (0.0, 0.0);
        for round in 0..200 {
            for (active, time) in [(always + at_times, on), (always, off)] {
                for _ in 0..looks {
                    mean = c::shares_mean_after(mean, active, time / looks);
                    if round >= 100 {
                        sum += mean as f64 * (time / looks) as f64;
                        rounds += (time / looks) as f64;
                    }
                }
            }
        }
        let got = sum / rounds / f64::from(1 << MEAN_BITS);
        let part = on as f64 / (on + off) as f64;
        let want = always as f64 + at_times as f64 * part;
        prop_assert!((got / want - 1.0).abs() < 0.15, "{got} for {want}");
    }

    /// The mean stays between what it was and what is, gets there, and nothing overflows.
    #[test]
    fn the_mean_follows(was in 0u64..=MAX_ACTIVE, is in 0u64..=1 << 40, passed in 0u64..=u64::MAX) {
        let (was, limited) = (was << MEAN_BITS, is.min(MAX_ACTIVE) << MEAN_BITS);
        let got = c::shares_mean_after(was, is, passed);
        prop_assert!((was.min(limited)..=was.max(limited)).contains(&got), "{was} {got} {is}");
        let long = (0..20).fold(was, |mean, _| c::shares_mean_after(mean, is, 16 * MEAN_SPAN));
        prop_assert!(long.abs_diff(limited) <= 1 << 8, "{long} for {limited}");
    }

    /// Each leaf gets its share of the machine, to within some slices, whatever part of its slices
    /// it uses.
    #[test]
    fn everyone_gets_its_share(
        tree in tree(), cpus in 1usize..5, parts in prop::collection::vec(64u64..=256, 1..7),
    ) {
        let leaves = tree.leaves();
        let time = 20_000_000_000;
        let got = simulate(&leaves, cpus, time, &parts);
        for (got, (_, share)) in got.iter().zip(&leaves) {
            // With few leaves one may have nobody to compete with for some CPU; the model is that
            // of a leaf that can use its share.
            let want = (share * cpus as f64 * time as f64).min(cpus as f64 * time as f64);
            let error = (*got as f64 - want).abs();
            let slices = 2.0 * (cpus as f64 + leaves.len() as f64) * SLICE as f64;
            prop_assert!(error <= want * 0.01 + slices, "{got} of {want}, {leaves:?}");
        }
    }
}
