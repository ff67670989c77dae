use std::path::PathBuf;

use pyo3::prelude::*;

use crate::handle::Handle;

/// One agent's cgroup.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct Session(pub(crate) Handle<agentcg_core::Session>);

#[pymethods]
impl Session {
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<PathBuf> {
        self.0.with(py, |s| Ok(s.path().to_path_buf()))
    }

    fn usage(&self, py: Python<'_>) -> PyResult<String> {
        self.0.with(py, |s| s.usage().map(|usage| usage.to_json()))
    }

    fn move_pid(&self, py: Python<'_>, pid: i32) -> PyResult<()> {
        self.0.with(py, |s| s.move_pid(pid))
    }

    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }
}
