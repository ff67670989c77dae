//! Where outcomes are written: the report of one call, and a log of all of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agentcg_core::Outcome;
use anyhow::{Context, Result};

/// The files for one call, opened before it is started, so that it is not started in vain.
#[derive(Debug, Default)]
pub struct Records {
    report: Option<Sink>,
    log: Option<(File, PathBuf)>,
}

#[derive(Debug)]
enum Sink {
    /// Standard output is the command's.
    Stderr,
    File(File, PathBuf),
}

impl Records {
    /// Opens the report (`-` is standard error) and the log, where there are any.
    ///
    /// # Errors
    /// Those of opening them.
    pub fn open(report: Option<&Path>, log: Option<&OsStr>) -> Result<Self> {
        let report = match report {
            Some(path) if path == "-" => Some(Sink::Stderr),
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("open the report {}", path.display()))?;
                Some(Sink::File(file, path.to_owned()))
            }
            None => None,
        };
        let log = match log.filter(|path| !path.is_empty()) {
            Some(path) => {
                let file = File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("open the log {}", path.display()))?;
                Some((file, PathBuf::from(path)))
            }
            None => None,
        };
        Ok(Self { report, log })
    }

    /// Writes the outcome to each. Where that fails it goes to standard error: nothing is lost.
    pub fn write(self, outcome: &Outcome) {
        let line = outcome.to_json() + "\n";
        let mut lost = false;
        let mut check = |done: io::Result<()>, path: &Path| {
            if let Err(e) = done {
                eprintln!("agentcg: write {}: {e}", path.display());
                lost = true;
            }
        };
        let mut shown = false;
        match self.report {
            Some(Sink::Stderr) => {
                eprint!("{line}");
                shown = true;
            }
            Some(Sink::File(mut file, path)) => check(file.write_all(line.as_bytes()), &path),
            None => {}
        }
        if let Some((file, path)) = self.log {
            check(append(&file, &line), &path);
        }
        if lost && !shown {
            eprint!("{line}");
        }
    }

    /// Says in the log why a command was not made a tool call.
    pub fn note(self, command: &[String], error: &str) {
        let Some((file, path)) = self.log else { return };
        let note = serde_json::json!({ "not_a_call": error, "command": command });
        if let Err(e) = append(&file, &format!("{note}\n")) {
            eprintln!("agentcg: write {}: {e}", path.display());
        }
    }
}

/// A line in one write, so that those of others are not torn.
fn append(mut file: &File, line: &str) -> io::Result<()> {
    let written = file.write(line.as_bytes())?;
    if written == line.len() {
        return Ok(());
    }
    // The disk is full; the next line is not to be part of this one.
    let _ = file.write(b"\n");
    Err(io::ErrorKind::StorageFull.into())
}
