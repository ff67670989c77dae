use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Iter, Link, MapCore, MapFlags, RingBuffer, RingBufferBuilder};
use parking_lot::Mutex;

use super::decode::decode;
use super::types::{DropReason, Dropped, Event, EventKind};
use super::{EventFilter, EventMode, SyscallTracepoints};
use crate::bpf::process::intf;
use crate::bpf::process::skel::{OpenProcessSkel, ProcessSkel, ProcessSkelBuilder};
use crate::bpf::{self, Slot, libbpf};
use crate::cgroup::{Cgroup, mount_point, path_of};
use crate::{Error, Result};

/// Records taken from the ring at most before events are handed out.
const BATCH: usize = 512;
/// Cgroup paths remembered; beyond it the cache starts anew.
const MAX_PATHS: usize = 16 << 10;

/// A probe that could not be attached; the others work.
#[derive(Debug)]
pub struct MissingProbe {
    /// What is missing.
    pub what: &'static str,
    /// Why.
    pub error: Error,
}

/// The events of a filter, in the order in which the kernel wrote them.
///
/// An iterator that blocks; [`AsFd`] gives a descriptor that is readable when events wait, for
/// `poll`, `epoll` or asyncio, with [`try_next`](Self::try_next). Dropping it detaches the probes.
#[must_use = "dropping the stream detaches its probes"]
pub struct EventStream {
    // Order matters: the ring and the links go before the object they point into.
    ring: RingBuffer<'static>,
    queue: Arc<Mutex<VecDeque<Event>>>,
    _links: Vec<Link>,
    skel: ProcessSkel<'static>,
    _slot: Slot,
    /// Losses reported so far: ring full, read fault.
    seen_loss: (u64, u64),
    names: CgroupNames,
    missing: Vec<MissingProbe>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Loads the probes and attaches those that `filter` needs. `sessions_root` is the cgroup whose
    /// children are sessions. Needs CAP_BPF and CAP_PERFMON (or root) and BTF.
    ///
    /// # Errors
    /// `InvalidInput` for a filter that cannot be; `PermissionDenied`; `Bpf`; `NotFound` for a
    /// cgroup or pid that does not exist.
    pub fn open(filter: &EventFilter, sessions_root: Option<&Path>) -> Result<Self> {
        filter.check()?;
        let cgroups =
            filter.cgroups.iter().map(|p| Cgroup::open(p)?.id()).collect::<Result<Vec<u64>>>()?;
        for pid in &filter.pids {
            // Says NotFound, with the path.
            path_of(*pid)?;
        }

        bpf::route_log();
        let (slot, object) = Slot::new();
        let mut open = ProcessSkelBuilder::default()
            .open(object)
            .map_err(libbpf("open the process monitor"))?;
        configure(&mut open, filter, cgroups.len());
        open.maps
            .events
            .set_max_entries(filter.buffer_bytes.next_power_of_two())
            .map_err(libbpf("size the ring buffer"))?;
        let mut skel = open.load().map_err(libbpf("load the process monitor"))?;
        fill(&skel.maps.cgroups, cgroups.iter().map(|id| id.to_ne_bytes()))?;
        fill(&skel.maps.pids, filter.pids.iter().map(|pid| (*pid as u64).to_ne_bytes()))?;
        fill(&skel.maps.commands, filter.commands.iter().map(|c| padded(c)))?;

        let (links, missing) = attach(&mut skel, filter)?;
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let ring = ring(&skel, queue.clone())?;
        Ok(Self {
            ring,
            queue,
            _links: links,
            skel,
            _slot: slot,
            seen_loss: (0, 0),
            names: CgroupNames::new(sessions_root),
            missing,
        })
    }

    /// Probes that could not be attached, and why; everything else is delivered.
    pub fn missing(&self) -> &[MissingProbe] {
        &self.missing
    }

