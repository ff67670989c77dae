//! [`Canceller`]: ends a call from another thread, from before it is started until it is over.

use std::sync::Arc;

use parking_lot::Mutex;

use super::US;
use crate::Result;
use crate::admission::Gate;
use crate::cgroup::Cgroup;
use crate::session::kill_call;

/// Ends the call of one [`Command`](super::Command), also while it waits for admission and while
/// [`output`](super::Command::output) or [`status`](super::Command::status) waits for it. Its
/// verdict is `cancelled`.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    gate: Option<Arc<Gate>>,
    cgroup: Option<Arc<Cgroup>>,
}

impl Canceller {
    /// Kills the call at once, or keeps it from being started. For a gentler end see
    /// [`ToolCall::cancel`](super::ToolCall::cancel).
    ///
    /// # Errors
    /// Those of writing `cgroup.kill`.
    pub fn cancel(&self) -> Result<()> {
        let (gate, cgroup) = {
            let mut state = self.0.lock();
            state.cancelled = true;
            (state.gate.clone(), state.cgroup.clone())
        };
        if let Some(gate) = gate {
            gate.wake();
        }
        cgroup.map_or(Ok(()), |cgroup| kill_call(&cgroup, US))
    }

    /// Was it asked for?
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().cancelled
    }

    pub(super) fn waits_at(&self, gate: &Arc<Gate>) {
        self.0.lock().gate = Some(gate.clone());
    }

    /// The call is about to run there; false when it is not wanted any more.
    pub(super) fn runs_in(&self, cgroup: &Arc<Cgroup>) -> bool {
        let mut state = self.0.lock();
        state.gate = None;
        state.cgroup = Some(cgroup.clone());
        !state.cancelled
    }
}
