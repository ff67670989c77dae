//! Sessions and calls as a table, for `agentcg ps` and `agentcg top`.

use std::time::{Duration, SystemTime};

use agentcg_core::{CallView, SessionView, Usage};
use comfy_table::{CellAlignment, Table, presets};

use crate::target::full_name;

/// What the column CPU shows, for a cgroup's path: text.
pub type Cpu<'a> = &'a dyn Fn(&std::path::Path, &Usage) -> String;

/// A line for each session, followed by its calls; no wider than `width`.
pub fn table(sessions: &[SessionView], cpu: Cpu<'_>, width: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["SESSION/CALL", "STATE", "AGE", "CPU", "MEMORY", "PEAK", "PROCS", "COMMAND"]);
    for session in sessions {
        table.add_row([
            session.name.clone(),
            if session.frozen { "frozen".into() } else { String::new() },
            String::new(),
            cpu(&session.path, &session.usage),
            size(session.usage.memory_current_bytes),
            size(session.usage.memory_peak_bytes),
            session.processes.to_string(),
            String::new(),
        ]);
        for call in &session.calls {
            table.add_row(row(call, cpu));
        }
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = lines(&table);
    match width {
        Some(width) => shorten(&text, width),
        None => text,
    }
}

fn row(call: &CallView, cpu: Cpu<'_>) -> [String; 8] {
    let age = call.started().and_then(|at| SystemTime::now().duration_since(at).ok());
    [
        full_name(call),
        state(call).into(),
        age.map_or_else(dash, duration),
        cpu(&call.path, &call.usage),
        size(call.usage.memory_current_bytes),
        size(call.usage.memory_peak_bytes),
        call.processes.to_string(),
        call.command.as_deref().map_or_else(dash, printable),
    ]
}

fn state(call: &CallView) -> &'static str {
    match (call.owner_alive, call.frozen) {
        (false, _) => "orphaned",
        (true, true) => "frozen",
        (true, false) => "running",
    }
}

/// What is not known.
pub fn dash() -> String {
    "-".into()
}

/// What a process wrote must not move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The lines, without what pads them on both sides.
pub fn lines(table: &Table) -> String {
    let trimmed = |l: String| l.strip_prefix(' ').unwrap_or(&l).trim_end().to_owned();
    table.lines().map(trimmed).collect::<Vec<_>>().join("\n")
}

fn shorten(text: &str, width: usize) -> String {
    let cut = |line: &str| line.chars().take(width).collect::<String>();
    text.lines().map(cut).collect::<Vec<_>>().join("\n")
}

/// `12M`: three digits are enough for a table.
pub fn size(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return dash() };
    let mut n = bytes as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if n < 999.5 || unit == "T" {
            let digits = usize::from(n < 9.95 && !unit.is_empty());
            return format!("{n:.digits$}{unit}");
        }
        n /= 1024.0;
    }
    dash()
}

/// `850ms`, `12.3s`, `4m05s`, `2h10m`.
pub fn duration(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (bytes, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (12 << 20, "12M"),
            (1 << 30, "1.0G"),
            (1023 << 20, "1.0G"),
            (5 << 40, "5.0T"),
        ] {
            assert_eq!(size(Some(bytes)), text);
        }
        for (ms, text) in [(5, "5ms"), (12_340, "12.3s"), (245_000, "4m05s"), (7_800_000, "2h10m")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(printable("a\n\x1b[2Jb"), "a  [2Jb");
    }
}
