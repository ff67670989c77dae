use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error;

/// Something of the core that Python can close before the last reference goes.
///
/// The lock is only ever taken with the GIL released, so that neither waits for the other.
pub(crate) struct Handle<T> {
    what: &'static str,
    inner: Mutex<Option<T>>,
}

impl<T: Send> Handle<T> {
    pub(crate) fn new(what: &'static str, inner: T) -> Self {
        Self { what, inner: Mutex::new(Some(inner)) }
    }

    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut T) -> agentcg_core::Result<R> + Send,
    ) -> PyResult<R> {
        match py.detach(|| self.inner.lock().as_mut().map(f)) {
            Some(result) => result.map_err(|e| error::from_core(py, &e)),
            None => Err(error::closed(py, self.what)),
        }
    }

    pub(crate) fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.inner.lock().take()));
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}
