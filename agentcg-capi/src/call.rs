//! `agentcg_call_t`, and how one is started.

use std::ffi::{CString, OsStr, c_char, c_void};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentcg_core::{CallControl, Canceller, Command, History, Session, Stdio, ToolCall};

use crate::args;
use crate::error::{
    Logged, Result, agentcg_error_code_t, agentcg_error_t, free, free_logged, give_text, guard,
    make, with,
};
use crate::limits::{AGENTCG_UNSET, agentcg_limits_t};
use crate::log::Log;
use crate::options::{self, Options};
use crate::outcome::agentcg_outcome_t;
use crate::session::agentcg_session_t;
use crate::usage::agentcg_usage_t;

/// In place of a descriptor: what the function does by default. `agentcg_session_spawn`: inherit.
/// `agentcg_session_run`: nothing for standard input, capture for output and error.
pub const AGENTCG_STDIO_DEFAULT: i32 = -1;
/// In place of a descriptor: the same as ours.
pub const AGENTCG_STDIO_INHERIT: i32 = -2;
/// In place of a descriptor: `/dev/null`.
pub const AGENTCG_STDIO_NULL: i32 = -3;
/// In place of a descriptor: a pipe, whose other end `agentcg_call_take_pipe` gives.
pub const AGENTCG_STDIO_PIPE: i32 = -4;
/// In place of standard output or error: kept for the outcome.
pub const AGENTCG_STDIO_CAPTURE: i32 = -5;
/// In place of standard error: where standard output goes.
pub const AGENTCG_STDIO_STDOUT: i32 = -6;

/// In place of a user, group or mask: as we have it.
pub const AGENTCG_UNSET_ID: u32 = u32::MAX;

/// Whether a call that the OOM killer ended at its own `memory.max` is run once more, with twice the
/// memory: by `agentcg_session_run`, or by the caller with `agentcg_session_respawn`, and only where
/// standard input is `/dev/null` or `input`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_retry_t {
    /// With the hint `memory:auto`.
    AGENTCG_RETRY_DEFAULT = 0,
    /// Never.
    AGENTCG_RETRY_NEVER = 1,
    /// Once.
    AGENTCG_RETRY_ONCE = 2,
}

