//! `agentcg report`: a log of outcomes, summed up by command.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentcg_core::CommandKey;
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::output::Output;
use crate::view;

/// Options of `agentcg report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The log, as AGENTCG_LOG has it; - is standard input
    log: PathBuf,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// What is used of a line of the log.
#[derive(Debug, Deserialize)]
struct Line {
    command: Vec<String>,
    duration_ms: u64,
    verdict: String,
    #[serde(default)]
    usage: Usage,
}

#[derive(Debug, Default, Deserialize)]
struct Usage {
    memory_peak_bytes: Option<u64>,
    cpu_user_us: Option<u64>,
    cpu_system_us: Option<u64>,
}

/// `agentcg-bash` could not make a call of it.
#[derive(Debug, Deserialize)]
struct Note {
    #[serde(rename = "not_a_call")]
    _why: String,
}

/// The calls of one command.
#[derive(Debug, Default)]
struct Calls {
    durations_ms: Vec<u64>,
    peaks: Vec<u64>,
    cpu_us: u64,
    verdicts: BTreeMap<String, u64>,
}

/// A log, line by line.
#[derive(Debug, Default)]
struct Summary {
    commands: BTreeMap<CommandKey, Calls>,
    calls: u64,
    not_calls: u64,
    broken_lines: u64,
    first_broken: Option<u64>,
}

/// The summary's JSON.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    calls: u64,
    not_calls: u64,
    broken_lines: u64,
    commands: Vec<CommandReport>,
}

#[derive(Debug, Serialize)]
struct CommandReport {
    command: String,
    calls: usize,
    duration_ms_p50: u64,
    duration_ms_p95: u64,
    memory_peak_bytes_p95: Option<u64>,
    memory_peak_bytes_max: Option<u64>,
    cpu_us: u64,
    verdicts: BTreeMap<String, u64>,
}

/// Prints the summary. Lines that are no outcome are counted.
///
/// # Errors
/// Those of reading the log and of writing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let input: Box<dyn BufRead> = match args.log.as_path() {
        path if path == Path::new("-") => Box::new(io::stdin().lock()),
        path => {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            Box::new(BufReader::with_capacity(1 << 20, file))
        }
    };
    let summary = Summary::of(input).with_context(|| format!("read {}", args.log.display()))?;
    let broken = summary.first_broken;
    let report = summary.report();
    let mut out = Output::default();
    if args.json {
        out.line(&serde_json::to_string_pretty(&report)?)?;
    } else {
        out.line(&text(&report))?;
    }
    out.flush()?;
    if let Some(first) = broken {
        eprintln!(
            "agentcg: {} of the log are no outcome, the first is line {first}",
            lines(report.broken_lines)
        );
    }
    Ok(ExitCode::SUCCESS)
}

impl Summary {
    fn of(mut input: impl BufRead) -> io::Result<Self> {
        let mut summary = Self::default();
        let mut line = Vec::new();
        let mut number = 0;
        while input.read_until(b'\n', &mut line)? > 0 {
            number += 1;
            summary.add(line.trim_ascii(), number);
            line.clear();
        }
        Ok(summary)
    }

    fn add(&mut self, line: &[u8], number: u64) {
        if line.is_empty() {
            return;
        }
        let Ok(call) = serde_json::from_slice::<Line>(line) else {
            if serde_json::from_slice::<Note>(line).is_ok() {
                self.not_calls += 1;
            } else {
                self.broken_lines += 1;
                self.first_broken.get_or_insert(number);
            }
            return;
        };
        self.calls += 1;
        let calls = self.commands.entry(CommandKey::normalise(&call.command)).or_default();
        calls.durations_ms.push(call.duration_ms);
        calls.peaks.extend(call.usage.memory_peak_bytes);
        let cpu = [call.usage.cpu_user_us, call.usage.cpu_system_us];
        calls.cpu_us += cpu.into_iter().flatten().sum::<u64>();
        *calls.verdicts.entry(call.verdict).or_default() += 1;
    }

