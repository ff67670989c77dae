use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use agentcg_core::{Canceller, ErrorKind, Verdict};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::{Done, ToolCall, done};
use crate::error;
use crate::handle::Handle;
use crate::options::{self, Description};

/// One agent's cgroup.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct Session {
    session: Handle<Arc<agentcg_core::Session>>,
    path: PathBuf,
    runs: Runs,
}

impl Session {
    pub(crate) fn new(session: agentcg_core::Session) -> Self {
        Self {
            path: session.path().to_path_buf(),
            session: Handle::new("session", Arc::new(session)),
            runs: Runs::default(),
        }
    }
}

#[pymethods]
impl Session {
    #[getter]
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn usage(&self, py: Python<'_>) -> PyResult<String> {
        self.session.with(py, |s| s.usage().map(|usage| usage.to_json()))
    }

    fn move_pid(&self, py: Python<'_>, pid: i32) -> PyResult<()> {
        self.session.with(py, |s| s.move_pid(pid))
    }

    fn move_agent(&self, py: Python<'_>, pid: i32) -> PyResult<()> {
        self.session.with(py, |s| s.move_agent(pid))
    }

    fn set_limits(&self, py: Python<'_>, limits: &Bound<'_, PyDict>) -> PyResult<()> {
        let limits = options::limits(limits)?;
        self.session.with(py, |s| s.set_limits(&limits))
    }

    fn freeze(&self, py: Python<'_>, frozen: bool) -> PyResult<()> {
        self.session.with(py, |s| if frozen { s.freeze() } else { s.thaw() })
    }

    fn kill(&self, py: Python<'_>) -> PyResult<()> {
        self.session.with(py, |s| s.kill())
    }

    fn kill_calls(&self, py: Python<'_>) -> PyResult<()> {
        self.session.with(py, |s| s.kill_calls())
    }

    /// Runs a command in this thread. A Python signal handler that raises ends the call.
    fn run(
        &self,
        py: Python<'_>,
        args: Vec<OsString>,
        options: &Bound<'_, PyDict>,
        place: Option<&Place>,
    ) -> PyResult<Done> {
        let description = Description::new(args, options)?;
        let session = self.session.with(py, |s| Ok(s.clone()))?;
        let place = Place::used(py, place)?;
        let mut raised = None;
        let outcome = py.detach(|| {
            // Dropped in this order: the command, the session, the run. Whoever waits for the end of
            // the run then has the last reference to the session; at the end of Python this thread
            // may never have the GIL again, and can let go of nothing after this.
            let canceller = Canceller::default();
            let _run = self.runs.enter(canceller.clone());
            let session = session;
            let mut command = description.command(&session);
            command.cancelled_by(&canceller);
            if let Some(place) = place {
                command.at(place);
            }
            command.output_unless(|| match Python::try_attach(|py| py.check_signals()) {
                None | Some(Ok(())) => false,
                Some(Err(e)) => {
                    raised = Some(e);
                    true
                }
            })
        });
        match raised {
            Some(e) => Err(e),
            None => Ok(done(py, &outcome.map_err(|e| error::from_core(py, &e))?)),
        }
    }

    /// Starts a command; `first` is the call of which this one is the second attempt.
    fn spawn(
        &self,
        py: Python<'_>,
        args: Vec<OsString>,
        options: &Bound<'_, PyDict>,
        place: Option<&Place>,
        first: Option<&ToolCall>,
    ) -> PyResult<ToolCall> {
        let description = Description::new(args, options)?;
        let session = self.session.with(py, |s| Ok(s.clone()))?;
        let place = Place::used(py, place)?;
        let call = py.detach(|| {
            let canceller = Canceller::default();
            let _run = self.runs.enter(canceller.clone());
            let session = session;
            let mut command = description.command(&session);
            if let Some(place) = place {
                command.at(place);
            }
            command.cancelled_by(&canceller).spawn()
        });
        let first = first.and_then(ToolCall::kept);
        ToolCall::new(py, call.map_err(|e| error::from_core(py, &e))?, first)
    }

    /// A place in the queue for this command; `None` where there is no queue, or none for a call
    /// that never fits, as its outcome will say.
    fn enqueue(
        &self,
        py: Python<'_>,
        args: Vec<OsString>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<Option<Place>> {
        let description = Description::new(args, options)?;
        let session = self.session.with(py, |s| Ok(s.clone()))?;
        let place = py.detach(|| {
            let place = match description.command(&session).enqueue() {
                Err(e) if e.kind() == ErrorKind::InvalidInput => None,
                place => place?,
            };
            let Some(place) = place else { return Ok(None) };
            let ready = place.ready_fd()?;
            Ok(Some(Place { place: Handle::new("place in the queue", place), ready }))
        });
        place.map_err(|e| error::from_core(py, &e))
    }

    /// The `memory.max` with which a call that is over is to be started once more, if it is.
    fn again(
        &self,
        py: Python<'_>,
        args: Vec<OsString>,
        options: &Bound<'_, PyDict>,
        call: &ToolCall,
    ) -> PyResult<Option<u64>> {
        if call.verdict(py)? != Some(Verdict::OomKilled) {
            return Ok(None);
        }
        let description = Description::new(args, options)?;
        let session = self.session.with(py, |s| Ok(s.clone()))?;
        let command = description.command(&session);
        Ok(call.look(|outcome| command.again(outcome)))
    }

    /// Ends the runs of other threads, then the session.
    fn close(&self, py: Python<'_>) {
        let Ok(Some(session)) = self.session.take(py) else { return };
        py.detach(|| {
            self.runs.end();
            drop(session);
        });
    }
}

/// A place in the queue for admission. Waiting is left to Python, on the descriptor.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct Place {
    place: Handle<agentcg_core::Place>,
    ready: Arc<OwnedFd>,
}

impl Place {
    fn used(py: Python<'_>, place: Option<&Self>) -> PyResult<Option<agentcg_core::Place>> {
        place.map_or(Ok(None), |place| place.place.take(py))
    }
}

#[pymethods]
impl Place {
    fn fileno(&self) -> i32 {
        self.ready.as_raw_fd()
    }

    /// Gives it up; one that was used is the call's.
    fn close(&self, py: Python<'_>) {
        self.place.close(py);
    }
}

/// The calls of `run` that threads are in, so that closing the session can end them.
#[derive(Default)]
struct Runs {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    closing: bool,
    next: u64,
    cancellers: HashMap<u64, Canceller>,
}

impl Runs {
    fn enter(&self, canceller: Canceller) -> Inside<'_> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        if state.closing {
            // Before it is started: its verdict is `cancelled`.
            let _ = canceller.cancel();
        }
        state.cancellers.insert(id, canceller);
        Inside { runs: self, id }
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        for canceller in state.cancellers.values() {
            // It fails when the call is just over, and then there is nothing to wait for.
            let _ = canceller.cancel();
        }
        while !state.cancellers.is_empty() {
            self.idle.wait(&mut state);
        }
    }
}

/// A thread is in `run`, until this is dropped.
struct Inside<'r> {
    runs: &'r Runs,
    id: u64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.runs.state.lock();
        state.cancellers.remove(&self.id);
        if state.cancellers.is_empty() {
            self.runs.idle.notify_all();
        }
    }
}
