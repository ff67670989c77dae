//! Memory protection beside the alternatives: every policy in one run, in a small guest.
//!
//! | case | what runs |
//! |---|---|
//! | `contention` | low touches 350 MB and loops, high loops over 250 MB, in 512 MB |
//! | `idle` | the same, but high only holds its memory |
//! | `traces` | recorded use of memory of three agents below one limit: one high, two low |
//! | `sessions` | 20 low and 5 high sessions with random bursts |
//! | `cost` | the first touch of 400 MB by one high cgroup, nothing else |

mod fixed;
mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentcg_core::{
    Capabilities, Cgroup, Controller, Limit, LimitFile, MemcgConfig, MemoryBackend,
    MemoryProtection, mount_point,
};
use anyhow::{Context, Result};

use crate::turns::by_turns;
use fixed::FixedDelay;
pub use worker::work;
use worker::{Progress, Worker};

const MB: u64 = 1_000_000;

/// Options of the measurement.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The case: contention, idle, traces, sessions or cost
    case: String,
    /// Length of one measurement
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the recorded traces are
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// These policies only
    #[arg(long, value_name = "NAME")]
    policy: Vec<Policy>,
}

/// How high is protected against low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// Not at all.
    None,
    /// `memory.low` of high is set once, by somebody who knows what it needs.
    Static,
    /// Each allocation batch of low is delayed by 50 ms.
    Delay50,
    /// Ours, backend `cgroup`.
    Cgroup,
    /// Ours, backend `memcg_bpf_ops`.
    Ops,
}

impl Policy {
    const ALL: [Policy; 5] =
        [Policy::None, Policy::Static, Policy::Cgroup, Policy::Ops, Policy::Delay50];

    fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Static => "static memory.low",
            Policy::Delay50 => "fixed 50 ms delay",
            Policy::Cgroup => "agentcg, cgroup",
            Policy::Ops => "agentcg, memcg_bpf_ops",
        }
    }
}

/// What keeps a policy in force.
enum Force {
    Nothing,
    Delay(#[expect(dead_code, reason = "held for its links")] FixedDelay),
    Ours(MemoryProtection),
}

impl Force {
    fn detail(&self) -> String {
        let Force::Ours(protection) = self else { return String::new() };
        let stats = protection.stats();
        let sum = |of: fn(&agentcg_core::MemorySessionStats) -> u64| {
            stats.sessions.iter().map(of).sum::<u64>()
        };
        format!(
            "{} windows, {} stalls, {:.1} s; {} MB reclaimed, yielded {}, held {}, delayed {:.1} s, frozen {:.1} s",
            stats.windows,
            stats.stalls,
            stats.protected_ms as f64 / 1e3,
            sum(|s| s.reclaimed) / MB,
            sum(|s| s.yielded),
            sum(|s| s.held),
            sum(|s| s.delay_ms) as f64 / 1e3,
            sum(|s| s.frozen_ms) as f64 / 1e3,
        )
    }
}

/// The cgroups of one measurement, removed at its end.
struct Place {
    parent: Cgroup,
    high: Vec<Cgroup>,
    low: Vec<Cgroup>,
}

impl Place {
    fn new(high: usize, low: usize, limit: Option<u64>) -> Result<Self> {
        let top = Cgroup::open(mount_point()?)?;
        top.enable(&[Controller::Cpu, Controller::Memory])?;
        let parent = top.create_child(&"agentcg-bench".parse()?)?;
        parent.enable(&[Controller::Cpu, Controller::Memory])?;
        if let Some(limit) = limit {
            parent.set_limit(LimitFile::MemoryMax, Limit::Value(limit))?;
        }
        let make = |role: &str, n| {
            (0..n)
                .map(|i| Ok(parent.create_child(&format!("{role}-{i}").parse()?)?))
                .collect::<Result<Vec<_>>>()
        };
        let (high, low) = (make("high", high)?, make("low", low)?);
        Ok(Self { parent, high, low })
    }

