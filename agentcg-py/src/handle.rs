use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error;

/// Something of the core that Python can close before the last reference goes.
///
/// The lock is only ever taken with the GIL released, so that neither waits for the other. A forked
/// child has a copy of the memory, of locks that nobody will open too, but what the handle stands
/// for is its parent's: there every use is refused, and nothing is undone.
pub(crate) struct Handle<T> {
    what: &'static str,
    process: u32,
    inner: Mutex<Option<T>>,
}

impl<T: Send> Handle<T> {
    pub(crate) fn new(what: &'static str, inner: T) -> Self {
        Self { what, process: std::process::id(), inner: Mutex::new(Some(inner)) }
    }

    pub(crate) fn with<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut T) -> agentcg_core::Result<R> + Send,
    ) -> PyResult<R> {
        if self.forked() {
            return Err(error::forked(py, self.what));
        }
        match py.detach(|| self.inner.lock().as_mut().map(f)) {
            Some(result) => result.map_err(|e| error::from_core(py, &e)),
            None => Err(error::closed(py, self.what)),
        }
    }

    /// Takes it out; nobody else has it then.
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<Option<T>> {
        if self.forked() {
            return Err(error::forked(py, self.what));
        }
        Ok(py.detach(|| self.inner.lock().take()))
    }

    pub(crate) fn close(&self, py: Python<'_>) {
        if !self.forked() {
            py.detach(|| drop(self.inner.lock().take()));
        }
    }
}

impl<T> Handle<T> {
    pub(crate) fn forked(&self) -> bool {
        self.process != std::process::id()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if self.forked() {
            std::mem::forget(self.inner.get_mut().take());
        }
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}
