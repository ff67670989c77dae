//! One process made inside a cgroup: `clone3` with `CLONE_INTO_CGROUP`, in the vfork form, and exec.
//!
//! The child shares our memory until it has a program of its own, so a parent of many GiB pays
//! nothing for its page tables; the calling thread sleeps meanwhile, the others run on. The child
//! uses a stack of its own and nothing but system calls on values that were prepared before: it
//! takes no lock, allocates nothing and does not return. What fails in it is said through the
//! shared memory.
//!
//! Where `clone3` cannot do this (a seccomp profile, a kernel before 5.7), the child is made by
//! `clone` and moves itself with a write to `cgroup.procs` before it runs the program.

use std::arch::asm;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::strings::Strings;

/// Not in the libc crate as 64 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const SCHED_EXT: usize = 7;
/// The child needs a few hundred bytes; builds without optimisation some KiB.
const STACK: usize = 64 << 10;
/// So much of it, at the top, is there before the child is.
const TOUCHED: usize = 16 << 10;

/// What the child does before it becomes the program. All of it is made ready beforehand.
#[derive(Debug, Default)]
pub(super) struct Launch {
    /// The files to try in turn: one, or one for each directory of `PATH`.
    pub programs: Vec<CString>,
    pub argv: Strings,
    pub envp: Strings,
    /// What becomes descriptor 0, 1 and 2; at least 3 each, or the same number. `None`: as ours.
    pub stdio: [Option<RawFd>; 3],
    /// What becomes descriptor 3, 4, ...; all of them above these numbers. `None`: closed.
    pub extra_fds: Vec<Option<RawFd>>,
    pub cwd: Option<CString>,
    pub umask: Option<libc::mode_t>,
    pub rlimits: Vec<(u32, libc::rlimit)>,
    pub oom_score_adj: Option<CString>,
    pub new_session: bool,
    /// To join, or 0 for one of its own.
    pub process_group: Option<libc::pid_t>,
    pub groups: Option<Vec<libc::gid_t>>,
    pub gid: Option<libc::gid_t>,
    pub uid: Option<libc::uid_t>,
    /// Be scheduled by the sched_ext scheduler from the start.
    pub sched_ext: bool,
    /// Keep descriptors from 3 on that are not close-on-exec.
    pub inherit_fds: bool,
    /// Keep these, close-on-exec or not; from 3 on, in rising order.
    pub pass_fds: Vec<RawFd>,
}

/// A child that runs its program.
#[derive(Debug)]
pub(super) struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// The step that failed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub step: Step,
    pub errno: Errno,
}

/// What is done to make a child, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Make,
    Enter,
    Setsid,
    ProcessGroup,
    Descriptors,
    PassFds,
    Rlimits,
    OomScoreAdj,
    Chdir,
    SchedExt,
    Groups,
    Gid,
    Uid,
    Execute,
}

impl Step {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Step::Make => "make a process in the cgroup",
            Step::Enter => "enter the cgroup",
            Step::Setsid => "start a session",
            Step::ProcessGroup => "join the process group",
            Step::Descriptors => "connect the descriptors",
            Step::PassFds => "pass descriptors on",
            Step::Rlimits => "set resource limits",
            Step::OomScoreAdj => "set oom_score_adj",
            Step::Chdir => "enter the working directory",
            Step::SchedExt => "choose the scheduler",
            Step::Groups => "set the groups",
            Step::Gid => "set the group",
            Step::Uid => "set the user",
            Step::Execute => "execute",
        }
    }
}

/// What parent and child share.
struct Shared<'a> {
    launch: &'a Launch,
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    /// `cgroup.procs`, where the child has to move itself; else -1.
    procs: RawFd,
    /// The child has come as far as its first instruction.
    begun: Cell<bool>,
    /// The child says what it could not do, and the errno, before it ends and we run on.
    failure: Cell<Option<(Step, i32)>>,
}

/// `struct clone_args` of linux/sched.h, version 2 (kernel 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 88);

