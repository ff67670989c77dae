//! The cgroup layer.

use std::time::Duration;

use agentcg_core::{Cgroup, CpuMax, ErrorKind, Limit, LimitFile};
use anyhow::{Result, ensure};

use crate::support::{Need, Test, TestCgroup, Worker, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "cgroup::limits_are_read_as_written", needs: LIMITS, run: limits },
        Test {
            name: "cgroup::a_refused_value_is_named_and_changes_nothing",
            needs: LIMITS,
            run: refused,
        },
        Test { name: "cgroup::what_is_no_cgroup_is_refused", needs: HERE, run: no_cgroup },
        Test { name: "cgroup::a_vanished_cgroup_is_not_found", needs: HERE, run: vanished },
        Test { name: "cgroup::kill_is_noticed", needs: HERE, run: kill },
        Test { name: "cgroup::freeze_is_noticed", needs: HERE, run: freeze },
        Test { name: "cgroup::a_populated_one_is_not_removed", needs: HERE, run: populated },
        Test {
            name: "cgroup::a_file_without_its_controller_says_so",
            needs: HERE,
            run: no_controller,
        },
        Test { name: "cgroup::internal_processes_are_explained", needs: LIMITS, run: internal },
        Test { name: "cgroup::walk_sees_parents_first", needs: HERE, run: walk },
    ]
}

fn limits() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    for file in [LimitFile::MemoryLow, LimitFile::MemoryHigh, LimitFile::MemoryMax] {
        c.set_limit(file, Limit::Value(64 << 20))?;
        ensure!(c.limit(file)? == Limit::Value(64 << 20));
        c.set_limit(file, Limit::Max)?;
        ensure!(c.limit(file)? == Limit::Max);
    }
    c.set_limit(LimitFile::PidsMax, Limit::Value(7))?;
    ensure!(c.limit(LimitFile::PidsMax)? == Limit::Value(7));
    c.set_cpu_weight(300)?;
    ensure!(c.cpu_weight()? == 300);
    c.set_cpu_max(CpuMax::from_cores(1.5)?)?;
    ensure!(c.read("cpu.max")? == "150000 100000\n");
    ensure!(c.memory_events()?.oom_kill == 0);
    ensure!(c.cpu_stat()?.throttled_usec.is_some());
    Ok(())
}

fn refused() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    ensure!(kind_of(c.set_cpu_weight(0))? == ErrorKind::InvalidInput);
    let e = c.write("memory.max", "lots").unwrap_err();
    ensure!(e.to_string().contains("lots") && e.to_string().contains("memory.max"), "{e}");
    ensure!(e.errno() == Some(libc::EINVAL));
    ensure!(c.limit(LimitFile::MemoryMax)? == Limit::Max);
    ensure!(kind_of(c.move_pid(0))? == ErrorKind::InvalidInput);
    ensure!(kind_of(c.move_pid(i32::MAX))? == ErrorKind::NotFound);
    Ok(())
}

fn no_cgroup() -> Result<()> {
    ensure!(kind_of(Cgroup::open("/proc"))? == ErrorKind::InvalidInput);
    ensure!(kind_of(Cgroup::open("/etc/passwd"))? == ErrorKind::InvalidInput);
    ensure!(kind_of(Cgroup::open("/sys/fs/cgroup/none/such"))? == ErrorKind::NotFound);
    Ok(())
}

fn vanished() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    let again = top.cgroup().child(&"a".parse()?)?;
    c.remove()?;
    c.remove()?;
    ensure!(kind_of(again.procs())? == ErrorKind::NotFound);
    // One of the same name is another one.
    let _new = top.child("a")?;
    ensure!(kind_of(again.procs())? == ErrorKind::NotFound);
    Ok(())
}

fn kill() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    ensure!(!c.events()?.populated);
    let worker = Worker::start_in(&c, "sleep")?;
    ensure!(c.wait_populated(true, Duration::from_secs(5))?);
    ensure!(c.procs()? == [worker.pid()]);
    ensure!(!c.wait_populated(false, Duration::from_millis(50))?, "nobody has killed it yet");
    c.kill()?;
    ensure!(c.wait_populated(false, Duration::from_secs(5))?);
    drop(worker);
    c.remove()?;
    Ok(())
}

fn freeze() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    let mut worker = Worker::start_in(&c, "burn")?;
    worker.go()?;
    c.freeze(true)?;
    ensure!(c.wait_frozen(true, Duration::from_secs(5))?);
    let before = c.cpu_stat()?.usage_usec;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(c.cpu_stat()?.usage_usec == before, "it runs although frozen");
    c.freeze(false)?;
    ensure!(c.wait_frozen(false, Duration::from_secs(5))?);
    Ok(())
}

fn populated() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    let worker = Worker::start_in(&c, "sleep")?;
    ensure!(kind_of(c.remove())? == ErrorKind::Busy);
    ensure!(kind_of(top.cgroup().remove())? == ErrorKind::Busy);
    ensure!(c.procs()? == [worker.pid()]);
    Ok(())
}

fn no_controller() -> Result<()> {
    let top = TestCgroup::new()?;
    // Nobody handed anything on to the children of this one.
    let inner = top.child("a")?.create_child(&"b".parse()?)?;
    let e = inner.read("memory.max").unwrap_err();
    ensure!(e.kind() == ErrorKind::NotFound);
    ensure!(e.help().is_some_and(|h| h.contains("memory controller")), "{e}");
    Ok(())
}

fn internal() -> Result<()> {
    let top = TestCgroup::new()?;
    let c = top.child("a")?;
    let _worker = Worker::start_in(&c, "sleep")?;
    let e = c.enable(&[agentcg_core::Controller::Memory]).unwrap_err();
    ensure!(e.kind() == ErrorKind::Busy && e.help().is_some(), "{e}");
    Ok(())
}

fn walk() -> Result<()> {
    let top = TestCgroup::new()?;
    top.child("b")?;
    top.child("a")?.create_child(&"c".parse()?)?;
    let mut seen = Vec::new();
    top.cgroup().walk(&mut |c| {
        seen.push(
            c.path().strip_prefix(top.path()).map(|p| p.display().to_string()).unwrap_or_default(),
        );
        Ok(())
    })?;
    ensure!(seen == ["", "a", "a/c", "b"], "{seen:?}");
    Ok(())
}
