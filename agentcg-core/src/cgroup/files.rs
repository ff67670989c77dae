//! The formats of the cgroup v2 files that agentcg reads and writes.
//!
//! Every parser works on the text alone, so that it can be tested on captured contents; a key that
//! this kernel does not have is `None`, never zero.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::{Error, Result};

/// A limit as the kernel writes it: a number, or `max` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No limit (`max`).
    Max,
    /// Bytes for the memory files, processes for `pids.max`.
    Value(u64),
}

impl Limit {
    /// The number, or `None` for `max`.
    pub fn value(self) -> Option<u64> {
        match self {
            Limit::Max => None,
            Limit::Value(v) => Some(v),
        }
    }
}

impl From<u64> for Limit {
    fn from(v: u64) -> Self {
        Limit::Value(v)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.write_str("max"),
            Limit::Value(v) => write!(f, "{v}"),
        }
    }
}

/// Parses a kernel file's content or a user's size: `max`, bytes, or a number with `K`, `M`, `G`.
impl FromStr for Limit {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.trim_end() {
            "max" => Ok(Limit::Max),
            size => crate::parse_size(size).map(Limit::Value),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Limit::Max => s.serialize_str("max"),
            Limit::Value(v) => s.serialize_u64(*v),
        }
    }
}

/// A file that holds one [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitFile {
    /// `memory.min`, bytes: hard protection from reclaim.
    MemoryMin,
    /// `memory.low`, bytes: best-effort protection from reclaim.
    MemoryLow,
    /// `memory.high`, bytes: above it the group is throttled and reclaimed.
    MemoryHigh,
    /// `memory.max`, bytes: above it the group's OOM killer runs.
    MemoryMax,
    /// `memory.swap.max`, bytes.
    SwapMax,
    /// `pids.max`, processes and threads.
    PidsMax,
}

impl LimitFile {
    /// The kernel's name of the file.
    pub fn name(self) -> &'static str {
        match self {
            LimitFile::MemoryMin => "memory.min",
            LimitFile::MemoryLow => "memory.low",
            LimitFile::MemoryHigh => "memory.high",
            LimitFile::MemoryMax => "memory.max",
            LimitFile::SwapMax => "memory.swap.max",
            LimitFile::PidsMax => "pids.max",
        }
    }
}

/// A cgroup v2 controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// CPU weights and limits.
    Cpu,
    /// CPU and memory-node affinity.
    Cpuset,
    /// Disk bandwidth.
    Io,
    /// Memory and swap.
    Memory,
    /// Number of processes.
    Pids,
}

impl Controller {
    /// The controllers that agentcg uses, as a session needs them.
    pub const USED: [Controller; 4] =
        [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Io => "io",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
        }
    }

    /// The known controllers in the content of `cgroup.controllers` or `cgroup.subtree_control`;
    /// others (`hugetlb`, `rdma`, `misc`) are left out.
    pub(crate) fn list(text: &str) -> Vec<Controller> {
        use Controller::*;
        [Cpu, Cpuset, Io, Memory, Pids]
            .into_iter()
            .filter(|c| text.split_whitespace().any(|w| w == c.name()))
            .collect()
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of `key` in a flat-keyed file (`key value` lines).
fn flat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `cpu.stat`: what the group and its descendants used. Times in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuStat {
    /// All CPU time.
    pub usage_usec: u64,
    /// In user mode.
    pub user_usec: u64,
    /// In the kernel.
    pub system_usec: u64,
    /// Throttled by `cpu.max`; only with the cpu controller.
    pub throttled_usec: Option<u64>,
}

impl CpuStat {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            usage_usec: flat(text, "usage_usec")?,
            user_usec: flat(text, "user_usec")?,
            system_usec: flat(text, "system_usec")?,
            throttled_usec: flat(text, "throttled_usec"),
        })
    }
}

/// `memory.events`: how often the group (with descendants) met its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEvents {
    /// Reclaimed although below `memory.low`.
    pub low: u64,
    /// Throttled and reclaimed because above `memory.high`.
    pub high: u64,
    /// About to go over `memory.max`.
    pub max: u64,
    /// Allocations that failed at `memory.max`.
    pub oom: u64,
    /// Processes killed by any OOM killer; one that was chosen and then killed with its whole group is
    /// counted twice, unless it had no memory any more.
    pub oom_kill: u64,
    /// Groups killed whole (kernel 5.17).
    pub oom_group_kill: Option<u64>,
}

impl MemoryEvents {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            low: flat(text, "low")?,
            high: flat(text, "high")?,
            max: flat(text, "max")?,
            oom: flat(text, "oom")?,
            oom_kill: flat(text, "oom_kill")?,
            oom_group_kill: flat(text, "oom_group_kill"),
        })
    }
}

