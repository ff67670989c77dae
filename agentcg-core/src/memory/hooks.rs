//! `bpf/memory.bpf.c`: sees reclaim when it begins, and where the kernel has `memcg_bpf_ops`, decides
//! in its memory controller.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapMut, OpenMapMut, RingBuffer, RingBufferBuilder};
use parking_lot::Mutex;

use super::{MemcgConfig, MemoryRole};
use crate::bpf::memory::intf;
use crate::bpf::memory::skel::{MemorySkel, MemorySkelBuilder};
use crate::bpf::{self, Slot, libbpf};
use crate::cgroup::Cgroup;
use crate::{Error, ErrorKind, Result};

/// The loaded programs. Dropping them detaches all that is attached.
pub(super) struct Hooks {
    // Order matters: links and ring go before the object.
    _tracepoints: Vec<Link>,
    ring: RingBuffer<'static>,
    heard: Arc<Mutex<Vec<u64>>>,
    skel: MemorySkel<'static>,
    _slot: Slot,
    revision: Option<u32>,
}

/// What the hooks counted for a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub calls: u64,
    pub answered: u64,
    pub delay_ms: u64,
}

impl Hooks {
    /// Loads the programs: those that see, and with a `revision` of `memcg_bpf_ops` those that
    /// decide.
    pub(super) fn load(config: &MemcgConfig, revision: Option<u32>) -> Result<Self> {
        bpf::route_log();
        let (slot, object) = Slot::new();
        let mut open = MemorySkelBuilder::default()
            .open(object)
            .map_err(libbpf("open the BPF programs of memory protection"))?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            rodata.cfg.window_ns = config.window.as_nanos() as u64;
            rodata.cfg.faults_per_second = config.threshold;
            rodata.cfg.delay_ms = config.delay.as_millis() as u32;
            rodata.cfg.below_low = u32::from(config.below_low);
            rodata.cfg.below_min = u32::from(config.below_min);
        }
        open.progs.direct_reclaim.set_autoload(true);
        open.progs.memcg_reclaim.set_autoload(true);
        open.progs.kswapd_wakes.set_autoload(config.threshold > 0);
        open.progs.memcg_event.set_autoload(config.threshold > 0);
        let choose = |map: &mut OpenMapMut<'_>, wanted| {
            map.set_autocreate(wanted).map_err(libbpf("choose the table of memcg_bpf_ops"))
        };
        choose(&mut open.maps.high_v6, revision == Some(6))?;
        choose(&mut open.maps.low_v6, revision == Some(6))?;
        choose(&mut open.maps.high_v7, revision == Some(7))?;
        choose(&mut open.maps.low_v7, revision == Some(7))?;
        for (program, wanted) in [
            (&mut open.progs.below_low, revision.is_some()),
            (&mut open.progs.below_min, revision.is_some()),
            (&mut open.progs.delay, revision.is_some()),
        ] {
            program.set_autoload(wanted);
        }
        let mut skel = open.load().map_err(libbpf("load the BPF programs of memory protection"))?;

        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut builder = RingBufferBuilder::new();
        let sink = heard.clone();
        builder
            .add(&skel.maps.hurts, move |record| {
                if let Some(id) = record.first_chunk::<8>() {
                    sink.lock().push(u64::from_ne_bytes(*id));
                }
                0
            })
            .map_err(libbpf("open the ring buffer of memory protection"))?;
        let ring = builder.build().map_err(libbpf("open the ring buffer of memory protection"))?;

        let failed = "attach a BPF program of memory protection";
        let mut tracepoints = vec![
            skel.progs.direct_reclaim.attach().map_err(libbpf(failed))?,
            skel.progs.memcg_reclaim.attach().map_err(libbpf(failed))?,
        ];
        if config.threshold > 0 {
            tracepoints.push(skel.progs.kswapd_wakes.attach().map_err(libbpf(failed))?);
            tracepoints.push(skel.progs.memcg_event.attach().map_err(libbpf(failed))?);
        }
        match revision {
            Some(6) => {
                register(&mut skel.maps.high_v6)?;
                register(&mut skel.maps.low_v6)?;
            }
            Some(7) => {
                register(&mut skel.maps.high_v7)?;
                register(&mut skel.maps.low_v7)?;
            }
            _ => {}
        }
        Ok(Self { _tracepoints: tracepoints, ring, heard, skel, _slot: slot, revision })
    }

    /// The sessions, by the ids of their cgroups, that have begun to hurt or go on.
    pub(super) fn take(&self) -> Vec<u64> {
        self.ring.consume_raw();
        let mut heard = std::mem::take(&mut *self.heard.lock());
        heard.sort_unstable();
        heard.dedup();
        heard
    }

    /// Watches a cgroup; with `memcg_bpf_ops` the hooks are attached to it for as long as the
    /// returned descriptor is open.
    pub(super) fn add(&self, cgroup: &Cgroup, role: MemoryRole) -> Result<Option<OwnedFd>> {
        let session = intf::memory_session {
            role: match role {
                MemoryRole::High => intf::memory_role_ROLE_HIGH,
                MemoryRole::Low => intf::memory_role_ROLE_LOW,
            },
            pad: 0,
            // Until it is measured.
            target: u64::MAX,
            part: 0,
            until: 0,
            told: 0,
            faults_since: 0,
            faults: 0,
            hurts: [0; 2],
            calls: 0,
            active: 0,
            delay_ms: 0,
        };
        let id = cgroup.id()?;
        self.store(id, &session, MapFlags::ANY)?;
        let link = match (self.revision, role) {
            (Some(6), MemoryRole::High) => link(self.skel.maps.high_v6.as_fd(), cgroup, 6),
            (Some(6), MemoryRole::Low) => link(self.skel.maps.low_v6.as_fd(), cgroup, 6),
            (Some(7), MemoryRole::High) => link(self.skel.maps.high_v7.as_fd(), cgroup, 7),
            (Some(7), MemoryRole::Low) => link(self.skel.maps.low_v7.as_fd(), cgroup, 7),
            _ => return Ok(None),
        };
        if link.is_err() {
            self.remove(id);
        }
        link.map(Some)
    }

    /// Forgets a session.
    pub(super) fn remove(&self, id: u64) {
        // A session that is not known any more is what is wanted.
        let _ = self.skel.maps.sessions.delete(&id.to_ne_bytes());
    }

    /// Tells the programs how long the window of a high session lasts, and up to which use of memory
    /// all of it is protected; above that, nothing.
    pub(super) fn protect(&mut self, id: u64, left: Duration, target: u64) -> Result<()> {
        let until = monotonic_ns() + left.as_nanos() as u64;
        self.change(id, |s| {
            s.until = until;
            s.target = target;
        })?;
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut()
            && bss.hurting_until < until
        {
            bss.hurting_until = until;
        }
        Ok(())
    }

    /// The window of a high session is over.
    pub(super) fn unprotect(&self, id: u64) -> Result<()> {
        self.change(id, |s| (s.until, s.target) = (0, u64::MAX))
    }

    /// Nobody is protected any more.
    pub(super) fn release(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            bss.hurting_until = 0;
        }
    }

    /// Tells the programs what a low session may have.
    pub(super) fn set_part(&self, id: u64, part: u64) -> Result<()> {
        self.change(id, |s| s.part = part)
    }

    pub(super) fn counts(&self, id: u64) -> Counts {
        self.session(id).map_or(Counts::default(), |s| Counts {
            calls: s.calls,
            answered: s.active,
            delay_ms: s.delay_ms,
        })
    }

    /// The counters that a program changes meanwhile may lose that change: they are statistics.
    fn change(&self, id: u64, change: impl FnOnce(&mut intf::memory_session)) -> Result<()> {
        let Some(mut session) = self.session(id) else { return Ok(()) };
        change(&mut session);
        self.store(id, &session, MapFlags::EXIST)
    }

    fn session(&self, id: u64) -> Option<intf::memory_session> {
        let value = self.skel.maps.sessions.lookup(&id.to_ne_bytes(), MapFlags::ANY).ok()??;
        if value.len() < size_of::<intf::memory_session>() {
            return None;
        }
        // SAFETY: there are enough bytes, and the struct is made of integers, for which every bit
        // pattern is valid.
        Some(unsafe { value.as_ptr().cast::<intf::memory_session>().read_unaligned() })
    }

    fn store(&self, id: u64, session: &intf::memory_session, flags: MapFlags) -> Result<()> {
        // SAFETY: plain integers without padding, read as bytes for the length of the call.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(session).cast::<u8>(),
                size_of::<intf::memory_session>(),
            )
        };
        self.skel
            .maps
            .sessions
            .update(&id.to_ne_bytes(), bytes, flags)
            .map_err(libbpf("tell the BPF programs of a session"))
    }
}