/// A resource limit as of setrlimit(2).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_rlimit_t {
    /// `RLIMIT_NOFILE`, ...
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// How to run a tool call. Fill it with `agentcg_call_options_init`. The library copies what it
/// needs before it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct agentcg_call_options_t {
    /// The size of the struct; `agentcg_call_options_init` sets it.
    pub size: usize,
    /// Of the call's cgroup; NULL: those of the session's `call_limits`.
    pub limits: *const agentcg_limits_t,
    /// What the agent says that it needs: "memory:high,time:5m"; NULL: nothing. It becomes limits
    /// of the call, below `limits`, within those of the session.
    pub hint: *const c_char,
    /// After this time all processes get SIGTERM, and after the grace they are killed, ms, 1 or
    /// more; AGENTCG_UNSET (the default): never.
    pub timeout_ms: u64,
    /// From SIGTERM to `cgroup.kill`, ms; 0: at once; AGENTCG_UNSET (the default): 2000.
    pub grace_ms: u64,
    /// How long it may wait for admission, where there is a capacity, ms; AGENTCG_UNSET (the
    /// default): for ever.
    pub queue_timeout_ms: u64,
    /// How long killed processes are waited for before the outcome names them as survivors, ms;
    /// AGENTCG_UNSET (the default): 10000.
    pub teardown_ms: u64,
    /// Samples the usage at this interval for `timeline` in the JSON, ms, 1 or more; AGENTCG_UNSET
    /// (the default): never.
    pub sample_ms: u64,
    /// Standard input, output and error: a descriptor, which stays the caller's, or one of
    /// AGENTCG_STDIO_*. Default AGENTCG_STDIO_DEFAULT.
    pub stdio: [i32; 3],
    /// An `agentcg_retry_t`.
    pub retry: u32,
    /// Standard input: these bytes, then the end; NULL: as `stdio[0]` says.
    pub input: *const c_void,
    /// How many.
    pub input_length: usize,
    /// How much is kept of each captured output, bytes; of more than that the first and the last
    /// half. AGENTCG_UNSET (the default): 10 MiB.
    pub capture_limit: u64,
    /// Changes of our environment, ended by NULL: "NAME=VALUE" sets, "NAME" removes. NULL: none.
    pub env: *const *const c_char,
    /// The working directory; NULL: ours.
    pub cwd: *const c_char,
    /// The name of the call and of its cgroup; NULL: one is made up.
    pub name: *const c_char,
    /// What the program is told as its own name; NULL: as it was given.
    pub arg0: *const c_char,
    /// Ends the call from another thread, also before it is started; NULL: nobody does. It may be
    /// freed at any time.
    pub canceller: *const agentcg_canceller_t,
    /// A file that remembers what commands took, for the hint `memory:auto`; it is made when it is
    /// missing, and written when an outcome is given. NULL: none.
    pub history: *const c_char,
    /// Supplementary groups; may be NULL with `nr_groups` 0: as we have them, none with `uid`.
    pub groups: *const u32,
    /// How many.
    pub nr_groups: usize,
    /// Resource limits; may be NULL with `nr_rlimits` 0.
    pub rlimits: *const agentcg_rlimit_t,
    /// How many.
    pub nr_rlimits: usize,
    /// Descriptors that the call has as 3, 4, ..., in this order and whatever their numbers here; -1:
    /// closed there. They stay the caller's. May be NULL with `nr_fds` 0.
    pub fds: *const i32,
    /// How many.
    pub nr_fds: usize,
    /// Runs as this user; AGENTCG_UNSET_ID (the default): ours.
    pub uid: u32,
    /// Runs with this group; AGENTCG_UNSET_ID (the default): ours.
    pub gid: u32,
    /// The file mode creation mask; AGENTCG_UNSET_ID (the default): ours.
    pub umask: u32,
    /// `oom_score_adj` of its processes, -1000 to 1000; INT32_MIN (the default): ours plus 500.
    pub oom_score_adj: i32,
    /// The environment is `env` alone. Default false.
    pub env_clear: bool,
    /// The OOM killer takes the call as a whole, `memory.oom.group` (kernel 4.19). Default true.
    pub oom_group: bool,
    /// Processes that the main process leaves behind live on in the session's cgroup `background`,
    /// until the session ends. Default false: they are killed.
    pub background: bool,
    /// Variables such as `OMP_NUM_THREADS` and `MAKEFLAGS` follow the limits, unless they are set
    /// already. Default true.
    pub budget: bool,
    /// In a POSIX session of its own, setsid(2). Default false.
    pub new_session: bool,
    /// Passes on descriptors from 3 up that are not close-on-exec. Default false: `fds` only.
    pub inherit_fds: bool,
}

// SAFETY: repr(C), and the size comes first.
unsafe impl Options for agentcg_call_options_t {
    const NAME: &'static str = "call_options";
    const FIRST_SIZE: usize = offset_of!(Self, inherit_fds) + size_of::<bool>();
    const DEFAULTS: Self = Self {
        size: size_of::<Self>(),
        limits: ptr::null(),
        hint: ptr::null(),
        timeout_ms: AGENTCG_UNSET,
        grace_ms: AGENTCG_UNSET,
        queue_timeout_ms: AGENTCG_UNSET,
        teardown_ms: AGENTCG_UNSET,
        sample_ms: AGENTCG_UNSET,
        stdio: [AGENTCG_STDIO_DEFAULT; 3],
        retry: agentcg_retry_t::AGENTCG_RETRY_DEFAULT as u32,
        input: ptr::null(),
        input_length: 0,
        capture_limit: AGENTCG_UNSET,
        env: ptr::null(),
        cwd: ptr::null(),
        name: ptr::null(),
        arg0: ptr::null(),
        canceller: ptr::null(),
        history: ptr::null(),
        groups: ptr::null(),
        nr_groups: 0,
        rlimits: ptr::null(),
        nr_rlimits: 0,
        fds: ptr::null(),
        nr_fds: 0,
        uid: AGENTCG_UNSET_ID,
        gid: AGENTCG_UNSET_ID,
        umask: AGENTCG_UNSET_ID,
        oom_score_adj: i32::MIN,
        env_clear: false,
        oom_group: true,
        background: false,
        budget: true,
        new_session: false,
        inherit_fds: false,
    };
}

