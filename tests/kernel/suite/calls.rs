//! Tool calls: how they are started, watched and ended.

use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use agentcg_core::{
    Cgroup, Ended, ErrorKind, Limit, LimitFile, Outcome, Runtime, Session, SessionConfig, Stdio,
    Verdict, mount_point, own_path,
};
use anyhow::{Context, Result, ensure};

use crate::support::{Need, Test, eventually, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "calls::as_std_process_does", needs: HERE, run: as_std_process },
        Test { name: "calls::born_in_their_cgroup", needs: HERE, run: born_inside },
        Test { name: "calls::limits_are_on_the_cgroup", needs: LIMITS, run: limits },
        Test { name: "calls::what_cannot_be_started_says_why", needs: HERE, run: not_started },
        Test { name: "calls::bad_input_leaves_nothing", needs: HERE, run: bad_input },
        Test { name: "calls::nothing_survives_the_end", needs: HERE, run: nothing_survives },
        Test { name: "calls::nothing_survives_a_timeout", needs: HERE, run: timeout },
        Test { name: "calls::stopped_and_frozen_ones_end_too", needs: HERE, run: stopped },
        Test { name: "calls::cancelled_killed_and_dropped", needs: HERE, run: cancelled },
        Test {
            name: "calls::background_processes_live_until_the_session_ends",
            needs: HERE,
            run: background,
        },
        Test { name: "calls::output_is_bounded", needs: HERE, run: bounded_output },
        Test { name: "calls::input_and_pipes", needs: HERE, run: pipes },
        Test {
            name: "calls::a_status_collected_by_others_is_found",
            needs: HERE,
            run: stolen_status,
        },
        Test { name: "calls::many_at_once", needs: HERE, run: many },
        Test { name: "calls::the_time_line_shows_growth", needs: LIMITS, run: timeline },
        Test { name: "calls::hints_become_limits_within_the_session", needs: LIMITS, run: hints },
        Test {
            name: "calls::hints_without_controllers_are_said",
            needs: HERE,
            run: hints_left_out,
        },
        Test { name: "calls::history_proposes_and_a_retry_doubles", needs: LIMITS, run: history },
        Test { name: "calls::wait_for_admission_in_turn", needs: HERE, run: admission },
        Test { name: "calls::cancelled_before_and_while_they_run", needs: HERE, run: canceller },
        Test { name: "calls::cancelled_at_any_moment", needs: HERE, run: cancelled_at_any_moment },
        Test { name: "calls::end_with_their_session", needs: HERE, run: session_ends },
        Test { name: "calls::the_harness_moves_aside", needs: LIMITS, run: harness },
        Test { name: "calls::several_processes_share_a_session", needs: HERE, run: shared },
        Test { name: "calls::a_forked_child_is_refused", needs: HERE, run: forked },
    ]
}

/// A runtime of one test, with a session; at the end its root must be gone.
pub struct Place {
    session: Option<Session>,
    runtime: Option<Runtime>,
    root: PathBuf,
}

impl Place {
    pub fn new() -> Result<Self> {
        Self::with(SessionConfig::default())
    }

    pub fn with(config: SessionConfig) -> Result<Self> {
        let root = mount_point()?.join(format!("agentcg-calls-{}", std::process::id()));
        let runtime = Runtime::builder().root(&root).build()?;
        let session = runtime.session("s", config)?;
        Ok(Self { session: Some(session), runtime: Some(runtime), root })
    }

    pub fn session(&self) -> &Session {
        self.session.as_ref().expect("open")
    }

    pub fn sh(&self, script: &str) -> agentcg_core::Command<'_> {
        let mut command = self.session().command("sh");
        command.args(["-c", script]);
        command
    }

    pub fn close(mut self) -> Result<()> {
        self.session = None;
        self.runtime = None;
        ensure!(!self.root.exists(), "{} is left", self.root.display());
        Ok(())
    }
}

