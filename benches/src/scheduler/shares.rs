//! Who gets how much of the CPU.

use std::time::{Duration, Instant};

use agentcg_core::{Cgroup, Controller, CpuMax};
use agentcg_storm::churn;
use anyhow::{Context, Result};

use super::Case;
use super::load::{self, Group, Job};

pub(super) const CASES: [Case; 9] = [
    Case {
        name: "weights 100:300, 1 burner each",
        bar: "1.00, 2 CPUs",
        noisy: false,
        run: |p, t| pair(p, t, 1, 0),
        text: ratio,
    },
    Case {
        name: "weights 100:300, 2 burners each",
        bar: "3.00 +- 0.06",
        noisy: false,
        run: |p, t| pair(p, t, 2, 0),
        text: ratio,
    },
    Case {
        name: "weights 100:300, 4 burners each",
        bar: "3.00 +- 0.06",
        noisy: false,
        run: |p, t| pair(p, t, 4, 0),
        text: ratio,
    },
    Case {
        name: "weights 100:300, 4 each, on one CPU",
        bar: "3.00 +- 0.06",
        noisy: false,
        run: |p, t| pair(p, t, 4, 1),
        text: ratio,
    },
    Case {
        name: "weights 100:300, 4 each, half on one CPU",
        bar: "3.00 +- 0.06",
        noisy: false,
        run: |p, t| pair(p, t, 4, 2),
        text: ratio,
    },
    Case {
        name: "shares nested, 3 each",
        bar: "16.7 16.7 66.7 +- 1.5",
        noisy: false,
        run: nested,
        text: |f| format!("{:.1} {:.1} {:.1} %", f[0], f[1], f[2]),
    },
    Case {
        name: "shares of 300 cgroups",
        bar: "r >= 0.99, gap < 1 s",
        noisy: true,
        run: many,
        text: |f| format!("r {:.4}, longest gap {:.2} s", f[0], f[1]),
    },
    Case {
        name: "cpu.max half a CPU",
        bar: "50 +- 1.5 %",
        noisy: false,
        run: half,
        text: |f| format!("{:.1} %, {:.1} % used", f[0], f[1]),
    },
    Case {
        name: "cpu.max nested, 0.4 over 0.1 and free",
        bar: "10 30 +- 3 % of it",
        noisy: false,
        run: nested_max,
        text: |f| format!("{:.1} {:.1} %", f[0], f[1]),
    },
];

