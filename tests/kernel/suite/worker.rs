//! The roles of child processes. Each prints a line when it is ready; most then wait for a line.

#![allow(clippy::print_stdout)]

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentcg_core::{MemcgConfig, MemoryBackend, MemoryProtection, Runtime, SessionConfig, Stdio};

use crate::confined;

fn ready() {
    println!("ready");
    let _ = std::io::stdout().flush();
}

fn wait() {
    let mut line = String::new();
    // At the end of the input the test is gone, and so are we.
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(0);
    }
}

/// Works and sleeps by turns.
fn nap(work: Duration, sleep: Duration) -> ! {
    loop {
        let began = Instant::now();
        while began.elapsed() < work {}
        std::thread::sleep(sleep);
    }
}

pub fn run(job: &str) -> ! {
    let (job, arg) = job.split_once(':').unwrap_or((job, ""));
    match job {
        "sleep" => {
            ready();
            wait();
        }
        "burn" => {
            ready();
            wait();
            let mut n = 0u64;
            // No PAUSE instruction: an emulator takes it as a hint to do something else.
            loop {
                n = std::hint::black_box(n.wrapping_add(1));
            }
        }
        "nap" => {
            ready();
            wait();
            nap(Duration::from_millis(1), Duration::from_micros(arg.parse().expect("µs")));
        }
        "exec_by_thread" => {
            let thread = std::thread::spawn(|| {
                std::os::unix::process::CommandExt::exec(&mut std::process::Command::new(
                    "/bin/true",
                ))
            });
            panic!("exec returned: {:?}", thread.join());
        }
        "threads" => threads(),
        "die_of" => die_of(arg.parse().expect("signal"), 0),
        "dump_core" => die_of(libc::SIGABRT, arg.parse().expect("limit")),
        "open_storm" => open_storm(arg.parse().expect("number")),
        "open_each_way" => open_each_way(arg),
        "open_slowly" => open_slowly(arg.parse().expect("number")),
        "loop_over" => loop_over(arg.parse().expect("bytes")),
        "eat" => eat(arg),
        "forks" => exhaust(arg, fork),
        "exhaust_threads" => exhaust(arg, || std::thread::Builder::new().spawn(pause).is_ok()),
        "burn_for" => burn_for(Duration::from_millis(arg.parse().expect("ms"))),
        "ignore_term" => ignore_term(),
        "mark_and_kill" => mark_and_kill(arg),
        "without_clone3" => report(confined::without_clone3, arg),
        "calls_only" => report(confined::calls_only, arg),
        "limits_without_clone3" => report(confined::limits_without_clone3, arg),
        "become_user" => {
            ready();
            wait();
            let (_, job) = arg.split_once(':').expect("program and job");
            // Where it is known, the job says how it went.
            if let Err(e) = confined::become_user(arg) {
                println!("{job}: {e:#}");
            }
        }
        "plain_as_user" => report_now(confined::plain_as_user, arg),
        "limits_as_user" => report_now(confined::limits_as_user, arg),
        "refused_as_user" => report_now(confined::refused_as_user, arg),
        "forked" => report(confined::forked, arg),
        "harness" => harness(arg),
        "runtime" => hold_runtime(arg.into()),
        "protect" => hold_protection(arg, MemoryBackend::Cgroup),
        "protect_by_hooks" => hold_protection(arg, MemoryBackend::MemcgBpfOps),
        other => panic!("no worker {other}"),
    }
    std::process::exit(0);
}

/// The first thread ends at once, the last one ends the process.
fn threads() {
    for millis in [0, 0, 10, 200] {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(millis));
            if millis == 200 {
                std::process::exit(5);
            }
        });
    }
    // SAFETY: ends this thread only; nothing of it is used by the others.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// A test in a process of its own: waits, does it, says `ok` or what was wrong.
fn report(test: fn(&str) -> anyhow::Result<()>, arg: &str) {
    ready();
    wait();
    report_now(test, arg);
}

fn report_now(test: fn(&str) -> anyhow::Result<()>, arg: &str) {
    match test(arg) {
        Ok(()) => println!("ok"),
        Err(e) => println!("{}", format!("{e:#}").replace('\n', " ")),
    }
    let _ = std::io::stdout().flush();
    wait();
}

