//! `agentcg top`.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentcg_core::{SessionView, Usage};
use anyhow::Result;

use crate::output::Output;
use crate::signals::Signals;
use crate::target::RootArg;
use crate::terminal::{self, Screen};
use crate::view;

/// Options of `agentcg top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
CPU is percent of one CPU, since the last picture. q or Ctrl-C ends it.")]
pub struct Args {
    #[command(flatten)]
    root: RootArg,
    /// Draw it again every so often
    #[arg(short, long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// One picture, after one interval, without the terminal's other screen
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(100);
    match agentcg_core::parse_duration(text) {
        Ok(short) if short < least => Err("expected 100ms or more".into()),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

/// CPU time of each cgroup at one moment.
struct Look {
    at: Instant,
    cpu: HashMap<PathBuf, u64>,
}

impl Look {
    fn at(sessions: &[SessionView]) -> Self {
        let mut cpu = HashMap::new();
        for session in sessions {
            let calls = session.calls.iter().map(|c| (&c.path, &c.usage));
            for (path, usage) in calls.chain([(&session.path, &session.usage)]) {
                cpu.extend(usage.cpu_us().map(|us| (path.clone(), us)));
            }
        }
        Self { at: Instant::now(), cpu }
    }

    /// Percent of one CPU since then; of what is new, since it began.
    fn share(&self, path: &Path, usage: &Usage, now: Instant) -> Option<f64> {
        let used = usage.cpu_us()?.saturating_sub(*self.cpu.get(path).unwrap_or(&0));
        let time = now.duration_since(self.at).as_micros() as f64;
        (time > 0.0).then(|| used as f64 / time * 100.0)
    }
}

/// Draws sessions and calls until SIGINT, SIGTERM, `q`, or until nobody reads them.
///
/// # Errors
/// Those of reading the cgroups and of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut signals = Signals::install()?;
    let mut before = Look::at(&args.root.sessions()?);
    let screen = if args.once { None } else { Screen::open()? };
    let mut out = Output::default();
    if let Some(screen) = &screen {
        screen.draw("looking ...")?;
    }
    loop {
        if wait(&mut signals, screen.as_ref(), before.at + args.interval)? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut sessions = args.root.sessions()?;
        let now = Look::at(&sessions);
        let share = |path: &Path, usage: &Usage| before.share(path, usage, now.at);
        for session in &mut sessions {
            session.calls.sort_by(|a, b| {
                let [a, b] = [a, b].map(|c| share(&c.path, &c.usage).unwrap_or(0.0));
                b.total_cmp(&a)
            });
        }
        let cpu = |path: &Path, usage: &Usage| {
            share(path, usage).map_or_else(view::dash, |s| format!("{s:.0}%"))
        };
        let text = picture(&sessions, &cpu);
        match &screen {
            Some(screen) => screen.draw(&text)?,
            None => {
                let read = out.line(&text)? && (args.once || out.line("")?) && out.flush()?;
                if args.once || !read {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
        before = now;
    }
}

fn picture(sessions: &[SessionView], cpu: view::Cpu<'_>) -> String {
    let calls: usize = sessions.iter().map(|s| s.calls.len()).sum();
    let processes: u32 = sessions.iter().map(|s| s.processes).sum();
    let title = format!("{} sessions, {calls} calls, {processes} processes", sessions.len());
    match sessions {
        [] => title,
        _ => format!("{title}\n\n{}", view::table(sessions, cpu, terminal::width())),
    }
}

/// Waits until it is time for the next picture; true: the end was asked for.
fn wait(signals: &mut Signals, screen: Option<&Screen>, until: Instant) -> Result<bool> {
    let mut keys = screen.filter(|s| s.has_keys());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let stdin = std::io::stdin();
        let mut fds = Vec::new();
        fds.extend(keys.map(|_| stdin.as_fd()));
        if signals.wait(&fds, Some(left))? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        if let Some(screen) = keys {
            let pressed = screen.keys();
            if pressed.iter().any(|k| matches!(k, b'q' | b'Q')) {
                return Ok(true);
            }
            // Readable, and nothing there: the terminal is gone.
            if pressed.is_empty() {
                keys = None;
            }
        }
    }
}
