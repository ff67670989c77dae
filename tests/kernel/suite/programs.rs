//! The programs, as a user runs them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agentcg_core::{Cgroup, mount_point, path_of};
use anyhow::{Context, Result, ensure};

use crate::support::{Need, Test, Worker, agentcg, eventually, program, sched_ext_state};

const BARE: &[Need] = &[Need::Root, Need::Cgroup2, Need::Events];
const FULL: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Events, Need::Psi, Need::SchedExt];
const NO_SCX: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Events, Need::NoSchedExt];

pub fn tests() -> Vec<Test> {
    vec![
        Test {
            name: "agentcg::bad_input_is_one_line_and_changes_nothing",
            needs: &[Need::Root, Need::Cgroup2],
            run: bad_input,
        },
        Test {
            name: "agentcg::without_privileges_it_says_so",
            needs: &[Need::Root],
            run: unprivileged,
        },
        Test {
            name: "agentcg::process_prints_valid_json_and_ends_at_once",
            needs: BARE,
            run: process,
        },
        Test { name: "agentcg::process_ends_with_its_reader", needs: BARE, run: reader_gone },
        Test { name: "agentcg::scheduler_detaches_on_sigterm", needs: FULL, run: scheduler },
        Test { name: "agentcg::scheduler_says_what_is_missing", needs: NO_SCX, run: no_scheduler },
        Test { name: "agentcgroupd::runs_all_parts_and_leaves_nothing", needs: FULL, run: daemon },
        Test {
            name: "agentcgroupd::without_sched_ext_the_rest_runs",
            needs: NO_SCX,
            run: degraded,
        },
        Test { name: "agentcgroupd::moves_what_its_rules_say", needs: BARE, run: rules },
        Test {
            name: "agentcgroupd::kill_9_is_cleaned_up_at_the_next_start",
            needs: BARE,
            run: killed,
        },
        Test {
            name: "agentcgroupd::bad_configuration_changes_nothing",
            needs: BARE,
            run: bad_config,
        },
    ]
}

/// One line that names what is wrong, a status that is not 0, and no cgroup more than before.
fn refused(out: &Output, word: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success(), "succeeded");
    ensure!(text.contains(word), "no {word:?} in: {text}");
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

fn bad_input() -> Result<()> {
    let top = mount_point()?.display().to_string();
    let before = std::fs::read_dir(&top)?.count();
    for (args, word) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["scheduler", "--frob"], "--frob"),
        (&["scheduler", "-s", "1"], "'1'"),
        (&["scheduler", "--scope", "some"], "some"),
        (&["process", "-m", "3"], "'3'"),
        (&["process", "-m", "2"], "mode 2"),
        (&["process", "-p", "2147483647"], "2147483647"),
        (&["process", "-d", "soon"], "soon"),
        (&["process", "--cgroup", "/none/such"], "/none/such"),
        (&["memcg"], "--high"),
        (&["memcg", "--high", "/none/such"], "/none/such"),
        (&["memcg", "--high", "/proc"], "/proc"),
        (&["memcg", "--high", &top, "--low", &top], "overlap"),
        (&["memcg", "--high", &top, "--backend", "magic"], "magic"),
        (&["memcg", "--high", &top, "--window-ms", "1"], "window"),
    ] {
        let out = agentcg(args)?;
        refused(&out, word).with_context(|| format!("agentcg {args:?}"))?;
        // clap's own messages have a usage line; ours are a single line.
        if out.status.code() == Some(1) {
            ensure!(String::from_utf8_lossy(&out.stderr).trim_end().lines().count() == 1);
        }
    }
    ensure!(std::fs::read_dir(&top)?.count() == before);
    Ok(())
}

