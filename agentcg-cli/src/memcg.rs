//! `agentcg memcg`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agentcg_core::{MemcgConfig, MemoryBackend, MemoryProtection};
use anyhow::Result;

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
    /// A stall counts only with at least this many major faults and refaults since the last
    #[arg(long, value_name = "N", default_value_t = 0)]
    threshold: u64,
    /// Protect with memory.low (this is the default unless --below-min is given)
    #[arg(long)]
    below_low: bool,
    /// Protect with memory.min: never reclaimed, at the risk that others are killed
    #[arg(long)]
    below_min: bool,
    /// How long protection lasts after the last stall
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    window_ms: u64,
    /// The mechanism: auto, memcg_bpf_ops or cgroup
    #[arg(long, default_value = "auto")]
    backend: MemoryBackend,
    /// Print the final statistics as JSON
    #[arg(long)]
    json: bool,
}

/// Protects until SIGINT or SIGTERM, then prints statistics.
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
    let protection = MemoryProtection::attach(config)?;
    eprintln!("agentcg: protecting memory with the backend cgroup; Ctrl-C ends it");
    while !signals.wait(&[], None)? {}

    let stats = protection.stats();
    if args.json {
        println!("{}", serde_json::to_string(&stats)?);
    } else {
        println!(
            "{} stalls, {} below the threshold; protected {} times, {} ms in all",
            stats.stalls, stats.ignored, stats.windows, stats.protected_ms
        );
    }
    Ok(ExitCode::SUCCESS)
}
