//! Memory protection.

use std::time::Duration;

use agentcg_core::{
    Cgroup, ErrorKind, Limit, LimitFile, MemcgConfig, MemoryBackend, MemoryProtection,
};
use anyhow::{Result, ensure};

use crate::support::{Need, Test, TestCgroup, Worker, eventually, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Swap];
const FILES: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "memory::a_stall_opens_a_window_that_ends", needs: HERE, run: window },
        Test { name: "memory::kill_9_in_a_window_is_put_right", needs: HERE, run: killed },
        Test { name: "memory::without_pain_nothing_is_touched", needs: FILES, run: quiet },
        Test { name: "memory::misuse_is_refused", needs: FILES, run: misuse },
        Test { name: "memory::memcg_bpf_ops_is_unsupported_by_name", needs: FILES, run: bpf_ops },
    ]
}

/// Two groups that together need more than their parent may have, so that both swap.
struct Tight {
    // The workers go before the cgroups they live in.
    workers: Vec<Worker>,
    high: Cgroup,
    low: Cgroup,
    place: TestCgroup,
}

impl Tight {
    fn new() -> Result<Self> {
        let place = TestCgroup::new()?;
        place.cgroup().set_limit(LimitFile::MemoryMax, Limit::Value(96 << 20))?;
        let (high, low) = (place.child("high")?, place.child("low")?);
        Ok(Self { workers: Vec::new(), high, low, place })
    }

    fn squeeze(&mut self) -> Result<()> {
        for group in [&self.high, &self.low] {
            let mut worker = Worker::start_in(group, &format!("loop_over:{}", 72 << 20))?;
            worker.go()?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn config(&self) -> MemcgConfig {
        let mut config = MemcgConfig::default();
        config.high = vec![self.high.path().into()];
        config.low = vec![self.low.path().into()];
        config
    }

    /// What protection may change: (high's memory.low, low's memory.high, the parent's memory.low).
    fn values(&self) -> Result<(Limit, Limit, Limit)> {
        Ok((
            self.high.limit(LimitFile::MemoryLow)?,
            self.low.limit(LimitFile::MemoryHigh)?,
            self.place.cgroup().limit(LimitFile::MemoryLow)?,
        ))
    }
}

fn window() -> Result<()> {
    let mut tight = Tight::new()?;
    // A value that an administrator set comes back, and not just the default.
    tight.low.set_limit(LimitFile::MemoryHigh, Limit::Value(1 << 30))?;
    let before = tight.values()?;
    let protection = MemoryProtection::attach(tight.config())?;
    ensure!(protection.backend() == MemoryBackend::Cgroup);
    tight.squeeze()?;
    eventually("a window opens", || Ok(protection.stats().active))?;
    eventually("the high one is protected and the low one held", || {
        let (low, high, parent) = tight.values()?;
        Ok(low.value() > Some(0) && high.value() < Some(1 << 30) && parent.value() > Some(0))
    })?;
    tight.workers.clear();
    eventually("the window ends", || Ok(!protection.stats().active))?;
    ensure!(tight.values()? == before);
    let stats = protection.stats();
    ensure!(stats.windows >= 1 && stats.stalls >= 1 && stats.protected_ms >= 1000, "{stats:?}");
    ensure!(stats.recent[0].because_of == tight.high.path());
    Ok(())
}

fn killed() -> Result<()> {
    let mut tight = Tight::new()?;
    let before = tight.values()?;
    let job = format!("protect:{},{}", tight.high.path().display(), tight.low.path().display());
    let holder = Worker::start(&job)?;
    tight.squeeze()?;
    eventually("a window opens", || Ok(tight.values()? != before))?;
    // Another one meanwhile is told so, and changes nothing.
    ensure!(kind_of(MemoryProtection::attach(tight.config()))? == ErrorKind::Busy);
    holder.kill_9()?;
    ensure!(tight.values()? != before, "nobody can have put it back");
    tight.workers.clear();
    drop(MemoryProtection::attach(tight.config())?);
    ensure!(tight.values()? == before);
    Ok(())
}

fn quiet() -> Result<()> {
    let tight = Tight::new()?;
    let before = tight.values()?;
    let protection = MemoryProtection::attach(tight.config())?;
    let mut worker = Worker::start_in(&tight.low, &format!("loop_over:{}", 32 << 20))?;
    worker.go()?;
    std::thread::sleep(Duration::from_millis(700));
    ensure!(tight.values()? == before && protection.stats().stalls == 0);
    drop(worker);
    Ok(())
}

fn misuse() -> Result<()> {
    let tight = Tight::new()?;
    let refused = |change: &dyn Fn(&mut MemcgConfig)| {
        let mut config = tight.config();
        change(&mut config);
        kind_of(MemoryProtection::attach(config))
    };
    let plain = tight.high.create_child(&"plain".parse()?)?;
    ensure!(refused(&|c| c.high.clear())? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.low = c.high.clone())? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.high = vec!["/proc".into()])? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.low = vec!["/sys/fs/cgroup/none".into()])? == ErrorKind::NotFound);
    ensure!(refused(&|c| c.high = vec![plain.path().into()])? == ErrorKind::Unsupported);
    ensure!(refused(&|c| c.window = Duration::ZERO)? == ErrorKind::InvalidInput);
    ensure!(refused(&|c| c.delay = Duration::from_secs(3))? == ErrorKind::InvalidInput);
    Ok(())
}

fn bpf_ops() -> Result<()> {
    let tight = Tight::new()?;
    let mut config = tight.config();
    config.backend = MemoryBackend::MemcgBpfOps;
    let e = MemoryProtection::attach(config).unwrap_err();
    ensure!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("memcg_bpf_ops"), "{e}");
    Ok(())
}
