//! What the tests share.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentcg_core::{Capabilities, Cgroup, CgroupName, Controller, mount_point};
use anyhow::{Context, Result, bail, ensure};

/// Something that a kernel has, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Root,
    Cgroup2,
    /// cpu, memory and pids controllers, and no cgroup v1 that holds them.
    Controllers,
    Events,
    SchedExt,
    NoSchedExt,
    MemcgOps,
    NoMemcgOps,
    Psi,
    Swap,
    /// Processors that share a core, and several cores.
    Smt,
    /// CPUs that the kernel's command line isolates.
    Isolcpus,
    /// A machine of the kernel lab, which nobody else uses.
    Lab,
}

#[derive(Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub needs: &'static [Need],
    pub run: fn() -> Result<()>,
}

/// What this machine has.
pub struct Machine {
    found: Capabilities,
}

impl Machine {
    pub fn look() -> Self {
        Self { found: Capabilities::probe() }
    }

    /// The needs that are not met, as text; empty when the test can run.
    pub fn missing(&self, needs: &[Need]) -> String {
        let missing: Vec<_> =
            needs.iter().filter(|n| !self.has(**n)).map(|n| format!("needs {n:?}")).collect();
        missing.join(", ")
    }

    fn has(&self, need: Need) -> bool {
        let has = |name| self.found.supports(name);
        match need {
            // SAFETY: geteuid only returns a number.
            Need::Root => unsafe { libc::geteuid() == 0 },
            Need::Cgroup2 => has("cgroup2") && has("cgroup_create"),
            Need::Controllers => {
                ["cpu_controller", "memory_controller", "pids_controller"].iter().all(|c| has(c))
            }
            Need::Events => has("process_events"),
            Need::SchedExt => has("sched_ext"),
            Need::NoSchedExt => !has("sched_ext"),
            Need::MemcgOps => has("memcg_bpf_ops"),
            Need::NoMemcgOps => !has("memcg_bpf_ops"),
            Need::Psi => has("psi"),
            Need::Swap => {
                std::fs::read_to_string("/proc/swaps").is_ok_and(|t| t.lines().count() > 1)
            }
            Need::Smt => std::fs::read_to_string("/sys/devices/system/cpu/smt/active")
                .is_ok_and(|t| t.trim() == "1" && sibling(0).is_ok_and(|s| s != 0)),
            Need::Isolcpus => std::fs::read_to_string("/sys/devices/system/cpu/isolated")
                .is_ok_and(|t| !t.trim().is_empty()),
            Need::Lab => std::env::var_os("AGENTCG_LAB").is_some(),
        }
    }
}

/// A cgroup for one test, with the controllers handed on to its children where there are any. It
/// and all in it are killed and removed at the end.
pub struct TestCgroup(Cgroup);

impl TestCgroup {
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let top = Cgroup::open(mount_point()?)?;
        let wanted: Vec<_> =
            top.controllers()?.into_iter().filter(|c| Controller::USED.contains(c)).collect();
        top.enable(&wanted)?;
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = top.create_child(&CgroupName::new(name)?)?;
        cgroup.enable(&wanted)?;
        Ok(Self(cgroup))
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.0
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn child(&self, name: &str) -> Result<Cgroup> {
        Ok(self.0.create_child(&CgroupName::new(name)?)?)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait_populated(false, Duration::from_secs(10));
        if let Err(e) = self.0.remove_tree() {
            // A leftover of one test must not pass unseen.
            panic!("{e}");
        }
    }
}

/// A child process that is this program in another role; see `worker.rs`. Killed when dropped.
pub struct Worker {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts it and waits for its first line, which says that it is ready.
    pub fn start(job: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(format!("worker={job}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut worker = Self { child, out };
        worker.line().with_context(|| format!("worker {job}"))?;
        Ok(worker)
    }

    /// Starts it inside a cgroup, where it waits for [`go`](Self::go).
    pub fn start_in(cgroup: &Cgroup, job: &str) -> Result<Self> {
        let worker = Self::start(job)?;
        cgroup.move_pid(worker.pid())?;
        Ok(worker)
    }

    pub fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no pipe")?;
        Ok(stdin.write_all(b"go\n")?)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.out.read_line(&mut line)? > 0, "it ended");
        Ok(line.trim_end().to_owned())
    }

    pub fn kill_9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of our programs, built beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let path = me
        .ancestors()
        .skip(1)
        .map(|d| d.join(name))
        .find(|p| p.is_file())
        .with_context(|| format!("{name} is not built; run cargo build"))?;
    Ok(path)
}

pub fn agentcg(args: &[&str]) -> Result<Output> {
    Ok(Command::new(program("agentcg")?).args(args).stdin(Stdio::null()).output()?)
}

/// Tries until it holds; the tests' only loop that waits, for things without a notification.
pub fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds()? {
        if Instant::now() > deadline {
            bail!("not within 20 s: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The other processor of the same core; itself without one.
pub fn sibling(cpu: usize) -> Result<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let list = std::fs::read_to_string(path)?;
    let all: Vec<usize> =
        list.trim().split([',', '-']).map(str::parse).collect::<Result<_, _>>()?;
    Ok(all.into_iter().find(|c| *c != cpu).unwrap_or(cpu))
}

pub fn sched_ext_state() -> Result<String> {
    Ok(std::fs::read_to_string("/sys/kernel/sched_ext/state")?.trim().to_owned())
}

/// The kind of an expected error.
pub fn kind_of<T>(result: agentcg_core::Result<T>) -> Result<agentcg_core::ErrorKind> {
    match result {
        Ok(_) => bail!("succeeded, expected an error"),
        Err(e) => Ok(e.kind()),
    }
}