    /// The next event if one waits; never blocks.
    ///
    /// # Errors
    /// `Bpf` when the ring buffer cannot be read.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.pop() {
            return Ok(Some(event));
        }
        self.drain()?;
        Ok(self.pop())
    }

    /// The next event, waiting for it at most so long.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(left)?;
        }
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // poll(2) takes 32 bits of ms in older kernels; an hour is as good as for ever in a loop.
        let timeout = timeout.min(Duration::from_secs(3600));
        let spec =
            Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&spec)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(Error::os("poll", "the event ring buffer", e)),
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let mut event = self.queue.lock().pop_front()?;
        self.names.complete(&mut event);
        Some(event)
    }

    /// Takes a batch from the ring, then looks whether the kernel had to drop something.
    fn drain(&mut self) -> Result<()> {
        let n = self.ring.consume_raw_n(BATCH);
        if n < 0 {
            return Err(Error::os(
                "read",
                "the event ring buffer",
                std::io::Error::from_raw_os_error(-n),
            ));
        }
        let Some(bss) = &self.skel.maps.bss_data else {
            return Ok(());
        };
        let now = (bss.loss.ring_full, bss.loss.read_fault);
        let report = |count: u64, reason| {
            if count > 0 {
                self.queue.lock().push_back(Event::Dropped(Dropped { count, reason }));
            }
        };
        report(now.0 - self.seen_loss.0, DropReason::RingFull);
        report(now.1 - self.seen_loss.1, DropReason::ReadFault);
        self.seen_loss = now;
        Ok(())
    }
}

