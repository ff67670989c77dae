//! [`Usage`]: what a call or a session took, from the kernel's files.
//!
//! | file | fields | there since kernel |
//! |---|---|---|
//! | `cpu.stat` | CPU times; throttling only with the cpu controller | always |
//! | `memory.peak` | `memory_peak_bytes` | 5.19 |
//! | `memory.swap.peak` | `swap_peak_bytes` | 6.5 |
//! | `memory.events` | `memory_high_events`, `oom_kills` | 4.6 |
//! | `pids.peak` | `pids_peak` | 6.1 |
//! | `io.stat` | `io_read_bytes`, `io_write_bytes` | always |
//! | `*.pressure` | the stall times | 4.20, with PSI |
//!
//! It is read at the end of every call, so each file is opened, read and closed once, into one
//! buffer, and nothing else is allocated unless something is missing. Where the caller waits for one
//! call, the files are opened while that runs: to find and open one takes the kernel longer than to
//! read it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::cgroup::{Cgroup, Controller, CpuStat, IoStat, MemoryEvents, Pressure, pids_events};
use crate::scheduler::SchedExt;

/// What the kernel says that a cgroup used, its descendants included. What this kernel, or this
/// cgroup, does not count is `None`, with the reason in [`unavailable`](Self::unavailable).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// The most memory at one time, page cache included, bytes (kernel 5.19).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Memory now, bytes; only of what still runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_current_bytes: Option<u64>,
    /// The most swap at one time, bytes (kernel 6.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_peak_bytes: Option<u64>,
    /// The largest resident set of the main process and of each child it waited for, bytes; not
    /// their sum. From `wait4`, so there without any controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// CPU time in user mode, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_system_us: Option<u64>,
    /// Held back by its own `cpu.max`, summed over the CPUs, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttled_us: Option<u64>,
    /// Read from block devices, bytes. What the page cache served is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Written to block devices, bytes. Writes are counted when they reach the device, which can be
    /// after the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    /// The most processes and threads at one time (kernel 6.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_peak: Option<u64>,
    /// Time in which some task waited for memory, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stall_us: Option<u64>,
    /// Time in which some task waited for a CPU, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stall_us: Option<u64>,
    /// Time in which some task waited for I/O, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_stall_us: Option<u64>,
    /// How often it went over its own `memory.high` and was slowed for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_events: Option<u64>,
    /// Processes killed by an OOM killer, its own cgroup's or another, as the kernel counts them: one
    /// that it chose with `memory.oom.group` most often twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Names of missing fields, each with the reason.
    #[serde(skip)]
    pub unavailable: BTreeMap<&'static str, String>,
}

/// The files that are read at the end of a call; with a controller: there if that is enabled.
const AT_THE_END: [(Option<Controller>, &CStr); 10] = [
    (None, c"cpu.stat"),
    (None, c"memory.pressure"),
    (None, c"cpu.pressure"),
    (None, c"io.pressure"),
    (Some(Controller::Memory), c"memory.events"),
    (Some(Controller::Memory), c"memory.peak"),
    (Some(Controller::Memory), c"memory.swap.peak"),
    (Some(Controller::Io), c"io.stat"),
    (Some(Controller::Pids), c"pids.peak"),
    (Some(Controller::Pids), c"pids.events"),
];

/// Files that were opened ahead. One that is missing is looked for once more when it is to be read.
#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<(&'static CStr, OwnedFd)>);

impl Ahead {
    pub(super) fn open(cgroup: &Cgroup, controllers: &[Controller]) -> Self {
        let there =
            |controller: Option<Controller>| controller.is_none_or(|c| controllers.contains(&c));
        let files = AT_THE_END.into_iter().filter(|(controller, _)| there(*controller));
        Self(files.filter_map(|(_, file)| Some((file, open(cgroup, file).ok()?))).collect())
    }
}

