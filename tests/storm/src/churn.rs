//! Everything that may change under a scheduler, at random: cgroups come and go, processes move
//! between them, weights, limits and affinities change, a CPU is taken away and comes back.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use agentcg_core::{Cgroup, CpuMax};
use anyhow::{Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

const CPU1: &str = "/sys/devices/system/cpu/cpu1/online";

/// What is changed, and for how long.
#[derive(Debug)]
pub struct Churn<'a> {
    /// Where cgroups come and go.
    pub place: &'a Cgroup,
    /// What moves between them.
    pub pids: &'a [i32],
    /// Where it is afterwards.
    pub home: &'a Cgroup,
    /// For how long.
    pub time: Duration,
}

impl Churn<'_> {
    /// `more` does whatever else may be done to a cgroup, `check` ends it with its error. Gives the
    /// number of changes. However it ends, the CPU is back and the cgroups are gone.
    ///
    /// # Errors
    /// What `check` says, warnings in the kernel's log, or that something could not be changed.
    pub fn run(
        &self,
        more: impl FnMut(&Cgroup) -> Result<()>,
        check: impl FnMut() -> Result<()>,
    ) -> Result<u32> {
        let mut log = KernelLog::from_now()?;
        let mut groups = Vec::new();
        let steps = self.change(&mut groups, more, check);
        std::fs::write(CPU1, "1")?;
        for group in groups {
            empty(&group, self.home)?;
            group.remove()?;
        }
        let (steps, warnings) = (steps?, log.warnings());
        ensure!(warnings.is_empty(), "after {steps} steps: {warnings:?}");
        Ok(steps)
    }

    fn change(
        &self,
        groups: &mut Vec<Cgroup>,
        mut more: impl FnMut(&Cgroup) -> Result<()>,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<u32> {
        let mut random = Random(1);
        let (mut made, mut steps) = (0, 0);
        let end = Instant::now() + self.time;
        while Instant::now() < end {
            steps += 1;
            if groups.len() < 3 || random.below(10) == 0 {
                made += 1;
                groups.push(self.place.create_child(&format!("churn{made}").parse()?)?);
            }
            let at = random.below(groups.len());
            let pid = self.pids[random.below(self.pids.len())];
            match random.below(8) {
                0 => {
                    let group = groups.swap_remove(at);
                    empty(&group, &groups[0])?;
                    group.remove()?;
                }
                1 => groups[at].set_cpu_weight(1 + random.below(10_000) as u32)?,
                2 => {
                    let cores = 0.02 + random.below(100) as f64 / 100.0;
                    groups[at].set_cpu_max(CpuMax::from_cores(cores)?)?;
                }
                3 => groups[at].set_cpu_max(CpuMax { quota: None, period: CpuMax::PERIOD })?,
                // The CPU may be away.
                4 => pin(pid, random.below(2))
                    .or_else(|e| if online()? { Err(e) } else { Ok(()) })?,
                5 if steps % 16 == 0 => std::fs::write(CPU1, ["0", "1"][random.below(2)])?,
                6 => more(&groups[at])?,
                _ => groups[at].move_pid(pid)?,
            }
            check()?;
            std::thread::sleep(Duration::from_millis(random.below(10) as u64));
        }
        Ok(steps)
    }
}

fn empty(group: &Cgroup, to: &Cgroup) -> Result<()> {
    for pid in group.procs()? {
        to.move_pid(pid)?;
    }
    Ok(())
}

fn online() -> Result<bool> {
    Ok(std::fs::read_to_string(CPU1)?.trim() == "1")
}

/// Binds a process, or with 0 the calling thread, to one CPU.
///
/// # Errors
/// What the kernel says: no such process, or the CPU is away.
pub fn pin(pid: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(Pid::from_raw(pid), &set)?)
}

/// A simple generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// What the kernel logs from now on.
struct KernelLog(File);

impl KernelLog {
    fn from_now() -> Result<Self> {
        let mut options = File::options();
        let mut log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    fn warnings(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut line = [0; 8192];
        while let Ok(n) = self.0.read(&mut line) {
            let text = String::from_utf8_lossy(&line[..n]).into_owned();
            if ["WARNING:", "BUG:", "Oops", "stall", "error"].iter().any(|w| text.contains(w)) {
                found.push(text);
            }
        }
        found
    }
}
