//! What Python asks of a session or a call, by name. The names are checked there, by the signatures;
//! what the values mean is decided in the core.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use agentcg_core::{Command, Error, Hint, History, Limits, MemoryHint, Session, Stdio};
use pyo3::exceptions::{PyKeyError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error;

/// As in `subprocess`.
const PIPE: i32 = -1;
const STDOUT: i32 = -2;
const DEVNULL: i32 = -3;
/// Kept for the result, where `PIPE` is a pipe to the caller.
const CAPTURE: i32 = -4;

fn parsed<T: FromStr<Err = Error>>(value: &Bound<'_, PyAny>) -> PyResult<T> {
    let text: String = value.extract()?;
    text.parse().map_err(|e| error::from_core(value.py(), &e))
}

fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds: f64 = value.extract()?;
    Duration::try_from_secs_f64(seconds).map_err(|e| {
        error::invalid(value.py(), format!("invalid {name} {seconds}: expected seconds: {e}"))
    })
}

/// Sets one limit; false: it is none.
fn limit(limits: &mut Limits, name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let file = match name {
        "memory_min" => &mut limits.memory_min,
        "memory_low" => &mut limits.memory_low,
        "memory_high" => &mut limits.memory_high,
        "memory_max" => &mut limits.memory_max,
        "swap_max" => &mut limits.swap_max,
        "pids_max" => &mut limits.pids_max,
        "cpu_weight" => {
            limits.cpu_weight = Some(value.extract()?);
            return Ok(true);
        }
        "io_weight" => {
            limits.io_weight = Some(value.extract()?);
            return Ok(true);
        }
        "cpu_max" => {
            limits.cpu_max = Some(value.extract()?);
            return Ok(true);
        }
        _ => return Ok(false),
    };
    *file = Some(parsed(value)?);
    Ok(true)
}

pub(crate) fn limits(options: &Bound<'_, PyDict>) -> PyResult<Limits> {
    let mut limits = Limits::default();
    for (name, value) in options.iter() {
        let name: String = name.extract()?;
        if !limit(&mut limits, &name, &value)? {
            return Err(PyKeyError::new_err(name));
        }
    }
    Ok(limits)
}

/// The command that Python describes; `args` begins with the program.
pub(crate) fn command<'s>(
    session: &'s Session,
    args: Vec<OsString>,
    options: &Bound<'_, PyDict>,
) -> PyResult<(Command<'s>, Option<History>)> {
    let mut args = args.into_iter();
    let mut command = session.command(args.next().unwrap_or_default());
    command.args(args).stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    let (mut limits, mut hint, mut environment) = (Limits::default(), Hint::default(), None);
    for (name, value) in options.iter() {
        let name: String = name.extract()?;
        if limit(&mut limits, &name, &value)? {
            continue;
        }
        let value = &value;
        match name.as_str() {
            "stdin" => command.stdin(stdio(value)?),
            "stdout" => command.stdout(stdio(value)?),
            "stderr" => command.stderr(stdio(value)?),
            "cwd" => command.current_dir(value.extract::<PathBuf>()?),
            "arg0" => command.arg0(value.extract::<OsString>()?),
            "name" => command.name(value.extract::<String>()?),
            "timeout" => command.timeout(seconds(&name, value)?),
            "grace" => command.grace(seconds(&name, value)?),
            "sample" => command.sample(seconds(&name, value)?),
            "capture_limit" => command.capture_limit(value.extract()?),
            "umask" => command.umask(value.extract()?),
            "user" => command.uid(value.extract()?),
            "group" => command.gid(value.extract()?),
            "extra_groups" => command.groups(&value.extract::<Vec<u32>>()?),
            "start_new_session" => command.new_session(value.extract()?),
            "inherit_fds" => command.inherit_fds(value.extract()?),
            "oom_group" => command.oom_group(value.extract()?),
            "oom_score_adj" => command.oom_score_adj(value.extract()?),
            "background" => command.background(value.extract()?),
            "budget" => command.budget(value.extract()?),
            "retry" => command.retry(value.extract()?),
            "hint" => {
                hint = parsed(value)?;
                &mut command
            }
            "env" => {
                environment = Some(value.extract::<Vec<(OsString, OsString)>>()?);
                &mut command
            }
            _ => return Err(PyKeyError::new_err(name)),
        };
    }
    command.limits(limits).env_clear();
    match environment {
        Some(environment) => command.envs(environment),
        // Now, with the GIL held, for Python's threads change it with the GIL held.
        None => command.envs(std::env::vars_os()),
    };
    let auto = hint.memory == Some(MemoryHint::Auto);
    command.hint(hint);
    let history = match History::default_path().filter(|_| auto) {
        Some(path) => Some(History::open(path).map_err(|e| error::from_core(options.py(), &e))?),
        None => None,
    };
    if let Some(history) = &history {
        command.history(history.clone());
    }
    Ok((command, history))
}

fn stdio(value: &Bound<'_, PyAny>) -> PyResult<Stdio> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Stdio::Bytes(bytes.as_bytes().to_vec()));
    }
    Ok(match value.extract()? {
        PIPE => Stdio::Piped,
        STDOUT => Stdio::Stdout,
        DEVNULL => Stdio::Null,
        CAPTURE => Stdio::Capture,
        fd => Stdio::Fd(duplicate(fd)?),
    })
}

fn duplicate(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyOSError::new_err(format!("{fd} is no file descriptor")));
    }
    // SAFETY: it is not -1, and only used to be duplicated; one that is not open is an error then.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
}
