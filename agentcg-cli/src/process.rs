//! `agentcg process`.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agentcg_core::{Event, EventFilter, EventMode, EventStream, mount_point};
use anyhow::Result;
use serde_json::json;

use crate::output::Output;
use crate::signals::Signals;

/// Options of `agentcg process`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// 0: everything; 1: file events of tracked processes only; 2: tracked processes only.
    /// Tracked is what -c, -p or --cgroup names, and its descendants
    #[arg(short, long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2))]
    mode: u32,
    /// Command names; `python` also matches python3 and python3.11
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    commands: Vec<String>,
    /// A process, with its descendants
    #[arg(short, long, value_name = "PID")]
    pid: Vec<i32>,
    /// Leave out the EXIT of processes that lived less than this
    #[arg(short = 'd', long, value_name = "MIN_MS", default_value_t = 0)]
    min_duration: u64,
    /// A cgroup v2 directory, with everything below it
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<PathBuf>,
    /// Begin with a line that describes the stream
    #[arg(long)]
    header: bool,
}

/// The version of the event JSON.
const SCHEMA: u32 = 1;

/// Prints events until SIGINT or SIGTERM or until nobody reads them.
///
/// # Errors
/// Those of [`EventStream::open`] and of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let mut filter = EventFilter::default();
    filter.mode = EventMode::from_number(args.mode)?;
    filter.commands.clone_from(&args.commands);
    filter.pids.clone_from(&args.pid);
    filter.cgroups.clone_from(&args.cgroup);
    filter.min_duration = Duration::from_millis(args.min_duration);
    if args.mode == 2 && args.commands.is_empty() && args.pid.is_empty() && args.cgroup.is_empty() {
        anyhow::bail!("mode 2 reports only what -c, -p or --cgroup names; give one of them");
    }
    let root = mount_point().ok().map(|m| m.join("agentcg"));
    let mut stream = EventStream::open(&filter, root.as_deref())?;
    for probe in stream.missing() {
        eprintln!("agentcg: no {}: {}", probe.what, probe.error);
    }

    let mut out = Output::default();
    let mut counts = Counts::default();
    let mut going = !args.header || out.line(&header(args))?;
    while going {
        while going && let Some(event) = stream.try_next()? {
            counts.add(&event);
            going = out.line(&event.to_json())?;
        }
        going = going && out.flush()? && !signals.wait(&[stream.as_fd()], None)?;
    }
    out.flush()?;
    eprintln!("agentcg: {} events, {} dropped", counts.events, counts.dropped);
    Ok(ExitCode::SUCCESS)
}

fn header(args: &Args) -> String {
    let uname = rustix::system::uname();
    json!({
        "event": "HEADER",
        "schema": SCHEMA,
        "clock": "CLOCK_BOOTTIME",
        "host": uname.nodename().to_string_lossy(),
        "kernel": uname.release().to_string_lossy(),
        "filter": {
            "mode": args.mode,
            "commands": args.commands,
            "pids": args.pid,
            "cgroups": args.cgroup,
            "min_duration_ms": args.min_duration,
        },
    })
    .to_string()
}

#[derive(Default)]
struct Counts {
    events: u64,
    dropped: u64,
}

impl Counts {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Dropped(d) => self.dropped += d.count,
            _ => self.events += 1,
        }
    }
}
