//! Tool calls where less is allowed than usual: without `clone3`, as an ordinary user in a delegated
//! subtree, below a parent that is somebody else's, in a forked process, in a session that is gone.

use std::ffi::CString;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentcg_core::{
    Cgroup, Command, Controller, Ended, ErrorKind, Limit, Limits, Runtime, RuntimeBuilder, Scope,
    SessionConfig, Stdio, Verdict, mount_point, own_path, path_of,
};
use anyhow::{Context, Result, ensure};

use crate::calls::{exited, gone, text};
use crate::support::{Need, Test, TestCgroup, Worker, eventually, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];
/// Nobody.
const USER: u32 = 65534;

pub fn tests() -> Vec<Test> {
    vec![
        Test {
            name: "confined::clone3_is_not_there",
            needs: HERE,
            run: || no_clone3(libc::ENOSYS),
        },
        Test { name: "confined::clone3_is_forbidden", needs: HERE, run: || no_clone3(libc::EPERM) },
        Test { name: "confined::limits_without_clone3", needs: LIMITS, run: limits_no_clone3 },
        Test { name: "confined::an_ordinary_user", needs: HERE, run: || as_user("plain", true) },
        Test {
            name: "confined::limits_of_an_ordinary_user",
            needs: LIMITS,
            run: || as_user("limits", true),
        },
        Test {
            name: "confined::a_user_who_lives_in_the_delegated_cgroup",
            needs: LIMITS,
            run: || as_user("limits", false),
        },
        Test {
            name: "confined::an_unwritable_root",
            needs: HERE,
            run: || as_user("refused", true),
        },
        Test { name: "confined::processes_of_another_manager_stay", needs: LIMITS, run: occupied },
        Test { name: "confined::a_forked_harness", needs: HERE, run: || job("forked", &root()?) },
        Test {
            name: "confined::a_harness_where_another_was_killed",
            needs: HERE,
            run: killed_here,
        },
        Test { name: "confined::a_session_that_vanished", needs: HERE, run: vanished },
    ]
}

fn root() -> Result<PathBuf> {
    Ok(mount_point()?.join(format!("agentcg-confined-{}", std::process::id())))
}

/// Runs one of the `pub` functions below in a process of its own.
fn job(name: &str, root: &Path) -> Result<()> {
    finished(&mut Worker::start(&format!("{name}:{}", root.display()))?)?;
    ensure!(!root.exists(), "{} is left", root.display());
    Ok(())
}

fn finished(worker: &mut Worker) -> Result<()> {
    worker.go()?;
    let line = worker.line()?;
    ensure!(line == "ok", "{line}");
    Ok(())
}

// ---- without clone3

fn no_clone3(errno: i32) -> Result<()> {
    let root = root()?;
    let mut worker = Worker::start(&format!("without_clone3:{errno},{}", root.display()))?;
    finished(&mut worker)?;
    ensure!(!root.exists(), "{} is left", root.display());
    Ok(())
}

fn limits_no_clone3() -> Result<()> {
    let root = root()?;
    let mut worker = Worker::start(&format!("limits_without_clone3:{}", root.display()))?;
    finished(&mut worker)
}

/// From here on `clone3` gives this error to this thread and to what it starts.
fn forbid_clone3(errno: i32) -> Result<()> {
    const NUMBER: u32 = 0;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_clone3 as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program is read during the call; it is for this thread and what it starts.
    let r = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    ensure!(r == 0, "seccomp: {}", std::io::Error::last_os_error());
    // SAFETY: clone3 without arguments is refused in any case.
    let r = unsafe { libc::syscall(libc::SYS_clone3, 0usize, 0usize) };
    let e = std::io::Error::last_os_error().raw_os_error();
    ensure!(r == -1 && e == Some(errno), "the filter does not work: {e:?}");
    Ok(())
}

extern "C" fn nothing(_: libc::c_int) {}