fn open(cgroup: &Cgroup, file: &CStr) -> Result<OwnedFd, Errno> {
    fs::openat(cgroup.as_fd(), file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// How often a cgroup met limits, its own or those above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Met {
    /// `memory.events`; `None` without the memory controller.
    pub memory: Option<MemoryEvents>,
    /// `pids.events`: refused forks; `None` without the pids controller.
    pub refused_forks: Option<u64>,
}

impl Usage {
    /// Of a cgroup that is in use: with [`memory_current_bytes`](Self::memory_current_bytes).
    pub(crate) fn read(cgroup: &Cgroup) -> Self {
        let mut files = Files::of(cgroup);
        let mut usage = Self::default();
        usage.read_files(&mut files, &SchedExt::open());
        usage.memory_current_bytes = match files.number(c"memory.current") {
            Ok(now) => Some(now),
            Err(e) => {
                let why = files.why(Controller::Memory, c"memory.current", "5.14", e);
                usage.unavailable.insert("memory_current_bytes", why);
                None
            }
        };
        usage
    }

    /// The usage and, from files that are read for it anyway, how often limits were met.
    /// Only the files of these controllers are looked for.
    pub(super) fn with_events(
        cgroup: &Cgroup,
        controllers: &[Controller],
        ahead: Ahead,
        sched_ext: &SchedExt,
    ) -> (Self, Met) {
        let mut files = Files { controllers: Some(controllers), ahead, ..Files::of(cgroup) };
        let mut usage = Self::default();
        let memory = usage.read_files(&mut files, sched_ext);
        let refused_forks = files.of_controller(Controller::Pids, c"pids.events", pids_events).ok();
        (usage, Met { memory, refused_forks })
    }

    /// As a JSON object with a member for each number that there is, and `unavailable`.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct All<'a> {
            #[serde(flatten)]
            usage: &'a Usage,
            unavailable: &'a BTreeMap<&'static str, String>,
        }
        // Numbers and strings always make JSON.
        serde_json::to_string(&All { usage: self, unavailable: &self.unavailable })
            .unwrap_or_default()
    }

    /// CPU time, user and kernel, µs.
    pub fn cpu_us(&self) -> Option<u64> {
        self.cpu_user_us.zip(self.cpu_system_us).map(|(user, system)| user.saturating_add(system))
    }

    fn read_files(&mut self, files: &mut Files<'_>, sched_ext: &SchedExt) -> Option<MemoryEvents> {
        self.read_cpu(files, sched_ext);
        let events = self.read_memory(files);
        self.read_io(files);
        self.pids_peak = self.or_why(
            "pids_peak",
            files.of_controller(Controller::Pids, c"pids.peak", number),
            |e| files.why(Controller::Pids, c"pids.peak", "6.1", e),
        );
        for (field, file, value) in [
            ("memory_stall_us", c"memory.pressure", &mut self.memory_stall_us),
            ("cpu_stall_us", c"cpu.pressure", &mut self.cpu_stall_us),
            ("io_stall_us", c"io.pressure", &mut self.io_stall_us),
        ] {
            match files.parsed(file, Pressure::stalled) {
                Ok(stalled) => *value = Some(stalled),
                Err(e) => drop(self.unavailable.insert(field, files.why_no_pressure(file, e))),
            }
        }
        events
    }

    fn read_cpu(&mut self, files: &mut Files<'_>, sched_ext: &SchedExt) {
        match files.parsed(c"cpu.stat", CpuStat::parse) {
            Ok(cpu) => {
                self.cpu_user_us = Some(cpu.user_usec);
                self.cpu_system_us = Some(cpu.system_usec);
                self.cpu_throttled_us = cpu.throttled_usec;
                if cpu.throttled_usec.is_none() {
                    self.unavailable.insert("cpu_throttled_us", no_controller("cpu"));
                } else if cpu.throttled_usec == Some(0)
                    && let Some(name) = sched_ext.attached()
                {
                    // cpu.stat counts what the kernel's own scheduler throttles.
                    self.cpu_throttled_us = None;
                    let why = format!("the sched_ext scheduler {name} enforces cpu.max");
                    self.unavailable.insert("cpu_throttled_us", why);
                }
            }
            Err(e) => {
                for field in ["cpu_user_us", "cpu_system_us", "cpu_throttled_us"] {
                    self.unavailable.insert(field, failed(c"cpu.stat", e));
                }
            }
        }
    }

    fn read_memory(&mut self, files: &mut Files<'_>) -> Option<MemoryEvents> {
        let events =
            match files.of_controller(Controller::Memory, c"memory.events", MemoryEvents::parse) {
                Ok(events) => events,
                Err(e) => {
                    // Without the controller none of its files is there: no need to try them.
                    let why = files.why(Controller::Memory, c"memory.events", "4.6", e);
                    for field in
                        ["memory_peak_bytes", "swap_peak_bytes", "memory_high_events", "oom_kills"]
                    {
                        self.unavailable.insert(field, why.clone());
                    }
                    return None;
                }
            };
        self.memory_high_events = Some(events.high);
        self.oom_kills = Some(events.oom_kill);
        self.memory_peak_bytes =
            self.or_why("memory_peak_bytes", files.number(c"memory.peak"), |e| {
                files.why(Controller::Memory, c"memory.peak", "5.19", e)
            });
        self.swap_peak_bytes =
            self.or_why("swap_peak_bytes", files.number(c"memory.swap.peak"), |e| {
                if e == Errno::NOENT && !files.has(c"memory.swap.current") {
                    "the kernel does not account for swap (CONFIG_SWAP)".to_owned()
                } else {
                    files.why(Controller::Memory, c"memory.swap.peak", "6.5", e)
                }
            });
        Some(events)
    }

    fn read_io(&mut self, files: &mut Files<'_>) {
        match files
            .of_controller(Controller::Io, c"io.stat", |text| Some(device_bytes(text, is_stacked)))
        {
            Ok((read, written)) => {
                self.io_read_bytes = Some(read);
                self.io_write_bytes = Some(written);
            }
            Err(e) => {
                let why = files.why(Controller::Io, c"io.stat", "4.5", e);
                self.unavailable.insert("io_read_bytes", why.clone());
                self.unavailable.insert("io_write_bytes", why);
            }
        }
    }

    fn or_why(
        &mut self,
        field: &'static str,
        value: Result<u64, Errno>,
        why: impl FnOnce(Errno) -> String,
    ) -> Option<u64> {
        value.map_err(|e| self.unavailable.insert(field, why(e))).ok()
    }
}

