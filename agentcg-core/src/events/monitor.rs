//! The loaded BPF programs, shared by all streams of the process. The first stream loads them, each
//! attaches what is still missing for it, and the last detaches everything.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};

use libbpf_rs::btf::types::{FuncProto, Typedef};
use libbpf_rs::btf::{Btf, BtfKind, BtfType};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{
    Iter, Link, MapCore, MapFlags, MapHandle, MapType, ProgramInput, ProgramMut, UprobeOpts,
};
use parking_lot::Mutex;

use super::types::EventKind;
use super::{EventFilter, EventMode, MissingProbe, SyscallTracepoints};
use crate::bpf::process::intf;
pub(super) use crate::bpf::process::skel::types::process_loss as Loss;
use crate::bpf::process::skel::{ProcessProgs, ProcessSkel, ProcessSkelBuilder, types};
use crate::bpf::{self, Slot, libbpf};
use crate::cgroup::Cgroup;
use crate::{Error, ErrorKind, Result};

const MAX_SUBSCRIBERS: usize = intf::process_limits_MAX_SUBSCRIBERS as usize;
/// Where the shell is whose lines are read.
const BASH: &str = "/bin/bash";

/// What is attached as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Probe {
    Exec,
    Exit,
    Fork,
    CgroupMkdir,
    CgroupAttach,
    OomKill,
    FileOpen,
    BashReadline,
}

/// The programs, loaded.
pub(super) struct Monitor(Mutex<Loaded>);

struct Loaded {
    // Order matters: the links go before the object they point into.
    links: HashMap<Probe, Vec<Link>>,
    skel: ProcessSkel<'static>,
    _slot: Slot,
    /// The probes that each subscriber needs.
    subscribers: [Option<Vec<Probe>>; MAX_SUBSCRIBERS],
    filters: Filters,
}

/// A subscriber's place in the monitor; dropping it gives the place back.
pub(super) struct Subscription {
    monitor: Arc<Monitor>,
    slot: u32,
    pub(super) ring: MapHandle,
    pub(super) missing: Vec<MissingProbe>,
    probes: Vec<Probe>,
    /// Of the probes, before this subscriber came.
    skipped_before: u64,
    /// Some events are submitted by programs that cannot start the timer.
    arms_timer: bool,
}

impl Subscription {
    pub(super) fn new(filter: &EventFilter) -> Result<Self> {
        let cgroups =
            filter.cgroups.iter().map(|p| Cgroup::open(p)?.id()).collect::<Result<Vec<u64>>>()?;
        for pid in &filter.pids {
            // Says NotFound, with the path.
            crate::cgroup::path_of(*pid)?;
        }
        let monitor = Monitor::shared()?;
        let ring_bytes = filter.buffer_bytes.next_power_of_two();
        let ring = MapHandle::create(
            MapType::RingBuf,
            Some("agentcg_events"),
            0,
            0,
            ring_bytes,
            &libbpf_rs::libbpf_sys::bpf_map_create_opts {
                sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as _,
                ..Default::default()
            },
        )
        .map_err(libbpf("make the ring buffer"))?;
        let probes = needed(filter);
        let (slot, missing, skipped_before) = {
            let mut loaded = monitor.0.lock();
            let free = loaded.subscribers.iter().position(Option::is_none).ok_or_else(|| {
                Error::new(ErrorKind::Busy, "all 16 event subscribers of this process are in use")
                    .or_help("drop one of the streams")
            })?;
            let slot = free as u32;
            let added = loaded.add(slot, filter, &probes, &cgroups, &ring);
            match added.and_then(|missing| Ok((slot, missing, loaded.skipped(&probes)?))) {
                Ok(added) => added,
                Err(e) => {
                    loaded.remove(slot);
                    return Err(e);
                }
            }
        };
        let untimed = probes.iter().any(|p| matches!(p, Probe::FileOpen | Probe::BashReadline));
        let arms_timer = untimed && !filter.delay.is_zero();
        Ok(Self { monitor, slot, ring, missing, probes, skipped_before, arms_timer })
    }

    /// What could not be delivered so far, [`skipped`](Self::skipped) left out. Costs no system
    /// call.
    pub(super) fn loss(&self) -> Loss {
        let loaded = self.monitor.0.lock();
        let loss = loaded.skel.maps.bss_data.as_deref().map(|bss| &bss.losses[self.slot as usize]);
        // SAFETY: a valid reference; volatile, for the programs write while they run.
        loss.map_or(Loss::default(), |loss| unsafe { std::ptr::read_volatile(loss) })
    }

