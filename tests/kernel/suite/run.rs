//! `agentcg run`, `agentcg-bash` and what looks at calls from outside, as a user runs them.

use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentcg_core::{Runtime, SessionConfig, mount_point};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{Need, Test, eventually, program};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "run::passes_status_and_output_on", needs: HERE, run: statuses },
        Test { name: "run::says_what_it_could_not_do", needs: HERE, run: refused },
        Test { name: "run::hands_on_descriptors_and_environment", needs: HERE, run: inherits },
        Test { name: "run::limits_and_hints_are_on_the_call", needs: LIMITS, run: limits },
        Test { name: "run::writes_a_report", needs: HERE, run: reports },
        Test { name: "run::full_disk_loses_nothing", needs: HERE, run: full_disk },
        Test { name: "run::parallel_runs_share_root_and_log", needs: HERE, run: parallel },
        Test { name: "run::beside_an_owner_of_the_root", needs: HERE, run: beside_owner },
        Test { name: "run::signals_end_the_whole_call", needs: HERE, run: signals },
        Test { name: "run::a_second_signal_kills", needs: HERE, run: second_signal },
        Test { name: "run::ignored_signals_stay_ignored", needs: HERE, run: ignored },
        Test { name: "run::kill_9_is_cleaned_up_by_the_next", needs: HERE, run: killed },
        Test { name: "run::without_privileges_it_says_so", needs: HERE, run: unprivileged },
        Test { name: "outside::ps_kill_freeze_thaw_top", needs: HERE, run: outside },
        Test { name: "outside::an_orphan_is_shown_and_killed", needs: HERE, run: orphan },
        Test { name: "outside::report_of_a_log", needs: HERE, run: report },
        Test { name: "bash::is_bash", needs: HERE, run: is_bash },
        Test { name: "bash::only_commands_become_calls", needs: HERE, run: only_commands },
        Test { name: "bash::goes_on_without_agentcg", needs: HERE, run: goes_on },
        Test { name: "bash::in_place_of_bash", needs: HERE, run: in_place },
    ]
}

/// A root and a directory of one test's own; at the end nothing may be left of the root.
struct Place {
    root: PathBuf,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = mount_point()?.join(format!("agentcg-run-{}-{n}", std::process::id()));
        Ok(Self { root, dir: tempfile::tempdir()? })
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        command
            .env("AGENTCG_ROOT", &self.root)
            .env_remove("AGENTCG_CALL")
            .env_remove("AGENTCG_LOG")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// `agentcg WORDS...`
    fn agentcg(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command("agentcg")?.args(words).output()?)
    }

    /// `agentcg run OPTIONS... -- sh -c SCRIPT`, running.
    fn start(&self, options: &[&str], script: &str) -> Result<Running> {
        let mut command = self.command("agentcg")?;
        command
            .arg("run")
            .args(options)
            .args(["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Whoever started us may have had them ignored, as nohup and background jobs do.
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        Ok(Running(Some(command.spawn()?)))
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn ps(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.agentcg(&["ps", "--json"])?.stdout)?)
    }

    /// The only call there is.
    fn call(&self) -> Result<Value> {
        Ok(self.ps()?["sessions"][0]["calls"][0].clone())
    }

    fn wait_for_calls(&self, n: usize) -> Result<()> {
        eventually("the calls are there", || {
            let ps = self.ps()?;
            let sessions = ps["sessions"].as_array().context("sessions")?;
            let started = |c: &&Value| c["processes"].as_u64() > Some(0);
            let calls = sessions.iter().filter_map(|s| s["calls"].as_array()).flatten();
            Ok(calls.filter(started).count() == n)
        })
    }

    /// So many processes of the one call are `sleep`. To be there is not enough: between fork and exec
    /// a shell's child still has the shell's handlers, and drops the signal.
    fn wait_for_sleepers(&self, n: usize) -> Result<()> {
        self.wait_for_calls(1)?;
        let path = self.call()?["path"].as_str().context("path")?.to_owned();
        let comm = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        eventually("they sleep", || {
            let pids = pids_in(&std::fs::read_to_string(format!("{path}/cgroup.procs"))?);
            Ok(pids.iter().filter(|p| comm(p).is_ok_and(|c| c == "sleep\n")).count() == n)
        })
    }

    fn close(self) -> Result<()> {
        ensure!(!self.root.exists(), "{} is left", self.root.display());
        Ok(())
    }
}