pub fn text(outcome: &Outcome) -> String {
    outcome
        .stdout
        .as_ref()
        .map(|o| String::from_utf8_lossy(&o.bytes).into_owned())
        .unwrap_or_default()
}

pub fn exited(outcome: &Outcome, status: i32) -> Result<()> {
    ensure!(matches!(outcome.ended, Ended::Exited(s) if s == status), "{outcome:?}");
    Ok(())
}

pub fn gone(pid: i32) -> bool {
    // A zombie whose new parent is slow to collect it is dead all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |s| s.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn as_std_process() -> Result<()> {
    let place = Place::new()?;
    let dir = tempfile::tempdir()?;
    let outcome = place
        .sh("pwd; umask; ulimit -n; echo $A-$B-$HOME; id -u; id -G; echo oops >&2; exit 7")
        .current_dir(dir.path())
        .umask(0o27)
        .rlimit(libc::RLIMIT_NOFILE, 100, 200)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("A", "a b")
        .env("B", "x")
        .env_remove("B")
        .uid(65534)
        .gid(65533)
        .output()?;
    exited(&outcome, 7)?;
    ensure!(outcome.verdict == Verdict::Failed);
    let expected =
        format!("{}\n0027\n100\na b--\n65534\n65533\n", dir.path().canonicalize()?.display());
    // The directory must be open to the other user for pwd to see it.
    ensure!(text(&outcome).lines().skip(1).eq(expected.lines().skip(1)), "{outcome:?}");
    ensure!(outcome.stderr.as_ref().is_some_and(|e| e.bytes.ends_with(b"oops\n")));
    // SIGPIPE and the signal mask are as programs expect them.
    let outcome =
        place.sh("yes | head -n 1; grep -E 'SigBlk|SigIgn' /proc/self/status").output()?;
    ensure!(text(&outcome).starts_with("y\n"));
    let said = text(&outcome);
    let mask = |name: &str| {
        let line = said.lines().find_map(|l| l.strip_prefix(name)).context("no such line")?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(line.trim(), 16)?)
    };
    // What else is ignored is inherited: a shell's background jobs ignore SIGINT.
    ensure!(mask("SigBlk:")? == 0 && mask("SigIgn:")? & (1 << (libc::SIGPIPE - 1)) == 0, "{said}");
    let outcome = place.sh("cut -d ' ' -f 6 /proc/$$/stat; echo $$").new_session(true).output()?;
    let words: Vec<_> = text(&outcome).split_whitespace().map(str::to_owned).collect();
    ensure!(words[0] == words[1], "{outcome:?}");
    let outcome = place.sh("cut -d ' ' -f 5 /proc/$$/stat; echo $$").process_group(0).output()?;
    let words: Vec<_> = text(&outcome).split_whitespace().map(str::to_owned).collect();
    ensure!(words[0] == words[1], "{outcome:?}");
    let file = tempfile::tempfile()?;
    let there = format!("[ -e /proc/self/fd/{} ]", file.as_raw_fd());
    exited(&place.sh(&there).output()?, 1)?;
    exited(&place.sh(&there).pass_fds([file.as_raw_fd()]).output()?, 0)?;
    place.close()
}

fn born_inside() -> Result<()> {
    let place = Place::new()?;
    let outcome =
        place.sh("cat /proc/self/cgroup; echo $AGENTCG_CALL $AGENTCG_SESSION").output()?;
    let inside = format!("/s/calls/{}\n{} s\n", outcome.call, outcome.call);
    ensure!(text(&outcome).ends_with(&inside), "{outcome:?}");
    ensure!(!outcome.cgroup.exists());
    let named = place.session().command("true").name("build").status()?;
    ensure!(named.call == "build" && named.verdict == Verdict::Completed);
    place.close()
}

