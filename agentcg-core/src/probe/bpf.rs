use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Func, Struct};

use super::Capability;
use crate::events::SyscallTracepoints;
use crate::{Error, scheduler};

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Operations of `sched_ext_ops` that came after the first release.
const LATER_OPS: [&str; 3] = ["cgroup_set_bandwidth", "cgroup_set_idle", "sub_attach"];
const MEMCG_KFUNCS: [&str; 4] = [
    "bpf_get_mem_cgroup",
    "bpf_mem_cgroup_usage",
    "bpf_mem_cgroup_vm_events",
    "bpf_mem_cgroup_flush_stats",
];

pub(super) fn probe() -> Vec<Capability> {
    let btf = vmlinux();
    vec![
        Capability::attempt(
            "btf",
            btf.as_ref().map(|_| BTF.to_owned()).map_err(|e| {
                Error::unsupported(
                    format!("no BTF of the running kernel ({e})"),
                    "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
                )
            }),
            "",
        ),
        privilege(),
        process_events(),
        tracefs(),
        sched_ext(btf.as_ref().ok()),
        sched_ext_free(),
        sched_ext_ops(btf.as_ref().ok()),
        memcg_bpf_ops(btf.as_ref().ok()),
        memcg_kfuncs(btf.as_ref().ok()),
    ]
}

fn vmlinux() -> Result<Btf<'static>, libbpf_rs::Error> {
    crate::bpf::route_log();
    Btf::from_vmlinux()
}

fn has_members(btf: &Btf<'_>, name: &str, members: &[&str]) -> bool {
    let Some(found) = btf.type_by_name::<Struct<'_>>(name) else {
        return false;
    };
    members.iter().all(|m| found.iter().any(|have| have.name.is_some_and(|n| n == *m)))
}

fn privilege() -> Capability {
    const CAP_SYS_ADMIN: u64 = 21;
    const CAP_PERFMON: u64 = 38;
    const CAP_BPF: u64 = 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| u64::from_str_radix(l.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    let has = |cap: u64| effective >> cap & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return Capability::yes("bpf_privilege", "CAP_SYS_ADMIN");
    }
    if has(CAP_BPF) && has(CAP_PERFMON) {
        return Capability::yes("bpf_privilege", "CAP_BPF, CAP_PERFMON");
    }
    Capability::no(
        "bpf_privilege",
        "neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON",
        "run as root, or: setcap cap_bpf,cap_perfmon+ep PROGRAM",
    )
}

/// Decided by loading the monitor: libbpf's and bpftool's feature probes mislead.
fn process_events() -> Capability {
    Capability::attempt(
        "process_events",
        crate::events::try_load().map(|()| "tp_btf programs load".to_owned()),
        "needs BTF, CAP_BPF and CAP_PERFMON",
    )
}

fn tracefs() -> Capability {
    Capability::attempt(
        "tracefs",
        SyscallTracepoints::open().map(|_| "FILE_OPEN events".to_owned()),
        "mount -t tracefs tracefs /sys/kernel/tracing",
    )
}

fn sched_ext(btf: Option<&Btf<'_>>) -> Capability {
    let result = scheduler::supported().and_then(|()| {
        let groups = btf.is_some_and(|b| {
            has_members(b, "sched_ext_ops", &["cgroup_init", "cgroup_set_weight"])
        });
        if groups {
            return Ok("with cgroup operations".to_owned());
        }
        Err(Error::unsupported(
            "sched_ext without cgroup operations",
            "boot a kernel with CONFIG_EXT_GROUP_SCHED=y and BTF",
        ))
    });
    Capability::attempt("sched_ext", result, "")
}

fn sched_ext_free() -> Capability {
    let name = "sched_ext_free";
    if scheduler::supported().is_err() {
        return Capability::no(name, "none can be attached", "see sched_ext");
    }
    match scheduler::attached_scheduler() {
        None => Capability::yes(name, "no other scheduler is attached"),
        Some(other) => Capability::no(
            name,
            format!("the scheduler {other} is attached"),
            "stop the program that runs it",
        ),
    }
}

fn sched_ext_ops(btf: Option<&Btf<'_>>) -> Capability {
    let name = "sched_ext_cpu_max";
    let have: Vec<_> = LATER_OPS
        .into_iter()
        .filter(|op| btf.is_some_and(|b| has_members(b, "sched_ext_ops", &[op])))
        .collect();
    if have.contains(&"cgroup_set_bandwidth") {
        return Capability::yes(name, format!("ops: {}", have.join(", ")));
    }
    Capability::no(
        name,
        "no ops.cgroup_set_bandwidth: the scheduler reads cpu.max from the kernel itself",
        "boot kernel 6.17 or newer",
    )
}

/// The revision of the posted patches that the running kernel has: 6 stands for 3 to 6.
pub(crate) fn memcg_bpf_ops_revision() -> Option<u32> {
    revision(&vmlinux().ok()?)
}

fn revision(btf: &Btf<'_>) -> Option<u32> {
    let name = "memcg_bpf_ops";
    if has_members(btf, name, &["memcg_charged"]) {
        Some(7)
    } else if has_members(btf, name, &["get_high_delay_ms"]) {
        Some(6)
    } else {
        None
    }
}

fn memcg_bpf_ops(btf: Option<&Btf<'_>>) -> Capability {
    match btf.and_then(revision) {
        Some(6) => Capability::yes("memcg_bpf_ops", "revision 3 to 6"),
        Some(r) => Capability::yes("memcg_bpf_ops", format!("revision {r}")),
        None => Capability::no(
            "memcg_bpf_ops",
            "the kernel's BTF has no struct memcg_bpf_ops",
            "no released kernel has it yet; the backend cgroup serves",
        ),
    }
}

fn memcg_kfuncs(btf: Option<&Btf<'_>>) -> Capability {
    let name = "memcg_kfuncs";
    let missing = MEMCG_KFUNCS
        .into_iter()
        .find(|f| btf.is_none_or(|b| b.type_by_name::<Func<'_>>(f).is_none()));
    match missing {
        None => Capability::yes(name, MEMCG_KFUNCS.join(", ")),
        Some(f) if Path::new(BTF).exists() => {
            Capability::no(name, format!("the kernel has no {f}"), "boot kernel 7.3 or newer")
        }
        Some(_) => Capability::no(name, "no BTF to look in", "see btf"),
    }
}
