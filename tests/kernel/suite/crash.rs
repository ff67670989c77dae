//! What is left of a harness that was killed with -9, and who sees to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentcg_core::{Cgroup, Runtime, SessionConfig, Verdict, mount_point, path_of};
use anyhow::{Context, Result, ensure};

use crate::calls::gone;
use crate::support::{Need, Test, Worker, eventually};

const HERE: &[Need] = &[Need::Root, Need::Cgroup2];

/// What the harness does when it dies; see `worker.rs`.
const MOMENTS: [&str; 4] = ["running", "waiting", "frozen", "queued"];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "crash::what_was_left_is_killed", needs: HERE, run: killed },
        Test { name: "crash::what_was_left_is_moved_out", needs: HERE, run: moved_out },
        Test { name: "crash::the_others_of_a_shared_root_live_on", needs: HERE, run: shared },
        Test {
            name: "crash::orphans_of_a_shared_root_are_moved_out",
            needs: HERE,
            run: shared_keep,
        },
    ]
}

fn root() -> Result<PathBuf> {
    Ok(mount_point()?.join(format!("agentcg-crash-{}", std::process::id())))
}

/// The processes of all calls below a root.
fn members(root: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    Cgroup::open(root)?.walk(&mut |c| {
        pids.extend(c.procs()?);
        Ok(())
    })?;
    Ok(pids)
}

/// A harness that is killed at this moment; the processes of its calls.
fn crashed(root: &Path, moment: &str, session: &str) -> Result<Vec<i32>> {
    let before = if root.exists() { members(root)? } else { Vec::new() };
    let harness = Worker::start(&format!("harness:{moment},{session},{}", root.display()))?;
    let mut pids = members(root)?;
    pids.retain(|p| !before.contains(p));
    harness.kill_9()?;
    ensure!(!pids.is_empty(), "{moment}: it had no calls");
    ensure!(!pids.iter().any(|p| gone(*p)), "{moment}: they died with their harness: {pids:?}");
    Ok(pids)
}

fn killed() -> Result<()> {
    let root = root()?;
    for moment in MOMENTS {
        let pids = crashed(&root, moment, "own")?;
        let runtime = Runtime::builder().root(&root).build()?;
        ensure!(!root.join("s").exists(), "{moment}: the session is left");
        dead(&pids).context(moment)?;
        // All of it can be used again, under the same names.
        let session = runtime.session("s", SessionConfig::default())?;
        ensure!(session.command("true").name("first").status()?.success());
        drop((session, runtime));
        ensure!(!root.exists(), "{moment}: the root is left");
    }
    Ok(())
}

fn moved_out() -> Result<()> {
    let root = root()?;
    for moment in MOMENTS {
        let pids = crashed(&root, moment, "own")?;
        let runtime = Runtime::builder().root(&root).keep_orphans(true).build()?;
        ensure!(!root.join("s").exists(), "{moment}: the session is left");
        live_at(&pids, &mount_point()?).context(moment)?;
        drop(runtime);
        ensure!(!root.exists(), "{moment}: the root is left");
        end(&pids)?;
    }
    Ok(())
}

/// They live in this cgroup and run: they can be ended by a signal that they have to take.
fn live_at(pids: &[i32], cgroup: &Path) -> Result<()> {
    for pid in pids {
        ensure!(!gone(*pid), "{pid} is gone");
        ensure!(path_of(*pid)? == cgroup, "{pid} is in {}", path_of(*pid)?.display());
    }
    Ok(())
}

/// Ends what was moved out, also what it has started meanwhile.
fn end(pids: &[i32]) -> Result<()> {
    eventually("all that was moved out has ended", || {
        let strays = strays()?;
        for pid in &strays {
            // SAFETY: a signal to a process that a call of ours has left.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        Ok(strays.is_empty())
    })?;
    dead(pids)
}

/// Processes of calls of the session `s`, told by their environment, that are in no session.
fn strays() -> Result<Vec<i32>> {
    let outside = mount_point()?;
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let ours = environment.split(|b| *b == 0).any(|v| v == b"AGENTCG_SESSION=s");
        (ours && !gone(pid) && path_of(pid).is_ok_and(|p| p == outside)).then_some(pid)
    });
    Ok(pids.collect())
}

/// A process leaves its cgroup shortly before it is dead.
fn dead(pids: &[i32]) -> Result<()> {
    eventually("they are gone", || Ok(pids.iter().all(|p| gone(*p))))
}

fn shared() -> Result<()> {
    let root = root()?;
    let ours = Runtime::builder().root(&root).shared(true).build()?;
    let session = ours.session("s", SessionConfig::default())?;
    for moment in MOMENTS {
        if moment == "frozen" {
            // The session, and so our call in it.
            continue;
        }
        let call = session.command("sleep").arg("1000").spawn()?;
        let others = crashed(&root, moment, "shared")?;
        let cgroups =
            || Ok::<_, anyhow::Error>(Cgroup::open(root.join("s/calls"))?.children()?.len());
        ensure!(cgroups()? > 1, "{moment}");
        // Whoever comes next.
        let joined = Runtime::builder().root(&root).shared(true).build()?;
        dead(&others).context(moment)?;
        ensure!(cgroups()? == 1, "{moment}: cgroups are left");
        ensure!(!call.is_finished() && !gone(call.pid().context("pid")?), "{moment}: ours is gone");
        drop(joined);
        ensure!(session.command("true").status()?.success());
        call.kill();
        ensure!(call.wait()?.verdict == Verdict::Cancelled);
    }
    drop((session, ours));
    ensure!(!root.exists());
    Ok(())
}

fn shared_keep() -> Result<()> {
    let root = root()?;
    let ours = Runtime::builder().root(&root).shared(true).build()?;
    let session = ours.session("s", SessionConfig::default())?;
    let call = session.command("sleep").arg("1000").spawn()?;
    let others = crashed(&root, "running", "shared")?;
    let joined = Runtime::builder().root(&root).shared(true).keep_orphans(true).build()?;
    live_at(&others, &mount_point()?)?;
    ensure!(!call.wait_timeout(Duration::ZERO)?);
    end(&others)?;
    drop((joined, call, session, ours));
    ensure!(!root.exists());
    Ok(())
}