    /// How often the kernel passed over one of the probes, with an event perhaps.
    pub(super) fn skipped(&self) -> Result<u64> {
        Ok(self.monitor.0.lock().skipped(&self.probes)?.saturating_sub(self.skipped_before))
    }

    /// The reader has taken events: has the timer wake it for the next ones, where their probes
    /// cannot.
    pub(super) fn taken(&self) {
        if self.arms_timer
            && let Err(e) = self.monitor.0.lock().on_timer(self.slot, |p| &p.arm_timer)
        {
            // Then each event wakes the reader.
            tracing::debug!("{e}");
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.monitor.0.lock().remove(self.slot);
    }
}

impl Monitor {
    fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Monitor>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock();
        if let Some(monitor) = shared.upgrade() {
            return Ok(monitor);
        }
        let monitor = Arc::new(Self(Mutex::new(Loaded::load()?)));
        *shared = Arc::downgrade(&monitor);
        Ok(monitor)
    }
}

/// Loads the programs without attaching them: what the capability `process_events` is decided by.
pub(crate) fn try_load() -> Result<()> {
    Loaded::load().map(drop)
}

/// The first argument of a tracepoint is a pointer; `mark_victim` had a pid there before 6.9.
fn takes_task(btf: &Btf<'_>, tracepoint: &str) -> bool {
    btf.type_by_name::<Typedef<'_>>(tracepoint)
        .and_then(|t| t.next_type()?.next_type())
        .and_then(|t| FuncProto::try_from(t).ok())
        // The zeroth is the tracepoint's own data.
        .and_then(|p| p.iter().nth(1).and_then(|arg| btf.type_by_id::<BtfType<'_>>(arg.ty)))
        .is_some_and(|t| t.skip_mods_and_typedefs().kind() == BtfKind::Ptr)
}

impl Loaded {
    fn load() -> Result<Self> {
        bpf::route_log();
        let (slot, object) = Slot::new();
        let mut open = ProcessSkelBuilder::default()
            .open(object)
            .map_err(libbpf("open the process monitor"))?;
        // Without its tracepoint a program does not load, and the others with it.
        if let Ok(btf) = Btf::from_vmlinux() {
            let has = |name: &str| btf.type_by_name::<Typedef<'_>>(name).is_some();
            if !takes_task(&btf, "btf_trace_mark_victim") {
                open.progs.on_oom_kill.set_autoload(false);
            }
            if !has("btf_trace_cgroup_mkdir") {
                open.progs.on_cgroup_mkdir.set_autoload(false);
            }
            if !has("btf_trace_cgroup_attach_task") {
                open.progs.on_cgroup_attach.set_autoload(false);
            }
        }
        let skel = open.load().map_err(libbpf("load the process monitor"))?;
        Ok(Self {
            links: HashMap::new(),
            skel,
            _slot: slot,
            subscribers: Default::default(),
            filters: Filters::default(),
        })
    }

    fn add(
        &mut self,
        slot: u32,
        filter: &EventFilter,
        probes: &[Probe],
        cgroups: &[u64],
        ring: &MapHandle,
    ) -> Result<Vec<MissingProbe>> {
        // From here on the slot counts as taken, and `remove` undoes whatever was done.
        self.subscribers[slot as usize] = Some(probes.to_vec());
        let ring = ring.as_fd().as_raw_fd().to_ne_bytes();
        self.skel
            .maps
            .rings
            .update(&slot.to_ne_bytes(), &ring, MapFlags::ANY)
            .map_err(libbpf("tell the process monitor a subscriber"))?;
        self.filters.add(&self.skel, 1 << slot, filter, cgroups)?;
        self.on_timer(slot, |progs| &progs.ready_timer)?;
        self.set_global(|bss| {
            bss.subscribers[slot as usize] = options(filter);
            bss.losses[slot as usize] = Loss::default();
            bss.marked_slot = slot;
            bss.nr_slots = bss.nr_slots.max(slot + 1);
        });
        if filter.tracks() {
            // Marks of an earlier subscriber of the slot.
            self.run_iterator(false)?;
        }
        let missing = self.attach(probes)?;
        self.set_audience(slot, Some(filter));
        let mut missing = missing;
        if filter.tracks()
            && let Err(error) = self.run_iterator(true)
        {
            missing.push(MissingProbe { what: "processes that run already", error });
        }
        Ok(missing)
    }

    fn remove(&mut self, slot: u32) {
        self.set_audience(slot, None);
        self.subscribers[slot as usize] = None;
        let needed: Vec<Probe> = self.subscribers.iter().flatten().flatten().copied().collect();
        self.links.retain(|probe, _| needed.contains(probe));
        self.filters.remove(&self.skel, 1 << slot);
        // The kernel frees the ring when the last program that looks at it is done.
        let _ = self.skel.maps.rings.delete(&slot.to_ne_bytes());
    }

    fn set_global(&mut self, change: impl FnOnce(&mut types::bss)) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            change(bss);
            bss.filters_in_use = self.filters.in_use();
            bss.command_initials = self.filters.initials();
        }
    }

    /// Tells the programs what a subscriber wants; nothing is delivered before or after.
    fn set_audience(&mut self, slot: u32, filter: Option<&EventFilter>) {
        let bit = 1 << slot;
        self.set_global(|bss| {
            for kind in 0..intf::record_kind_NR_KINDS {
                let wanted = filter.is_some_and(|f| {
                    kind == intf::record_kind_RECORD_CGROUP
                        || f.kinds.iter().any(|k| record_kind(*k) == kind)
                });
                let of_all = filter.is_some_and(|f| match f.mode {
                    EventMode::All => true,
                    EventMode::FilesOfTracked => kind != intf::record_kind_RECORD_FILE_OPEN,
                    EventMode::TrackedOnly => kind == intf::record_kind_RECORD_CGROUP,
                });
                let audience = &mut bss.audiences[kind as usize];
                set_bit(&mut audience.of_all, bit, wanted && of_all);
                set_bit(&mut audience.of_tracked, bit, wanted && !of_all);
            }
        });
    }

    /// Runs a program that readies or arms the timer of a subscriber.
    fn on_timer<'a>(
        &'a self,
        slot: u32,
        program: impl Fn(&'a ProcessProgs<'static>) -> &'a ProgramMut<'static>,
    ) -> Result<()> {
        const FAILED: &str = "set the timer of the process monitor";
        let mut args = slot.to_ne_bytes();
        let input = ProgramInput { context_in: Some(&mut args), ..Default::default() };
        let output = program(&self.skel.progs).test_run(input).map_err(libbpf(FAILED))?;
        if output.return_value != 0 {
            return Err(Error::new(ErrorKind::Bpf, FAILED)
                .detail(format!("it returned {}", output.return_value as i32)));
        }
        Ok(())
    }

    /// Runs of these probes that the kernel skipped for good since they were loaded: neither the
    /// program nor a stand-in ran.
    fn skipped(&self, probes: &[Probe]) -> Result<u64> {
        let progs = &self.skel.progs;
        let made_up_for = |hook: u32| {
            self.skel.maps.bss_data.as_deref().map_or(0, |bss| {
                // SAFETY: a valid reference; volatile, for the programs write while they run.
                unsafe { std::ptr::read_volatile(&bss.made_up_for[hook as usize]) }
            })
        };
        let of_all = |[first, _, last]: [_; 3], hook| -> Result<u64> {
            let last = bpf::recursion_misses(last)?;
            if last == 0 {
                return Ok(0);
            }
            Ok(skipped_for_good(bpf::recursion_misses(first)?, last, made_up_for(hook)))
        };
        let mut sum = 0;
        for probe in probes.iter().filter(|p| self.links.contains_key(p)) {
            sum += match probe {
                Probe::Exec => of_all(execs(progs), intf::hook_HOOK_EXEC)?,
                Probe::Exit => of_all(exits(progs), intf::hook_HOOK_EXIT)?,
                Probe::Fork => of_all(forks(progs), intf::hook_HOOK_FORK)?,
                // Not an event.
                Probe::CgroupMkdir => 0,
                Probe::CgroupAttach => bpf::recursion_misses(&progs.on_cgroup_attach)?,
                Probe::OomKill => bpf::recursion_misses(&progs.on_oom_kill)?,
                Probe::FileOpen => opens(progs)
                    .iter()
                    .map(|(_, program)| bpf::recursion_misses(program))
                    .sum::<Result<u64>>()?,
                Probe::BashReadline => bpf::recursion_misses(&progs.on_readline)?,
            };
        }
        Ok(sum)
    }

    /// Sets or clears the marks of `marked_slot` at all processes.
    fn run_iterator(&self, mark: bool) -> Result<()> {
        let progs = &self.skel.progs;
        let program = if mark { &progs.mark_existing } else { &progs.unmark_all };
        let link = program.attach().map_err(libbpf("attach the task iterator"))?;
        let mut iter = Iter::new(&link).map_err(libbpf("run the task iterator"))?;
        // The program writes nothing; reading runs it.
        iter.read_to_end(&mut Vec::new())
            .map(drop)
            .map_err(|e| Error::os("read", "the task iterator", e))
    }

    /// Attaches what is not attached yet. Exec, exit and fork must be; the others are optional.
    fn attach(&mut self, probes: &[Probe]) -> Result<Vec<MissingProbe>> {
        let mut missing = Vec::new();
        for probe in probes {
            if self.links.contains_key(probe) {
                continue;
            }
            match self.attach_one(*probe) {
                Ok(links) => drop(self.links.insert(*probe, links)),
                Err(error) => match probe {
                    Probe::Exec | Probe::Exit | Probe::Fork => return Err(error),
                    Probe::CgroupMkdir => {
                        missing.push(MissingProbe { what: "names of short-lived cgroups", error });
                    }
                    Probe::CgroupAttach => {
                        missing.push(MissingProbe { what: "processes moved into cgroups", error });
                    }
                    Probe::OomKill => missing.push(MissingProbe { what: "OOM_KILL events", error }),
                    Probe::FileOpen => {
                        missing.push(MissingProbe { what: "FILE_OPEN events", error });
                    }
                    Probe::BashReadline => {
                        missing.push(MissingProbe { what: "BASH_READLINE events", error });
                    }
                },
            }
        }
        Ok(missing)
    }

    fn attach_one(&self, probe: Probe) -> Result<Vec<Link>> {
        let progs = &self.skel.progs;
        let one = |link: libbpf_rs::Result<Link>, what| Ok(vec![link.map_err(libbpf(what))?]);
        // A stand-in runs after the program, so it is attached later and detached earlier.
        let all = |programs: [&ProgramMut<'_>; 3], what| {
            let mut links = programs
                .iter()
                .map(|program| program.attach().map_err(libbpf(what)))
                .collect::<Result<Vec<_>>>()?;
            links.reverse();
            Ok(links)
        };
        match probe {
            Probe::Exec => all(execs(progs), "attach to sched_process_exec"),
            Probe::Exit => all(exits(progs), "attach to sched_process_exit"),
            Probe::Fork => all(forks(progs), "attach to sched_process_fork"),
            Probe::CgroupMkdir => one(progs.on_cgroup_mkdir.attach(), "attach to cgroup_mkdir"),
            Probe::CgroupAttach => {
                one(progs.on_cgroup_attach.attach(), "attach to cgroup_attach_task")
            }
            Probe::OomKill => one(progs.on_oom_kill.attach(), "attach to mark_victim"),
            Probe::FileOpen => self.attach_opens(),
            Probe::BashReadline => {
                let opts = UprobeOpts {
                    retprobe: true,
                    func_name: Some("readline".into()),
                    ..Default::default()
                };
                let link = progs.on_readline.attach_uprobe_with_opts(-1, BASH, 0, opts);
                one(link, "attach to readline of /bin/bash")
            }
        }
    }

    fn attach_opens(&self) -> Result<Vec<Link>> {
        let tracepoints = SyscallTracepoints::open()?;
        let progs = &self.skel.progs;
        let mut links = Vec::new();
        for (call, program) in opens(progs) {
            links.extend(tracepoints.attach(&format!("sys_exit_{call}"), program)?);
        }
        Ok(links)
    }
}

