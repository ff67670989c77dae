//! Two groups with weights 100 and 300: the ratio of what they get should be 3.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentcg_core::{Cgroup, Controller, Scheduler, SchedulerConfig, mount_point};
use anyhow::{Context, Result};

/// Burners, and a cgroup, that are gone afterwards.
struct Group {
    cgroup: Cgroup,
    burners: Vec<Child>,
}

impl Group {
    fn new(parent: &Cgroup, name: &str, weight: u32, burners: usize) -> Result<Self> {
        let cgroup = parent.create_child(&name.parse()?)?;
        cgroup.set_cpu_weight(weight)?;
        let mut group = Self { cgroup, burners: Vec::new() };
        for _ in 0..burners {
            let mut child = Command::new(std::env::current_exe()?)
                .arg("burn")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            // It says when its own start is over; from then on it waits.
            child.stdout.as_mut().context("no pipe")?.read_exact(&mut [0])?;
            group.cgroup.move_pid(child.id() as i32)?;
            group.burners.push(child);
        }
        Ok(group)
    }

    fn go(&mut self) {
        // The end of its input is what each waits for.
        self.burners.iter_mut().for_each(|b| drop(b.stdin.take()));
    }

    fn used(&self) -> Result<f64> {
        Ok(self.cgroup.cpu_stat()?.usage_usec as f64)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for burner in &mut self.burners {
            let _ = burner.kill();
            let _ = burner.wait();
        }
        let _ = self.cgroup.remove();
    }
}

/// What a burner does. No PAUSE instruction: an emulator takes it as a hint to do something else.
pub fn burn() -> ! {
    let _ = std::io::stdout().write_all(b"r").and_then(|()| std::io::stdout().flush());
    let _ = std::io::stdin().read(&mut [0]);
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

pub fn run(seconds: u64) -> Result<()> {
    let top = Cgroup::open(mount_point()?)?;
    top.enable(&[Controller::Cpu])?;
    let place = top.create_child(&"agentcg-bench".parse()?)?;
    place.enable(&[Controller::Cpu])?;
    println!("cpu.weight 100 : 300, {seconds} s each; wanted 3.00, and all of the CPU used");
    println!("{:<10} {:>8} {:>8} {:>10}", "burners", "ratio", "CPU", "scheduler");
    for burners in [1, 2, 4] {
        for ours in [false, true] {
            let scheduler =
                ours.then(|| Scheduler::attach(&SchedulerConfig::default(), None)).transpose()?;
            let (ratio, cpu) = measure(&place, burners, seconds)?;
            let name = if ours { "agentcg" } else { "EEVDF" };
            println!(
                "{:<10} {ratio:>8.2} {:>7.1}% {name:>10}",
                format!("{burners} + {burners}"),
                cpu * 100.0
            );
            if let Some(exit) = scheduler.and_then(|s| s.exited()) {
                anyhow::bail!("the kernel detached the scheduler: {exit}");
            }
        }
    }
    place.remove()?;
    Ok(())
}

/// The ratio, and the part of all CPUs that was used.
fn measure(place: &Cgroup, burners: usize, seconds: u64) -> Result<(f64, f64)> {
    let mut light = Group::new(place, "light", 100, burners)?;
    let mut heavy = Group::new(place, "heavy", 300, burners)?;
    light.go();
    heavy.go();
    std::thread::sleep(Duration::from_millis(500));
    let (at, a, b) = (Instant::now(), light.used()?, heavy.used()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (elapsed, a, b) = (at.elapsed(), light.used()? - a, heavy.used()? - b);
    let cpus = std::thread::available_parallelism()?.get() as f64;
    Ok((b / a, (a + b) / (elapsed.as_micros() as f64 * cpus)))
}