fn time(ms: u64) -> Option<Duration> {
    (ms != AGENTCG_UNSET).then(|| Duration::from_millis(ms))
}

fn id(value: u32) -> Option<u32> {
    (value != AGENTCG_UNSET_ID).then_some(value)
}

impl agentcg_call_options_t {
    /// # Safety
    /// The pointers are NULL or as the header says.
    unsafe fn apply(&self, command: &mut Command<'_>) -> Result<()> {
        // SAFETY: required of the caller.
        command.limits(unsafe { agentcg_limits_t::to_core(self.limits) }?);
        if !self.hint.is_null() {
            // SAFETY: required of the caller.
            command.hint(unsafe { args::text(self.hint, "hint") }?.parse()?);
        }
        if self.timeout_ms == 0 {
            return Err(agentcg_error_t::invalid(
                "invalid timeout_ms 0: expected 1 or more, or AGENTCG_UNSET",
            ));
        }
        time(self.timeout_ms).map(|t| command.timeout(t));
        time(self.grace_ms).map(|t| command.grace(t));
        time(self.queue_timeout_ms).map(|t| command.queue_timeout(t));
        time(self.teardown_ms).map(|t| command.teardown_timeout(t));
        time(self.sample_ms).map(|t| command.sample(t));
        // SAFETY: required of the caller.
        unsafe { self.connect(command) }?;
        if self.capture_limit != AGENTCG_UNSET {
            command.capture_limit(usize::try_from(self.capture_limit).unwrap_or(usize::MAX));
        }
        // SAFETY: required of the caller.
        unsafe { self.surround(command) }?;
        // SAFETY: required of the caller.
        if let Some(canceller) = unsafe { self.canceller.as_ref() } {
            command.cancelled_by(&canceller.0);
        }
        if !self.history.is_null() {
            // SAFETY: required of the caller.
            command.history(History::open(unsafe { args::path(self.history, "history") }?)?);
        }
        match self.retry {
            0 => {}
            1 | 2 => {
                command.retry(self.retry == agentcg_retry_t::AGENTCG_RETRY_ONCE as u32);
            }
            n => {
                return Err(agentcg_error_t::invalid(format!(
                    "invalid retry {n}: expected an agentcg_retry_t"
                )));
            }
        }
        if self.oom_score_adj != i32::MIN {
            command.oom_score_adj(self.oom_score_adj);
        }
        command.oom_group(self.oom_group).background(self.background).budget(self.budget);
        Ok(())
    }

    /// # Safety
    /// The input is as long as it says.
    unsafe fn connect(&self, command: &mut Command<'_>) -> Result<()> {
        let [stdin, stdout, stderr] = self.stdio;
        if self.input.is_null() {
            stdio(stdin)?.map(|s| command.stdin(s));
        } else {
            // SAFETY: required of the caller.
            let input = unsafe { args::slice(self.input.cast::<u8>(), self.input_length, "input") };
            command.stdin(Stdio::Bytes(input?.to_vec()));
        }
        stdio(stdout)?.map(|s| command.stdout(s));
        stdio(stderr)?.map(|s| command.stderr(s));
        Ok(())
    }

