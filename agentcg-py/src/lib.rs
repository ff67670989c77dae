//! `agentcg._native`: `agentcg_core` for Python. The typed face of it is `python/agentcg`, which is
//! what users import.
//!
//! | file | subject |
//! |---|---|
//! | `error.rs` | errors to the exceptions of `agentcg._errors` |
//! | `handle.rs` | a handle that Python may close, shared by threads, used with the GIL released |
//! | `runtime.rs` | Runtime |
//! | `session.rs` | Session |
//! | `options.rs` | limits and what is asked of a call, by name |
//! | `call.rs` | ToolCall, and what a call comes to |
//! | `scheduler.rs` | Scheduler |
//! | `memory.rs` | MemoryProtection |
//! | `events.rs` | EventStream |
//! | `recorded.rs` | an event from a line of JSON |
//!
//! Values go over as the JSON that all languages have.

mod call;
mod error;
mod events;
mod handle;
mod memory;
mod options;
mod recorded;
mod runtime;
mod scheduler;
mod session;

/// The native half of agentcg.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::call::ToolCall;
    #[pymodule_export]
    use crate::events::EventStream;
    #[pymodule_export]
    use crate::memory::MemoryProtection;
    #[pymodule_export]
    use crate::recorded::read_event;
    #[pymodule_export]
    use crate::runtime::Runtime;
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::session::Place;
    #[pymodule_export]
    use crate::session::Session;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The classes that we look up and the locks that we hold are the process's and not the
    /// interpreter's: another interpreter would meet objects that are not its own.
    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        // SAFETY: the current interpreter, which there is, for we hold its GIL.
        let id =
            unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
        if id != 0 {
            return Err(pyo3::exceptions::PyImportError::new_err(
                "agentcg works in the main interpreter only, not in subinterpreters",
            ));
        }
        Ok(())
    }

    /// The JSON of `agentcg doctor --json`.
    #[pyfunction]
    fn capabilities(py: Python<'_>) -> PyResult<String> {
        let found = py.detach(agentcg_core::Capabilities::probe);
        crate::handle::json(&found)
    }

    /// The program `agentcg`, with the arguments after its name; returns its exit status.
    #[pyfunction]
    fn main(py: Python<'_>, args: Vec<std::ffi::OsString>) -> u8 {
        let args = std::iter::once("agentcg".into()).chain(args);
        let status = py.detach(|| agentcg_cli::program::run(args));
        (0..=u8::MAX).find(|n| status == (*n).into()).unwrap_or(u8::MAX)
    }
}
