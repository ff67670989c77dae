//! `agentcg doctor` tells the truth.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{Need, Test, agentcg, program};

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "doctor::text_and_json_agree", needs: &[], run: formats },
        Test { name: "doctor::knows_the_kernels_of_the_lab", needs: &[], run: lab_kernels },
        Test {
            name: "doctor::knows_that_it_is_unprivileged",
            needs: &[Need::Root, Need::Cgroup2],
            run: unprivileged,
        },
        Test {
            name: "doctor::leaves_nothing_behind",
            needs: &[Need::Root, Need::Cgroup2],
            run: clean,
        },
    ]
}

fn supported(json: &Value, name: &str) -> Result<bool> {
    let list = json["capabilities"].as_array().context("no list")?;
    let found = list.iter().find(|c| c["name"] == name).with_context(|| format!("no {name}"))?;
    found["supported"].as_bool().context("no bool")
}

fn doctor() -> Result<Value> {
    Ok(serde_json::from_slice(&agentcg(&["doctor", "--json"])?.stdout)?)
}

fn formats() -> Result<()> {
    let json = doctor()?;
    let text = String::from_utf8(agentcg(&["doctor"])?.stdout)?;
    let list = json["capabilities"].as_array().context("no list")?;
    ensure!(list.len() > 15);
    for c in list {
        let name = c["name"].as_str().context("no name")?;
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(name));
        let word = if c["supported"] == true { "yes" } else { "no" };
        let line = line.with_context(|| format!("{name} is not in the text"))?;
        ensure!(line.split_whitespace().nth(1) == Some(word), "{line}");
        // A no says why and how.
        ensure!(c["supported"] == true || (c["detail"] != "" && c["fix"].is_string()), "{c}");
    }
    Ok(())
}

/// What the kernels are known to have: KERNEL to (sched_ext, cpu.max, memcg kfuncs).
fn lab_kernels() -> Result<()> {
    let json = doctor()?;
    let want = match std::env::var("AGENTCG_LAB").as_deref() {
        Ok("7.3" | "memcg") => (true, true, true),
        Ok("6.18") => (true, true, false),
        Ok("6.16") => (true, false, false),
        Ok("6.12") => (false, false, false),
        _ => return Ok(()),
    };
    let have = (
        supported(&json, "sched_ext")?,
        supported(&json, "sched_ext_cpu_max")?,
        supported(&json, "memcg_kfuncs")?,
    );
    ensure!(have == want, "{have:?}, expected {want:?}");
    for name in [
        "cgroup2",
        "cgroup_create",
        "cpu_controller",
        "memory_controller",
        "io_controller",
        "pids_controller",
        "cgroup_kill",
        "cgroup_freeze",
        "memory_peak",
        "memory_peak_reset",
        "memory_reclaim",
        "psi",
        "clone3_into_cgroup",
        "kernel_log",
        "btf",
        "bpf_privilege",
        "process_events",
        "tracefs",
    ] {
        ensure!(supported(&json, name)?, "{name}");
    }
    ensure!(json["backends"]["scheduler"] == if want.0 { "sched_ext" } else { "kernel" });
    let ops = supported(&json, "memcg_bpf_ops")?;
    ensure!(json["backends"]["memory"] == if ops { "memcg_bpf_ops" } else { "cgroup" });
    Ok(())
}

fn unprivileged() -> Result<()> {
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program("agentcg")?)
        .args(["doctor", "--json"])
        .output()?;
    let json: Value = serde_json::from_slice(&out.stdout)
        .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?;
    ensure!(out.status.code() == Some(1), "{:?}", out.status);
    for name in ["cgroup_create", "bpf_privilege", "process_events"] {
        ensure!(!supported(&json, name)?, "{name}");
    }
    ensure!(supported(&json, "cgroup2")? && supported(&json, "btf")?);
    ensure!(json["backends"]["scheduler"] == "kernel" && json["backends"]["events"] == false);
    Ok(())
}

fn clean() -> Result<()> {
    let list = || -> Result<Vec<String>> {
        let mount = agentcg_core::mount_point()?;
        let mut seen = Vec::new();
        agentcg_core::Cgroup::open(mount)?.walk(&mut |c| {
            seen.push(format!("{} {}", c.path().display(), c.read("cgroup.subtree_control")?));
            Ok(())
        })?;
        Ok(seen)
    };
    let before = list()?;
    doctor()?;
    ensure!(list()? == before);
    Ok(())
}
