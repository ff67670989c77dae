//! `agentcg scheduler`.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentcg_core::{
    Cgroup, CgroupRuntime, CgroupUsage, Scheduler, SchedulerConfig, SchedulerScope, SchedulerStats,
    SessionStats, mount_point,
};
use anyhow::Result;
use serde::Serialize;

use crate::output::Output;
use crate::signals::Signals;

/// Options of `agentcg scheduler`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print statistics every so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// How long a task runs before others are looked at, in µs
    #[arg(short, long, value_name = "SLICE_US", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    slice: u64,
    /// Schedule every normal task, or only those of agentcg's sessions
    #[arg(long, value_enum, default_value = "all")]
    scope: Scope,
    /// The cgroup whose children are the sessions [default: agentcg below the cgroup v2 mount]
    #[arg(long, value_name = "CGROUP")]
    root: Option<PathBuf>,
    /// Print the statistics as JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Scope {
    All,
    Agents,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Length of the interval.
    interval_ms: u128,
    /// Since the scheduler was attached.
    counters: SchedulerStats,
    sessions: &'a [SessionStats],
}

/// What sessions had got by a moment.
#[derive(Debug)]
struct Sessions {
    root: PathBuf,
    cpus: usize,
    at: Instant,
    got: HashMap<String, CgroupUsage>,
}

impl Sessions {
    fn new(root: PathBuf, scheduler: &Scheduler) -> Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        let mut sessions = Self { root, cpus, at: Instant::now(), got: HashMap::new() };
        sessions.next(scheduler)?;
        Ok(sessions)
    }

    /// What each got since the last call, and how long that is ago.
    fn next(&mut self, scheduler: &Scheduler) -> Result<(Vec<SessionStats>, Duration)> {
        let mut got = HashMap::new();
        // The root may come and go.
        if let Ok(root) = Cgroup::open(&self.root) {
            for session in root.children()? {
                if let (Ok(usage), Some(name)) =
                    (scheduler.cgroup_usage(&session), session.path().file_name())
                {
                    got.insert(name.to_string_lossy().into_owned(), usage);
                }
            }
        }
        let interval = self.at.elapsed();
        self.at = Instant::now();
        let before = std::mem::replace(&mut self.got, got);
        let mut stats: Vec<_> = self
            .got
            .iter()
            .map(|(name, now)| {
                let then = before.get(name).copied().unwrap_or_default();
                SessionStats::new(name, &now.since(&then), interval, self.cpus)
            })
            .collect();
        stats.sort_by(|a, b| b.run_us.cmp(&a.run_us).then_with(|| a.session.cmp(&b.session)));
        Ok((stats, interval))
    }
}

/// Cgroups shown at each interval, those that used most.
const SHOWN: usize = 8;

/// Runs until SIGINT or SIGTERM, or until the kernel detaches the scheduler.
///
/// # Errors
/// Those of attaching; the exit reason where the kernel detached it for an error.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let mut config = SchedulerConfig::default();
    config.slice = Duration::from_micros(args.slice);
    config.scope = match args.scope {
        Scope::All => SchedulerScope::All,
        Scope::Agents => SchedulerScope::Agents,
    };
    let mount = mount_point()?;
    let root = args.root.clone().unwrap_or_else(|| mount.join("agentcg"));
    let scheduler = Scheduler::attach(&config, root.exists().then_some(root.as_path()))?;
    eprintln!("agentcg: scheduler attached, slice {} µs; Ctrl-C detaches it", args.slice);

    let top = Cgroup::open(&mount)?;
    let mut out = Output::default();
    let mut before = runtimes(&scheduler, &top)?;
    let mut sessions = Sessions::new(root, &scheduler)?;
    let mut at = Instant::now();
    let interval = Duration::from_secs(args.interval);
    loop {
        let left = (at + interval).saturating_duration_since(Instant::now());
        if signals.wait(&[scheduler.as_fd()], Some(left))? {
            break;
        }
        if let Some(exit) = scheduler.exited() {
            anyhow::ensure!(!exit.kind.is_error(), "the kernel detached the scheduler: {exit}");
            eprintln!("agentcg: the scheduler left: {exit}");
            return Ok(ExitCode::FAILURE);
        }
        if at.elapsed() >= interval {
            let (stats, passed) = sessions.next(&scheduler)?;
            let text = if args.json {
                serde_json::to_string(&Report {
                    interval_ms: passed.as_millis(),
                    counters: scheduler.stats(),
                    sessions: &stats,
                })?
            } else {
                let now = runtimes(&scheduler, &top)?;
                let text = table(&scheduler, &before, &now, at.elapsed()) + &session_table(&stats);
                before = now;
                text
            };
            at = Instant::now();
            if !(out.line(&text)? && out.flush()?) {
                break;
            }
        }
    }
    let exit = scheduler.detach();
    eprintln!("agentcg: scheduler {exit}");
    Ok(ExitCode::SUCCESS)
}

fn runtimes(scheduler: &Scheduler, top: &Cgroup) -> Result<HashMap<PathBuf, CgroupRuntime>> {
    let mut found = HashMap::new();
    top.walk(&mut |cgroup| {
        // Cgroups without a cpu controller have no share of their own.
        if let Ok(runtime) = scheduler.cgroup_runtime(cgroup) {
            found.insert(cgroup.path().to_path_buf(), runtime);
        }
        Ok(())
    })?;
    Ok(found)
}

fn session_table(sessions: &[SessionStats]) -> String {
    let mut text = String::new();
    if !sessions.is_empty() {
        text += "\n share    run ms  wait p50  wait p99 µs  throttled ms  held ms  preempted  migrated  session";
    }
    for s in sessions {
        let micros = |t: Option<u64>| t.map_or("-".to_owned(), |t| t.to_string());
        text += &format!(
            "\n{:5.1}%  {:8}  {:>8}  {:>11}  {:12}  {:7}  {:9}  {:8}  {}",
            s.share * 100.0,
            s.run_us / 1000,
            micros(s.wait_p50_us),
            micros(s.wait_p99_us),
            s.throttled_us / 1000,
            s.held_back_us / 1000,
            s.preemptions,
            s.migrations,
            s.session
        );
    }
    text
}

fn table(
    scheduler: &Scheduler,
    before: &HashMap<PathBuf, CgroupRuntime>,
    now: &HashMap<PathBuf, CgroupRuntime>,
    elapsed: Duration,
) -> String {
    let mut used: Vec<_> = now
        .iter()
        .map(|(path, r)| {
            (r.run_ns - before.get(path).map_or(0, |b| b.run_ns).min(r.run_ns), r, path)
        })
        .filter(|(ns, ..)| *ns > 0)
        .collect();
    used.sort_by_key(|(ns, ..)| std::cmp::Reverse(*ns));
    let stats = scheduler.stats();
    let mut text = format!(
        "to idle CPU {}  queued {}  kept running {}  displaced {}\n   CPU  weight  runnable  cgroup",
        stats.direct, stats.queued, stats.kept, stats.displaced
    );
    for (ns, r, path) in used.into_iter().take(SHOWN) {
        let cpus = ns as f64 / elapsed.as_nanos() as f64;
        text += &format!("\n{cpus:6.2}  {:6}  {:8}  {}", r.weight, r.nr_runnable, path.display());
    }
    text
}