impl Iterator for EventStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_timeout(Duration::MAX / 4).transpose()
    }
}

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libbpf keeps the epoll descriptor open as long as the ring lives, as does `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

fn configure(open: &mut OpenProcessSkel<'_>, filter: &EventFilter, nr_cgroups: usize) {
    let Some(rodata) = open.maps.rodata_data.as_deref_mut() else {
        return;
    };
    let cfg = &mut rodata.cfg;
    cfg.mode = match filter.mode {
        EventMode::All => 0,
        EventMode::FilesOfTracked => 1,
        EventMode::TrackedOnly => 2,
    };
    cfg.nr_commands = filter.commands.len() as u32;
    cfg.nr_cgroups = nr_cgroups as u32;
    cfg.nr_pids = filter.pids.len() as u32;
    cfg.reader = std::process::id();
    cfg.min_duration_ns = filter.min_duration.as_nanos().min(u64::MAX as u128) as u64;
    cfg.kinds = filter.kinds.iter().fold(0, |bits, k| bits | 1 << record_kind(*k));
}

/// Puts the keys of a filter into its map.
fn fill<const N: usize>(map: &impl MapCore, keys: impl Iterator<Item = [u8; N]>) -> Result<()> {
    for key in keys {
        map.update(&key, &[1], MapFlags::ANY)
            .map_err(libbpf("tell the process monitor its filter"))?;
    }
    Ok(())
}

fn padded(command: &str) -> [u8; intf::process_limits_COMM_LEN as usize] {
    let mut key = [0; _];
    key[..command.len()].copy_from_slice(command.as_bytes());
    key
}

fn record_kind(kind: EventKind) -> u32 {
    match kind {
        EventKind::Exec => intf::record_kind_RECORD_EXEC,
        EventKind::Exit => intf::record_kind_RECORD_EXIT,
        EventKind::Fork => intf::record_kind_RECORD_FORK,
        EventKind::FileOpen => intf::record_kind_RECORD_FILE_OPEN,
    }
}

/// Attaches what the filter needs; file events and the knowledge of processes that run already are
/// optional, the rest is not.
fn attach(
    skel: &mut ProcessSkel<'_>,
    filter: &EventFilter,
) -> Result<(Vec<Link>, Vec<MissingProbe>)> {
    let wants = |k| filter.kinds.contains(&k);
    let tracks = filter.mode != EventMode::All;
    let mut links = Vec::new();
    let mut missing = Vec::new();
    // Before the iterator, so that no process falls between the two.
    if wants(EventKind::Fork) || tracks {
        links.push(skel.progs.on_fork.attach().map_err(libbpf("attach to sched_process_fork"))?);
    }
    if wants(EventKind::Exec) || tracks {
        links.push(skel.progs.on_exec.attach().map_err(libbpf("attach to sched_process_exec"))?);
    }
    if tracks && let Err(error) = mark_existing(skel) {
        missing.push(MissingProbe { what: "processes that run already", error });
    }
    if wants(EventKind::Exit) {
        links.push(skel.progs.on_exit.attach().map_err(libbpf("attach to sched_process_exit"))?);
    }
    if wants(EventKind::FileOpen) {
        match attach_file_probes(skel) {
            Ok(more) => links.extend(more),
            Err(error) => missing.push(MissingProbe { what: "FILE_OPEN events", error }),
        }
    }
    Ok((links, missing))
}

fn mark_existing(skel: &mut ProcessSkel<'_>) -> Result<()> {
    let link = skel.progs.existing.attach().map_err(libbpf("attach the task iterator"))?;
    let mut iter = Iter::new(&link).map_err(libbpf("run the task iterator"))?;
    // The program marks the tasks and writes nothing; reading runs it.
    iter.read_to_end(&mut Vec::new())
        .map(drop)
        .map_err(|e| Error::os("read", "the task iterator", e))
}

fn attach_file_probes(skel: &mut ProcessSkel<'_>) -> Result<Vec<Link>> {
    let tracepoints = SyscallTracepoints::open()?;
    let progs = &skel.progs;
    let mut links = Vec::new();
    for (call, enter) in [
        ("open", &progs.on_open_enter),
        ("creat", &progs.on_creat_enter),
        ("openat", &progs.on_openat_enter),
        ("openat2", &progs.on_openat2_enter),
    ] {
        // The exit first: an entry that nobody takes up would stay marked.
        links.extend(tracepoints.attach(&format!("sys_exit_{call}"), &progs.on_any_open_exit)?);
        links.extend(tracepoints.attach(&format!("sys_enter_{call}"), enter)?);
    }
    Ok(links)
}

fn ring(skel: &ProcessSkel<'_>, queue: Arc<Mutex<VecDeque<Event>>>) -> Result<RingBuffer<'static>> {
    let page_size = rustix::param::page_size() as u64;
    let mut builder = RingBufferBuilder::new();
    builder
        .add(&skel.maps.events, move |bytes: &[u8]| {
            match decode(bytes, page_size) {
                Some(event) => queue.lock().push_back(event),
                None => tracing::warn!("a record of {} bytes is of no known kind", bytes.len()),
            }
            0
        })
        .map_err(libbpf("open the ring buffer"))?;
    builder.build().map_err(libbpf("open the ring buffer"))
}

/// Loads the probes without attaching them: what the capability `process_events` is decided by.
pub(crate) fn try_load() -> Result<()> {
    bpf::route_log();
    let (_slot, object) = Slot::new();
    let open =
        ProcessSkelBuilder::default().open(object).map_err(libbpf("open the process monitor"))?;
    open.load().map(drop).map_err(libbpf("load the process monitor"))
}

/// Cgroup ids to paths, sessions and tool calls.
struct CgroupNames {
    /// `None` for those that could not be found.
    paths: HashMap<u64, Option<PathBuf>>,
    root: Option<PathBuf>,
    has_cgroup2: bool,
}

impl CgroupNames {
    fn new(root: Option<&Path>) -> Self {
        Self {
            paths: HashMap::new(),
            root: root.map(Path::to_path_buf),
            has_cgroup2: mount_point().is_ok(),
        }
    }

    fn complete(&mut self, event: &mut Event) {
        let origin = match event {
            Event::Exec(e) => &mut e.origin,
            Event::Exit(e) => &mut e.origin,
            Event::Fork(e) => &mut e.origin,
            Event::FileOpen(e) => &mut e.origin,
            Event::Dropped(_) => return,
        };
        origin.cgroup = self.path(origin.cgroup_id, origin.pid);
        if let (Some(root), Some(path)) = (&self.root, &origin.cgroup)
            && let Ok(inside) = path.strip_prefix(root)
        {
            let mut parts = inside.iter().map(|p| p.to_string_lossy().into_owned());
            origin.session = parts.next();
        }
    }

    fn path(&mut self, id: u64, pid: i32) -> Option<PathBuf> {
        if !self.has_cgroup2 {
            return None;
        }
        if let Some(known) = self.paths.get(&id) {
            return known.clone();
        }
        if self.paths.len() >= MAX_PATHS {
            self.paths.clear();
        }
        let found = Self::through_process(id, pid);
        if found.is_none() {
            self.learn_sessions();
        }
        self.paths.entry(id).or_insert(found).clone()
    }

    /// Through a process that was in it; it may be gone or have moved by now, so the id is compared
    /// before the answer is believed.
    fn through_process(id: u64, pid: i32) -> Option<PathBuf> {
        let path = path_of(pid).ok()?;
        (Cgroup::open(&path).ok()?.id().ok()? == id).then_some(path)
    }

    /// Every cgroup of the sessions, for processes that were too short-lived to ask.
    fn learn_sessions(&mut self) {
        let Some(Ok(root)) = self.root.as_ref().map(Cgroup::open) else {
            return;
        };
        // One that vanishes meanwhile ends the walk; the others come with their next event.
        let _ = root.walk(&mut |cgroup| {
            self.paths.insert(cgroup.id()?, Some(cgroup.path().to_path_buf()));
            Ok(())
        });
    }
}
