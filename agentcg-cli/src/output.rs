//! Standard output that may be closed by its reader, and logging to standard error.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Buffered standard output. A reader that went away (`| head`) is an end, not an error.
#[derive(Debug)]
pub struct Output(BufWriter<StdoutLock<'static>>);

impl Default for Output {
    fn default() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }
}

impl Output {
    /// Writes a line. False: nobody reads any more.
    ///
    /// # Errors
    /// Those of writing, but for `EPIPE`.
    pub fn line(&mut self, text: &str) -> io::Result<bool> {
        still_read(self.0.write_all(text.as_bytes()).and_then(|()| self.0.write_all(b"\n")))
    }

    /// Passes on what is buffered. False: nobody reads any more.
    ///
    /// # Errors
    /// Those of writing, but for `EPIPE`.
    pub fn flush(&mut self) -> io::Result<bool> {
        still_read(self.0.flush())
    }
}

fn still_read(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}

/// Logs to standard error; `RUST_LOG` overrides `level`.
pub fn log_to_stderr(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Logs warnings only, unless `RUST_LOG` says otherwise: its filter takes time to be made.
pub fn log_warnings() {
    if std::env::var_os("RUST_LOG").is_some() {
        return log_to_stderr("warn");
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// The name that a value has in JSON, so that text and JSON cannot differ.
pub fn name(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        other => format!("{other:?}"),
    }
}

/// One line for the error and all its causes; status 1.
pub fn finish(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|e| {
        eprintln!("{program}: {e:#}");
        ExitCode::FAILURE
    })
}