fn unprivileged() -> Result<()> {
    for (name, args) in
        [("agentcg", &["process"][..]), ("agentcgroupd", &["--no-scheduler", "--no-memcg"][..])]
    {
        let out = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program(name)?)
            .args(args)
            .output()?;
        refused(&out, "root").with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// A program that runs until it is told to stop.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &str, args: &[&str]) -> Result<Self> {
        let log = std::env::temp_dir().join(format!("agentcg-test-{name}-{}", std::process::id()));
        let file = std::fs::File::create(&log)?;
        let child = Command::new(program(name)?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, log })
    }

    fn says(&self, word: &str) -> Result<bool> {
        Ok(self.text()?.contains(word))
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    fn wait_for(&mut self, word: &str) -> Result<()> {
        eventually(word, || {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none() || self.says(word)?, "ended: {}", self.text()?);
            self.says(word)
        })
        .with_context(|| self.text().unwrap_or_default())
    }

    /// Ends it with a signal; how long that took.
    fn stop(mut self, signal: i32) -> Result<Duration> {
        let at = Instant::now();
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
        let status = self.child.wait()?;
        ensure!(signal == libc::SIGKILL || status.success(), "{status}: {}", self.text()?);
        Ok(at.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

fn process() -> Result<()> {
    let mut run = Running::start("agentcg", &["process", "--header"])?;
    run.wait_for("HEADER")?;
    let children = (0..20)
        .map(|_| Ok(Command::new("/bin/true").spawn()?.wait_with_output().map(drop)?))
        .collect::<Result<Vec<_>>>()?;
    eventually("20 executions", || {
        Ok(run.text()?.matches("\"filename\":\"/bin/true\"").count() >= children.len())
    })?;
    let log = run.log.clone();
    let copy = std::env::temp_dir().join("agentcg-test-events");
    std::fs::hard_link(&log, &copy)?;
    let took = run.stop(libc::SIGINT)?;
    let text = String::from_utf8(std::fs::read(&copy)?);
    std::fs::remove_file(&copy)?;
    ensure!(took < Duration::from_secs(5), "{took:?}");
    let text = text?;
    let (events, last) = text.trim_end().rsplit_once('\n').context("no lines")?;
    ensure!(last.starts_with("agentcg: ") && last.ends_with(" 0 dropped"), "{last}");
    for line in events.lines() {
        let json: serde_json::Value =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(json["event"].is_string());
    }
    Ok(())
}

fn reader_gone() -> Result<()> {
    let mut child = Command::new(program("agentcg")?)
        .arg("process")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("no pipe")?);
    let make_noise = || Command::new("/bin/true").status();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        out.read_line(&mut line).map(|_| line)
    });
    eventually("its end", || {
        make_noise()?;
        Ok(child.try_wait()?.is_some())
    })?;
    ensure!(child.wait()?.success());
    let line = reader.join().map_err(|_| anyhow::anyhow!("reader"))??;
    serde_json::from_str::<serde_json::Value>(&line)?;
    Ok(())
}

fn scheduler() -> Result<()> {
    let mut run = Running::start("agentcg", &["scheduler", "-i", "1", "-s", "4000"])?;
    run.wait_for("cgroup\n")?;
    ensure!(sched_ext_state()? == "enabled");
    ensure!(run.stop(libc::SIGTERM)? < Duration::from_secs(5));
    ensure!(sched_ext_state()? == "disabled");
    Ok(())
}

fn no_scheduler() -> Result<()> {
    refused(&agentcg(&["scheduler"])?, "CONFIG_SCHED_CLASS_EXT")
}

fn root() -> Result<PathBuf> {
    Ok(mount_point()?.join("agentcg"))
}

fn daemon() -> Result<()> {
    let before = Cgroup::open(mount_point()?)?.read("cgroup.subtree_control")?;
    let mut run = Running::start("agentcgroupd", &[])?;
    run.wait_for("ready")?;
    for part in ["scheduler: on", "memory protection: on", "process events: on"] {
        ensure!(run.says(part)?, "{}", run.text()?);
    }
    ensure!(sched_ext_state()? == "enabled");
    let weight = |name: &str| {
        Cgroup::open(root()?.join(name)).and_then(|c| c.cpu_weight()).map_err(anyhow::Error::from)
    };
    ensure!((weight("session_high")?, weight("session_low")?) == (150, 50));
    ensure!(run.stop(libc::SIGTERM)? < Duration::from_secs(10));
    ensure!(sched_ext_state()? == "disabled" && !root()?.exists());
    ensure!(Cgroup::open(mount_point()?)?.read("cgroup.subtree_control")? == before);
    Ok(())
}