/// A stand-in is skipped also where there was nothing to make up for; and one that is about to make
/// up for a run that was skipped just now has not been skipped.
fn skipped_for_good(first: u64, stand_in: u64, made_up_for: u64) -> u64 {
    stand_in.min(first.saturating_sub(made_up_for))
}

/// The program at each exec, and its stand-ins in their order; likewise the next two.
fn execs<'a>(progs: &'a ProcessProgs<'static>) -> [&'a ProgramMut<'static>; 3] {
    [&progs.on_exec, &progs.on_exec_second, &progs.on_exec_third]
}

fn exits<'a>(progs: &'a ProcessProgs<'static>) -> [&'a ProgramMut<'static>; 3] {
    [&progs.on_exit, &progs.on_exit_second, &progs.on_exit_third]
}

fn forks<'a>(progs: &'a ProcessProgs<'static>) -> [&'a ProgramMut<'static>; 3] {
    [&progs.on_fork, &progs.on_fork_second, &progs.on_fork_third]
}

/// The system calls that open a file, and the program at the exit of each.
fn opens<'a>(progs: &'a ProcessProgs<'static>) -> [(&'static str, &'a ProgramMut<'static>); 4] {
    [
        ("open", &progs.on_open),
        ("creat", &progs.on_creat),
        ("openat", &progs.on_openat),
        ("openat2", &progs.on_openat2),
    ]
}

