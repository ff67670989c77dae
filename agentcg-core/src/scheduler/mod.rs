//! The CPU scheduler: `bpf/scheduler.bpf.c`, a sched_ext scheduler that shares the CPU by
//! `cpu.weight` over the flattened cgroup hierarchy.

mod brake;
mod exit;
mod policy;
mod usage;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libbpf_rs::{Link, MapCore, MapFlags, OpenObject, RingBuffer, RingBufferBuilder};
use scx_utils::{scx_ops_attach, scx_ops_load, scx_ops_open};
use serde::Serialize;

use crate::bpf::scheduler::intf;
use crate::bpf::scheduler::skel::{SchedulerSkel, SchedulerSkelBuilder};
use crate::bpf::{self, Slot};
use crate::cgroup::Cgroup;
use crate::{Error, ErrorKind, Result};

pub use brake::Brake;
pub(crate) use brake::CurrentBrake;
pub use exit::{SchedulerExit, SchedulerExitKind};
pub(crate) use policy::use_sched_ext;
pub use usage::{CgroupUsage, SessionStats, WaitTimes};

const STATE: &str = "/sys/kernel/sched_ext/state";
const OPS: &str = "/sys/kernel/sched_ext/root/ops";
/// The CPUs that `isolcpus=` takes from the scheduler; those of cpuset partitions are not among them.
const ISOLATED: &str = "/sys/devices/system/cpu/isolated";

/// Which tasks the scheduler takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerScope {
    /// Every normal task of the machine.
    #[default]
    All,
    /// Only processes placed in our sessions, and their children; the others stay with the
    /// kernel's scheduler, which comes before sched_ext.
    Agents,
}

/// How to schedule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// How long a task runs before others are looked at; 100 µs to 1 s, default 5 ms. The timer
    /// tick (4 ms at HZ=250) bounds it from below.
    pub slice: Duration,
    /// Which tasks; default all.
    pub scope: SchedulerScope,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { slice: Duration::from_millis(5), scope: SchedulerScope::All }
    }
}

/// Counters since the scheduler was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SchedulerStats {
    /// Wake-ups that went straight to an idle CPU.
    pub direct: u64,
    /// Tasks put into the queue.
    pub queued: u64,
    /// Times a task went on running because nobody stood before it.
    pub kept: u64,
    /// Times a CPU had to choose again because another had put back a task that came first.
    pub displaced: u64,
}

/// What one cgroup got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CgroupRuntime {
    /// CPU time used by its own tasks, ns; not that of child cgroups.
    pub run_ns: u64,
    /// Times one of its tasks was put on a CPU.
    pub runs: u64,
    /// Its `cpu.weight`, as the scheduler sees it.
    pub weight: u32,
    /// Its own tasks that run or wait right now.
    pub nr_runnable: u32,
}

