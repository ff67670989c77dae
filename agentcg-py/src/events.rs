use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use agentcg_core::{Event, Origin};
use pyo3::BoundObject;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyTuple};

use crate::handle::{Handle, json};

/// A stream of process events. Waiting is left to Python, on the descriptor: its event loop and its
/// poll() deal with time-outs, signals and the GIL already.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct EventStream {
    stream: Handle<agentcg_core::EventStream>,
    missing: Vec<(String, String)>,
}

impl EventStream {
    pub(crate) fn new(stream: agentcg_core::EventStream) -> Self {
        let missing = stream.missing().iter();
        Self {
            missing: missing.map(|m| (m.what.to_owned(), m.error.to_string())).collect(),
            stream: Handle::new("event stream", stream),
        }
    }
}

#[pymethods]
impl EventStream {
    /// The events that wait, at most so many.
    fn read<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyList>> {
        let events = self.stream.with(py, |stream| {
            let mut events = Vec::new();
            while events.len() < most
                && let Some(event) = stream.try_next()?
            {
                events.push(event);
            }
            Ok(events)
        })?;
        let classes = classes(py)?;
        let list = PyList::empty(py);
        for event in &events {
            list.append(value(py, classes, event)?)?;
        }
        Ok(list)
    }

    /// What could not be attached, and why.
    #[getter]
    fn missing(&self) -> Vec<(String, String)> {
        self.missing.clone()
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.stream.with(py, |s| s.stats())?)
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.stream.with(py, |s| Ok(s.as_fd().as_raw_fd()))
    }

    fn close(&self, py: Python<'_>) {
        self.stream.close(py);
    }
}

/// The classes of `agentcg._events`, which has them in this order, each with its name in JSON and the
/// names of its fields.
pub(crate) type Classes = [(Py<PyAny>, String, Vec<String>); 8];
const EXEC: usize = 0;
const EXIT: usize = 1;
const FORK: usize = 2;
const FILE_OPEN: usize = 3;
const BASH_READLINE: usize = 4;
const OOM_KILL: usize = 5;
const DROPPED: usize = 6;
pub(crate) const UNKNOWN: usize = 7;

pub(crate) fn classes(py: Python<'_>) -> PyResult<&Classes> {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || py.import("agentcg._events")?.getattr("CLASSES")?.extract())
}

/// The fields of one event, in the order of its class.
struct Fields<'py> {
    py: Python<'py>,
    values: Vec<Bound<'py, PyAny>>,
}

impl<'py> Fields<'py> {
    fn add(&mut self, value: impl IntoPyObject<'py>) -> PyResult<&mut Self> {
        let value = value.into_pyobject(self.py).map_err(Into::into)?;
        self.values.push(value.into_any().into_bound());
        Ok(self)
    }

    fn text(&mut self, text: &OsStr) -> PyResult<&mut Self> {
        self.add(PyString::new(self.py, &text.to_string_lossy()))
    }

    fn path(&mut self, path: Option<&Path>) -> PyResult<&mut Self> {
        match path {
            Some(path) => self.text(path.as_os_str()),
            None => self.add(self.py.None()),
        }
    }

    fn origin(&mut self, o: &Origin) -> PyResult<&mut Self> {
        self.add(o.timestamp)?.add(o.pid)?.add(o.ppid)?.text(&o.comm)?.add(o.uid)?;
        self.add(o.cgroup_id)?.path(o.cgroup.as_deref())?;
        self.add(o.session.as_deref())?.add(o.tool_call.as_deref())
    }
}

fn value<'py>(py: Python<'py>, classes: &Classes, event: &Event) -> PyResult<Bound<'py, PyAny>> {
    let mut f = Fields { py, values: Vec::with_capacity(20) };
    if let Some(origin) = event.origin() {
        f.origin(origin)?;
    }
    let kind = match event {
        Event::Exec(e) => {
            f.text(&e.filename)?;
            let argv = e.argv.iter().map(|a| PyString::new(py, &a.to_string_lossy()));
            f.add(PyTuple::new(py, argv.collect::<Vec<_>>())?)?;
            f.add(e.full_command())?.add(e.argv_truncated)?;
            EXEC
        }
        Event::Exit(e) => {
            f.add(e.exit_code)?.add(e.signal)?.add(e.core_dumped)?.add(e.duration_ms)?;
            f.add(e.cpu_user_us)?.add(e.cpu_system_us)?.add(e.memory_peak_bytes)?;
            f.add(e.read_bytes)?.add(e.write_bytes)?.add(e.oom_killed)?;
            EXIT
        }
        Event::Fork(e) => {
            f.add(e.child_pid)?;
            FORK
        }
        Event::FileOpen(e) => {
            f.text(&e.filepath)?.add(e.flags)?.add(e.result)?.add(e.count)?;
            FILE_OPEN
        }
        Event::BashReadline(e) => {
            f.text(&e.command)?;
            BASH_READLINE
        }
        Event::OomKill(e) => {
            f.path(e.limit_cgroup.as_deref())?.add(e.limit_cgroup_id)?.add(e.limit_bytes)?;
            OOM_KILL
        }
        Event::Dropped(e) => {
            let reason = json(&e.reason)?;
            f.add(e.count)?.add(reason.trim_matches('"'))?;
            DROPPED
        }
        other => {
            // A kind that the core has and we do not know yet.
            f.values.clear();
            f.add("")?.add(other.to_json())?;
            UNKNOWN
        }
    };
    classes[kind].0.bind(py).call1(PyTuple::new(py, f.values)?)
}
