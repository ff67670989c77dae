use std::path::PathBuf;

use pyo3::prelude::*;

use crate::handle::{Handle, json};

/// Running memory protection.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct MemoryProtection(pub(crate) Handle<agentcg_core::MemoryProtection>);

#[pymethods]
impl MemoryProtection {
    /// The name of the mechanism in use.
    fn backend(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.0.with(py, |m| Ok(m.backend()))?)
    }

    fn add(&self, py: Python<'_>, cgroup: PathBuf, role: &str) -> PyResult<()> {
        self.0.with(py, |m| m.add(cgroup, role.parse()?))
    }

    fn remove(&self, py: Python<'_>, cgroup: PathBuf) -> PyResult<()> {
        self.0.with(py, |m| m.remove(cgroup))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.0.with(py, |m| Ok(m.stats()))?)
    }

    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }
}
