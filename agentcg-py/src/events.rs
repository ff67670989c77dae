use std::os::fd::{AsFd, AsRawFd};

use pyo3::prelude::*;

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
    /// The JSON of the next event if one waits.
    fn try_next(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let next = |s: &mut agentcg_core::EventStream| Ok(s.try_next()?.map(|e| e.to_json()));
        self.stream.with(py, next)
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