fn limits() -> Result<()> {
    let place = Place::new()?;
    let mut limits = agentcg_core::Limits::default();
    limits.memory_max = Some(Limit::Value(64 << 20));
    limits.pids_max = Some(Limit::Value(20));
    limits.cpu_max = Some(0.5);
    let mut call = place.session().command("cat");
    let mut call = call.limits(limits).stdin(Stdio::Piped).stdout(Stdio::Null).spawn()?;
    let cgroup = Cgroup::open(call.path())?;
    ensure!(cgroup.limit(LimitFile::MemoryMax)? == Limit::Value(64 << 20));
    ensure!(cgroup.limit(LimitFile::PidsMax)? == Limit::Value(20));
    ensure!(cgroup.read("cpu.max")? == "50000 100000\n");
    ensure!(cgroup.read("memory.oom.group")? == "1\n");
    let score =
        std::fs::read_to_string(format!("/proc/{}/oom_score_adj", call.pid().context("pid")?))?;
    ensure!(score == "500\n", "{score}");
    call.stdin = None;
    exited(&call.wait()?, 0)?;
    place.close()
}

fn not_started() -> Result<()> {
    let place = Place::new()?;
    let not_executable = tempfile::NamedTempFile::new()?;
    let cases = [
        ("no-such-program-here", libc::ENOENT),
        ("/etc", libc::EACCES),
        (not_executable.path().to_str().context("path")?, libc::EACCES),
    ];
    for (program, errno) in cases {
        let outcome = place.session().command(program).output()?;
        ensure!(outcome.verdict == Verdict::SpawnFailed);
        let Ended::NotStarted(e) = &outcome.ended else { anyhow::bail!("{outcome:?}") };
        ensure!(e.errno() == Some(errno) && e.to_string().contains(program), "{e}");
    }
    let outcome = place.session().command("true").current_dir("/nowhere").output()?;
    ensure!(matches!(&outcome.ended, Ended::NotStarted(e) if e.to_string().contains("/nowhere")));
    place.close()
}

fn bad_input() -> Result<()> {
    let place = Place::new()?;
    let mut command = place.session().command("true");
    ensure!(kind_of(command.name("a/b").spawn())? == ErrorKind::InvalidInput);
    for program in ["", "a\0b"] {
        ensure!(kind_of(place.session().command(program).spawn())? == ErrorKind::InvalidInput);
    }
    let s = place.session();
    ensure!(kind_of(s.command("true").arg("a\0b").spawn())? == ErrorKind::InvalidInput);
    ensure!(kind_of(s.command("true").env("a=b", "").spawn())? == ErrorKind::InvalidInput);
    ensure!(kind_of(s.command("true").oom_score_adj(2000).spawn())? == ErrorKind::InvalidInput);
    ensure!(kind_of(s.command("true").stdin(Stdio::Capture).spawn())? == ErrorKind::InvalidInput);
    let mut limits = agentcg_core::Limits::default();
    limits.cpu_weight = Some(0);
    ensure!(kind_of(s.command("true").limits(limits).spawn())? == ErrorKind::InvalidInput);
    let _one = s.command("sleep").arg("100").name("one").spawn()?;
    ensure!(kind_of(s.command("true").name("one").spawn())? == ErrorKind::AlreadyExists);
    drop(_one);
    place.close()
}

/// What a command may leave behind. Each prints the pids of it.
const LEFTOVERS: [&str; 5] = [
    "sleep 1000 & echo $!",
    "setsid sleep 1000 & echo $!",
    "sh -c 'setsid sleep 1000 & echo $!'",
    "sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' & echo $!",
    "exec 1>/dev/null 2>&1 0</dev/null; sleep 1000 & wait",
];

fn pids_in(outcome: &Outcome) -> Vec<i32> {
    text(outcome).split_whitespace().filter_map(|w| w.parse().ok()).collect()
}

fn nothing_survives() -> Result<()> {
    let place = Place::new()?;
    for script in &LEFTOVERS[..4] {
        let outcome = place.sh(script).output()?;
        exited(&outcome, 0)?;
        ensure!(outcome.killed_processes > 0, "{script}: {outcome:?}");
        let pids = pids_in(&outcome);
        ensure!(!pids.is_empty() && pids.iter().all(|p| gone(*p)), "{script}: {pids:?}");
        ensure!(!outcome.cgroup.exists());
    }
    place.close()
}

