//! `agentcg-bash`: bash, with `bash -c` as a tool call.
//!
//! | invoked as | becomes |
//! |---|---|
//! | `bash -c ...`, with whatever options | a tool call of the real bash, same arguments, same `$0` |
//! | anything else: scripts, interactive, `-s`, `--version` | the real bash, in place of this process |
//! | inside a tool call, or with `AGENTCG_DISABLE=1` | the real bash, in place of this process |
//!
//! An agent must be able to go on whatever happens: when no tool call can be made the real bash is
//! run all the same, and the log says why; `AGENTCG_STRICT=1` makes that an error.
//!
//! | file | subject |
//! |---|---|
//! | `arguments.rs` | which command lines have a command |
//! | `real.rs` | where the real bash is |

mod arguments;
mod real;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use agentcg_core::{Ended, Hint, Outcome};
use anyhow::Result;
use nix::sys::signal::{SigHandler, Signal};
use rustix::process::{Resource, Rlimit};

use crate::records::Records;
use crate::run::{hint_from_env, root_from_env, session_from_env};
use crate::tool_call::{self, FAILED, Request};

/// As a shell for a program that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;

/// Is the variable set to something but `0`?
fn is_on(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0")
}

/// What the whole program does.
pub fn run(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let arg0 = words.next().unwrap_or_else(|| "bash".into());
    let args: Vec<_> = words.collect();
    let bash = match real::find() {
        Ok(bash) => bash,
        Err(e) => {
            eprintln!("agentcg-bash: {e:#}");
            return ExitCode::from(NOT_EXECUTABLE);
        }
    };
    // A call inside a call belongs to it.
    let inside = std::env::var_os("AGENTCG_CALL").is_some();
    if inside || is_on("AGENTCG_DISABLE") || !arguments::has_command(&args) {
        return become_bash(&bash, &arg0, &args);
    }
    let strict = is_on("AGENTCG_STRICT");
    let log = std::env::var_os("AGENTCG_LOG");
    let (records, made) = match Records::open(None, log.as_deref()) {
        Ok(records) => (records, call(&bash, &arg0, &args, strict)),
        Err(e) => {
            eprintln!("agentcg-bash: {e:#}");
            if strict {
                return ExitCode::from(FAILED);
            }
            (Records::default(), call(&bash, &arg0, &args, strict))
        }
    };
    match made {
        Ok(outcome) => {
            if !is_on("AGENTCG_QUIET")
                && let Some(advice) = tool_call::advice(&outcome)
            {
                eprintln!("agentcg: {advice}");
            }
            records.write(&outcome);
            end_as(&outcome)
        }
        Err(e) if strict => {
            eprintln!("agentcg-bash: {e:#}");
            ExitCode::from(FAILED)
        }
        Err(e) => {
            let words = [bash.as_os_str()].into_iter().chain(args.iter().map(OsString::as_os_str));
            let command: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
            records.note(&command, &format!("{e:#}"));
            become_bash(&bash, &arg0, &args)
        }
    }
}

fn call(bash: &Path, arg0: &OsStr, args: &[OsString], strict: bool) -> Result<Outcome> {
    let (hint, note) = match hint_from_env() {
        Err(e) if strict => return Err(e),
        // Better a call without it than none.
        Err(e) => (Hint::default(), Some(e.to_string())),
        Ok(hint) => (hint, None),
    };
    let mut outcome = tool_call::perform(&Request {
        root: root_from_env(),
        session: session_from_env()?,
        program: bash.into(),
        arg0: Some(arg0.to_owned()),
        args: args.to_vec(),
        hint,
        ..Request::default()
    })?;
    outcome.notes.extend(note);
    match &outcome.ended {
        // Nothing has run yet.
        Ended::NotStarted(e) if outcome.shell_status().is_none() => Err(e.clone().into()),
        _ => Ok(outcome),
    }
}

fn become_bash(bash: &Path, arg0: &OsStr, args: &[OsString]) -> ExitCode {
    let e = std::process::Command::new(bash).arg0(arg0).args(args).exec();
    eprintln!("agentcg-bash: {}: {e}", bash.display());
    ExitCode::from(NOT_EXECUTABLE)
}

/// Ends as bash has ended: also by the same signal, for a caller sees the difference between that
/// and an exit status.
fn end_as(outcome: &Outcome) -> ExitCode {
    let status = tool_call::status(outcome);
    if let Some(signal) = outcome.signal().and_then(|s| Signal::try_from(s).ok())
        && i32::from(status) == 128 + signal as i32
    {
        // The core that there is to be dumped is that of bash.
        let none = Rlimit { current: Some(0), maximum: None };
        let _ = rustix::process::setrlimit(Resource::Core, none);
        // SAFETY: the default action is no function.
        let default = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
        // SIGKILL has no other; as process 1 a signal does nothing, and the status has to do.
        if default.is_ok() || signal == Signal::SIGKILL {
            let _ = nix::sys::signal::raise(signal);
        }
    }
    ExitCode::from(status)
}