    /// What the process finds about it.
    ///
    /// # Safety
    /// The pointers are NULL or as the header says.
    unsafe fn surround(&self, command: &mut Command<'_>) -> Result<()> {
        if self.env_clear {
            command.env_clear();
        }
        // SAFETY: required of the caller.
        for change in unsafe { args::list(self.env) } {
            let bytes = change.as_bytes();
            match bytes.iter().position(|b| *b == b'=') {
                Some(at) => command
                    .env(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])),
                None => command.env_remove(change),
            };
        }
        if !self.cwd.is_null() {
            // SAFETY: required of the caller.
            command.current_dir(unsafe { args::path(self.cwd, "cwd") }?);
        }
        if !self.name.is_null() {
            // SAFETY: required of the caller.
            command.name(unsafe { args::text(self.name, "name") }?);
        }
        if !self.arg0.is_null() {
            // SAFETY: required of the caller.
            command.arg0(unsafe { args::path(self.arg0, "arg0") }?);
        }
        // SAFETY: required of the caller.
        let groups = unsafe { args::slice(self.groups, self.nr_groups, "groups") }?;
        if !groups.is_empty() {
            command.groups(groups);
        }
        // SAFETY: required of the caller.
        for limit in unsafe { args::slice(self.rlimits, self.nr_rlimits, "rlimits") }? {
            command.rlimit(limit.resource, limit.soft, limit.hard);
        }
        // SAFETY: required of the caller.
        let fds = unsafe { args::slice(self.fds, self.nr_fds, "fds") }?.iter();
        let copies = fds.map(|fd| (*fd != -1).then(|| copy(*fd, "fds")).transpose());
        command.extra_fds(copies.collect::<Result<Vec<_>>>()?);
        id(self.uid).map(|uid| command.uid(uid));
        id(self.gid).map(|gid| command.gid(gid));
        id(self.umask).map(|mask| command.umask(mask));
        command.new_session(self.new_session).inherit_fds(self.inherit_fds);
        Ok(())
    }
}

/// Of a descriptor of the caller's.
fn copy(fd: i32, name: &str) -> Result<OwnedFd> {
    let copy = match fd {
        0.. => {
            // SAFETY: the caller keeps it open until we return; a number that is not open gives EBADF.
            unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
        }
        _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
    };
    copy.map_err(|e| agentcg_error_t::descriptor(fd, name, &e))
}

/// `None`: the default. Whether it suits the descriptor is for the core to say.
fn stdio(fd: i32) -> Result<Option<Stdio>> {
    Ok(Some(match fd {
        AGENTCG_STDIO_DEFAULT => return Ok(None),
        AGENTCG_STDIO_INHERIT => Stdio::Inherit,
        AGENTCG_STDIO_NULL => Stdio::Null,
        AGENTCG_STDIO_PIPE => Stdio::Piped,
        AGENTCG_STDIO_CAPTURE => Stdio::Capture,
        AGENTCG_STDIO_STDOUT => Stdio::Stdout,
        0.. => Stdio::Fd(copy(fd, "stdio")?),
        n => {
            return Err(agentcg_error_t::invalid(format!(
                "invalid stdio {n}: expected a descriptor or an AGENTCG_STDIO_*"
            )));
        }
    }))
}

/// Ends one call from another thread, from before it is started until it is over. Several threads
/// may use it at once.
#[derive(Debug)]
pub struct agentcg_canceller_t(Canceller);

/// A canceller for one call, which the caller frees with `agentcg_canceller_free`. Callable from any
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn agentcg_canceller_new() -> *mut agentcg_canceller_t {
    Box::into_raw(Box::new(agentcg_canceller_t(Canceller::default())))
}

/// Kills the call at once, or keeps it from being started; its verdict is `cancelled`. Nothing
/// happens to one that is over.
///
/// Errors: those of writing `cgroup.kill`; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_canceller_cancel(
    canceller: *const agentcg_canceller_t,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a canceller that it has not freed.
    guard(|| Ok(unsafe { args::handle(canceller, "canceller") }?.0.cancel()?))
}

/// Frees a canceller; its call goes on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_canceller_free(canceller: *mut agentcg_canceller_t) {
    // SAFETY: the caller passes NULL or a canceller that it got, once.
    unsafe { free(canceller) }
}

/// A tool call that has been started: one command and all its descendants, in a cgroup of its own.
/// Several threads may use it at once. It may outlive the handles of its session and runtime;
/// freeing the session's kills it.
#[derive(Debug)]
pub struct agentcg_call_t {
    /// `None` when the outcome has been given.
    call: Mutex<Option<ToolCall>>,
    control: CallControl,
    pid: i32,
    name: CString,
    path: CString,
    log: Log,
}