fn degraded() -> Result<()> {
    let mut run = Running::start("agentcgroupd", &[])?;
    run.wait_for("ready")?;
    ensure!(run.says("scheduler: off: this kernel has no sched_ext")?, "{}", run.text()?);
    ensure!(run.says("memory protection: on")? && run.says("process events: on")?);
    run.stop(libc::SIGINT)?;
    ensure!(!root()?.exists());
    Ok(())
}

/// A copy of /bin/sleep under another name, so that nothing else on the machine has it.
fn sleeper(name: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(name);
    std::fs::copy("/bin/sleep", &path)?;
    Ok(path)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(path: &Path) -> Result<Killed> {
    Ok(Killed(Command::new(path).arg("1000").spawn()?))
}

fn rules() -> Result<()> {
    let (high, low) = (sleeper("acgfast3.11")?, sleeper("acgslow")?);
    let config = std::env::temp_dir().join("agentcg-test.toml");
    std::fs::write(&config, "[[rule]]\ncommand = \"acgslow\"\nsession = \"session_low\"\n")?;
    let config = config.display().to_string();
    let args = ["--no-scheduler", "--no-memcg", "--commands", "acgfast", "--config", &config];
    let mut run = Running::start("agentcgroupd", &args)?;
    run.wait_for("ready")?;
    let home = path_of(std::process::id() as i32)?;
    let (fast, slow, other) = (start(&high)?, start(&low)?, Worker::start("sleep")?);
    let is_in =
        |child: &Killed, name: &str| Ok(path_of(child.0.id() as i32)? == root()?.join(name));
    eventually("the default goes to session_high", || is_in(&fast, "session_high"))?;
    eventually("the rule goes to session_low", || is_in(&slow, "session_low"))?;
    ensure!(path_of(other.pid())? == home, "a stranger was moved");
    run.stop(libc::SIGTERM)?;
    // Both live on, where they came from.
    ensure!(path_of(fast.0.id() as i32)? == home && path_of(slow.0.id() as i32)? == home);
    ensure!(!root()?.exists());
    Ok(())
}

fn killed() -> Result<()> {
    let before = Cgroup::open(mount_point()?)?.read("cgroup.subtree_control")?;
    let program = sleeper("acgkilled")?;
    let args = ["--no-scheduler", "--no-memcg", "--commands", "acgkilled"];
    let mut run = Running::start("agentcgroupd", &args)?;
    run.wait_for("ready")?;
    let child = start(&program)?;
    let inside = || Ok(path_of(child.0.id() as i32)? == root()?.join("session_high"));
    eventually("it is moved", inside)?;
    run.stop(libc::SIGKILL)?;
    ensure!(inside()?);
    let mut run = Running::start("agentcgroupd", &args)?;
    run.wait_for("ready")?;
    ensure!(run.says("what a killed process left")?, "{}", run.text()?);
    ensure!(path_of(child.0.id() as i32)? == mount_point()?);
    run.stop(libc::SIGTERM)?;
    ensure!(!root()?.exists());
    ensure!(Cgroup::open(mount_point()?)?.read("cgroup.subtree_control")? == before);
    Ok(())
}

fn bad_config() -> Result<()> {
    let config = std::env::temp_dir().join("agentcg-bad.toml");
    std::fs::write(&config, "[[rule]]\ncommand = \"x\"\nsession = \"nowhere\"\n")?;
    let config = config.display().to_string();
    for (args, word) in [
        (&["--config", &config][..], "nowhere"),
        (&["--config", "/none/such"], "/none/such"),
        (&["/etc/agentcg"], "not a cgroup"),
        (&["--frob"], "--frob"),
    ] {
        let out = Command::new(program("agentcgroupd")?).args(args).output()?;
        refused(&out, word).with_context(|| format!("agentcgroupd {args:?}"))?;
        ensure!(!root()?.exists());
    }
    Ok(())
}
