//! `agentcg_runtime_t`.

use std::ffi::c_char;

use agentcg_core::Runtime;

use crate::args;
use crate::error::{agentcg_error_t, free, guard};
use crate::session::agentcg_session_t;

/// The owner of one cgroup v2 subtree and of the sessions in it. Several threads may use it at once.
///
/// The last of the runtime and its sessions to be freed removes the cgroups that the runtime made
/// and switches controllers off again that it switched on. What a process that was killed left
/// behind is removed by the next runtime on the same root.
#[derive(Debug)]
pub struct agentcg_runtime_t(pub(crate) Runtime);

/// Takes a subtree. It needs root, or a subtree that was delegated to the user.
///
/// `root` is the path of the cgroup below which the sessions are made; it is made if it is missing,
/// in an existing parent. NULL: `agentcg` below the cgroup v2 mount. `out` receives the runtime,
/// which the caller frees with `agentcg_runtime_free`. Callable from any thread.
///
/// Errors: UNSUPPORTED without cgroup v2; INVALID_INPUT when the parent is no cgroup;
/// PERMISSION_DENIED; BUSY when another runtime holds the root.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_new(
    root: *const c_char,
    out: *mut *mut agentcg_runtime_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(out, "out") }?;
        let mut builder = Runtime::builder();
        if !root.is_null() {
            // SAFETY: it is a C string.
            builder = builder.root(unsafe { args::path(root, "root") }?);
        }
        *out = Box::into_raw(Box::new(agentcg_runtime_t(builder.build()?)));
        Ok(())
    })
}

/// Frees a runtime. NULL is fine. Its sessions, schedulers, memory protections and event streams go
/// on until they are freed themselves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_free(runtime: *mut agentcg_runtime_t) {
    // SAFETY: the caller passes NULL or a runtime that it got, once.
    unsafe { free(runtime) }
}

/// Moves a process with all its threads into a session (`cgroup.procs`); its later children are born
/// there.
///
/// Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_move_pid(
    runtime: *const agentcg_runtime_t,
    pid: i32,
    session: *const agentcg_session_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a runtime that it has not freed.
        let runtime = unsafe { args::handle(runtime, "runtime") }?;
        // SAFETY: the caller passes NULL or a session that it has not freed.
        let session = unsafe { args::handle(session, "session") }?;
        Ok(runtime.0.move_pid(pid, &session.session)?)
    })
}