fn timeout() -> Result<()> {
    let place = Place::new()?;
    for script in LEFTOVERS {
        let outcome = place
            .sh(&format!("{script}; trap '' TERM; while :; do sleep 0.05; done"))
            .timeout(Duration::from_millis(300))
            .grace(Duration::from_millis(200))
            .output()?;
        ensure!(outcome.verdict == Verdict::TimedOut, "{script}: {outcome:?}");
        ensure!(outcome.duration < Duration::from_secs(10), "{outcome:?}");
        ensure!(pids_in(&outcome).iter().all(|p| gone(*p)));
    }
    // SIGTERM is heard, and its handler's exit status is told.
    let outcome = place
        .sh("trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done")
        .timeout(Duration::from_millis(300))
        .grace(Duration::from_secs(60))
        .output()?;
    ensure!(outcome.verdict == Verdict::TimedOut && text(&outcome).contains("bye"), "{outcome:?}");
    exited(&outcome, 3)?;
    place.close()
}

fn stopped() -> Result<()> {
    let place = Place::new()?;
    let outcome = place
        .sh("kill -STOP $$")
        .timeout(Duration::from_millis(300))
        .grace(Duration::ZERO)
        .output()?;
    ensure!(outcome.verdict == Verdict::TimedOut);
    let call = place.sh("while :; do :; done").stdout(Stdio::Null).spawn()?;
    call.control().freeze(true)?;
    let cgroup = Cgroup::open(call.path())?;
    ensure!(cgroup.wait_frozen(true, Duration::from_secs(10))?);
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    // Held by a tracer.
    let call = place.session().command("sleep").arg("1000").spawn()?;
    let pid = call.pid().context("pid")?;
    // SAFETY: ptrace on a process that we started; no memory is passed.
    unsafe {
        ensure!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0);
        ensure!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) == 0);
    }
    call.kill();
    let outcome = call.wait()?;
    ensure!(outcome.verdict == Verdict::Cancelled && gone(pid), "{outcome:?}");
    place.close()
}

fn cancelled() -> Result<()> {
    let place = Place::new()?;
    let call = place.sh("trap 'exit 5' TERM; while :; do sleep 0.05; done").spawn()?;
    std::thread::sleep(Duration::from_millis(200));
    let control = call.control().clone();
    std::thread::spawn(move || control.cancel());
    let outcome = call.wait()?;
    ensure!(outcome.verdict == Verdict::Cancelled);
    exited(&outcome, 5)?;
    let call = place.session().command("sleep").arg("1000").spawn()?;
    let (pid, path) = (call.pid().context("pid")?, call.path().to_owned());
    drop(call);
    eventually("the dropped call is gone", || Ok(gone(pid) && !path.exists()))?;
    place.close()
}

fn background() -> Result<()> {
    let place = Place::new()?;
    let outcome = place.sh("sleep 1000 & echo $!").background(true).output()?;
    exited(&outcome, 0)?;
    let pids = pids_in(&outcome);
    ensure!(pids == outcome.background && !gone(pids[0]), "{outcome:?}");
    ensure!(agentcg_core::path_of(pids[0])? == place.session().path().join("background"));
    place.close()?;
    ensure!(gone(pids[0]));
    Ok(())
}

fn bounded_output() -> Result<()> {
    let place = Place::new()?;
    let outcome =
        place.sh("echo first; yes | head -c 3000000; echo last").capture_limit(1000).output()?;
    let out = outcome.stdout.context("no output")?;
    ensure!(out.bytes.len() == 1000 && out.total == 3_000_011 && out.cut_at == Some(500));
    ensure!(out.bytes.starts_with(b"first\n") && out.bytes.ends_with(b"last\n"));
    // All of it where it fits, and one stream for both.
    let outcome = place.sh("echo a; echo b >&2; echo c").stderr(Stdio::Stdout).output()?;
    ensure!(text(&outcome) == "a\nb\nc\n", "{outcome:?}");
    place.close()
}

