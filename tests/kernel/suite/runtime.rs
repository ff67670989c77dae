//! Runtime and sessions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agentcg_core::{
    Cgroup, ErrorKind, EventFilter, Limit, LimitFile, MemcgConfig, Priority, Runtime,
    SchedulerConfig, SessionConfig, mount_point, path_of,
};
use anyhow::{Result, ensure};

use crate::support::{Need, Test, TestCgroup, Worker, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];
const LIMITS: &[Need] = &[Need::Root, Need::Cgroup2, Need::Controllers];
const ALL: &[Need] =
    &[Need::Root, Need::Cgroup2, Need::Controllers, Need::Psi, Need::Events, Need::SchedExt];

pub fn tests() -> Vec<Test> {
    vec![
        Test {
            name: "runtime::everything_it_made_is_gone_after",
            needs: HERE,
            run: leaves_nothing,
        },
        Test { name: "runtime::sessions_have_priority_and_limits", needs: LIMITS, run: limits },
        Test { name: "runtime::bad_input_leaves_nothing", needs: HERE, run: bad_input },
        Test { name: "runtime::a_second_on_the_same_root_is_refused", needs: HERE, run: second },
        Test { name: "runtime::moved_processes_go_home", needs: HERE, run: moved },
        Test {
            name: "runtime::foreign_cgroups_in_the_root_are_left_alone",
            needs: HERE,
            run: foreign,
        },
        Test { name: "runtime::all_its_bpf_programs_load", needs: ALL, run: all_load },
        Test { name: "runtime::kill_9_is_cleaned_up_by_the_next", needs: HERE, run: killed },
    ]
}

/// All cgroups and what each hands to its children.
fn snapshot() -> Result<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    Cgroup::open(mount_point()?)?.walk(&mut |c| {
        all.insert(c.path().to_path_buf(), c.read("cgroup.subtree_control")?);
        Ok(())
    })?;
    Ok(all)
}

fn root() -> Result<PathBuf> {
    Ok(mount_point()?.join(format!("agentcg-test-{}", std::process::id())))
}

fn runtime() -> Result<Runtime> {
    Ok(Runtime::builder().root(root()?).build()?)
}

/// Each kernel's verifier has limits, and bugs, of its own.
fn all_load() -> Result<()> {
    let runtime = runtime()?;
    let session = runtime.session("a", SessionConfig::default())?;
    let scheduler = runtime.start_scheduler(SchedulerConfig::default())?;
    let mut config = MemcgConfig::default();
    config.high = vec![session.path().into()];
    config.threshold = 1000;
    let protection = runtime.attach_memcg_ops(config)?;
    ensure!(protection.stats().sees_reclaim);
    let stream = runtime.subscribe(EventFilter::default())?;
    ensure!(scheduler.exited().is_none());
    drop(stream);
    Ok(())
}

fn leaves_nothing() -> Result<()> {
    let before = snapshot()?;
    let runtime = runtime()?;
    let session = runtime.session("a", SessionConfig::default())?;
    ensure!(session.path() == root()?.join("a"));
    // The session keeps what it needs, in whatever order they are dropped.
    drop(runtime);
    ensure!(session.path().exists());
    drop(session);
    ensure!(snapshot()? == before);
    Ok(())
}

fn limits() -> Result<()> {
    let runtime = runtime()?;
    let mut config = SessionConfig::default();
    config.priority = Priority::Low;
    config.limits.memory_max = Some("64M".parse()?);
    config.limits.pids_max = Some(Limit::Value(9));
    config.limits.cpu_max = Some(0.5);
    let low = runtime.session("low", config)?;
    let mut config = SessionConfig::default();
    config.priority = Priority::High;
    let high = runtime.session("high", config)?;
    ensure!((high.cgroup().cpu_weight()?, low.cgroup().cpu_weight()?) == (150, 50));
    ensure!(low.cgroup().limit(LimitFile::MemoryMax)? == Limit::Value(64 << 20));
    ensure!(low.cgroup().limit(LimitFile::PidsMax)? == Limit::Value(9));
    ensure!(low.cgroup().read("cpu.max")? == "50000 100000\n");
    ensure!(high.usage()?.memory_peak_bytes == Some(0));
    Ok(())
}

fn bad_input() -> Result<()> {
    let before = snapshot()?;
    let runtime = runtime()?;
    for name in ["", "..", "a/b", "memory.max", "a\nb"] {
        ensure!(
            kind_of(runtime.session(name, SessionConfig::default()))? == ErrorKind::InvalidInput
        );
    }
    let mut config = SessionConfig::default();
    config.limits.cpu_weight = Some(0);
    ensure!(kind_of(runtime.session("a", config))? == ErrorKind::InvalidInput);
    let _one = runtime.session("one", SessionConfig::default())?;
    ensure!(kind_of(runtime.session("one", SessionConfig::default()))? == ErrorKind::AlreadyExists);
    ensure!(kind_of(Runtime::builder().root("/etc/agentcg").build())? == ErrorKind::InvalidInput);
    ensure!(kind_of(Runtime::builder().root("/").build())? == ErrorKind::InvalidInput);
    drop((_one, runtime));
    ensure!(snapshot()? == before);
    Ok(())
}

fn second() -> Result<()> {
    let first = runtime()?;
    let e = runtime().unwrap_err();
    let e = e.downcast::<agentcg_core::Error>()?;
    ensure!(e.kind() == ErrorKind::Busy, "{e}");
    ensure!(first.root().path().exists(), "the refused one must not clean up");
    Ok(())
}

fn moved() -> Result<()> {
    let place = TestCgroup::new()?;
    let home = place.child("home")?;
    let worker = Worker::start_in(&home, "sleep")?;
    let runtime = runtime()?;
    let session = runtime.session("a", SessionConfig::default())?;
    runtime.move_pid(worker.pid(), &session)?;
    ensure!(path_of(worker.pid())? == session.path());
    drop(session);
    ensure!(path_of(worker.pid())? == home.path());
    // Without a home any more, the runtime's parent takes it.
    let session = runtime.session("b", SessionConfig::default())?;
    runtime.move_pid(worker.pid(), &session)?;
    home.remove()?;
    drop(session);
    ensure!(path_of(worker.pid())? == mount_point()?);
    ensure!(
        kind_of(runtime.session("c", SessionConfig::default())?.move_pid(i32::MAX))?
            == ErrorKind::NotFound
    );
    Ok(())
}

fn foreign() -> Result<()> {
    let place = TestCgroup::new()?;
    let theirs = place.child("theirs")?;
    let worker = Worker::start_in(&theirs, "sleep")?;
    let runtime = Runtime::builder().root(place.path()).build()?;
    ensure!(path_of(worker.pid())? == theirs.path());
    drop(runtime);
    ensure!(theirs.path().exists() && place.path().exists());
    Ok(())
}

fn killed() -> Result<()> {
    let before = snapshot()?;
    let root = root()?;
    let holder = Worker::start(&format!("runtime:{}", root.display()))?;
    ensure!(root.join("held").exists());
    holder.kill_9()?;
    let left = Cgroup::open(root.join("held"))?.procs()?;
    ensure!(left.len() == 1, "its process should have survived: {left:?}");
    let runtime = runtime()?;
    ensure!(!root.join("held").exists());
    ensure!(path_of(left[0])? == mount_point()?);
    // SAFETY: a signal to the process that was left behind.
    unsafe { libc::kill(left[0], libc::SIGKILL) };
    drop(runtime);
    ensure!(snapshot()? == before);
    Ok(())
}