impl Logged for agentcg_call_t {
    fn log(&self) -> &Log {
        &self.log
    }
}

impl agentcg_call_t {
    fn new(call: ToolCall, log: Log) -> Self {
        Self {
            control: call.control().clone(),
            pid: call.pid().unwrap_or(-1),
            name: args::c_string(call.name()),
            path: args::c_string(call.path()),
            call: Mutex::new(Some(call)),
            log,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ToolCall>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills in the defaults. `size` is `sizeof` the struct. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_options_init(
    options: *mut agentcg_call_options_t,
    size: usize,
) {
    // SAFETY: the caller passes NULL or a struct of this size, which need not be initialised.
    unsafe { options::init(options, size) }
}

/// A command as it was asked for.
///
/// # Safety
/// The arguments are NULL or as the header says.
unsafe fn command(
    session: &Session,
    argv: *const *const c_char,
    options: *const agentcg_call_options_t,
) -> Result<Command<'_>> {
    // SAFETY: required of the caller.
    let argv = unsafe { args::list(argv) };
    let Some((program, arguments)) = argv.split_first() else {
        return Err(agentcg_error_t::invalid("argv is NULL or empty: it names no program"));
    };
    let mut command = session.command(program);
    command.args(arguments);
    // SAFETY: required of the caller.
    unsafe { options::read(options)?.apply(&mut command) }?;
    Ok(command)
}

/// Runs a tool call and waits until it is over and its cgroup gone. Standard output and error are
/// captured unless `options` say otherwise. To end it meanwhile there is `canceller`.
///
/// `argv` is the program and its arguments, ended by NULL; a name without a slash is looked for in
/// the `PATH` that the call will have. `options` NULL: the defaults. `out` receives the outcome,
/// which the caller frees with `agentcg_outcome_free`. A program that cannot be started is an outcome
/// with AGENTCG_VERDICT_SPAWN_FAILED, not an error.
///
/// Errors, with nothing left behind: INVALID_INPUT for bad options; UNSUPPORTED for a limit whose
/// controller is missing; PERMISSION_DENIED; those of making a cgroup.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_run(
    session: *const agentcg_session_t,
    argv: *const *const c_char,
    options: *const agentcg_call_options_t,
    out: *mut *mut agentcg_outcome_t,
) -> *mut agentcg_error_t {
    let run = |session: &agentcg_session_t| {
        // SAFETY: the caller passes NULL, or a list that ends with NULL and an initialised struct.
        let mut command = unsafe { command(&session.session, argv, options) }?;
        Ok(agentcg_outcome_t::new(command.output()?))
    };
    // SAFETY: the caller passes NULL, or a session that it has not freed and a place for a pointer.
    unsafe { make(session, "session", out, run) }
}

/// Starts a tool call. Standard input, output and error are ours unless `options` say otherwise.
/// Waits before only where there is a capacity.
///
/// `argv` and `options` are as for `agentcg_session_run`. `out` receives the call, which the caller
/// frees with `agentcg_call_free`; that kills it. A program that cannot be started is a call that
/// is over at once.
///
/// Errors: as of `agentcg_session_run`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_spawn(
    session: *const agentcg_session_t,
    argv: *const *const c_char,
    options: *const agentcg_call_options_t,
    out: *mut *mut agentcg_call_t,
) -> *mut agentcg_error_t {
    let spawn = |session: &agentcg_session_t| {
        // SAFETY: the caller passes NULL, or a list that ends with NULL and an initialised struct.
        let mut command = unsafe { command(&session.session, argv, options) }?;
        Ok(agentcg_call_t::new(command.spawn()?, session.log.clone()))
    };
    // SAFETY: the caller passes NULL, or a session that it has not freed and a place for a pointer.
    unsafe { make(session, "session", out, spawn) }
}