/// What each group used, µs, and how long that took. The start, where the first ones run alone, is
/// left out.
fn measure(groups: &mut [Group], time: Duration) -> Result<(Vec<f64>, f64)> {
    for group in &mut *groups {
        group.go()?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let read = |groups: &[Group]| groups.iter().map(Group::used_us).collect::<Result<Vec<_>>>();
    let (at, before) = (Instant::now(), read(groups)?);
    std::thread::sleep(time);
    let after = read(groups)?;
    let elapsed = at.elapsed().as_micros() as f64;
    Ok((after.iter().zip(before).map(|(a, b)| a - b).collect(), elapsed))
}

fn cpus() -> Result<f64> {
    Ok(std::thread::available_parallelism()?.get() as f64)
}

/// One in so many, from the first on, may only run on CPU 0; 0: none.
fn pin(groups: &[Group], one_in: usize) -> Result<()> {
    let pids = groups.iter().map(Group::pids).collect::<Result<Vec<_>>>()?.concat();
    pids.iter().step_by(one_in).try_for_each(|pid| churn::pin(*pid, 0))
}

fn pair(place: &Cgroup, time: Duration, burners: usize, pin_one_in: usize) -> Result<Vec<f64>> {
    let mut groups = [
        Group::new(place, "light", 100, Job::Burn, burners)?,
        Group::new(place, "heavy", 300, Job::Burn, burners)?,
    ];
    if pin_one_in > 0 {
        pin(&groups, pin_one_in)?;
    }
    let (used, elapsed) = measure(&mut groups, time)?;
    let usable = if pin_one_in == 1 { 1.0 } else { cpus()? };
    let part = used.iter().sum::<f64>() / (elapsed * usable);
    Ok(vec![used[1] / used[0], part * 100.0])
}

fn ratio(figures: &[f64]) -> String {
    format!("{:.2}, {:.1} % used", figures[0], figures[1])
}

fn nested(place: &Cgroup, time: Duration) -> Result<Vec<f64>> {
    let a = place.create_child(&"a".parse()?)?;
    a.set_cpu_weight(100)?;
    a.enable(&[Controller::Cpu])?;
    let mut groups = [
        Group::new(&a, "b", 100, Job::Burn, 3)?,
        Group::new(&a, "c", 100, Job::Burn, 3)?,
        Group::new(place, "d", 200, Job::Burn, 3)?,
    ];
    let (used, _) = measure(&mut groups, time)?;
    let sum = used.iter().sum::<f64>();
    drop(groups);
    a.remove()?;
    Ok(used.iter().map(|us| us / sum * 100.0).collect())
}

fn many(place: &Cgroup, _: Duration) -> Result<Vec<f64>> {
    // The same weights for both: a simple generator, 100 to 400.
    let mut seed = 1u32;
    let mut weight = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        100 + (seed >> 16) % 301
    };
    let weights: Vec<u32> = (0..300).map(|_| weight()).collect();
    let mut groups = Vec::new();
    for (i, weight) in weights.iter().enumerate() {
        groups.push(Group::new(place, &format!("g{i}"), *weight, Job::Gaps, 1)?);
    }
    for group in &mut groups {
        group.go()?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let read = || groups.iter().map(Group::used_us).collect::<Result<Vec<_>>>();
    let first = read()?;
    std::thread::sleep(load::GAPS - Duration::from_secs(3));
    let last = read()?;
    let mut longest = 0;
    for group in &mut groups {
        longest = group.numbers()?.into_iter().chain([longest]).max().unwrap_or(0);
    }
    let got: Vec<f64> = last.iter().zip(first).map(|(a, b)| a - b).collect();
    let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
    Ok(vec![correlation(&got, &weights), longest as f64 / 1e9])
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let product = |v: &[f64], mv: f64, w: &[f64], mw: f64| {
        v.iter().zip(w).map(|(x, y)| (x - mv) * (y - mw)).sum::<f64>()
    };
    product(a, ma, b, mb) / (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt()
}

fn half(place: &Cgroup, time: Duration) -> Result<Vec<f64>> {
    let mut groups = [
        Group::new(place, "half", 1000, Job::Burn, 4)?,
        Group::new(place, "rest", 1, Job::Burn, 4)?,
    ];
    groups[0].cgroup.set_cpu_max(CpuMax::from_cores(0.5)?)?;
    let (used, elapsed) = measure(&mut groups, time)?;
    let part = used.iter().sum::<f64>() / (elapsed * cpus()?);
    Ok(vec![used[0] / elapsed * 100.0, part * 100.0])
}

fn nested_max(place: &Cgroup, time: Duration) -> Result<Vec<f64>> {
    let outer = place.create_child(&"outer".parse()?)?;
    outer.set_cpu_max(CpuMax::from_cores(0.4)?)?;
    outer.enable(&[Controller::Cpu])?;
    let mut groups = [
        Group::new(&outer, "inner", 100, Job::Burn, 4)?,
        Group::new(&outer, "loose", 100, Job::Burn, 4)?,
        Group::new(place, "rest", 1, Job::Burn, 4)?,
    ];
    groups[0].cgroup.set_cpu_max(CpuMax::from_cores(0.1)?)?;
    let (used, elapsed) = measure(&mut groups, time)?;
    drop(groups);
    outer.remove().context("outer")?;
    Ok(used[..2].iter().map(|us| us / elapsed * 100.0).collect())
}
