//! What Python asks of a session or a call, by name. The names are checked there, by the signatures;
//! what the values mean is decided in the core.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use agentcg_core::{
    Capacity, Command, Error, Hint, History, Limit, Limits, MemoryHint, Session, Stdio,
};
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

/// By the names of its fields; `None` is not bounded.
pub(crate) fn capacity(given: &Bound<'_, PyDict>) -> PyResult<Capacity> {
    let mut capacity = Capacity::default();
    for (name, value) in given.iter() {
        match name.extract::<String>()?.as_str() {
            "memory" => capacity.memory = parsed::<Limit>(&value)?.value(),
            "cpus" => capacity.cpus = Some(value.extract()?),
            "calls" => capacity.calls = Some(value.extract()?),
            name => return Err(PyKeyError::new_err(name.to_owned())),
        }
    }
    Ok(capacity)
}

type Set = Box<dyn FnOnce(&mut Command<'_>) + Send>;

/// A command that Python describes, apart from Python and from the session.
pub(crate) struct Description {
    args: Vec<OsString>,
    set: Vec<Set>,
    limits: Limits,
    hint: Hint,
    environment: Vec<(OsString, OsString)>,
    history: Option<History>,
}

impl Description {
    /// `args` begins with the program.
    pub(crate) fn new(args: Vec<OsString>, options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let (mut set, mut limits, mut hint) = (Vec::new(), Limits::default(), Hint::default());
        let mut environment: Option<Vec<(OsString, OsString)>> = None;
        for (name, value) in options.iter() {
            let name: String = name.extract()?;
            if limit(&mut limits, &name, &value)? {
                continue;
            }
            match name.as_str() {
                "hint" => hint = parsed(&value)?,
                "env" => environment = Some(value.extract()?),
                _ => set.push(option(&name, &value)?),
            }
        }
        let auto = hint.memory == Some(MemoryHint::Auto);
        let history = match History::default_path().filter(|_| auto) {
            Some(path) => {
                Some(History::open(path).map_err(|e| error::from_core(options.py(), &e))?)
            }
            None => None,
        };
        // Ours is read now, with the GIL held, for Python's threads change it with the GIL held.
        let environment = environment.unwrap_or_else(|| std::env::vars_os().collect());
        Ok(Self { args, set, limits, hint, environment, history })
    }

    pub(crate) fn command(self, session: &Session) -> Command<'_> {
        let mut args = self.args.into_iter();
        let mut command = session.command(args.next().unwrap_or_default());
        command.args(args).stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
        command.limits(self.limits).hint(self.hint).env_clear().envs(self.environment);
        if let Some(history) = self.history {
            command.history(history);
        }
        for set in self.set {
            set(&mut command);
        }
        command
    }
}

/// What sets one option.
fn option(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Set> {
    // The method of the command, and the value for it.
    macro_rules! set {
        ($method:ident, $value:expr) => {{
            let value = $value;
            Box::new(move |command: &mut Command<'_>| {
                command.$method(value);
            })
        }};
    }
    Ok(match name {
        "stdin" => set!(stdin, stdio(value)?),
        "stdout" => set!(stdout, stdio(value)?),
        "stderr" => set!(stderr, stdio(value)?),
        "cwd" => set!(current_dir, value.extract::<PathBuf>()?),
        "arg0" => set!(arg0, value.extract::<OsString>()?),
        "name" => set!(name, value.extract::<String>()?),
        "timeout" => set!(timeout, seconds(name, value)?),
        "grace" => set!(grace, seconds(name, value)?),
        "sample" => set!(sample, seconds(name, value)?),
        "capture_limit" => set!(capture_limit, value.extract::<usize>()?),
        "umask" => set!(umask, value.extract::<u32>()?),
        "user" => set!(uid, value.extract::<u32>()?),
        "group" => set!(gid, value.extract::<u32>()?),
        "extra_groups" => {
            let groups: Vec<u32> = value.extract()?;
            Box::new(move |command: &mut Command<'_>| {
                command.groups(&groups);
            })
        }
        "process_group" => set!(process_group, value.extract::<i32>()?),
        "pass_fds" => set!(pass_fds, value.extract::<Vec<RawFd>>()?),
        "queue_timeout" => set!(queue_timeout, seconds(name, value)?),
        "start_new_session" => set!(new_session, value.extract::<bool>()?),
        "inherit_fds" => set!(inherit_fds, value.extract::<bool>()?),
        "oom_group" => set!(oom_group, value.extract::<bool>()?),
        "oom_score_adj" => set!(oom_score_adj, value.extract::<i32>()?),
        "background" => set!(background, value.extract::<bool>()?),
        "budget" => set!(budget, value.extract::<bool>()?),
        "retry" => set!(retry, value.extract::<bool>()?),
        _ => return Err(PyKeyError::new_err(name.to_owned())),
    })
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