fn pipes() -> Result<()> {
    let place = Place::new()?;
    let big: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    let outcome = place.session().command("cat").stdin(Stdio::Bytes(big.clone())).output()?;
    ensure!(outcome.stdout.is_some_and(|o| o.bytes == big));
    // Nobody reads it.
    exited(&place.session().command("true").stdin(Stdio::Bytes(big)).output()?, 0)?;
    let mut call = place.session().command("cat");
    let mut call = call.stdin(Stdio::Piped).stdout(Stdio::Piped).spawn()?;
    call.stdin.take().context("stdin")?.write_all(b"hello")?;
    let mut said = String::new();
    call.stdout.take().context("stdout")?.read_to_string(&mut said)?;
    ensure!(said == "hello");
    exited(&call.wait()?, 0)?;
    let file = tempfile::tempfile()?;
    exited(&place.sh("echo in a file").stdout(file.try_clone()?).spawn()?.wait()?, 0)?;
    ensure!(file.metadata()?.len() == 10);
    // As other numbers there; what is not given stays ours.
    let extra = [None, Some(file.try_clone()?.into())];
    let outcome = place.sh("echo more >&4; echo >&3").extra_fds(extra).output()?;
    ensure!(outcome.exit_code() == Some(2) && file.metadata()?.len() == 15, "{outcome:?}");
    place.close()
}

fn stolen_status() -> Result<()> {
    let place = Place::new()?;
    let call = place.sh("sleep 0.2; exit 9").spawn()?;
    let mut status = 0;
    // SAFETY: waitpid writes to `status`.
    let got = unsafe { libc::waitpid(-1, &mut status, 0) };
    let ours = Some(got) == call.pid();
    let outcome = call.wait()?;
    // The kernel keeps the status in the pidfd since 6.15; before, it is said to be unknown.
    let known = matches!(outcome.ended, Ended::Exited(9));
    let unknown = matches!(outcome.ended, Ended::Unknown(_));
    ensure!(known || (ours && unknown), "{outcome:?}");
    place.close()
}

