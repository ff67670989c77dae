//! `agentcg_runtime_t`.

use std::ffi::{CString, c_char, c_void};
use std::mem::{offset_of, size_of};
use std::ptr;

use agentcg_core::{Capacity, Runtime, RuntimeBuilder};

use crate::args;
use crate::error::{Logged, Result, agentcg_error_t, free_logged, guard, with};
use crate::limits::AGENTCG_UNSET;
use crate::log::{Log, agentcg_log_fn_t, agentcg_log_level_t};
use crate::options::{self, Options};
use crate::session::agentcg_session_t;

/// How to take a subtree. Fill it with `agentcg_runtime_options_init`. The library copies what it
/// needs before it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_runtime_options_t {
    /// The size of the struct; `agentcg_runtime_options_init` sets it.
    pub size: usize,
    /// The path of the cgroup below which the sessions are made; it is made if it is missing, in an
    /// existing parent. NULL: `agentcg` below the cgroup v2 mount, or below our own cgroup where
    /// that is all we may write to (a subtree that systemd delegated).
    pub root: *const c_char,
    /// Takes what the runtime and all that it gives have to log; NULL: nobody. It is not called any
    /// more when they are all freed.
    pub log: agentcg_log_fn_t,
    /// Given to `log` as it is.
    pub log_data: *mut c_void,
    /// The least grave `agentcg_log_level_t` that is logged. Default AGENTCG_LOG_INFO.
    pub log_level: u32,
    /// Several processes use the root at once: a session that is there already is joined, and the
    /// last one out removes it. Default false.
    pub shared: bool,
    /// Tool calls whose program was killed are moved out to the parent of the root when the next
    /// runtime takes it, instead of being killed. Default false.
    pub keep_orphans: bool,
    /// What the tool calls of all sessions may need together, by their limits; others wait. Bytes
    /// of memory; AGENTCG_UNSET (the default): not bounded.
    pub capacity_memory: u64,
    /// As `capacity_memory`, in calls at the same time.
    pub capacity_calls: u64,
    /// As `capacity_memory`, in CPUs; 0 (the default): not bounded.
    pub capacity_cpus: f64,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_runtime_options_t {
    const NAME: &'static str = "runtime_options";
    const FIRST_SIZE: usize = offset_of!(Self, capacity_cpus) + size_of::<f64>();
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        root: ptr::null(),
        log: None,
        log_data: ptr::null_mut(),
        log_level: agentcg_log_level_t::AGENTCG_LOG_INFO as u32,
        shared: false,
        keep_orphans: false,
        capacity_memory: AGENTCG_UNSET,
        capacity_calls: AGENTCG_UNSET,
        capacity_cpus: 0.0,
    };
}

impl agentcg_runtime_options_t {
    /// # Safety
    /// The root is NULL or a C string.
    unsafe fn to_core(self) -> Result<RuntimeBuilder> {
        if !(1..=4).contains(&self.log_level) {
            return Err(agentcg_error_t::invalid(format!(
                "invalid log_level {}: expected an agentcg_log_level_t",
                self.log_level
            )));
        }
        let mut builder = Runtime::builder().shared(self.shared).keep_orphans(self.keep_orphans);
        if !self.root.is_null() {
            // SAFETY: required of the caller.
            builder = builder.root(unsafe { args::path(self.root, "root") }?);
        }
        let capacity = capacity(self.capacity_memory, self.capacity_calls, self.capacity_cpus);
        Ok(builder.capacity(capacity))
    }
}

pub(crate) fn capacity(memory: u64, calls: u64, cpus: f64) -> Capacity {
    let mut capacity = Capacity::default();
    capacity.memory = (memory != AGENTCG_UNSET).then_some(memory);
    capacity.calls = (calls != AGENTCG_UNSET).then(|| usize::try_from(calls).unwrap_or(usize::MAX));
    capacity.cpus = (cpus != 0.0).then_some(cpus);
    capacity
}

/// The owner of one cgroup v2 subtree and of the sessions in it. Several threads may use it at once.
///
/// The last of the runtime and its sessions to be freed removes the cgroups that the runtime made
/// and switches controllers off again that it switched on. What a process that was killed left
/// behind is removed by the next runtime on the same root.
#[derive(Debug)]
pub struct agentcg_runtime_t {
    pub(crate) runtime: Runtime,
    path: CString,
    pub(crate) log: Log,
}

impl Logged for agentcg_runtime_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

/// Fills in the defaults. `size` is `sizeof` the struct. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_options_init(
    options: *mut agentcg_runtime_options_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(options, size) }
}

/// Takes a subtree. It needs root, or a subtree that was delegated to the user.
///
/// `options` NULL: the defaults. `out` receives the runtime, which the caller frees with
/// `agentcg_runtime_free`. Callable from any thread.
///
/// Errors: UNSUPPORTED without cgroup v2; INVALID_INPUT when the parent is no cgroup;
/// PERMISSION_DENIED; BUSY when another runtime holds the root.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_new(
    options: *const agentcg_runtime_options_t,
    out: *mut *mut agentcg_runtime_t,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: the caller passes NULL or a place for a pointer.
        let out = unsafe { args::out(out, "out") }?;
        // SAFETY: the caller passes NULL or an initialised struct.
        let options = unsafe { options::read(options) }?;
        // SAFETY: its root is NULL or a C string.
        let builder = unsafe { options.to_core() }?;
        let log = Log::new(options.log, options.log_data, options.log_level);
        let runtime = log.heard(|| builder.build())?;
        let path = args::c_string(runtime.root().path());
        *out = Box::into_raw(Box::new(agentcg_runtime_t { runtime, path, log }));
        Ok(())
    })
}

/// The path of the root cgroup's directory. It belongs to the runtime and lives as long as that.
/// NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_path(runtime: *const agentcg_runtime_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a runtime that it has not freed.
    unsafe { runtime.as_ref() }.map_or(ptr::null(), |r| r.path.as_ptr())
}

/// Frees a runtime. NULL is fine. Its sessions, schedulers, memory protections and event streams go
/// on until they are freed themselves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_runtime_free(runtime: *mut agentcg_runtime_t) {
    // SAFETY: the caller passes NULL or a runtime that it got, once.
    unsafe { free_logged(runtime) }
}

/// Moves a process with all its threads into a session (`cgroup.procs`); its later children are born
/// there. Once the session has tool calls, it goes to the cgroup `agent` beside them.
///
/// Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_move_pid(
    runtime: *const agentcg_runtime_t,
    pid: i32,
    session: *const agentcg_session_t,
) -> *mut agentcg_error_t {
    let move_pid = |runtime: &agentcg_runtime_t| {
        // SAFETY: the caller passes NULL or a session that it has not freed.
        let session = unsafe { args::handle(session, "session") }?;
        Ok(runtime.runtime.move_pid(pid, &session.session)?)
    };
    // SAFETY: the caller passes NULL or a runtime that it has not freed.
    unsafe { with(runtime, "runtime", move_pid) }
}