struct Running(Option<Child>);

impl Running {
    fn pid(&self) -> i32 {
        self.0.as_ref().map_or(0, |c| c.id() as i32)
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.pid(), signal) };
    }

    fn end(mut self) -> Result<Output> {
        Ok(self.0.take().context("running")?.wait_with_output()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exited(out: &Output, status: i32) -> Result<()> {
    ensure!(out.status.code() == Some(status), "{:?}: {}", out.status, text(&out.stderr));
    ensure!(!text(&out.stderr).contains("panicked"), "{}", text(&out.stderr));
    Ok(())
}

fn statuses() -> Result<()> {
    let place = Place::new()?;
    let not_executable = place.file("data");
    std::fs::write(&not_executable, "")?;
    for (words, status) in [
        (&["true"][..], 0),
        (&["--", "sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["--", "sh", "-c", "kill -9 $$"], 137),
        (&["--", "sh", "-c", "kill -15 $$"], 143),
        (&["--", "sh", "-c", "kill -PIPE $$"], 141),
        (&["--timeout", "300ms", "--", "sleep", "60"], 124),
        (&["--timeout", "300ms", "--grace", "0s", "--", "sh", "-c", "trap '' TERM; sleep 60"], 124),
        (&["--hint", "time:300ms", "--", "sleep", "60"], 124),
        (&["--", "no-such-program-here"], 127),
        (&["--", "/no/such/program"], 127),
        (&["--", "/etc"], 126),
        (&["--", &not_executable], 126),
    ] {
        let out = place.agentcg(&[&["run"], words].concat())?;
        exited(&out, status).with_context(|| format!("{words:?}"))?;
    }
    let out = place.agentcg(&["run", "--", "sh", "-c", "echo out; echo err >&2"])?;
    ensure!(text(&out.stdout) == "out\n" && text(&out.stderr) == "err\n", "{out:?}");
    // One line of advice, and a way to be without it.
    let out = place.agentcg(&["run", "--", "sh", "-c", "kill -9 $$"])?;
    let said = text(&out.stderr);
    ensure!(said.starts_with("agentcg: signaled: ") && said.lines().count() == 1, "{said}");
    let out = place.agentcg(&["run", "--quiet", "--", "sh", "-c", "kill -9 $$"])?;
    ensure!(out.stderr.is_empty(), "{out:?}");
    place.close()
}

fn refused() -> Result<()> {
    let place = Place::new()?;
    let ran = place.file("ran");
    let touch = ["--", "touch", &ran];
    let missing = place.file("no/such/dir/report");
    for (words, said) in [
        (&["--frob"][..], "--frob"),
        (&["--session", "a/b"], "a/b"),
        (&["--root", "/tmp/no-cgroup"], "/tmp"),
        (&["--memory-max", "12Q"], "12Q"),
        (&["--memory-high", "-1"], "-1"),
        (&["--swap-max", "x"], "x"),
        (&["--cpu-weight", "0"], "0"),
        (&["--cpu-max", "0"], "0"),
        (&["--cpu-max", "many"], "many"),
        (&["--pids-max", "-3"], "-3"),
        (&["--timeout", "5"], "5"),
        (&["--timeout", "0s"], "more than zero"),
        (&["--hint", "memory:huge"], "memory:huge"),
        (&["--report", &missing], "no/such/dir"),
    ] {
        let out = place.agentcg(&[&["run"], words, &touch].concat())?;
        exited(&out, 125).with_context(|| format!("{words:?}"))?;
        ensure!(text(&out.stderr).contains(said), "{words:?}: {}", text(&out.stderr));
    }
    exited(&place.agentcg(&["run"])?, 125)?;
    exited(&place.agentcg(&["run", "--help"])?, 0)?;
    let out =
        place.command("agentcg")?.arg("run").args(touch).env("AGENTCG_LOG", &missing).output()?;
    exited(&out, 125)?;
    let hint = ("AGENT_RESOURCE_HINT", "memory:huge");
    let out = place.command("agentcg")?.arg("run").args(touch).env(hint.0, hint.1).output()?;
    exited(&out, 125)?;
    ensure!(text(&out.stderr).contains("AGENT_RESOURCE_HINT"), "{out:?}");
    ensure!(!Path::new(&ran).exists(), "the command was run");
    place.close()
}

fn inherits() -> Result<()> {
    let place = Place::new()?;
    let script = format!(
        "exec 3>&1; echo in | {} run --session build -- sh -c 'read x; echo $x $A $AGENTCG_SESSION >&3'",
        program("agentcg")?.display()
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &script]).env("A", "a b").env("AGENTCG_ROOT", &place.root);
    let out = sh.output()?;
    ensure!(text(&out.stdout) == "in a b build\n", "{out:?}");
    place.close()
}

fn limits() -> Result<()> {
    let place = Place::new()?;
    let report = place.file("report");
    let options =
        ["--memory-max", "64M", "--pids-max", "50", "--cpu-max", "0.5", "--report", &report];
    let run = place.start(&options, "sleep 60")?;
    place.wait_for_calls(1)?;
    let path = place.call()?["path"].as_str().context("path")?.to_owned();
    let read = |file: &str| std::fs::read_to_string(format!("{path}/{file}"));
    ensure!(read("memory.max")? == format!("{}\n", 64 << 20));
    ensure!(read("pids.max")? == "50\n" && read("cpu.max")? == "50000 100000\n");
    run.signal(libc::SIGTERM);
    exited(&run.end()?, 143)?;
    let out = place
        .command("agentcg")?
        .args(["run", "--swap-max", "0", "--report", &report])
        .args(["--", "python3", "-c", "x = b'x' * (256 << 20)"])
        .env("AGENT_RESOURCE_HINT", "memory:64M")
        .output()?;
    exited(&out, 137)?;
    ensure!(text(&out.stderr).contains("agentcg: oom killed: "), "{out:?}");
    let json: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    ensure!(json["verdict"] == "oom_killed" && json["hint"] == "memory:64M", "{json}");
    place.close()
}

fn reports() -> Result<()> {
    let place = Place::new()?;
    let report = place.file("report");
    std::fs::write(&report, "what was there before\n".repeat(1000))?;
    exited(&place.agentcg(&["run", "--report", &report, "--", "sh", "-c", "exit 3"])?, 3)?;
    let json: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    ensure!(json["exit_code"] == 3 && json["verdict"] == "failed", "{json}");
    ensure!(json["command"] == serde_json::json!(["sh", "-c", "exit 3"]), "{json}");
    exited(&place.agentcg(&["run", "--report", &report, "--", "no-such-program-here"])?, 127)?;
    let json: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    ensure!(json["verdict"] == "spawn_failed", "{json}");
    let out = place.agentcg(&["run", "--report", "-", "--", "echo", "x"])?;
    ensure!(text(&out.stdout) == "x\n");
    let json: Value = serde_json::from_slice(&out.stderr)?;
    ensure!(json["verdict"] == "completed");
    place.close()
}

fn full_disk() -> Result<()> {
    let place = Place::new()?;
    for (option, log) in [(&["--report", "/dev/full"][..], ""), (&[], "/dev/full")] {
        let out = place
            .command("agentcg")?
            .arg("run")
            .args(option)
            .args(["--", "sh", "-c", "exit 5"])
            .env("AGENTCG_LOG", log)
            .output()?;
        exited(&out, 5)?;
        let said = text(&out.stderr);
        let (first, json) = said.split_once('\n').context("two lines")?;
        ensure!(first.contains("/dev/full") && first.contains("space"), "{said}");
        let json: Value = serde_json::from_str(json)?;
        ensure!(json["exit_code"] == 5);
    }
    place.close()
}

/// Runs that come and go on one root never take it from each other.
fn parallel() -> Result<()> {
    let place = Place::new()?;
    let log = place.file("log");
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..20)
            .map(|worker| {
                let (place, log) = (&place, &log);
                scope.spawn(move || -> Result<()> {
                    for round in 0..3 {
                        let script = format!("exit {}", worker + round);
                        let out = place
                            .command("agentcg")?
                            .args(["run", "--", "sh", "-c", &script])
                            .env("AGENTCG_LOG", log)
                            .output()?;
                        exited(&out, worker + round)?;
                        ensure!(out.stderr.is_empty(), "{}", text(&out.stderr));
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no panic"))
    })?;
    let lines = std::fs::read_to_string(&log)?;
    for line in lines.lines() {
        let json: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(json["schema"] == 1);
    }
    ensure!(lines.lines().count() == 60);
    place.close()
}

fn beside_owner() -> Result<()> {
    let place = Place::new()?;
    let runtime = Runtime::builder().root(&place.root).build()?;
    exited(&place.agentcg(&["run", "--", "true"])?, 0)?;
    let session = runtime.session("default", SessionConfig::default())?;
    exited(&place.agentcg(&["run", "--", "sh", "-c", "exit 4"])?, 4)?;
    ensure!(session.path().exists() && session.command("true").status()?.success());
    // The owner goes while a call runs: the call is not touched, and the last one cleans up.
    let run = place.start(&["--session", "other"], "sleep 1; exit 6")?;
    place.wait_for_calls(1)?;
    drop((session, runtime));
    exited(&run.end()?, 6)?;
    place.close()
}

fn gone(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |s| s.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn pids_in(text: &str) -> Vec<i32> {
    text.split_whitespace().filter_map(|w| w.parse().ok()).collect()
}

fn signals() -> Result<()> {
    let place = Place::new()?;
    let report = place.file("report");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let script = "setsid sleep 1000 & echo $!; ulimit -c 0; sleep 1000";
        let run = place.start(&["--report", &report], script)?;
        place.wait_for_sleepers(2)?;
        run.signal(signal);
        let out = run.end()?;
        exited(&out, 128 + signal).with_context(|| format!("signal {signal}"))?;
        let pids = pids_in(&text(&out.stdout));
        ensure!(!pids.is_empty() && pids.iter().all(|p| gone(*p)), "{pids:?}");
        let json: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
        ensure!(json["verdict"] == "cancelled", "{json}");
    }
    // It may clean up, and its status is told.
    let run = place.start(&[], "trap 'echo bye; exit 9' INT; while :; do sleep 0.05; done")?;
    place.wait_for_sleepers(1)?;
    run.signal(libc::SIGINT);
    let out = run.end()?;
    exited(&out, 9)?;
    ensure!(text(&out.stdout) == "bye\n");
    // For the command itself.
    let run = place.start(&[], "trap 'exit 8' USR1; while :; do sleep 0.05; done")?;
    place.wait_for_sleepers(1)?;
    run.signal(libc::SIGUSR1);
    exited(&run.end()?, 8)?;
    place.close()
}

const STUBBORN: &str = "trap '' TERM INT; while :; do sleep 0.05; done";

fn second_signal() -> Result<()> {
    let place = Place::new()?;
    let run = place.start(&["--grace", "1h"], STUBBORN)?;
    place.wait_for_sleepers(1)?;
    run.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    run.signal(libc::SIGINT);
    let at = Instant::now();
    exited(&run.end()?, 137)?;
    ensure!(at.elapsed() < Duration::from_secs(10));
    // Without a second one the grace decides.
    let run = place.start(&["--grace", "300ms"], STUBBORN)?;
    place.wait_for_sleepers(1)?;
    run.signal(libc::SIGTERM);
    exited(&run.end()?, 137)?;
    place.close()
}

fn ignored() -> Result<()> {
    let place = Place::new()?;
    let mut command = Command::new("nohup");
    command
        .arg(program("agentcg")?)
        .args(["run", "--", "sh", "-c", "sleep 1; exit 5"])
        .env("AGENTCG_ROOT", &place.root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = Running(Some(command.spawn()?));
    place.wait_for_calls(1)?;
    run.signal(libc::SIGHUP);
    exited(&run.end()?, 5)?;
    place.close()
}

fn killed() -> Result<()> {
    let place = Place::new()?;
    let run = place.start(&[], "sleep 1000")?;
    place.wait_for_calls(1)?;
    let path = place.call()?["path"].as_str().context("path")?.to_owned();
    let pids = pids_in(&std::fs::read_to_string(format!("{path}/cgroup.procs"))?);
    run.signal(libc::SIGKILL);
    run.end_killed()?;
    ensure!(!pids.is_empty() && pids.iter().all(|p| !gone(*p)), "{pids:?}");
    exited(&place.agentcg(&["run", "--", "true"])?, 0)?;
    ensure!(pids.iter().all(|p| gone(*p)), "{pids:?}");
    place.close()
}

impl Running {
    /// As [`end`](Self::end), without its output: processes that live on hold the pipes open.
    fn end_killed(mut self) -> Result<()> {
        let mut child = self.0.take().context("running")?;
        child.wait()?;
        Ok(())
    }
}

fn unprivileged() -> Result<()> {
    let place = Place::new()?;
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program("agentcg")?)
        .args(["run", "--", "true"])
        .env("AGENTCG_ROOT", &place.root)
        .output()?;
    exited(&out, 125)?;
    let said = text(&out.stderr);
    ensure!(said.contains("root") && said.lines().count() == 1, "{said}");
    place.close()
}

fn outside() -> Result<()> {
    let place = Place::new()?;
    let nothing = place.agentcg(&["ps"])?;
    ensure!(text(&nothing.stdout) == "no sessions\n", "{nothing:?}");
    let report = place.file("report");
    let one = place.start(&["--session", "one", "--report", &report], "sleep 1000")?;
    let two = place.start(&["--session", "two"], "while :; do :; done")?;
    place.wait_for_calls(2)?;
    let ps = place.ps()?;
    ensure!(ps["sessions"][0]["name"] == "one" && ps["sessions"][1]["name"] == "two", "{ps}");
    let call = &ps["sessions"][0]["calls"][0];
    ensure!(call["command"] == "sh -c sleep 1000" && call["owner"] == one.pid(), "{call}");
    ensure!(call["owner_alive"] == true && call["frozen"] == false, "{call}");
    let first = call["name"].as_str().context("name")?.to_owned();
    let second = ps["sessions"][1]["calls"][0]["name"].as_str().context("name")?.to_owned();

    let table = text(&place.agentcg(&["ps"])?.stdout);
    ensure!(
        table.contains(&format!("one/{first}")) && table.contains("sh -c sleep 1000"),
        "{table}"
    );
    let top = text(&place.agentcg(&["top", "--once", "-i", "500ms"])?.stdout);
    ensure!(top.starts_with("2 sessions, 2 calls, ") && top.contains('%'), "{top}");

    // A name that there is not touches none of the others.
    let out = place.agentcg(&["kill", "one", "nobody"])?;
    exited(&out, 1)?;
    let said = text(&out.stderr);
    ensure!(said.contains("nobody") && said.contains(&format!("two/{second}")), "{said}");

    exited(&place.agentcg(&["freeze", &format!("two/{second}")])?, 0)?;
    ensure!(place.ps()?["sessions"][1]["calls"][0]["frozen"] == true);
    exited(&place.agentcg(&["thaw", &second])?, 0)?;
    ensure!(place.ps()?["sessions"][1]["calls"][0]["frozen"] == false);
    exited(&place.agentcg(&["freeze", "two"])?, 0)?;
    let out = place.agentcg(&["thaw", &second])?;
    ensure!(text(&out.stderr).contains("thaw its session"), "{out:?}");
    ensure!(place.ps()?["sessions"][1]["frozen"] == true);

    exited(&place.agentcg(&["kill", &first, "two"])?, 0)?;
    let (one, two) = (one.end()?, two.end()?);
    exited(&one, 137)?;
    exited(&two, 137)?;
    ensure!(text(&one.stderr).contains("cancelled") && text(&one.stderr).contains("agentcg kill"));
    let json: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    ensure!(json["verdict"] == "cancelled", "{json}");
    place.close()
}

fn orphan() -> Result<()> {
    let place = Place::new()?;
    let run = place.start(&[], "sleep 1000")?;
    place.wait_for_calls(1)?;
    run.signal(libc::SIGKILL);
    run.end_killed()?;
    let call = place.call()?;
    ensure!(call["owner_alive"] == false, "{call}");
    ensure!(text(&place.agentcg(&["ps"])?.stdout).contains("orphaned"));
    exited(&place.agentcg(&["kill", "default"])?, 0)?;
    ensure!(place.ps()?["sessions"][0]["calls"] == serde_json::json!([]));
    exited(&place.agentcg(&["run", "--", "true"])?, 0)?;
    place.close()
}

fn report() -> Result<()> {
    let place = Place::new()?;
    let log = place.file("log");
    for script in ["exit 0", "exit 1", "exit 1"] {
        place
            .command("agentcg")?
            .args(["run", "--", "sh", "-c", script])
            .env("AGENTCG_LOG", &log)
            .output()?;
    }
    let mut file = std::fs::File::options().append(true).open(&log)?;
    writeln!(file, "{{\"torn")?;
    let out = place.agentcg(&["report", &log, "--json"])?;
    exited(&out, 0)?;
    let json: Value = serde_json::from_slice(&out.stdout)?;
    ensure!(json["calls"] == 3 && json["broken_lines"] == 1, "{json}");
    let verdicts = &json["commands"][0]["verdicts"];
    ensure!(verdicts["failed"] == 2 && verdicts["completed"] == 1, "{json}");
    ensure!(text(&out.stderr).contains("line 4"), "{out:?}");
    let mut report = place.command("agentcg")?;
    let out = report.args(["report", "-"]).stdin(std::fs::File::open(&log)?).output()?;
    let table = text(&out.stdout);
    ensure!(table.contains("2 failed, 1 completed") && table.contains("3 calls"), "{table}");
    exited(&place.agentcg(&["report", "/no/such/log"])?, 1)?;
    place.close()
}

/// What bash was given and what came of it.
fn compare(place: &Place, args: &[&str], stdin: &str) -> Result<()> {
    let run = |mut command: Command| -> Result<Output> {
        use std::os::unix::process::CommandExt;
        // The same name for both, for messages begin with it.
        command.arg0("bash").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).env("AGENTCG_QUIET", "1").spawn()?;
        let mut pipe = child.stdin.take().context("stdin")?;
        // Who does not read it closes it.
        let _ = pipe.write_all(stdin.as_bytes());
        drop(pipe);
        Ok(child.wait_with_output()?)
    };
    let real = run(Command::new("/bin/bash"))?;
    let ours = run(place.command("agentcg-bash")?)?;
    let all = |o: &Output| (o.status, text(&o.stdout), text(&o.stderr));
    ensure!(
        all(&real) == all(&ours),
        "{args:?} < {stdin:?}: {:?} but {:?}",
        all(&real),
        all(&ours)
    );
    Ok(())
}

fn is_bash() -> Result<()> {
    let place = Place::new()?;
    let script = place.file("script");
    std::fs::write(&script, "echo script $0 $# \"$@\"; exit 4\n")?;
    let rc = place.file("rc");
    std::fs::write(&rc, "X=from_rc\n")?;
    for (args, stdin) in [
        (&["-c", "echo hi"][..], ""),
        (&["-c", "exit 3"], ""),
        (&["-c", "echo out; echo err >&2; exit 9"], ""),
        (&["-c", "echo $0 $# $1 $2", "name", "a b", "c"], ""),
        (&["-c", "echo $0"], ""),
        (&["-c", "echo \"$1\"; printf '%s|' \"$@\"", "x", "a\nb", "", "'\"$`\\"], ""),
        (&["-lc", "shopt -q login_shell && echo login"], ""),
        (&["-cl", "shopt -q login_shell && echo login"], ""),
        (&["--login", "-c", "shopt -q login_shell && echo login"], ""),
        (&["-login", "-c", "shopt -q login_shell && echo login"], ""),
        (&["-l", "-c", "echo $0", "n"], ""),
        (&["--norc", "--noprofile", "-c", "echo $-"], ""),
        (&["--rcfile", &rc, "-c", "echo x$X"], ""),
        (&["--posix", "-c", "shopt -o posix"], ""),
        (&["-e", "-c", "false; echo not reached"], ""),
        (&["-ec", "false; echo not reached"], ""),
        (&["-c", "-e", "false; echo not reached"], ""),
        (&["-euo", "pipefail", "-c", "false | true; echo not reached"], ""),
        (&["-o", "pipefail", "-c", "false | true; echo $?"], ""),
        (&["-co", "pipefail", "false | true; echo $?"], ""),
        (&["-O", "extglob", "-c", "shopt extglob"], ""),
        (&["+e", "-c", "false; echo reached"], ""),
        (&["+c", "echo plus"], ""),
        (&["-c", "--", "echo dashes"], ""),
        (&["-c", "-", "echo dash"], ""),
        (&["-xc", "echo traced"], ""),
        (&["-nc", "echo not executed"], ""),
        (&["-vc", "echo shown"], ""),
        (&["-c", ""], ""),
        (&["-c", "syntax (error"], ""),
        (&["-c", "no_such_command_here"], ""),
        (&["-c", "/etc"], ""),
        (&["-c", "kill -9 $$"], ""),
        (&["-c", "kill -15 $$"], ""),
        (&["-c", "kill -PIPE $$"], ""),
        (&["-c", "exit 300"], ""),
        (&["-c", "exit -1"], ""),
        (&["-c", "read x; echo got $x; cat"], "one\ntwo\nthree\n"),
        (&["-c", "cat | wc -c"], "12345"),
        (&["-c", "yes | head -n 1"], ""),
        (&["-c", "bash -c 'echo nested $0; exit 6' inner"], ""),
        (&["-c", "(exit 5); echo $?; trap 'echo bye' EXIT; exit 2"], ""),
        (&["-c", "echo -n no newline"], ""),
        (&["-c", "printf '\\377\\0x'"], ""),
        (&["-c", "ulimit -n; umask; pwd"], ""),
        (&["-c", "cat <<X\nhere $((1 + 1))\nX"], ""),
        (&["-c", "trap '' INT; trap -p"], ""),
        (&["-sc", "echo c wins"], "echo from stdin\n"),
        (&["-s", "a", "b"], "echo stdin $1 $2; exit 8\n"),
        (&[], "echo plain stdin; exit 7\n"),
        (&["-"], "echo dash\n"),
        (&[&script, "p q", "r"], ""),
        (&["-e", &script, "-c", "x"], ""),
        (&["--", &script], ""),
        (&["--version"], ""),
        (&["--help"], ""),
        (&["-c"], ""),
        (&["-lc"], ""),
        (&["--frob", "-c", "echo x"], ""),
        (&["-Z", "-c", "echo x"], ""),
        (&["-o", "nosuch", "-c", "echo x"], ""),
        (&["--", "-c", "echo x"], ""),
        (&["/no/such/script"], ""),
        (&["-ic", "echo interactive"], ""),
        (&["-D", "-c", "echo $\"x\""], ""),
    ] {
        compare(&place, args, stdin)?;
    }
    place.close()
}

fn only_commands() -> Result<()> {
    let place = Place::new()?;
    let log = place.file("log");
    let script = place.file("script");
    std::fs::write(&script, "echo ${AGENTCG_CALL-none}\n")?;
    let ask = "echo ${AGENTCG_CALL-none}";
    let bash = || -> Result<Command> {
        let mut bash = place.command("agentcg-bash")?;
        bash.env("AGENTCG_LOG", &log);
        Ok(bash)
    };
    let calls = || std::fs::read_to_string(&log).map_or(0, |t| t.lines().count());
    for (args, is_call) in [
        (&["-c", ask][..], true),
        (&["-lc", ask], true),
        (&["-e", "-c", ask], true),
        (&[&script], false),
        (&["--version"], false),
    ] {
        let before = calls();
        let out = bash()?.args(args).output()?;
        exited(&out, 0)?;
        ensure!(calls() - before == usize::from(is_call), "{args:?}");
        let right = is_call != text(&out.stdout).starts_with("none");
        ensure!(right || args == ["--version"], "{args:?}: {out:?}");
    }
    let before = calls();
    let out = bash()?.args(["-c", ask]).env("AGENTCG_DISABLE", "1").output()?;
    ensure!(text(&out.stdout) == "none\n", "{out:?}");
    let out = bash()?.args(["-c", ask]).env("AGENTCG_CALL", "outer").output()?;
    ensure!(text(&out.stdout) == "outer\n" && calls() == before, "{out:?}");
    // A call inside a call is the same call.
    let ours = program("agentcg-bash")?;
    let nested = format!("echo $AGENTCG_CALL; {} -c 'echo $AGENTCG_CALL'", ours.display());
    let out = bash()?.args(["-c", &nested]).output()?;
    let said = text(&out.stdout);
    let names: Vec<_> = said.lines().collect();
    ensure!(names.len() == 2 && names[0] == names[1] && calls() == before + 1, "{out:?}");
    let last: Value =
        serde_json::from_str(std::fs::read_to_string(&log)?.lines().last().context("a line")?)?;
    ensure!(last["command"][1] == "-c", "{last}");
    // What the agent says that it needs.
    let out = bash()?.args(["-c", "sleep 60"]).env("AGENT_RESOURCE_HINT", "time:300ms").output()?;
    exited(&out, 124)?;
    ensure!(text(&out.stderr).starts_with("agentcg: timed out: "), "{out:?}");
    place.close()
}

fn goes_on() -> Result<()> {
    let place = Place::new()?;
    let log = place.file("log");
    let bash = |root: &str| -> Result<Command> {
        let mut bash = place.command("agentcg-bash")?;
        bash.args(["-c", "echo ran; exit 3"]).env("AGENTCG_ROOT", root).env("AGENTCG_LOG", &log);
        Ok(bash)
    };
    let out = bash("/tmp/no-cgroup")?.output()?;
    exited(&out, 3)?;
    ensure!(text(&out.stdout) == "ran\n" && out.stderr.is_empty(), "{out:?}");
    let note: Value = serde_json::from_str(&std::fs::read_to_string(&log)?)?;
    ensure!(note["not_a_call"].as_str().is_some_and(|e| e.contains("/tmp")), "{note}");
    let out = bash("/tmp/no-cgroup")?.env("AGENTCG_STRICT", "1").output()?;
    exited(&out, 125)?;
    ensure!(out.stdout.is_empty() && text(&out.stderr).contains("/tmp"), "{out:?}");
    // Without privileges, and with a log that cannot be written.
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program("agentcg-bash")?)
        .args(["-c", "echo ran; exit 3"])
        .env("AGENTCG_LOG", "/no/such/dir/log")
        .env("AGENTCG_ROOT", &place.root)
        .output()?;
    exited(&out, 3)?;
    ensure!(text(&out.stdout) == "ran\n" && text(&out.stderr).lines().count() == 1, "{out:?}");
    // A bad hint is left out.
    let root = place.root.display().to_string();
    let out = bash(&root)?.env("AGENT_RESOURCE_HINT", "memory:huge").output()?;
    exited(&out, 3)?;
    let lines = std::fs::read_to_string(&log)?;
    let last: Value = serde_json::from_str(lines.lines().last().context("a line")?)?;
    ensure!(last["notes"][0].as_str().is_some_and(|n| n.contains("memory:huge")), "{last}");
    place.close()
}

fn in_place() -> Result<()> {
    let place = Place::new()?;
    let (wrapper, real) = (place.dir.path().join("bash"), place.dir.path().join("bash.real"));
    std::fs::copy(program("agentcg-bash")?, &wrapper)?;
    std::fs::copy("/bin/bash", &real)?;
    let run = || {
        let mut bash = Command::new(&wrapper);
        bash.args(["-c", "readlink /proc/$$/exe; echo $0"]).env("AGENTCG_ROOT", &place.root);
        bash
    };
    let out = run().output()?;
    ensure!(text(&out.stdout) == format!("{}\n{}\n", real.display(), wrapper.display()), "{out:?}");
    let out = run().env("AGENTCG_BASH", "/bin/bash").output()?;
    ensure!(!text(&out.stdout).starts_with(&*real.to_string_lossy()), "{out:?}");
    exited(&run().env("AGENTCG_BASH", &wrapper).output()?, 126)?;
    exited(&run().env("AGENTCG_BASH", "/no/such/bash").output()?, 126)?;
    place.close()
}