/// Starts once more, with twice the memory, a call that the OOM killer ended at its own `memory.max`:
/// as `agentcg_retry_t` in `options` says, and as far as the session allows it.
///
/// `argv` and `options` are those of the first call, and `first` is its outcome, which the outcome of
/// the new one has in its JSON as `retries`. `out` receives the call, as of `agentcg_session_spawn`,
/// or NULL when it is not to be tried again.
///
/// Errors: as of `agentcg_session_run`; INVALID_INPUT for NULL in place of `first`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_session_respawn(
    session: *const agentcg_session_t,
    argv: *const *const c_char,
    options: *const agentcg_call_options_t,
    first: *const agentcg_outcome_t,
    out: *mut *mut agentcg_call_t,
) -> *mut agentcg_error_t {
    let respawn = |session: &agentcg_session_t| {
        // SAFETY: the caller passes NULL or an outcome that it has not freed.
        let first = unsafe { args::handle(first, "first") }?;
        // SAFETY: the caller passes NULL, or a list that ends with NULL and an initialised struct.
        let mut command = unsafe { command(&session.session, argv, options) }?;
        let call = command.respawn(&first.outcome)?;
        Ok(call.map(|call| agentcg_call_t::new(call, session.log.clone())))
    };
    // SAFETY: the caller passes NULL, or a session that it has not freed and a place for a pointer.
    unsafe { make(session, "session", out, respawn) }
}

/// The main process; -1 when it could not be started, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_pid(call: *const agentcg_call_t) -> i32 {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { call.as_ref() }.map_or(-1, |c| c.pid)
}

/// The call's name, that of its cgroup. It belongs to the call and lives as long as that. NULL for
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_name(call: *const agentcg_call_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { call.as_ref() }.map_or(ptr::null(), |c| c.name.as_ptr())
}

/// The path of the call's cgroup directory, `ROOT/SESSION/calls/NAME`, which is gone when it is over.
/// It belongs to the call and lives as long as that. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_path(call: *const agentcg_call_t) -> *const c_char {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { call.as_ref() }.map_or(ptr::null(), |c| c.path.as_ptr())
}

/// Gives away our end of the pipe on standard input (`fd` 0), output (1) or error (2), for
/// AGENTCG_STDIO_PIPE: the caller closes it. What is not taken is closed when the outcome is given.
/// -1 when there is none, it was given already, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_take_pipe(call: *const agentcg_call_t, fd: i32) -> i32 {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    let Some(call) = (unsafe { call.as_ref() }) else { return -1 };
    let mut call = call.lock();
    let pipe = call.as_mut().and_then(|c| match fd {
        0 => c.stdin.take(),
        1 => c.stdout.take(),
        2 => c.stderr.take(),
        _ => None,
    });
    pipe.map_or(-1, IntoRawFd::into_raw_fd)
}

fn already_given() -> agentcg_error_t {
    agentcg_error_t::new(
        agentcg_error_code_t::AGENTCG_ERROR_NOT_FOUND,
        "the outcome of this call has been given already",
    )
}

/// A descriptor for poll(2) or an event loop that is readable when the call is over; then
/// `agentcg_call_wait` gives its outcome at once.
///
/// `fd_out` receives the descriptor. It belongs to the call: do not read from it, do not close it.
///
/// Errors: OS when there are too many descriptors; NOT_FOUND when the outcome was given before;
/// INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_fd(
    call: *const agentcg_call_t,
    fd_out: *mut i32,
) -> *mut agentcg_error_t {
    let get = |call: &agentcg_call_t| {
        // SAFETY: the caller passes NULL or a place for a number.
        let out = unsafe { args::place(fd_out, "fd_out") }?;
        // The call keeps it also when the outcome is given.
        let fd = call.lock().as_mut().ok_or_else(already_given)?.ready_fd()?.as_fd().as_raw_fd();
        *out = fd;
        Ok(())
    };
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", get) }
}