fn set_bit(mask: &mut u32, bit: u32, on: bool) {
    let value = if on { *mask | bit } else { *mask & !bit };
    // SAFETY: a valid reference; volatile, for the programs read it while they run.
    unsafe { std::ptr::write_volatile(mask, value) };
}

fn needed(filter: &EventFilter) -> Vec<Probe> {
    let wants = |k| filter.kinds.contains(&k);
    let tracks = filter.mode != EventMode::All && filter.tracks();
    let mut probes = vec![Probe::CgroupMkdir];
    // Fork tells parents, for exec and exit too; both mark the processes to track.
    if tracks || wants(EventKind::Fork) || wants(EventKind::Exec) || wants(EventKind::Exit) {
        probes.push(Probe::Fork);
    }
    if tracks || wants(EventKind::Exec) {
        probes.push(Probe::Exec);
    }
    if tracks && !filter.cgroups.is_empty() {
        probes.push(Probe::CgroupAttach);
    }
    // A thread's last opens are reported when it ends.
    if wants(EventKind::Exit) || wants(EventKind::FileOpen) {
        probes.push(Probe::Exit);
    }
    if wants(EventKind::FileOpen) {
        probes.push(Probe::FileOpen);
    }
    if wants(EventKind::BashReadline) {
        probes.push(Probe::BashReadline);
    }
    if wants(EventKind::OomKill) {
        probes.push(Probe::OomKill);
    }
    probes
}