/// Stacks that wait for the next child: to map one and fault it in costs a tenth of a call.
#[derive(Debug, Default)]
pub(crate) struct Stacks(Mutex<Vec<Stack>>);

impl Stacks {
    fn take(&self) -> Result<Stack, Errno> {
        let spare = self.0.lock().pop();
        spare.map_or_else(Stack::new, Ok)
    }

    fn give_back(&self, stack: Stack) {
        let mut spare = self.0.lock();
        if spare.len() < 4 {
            spare.push(stack);
        }
    }
}

/// Starts a process in `cgroup`; `procs` opens its `cgroup.procs`, should the child have to move
/// itself. Returns when the child runs its program, or could not.
pub(super) fn spawn(
    launch: &Launch,
    stacks: &Stacks,
    cgroup: BorrowedFd<'_>,
    procs: impl FnOnce() -> crate::Result<OwnedFd>,
) -> Result<Child, Failure> {
    let (argv, envp) = (launch.argv.pointers(), launch.envp.pointers());
    let mut shared = Shared {
        launch,
        argv: &argv,
        envp: &envp,
        procs: -1,
        begun: Cell::new(false),
        failure: Cell::new(None),
    };
    let stack = stacks.take().map_err(|errno| Failure { step: Step::Make, errno })?;
    let mut result = clone3(&shared, &stack, cgroup);
    if refused(&result) || reap_stillborn(&result, &shared) {
        let procs = procs().map_err(|e| {
            let errno = Errno::from_raw_os_error(e.errno().unwrap_or(libc::EIO));
            Failure { step: Step::Enter, errno }
        })?;
        shared.procs = procs.as_raw_fd();
        result = clone(&shared, &stack);
    }
    stacks.give_back(stack);
    let child = result.map_err(|errno| Failure { step: Step::Make, errno })?;
    match shared.failure.take() {
        None => Ok(child),
        Some((step, errno)) => {
            // It has left already; only its status is there to be collected.
            let _ = super::reap(&child.pidfd);
            Err(Failure { step, errno: Errno::from_raw_os_error(errno) })
        }
    }
}

fn refused(result: &Result<Child, Errno>) -> bool {
    matches!(result, Err(Errno::NOSYS | Errno::INVAL | Errno::TOOBIG | Errno::PERM))
}

/// Kernels since 6.14, and the stable ones of then, take a process that is born into a cgroup for one
/// that is to be killed when *our* cgroup, or that one, ever had its `cgroup.kill` written: they
/// compare how often that was done to the one and to the other. So whoever is started again in the
/// cgroup that it was killed in would lose every call. True when that happened.
fn reap_stillborn(result: &Result<Child, Errno>, shared: &Shared<'_>) -> bool {
    let Ok(child) = result else { return false };
    let stillborn = !shared.begun.get();
    if stillborn {
        let _ = super::reap(&child.pidfd);
    }
    stillborn
}

fn clone3(shared: &Shared<'_>, stack: &Stack, cgroup: BorrowedFd<'_>) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP
            | CLONE_CLEAR_SIGHAND
            | (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom as u64,
        stack_size: STACK as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    let call = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: clone3 reads `args` and writes `pidfd`, both alive here; the child runs `child` on a
    // stack that outlives it, for CLONE_VFORK keeps us here until it has left our memory.
    let pid = unsafe { in_child(libc::SYS_clone3, call, shared) };
    made(pid, pidfd)
}

/// The same without `CLONE_INTO_CGROUP`; no signal handler of ours may run in the child, so signals
/// are blocked until it has reset them.
fn clone(shared: &Shared<'_>, stack: &Stack) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let top = stack.bottom as usize + STACK;
    let call = [flags as usize, top, (&raw mut pidfd) as usize, 0, 0];
    // SAFETY: the sets are values of our own; for the rest see `clone3`.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        let pid = in_child(libc::SYS_clone, call, shared);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        pid
    };
    made(pid, pidfd)
}