/// `ERRNO,ROOT`
pub fn without_clone3(arg: &str) -> Result<()> {
    let (errno, root) = arg.split_once(',').context("errno and root")?;
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("s", SessionConfig::default())?;
    // The C library's threads need clone3 too, unless it is not there at all.
    ensure!(session.command("true").spawn()?.wait()?.success());
    forbid_clone3(errno.parse()?)?;
    // SAFETY: handlers and a mask of this process; the handler does nothing.
    unsafe {
        libc::signal(libc::SIGUSR1, nothing as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut mask, libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, &mask, std::ptr::null_mut());
    }
    let mask = blocked()?;
    let shell = |script: &str| {
        let mut command = session.command("sh");
        command.args(["-c", script]);
        command
    };
    // In its cgroup from the first instruction of the program on.
    let outcome = session.command("cat").arg("/proc/self/cgroup").output()?;
    ensure!(text(&outcome).contains(&format!("/s/calls/{}\n", outcome.call)), "{outcome:?}");
    // Handlers are the default, ignored stays ignored, nothing is blocked; and ours are as before.
    let outcome = session.command("cat").arg("/proc/self/status").output()?;
    let set = |name: &str| {
        let said = text(&outcome);
        let line =
            said.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).map(str::to_owned);
        line.and_then(|l| u64::from_str_radix(&l, 16).ok()).context("no such line")
    };
    ensure!(set("SigBlk:")? == 0 && set("SigCgt:")? == 0, "{outcome:?}");
    // Rust ignores SIGPIPE, and that is not passed on.
    let ours = std::fs::read_to_string("/proc/self/status")?;
    let ours = ours.lines().find_map(|l| l.strip_prefix("SigIgn:")).context("SigIgn")?;
    let ours = u64::from_str_radix(ours.trim(), 16)?;
    ensure!(ours & 1 << (libc::SIGUSR2 - 1) != 0);
    ensure!(set("SigIgn:")? == ours & !(1 << (libc::SIGPIPE - 1)), "{outcome:?}");
    ensure!(blocked()? == mask, "the mask of the harness has changed");
    // Everything else is the same.
    let dir = tempfile::tempdir()?;
    let outcome = shell("pwd; umask; echo $A; exit 7")
        .current_dir(dir.path())
        .umask(0o27)
        .env("A", "b")
        .new_session(true)
        .output()?;
    exited(&outcome, 7)?;
    ensure!(text(&outcome).ends_with("\n0027\nb\n"), "{outcome:?}");
    let outcome = session.command("no-such-program").output()?;
    ensure!(matches!(&outcome.ended, Ended::NotStarted(e) if e.errno() == Some(libc::ENOENT)));
    ensure!(!outcome.cgroup.exists());
    let outcome =
        shell("setsid sleep 1000 & sleep 1000").timeout(Duration::from_millis(300)).output()?;
    ensure!(outcome.verdict == Verdict::TimedOut && !outcome.cgroup.exists(), "{outcome:?}");
    let call = session.command("sleep").arg("1000").spawn()?;
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    drop((session, runtime));
    Ok(())
}

/// The signals that this thread blocks.
fn blocked() -> Result<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    Ok(status.lines().find(|l| l.starts_with("SigBlk")).context("SigBlk")?.to_owned())
}

pub fn limits_without_clone3(root: &str) -> Result<()> {
    forbid_clone3(libc::ENOSYS)?;
    limited(Runtime::builder().root(root))
}

// ---- limits, measured and met, by whoever may set them

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