    /// Puts a policy in force; `need` is what the static one is told.
    fn force(&self, policy: Policy, need: u64) -> Result<Force> {
        let paths = |list: &[Cgroup]| list.iter().map(|c| c.path().to_path_buf()).collect();
        let backend = match policy {
            Policy::None => return Ok(Force::Nothing),
            Policy::Static => {
                let low = Limit::Value(need);
                self.high.iter().try_for_each(|c| c.set_limit(LimitFile::MemoryLow, low))?;
                let sum = Limit::Value(need * self.high.len() as u64);
                self.parent.set_limit(LimitFile::MemoryLow, sum)?;
                return Ok(Force::Nothing);
            }
            Policy::Delay50 => return Ok(Force::Delay(FixedDelay::attach(&self.low, 50)?)),
            Policy::Cgroup => MemoryBackend::Cgroup,
            Policy::Ops => MemoryBackend::MemcgBpfOps,
        };
        let mut config = MemcgConfig::default();
        config.high = paths(&self.high);
        config.low = paths(&self.low);
        config.backend = backend;
        Ok(Force::Ours(MemoryProtection::attach(config)?))
    }

    fn oom_kills(list: &[Cgroup]) -> Result<u64> {
        list.iter().map(|c| Ok(c.memory_events()?.oom_kill)).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait_populated(false, Duration::from_secs(10));
        if let Err(e) = self.parent.remove_tree() {
            println!("left behind: {e}");
        }
    }
}

/// Keeps all code that runs now in memory: without it programs crashed in some emulated guests. The
/// likely reason, not proven: virtiofsd reads an evicted page again without QEMU's knowledge.
fn keep_code() -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        // Not every entry is a process, and one may be gone by now.
        let maps = std::fs::read_to_string(process.path().join("maps")).unwrap_or_default();
        for line in maps.lines().filter(|l| l.contains(" r-xp ")) {
            let Some(file) = line.find('/').and_then(|i| std::fs::File::open(&line[i..]).ok())
            else {
                continue;
            };
            let bytes = file.metadata()?.len() as usize;
            if bytes == 0 || !seen.insert(line[line.find('/').unwrap_or(0)..].to_owned()) {
                continue;
            }
            // SAFETY: a new mapping that is never used, and stays to the end.
            let locked = unsafe {
                let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
                let flags = libc::MAP_SHARED;
                let at = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, flags, fd, 0);
                at != libc::MAP_FAILED && libc::mlock(at, bytes) == 0
            };
            anyhow::ensure!(locked, "lock: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}

pub fn run(args: &Args) -> Result<()> {
    keep_code()?;
    let has_ops = Capabilities::probe().supports("memcg_bpf_ops");
    let mut policies =
        if args.policy.is_empty() { Policy::ALL.to_vec() } else { args.policy.clone() };
    if !has_ops {
        println!(
            "this kernel has no memcg_bpf_ops: run it under the lab's kernel memcg for all policies"
        );
        policies.retain(|p| !matches!(p, Policy::Delay50 | Policy::Ops));
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    for key in ["MemTotal", "SwapTotal"] {
        println!("{}", meminfo.lines().find(|l| l.starts_with(key)).unwrap_or_default());
    }
    match args.case.as_str() {
        "contention" => contention(&policies, args.seconds),
        "idle" => idle(&policies, args.seconds),
        "traces" => traces(&policies, args.seconds, args.traces.as_deref()),
        "sessions" => sessions(&policies, args.seconds),
        "cost" => cost(&policies),
        other => anyhow::bail!("no case {other}: contention, idle, traces, sessions or cost"),
    }
}

/// Bytes a second between two looks.
struct Rate(Instant, u64);

impl Rate {
    fn begin(worker: &Worker) -> Result<Self> {
        Ok(Self(Instant::now(), worker.progress()?.bytes))
    }

    fn end(&self, worker: &Worker) -> Result<f64> {
        worker.ensure_runs()?;
        let bytes = worker.progress()?.bytes.saturating_sub(self.1);
        Ok(bytes as f64 / MB as f64 / self.0.elapsed().as_secs_f64())
    }
}

/// Waits for the first touch of everything.
fn touched(worker: &Worker, timeout: Duration) -> Result<Progress> {
    let deadline = Instant::now() + timeout;
    loop {
        let progress = worker.progress()?;
        if progress.touched_us > 0 || Instant::now() > deadline {
            return Ok(progress);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

const HIGH: u64 = 250 * MB;
const LOW: u64 = 350 * MB;

/// What was taken from a session and missed: `workingset_refault_anon` of its `memory.stat`.
fn refaults(cgroup: &Cgroup) -> Result<u64> {
    let text = cgroup.read("memory.stat")?;
    let line = text.lines().find_map(|l| l.strip_prefix("workingset_refault_anon "));
    Ok(line.context("no refaults in memory.stat")?.parse()?)
}

/// Waits until a session misses nothing more, for 30 s at most.
fn settle(cgroup: &Cgroup) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut missed = None;
    while Instant::now() < deadline {
        let now = refaults(cgroup)?;
        if missed.replace(now) == Some(now) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// High's speed alone: low is stopped meanwhile.
fn alone(place: &Place, high: &Worker, low: &Worker, time: Duration) -> Result<f64> {
    low.stop()?;
    // First it gets back what it was robbed of, and low ends what it has begun in the kernel.
    settle(&place.high[0])?;
    let rate = Rate::begin(high)?;
    std::thread::sleep(time);
    let alone = rate.end(high)?;
    low.go_on()?;
    Ok(alone)
}

/// What one policy did once.
struct Contention {
    /// MB/s of each: high beside low and alone, and low.
    beside: f64,
    alone: f64,
    low: f64,
    /// High's CPU, and what it missed.
    cpu: f64,
    refaults: u64,
    /// The first touch of all.
    high_first: Progress,
    low_first: Progress,
    killed: u64,
    detail: String,
}

impl Contention {
    /// By turns for 3 s beside low and 1 s alone, for the speed of the host changes all the time. That is
    /// too short for the policies to take notice of.
    fn measure(policy: Policy, seconds: u64) -> Result<Self> {
        let slice = Duration::from_secs(3);
        let turns = (seconds / 4).max(1);
        let place = Place::new(1, 1, None)?;
        let force = place.force(policy, HIGH * 6 / 5)?;
        // Whoever is there first and uses what it has all the time keeps it: that has to be low.
        let mut low = Worker::start(&place.low[0], &format!("loop:{LOW}"))?;
        low.go();
        let low_first = touched(&low, Duration::from_secs(60))?;
        std::thread::sleep(slice);
        // It works on what it has: a bare touch of each page would measure the emulated TLB.
        let mut high = Worker::start(&place.high[0], &format!("use:{HIGH}"))?;
        high.go();
        let high_first = touched(&high, Duration::from_secs(60))?;
        let used = || Ok::<_, anyhow::Error>(place.high[0].cpu_stat()?.usage_usec as f64 / 1e6);
        let mut sums = [0.0; 4];
        let mut missed = 0;
        for _ in 0..turns {
            let (before, cpu) = (refaults(&place.high[0])?, used()?);
            let (h, l) = (Rate::begin(&high)?, Rate::begin(&low)?);
            std::thread::sleep(slice);
            let cpu = (used()? - cpu) / slice.as_secs_f64();
            let (h, l) = (h.end(&high)?, l.end(&low)?);
            missed += refaults(&place.high[0])? - before;
            let alone = alone(&place, &high, &low, slice / 3)?;
            sums.iter_mut().zip([h, alone, l, cpu]).for_each(|(sum, one)| *sum += one);
        }
        let [beside, alone, low, cpu] = sums.map(|sum| sum / turns as f64);
        Ok(Self {
            beside,
            alone,
            low,
            cpu,
            refaults: missed,
            high_first,
            low_first,
            killed: Place::oom_kills(&place.high)? + Place::oom_kills(&place.low)?,
            detail: force.detail(),
        })
    }

    fn kept(&self) -> f64 {
        self.beside / self.alone * 100.0
    }
}

fn contention(policies: &[Policy], seconds: u64) -> Result<()> {
    const ROUNDS: usize = 3;
    println!("\n{ROUNDS} times by turns, and at the end the one in the middle");
    println!(
        "\n{:<24} {:>10} {:>9} {:>8} {:>5} {:>8} {:>8} | {:>8} {:>8} {:>6}",
        "policy",
        "alone MB/s",
        "high MB/s",
        "of alone",
        "CPU",
        "refaults",
        "1st pass",
        "low MB/s",
        "1st pass",
        "killed"
    );
    let tell = |policy: Policy, c: &Contention| {
        println!(
            "{:<24} {:>10.0} {:>9.0} {:>7.0}% {:>5.2} {:>8} {:>8} | {:>8.0} {:>8} {:>6}  {}",
            policy.name(),
            c.alone,
            c.beside,
            c.kept(),
            c.cpu,
            c.refaults,
            first_pass(&c.high_first),
            c.low,
            first_pass(&c.low_first),
            c.killed,
            c.detail,
        );
    };
    let all = by_turns(policies, ROUNDS, |&policy| match Contention::measure(policy, seconds) {
        Ok(one) => {
            tell(policy, &one);
            Ok(Some(one))
        }
        // That with others somebody is killed is a result too.
        Err(e) if !matches!(policy, Policy::Cgroup | Policy::Ops) => {
            println!("{:<24} {e:#}", policy.name());
            Ok(None)
        }
        Err(e) => Err(e),
    })?;
    println!();
    for (policy, all) in policies.iter().zip(all) {
        let mut all: Vec<Contention> = all.into_iter().flatten().collect();
        all.sort_by(|a, b| a.kept().total_cmp(&b.kept()));
        if let Some(middle) = all.get(all.len() / 2) {
            tell(*policy, middle);
        }
    }
    Ok(())
}

fn first_pass(progress: &Progress) -> String {
    match progress.touched_us {
        0 => "not".to_owned(),
        us => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn idle(policies: &[Policy], seconds: u64) -> Result<()> {
    const ROUNDS: usize = 5;
    let time = Duration::from_secs(seconds) / 4;
    println!("\n{ROUNDS} times by turns: the one in the middle, and all");
    println!("{:<24} {:>10} {:>8} {:>8}", "policy", "low MB/s", "of none", "1st pass");
    let mut all = by_turns(policies, ROUNDS, |&policy| {
        let place = Place::new(1, 1, None)?;
        let mut high = Worker::start(&place.high[0], &format!("hold:{HIGH}"))?;
        let mut low = Worker::start(&place.low[0], &format!("use:{LOW}"))?;
        let force = place.force(policy, HIGH * 6 / 5)?;
        high.go();
        touched(&high, Duration::from_secs(60))?;
        low.go();
        let first = first_pass(&touched(&low, Duration::from_secs(60))?);
        // High is pushed out, unless somebody hinders that.
        settle(&place.low[0])?;
        let rate = Rate::begin(&low)?;
        std::thread::sleep(time);
        Ok((rate.end(&low)?, first, force.detail()))
    })?;
    let mut without = None;
    for (policy, all) in policies.iter().zip(&mut all) {
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, first, detail) = &all[ROUNDS / 2];
        let of = *without.get_or_insert(*rate);
        let rates: Vec<String> = all.iter().map(|one| format!("{:.0}", one.0)).collect();
        println!(
            "{:<24} {rate:>10.0} {:>7.0}% {first:>8}  {}  {detail}",
            policy.name(),
            rate / of * 100.0,
            rates.join(" ")
        );
    }
    Ok(())
}

/// Three agents at the same task, the high one a tenth of it later: the low ones hold the most that they
/// want just when the high one grows. Together they want 1.3 GB, less than limit and swap have, so that
/// nobody need be killed.
const TRACE: &str = "pre-commit__pre-commit-mirror-maker-64.local.json";

fn traces(policies: &[Policy], seconds: u64, directory: Option<&Path>) -> Result<()> {
    let directory = directory.context("the case traces needs --traces DIR")?;
    println!("\none high, two low, {seconds} s each when nothing hinders, 1100 MB for all");
    println!(
        "{:<24} {:>13} {:>14} {:>8} {:>10} {:>10} {:>8}",
        "policy", "high p95 µs", "high waited s", "refaults", "high s", "all s", "killed"
    );
    let unlimited = policies.contains(&Policy::None).then_some((Policy::None, None, "no limit"));
    let limited = policies.iter().map(|p| (*p, Some(1100 * MB), p.name()));
    for (policy, limit, name) in unlimited.into_iter().chain(limited) {
        let place = Place::new(1, 2, limit)?;
        let mut workers = Vec::new();
        let trace = directory.join(TRACE);
        for (i, cgroup) in place.high.iter().chain(&place.low).enumerate() {
            let late = if i == 0 { seconds as f64 / 10.0 } else { 0.0 };
            let job = format!("replay:{seconds}:{late}:{}", trace.display());
            workers.push(Worker::start(cgroup, &job)?);
        }
        let force = place.force(policy, 450 * MB)?;
        workers.iter_mut().for_each(Worker::go);
        let deadline = Instant::now() + Duration::from_secs(seconds * 4);
        for worker in &mut workers {
            worker.finish(deadline)?;
        }
        let done: Vec<_> = workers.iter().map(Worker::progress).collect::<Result<_>>()?;
        let killed = Place::oom_kills(&place.high)? + Place::oom_kills(&place.low)?;
        let time = |p: &Progress| match p.done_us {
            0 => "not".to_owned(),
            us => format!("{:.1}", us as f64 / 1e6),
        };
        let last = done.iter().max_by_key(|p| if p.done_us == 0 { u64::MAX } else { p.done_us });
        println!(
            "{name:<24} {:>13} {:>14.2} {:>8} {:>10} {:>10} {killed:>8}  {}",
            done[0].p95_us,
            done[0].waited_us as f64 / 1e6,
            refaults(&place.high[0])?,
            time(&done[0]),
            last.map(time).unwrap_or_default(),
            force.detail()
        );
    }
    Ok(())
}

fn sessions(policies: &[Policy], seconds: u64) -> Result<()> {
    const HIGH: usize = 5;
    const LOW: usize = 20;
    const BURST: u64 = 48 * MB;
    // A burst takes about 8 s when nothing hinders. Few and long: all of them share two emulated CPUs.
    let bursts = seconds / 8;
    println!("\n{HIGH} high, {LOW} low, {bursts} bursts each");
    println!(
        "{:<24} {:>11} {:>10} {:>12} {:>10} {:>11} {:>12}",
        "policy", "high stall", "high done", "high killed", "low done", "low killed", "all done in"
    );
    for policy in policies {
        let place = Place::new(HIGH, LOW, None)?;
        let mut workers = Vec::new();
        for (i, cgroup) in place.high.iter().chain(&place.low).enumerate() {
            workers
                .push(Worker::start(cgroup, &format!("bursts:{}:{bursts}:{}", i + 1, BURST / MB))?);
        }
        let force = place.force(*policy, BURST)?;
        let began = Instant::now();
        let stalls = |c: &Cgroup| Ok::<_, anyhow::Error>(c.memory_pressure()?.some.total_usec);
        workers.iter_mut().for_each(Worker::go);
        let deadline = began + Duration::from_secs(seconds * 8);
        let (mut worst, mut high_done) = (0.0_f64, 0);
        let (high, low) = workers.split_at_mut(HIGH);
        for (worker, cgroup) in high.iter_mut().zip(&place.high) {
            high_done += usize::from(worker.finish(deadline)?);
            let took = match worker.progress()?.done_us {
                0 => began.elapsed().as_micros() as f64,
                us => us as f64,
            };
            worst = worst.max(stalls(cgroup)? as f64 / took);
        }
        let mut done = 0;
        for worker in low {
            done += usize::from(worker.finish(deadline)?);
        }
        println!(
            "{:<24} {:>10.1}% {:>10} {:>12} {:>10} {:>11} {:>10.1} s  {}",
            policy.name(),
            worst * 100.0,
            format!("{high_done}/{HIGH}"),
            Place::oom_kills(&place.high)?,
            format!("{done}/{LOW}"),
            Place::oom_kills(&place.low)?,
            began.elapsed().as_secs_f64(),
            force.detail()
        );
    }
    Ok(())
}

fn cost(policies: &[Policy]) -> Result<()> {
    const ROUNDS: usize = 9;
    println!("\nfirst touch of 400 MB, {ROUNDS} times by turns: median, and the middle half");
    let mut times = by_turns(policies, ROUNDS, |&policy| {
        let place = Place::new(1, 1, None)?;
        // What is measured is a low one: its hook is the more expensive.
        let mut worker = Worker::start(&place.low[0], &format!("touch:{}", 400 * MB))?;
        let _force = place.force(policy, HIGH)?;
        worker.go();
        anyhow::ensure!(worker.finish(Instant::now() + Duration::from_secs(120))?, "killed");
        Ok(worker.progress()?.done_us as f64 / 1e3)
    })?;
    let mut without = None;
    for (policy, times) in policies.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        let of = *without.get_or_insert(median);
        println!(
            "{:<24} {median:>8.1} ms  {:>7.1} to {:.1} ms  {:>+6.1}%",
            policy.name(),
            times[ROUNDS / 4],
            times[ROUNDS * 3 / 4],
            (median / of - 1.0) * 100.0
        );
    }
    Ok(())
}