fn made(pid: isize, pidfd: RawFd) -> Result<Child, Errno> {
    if pid < 0 {
        return Err(Errno::from_raw_os_error(-pid as i32));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as i32, pidfd })
}

/// Makes the system call; in the child runs [`child`] and never comes back.
///
/// # Safety
/// The call must be a clone with `CLONE_VM | CLONE_VFORK` and a stack of its own for the child.
#[inline(never)]
unsafe fn in_child(number: libc::c_long, args: [usize; 5], shared: &Shared<'_>) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: in the parent an ordinary system call. The child leaves this block only by the call
    // to `child`, on its own aligned stack, so it never touches this frame.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r12") shared,
            in("r13") child as extern "C" fn(&Shared<'_>) -> !,
            out("rcx") _,
            out("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x20") shared,
            in("x21") child as extern "C" fn(&Shared<'_>) -> !,
            out("x30") _,
        );
    }
    result
}

/// The life of the child until exec. Nothing here may panic, allocate or take a lock: another thread
/// of the parent may hold any of them.
extern "C" fn child(shared: &Shared<'_>) -> ! {
    shared.begun.set(true);
    shared.failure.set(Some(prepare_and_exec(shared)));
    // SAFETY: only a system call; it ends this process and runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

/// A system call as a step: on failure the step and its errno.
macro_rules! step {
    ($step:expr, $($arg:expr),+) => {
        if libc::syscall($($arg),+) < 0 {
            return ($step, *libc::__errno_location());
        }
    };
}

/// Returns only with the step that failed.
fn prepare_and_exec(shared: &Shared<'_>) -> (Step, i32) {
    let launch = shared.launch;
    // SAFETY: raw system calls on values that the sleeping parent keeps alive. The libc functions
    // for users and groups must not be used, for they tell all threads of the (shared) process.
    unsafe {
        if shared.procs >= 0 {
            step!(Step::Enter, libc::SYS_write, shared.procs, c"0".as_ptr(), 1usize);
            default_handlers();
        }
        if launch.new_session {
            step!(Step::Setsid, libc::SYS_setsid);
        }
        if let Some(group) = launch.process_group {
            step!(Step::ProcessGroup, libc::SYS_setpgid, 0, group);
        }
        for (target, source) in (0..).zip(&launch.stdio) {
            if let Some(source) = *source
                && source != target
            {
                step!(Step::Descriptors, libc::SYS_dup3, source, target, 0);
            }
        }
        let mut next = 3u32;
        for source in &launch.extra_fds {
            match *source {
                Some(source) => step!(Step::Descriptors, libc::SYS_dup3, source, next, 0),
                None => {
                    libc::syscall(libc::SYS_close, next);
                }
            }
            next += 1;
        }
        for &fd in &launch.pass_fds {
            close_range(launch, next, fd.cast_unsigned() - 1);
            next = fd.cast_unsigned() + 1;
            step!(Step::PassFds, libc::SYS_fcntl, fd, libc::F_SETFD, 0);
        }
        close_range(launch, next, u32::MAX);
        if let Some(mask) = launch.umask {
            libc::syscall(libc::SYS_umask, mask);
        }
        for (resource, limit) in &launch.rlimits {
            let none = std::ptr::null_mut::<libc::rlimit>();
            step!(
                Step::Rlimits,
                libc::SYS_prlimit64,
                0,
                *resource,
                limit as *const libc::rlimit,
                none
            );
        }
        if let Some(value) = &launch.oom_score_adj {
            let errno = write_file(c"/proc/self/oom_score_adj", value);
            if errno != 0 {
                return (Step::OomScoreAdj, errno);
            }
        }
        if launch.sched_ext {
            let param = [0i32];
            step!(Step::SchedExt, libc::SYS_sched_setscheduler, 0, SCHED_EXT, param.as_ptr());
        }
        if let Some(groups) = &launch.groups {
            step!(Step::Groups, libc::SYS_setgroups, groups.len(), groups.as_ptr());
        }
        if let Some(gid) = launch.gid {
            step!(Step::Gid, libc::SYS_setresgid, gid, gid, gid);
        }
        if let Some(uid) = launch.uid {
            step!(Step::Uid, libc::SYS_setresuid, uid, uid, uid);
        }
        if let Some(cwd) = &launch.cwd {
            step!(Step::Chdir, libc::SYS_chdir, cwd.as_ptr());
        }
        default_signals();
        exec(shared)
    }
}

/// Closes what is not passed on, now and not by exec, which can take its time: among them are our
/// locks, and if we are killed meanwhile, the child would hold them. Kernel 5.11; before, what we
/// opened is close-on-exec anyway.
unsafe fn close_range(launch: &Launch, first: u32, last: u32) {
    if launch.inherit_fds || first > last {
        return;
    }
    let how = if by_descriptor(launch) { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the child has a table of its own, and uses none of these descriptors any more.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, how);
    }
}

