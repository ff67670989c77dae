use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;

use agentcg_core::{CallControl, Captured, Ended, Outcome, Verdict};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error;
use crate::handle::{Handle, json};

/// Captured output, and where something was left out.
type Output = Option<(Py<PyBytes>, Option<usize>)>;
/// The outcome's JSON, the exit status as `subprocess` has it, standard output and error.
pub(crate) type Done = (String, i32, Output, Output);

/// `agentcg run` ends with it too when nothing was run.
const NOT_RUN: i32 = 125;

pub(crate) fn done(py: Python<'_>, outcome: &Outcome) -> Done {
    let status = match outcome.ended {
        Ended::Signaled { signal, .. } => -signal,
        _ => outcome.shell_status().unwrap_or(NOT_RUN),
    };
    let output = |captured: &Option<Captured>| {
        captured.as_ref().map(|c| (PyBytes::new(py, &c.bytes).unbind(), c.cut_at))
    };
    (outcome.to_json(), status, output(&outcome.stdout), output(&outcome.stderr))
}

/// A call that has been started. Python waits for it, on its descriptor.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct ToolCall {
    call: Handle<agentcg_core::ToolCall>,
    control: CallControl,
    /// What came of the call, when that was asked before it is handed out.
    ended: Mutex<Option<Outcome>>,
    /// What came of the first attempt.
    first: Mutex<Option<Outcome>>,
    path: PathBuf,
    /// Readable when it is over. Our own, for threads and event loops may still have its number when
    /// the outcome has been taken.
    ready: OwnedFd,
    pid: Option<i32>,
}

impl ToolCall {
    pub(crate) fn new(
        py: Python<'_>,
        mut call: agentcg_core::ToolCall,
        first: Option<Outcome>,
    ) -> PyResult<Self> {
        let ready = call.ready_fd().map_err(|e| error::from_core(py, &e))?.try_clone_to_owned()?;
        Ok(Self {
            ready,
            pid: call.pid(),
            path: call.path().to_path_buf(),
            control: call.control().clone(),
            ended: Mutex::default(),
            first: Mutex::new(first),
            call: Handle::new("tool call", call),
        })
    }

    /// Waits for the end; `None` when that was done already.
    fn end(&self, py: Python<'_>) -> PyResult<Option<Outcome>> {
        let Some(call) = self.call.take(py)? else { return Ok(None) };
        py.detach(|| call.wait()).map(Some).map_err(|e| error::from_core(py, &e))
    }

    /// Waits for the end and keeps the outcome, for those who want to see it before `finish` does.
    pub(crate) fn verdict(&self, py: Python<'_>) -> PyResult<Option<Verdict>> {
        let outcome = self.end(py)?;
        let mut ended = self.ended.lock();
        *ended = outcome.or(ended.take());
        Ok(ended.as_ref().map(|o| o.verdict))
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Outcome) -> Option<T>) -> Option<T> {
        self.ended.lock().as_ref().and_then(look)
    }

    /// The outcome that was kept.
    pub(crate) fn kept(&self) -> Option<Outcome> {
        self.ended.lock().take()
    }
}

#[pymethods]
impl ToolCall {
    #[getter]
    fn name(&self) -> &str {
        self.path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.pid
    }

    fn fileno(&self) -> i32 {
        self.ready.as_raw_fd()
    }

    /// Our ends of the pipes; they are the caller's from now on.
    fn pipes(&self, py: Python<'_>) -> PyResult<(Option<i32>, Option<i32>, Option<i32>)> {
        self.call.with(py, |c| {
            let mut own = [c.stdin.take(), c.stdout.take(), c.stderr.take()]
                .map(|pipe| pipe.map(IntoRawFd::into_raw_fd));
            Ok((own[0].take(), own[1].take(), own[2].take()))
        })
    }

    /// Waits for the end and gives the outcome; `None` when that was done already.
    fn finish(&self, py: Python<'_>) -> PyResult<Option<Done>> {
        let kept = self.kept();
        let Some(mut outcome) = kept.map_or_else(|| self.end(py), |o| Ok(Some(o)))? else {
            return Ok(None);
        };
        outcome.retries.extend(self.first.lock().take());
        Ok(Some(done(py, &outcome)))
    }

    fn usage(&self, py: Python<'_>) -> PyResult<String> {
        json(&py.detach(|| self.control.usage()))
    }

    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.control.cancel());
    }

    fn kill(&self, py: Python<'_>) {
        py.detach(|| self.control.kill());
    }

    fn signal(&self, py: Python<'_>, signal: i32) -> PyResult<()> {
        if self.call.forked() {
            return Err(error::forked(py, "tool call"));
        }
        py.detach(|| self.control.signal(signal)).map_err(|e| error::from_core(py, &e))
    }

    fn freeze(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        py.detach(|| self.control.freeze(frozen)).map_err(|e| error::from_core(py, &e))
    }
}