/// Waits until the call is over and its cgroup gone, at most `timeout_ms`, for ever with -1, not at
/// all with 0; signals do not end the wait. Standard input is closed first, if our end was not taken
/// and the wait is for ever.
///
/// `out` receives NULL when the time is over, or the outcome, which the caller frees with
/// `agentcg_outcome_free`. It is given once.
///
/// Errors: NOT_FOUND when it was given before; INVALID_INPUT for NULL, and in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_wait(
    call: *const agentcg_call_t,
    timeout_ms: i64,
    out: *mut *mut agentcg_outcome_t,
) -> *mut agentcg_error_t {
    let wait = |call: &agentcg_call_t| {
        let timeout = match u64::try_from(timeout_ms) {
            Ok(ms) => Duration::from_millis(ms),
            Err(_) => {
                // Else it might wait for the end of its input.
                drop(call.lock().as_mut().and_then(|c| c.stdin.take()));
                Duration::MAX
            }
        };
        // Not under the lock: others may use the call meanwhile.
        if !call.control.wait_timeout(timeout)? {
            return Ok(None);
        }
        let over = call.lock().take().ok_or_else(already_given)?;
        Ok(Some(agentcg_outcome_t::new(over.wait()?)))
    };
    // SAFETY: the caller passes NULL, or a call that it has not freed and a place for a pointer.
    unsafe { make(call, "call", out, wait) }
}

/// What the call has used so far, or in all when it is over, into the caller's struct; `size` is
/// `sizeof` that. What the kernel did not give is AGENTCG_UNSET; `agentcg_call_usage_json` has the
/// reasons.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_usage(
    call: *const agentcg_call_t,
    usage_out: *mut agentcg_usage_t,
    size: usize,
) -> *mut agentcg_error_t {
    let read = |call: &agentcg_call_t| {
        // SAFETY: the caller passes NULL or a place.
        unsafe { args::place(usage_out.cast::<u8>(), "usage_out") }?;
        let usage = agentcg_usage_t::from(&call.control.usage());
        // SAFETY: the caller's struct is as large as it says.
        unsafe { args::give(&usage, usage_out, size, agentcg_usage_t::FILL) };
        Ok(())
    };
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", read) }
}

/// The same as a JSON object, as of `agentcg_session_usage_json`.
///
/// `json_out` receives a string that the caller frees with `agentcg_string_free`.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_usage_json(
    call: *const agentcg_call_t,
    json_out: *mut *mut c_char,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL, or a call that it has not freed and a place for a pointer.
    unsafe { give_text(call, "call", json_out, |c| Ok(c.control.usage().to_json())) }
}

/// Ends the call: SIGTERM to all its processes, `cgroup.kill` after the grace. Its verdict is
/// `cancelled`. Nothing happens to one that is over.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_cancel(call: *const agentcg_call_t) -> *mut agentcg_error_t {
    let cancel = |call: &agentcg_call_t| {
        call.control.cancel();
        Ok(())
    };
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", cancel) }
}

/// Kills all processes of the call at once. Its verdict is `cancelled`. Nothing happens to one that
/// is over.
///
/// Errors: INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_kill(call: *const agentcg_call_t) -> *mut agentcg_error_t {
    let kill = |call: &agentcg_call_t| {
        call.control.kill();
        Ok(())
    };
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", kill) }
}

/// Sends a signal to the main process, and leaves it at that. Nothing happens when that has ended.
///
/// Errors: INVALID_INPUT for a number that is no signal, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_signal(
    call: *const agentcg_call_t,
    signal: i32,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", |c| Ok(c.control.signal(signal)?)) }
}

/// Stops all processes of the call where they are (`cgroup.freeze`, kernel 5.2), or lets them go on.
///
/// Errors: NOT_FOUND when the call is over; INVALID_INPUT for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_freeze(
    call: *const agentcg_call_t,
    frozen: bool,
) -> *mut agentcg_error_t {
    // SAFETY: the caller passes NULL or a call that it has not freed.
    unsafe { with(call, "call", |c| Ok(c.control.freeze(frozen)?)) }
}

/// Frees a call; it is killed when it is not over. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_call_free(call: *mut agentcg_call_t) {
    // SAFETY: the caller passes NULL or a call that it got, once.
    unsafe { free_logged(call) }
}
