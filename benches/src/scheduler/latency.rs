//! How soon who wakes runs, and what passing messages costs.

use std::time::Duration;

use agentcg_core::{Cgroup, Priority};
use anyhow::{Result, ensure};

use super::Case;
use super::load::{self, Group, Job};

pub(super) const CASES: [Case; 7] = [
    Case {
        name: "wake-ups, high beside 16 burners in low",
        bar: "p99 <= 0.5 of EEVDF's",
        noisy: true,
        run: |p, _| beside(p, Its::Session(Priority::High), Priority::Low, Job::Burn, 4, 4),
        text: late,
    },
    Case {
        name: "wake-ups, high beside fork storms in low",
        bar: "p99 <= 0.5 of EEVDF's",
        noisy: true,
        run: |p, _| beside(p, Its::Session(Priority::High), Priority::Low, Job::Forks, 4, 1),
        text: late,
    },
    Case {
        name: "wake-ups, SCHED_FIFO beside the 16 burners",
        bar: "what the machine adds",
        noisy: true,
        run: |p, _| beside(p, Its::Realtime, Priority::Low, Job::Burn, 4, 4),
        text: late,
    },
    Case {
        name: "wake-ups, SCHED_FIFO beside the fork storms",
        bar: "what the machine adds",
        noisy: true,
        run: |p, _| beside(p, Its::Realtime, Priority::Low, Job::Forks, 4, 1),
        text: late,
    },
    Case {
        name: "wake-ups, normal beside 100 burners in normal",
        bar: "",
        noisy: true,
        run: |p, _| beside(p, Its::Session(Priority::Normal), Priority::Normal, Job::Burn, 1, 100),
        text: late,
    },
    Case {
        name: "messages, pipe of two",
        bar: ">= 0.95 of EEVDF's",
        noisy: true,
        run: |p, _| rate(p, Job::Pipe),
        text: |f| format!("{:.0}/s", f[0]),
    },
    Case {
        name: "messages, 10 to 10",
        bar: ">= 0.95 of EEVDF's",
        noisy: true,
        run: |p, _| rate(p, Job::Messages),
        text: |f| format!("{:.0}/s", f[0]),
    },
];

/// Where the periodic task stands.
#[derive(Clone, Copy)]
enum Its {
    Session(Priority),
    /// No scheduler of normal tasks delays it: its delays are those of the kernel and the machine.
    Realtime,
}

/// The delays of a periodic task beside so many groups.
fn beside(
    place: &Cgroup,
    its: Its,
    theirs: Priority,
    job: Job,
    groups: usize,
    each: usize,
) -> Result<Vec<f64>> {
    let mut others = Vec::new();
    for i in 0..groups {
        others.push(Group::new(place, &format!("other{i}"), theirs.cpu_weight(), job, each)?);
    }
    let weight = match its {
        Its::Session(priority) => priority.cpu_weight(),
        Its::Realtime => Priority::Normal.cpu_weight(),
    };
    let mut group = Group::new(place, "periodic", weight, Job::Periodic, 1)?;
    if matches!(its, Its::Realtime) {
        group.pids()?.into_iter().try_for_each(realtime)?;
    }
    for other in &mut others {
        other.go()?;
    }
    std::thread::sleep(Duration::from_millis(500));
    group.go()?;
    let numbers = group.numbers()?;
    load::kill(&others);
    let sorted = |which: usize| {
        let mut all: Vec<u64> = numbers.iter().skip(which).step_by(2).copied().collect();
        all.sort_unstable();
        all
    };
    let (late, wait) = (sorted(0), sorted(1));
    let at = |all: &[u64], part: f64| all[((all.len() - 1) as f64 * part) as usize] as f64 / 1e6;
    Ok(vec![at(&late, 0.5), at(&late, 0.99), at(&wait, 0.99)])
}

fn late(ms: &[f64]) -> String {
    format!("p50 {:.2} p99 {:.2} wait {:.2} ms", ms[0], ms[1], ms[2])
}

fn realtime(pid: i32) -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the struct.
    let failed = unsafe { libc::sched_setscheduler(pid, libc::SCHED_FIFO, &param) } != 0;
    ensure!(!failed, "SCHED_FIFO: {}", std::io::Error::last_os_error());
    Ok(())
}

fn rate(place: &Cgroup, job: Job) -> Result<Vec<f64>> {
    let mut group = Group::new(place, "messages", 100, job, 1)?;
    group.go()?;
    let sum: u64 = group.numbers()?.iter().sum();
    Ok(vec![sum as f64 / load::LENGTH.as_secs_f64()])
}