/// The attached scheduler. Dropping it detaches it, and the kernel's scheduler takes over.
///
/// While it is attached it enforces `cpu.max` (with `cpu.max.burst`, at every level) in place of the
/// kernel. `cpu.stat` does not count throttling then.
///
/// The kernel may detach it too (a stall, an error, sysrq-S): the descriptor of [`AsFd`] becomes
/// readable then and [`exited`](Self::exited) says why.
#[must_use = "dropping the scheduler detaches it"]
pub struct Scheduler {
    // Order matters: the link and the ring go before the object.
    link: Option<Link>,
    exit_ring: RingBuffer<'static>,
    brake: Brake,
    skel: SchedulerSkel<'static>,
    _slot: Slot,
    scope: SchedulerScope,
    sessions_root: Option<PathBuf>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Loads and attaches the scheduler. With scope [`Agents`](SchedulerScope::Agents) the
    /// processes below `sessions_root` are handed to it. Needs root and kernel 6.16 (any kernel
    /// with `CONFIG_SCHED_CLASS_EXT` and `CONFIG_EXT_GROUP_SCHED`).
    ///
    /// # Errors
    /// `InvalidInput` for a bad slice; `Unsupported` without sched_ext, or with `isolcpus=` on the
    /// kernel's command line; `Busy` when another scheduler is attached, naming it;
    /// `PermissionDenied`; `Bpf`.
    pub fn attach(config: &SchedulerConfig, sessions_root: Option<&Path>) -> Result<Self> {
        if !(Duration::from_micros(100)..=Duration::from_secs(1)).contains(&config.slice) {
            return Err(Error::invalid("slice", config.slice, "expected 100 µs to 1 s"));
        }
        supported()?;
        if let Some(name) = attached_scheduler() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("another sched_ext scheduler is attached: {name}"),
            )
            .or_help("stop the program that runs it"));
        }
        bpf::route_log();
        let (slot, object) = Slot::new();
        let (skel, link) = load_and_attach(object, config)
            .map_err(|e| bpf::error("attach the scheduler", format!("{e:#}"), errno_of(&e)))?;
        let exit_ring = exit_ring(&skel)?;
        let scheduler = Self {
            link: Some(link),
            exit_ring,
            brake: Brake::new(&skel)?,
            skel,
            _slot: slot,
            scope: config.scope,
            sessions_root: sessions_root.map(Path::to_path_buf),
        };
        scheduler.each_member(true)?;
        Ok(scheduler)
    }

    /// What it was asked to schedule.
    pub fn scope(&self) -> SchedulerScope {
        self.scope
    }

    /// What holds cgroups back for a while.
    pub fn brake(&self) -> Brake {
        self.brake.clone()
    }

    /// Why the kernel detached it, or `None` while it is attached.
    pub fn exited(&self) -> Option<SchedulerExit> {
        // Empties the ring, so that the descriptor is quiet again.
        self.exit_ring.consume_raw();
        exit::read(&self.skel)
    }

    /// Detaches it and says why it ended: [`SchedulerExitKind::Detached`] when nothing went wrong.
    pub fn detach(mut self) -> SchedulerExit {
        drop(self.link.take());
        // Unregistering runs ops.exit before it returns.
        self.exited().unwrap_or_default()
    }

    /// Counters since it was attached.
    pub fn stats(&self) -> SchedulerStats {
        let Some(data) = &self.skel.maps.bss_data else {
            return SchedulerStats::default();
        };
        SchedulerStats {
            direct: data.stats.direct,
            queued: data.stats.queued,
            kept: data.stats.kept,
            displaced: data.stats.displaced,
        }
    }

    /// What a cgroup got since the scheduler was attached.
    ///
    /// # Errors
    /// `NotFound` when the scheduler does not know it: it has no cpu controller.
    pub fn cgroup_runtime(&self, cgroup: &Cgroup) -> Result<CgroupRuntime> {
        let cg = self.known(cgroup)?;
        Ok(CgroupRuntime {
            run_ns: cg.own.run_ns,
            runs: cg.own.runs,
            weight: cg.weight,
            nr_runnable: cg.nr_runnable.max(0) as u32,
        })
    }

    /// What a cgroup and all below it got since the scheduler was attached; the difference of two
    /// readings ([`CgroupUsage::since`]) is what they got in between.
    ///
    /// # Errors
    /// `NotFound` when the scheduler does not know the cgroup: it has no cpu controller.
    pub fn cgroup_usage(&self, cgroup: &Cgroup) -> Result<CgroupUsage> {
        self.known(cgroup)?;
        let mut sum = CgroupUsage::default();
        cgroup.walk(&mut |below| {
            match self.known(below) {
                Ok(cg) => {
                    sum.add(&cg.own);
                    sum.add(&cg.gone);
                }
                // Gone just now, or without a cpu controller of its own.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn known(&self, cgroup: &Cgroup) -> Result<intf::sched_cgroup> {
        let id = cgroup.id()?;
        let value = self
            .skel
            .maps
            .sched_cgroups
            .lookup(&id.to_ne_bytes(), MapFlags::LOCK)
            .map_err(bpf::libbpf("look up a cgroup of the scheduler"))?
            .ok_or_else(|| not_known(cgroup))?;
        if value.len() < size_of::<intf::sched_cgroup>() {
            return Err(Error::new(ErrorKind::Bpf, "a map value is cut short"));
        }
        // SAFETY: there are enough bytes, and the struct is made of integers, for which every bit
        // pattern is valid.
        Ok(unsafe { value.as_ptr().cast::<intf::sched_cgroup>().read_unaligned() })
    }

    /// With scope `agents`, hands every process of the sessions to sched_ext, or back.
    fn each_member(&self, to_sched_ext: bool) -> Result<()> {
        let (SchedulerScope::Agents, Some(root)) = (self.scope, &self.sessions_root) else {
            return Ok(());
        };
        Cgroup::open(root)?.walk(&mut |cgroup| {
            for pid in cgroup.procs()? {
                use_sched_ext(pid, to_sched_ext)?;
            }
            Ok(())
        })
    }
}

impl AsFd for Scheduler {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libbpf keeps the epoll descriptor open as long as the ring lives, as does `self`.
        unsafe { BorrowedFd::borrow_raw(self.exit_ring.epoll_fd()) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Err(e) = self.each_member(false) {
            tracing::warn!("{e}");
        }
    }
}

fn not_known(cgroup: &Cgroup) -> Error {
    Error::new(ErrorKind::NotFound, "the scheduler does not know the cgroup")
        .at(cgroup.path())
        .or_help("enable the cpu controller for it")
}

fn load_and_attach(
    object: &'static mut MaybeUninit<OpenObject>,
    config: &SchedulerConfig,
) -> anyhow::Result<(SchedulerSkel<'static>, Link)> {
    let mut skel = scx_ops_open!(
        SchedulerSkelBuilder::default(),
        object,
        agentcg_ops,
        None::<libbpf_rs::libbpf_sys::bpf_object_open_opts>
    )?;
    if let Some(rodata) = skel.maps.rodata_data.as_deref_mut() {
        rodata.cfg.slice_ns = config.slice.as_nanos() as u64;
    }
    // A task whose quota is used up must not go on because its CPU has no other. And the kernel
    // still counts idle CPUs, although we want to hear of them.
    skel.struct_ops.agentcg_ops_mut().flags |=
        *scx_utils::compat::SCX_OPS_ENQ_LAST | *scx_utils::compat::SCX_OPS_KEEP_BUILTIN_IDLE;
    if config.scope == SchedulerScope::Agents {
        skel.struct_ops.agentcg_ops_mut().flags |= *scx_utils::compat::SCX_OPS_SWITCH_PARTIAL;
    }
    // scx_ops_load would leave them out as well, with warnings; the scheduler does without.
    let ops = skel.struct_ops.agentcg_ops_mut();
    for (name, operation) in [
        ("cgroup_set_bandwidth", &mut ops.cgroup_set_bandwidth),
        ("cgroup_set_idle", &mut ops.cgroup_set_idle),
    ] {
        if !scx_utils::compat::struct_has_field("sched_ext_ops", name)? {
            *operation = std::ptr::null_mut();
        }
    }
    let mut skel = scx_ops_load!(skel, agentcg_ops, uei)?;
    let link = scx_ops_attach!(skel, agentcg_ops)?;
    Ok((skel, link))
}

fn exit_ring(skel: &SchedulerSkel<'_>) -> Result<RingBuffer<'static>> {
    let mut builder = RingBufferBuilder::new();
    let failed = "open the ring buffer of the scheduler's exit";
    builder.add(&skel.maps.exited, |_| 0).map_err(bpf::libbpf(failed))?;
    builder.build().map_err(bpf::libbpf(failed))
}

fn errno_of(e: &anyhow::Error) -> Option<i32> {
    e.chain()
        .filter_map(|c| c.downcast_ref::<libbpf_rs::Error>())
        .any(|e| e.kind() == libbpf_rs::ErrorKind::PermissionDenied)
        .then_some(1)
}

/// sched_ext is compiled in, and not ruled out by how the kernel was booted.
pub(crate) fn supported() -> Result<()> {
    if !Path::new(STATE).exists() {
        return Err(Error::unsupported(
            "this kernel has no sched_ext",
            "boot a kernel with CONFIG_SCHED_CLASS_EXT=y, 6.16 or newer (Debian: trixie-backports)",
        )
        .at(STATE));
    }
    match std::fs::read_to_string(ISOLATED).unwrap_or_default().trim() {
        "" => Ok(()),
        cpus => Err(Error::unsupported(
            format!("the kernel attaches no sched_ext scheduler beside isolcpus={cpus}"),
            "boot without isolcpus=, and isolate CPUs with a cpuset.cpus.partition in its place",
        )
        .at(ISOLATED)),
    }
}

/// The name of the scheduler that is attached, if one is.
pub(crate) fn attached_scheduler() -> Option<String> {
    SchedExt::open().attached()
}

/// `/sys/kernel/sched_ext/state`, kept open: the end of each call asks.
#[derive(Debug)]
pub(crate) struct SchedExt(Option<File>);

impl SchedExt {
    pub(crate) fn open() -> Self {
        Self(File::open(STATE).ok())
    }

    /// The name of the scheduler that is attached now.
    pub(crate) fn attached(&self) -> Option<String> {
        let mut buf = [0; 64];
        let n = self.0.as_ref()?.read_at(&mut buf, 0).ok()?;
        let state = String::from_utf8_lossy(&buf[..n]);
        let state = state.trim();
        if state == "disabled" {
            return None;
        }
        let name = std::fs::read_to_string(OPS).unwrap_or_default();
        Some(if name.trim().is_empty() { state.to_owned() } else { name.trim().to_owned() })
    }
}