impl AsFd for Hooks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: libbpf keeps the epoll descriptor open as long as the ring lives, as does `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

/// Fills in the table. libbpf does it while it attaches the table to no cgroup, which then fails.
fn register(map: &mut MapMut<'_>) -> Result<()> {
    match map.attach_struct_ops() {
        Ok(_attached) => Ok(()),
        Err(e) if matches!(e.kind(), libbpf_rs::ErrorKind::NotFound) => Ok(()),
        Err(e) if matches!(e.kind(), libbpf_rs::ErrorKind::InvalidInput) => Ok(()),
        Err(e) => Err(libbpf("register the table of memcg_bpf_ops")(e)),
    }
}

/// `BPF_LINK_CREATE` as the revisions have it; libbpf knows neither.
fn link(map: BorrowedFd<'_>, cgroup: &Cgroup, revision: u32) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: i32 = 28;
    const BPF_STRUCT_OPS: u32 = 44;
    const BPF_F_CGROUP_FD: u32 = 1 << 7;
    /// The head of `union bpf_attr`'s `link_create`.
    #[repr(C)]
    #[derive(Default)]
    struct LinkCreate {
        map_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        pad: u32,
        expected_revision: u64,
    }
    let target = cgroup.as_fd().as_raw_fd() as u32;
    let mut attr = LinkCreate {
        map_fd: map.as_raw_fd() as u32,
        attach_type: BPF_STRUCT_OPS,
        ..Default::default()
    };
    if revision == 7 {
        attr.target_fd = target;
        attr.flags = BPF_F_CGROUP_FD;
    } else {
        attr.relative_fd = target;
    }
    // SAFETY: the kernel reads the struct, of the size that it is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &attr, size_of_val(&attr)) };
    if fd < 0 {
        let e = std::io::Error::last_os_error();
        let busy = e.raw_os_error() == Some(libc::EBUSY);
        let error = Error::os("attach memcg_bpf_ops to", cgroup.path(), e);
        return Err(if busy {
            error.or_help("it, a cgroup above or one below has such hooks already")
        } else {
            error
        });
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The tracepoint of page faults, which `threshold` needs.
pub(super) fn require_fault_events() -> Result<()> {
    let btf = libbpf_rs::btf::Btf::from_vmlinux().map_err(libbpf("read the kernel's BTF"))?;
    let name = "btf_trace_count_memcg_events";
    if btf.type_by_name::<libbpf_rs::btf::types::Typedef<'_>>(name).is_some() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "no tracepoint memcg:count_memcg_events, which a threshold of page faults needs",
    )
    .or_help("boot kernel 6.16 or newer, or leave the threshold at 0"))
}