fn limited(builder: RuntimeBuilder) -> Result<()> {
    let runtime = builder.build()?;
    let mut config = SessionConfig::default();
    config.limits.memory_max = Some(Limit::Value(512 << 20));
    let session = runtime.session("s", config)?;
    let this = std::env::current_exe()?;
    let worker = |job: &str| {
        let mut command = session.command(&this);
        command.arg(format!("worker={job}"));
        command
    };
    let outcome = worker("eat:32").output()?;
    exited(&outcome, 0)?;
    let usage = &outcome.usage;
    ensure!(usage.memory_peak_bytes.is_some_and(|n| n > 32 << 20), "{}", outcome.to_json());
    ensure!(usage.pids_peak.is_some_and(|n| n > 0) && usage.cpu_us() > Some(0));

    let memory = limits(|l| {
        l.memory_max = Some(Limit::Value(32 << 20));
        l.swap_max = Some(Limit::Value(0));
    });
    let outcome = worker("eat:64").limits(memory).output()?;
    ensure!(outcome.verdict == Verdict::OomKilled, "{}", outcome.to_json());
    let cause = outcome.cause.as_ref().context("cause")?;
    ensure!(
        (cause.limit, cause.limit_bytes, cause.scope)
            == ("memory.max", Some(32 << 20), Scope::Call)
    );
    ensure!(outcome.advice.contains("memory:64M"), "{}", outcome.advice);
    // Who may not read the kernel log is told so.
    let unknown = outcome.usage.unavailable.get("victim");
    match &cause.victim {
        Some(victim) => {
            ensure!(victim.comm == "eater" && unknown.is_none(), "{victim:?} {unknown:?}")
        }
        None => ensure!(unknown.is_some_and(|why| why.contains("/dev/kmsg")), "{unknown:?}"),
    }

    let pids = limits(|l| l.pids_max = Some(Limit::Value(20)));
    let outcome = worker("forks:50,7").limits(pids).output()?;
    ensure!(outcome.verdict == Verdict::PidsExhausted, "{}", outcome.to_json());
    drop((session, runtime));
    Ok(())
}

// ---- an ordinary user

/// A subtree that belongs to the user, as a manager delegates it. `beside`: the harness lives in a
/// cgroup of its own in there, and not in the delegated one itself.
fn as_user(what: &str, beside: bool) -> Result<()> {
    let place = TestCgroup::new()?;
    let delegated = place.child("delegated")?;
    give(&delegated)?;
    let home = if beside {
        let home = delegated.create_child(&"home".parse()?)?;
        give(&home)?;
        home
    } else {
        Cgroup::open(delegated.path())?
    };
    let root = if what == "refused" { place.path() } else { delegated.path() }.join("agentcg");
    // A program that the user can reach.
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let program = dir.path().join("kernel");
    std::fs::copy(std::env::current_exe()?, &program)?;
    let job = format!("become_user:{}:{what}_as_user:{}", program.display(), root.display());
    let mut worker = Worker::start_in(&home, &job)?;
    finished(&mut worker)?;
    ensure!(path_of(worker.pid())? == home.path(), "it is not back at home");
    ensure!(!root.exists());
    ensure!(delegated.children()?.len() == usize::from(beside), "cgroups are left");
    // What lives beside the root may rely on them by now.
    ensure!(beside || delegated.subtree_control()?.is_empty(), "controllers are left on");
    Ok(())
}

fn give(cgroup: &Cgroup) -> Result<()> {
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(cgroup.path().join(file), Some(USER), Some(USER))?;
    }
    Ok(())
}

/// `PROGRAM:JOB`: the same program as an ordinary user.
pub fn become_user(arg: &str) -> Result<()> {
    let (program, job) = arg.split_once(':').context("program and job")?;
    // SAFETY: changes the user of this process, which has one thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(USER, USER, USER) == 0
            && libc::setresuid(USER, USER, USER) == 0
    };
    ensure!(done, "{}", std::io::Error::last_os_error());
    // Anew, so that its files in /proc are the user's.
    let mut command = std::process::Command::new(program);
    command.arg(format!("worker={job}")).current_dir("/");
    Err(std::os::unix::process::CommandExt::exec(&mut command).into())
}

