//! `agentcg._native`: `agentcg_core` for Python. The typed face of it is `python/agentcg`, which is
//! what users import.
//!
//! | file | subject |
//! |---|---|
//! | `error.rs` | errors to the exceptions of `agentcg._errors` |
//! | `handle.rs` | a handle that Python may close, shared by threads, used with the GIL released |
//! | `runtime.rs` | Runtime |
//! | `session.rs` | Session |
//! | `scheduler.rs` | Scheduler |
//! | `memory.rs` | MemoryProtection |
//! | `events.rs` | EventStream |
//!
//! Values go over as the JSON that all languages have.

mod error;
mod events;
mod handle;
mod memory;
mod runtime;
mod scheduler;
mod session;

/// The native half of agentcg.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::events::EventStream;
    #[pymodule_export]
    use crate::memory::MemoryProtection;
    #[pymodule_export]
    use crate::runtime::Runtime;
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::session::Session;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The JSON of `agentcg doctor --json`.
    #[pyfunction]
    fn capabilities(py: Python<'_>) -> PyResult<String> {
        let found = py.detach(agentcg_core::Capabilities::probe);
        crate::handle::json(&found)
    }
}
