//! libagentcg: `agentcg_core` for C, and for every language that calls C.
//!
//! | file | subject |
//! |---|---|
//! | `error.rs` | `agentcg_error_t`, and the boundary that no panic crosses |
//! | `args.rs` | C's pointers and numbers to Rust's types and back |
//! | `options.rs` | structs of options that may grow |
//! | `log.rs` | what a runtime logs, to a function of the caller's |
//! | `runtime.rs` | `agentcg_runtime_t` |
//! | `limits.rs` | `agentcg_limits_t` |
//! | `session.rs` | `agentcg_session_t`: priority, limits, usage |
//! | `call.rs` | `agentcg_call_t`, `agentcg_canceller_t`: tool calls |
//! | `outcome.rs`, `usage.rs` | `agentcg_outcome_t`: what came of one |
//! | `scheduler.rs` | `agentcg_scheduler_t` |
//! | `memory.rs` | `agentcg_memory_t` |
//! | `inspect.rs` | sessions and calls of all processes |
//! | `events.rs`, `event.rs` | `agentcg_events_t`, and an event as C reads it |
//!
//! `include/agentcg.h` is generated from these files (`tests/header.rs`): what is documented here is
//! what C programmers read.

#![allow(non_camel_case_types)]
// the names that C sees
// The documentation is that of the header; what every caller must keep to stands at its head.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char};

mod args;
mod call;
mod error;
mod event;
mod events;
mod inspect;
mod limits;
mod log;
mod memory;
mod options;
mod outcome;
mod runtime;
mod scheduler;
mod session;
mod usage;

pub use call::*;
pub use error::{
    agentcg_error_code, agentcg_error_code_t, agentcg_error_errno, agentcg_error_free,
    agentcg_error_help, agentcg_error_message, agentcg_error_path, agentcg_error_t,
};
pub use event::{agentcg_event_kind_t, agentcg_event_t};
pub use events::*;
pub use inspect::agentcg_inspect_json;
pub use limits::*;
pub use log::{agentcg_log_fn_t, agentcg_log_level_t};
pub use memory::*;
pub use outcome::*;
pub use runtime::*;
pub use scheduler::*;
pub use session::*;
pub use usage::agentcg_usage_t;

use error::guard;

/// What the header says of handles that several threads may use at once.
const fn shared_by_threads<T: Send + Sync>() {}
const _: () = {
    shared_by_threads::<agentcg_error_t>();
    shared_by_threads::<agentcg_runtime_t>();
    shared_by_threads::<agentcg_session_t>();
    shared_by_threads::<agentcg_memory_t>();
    shared_by_threads::<agentcg_call_t>();
    shared_by_threads::<agentcg_canceller_t>();
    shared_by_threads::<agentcg_outcome_t>();
};
/// What it says of the others.
const fn moved_between_threads<T: Send>() {}
const _: () = {
    moved_between_threads::<agentcg_scheduler_t>();
    moved_between_threads::<agentcg_events_t>();
};

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// The version of the header: major.
pub const AGENTCG_VERSION_MAJOR: u32 = 0;
/// The version of the header: minor. It changes when something is added.
pub const AGENTCG_VERSION_MINOR: u32 = 1;
/// The version of the header: patch.
pub const AGENTCG_VERSION_PATCH: u32 = 0;

const _: () = {
    const fn is(text: &str, number: u32) -> bool {
        text.len() == 1 && text.as_bytes()[0] == b'0' + number as u8
    }
    assert!(is(env!("CARGO_PKG_VERSION_MAJOR"), AGENTCG_VERSION_MAJOR));
    assert!(is(env!("CARGO_PKG_VERSION_MINOR"), AGENTCG_VERSION_MINOR));
    assert!(is(env!("CARGO_PKG_VERSION_PATCH"), AGENTCG_VERSION_PATCH));
};

/// The version of the library, as in "0.1.0". Static: it must not be freed. Callable from any
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn agentcg_version() -> *const c_char {
    VERSION.as_ptr()
}

/// What this kernel and our privileges allow, found by trying: the JSON of `agentcg doctor --json`.
/// Needs no privileges and no runtime; takes some ms. Callable from any thread.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_capabilities_json(
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        *out = args::string(args::json(&agentcg_core::Capabilities::probe())?)?;
        Ok(())
    })
}

/// Frees a string that a function of this library gave to the caller. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: the caller passes what `args::json` made with CString::into_raw, once.
        drop(unsafe { std::ffi::CString::from_raw(string) });
    }
}