/// `MOMENT,own|shared,ROOT`: a harness with tool calls, to be killed.
fn harness(arg: &str) {
    let [moment, sharing, root] = arg.splitn(3, ',').collect::<Vec<_>>()[..] else {
        panic!("{arg}")
    };
    let runtime = Runtime::builder().root(root).shared(sharing == "shared").build().expect("root");
    let mut config = SessionConfig::default();
    config.capacity.calls = (moment == "queued").then_some(1);
    let session = runtime.session("s", config).expect("session");
    let spawn = |script: &str| {
        let mut command = session.command("sh");
        let command = command.args(["-c", script]).stdin(Stdio::Null).stdout(Stdio::Null);
        command.spawn().expect("call")
    };
    match moment {
        "running" => {
            let calls = [
                spawn("sleep 1000"),
                spawn("setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000"),
                spawn("trap '' TERM HUP; while :; do sleep 1000; done"),
                spawn("exec 0<&- 1>&- 2>&-; exec sleep 1000"),
            ];
            ready();
            wait();
            drop(calls);
        }
        "frozen" => {
            let call = spawn("sleep 1000 & sleep 1000");
            session.freeze().expect("freeze");
            let frozen = session.cgroup().wait_frozen(true, Duration::from_secs(10));
            assert!(frozen.expect("frozen"));
            ready();
            wait();
            drop(call);
        }
        "waiting" | "queued" => std::thread::scope(|scope| {
            for _ in 0..2 {
                // One waits for the end of its call; the other does too, or for its turn.
                scope.spawn(|| session.command("sleep").arg("1000").output().expect("call"));
            }
            let calls = session.path().join("calls");
            // In a shared session there are others too.
            let ours = format!("{}-", std::process::id());
            let begun = || {
                let all = std::fs::read_dir(&calls).into_iter().flatten().filter_map(Result::ok);
                let all = all.filter(|e| e.file_name().to_string_lossy().starts_with(&ours));
                let procs = all.map(|e| std::fs::read_to_string(e.path().join("cgroup.procs")));
                let procs: Vec<_> = procs.collect();
                // The process is there before it is the program.
                let runs = |pid: &str| {
                    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim_end()));
                    comm.is_ok_and(|comm| comm == "sleep\n")
                };
                let running = procs.iter().filter(|t| t.as_ref().is_ok_and(|t| runs(t)));
                // An empty one may be there already for a third.
                Ok(procs.len() >= 2 && running.count() == if moment == "queued" { 1 } else { 2 })
            };
            if crate::support::eventually("the calls have begun", begun).is_err() {
                // With threads that wait: whoever waits for us sees the end of our output.
                std::process::abort();
            }
            ready();
            // Ends the process, also with threads that wait.
            wait();
        }),
        other => panic!("no moment {other}"),
    }
}

/// Whoever started us may have had the signal ignored or blocked.
fn die_of(signal: i32, core_limit: u64) {
    // SAFETY: system calls on values of our own, in a process that has one thread and ends here.
    unsafe {
        libc::setrlimit(
            libc::RLIMIT_CORE,
            &libc::rlimit { rlim_cur: core_limit, rlim_max: core_limit },
        );
        libc::signal(signal, libc::SIG_DFL);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_UNBLOCK, &all, std::ptr::null_mut());
        libc::raise(signal);
    }
    unreachable!("signal {signal} did not end us");
}

/// `MIB`: says its pid and takes so much memory; with `,stay` it says so too, and stays.
fn eat(arg: &str) {
    let (mib, stay) = arg.split_once(',').map_or((arg, false), |(mib, _)| (mib, true));
    // SAFETY: a string that lives as long as the program.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"eater".as_ptr()) };
    println!("{}", std::process::id());
    let _ = std::io::stdout().flush();
    let _held = std::hint::black_box(vec![1u8; mib.parse::<usize>().expect("MiB") << 20]);
    if stay {
        println!("eaten");
        let _ = std::io::stdout().flush();
        pause();
    }
}

fn pause() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn fork() -> bool {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            pause();
            true
        }
        pid => pid > 0,
    }
}

