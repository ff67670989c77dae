//! `agentcg process`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentcg_core::{
    Event, EventFilter, EventKind, EventMode, EventStats, EventStream, mount_point, parse_duration,
    parse_size,
};
use anyhow::Result;
use serde_json::json;

use crate::output::Output;
use crate::signals::Signals;

/// Options of `agentcg process`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// 0: everything; 1: file events of tracked processes only; 2: tracked processes only.
    /// Tracked is what -c, -p, --cgroup, --uid or --exe names, and its descendants
    #[arg(short, long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2))]
    mode: u32,
    /// Command names; `python` also matches python3 and python3.11
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    commands: Vec<String>,
    /// A process, with its descendants
    #[arg(short, long, value_name = "PID")]
    pid: Vec<i32>,
    /// A cgroup v2 directory, with everything below it
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<PathBuf>,
    /// A user's processes
    #[arg(long, value_name = "UID")]
    uid: Vec<u32>,
    /// What the path of the executed file begins with
    #[arg(long, value_name = "PREFIX")]
    exe: Vec<PathBuf>,
    /// Leave out the EXIT of processes that lived less than this
    #[arg(short = 'd', long, value_name = "MIN_MS", default_value_t = 0)]
    min_duration: u64,
    /// Only these: EXEC, EXIT, FORK, FILE_OPEN, BASH_READLINE, OOM_KILL
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    events: Vec<EventKind>,
    /// How long an event may wait for others; 0s: delivered at once, at many times the cost
    #[arg(long, value_name = "DURATION", default_value = "10ms", value_parser = duration)]
    delay: Duration,
    /// The size of the kernel's buffer
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = size)]
    buffer: u32,
    /// Cut the arguments of EXEC beyond this size
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = size)]
    args_size: u32,
    /// FILE_OPEN events of one thread in a second; more are counted as dropped
    #[arg(long, value_name = "N", default_value_t = 1000)]
    open_rate: u32,
    /// Repeated opens of a path within this time become one event
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    open_window: Duration,
    /// json: one object a line; table: for reading [default: table on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Begin with a line that describes the stream
    #[arg(long)]
    header: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Table,
}

fn duration(text: &str) -> Result<Duration, agentcg_core::Error> {
    parse_duration(text)
}

fn size(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|e| e.to_string())?;
    u32::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
}

/// How long events that wait are still read after a signal, on a machine that makes ever new ones.
const LAST_READ: Duration = Duration::from_secs(1);
/// The version of the event JSON.
const SCHEMA: u32 = 1;

impl Args {
    fn filter(&self) -> Result<EventFilter> {
        let mut filter = EventFilter::default();
        filter.mode = EventMode::from_number(self.mode)?;
        filter.commands.clone_from(&self.commands);
        filter.pids.clone_from(&self.pid);
        filter.cgroups.clone_from(&self.cgroup);
        filter.uids.clone_from(&self.uid);
        filter.executables.clone_from(&self.exe);
        filter.min_duration = Duration::from_millis(self.min_duration);
        if !self.events.is_empty() {
            filter.kinds.clone_from(&self.events);
        }
        filter.delay = self.delay;
        filter.buffer_bytes = self.buffer;
        filter.args_bytes = self.args_size;
        filter.open_rate = self.open_rate;
        filter.open_window = self.open_window;
        if filter.mode == EventMode::TrackedOnly && !filter.tracks() {
            anyhow::bail!(
                "mode 2 reports only what -c, -p, --cgroup, --uid or --exe names; give one of them"
            );
        }
        Ok(filter)
    }
}

/// Prints events until SIGINT or SIGTERM or until nobody reads them.
///
/// # Errors
/// Those of [`EventStream::open`] and of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let filter = args.filter()?;
    let root = mount_point().ok().map(|m| m.join("agentcg"));
    let mut stream = EventStream::open(&filter, root.as_deref())?;
    for probe in stream.missing() {
        eprintln!("agentcg: no {}: {}", probe.what, probe.error);
    }

    let mut out = Output::default();
    let terminal = std::io::stdout().is_terminal();
    let format = args.format.unwrap_or(if terminal { Format::Table } else { Format::Json });
    let mut going = match format {
        Format::Table => out.line(&titles())? && out.flush()?,
        Format::Json if args.header => out.line(&header(args, &filter))? && out.flush()?,
        Format::Json => true,
    };
    let print = |event: Event, out: &mut Output| {
        out.line(&match format {
            Format::Table => row(&event),
            Format::Json => event.to_json(),
        })
    };
    let mut stopped = false;
    while going && !stopped {
        // Once more after the signal: what the kernel has written by then is part of the answer.
        stopped = signals.wait(&[stream.as_fd()], None)?;
        let until = Instant::now() + LAST_READ;
        while going
            && let Some(event) = stream.try_next()?
            && (!stopped || Instant::now() < until)
        {
            going = print(event, &mut out)?;
        }
        going = going && out.flush()?;
    }
    eprintln!("agentcg: {}", summary(&stream.stats()?));
    Ok(ExitCode::SUCCESS)
}