/// The program is an open file, which must stay open until exec.
fn by_descriptor(launch: &Launch) -> bool {
    launch.programs.first().is_some_and(|program| {
        let path = program.to_bytes();
        path.starts_with(b"/proc/self/fd/") || path.starts_with(b"/dev/fd/")
    })
}

/// Each file in turn, as `execvp` does: one that is not there is passed over, one that may not be
/// executed is remembered.
unsafe fn exec(shared: &Shared<'_>) -> (Step, i32) {
    let mut errno = libc::ENOENT;
    for program in &shared.launch.programs {
        // SAFETY: the arrays end with null and outlive the call.
        unsafe {
            libc::syscall(
                libc::SYS_execve,
                program.as_ptr(),
                shared.argv.as_ptr(),
                shared.envp.as_ptr(),
            );
            match *libc::__errno_location() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => errno = libc::EACCES,
                other => return (Step::Execute, other),
            }
        }
    }
    (Step::Execute, errno)
}

unsafe fn write_file(path: &CStr, value: &CStr) -> i32 {
    // SAFETY: system calls on strings that outlive them.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags);
        if fd < 0 {
            return *libc::__errno_location();
        }
        let written = libc::syscall(libc::SYS_write, fd, value.as_ptr(), value.to_bytes().len());
        let errno = if written < 0 { *libc::__errno_location() } else { 0 };
        libc::syscall(libc::SYS_close, fd);
        errno
    }
}

/// Empty mask, and SIGPIPE and SIGXFSZ as programs expect them, though Rust ignores the one and
/// Python both for themselves.
unsafe fn default_signals() {
    // SAFETY: changes the child's own table (there is no CLONE_SIGHAND) and mask.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// What CLONE_CLEAR_SIGHAND does in the kernel: handlers become the default, ignored stays ignored.
unsafe fn default_handlers() {
    for signal in 1..=64 {
        // SAFETY: as above; numbers that are no signal are refused.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut now) == 0
                && now.sa_sigaction != libc::SIG_IGN
            {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// The child's stack.
#[derive(Debug)]
struct Stack {
    bottom: *mut c_void,
}

// SAFETY: a mapping belongs to no thread, and whoever holds the stack holds it alone.
unsafe impl Send for Stack {}

impl Stack {
    fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, nobody else's.
        let bottom = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if bottom == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM);
            return Err(Errno::from_raw_os_error(errno));
        }
        // What the child faults in is paid by its cgroup, page tables included. Below a memory.max
        // that has no room for them it would fault for ever: the OOM killer spares a vfork child.
        for page in 1..=TOUCHED / 4096 {
            // SAFETY: inside the mapping that was just made.
            unsafe { bottom.byte_add(STACK - page * 4096).cast::<u8>().write_volatile(0) };
        }
        Ok(Self { bottom })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and the child that used it has left our memory.
        unsafe {
            libc::munmap(self.bottom, STACK);
        }
    }
}
