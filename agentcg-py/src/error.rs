use agentcg_core::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The name of the class of a failure, as Python has it in `AgentcgError.kind`.
fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "invalid_input",
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::Busy => "busy",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Os => "os",
        ErrorKind::Bpf => "bpf",
        _ => "other",
    }
}

pub(crate) fn from_core(py: Python<'_>, e: &Error) -> PyErr {
    let kind = name(e.kind());
    make(py, (kind, e.to_string(), e.path(), e.errno(), e.help()))
}

pub(crate) fn invalid(py: Python<'_>, message: String) -> PyErr {
    make(py, ("invalid_input", message))
}

pub(crate) fn closed(py: Python<'_>, what: &str) -> PyErr {
    make(py, ("closed", format!("the {what} is closed")))
}

pub(crate) fn forked(py: Python<'_>, what: &str) -> PyErr {
    let message = format!("the {what} belongs to the process that this one was forked from");
    make(py, ("forked", message))
}

/// The exception classes are written in Python, where they can have two bases.
fn make<'py>(py: Python<'py>, args: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MAKE.import(py, "agentcg._errors", "make")
        .and_then(|make| make.call1(args))
        .map_or_else(|e| e, PyErr::from_value)
}
