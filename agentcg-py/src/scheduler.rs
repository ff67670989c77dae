use std::os::fd::{AsFd, AsRawFd};

use pyo3::prelude::*;

use crate::handle::{Handle, json};

/// The attached CPU scheduler.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct Scheduler(pub(crate) Handle<agentcg_core::Scheduler>);

#[pymethods]
impl Scheduler {
    fn exited(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let exit = self.0.with(py, |s| Ok(s.exited()))?;
        exit.as_ref().map(json).transpose()
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.0.with(py, |s| Ok(s.stats()))?)
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.0.with(py, |s| Ok(s.as_fd().as_raw_fd()))
    }

    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }
}
