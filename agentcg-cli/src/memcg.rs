//! `agentcg memcg`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentcg_core::{MemcgConfig, MemoryBackend, MemoryProtection, MemoryStats, StuckAction};
use anyhow::Result;

use crate::output::{Output, name};
use crate::signals::Signals;

/// Options of `agentcg memcg`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cgroups to protect
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    high: Vec<PathBuf>,
    /// Cgroups to hold back while a high one stalls
    #[arg(long, value_name = "PATH", num_args = 1..)]
    low: Vec<PathBuf>,
    /// The longest delay of an allocation of a low one; 0 leaves them alone. The cgroup backend
    /// sets memory.high, and the kernel chooses the delay
    #[arg(long, value_name = "MS", default_value_t = 50)]
    delay_ms: u64,
    /// So many page faults a second of a high one count as a stall while memory is short; 0: none do
    #[arg(long, value_name = "N", default_value_t = 0)]
    threshold: u64,
    /// Protect with memory.low (this is the default unless --below-min is given)
    #[arg(long)]
    below_low: bool,
    /// Protect with memory.min: never reclaimed, at the risk that others are killed
    #[arg(long)]
    below_min: bool,
    /// How long all is protected after the last stall; less from then on, while others press
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    window_ms: u64,
    /// The mechanism: auto, memcg_bpf_ops or cgroup
    #[arg(long, default_value = "auto")]
    backend: MemoryBackend,
    /// Never freeze low ones, also when nothing else helps
    #[arg(long)]
    no_freeze: bool,
    /// A cgroup that meets its memory.high for so long without progress is stuck
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stuck_after: u64,
    /// What is done with it: report, freeze or lift (its memory.high)
    #[arg(long, value_name = "ACTION", default_value = "report")]
    when_stuck: StuckAction,
    /// Print statistics every so many seconds; 0: at the end only
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2)]
    interval: u64,
    /// Print the statistics as JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Protects until SIGINT or SIGTERM, or until nobody reads the statistics any more.
///
/// # Errors
/// Those of [`MemoryProtection::attach`].
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let mut config = MemcgConfig::default();
    config.high.clone_from(&args.high);
    config.low.clone_from(&args.low);
    config.delay = Duration::from_millis(args.delay_ms);
    config.threshold = args.threshold;
    config.below_low = args.below_low || !args.below_min;
    config.below_min = args.below_min;
    config.window = Duration::from_millis(args.window_ms);
    config.backend = args.backend;
    config.freeze = !args.no_freeze;
    config.stuck_after = Duration::from_secs(args.stuck_after);
    config.when_stuck = args.when_stuck;
    let protection = MemoryProtection::attach(config)?;
    eprintln!(
        "agentcg: protecting memory with the backend {}; Ctrl-C ends it",
        name(protection.backend())
    );

    let mut out = Output::default();
    let interval = Duration::from_secs(args.interval);
    let mut next = Instant::now() + interval;
    let show = |out: &mut Output| -> Result<bool> {
        let stats = protection.stats();
        let text = if args.json { serde_json::to_string(&stats)? } else { table(&stats) };
        Ok(out.line(&text)? && out.flush()?)
    };
    loop {
        let left = (args.interval > 0).then(|| next.saturating_duration_since(Instant::now()));
        if signals.wait(&[], left)? {
            break;
        }
        if args.interval > 0 && Instant::now() >= next {
            next += interval;
            if !show(&mut out)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    show(&mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn table(stats: &MemoryStats) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let mut text = format!(
        "{}: {} stalls ({} by own limits), protected {} times, {} ms in all\n\
         role  now       stalls  protected    need MiB  part MiB      calls   answered   delay ms  \
         reclaimed MiB  frozen ms  cgroup",
        if stats.active { "protecting" } else { "quiet" },
        stats.stalls,
        stats.ignored,
        stats.windows,
        stats.protected_ms
    );
    for s in &stats.sessions {
        let now = match (s.present, s.active, name(s.role) == "high") {
            (false, ..) => "gone",
            (_, false, _) => "-",
            (_, _, true) => "protected",
            (_, _, false) => "slowed",
        };
        text += &format!(
            "\n{:4}  {now:9} {:6}  {:6} ms  {:10}  {:8}  {:9}  {:9}  {:9}  {:13}  {:9}  {}",
            name(s.role),
            s.stalls,
            s.protected_ms,
            mib(s.working_set),
            mib(s.part),
            s.calls,
            s.answered,
            s.delay_ms,
            mib(s.reclaimed),
            s.frozen_ms,
            s.cgroup.display()
        );
    }
    for s in &stats.stuck {
        text += &format!(
            "\nstuck above memory.high {}: {} events, {} ms of work in {} ms ({})  {}",
            s.memory_high,
            s.high_events,
            s.user.as_millis(),
            s.duration.as_millis(),
            name(s.action),
            s.cgroup.display()
        );
    }
    text
}