/// Bytes read and written over all devices. A device that is made of others (LUKS, LVM, RAID) has
/// passed its bytes on to them, where they are counted too: it is left out.
fn device_bytes(text: &str, stacked: impl Fn((u32, u32)) -> bool) -> (u64, u64) {
    let used = || IoStat::parse(text).filter(|d| d.read > 0 || d.written > 0);
    let several = used().nth(1).is_some();
    used()
        .filter(|d| !several || !stacked(d.device))
        .fold((0, 0), |(r, w), d| (r.saturating_add(d.read), w.saturating_add(d.written)))
}

fn is_stacked((major, minor): (u32, u32)) -> bool {
    std::fs::read_dir(format!("/sys/dev/block/{major}:{minor}/slaves"))
        .is_ok_and(|mut slaves| slaves.next().is_some())
}

fn no_controller(name: &str) -> String {
    format!("the {name} controller is not enabled for this cgroup")
}

fn failed(file: &CStr, e: Errno) -> String {
    match e {
        Errno::NODEV => "the cgroup has been removed".to_owned(),
        e => format!("reading {} failed: {e}", file.to_string_lossy()),
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim_end().parse().ok()
}

/// The files of one cgroup, read one after the other into one buffer.
pub(crate) struct Files<'a> {
    cgroup: &'a Cgroup,
    /// Those that are enabled, where that is known: to find that a file is missing takes the kernel
    /// as long as to read it.
    controllers: Option<&'a [Controller]>,
    ahead: Ahead,
    buf: Vec<u8>,
}

impl<'a> Files<'a> {
    pub(crate) fn of(cgroup: &'a Cgroup) -> Self {
        // Most files have less to say.
        Self { cgroup, controllers: None, ahead: Ahead::default(), buf: vec![0; 1000] }
    }