pub fn plain_as_user(root: &str) -> Result<()> {
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("s", SessionConfig::default())?;
    let outcome = session.command("id").arg("-u").output()?;
    ensure!(text(&outcome) == format!("{USER}\n"), "{outcome:?}");
    ensure!(outcome.usage.cpu_us() > Some(0));
    let mut command = session.command("sh");
    command.args(["-c", "setsid sleep 1000 & echo $!; trap '' TERM; while :; do sleep 0.05; done"]);
    let outcome =
        command.timeout(Duration::from_millis(300)).grace(Duration::from_millis(50)).output()?;
    ensure!(outcome.verdict == Verdict::TimedOut, "{outcome:?}");
    ensure!(text(&outcome).lines().all(|pid| pid.parse().is_ok_and(gone)), "{outcome:?}");
    let call = session.command("sleep").arg("1000").stdin(Stdio::Null).spawn()?;
    let score =
        std::fs::read_to_string(format!("/proc/{}/oom_score_adj", call.pid().context("pid")?))?;
    ensure!(score == "500\n", "{score}");
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    // What a user may not do is an error that says so.
    let outcome = session.command("true").oom_score_adj(-500).output()?;
    let Ended::NotStarted(e) = &outcome.ended else { anyhow::bail!("{outcome:?}") };
    ensure!(
        e.kind() == ErrorKind::PermissionDenied && e.to_string().contains("oom_score_adj"),
        "{e}"
    );
    let outcome = session.command("true").uid(0).output()?;
    let Ended::NotStarted(e) = &outcome.ended else { anyhow::bail!("{outcome:?}") };
    ensure!(e.kind() == ErrorKind::PermissionDenied, "{e}");
    drop((session, runtime));
    Ok(())
}

pub fn limits_as_user(root: &str) -> Result<()> {
    limited(Runtime::builder().root(root))
}

pub fn refused_as_user(root: &str) -> Result<()> {
    let error = Runtime::builder().root(root).build().err().context("it was allowed")?;
    ensure!(error.kind() == ErrorKind::PermissionDenied, "{error}");
    ensure!(error.to_string().contains(root), "{error}");
    ensure!(error.help().is_some_and(|h| h.contains("delegated")), "{error}");
    Ok(())
}

// ---- the parent is another manager's

fn occupied() -> Result<()> {
    let place = TestCgroup::new()?;
    let parent = place.child("theirs")?;
    let worker = Worker::start_in(&parent, "sleep")?;
    let root = parent.path().join("agentcg");
    let runtime = Runtime::builder().root(&root).build()?;
    ensure!(runtime.controllers().is_empty(), "{:?}", runtime.controllers());
    ensure!(path_of(worker.pid())? == parent.path());
    // It works without, and says what it cannot do.
    let session = runtime.session("s", SessionConfig::default())?;
    exited(&session.command("true").output()?, 0)?;
    let mut config = SessionConfig::default();
    config.limits.memory_max = Some(Limit::Value(64 << 20));
    let error = runtime.session("t", config.clone()).err().context("it was allowed")?;
    ensure!(error.kind() == ErrorKind::Unsupported, "{error}");
    ensure!(error.to_string().contains("memory controller"), "{error}");
    drop((session, runtime));
    ensure!(!root.exists() && path_of(worker.pid())? == parent.path());

    let name = CString::new("trusted.delegate")?;
    let path = CString::new(parent.path().to_str().context("path")?)?;
    // SAFETY: strings and a byte that live until after the call.
    let r = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), c"1".as_ptr().cast(), 1, 0) };
    ensure!(r == 0, "{}", std::io::Error::last_os_error());
    let runtime = Runtime::builder().root(&root).build()?;
    ensure!(runtime.controllers().contains(&Controller::Memory));
    ensure!(path_of(worker.pid())? == parent.path().join("agentcg-occupants"));
    let session = runtime.session("t", config)?;
    exited(&session.command("true").output()?, 0)?;
    drop((session, runtime));
    ensure!(path_of(worker.pid())? == parent.path(), "it is not back at home");
    ensure!(parent.children()?.is_empty() && parent.subtree_control()?.is_empty());
    Ok(())
}