/// `N,STATUS`: makes so many; exits with the status when one is refused, or aborts, or stays.
fn exhaust(arg: &str, make: impl Fn() -> bool) {
    let (n, then) = arg.split_once(',').expect("a number and what then");
    if (0..n.parse::<u32>().expect("number")).all(|_| make()) {
        return;
    }
    match then {
        "abort" => std::process::abort(),
        "stay" => pause(),
        status => std::process::exit(status.parse().expect("status")),
    }
}

/// Uses so much CPU time, however long that takes.
fn burn_for(time: Duration) {
    let mut used = Duration::ZERO;
    while used < time {
        for n in 0..100_000u32 {
            std::hint::black_box(n);
        }
        // SAFETY: writes to a value of our own.
        used = unsafe {
            let mut now: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        };
    }
}

fn ignore_term() {
    // SAFETY: changes this process only.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    ready();
    pause();
}

/// Kills a call as a program beside its harness does: with its name on it.
fn mark_and_kill(cgroup: &str) {
    let path = std::ffi::CString::new(cgroup).expect("path");
    let by = format!("agentcg kill (pid {})", std::process::id());
    let name = c"user.agentcg.killed".as_ptr();
    // SAFETY: strings and bytes that live until after the call.
    let r = unsafe { libc::setxattr(path.as_ptr(), name, by.as_ptr().cast(), by.len(), 0) };
    assert_eq!(r, 0, "{}", std::io::Error::last_os_error());
    std::fs::write(format!("{cgroup}/cgroup.kill"), "1").expect("cgroup.kill");
}

/// Half of the opens are of one path, the others change between two.
fn open_storm(opens: u64) {
    for i in 0..opens {
        let path = if i < opens / 2 || i % 2 == 0 { "/etc/hostname" } else { "/etc/hosts" };
        drop(std::fs::File::open(path).expect(path));
    }
}

/// Flags that differ, so that the calls can be told apart.
fn open_each_way(path: &str) {
    let path = std::ffi::CString::new(path).expect("no NUL");
    let path = path.as_ptr();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: two system calls that read a string.
    unsafe {
        libc::syscall(libc::SYS_creat, path, 0o600);
        libc::syscall(libc::SYS_open, path, libc::O_WRONLY | libc::O_APPEND);
    }
    // SAFETY: an open_how is integers, for which zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDWR | libc::O_NOFOLLOW) as u64;
    // SAFETY: system calls that read a string, and one a struct of the size that it is told.
    unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_NOCTTY);
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path, &how, size_of_val(&how));
    }
}

/// One a millisecond, each of another path than the one before.
fn open_slowly(opens: u64) {
    for i in 0..opens {
        let path = if i % 2 == 0 { "/etc/hostname" } else { "/etc/hosts" };
        drop(std::fs::File::open(path).expect(path));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Touches so many bytes again and again; prints the passes so far each second.
fn loop_over(bytes: usize) -> ! {
    // Who has got huge pages first keeps them, and hurts no more.
    // SAFETY: changes this process only.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    ready();
    wait();
    let mut memory = vec![1u8; bytes];
    let mut passes = 0u64;
    let mut said = Instant::now();
    loop {
        for page in memory.chunks_mut(4096) {
            page[0] = page[0].wrapping_add(1);
        }
        passes += 1;
        if said.elapsed() > Duration::from_secs(1) {
            println!("{passes}");
            said = Instant::now();
        }
    }
}

/// A runtime with a session that holds a process; to be killed, and the process left behind.
#[allow(clippy::zombie_processes)]
fn hold_runtime(root: PathBuf) {
    let runtime = Runtime::builder().root(root).build().expect("runtime");
    let session = runtime.session("held", SessionConfig::default()).expect("session");
    let sleeper = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    runtime.move_pid(sleeper.id() as i32, &session).expect("move");
    println!("{}", sleeper.id());
    let _ = std::io::stdout().flush();
    wait();
}

/// `HIGH,LOW`: memory protection of one cgroup against another, with a long window; to be killed.
fn hold_protection(paths: &str, backend: MemoryBackend) {
    let (high, low) = paths.split_once(',').expect("two paths");
    let mut config = MemcgConfig::default();
    config.high = vec![high.into()];
    config.low = vec![low.into()];
    config.window = Duration::from_secs(60);
    config.backend = backend;
    let _protection = MemoryProtection::attach(config).expect("protection");
    ready();
    wait();
}