    /// What `parse` makes of the file's content; `EIO` when it makes nothing of it.
    pub(crate) fn parsed<T>(
        &mut self,
        file: &CStr,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Errno> {
        let now;
        let fd = match self.ahead.0.iter().find(|(name, _)| *name == file) {
            Some((_, fd)) => fd,
            None => {
                now = open(self.cgroup, file)?;
                &now
            }
        };
        let mut len = 0;
        loop {
            let n = rustix::io::pread(fd, &mut self.buf[len..], len as u64)?;
            len += n;
            // The kernel gives all it has: what does not fill the buffer is the end.
            if n == 0 || len < self.buf.len() {
                break;
            }
            self.buf.resize(len * 2, 0);
        }
        std::str::from_utf8(&self.buf[..len]).ok().and_then(parse).ok_or(Errno::IO)
    }

    pub(crate) fn number(&mut self, file: &CStr) -> Result<u64, Errno> {
        self.parsed(file, number)
    }

    /// The same of a file that is there if the controller is enabled.
    fn of_controller<T>(
        &mut self,
        controller: Controller,
        file: &CStr,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Errno> {
        if self.lacks(controller) { Err(Errno::NOENT) } else { self.parsed(file, parse) }
    }

    fn lacks(&self, controller: Controller) -> bool {
        self.controllers.is_some_and(|enabled| !enabled.contains(&controller))
    }

    fn has(&self, file: &CStr) -> bool {
        fs::accessat(self.cgroup.as_fd(), file, Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Why a controller's file cannot be read: the controller is not there, or the kernel is older
    /// than `since`.
    fn why(&self, controller: Controller, file: &CStr, since: &str, e: Errno) -> String {
        let first = match controller {
            Controller::Memory => c"memory.current",
            Controller::Pids => c"pids.current",
            _ => c"io.stat",
        };
        match e {
            Errno::NOENT if !self.lacks(controller) && self.has(first) => {
                format!("this kernel has no {}: it came with {since}", file.to_string_lossy())
            }
            Errno::NOENT => no_controller(controller.name()),
            e => failed(file, e),
        }
    }

    fn why_no_pressure(&self, file: &CStr, e: Errno) -> String {
        match e {
            Errno::NOENT if self.has(c"cgroup.pressure") => {
                "pressure is switched off for this cgroup (cgroup.pressure)".to_owned()
            }
            Errno::NOENT | Errno::OPNOTSUPP => {
                "the kernel has no pressure stall information, or it is off (boot with psi=1)"
                    .to_owned()
            }
            e => failed(file, e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACKED: &str = "\
253:0 rbytes=1000 wbytes=2000 rios=1 wios=1 dbytes=0 dios=0
8:0 rbytes=1000 wbytes=2500 rios=1 wios=1 dbytes=0 dios=0
7:0 \n";

    #[test]
    fn bytes_of_a_device_on_another_are_counted_once() {
        let (luks, disk) = ((253, 0), (8, 0));
        assert_eq!(device_bytes(STACKED, |d| d == luks), (1000, 2500));
        assert_eq!(device_bytes(STACKED, |_| false), (2000, 4500));
        // The only one counts, whatever it is.
        let one = "253:0 rbytes=7 wbytes=8 rios=1 wios=1 dbytes=0 dios=0\n";
        assert_eq!(device_bytes(one, |d| d != disk), (7, 8));
    }

    #[test]
    fn what_is_missing_is_absent_from_the_json() {
        let mut usage = Usage { cpu_user_us: Some(5), ..Usage::default() };
        usage.unavailable.insert("pids_peak", "why".into());
        assert_eq!(serde_json::to_string(&usage).unwrap(), r#"{"cpu_user_us":5}"#);
    }

    /// On any machine with cgroup v2: each field has a value or a reason.
    #[test]
    fn every_field_has_a_value_or_a_reason() {
        let Ok(cgroup) = crate::own_path().and_then(Cgroup::open) else { return };
        let controllers = cgroup.controllers().unwrap();
        let ahead = Ahead::open(&cgroup, &controllers);
        let (usage, met) = Usage::with_events(&cgroup, &controllers, ahead, &SchedExt::open());
        let json = serde_json::to_value(&usage).unwrap();
        for field in [
            "memory_peak_bytes",
            "swap_peak_bytes",
            "cpu_user_us",
            "cpu_system_us",
            "cpu_throttled_us",
            "io_read_bytes",
            "io_write_bytes",
            "pids_peak",
            "memory_stall_us",
            "cpu_stall_us",
            "io_stall_us",
            "memory_high_events",
            "oom_kills",
        ] {
            let there = json.get(field).is_some();
            assert_ne!(there, usage.unavailable.contains_key(field), "{field}: {usage:?}");
        }
        assert_eq!(met.memory.is_some(), usage.oom_kills.is_some());
    }
}