fn record_kind(kind: EventKind) -> u32 {
    match kind {
        EventKind::Exec => intf::record_kind_RECORD_EXEC,
        EventKind::Exit => intf::record_kind_RECORD_EXIT,
        EventKind::Fork => intf::record_kind_RECORD_FORK,
        EventKind::FileOpen => intf::record_kind_RECORD_FILE_OPEN,
        EventKind::BashReadline => intf::record_kind_RECORD_BASH_READLINE,
        EventKind::OomKill => intf::record_kind_RECORD_OOM_KILL,
    }
}

fn options(filter: &EventFilter) -> types::subscriber {
    let ns = |d: std::time::Duration| d.as_nanos().min(u128::from(u64::MAX)) as u64;
    let ring_bytes = filter.buffer_bytes.next_power_of_two();
    types::subscriber {
        min_duration_ns: ns(filter.min_duration),
        delay_ns: ns(filter.delay),
        open_window_ns: ns(filter.open_window),
        open_rate: filter.open_rate,
        // A record must fit the ring with room to spare.
        args_max: filter.args_bytes.min(ring_bytes / 4),
        ring_bytes,
        reader: std::process::id(),
    }
}

/// What the kernel's filter maps hold: for each key, the subscribers that named it.
#[derive(Default)]
struct Filters {
    commands: HashMap<[u8; 16], u32>,
    cgroups: HashMap<u64, u32>,
    pids: HashMap<u64, u32>,
    uids: HashMap<u64, u32>,
    executables: BTreeMap<Vec<u8>, u32>,
}

impl Filters {
    fn add(
        &mut self,
        skel: &ProcessSkel<'_>,
        bit: u32,
        filter: &EventFilter,
        cgroups: &[u64],
    ) -> Result<()> {
        for command in &filter.commands {
            let mut key = [0; 16];
            key[..command.len()].copy_from_slice(command.as_bytes());
            *self.commands.entry(key).or_default() |= bit;
        }
        for id in cgroups {
            *self.cgroups.entry(*id).or_default() |= bit;
        }
        for pid in &filter.pids {
            *self.pids.entry(*pid as u64).or_default() |= bit;
        }
        for uid in &filter.uids {
            *self.uids.entry(u64::from(*uid)).or_default() |= bit;
        }
        for path in &filter.executables {
            *self.executables.entry(path.as_os_str().as_bytes().to_vec()).or_default() |= bit;
        }
        self.write(skel)
    }