impl MemoryEvents {
    /// What has come since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            low: self.low.saturating_sub(before.low),
            high: self.high.saturating_sub(before.high),
            max: self.max.saturating_sub(before.max),
            oom: self.oom.saturating_sub(before.oom),
            oom_kill: self.oom_kill.saturating_sub(before.oom_kill),
            oom_group_kill: self
                .oom_group_kill
                .map(|n| n.saturating_sub(before.oom_group_kill.unwrap_or(0))),
        }
    }
}

/// `pids.events` and `pids.events.local`: how often a fork was refused.
pub(crate) fn pids_events(text: &str) -> Option<u64> {
    flat(text, "max")
}

/// `cpu.stat.local` (kernel 6.6): how long the tasks of this very cgroup were throttled, by whatever
/// level's `cpu.max`, summed over the CPUs; µs.
pub(crate) fn cpu_stat_local(text: &str) -> Option<u64> {
    flat(text, "throttled_usec")
}

/// The bytes of one line of `io.stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoStat {
    pub device: (u32, u32),
    pub read: u64,
    pub written: u64,
}

impl IoStat {
    /// The devices with numbers. A line without any is what the kernel prints of a device that
    /// nothing has touched; several can stand on one line then.
    pub(crate) fn parse(text: &str) -> impl Iterator<Item = IoStat> {
        text.lines().filter_map(|line| {
            let mut device = None;
            let (mut read, mut written) = (None, None);
            for word in line.split_ascii_whitespace() {
                if let Some(n) = word.strip_prefix("rbytes=") {
                    read = n.parse().ok();
                } else if let Some(n) = word.strip_prefix("wbytes=") {
                    written = n.parse().ok();
                } else if let Some((major, minor)) = word.split_once(':') {
                    device = Some((major.parse().ok()?, minor.parse().ok()?));
                }
            }
            Some(IoStat { device: device?, read: read?, written: written? })
        })
    }
}

/// One line of a pressure file: the share of time, in percent, in which tasks stalled, and the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Percent over the last 10 s.
    pub avg10: f64,
    /// Percent over the last 60 s.
    pub avg60: f64,
    /// Percent over the last 300 s.
    pub avg300: f64,
    /// All stall time, µs.
    pub total_usec: u64,
}

/// `memory.pressure`, `cpu.pressure` or `io.pressure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one task stalled.
    pub some: Stall,
    /// All tasks stalled; CPU pressure has it from kernel 5.13.
    pub full: Option<Stall>,
}

impl Pressure {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |kind: &str| {
            let fields = text.lines().find_map(|l| l.strip_prefix(kind))?;
            let field = |key: &str| {
                fields.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='))
            };
            Some(Stall {
                avg10: field("avg10")?.parse().ok()?,
                avg60: field("avg60")?.parse().ok()?,
                avg300: field("avg300")?.parse().ok()?,
                total_usec: field("total")?.parse().ok()?,
            })
        };
        Some(Self { some: line("some")?, full: line("full") })
    }

    /// The time in which some task stalled, µs; of all that the file says, without the rest.
    pub(crate) fn stalled(text: &str) -> Option<u64> {
        let some = text.lines().find_map(|l| l.strip_prefix("some "))?;
        some.split_ascii_whitespace().find_map(|f| f.strip_prefix("total=")?.parse().ok())
    }
}

/// `cgroup.events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Events {
    /// A process lives in the group or below it.
    pub populated: bool,
    /// Every process of the group is frozen.
    pub frozen: bool,
}

impl Events {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            populated: flat(text, "populated")? != 0,
            // The root cgroup has no cgroup.events; all others have both keys since 5.2.
            frozen: flat(text, "frozen")? != 0,
        })
    }
}

/// `cpu.max`: run time allowed in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMax {
    /// Run time per period over all CPUs; `None` is `max`.
    pub quota: Option<Duration>,
    /// The period.
    pub period: Duration,
}

impl CpuMax {
    /// The kernel's default period.
    pub const PERIOD: Duration = Duration::from_millis(100);

    /// `cores` CPUs' worth of time.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when it is not a number or less
    /// than the kernel's smallest quota of 1 ms in 100 ms (0.01 cores).
    pub fn from_cores(cores: f64) -> Result<Self> {
        if !(0.01..=1e5).contains(&cores) {
            return Err(Error::invalid("number of cores", cores, "expected 0.01 or more"));
        }
        Ok(Self { quota: Some(Self::PERIOD.mul_f64(cores)), period: Self::PERIOD })
    }
}