// ---- a cgroup that was killed, a forked harness, a vanished session

/// The kernel kills what is born from a cgroup that was killed before; see `clone.rs`.
fn killed_here() -> Result<()> {
    let place = TestCgroup::new()?;
    let home = place.child("home")?;
    home.kill()?;
    let root = root()?;
    finished(&mut Worker::start_in(&home, &format!("calls_only:{}", root.display()))?)
}

pub fn calls_only(root: &str) -> Result<()> {
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("s", SessionConfig::default())?;
    let here = |mut command: Command<'_>| -> Result<()> {
        let outcome = command.arg("/proc/self/cgroup").output()?;
        exited(&outcome, 0)?;
        ensure!(text(&outcome).contains(&format!("/s/calls/{}\n", outcome.call)), "{outcome:?}");
        Ok(())
    };
    here(session.command("cat"))?;
    // The next one finds a cgroup that was made meanwhile, and then killed with all others.
    let background = session.command("sleep").arg("1000").spawn()?;
    here(session.command("cat"))?;
    Cgroup::open(session.path())?.kill()?;
    background.wait()?;
    here(session.command("cat"))
}

pub fn forked(root: &str) -> Result<()> {
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("s", SessionConfig::default())?;
    let call = session.command("sleep").arg("1000").spawn()?;
    // SAFETY: the child uses what is tested here, and ends itself.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a hang must end the child.
        unsafe { libc::alarm(20) };
        let refused = |result: agentcg_core::Result<()>| {
            result.is_err_and(|e| {
                e.kind() == ErrorKind::InvalidInput && e.to_string().contains("forked")
            })
        };
        let as_expected = refused(session.command("true").spawn().map(drop))
            && refused(session.command("true").output().map(drop))
            && refused(runtime.session("t", SessionConfig::default()).map(drop));
        // What ends here is the parent's.
        drop((call, session, runtime));
        // SAFETY: ends the child only.
        unsafe { libc::_exit(if as_expected { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waitpid writes to `status`.
    ensure!(unsafe { libc::waitpid(child, &mut status, 0) } == child);
    ensure!(libc::WIFEXITED(status), "the child hung or crashed: {status:#x}");
    ensure!(libc::WEXITSTATUS(status) == 0, "the child was not refused");
    ensure!(session.path().exists() && call.path().exists(), "the child has removed the parent's");
    ensure!(!call.is_finished(), "the child has ended the parent's call");
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    ensure!(session.command("true").status()?.success());
    drop((session, runtime));
    Ok(())
}

fn vanished() -> Result<()> {
    let root = root()?;
    let home = own_path()?;
    let runtime = Runtime::builder().root(&root).build()?;
    // Before its first call, and after.
    for called in [false, true] {
        let session = runtime.session("s", SessionConfig::default())?;
        if called {
            exited(&session.command("true").output()?, 0)?;
            std::fs::remove_dir(session.path().join("calls"))?;
        }
        std::fs::remove_dir(session.path())?;
        for result in [
            session.command("true").output().map(drop),
            session.command("true").spawn().map(drop),
            session.usage().map(drop),
            session.freeze(),
            session.move_pid(std::process::id() as i32),
        ] {
            ensure!(kind_of(result)? == ErrorKind::NotFound);
        }
        let error = session.command("true").output().err().context("error")?;
        ensure!(error.to_string().contains(&*session.path().to_string_lossy()), "{error}");
        drop(session);
    }
    // Its name can be had again.
    let session = runtime.session("s", SessionConfig::default())?;
    exited(&session.command("true").output()?, 0)?;
    // Below a call that runs, nothing can be taken away.
    let call = session.command("sleep").arg("1000").spawn()?;
    ensure!(std::fs::remove_dir(call.path()).is_err());
    let path = call.path().to_owned();
    drop(call);
    eventually("the call is gone", || Ok(!path.exists()))?;
    drop((session, runtime));
    ensure!(!root.exists() && own_path()? == home);
    Ok(())
}
