//! Sessions and calls of all processes, seen from outside.

use std::ffi::c_char;

use crate::args;
use crate::error::{agentcg_error_t, guard};

/// The sessions below a runtime's root with their calls, whoever made them, as a JSON array: for each
/// session `name`, `path`, `frozen`, `processes`, `background`, `usage` and `calls`, for each of these
/// `name`, `session`, `path`, `command`, `owner`, `owner_alive`, `started_ms` (since 1970), `frozen`,
/// `processes`, `usage`. Empty when there is no such cgroup. Nothing is locked or changed, and no
/// runtime is needed: what is said may be over a moment later. Callable from any thread.
///
/// `root` is the path of the cgroup, as of `agentcg_runtime_path`. `json_out` receives a string that
/// the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT when it is no cgroup, and for NULL; those of reading it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_inspect_json(
    root: *const c_char,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(json_out, "json_out") }?;
        // SAFETY: the caller passes NULL or a C string.
        let root = unsafe { args::path(root, "root") }?;
        *out = args::string(args::json(&agentcg_core::inspect(root)?)?)?;
        Ok(())
    })
}