    /// The commands that were called most often come first.
    fn report(self) -> Report {
        let mut commands: Vec<_> =
            self.commands.into_iter().map(|(key, calls)| calls.report(key.as_str())).collect();
        commands.sort_by_key(|c| std::cmp::Reverse(c.calls));
        Report {
            schema: 1,
            calls: self.calls,
            not_calls: self.not_calls,
            broken_lines: self.broken_lines,
            commands,
        }
    }
}

impl Calls {
    fn report(mut self, command: &str) -> CommandReport {
        self.durations_ms.sort_unstable();
        self.peaks.sort_unstable();
        CommandReport {
            command: command.to_owned(),
            calls: self.durations_ms.len(),
            duration_ms_p50: percentile(&self.durations_ms, 50).unwrap_or(0),
            duration_ms_p95: percentile(&self.durations_ms, 95).unwrap_or(0),
            memory_peak_bytes_p95: percentile(&self.peaks, 95),
            memory_peak_bytes_max: self.peaks.last().copied(),
            cpu_us: self.cpu_us,
            verdicts: self.verdicts,
        }
    }
}

/// The nearest rank: the least value that so many percent of all do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied()
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["CALLS", "P50", "P95", "PEAK P95", "PEAK MAX", "CPU", "COMMAND", "VERDICTS"]);
    for c in &report.commands {
        table.add_row([
            c.calls.to_string(),
            view::duration(Duration::from_millis(c.duration_ms_p50)),
            view::duration(Duration::from_millis(c.duration_ms_p95)),
            view::size(c.memory_peak_bytes_p95),
            view::size(c.memory_peak_bytes_max),
            view::duration(Duration::from_micros(c.cpu_us)),
            view::printable(&c.command),
            verdicts(&c.verdicts),
        ]);
    }
    for column in 0..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = view::lines(&table);
    text += &format!("\n\n{} calls", report.calls);
    if report.not_calls > 0 {
        text +=
            &format!("; {} more ran without agentcg: see not_a_call in the log", report.not_calls);
    }
    text
}

/// `12 completed, 3 failed`, the most frequent first.
fn verdicts(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let words = counts.iter().map(|(verdict, n)| format!("{n} {}", view::printable(verdict)));
    words.collect::<Vec<_>>().join(", ")
}

fn lines(n: u64) -> String {
    if n == 1 { "1 line".into() } else { format!("{n} lines") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let all: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&all, 50), percentile(&all, 95)), (Some(50), Some(95)));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 95)), (Some(7), Some(7)));
        assert_eq!(percentile(&[1, 9], 95), Some(9));
        assert_eq!(percentile(&[], 95), None);
    }

    #[test]
    fn a_log_is_summed_up_by_command_and_broken_lines_are_counted() {
        let call = |command: &str, ms: u64, verdict: &str| {
            format!(
                r#"{{"command":["bash","-c","{command}"],"duration_ms":{ms},"verdict":"{verdict}","usage":{{"memory_peak_bytes":{},"cpu_user_us":10,"cpu_system_us":5}},"new":1}}"#,
                ms * 1000
            )
        };
        let log = [
            call("pytest -x a", 10, "completed"),
            call("pytest b", 30, "oom_killed"),
            "{\"command\":".into(),
            String::new(),
            call("make -j4", 5, "completed"),
            r#"{"not_a_call":"no cgroup","command":["bash"]}"#.into(),
            "[]".into(),
        ]
        .join("\n");
        let summary = Summary::of(log.as_bytes()).unwrap();
        assert_eq!(summary.first_broken, Some(3));
        let report = summary.report();
        assert_eq!((report.calls, report.not_calls, report.broken_lines), (3, 1, 2));
        let first = &report.commands[0];
        assert_eq!((first.command.as_str(), first.calls), ("pytest", 2));
        assert_eq!((first.duration_ms_p50, first.duration_ms_p95), (10, 30));
        assert_eq!((first.memory_peak_bytes_max, first.cpu_us), (Some(30_000), 30));
        assert_eq!(verdicts(&first.verdicts), "1 completed, 1 oom_killed");
    }
}