impl CpuMax {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (quota, period) = text.trim_end().split_once(' ')?;
        let micros = |n: &str| n.parse().ok().map(Duration::from_micros);
        let quota = if quota == "max" { None } else { Some(micros(quota)?) };
        Some(Self { quota, period: micros(period)? })
    }

    /// The CPUs' worth of time that it allows; `None` when it is no limit.
    pub(crate) fn cores(&self) -> Option<f64> {
        self.quota.filter(|_| !self.period.is_zero()).map(|q| q.div_duration_f64(self.period))
    }
}

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota {
            Some(q) => write!(f, "{} {}", q.as_micros(), self.period.as_micros()),
            None => write!(f, "max {}", self.period.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_keep_max_apart_from_numbers() {
        assert_eq!("max\n".parse::<Limit>().unwrap(), Limit::Max);
        assert_eq!("1048576\n".parse::<Limit>().unwrap(), Limit::Value(1 << 20));
        assert_eq!("1M".parse::<Limit>().unwrap(), Limit::Value(1 << 20));
        assert_eq!(Limit::Max.to_string(), "max");
        assert!("maximum".parse::<Limit>().is_err());
    }

    #[test]
    fn cpu_stat_without_the_controller_has_no_throttling() {
        let bare = "usage_usec 125\nuser_usec 100\nsystem_usec 25\nnice_usec 0\n";
        let stat = CpuStat::parse(bare).unwrap();
        assert_eq!((stat.usage_usec, stat.throttled_usec), (125, None));
        let full = format!("{bare}nr_periods 4\nnr_throttled 2\nthrottled_usec 77\n");
        assert_eq!(CpuStat::parse(&full).unwrap().throttled_usec, Some(77));
        assert_eq!(CpuStat::parse(""), None);
    }

    #[test]
    fn memory_events_of_7_3() {
        let text = "low 0\nhigh 12\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\nsock_throttled 0\n";
        let e = MemoryEvents::parse(text).unwrap();
        assert_eq!((e.high, e.oom_kill, e.oom_group_kill), (12, 1, Some(0)));
    }

    #[test]
    fn pressure_lines() {
        let text = "some avg10=0.12 avg60=0.05 avg300=0.01 total=98765\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4321\n";
        let p = Pressure::parse(text).unwrap();
        assert_eq!(p.some.avg10, 0.12);
        assert_eq!(p.full.unwrap().total_usec, 4321);
        assert_eq!(Pressure::parse("some avg10=x"), None);
        assert_eq!(Pressure::stalled(text), Some(98_765));
        assert_eq!(Pressure::stalled("full avg10=0.00 total=1\n"), None);
    }

    #[test]
    fn cpu_max_in_the_kernels_words() {
        assert_eq!(CpuMax::from_cores(1.5).unwrap().to_string(), "150000 100000");
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(CpuMax::from_cores(bad).is_err());
        }
        assert_eq!(CpuMax::parse("150000 100000\n").unwrap().cores(), Some(1.5));
        assert_eq!(CpuMax::parse("max 100000\n").unwrap().cores(), None);
        assert_eq!(CpuMax::parse("max\n"), None);
    }

    #[test]
    fn io_stat_of_6_18_has_devices_without_numbers() {
        let text = "7:7 7:6 7:5 \n254:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 \n\
                    8:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=5\n";
        let found: Vec<_> = IoStat::parse(text).collect();
        assert_eq!(
            found,
            [
                IoStat { device: (254, 0), read: 1_459_200, written: 314_773_504 },
                IoStat { device: (8, 16), read: 4096, written: 0 },
            ]
        );
        assert_eq!(IoStat::parse("").count(), 0);
    }

    #[test]
    fn refused_forks_and_local_throttling() {
        assert_eq!(pids_events("max 17\n"), Some(17));
        assert_eq!(pids_events(""), None);
        assert_eq!(cpu_stat_local("throttled_usec 90123\n"), Some(90_123));
    }

    #[test]
    fn events_since_a_moment() {
        let at = |n: u64| MemoryEvents { oom: n, oom_kill: 2 * n, ..MemoryEvents::default() };
        let risen = at(5).since(&at(3));
        assert_eq!((risen.oom, risen.oom_kill, risen.oom_group_kill), (2, 4, None));
    }

    #[test]
    fn unknown_controllers_are_left_out() {
        assert_eq!(Controller::list("cpuset cpu io memory hugetlb pids rdma misc dmem\n").len(), 5);
        assert_eq!(Controller::list("hugetlb\n"), []);
    }
}
