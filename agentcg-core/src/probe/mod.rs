//! What this kernel and our privileges allow, found by trying.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | [`Capabilities`]: the list, the choice of backends, text and JSON |
//! | `cgroups.rs` | cgroup v2: a cgroup is made, looked at and removed |
//! | `bpf.rs` | BTF, BPF programs, sched_ext, `memcg_bpf_ops` |
//!
//! A probe says no only on the kernel's exact answer for "cannot"; each no carries the reason and
//! the way to get it. Nothing is changed: the one cgroup that is made is removed.

mod bpf;
mod cgroups;

pub(crate) use bpf::memcg_bpf_ops_revision;

use serde::Serialize;

use crate::{Error, MemoryBackend};

/// One thing that the kernel and our privileges allow, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// A stable name: `memory_controller`, `sched_ext`, ...
    pub name: &'static str,
    /// It works here.
    pub supported: bool,
    /// What was found: a version, a path, a list; or why it is not supported.
    pub detail: String,
    /// How to get it; absent when it is supported or cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Capability {
    fn yes(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, supported: true, detail: detail.into(), fix: None }
    }

    fn no(name: &'static str, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, supported: false, detail: why.into(), fix: Some(fix.into()) }
    }

    /// From an attempt: the error's own text and help, else `fix`.
    fn attempt(name: &'static str, result: Result<String, Error>, fix: &str) -> Self {
        match result {
            Ok(detail) => Self::yes(name, detail),
            Err(e) => Self::no(name, e.message(), e.help().unwrap_or(fix)),
        }
    }
}

/// The mechanism that is used for each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backends {
    /// `sched_ext` or `kernel`.
    pub scheduler: SchedulerBackend,
    /// `None` when memory cannot be protected.
    pub memory: Option<MemoryBackend>,
    /// BPF process events are available.
    pub events: bool,
}

/// Who schedules the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerBackend {
    /// Our scheduler.
    SchedExt,
    /// The kernel's own, with `cpu.weight` where there is a cpu controller.
    Kernel,
}

/// Everything that was probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The kernel's release, `uname -r`.
    pub kernel: String,
    /// The machine's architecture, `uname -m`.
    pub machine: String,
    /// All capabilities, in a fixed order.
    pub capabilities: Vec<Capability>,
    /// What would be used.
    pub backends: Backends,
}

impl Capabilities {
    /// Probes; takes some ms.
    pub fn probe() -> Self {
        let mut list = cgroups::probe();
        list.extend(bpf::probe());
        let has = |name: &str| list.iter().any(|c: &Capability| c.name == name && c.supported);
        let backends = Backends {
            scheduler: if has("sched_ext") && has("sched_ext_free") && has("bpf_privilege") {
                SchedulerBackend::SchedExt
            } else {
                SchedulerBackend::Kernel
            },
            memory: (has("memory_controller") && has("psi")).then_some(
                if has("memcg_bpf_ops") && has("bpf_privilege") {
                    MemoryBackend::MemcgBpfOps
                } else {
                    MemoryBackend::Cgroup
                },
            ),
            events: has("process_events"),
        };
        let uname = rustix::system::uname();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            capabilities: list,
            backends,
        }
    }

    /// One capability by its name.
    pub fn get(&self, name: &str) -> Option<&Capability> {
        self.capabilities.iter().find(|c| c.name == name)
    }

    /// Is it there and supported?
    pub fn supports(&self, name: &str) -> bool {
        self.get(name).is_some_and(|c| c.supported)
    }

    /// Tool calls can at least be run in cgroups of their own and measured.
    pub fn can_run_and_measure(&self) -> bool {
        ["cgroup2", "cgroup_create", "cgroup_kill"].iter().all(|c| self.supports(c))
    }
}