fn summary(s: &EventStats) -> String {
    let mut text = format!("{} events, {} dropped", s.received, s.dropped());
    for (count, why) in [
        (s.ring_full, "the buffer was full"),
        (s.rate_limited, "file events over the rate limit"),
        (s.map_full, "processes and opens for which the kernel had no memory"),
        (s.recursion, "probes that the kernel skipped"),
        (s.read_fault, "incomplete: a path or arguments could not be read"),
    ] {
        if count > 0 {
            text += &format!("; {count} {why}");
        }
    }
    text
}

fn header(args: &Args, filter: &EventFilter) -> String {
    let uname = rustix::system::uname();
    json!({
        "event": "HEADER",
        "schema": SCHEMA,
        "clock": "CLOCK_BOOTTIME",
        "host": uname.nodename().to_string_lossy(),
        "kernel": uname.release().to_string_lossy(),
        "filter": {
            "mode": args.mode,
            "commands": filter.commands,
            "pids": filter.pids,
            "cgroups": lossy(&filter.cgroups),
            "uids": filter.uids,
            "executables": lossy(&filter.executables),
            "min_duration_ms": args.min_duration,
            "events": filter.kinds.iter().map(|k| k.name()).collect::<Vec<_>>(),
        },
    })
    .to_string()
}

/// JSON has no other text than UTF-8.
fn lossy(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|p| p.to_string_lossy().into_owned()).collect()
}

fn titles() -> String {
    format!("{:<13} {:>8} {:>8} {:<15} WHAT", "EVENT", "PID", "PPID", "COMM")
}

/// One line for people. What a process wrote into its arguments must not move the cursor.
fn row(event: &Event) -> String {
    let (name, what) = match event {
        Event::Exec(e) => (EventKind::Exec.name(), e.full_command()),
        Event::Exit(e) => (EventKind::Exit.name(), ending(e)),
        Event::Fork(e) => (EventKind::Fork.name(), format!("-> {}", e.child_pid)),
        Event::FileOpen(e) => {
            let times = if e.count > 1 { format!(" ({} times)", e.count) } else { String::new() };
            let failed =
                if e.result < 0 { format!(" [errno {}]", -e.result) } else { String::new() };
            (EventKind::FileOpen.name(), format!("{}{times}{failed}", e.filepath.to_string_lossy()))
        }
        Event::BashReadline(e) => {
            (EventKind::BashReadline.name(), e.command.to_string_lossy().into_owned())
        }
        Event::OomKill(e) => {
            let limit = e.limit_cgroup.as_deref().map(|p| p.display().to_string());
            let limit = limit.unwrap_or_else(|| "the machine's memory".into());
            (EventKind::OomKill.name(), format!("limit of {limit}"))
        }
        Event::Dropped(d) => ("DROPPED", format!("{} ({:?})", d.count, d.reason)),
        _ => ("?", event.to_json()),
    };
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match event.origin() {
        Some(o) => {
            let comm = o.comm.to_string_lossy().replace(|c: char| c.is_control(), " ");
            format!("{name:<13} {:>8} {:>8} {comm:<15} {what}", o.pid, o.ppid)
        }
        None => format!("{name:<13} {:>8} {:>8} {:<15} {what}", "", "", ""),
    }
}

fn ending(e: &agentcg_core::Exit) -> String {
    let how = match (e.exit_code, e.signal) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "?".into(),
    };
    let oom = if e.oom_killed { ", killed by the OOM killer" } else { "" };
    format!(
        "{how}{oom}, {} ms, CPU {} ms, peak {} KiB",
        e.duration_ms,
        (e.cpu_user_us + e.cpu_system_us) / 1000,
        e.memory_peak_bytes >> 10
    )
}