    fn remove(&mut self, skel: &ProcessSkel<'_>, bit: u32) {
        fn clear<K>(masks: &mut HashMap<K, u32>, bit: u32) {
            masks.values_mut().for_each(|m| *m &= !bit);
        }
        clear(&mut self.commands, bit);
        clear(&mut self.cgroups, bit);
        clear(&mut self.pids, bit);
        clear(&mut self.uids, bit);
        self.executables.values_mut().for_each(|m| *m &= !bit);
        if let Err(e) = self.write(skel) {
            tracing::warn!("{e}");
        }
    }

    /// Brings the kernel's maps up to date; keys that nobody names any more go.
    fn write(&mut self, skel: &ProcessSkel<'_>) -> Result<()> {
        fn sync<K: Copy + Eq + Hash>(
            map: &impl MapCore,
            masks: &mut HashMap<K, u32>,
            bytes: impl Fn(K) -> Vec<u8>,
        ) -> libbpf_rs::Result<()> {
            for (key, mask) in &*masks {
                put(map, &bytes(*key), *mask)?;
            }
            masks.retain(|_, mask| *mask != 0);
            Ok(())
        }
        fn put(map: &impl MapCore, key: &[u8], mask: u32) -> libbpf_rs::Result<()> {
            if mask != 0 {
                return map.update(key, &mask.to_ne_bytes(), MapFlags::ANY);
            }
            match map.delete(key) {
                Err(e) if e.kind() != libbpf_rs::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        }
        let maps = &skel.maps;
        let id = |id: u64| id.to_ne_bytes().to_vec();
        sync(&maps.commands, &mut self.commands, |c| c.to_vec())
            .and_then(|()| sync(&maps.cgroups, &mut self.cgroups, id))
            .and_then(|()| sync(&maps.pids, &mut self.pids, id))
            .and_then(|()| sync(&maps.uids, &mut self.uids, id))
            .and_then(|()| {
                for (path, mask) in &self.executables {
                    put(
                        &maps.paths,
                        &prefix_key(path),
                        if *mask == 0 { 0 } else { self.prefix_mask(path) },
                    )?;
                }
                Ok(())
            })
            .map_err(libbpf("tell the process monitor its filters"))?;
        self.executables.retain(|_, mask| *mask != 0);
        Ok(())
    }

    /// The kernel finds the longest prefix only: it stands for the shorter ones too.
    fn prefix_mask(&self, path: &[u8]) -> u32 {
        self.executables.iter().filter(|(p, _)| path.starts_with(p)).fold(0, |m, (_, bit)| m | bit)
    }

    fn initials(&self) -> [u64; 4] {
        let mut bits = [0; 4];
        for initial in self.commands.keys().map(|c| c[0]) {
            bits[usize::from(initial >> 6)] |= 1 << (initial & 63);
        }
        bits
    }

    fn in_use(&self) -> u32 {
        let bit = |used: bool, bit| if used { bit } else { 0 };
        bit(!self.commands.is_empty(), intf::filter_bits_FILTER_COMMANDS)
            | bit(!self.cgroups.is_empty(), intf::filter_bits_FILTER_CGROUPS)
            | bit(!self.pids.is_empty(), intf::filter_bits_FILTER_PIDS)
            | bit(!self.uids.is_empty(), intf::filter_bits_FILTER_UIDS)
            | bit(!self.executables.is_empty(), intf::filter_bits_FILTER_PATHS)
    }
}

/// `struct path_prefix`, as bytes.
fn prefix_key(path: &[u8]) -> Vec<u8> {
    let mut key = ((path.len() * 8) as u32).to_ne_bytes().to_vec();
    key.extend(path);
    key.resize(intf::process_limits_SMALL_PATH as usize, 0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stand_in_made_up_for_is_not_lost() {
        for (first, stand_in, made_up_for, lost) in
            [(5, 0, 5, 0), (5, 0, 4, 0), (5, 2, 5, 0), (5, 1, 4, 1), (5, 3, 3, 2), (0, 3, 0, 0)]
        {
            assert_eq!(skipped_for_good(first, stand_in, made_up_for), lost);
        }
    }

    #[test]
    fn a_prefix_stands_for_the_shorter_ones_too() {
        let mut filters = Filters::default();
        for (path, bit) in [("/usr", 1), ("/usr/bin/", 2), ("/opt", 4)] {
            filters.executables.insert(path.into(), bit);
        }
        assert_eq!(filters.prefix_mask(b"/usr/bin/"), 3);
        assert_eq!(filters.prefix_mask(b"/usr"), 1);
        assert_eq!(filters.prefix_mask(b"/opt"), 4);
    }
}