fn many() -> Result<()> {
    let place = Place::new()?;
    let fds = || std::fs::read_dir("/proc/self/fd").map(|d| d.count());
    // From the second call on, the cgroup of the next one is held ready.
    for _ in 0..2 {
        place.session().command("true").status()?;
    }
    let before = fds()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|i| {
                let place = &place;
                scope.spawn(move || -> Result<()> {
                    for k in 0..20 {
                        let code = (i * 20 + k) % 120;
                        let outcome = place.sh(&format!("echo {code}; exit {code}")).output()?;
                        exited(&outcome, code)?;
                        ensure!(text(&outcome) == format!("{code}\n"));
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no panic"))
    })?;
    ensure!(fds()? == before, "descriptors were {before}, now {}", fds()?);
    place.close()
}

fn timeline() -> Result<()> {
    let place = Place::new()?;
    let outcome = place
        .session()
        .command("python3")
        .args([
            "-c",
            "import time\na=[]\nfor i in range(10):\n a.append(b'x'*4_000_000); time.sleep(.1)",
        ])
        .sample(Duration::from_millis(50))
        .output()?;
    exited(&outcome, 0)?;
    let line = &outcome.timeline;
    ensure!(line.len() >= 5 && line.is_sorted_by_key(|s| s.at_ms), "{line:?}");
    let most = line.iter().filter_map(|s| s.memory_bytes).max().context("no memory")?;
    ensure!(most > 30_000_000, "{line:?}");
    place.close()
}

fn session_ends() -> Result<()> {
    let place = Place::new()?;
    let call = place.session().command("sleep").arg("1000").spawn()?;
    let since = Instant::now();
    place.close()?;
    ensure!(since.elapsed() < Duration::from_secs(5));
    ensure!(call.is_finished());
    ensure!(!call.wait()?.success());
    Ok(())
}

fn harness() -> Result<()> {
    let place = Place::new()?;
    let mut harness = crate::support::Worker::start("sleep")?;
    let home = agentcg_core::path_of(harness.pid())?;
    place.session().move_pid(harness.pid())?;
    ensure!(agentcg_core::path_of(harness.pid())? == place.session().path());
    exited(&place.sh("exit 0").status()?, 0)?;
    let agent = place.session().path().join("agent");
    ensure!(agentcg_core::path_of(harness.pid())? == agent);
    ensure!(Cgroup::open(&agent)?.limit(LimitFile::MemoryLow)? == Limit::Max);
    let late = crate::support::Worker::start("sleep")?;
    place.session().move_agent(late.pid())?;
    ensure!(agentcg_core::path_of(late.pid())? == agent);
    let score = |pid| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    ensure!(score(late.pid())? == "-500\n");
    place.close()?;
    ensure!(agentcg_core::path_of(harness.pid())? == home);
    ensure!(score(late.pid())? == "0\n");
    harness.go()?;
    Ok(())
}

fn shared() -> Result<()> {
    let root = mount_point()?.join(format!("agentcg-shared-{}", std::process::id()));
    let own = own_path()?;
    let join = || -> Result<(Session, Runtime)> {
        let runtime = Runtime::builder().root(&root).shared(true).build()?;
        Ok((runtime.session("s", SessionConfig::default())?, runtime))
    };
    let (first, first_runtime) = join()?;
    let (second, second_runtime) = join()?;
    exited(&first.command("true").status()?, 0)?;
    let call = second.command("sleep").arg("1000").spawn()?;
    // The first leaves; what the second runs is untouched.
    drop((first, first_runtime));
    ensure!(!call.wait_timeout(Duration::from_millis(200))? && call.path().exists());
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    drop((second, second_runtime));
    ensure!(!root.exists());
    ensure!(own_path()? == own);
    Ok(())
}

fn forked() -> Result<()> {
    let place = Place::new()?;
    let mut call = place.session().command("sleep").arg("1000").spawn()?;
    // SAFETY: the child makes system calls and allocates, which glibc allows after fork, and ends by
    // `_exit`: nothing of the parent's is unwound or dropped but what is named here.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = |e: agentcg_core::Error| e.kind() == ErrorKind::InvalidInput;
        let true_ = || place.session().command("true");
        let right = call.ready_fd().is_err_and(refused)
            && call.wait_timeout(Duration::from_secs(100)).is_err_and(refused)
            && !call.is_finished()
            && true_().spawn().is_err_and(refused)
            && true_().status().is_err_and(refused)
            && call.wait().is_err_and(refused);
        drop(place);
        // SAFETY: only a system call.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: our own child, and room for its status.
    ensure!(unsafe { libc::waitpid(child, &mut status, 0) } == child && status == 0, "{status}");
    ensure!(!call.is_finished() && call.path().exists());
    call.kill();
    ensure!(call.wait()?.verdict == Verdict::Cancelled);
    place.close()
}

fn hints() -> Result<()> {
    let mut config = SessionConfig::default();
    config.limits.memory_max = Some("300M".parse()?);
    config.limits.cpu_max = Some(1.0);
    let place = Place::with(config)?;
    let outcome = place
        .sh("echo $OMP_NUM_THREADS; cat /sys/fs/cgroup$(sed 's/^0:://' /proc/self/cgroup)/memory.max")
        .hint("memory:low,cpu:4,pids:50,time:60s".parse()?)
        .output()?;
    // 512M is more than the session has.
    ensure!(text(&outcome) == format!("1\n{}\n", 300 << 20), "{outcome:?}");
    ensure!(outcome.limits.pids_max == Some(Limit::Value(50)));
    ensure!(outcome.limits.cpu_max == Some(1.0));
    ensure!(outcome.notes.len() == 2, "{:?}", outcome.notes);
    let mut limits = agentcg_core::Limits::default();
    limits.memory_max = Some("64M".parse()?);
    let given = place.sh("exit 0").limits(limits).hint("memory:128M".parse()?).output()?;
    ensure!(given.limits.memory_max == Some(Limit::Value(64 << 20)), "{given:?}");
    place.close()
}

fn hints_left_out() -> Result<()> {
    let place = Place::new()?;
    let outcome = place.sh("exit 0").hint("memory:64M,time:60s".parse()?).output()?;
    exited(&outcome, 0)?;
    let memory = Cgroup::open(place.session().path())?
        .controllers()?
        .contains(&agentcg_core::Controller::Memory);
    ensure!(outcome.limits.memory_max.is_some() == memory);
    ensure!(outcome.notes.is_empty() == memory, "{:?}", outcome.notes);
    let late = place.sh("sleep 100").hint("time:100ms".parse()?).output()?;
    ensure!(late.verdict == Verdict::TimedOut, "{late:?}");
    place.close()
}

fn history() -> Result<()> {
    let mut config = SessionConfig::default();
    config.limits.swap_max = Some(Limit::Value(0));
    let place = Place::with(config)?;
    let dir = tempfile::tempdir()?;
    let history = agentcg_core::History::open(dir.path().join("history.json"))?;
    let eat = |mib: u32| {
        let mut command = place.session().command("python3");
        let program = format!("print('begun', flush=True); a = b'x' * ({mib} << 20)");
        command.args(["-c", &program]).history(history.clone());
        command
    };
    let first = eat(30).output()?;
    exited(&first, 0)?;
    let proposed = history.propose(&agentcg_core::CommandKey::normalise(&first.command));
    ensure!(proposed.is_some_and(|p| p > 30 << 20), "{proposed:?}");
    // Twice what it took is not enough now, and four times is.
    let proposed = proposed.context("proposal")?;
    let more = (proposed >> 20) as u32 * 3 / 2;
    let mut file = tempfile::tempfile()?;
    let mut command = eat(more);
    let outcome = command.hint("memory:auto".parse()?).stdout(file.try_clone()?).output()?;
    exited(&outcome, 0)?;
    ensure!(outcome.retries.len() == 1, "{outcome:?}");
    // Who spawns is told the same.
    let mut spawned = eat(more);
    ensure!(spawned.stdin(Stdio::Null).again(&outcome.retries[0]).is_none());
    ensure!(spawned.retry(true).again(&outcome.retries[0]) == Some(2 * proposed));
    ensure!(spawned.again(&outcome).is_none());
    // Both wrote to the file that was given.
    let mut written = String::new();
    file.rewind()?;
    file.read_to_string(&mut written)?;
    ensure!(written == "begun\nbegun\n", "{written}");
    ensure!(outcome.retries[0].verdict == Verdict::OomKilled, "{outcome:?}");
    ensure!(outcome.retries[0].limits.memory_max == Some(Limit::Value(proposed)));
    ensure!(outcome.limits.memory_max == Some(Limit::Value(2 * proposed)));
    // Next time the first try is enough.
    let outcome = eat(more).hint("memory:auto".parse()?).output()?;
    ensure!(outcome.success() && outcome.retries.is_empty(), "{outcome:?}");
    // A descriptor is there for the second try too; and who spawns can do the same in steps.
    let file = tempfile::tempfile()?;
    let mut limits = agentcg_core::Limits::default();
    limits.memory_max = Some(Limit::Value((u64::from(more) << 20) * 3 / 4));
    let mut command = place.session().command("python3");
    command.args(["-c", &format!("a = b'x' * ({more} << 20); print('done')")]);
    command.limits(limits).retry(true).stdin(Stdio::Null).stdout(file.try_clone()?);
    let outcome = command.output()?;
    ensure!(outcome.success() && outcome.retries.len() == 1, "{outcome:?}");
    ensure!(file.metadata()?.len() == 5);
    let first = command.stdout(Stdio::Null).spawn()?.wait()?;
    ensure!(first.verdict == Verdict::OomKilled, "{first:?}");
    let second = command.respawn(&first)?.context("it is tried again")?.wait()?;
    ensure!(second.success() && second.retries.len() == 1, "{second:?}");
    ensure!(command.respawn(&second)?.is_none());
    place.close()
}

fn admission() -> Result<()> {
    let mut config = SessionConfig::default();
    config.capacity.calls = Some(1);
    let place = Place::with(config)?;
    let first = place.session().command("sleep").arg("1000").spawn()?;
    let late = place.sh("exit 0").queue_timeout(Duration::from_millis(100)).output()?;
    ensure!(late.verdict == Verdict::SpawnFailed && late.queued >= Duration::from_millis(100));
    ensure!(
        matches!(&late.ended, Ended::NotStarted(e) if e.kind() == ErrorKind::TimedOut),
        "{late:?}"
    );
    std::thread::scope(|scope| -> Result<()> {
        let second = scope.spawn(|| place.sh("exit 4").output());
        eventually("it waits", || {
            let sessions = agentcg_core::inspect(&place.root)?;
            Ok(sessions.iter().map(|s| s.calls.len()).sum::<usize>() == 2)
        })?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(!second.is_finished());
        first.kill();
        ensure!(first.wait()?.verdict == Verdict::Cancelled);
        let second = second.join().expect("no panic")?;
        exited(&second, 4)?;
        ensure!(second.queued >= Duration::from_millis(50), "{second:?}");
        Ok(())
    })?;
    // The same for an event loop.
    let held = place.session().command("sleep").arg("1000").spawn()?;
    let mut command = place.sh("exit 5");
    let in_queue = command.enqueue()?.context("a queue")?;
    let ready = in_queue.ready_fd()?;
    let readable = || rustix::io::read(&*ready, &mut [0; 8]).is_ok();
    ensure!(!readable());
    held.kill();
    eventually("there is room", || Ok(readable()))?;
    exited(&command.at(in_queue).output()?, 5)?;
    ensure!(held.wait()?.verdict == Verdict::Cancelled);
    place.close()
}

fn canceller() -> Result<()> {
    let mut config = SessionConfig::default();
    config.capacity.calls = Some(1);
    let place = Place::with(config)?;
    let mut command = place.session().command("sleep");
    command.arg("1000");
    let canceller = command.canceller();
    std::thread::scope(|scope| -> Result<()> {
        let running = scope.spawn(|| command.output());
        std::thread::sleep(Duration::from_millis(200));
        let mut waiting = place.session().command("true");
        let second = waiting.canceller();
        let waits = scope.spawn(move || waiting.output());
        std::thread::sleep(Duration::from_millis(200));
        second.cancel()?;
        let never = waits.join().expect("no panic")?;
        ensure!(never.verdict == Verdict::Cancelled, "{never:?}");
        ensure!(matches!(never.ended, Ended::NotStarted(_)));
        canceller.cancel()?;
        ensure!(running.join().expect("no panic")?.verdict == Verdict::Cancelled);
        Ok(())
    })?;
    ensure!(command.output()?.verdict == Verdict::Cancelled);
    place.close()
}

/// Whatever the moment, also that before the process is in the cgroup that is killed.
fn cancelled_at_any_moment() -> Result<()> {
    const ROUNDS: u32 = 600;
    let place = Place::new()?;
    let long = Instant::now();
    place.session().command("true").status()?;
    let long = long.elapsed();
    for at in (0..ROUNDS).map(|round| long * round / ROUNDS) {
        let mut command = place.session().command("sleep");
        command.arg("1000").timeout(Duration::from_secs(20));
        let canceller = command.canceller();
        let begun = Barrier::new(2);
        let outcome = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                begun.wait();
                command.status()
            });
            begun.wait();
            let begun = Instant::now();
            // To sleep is not exact enough.
            while begun.elapsed() < at {
                std::hint::spin_loop();
            }
            canceller.cancel()?;
            running.join().expect("no panic")
        })?;
        ensure!(outcome.verdict == Verdict::Cancelled, "after {at:?}: {outcome:?}");
    }
    place.close()
}
