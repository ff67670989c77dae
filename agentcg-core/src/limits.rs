//! [`Limits`]: what a session or a tool call may take.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::cgroup::{Cgroup, Controller, CpuMax, Limit, LimitFile, check_weight};
use crate::{Error, Result};

/// The limits of one cgroup. What is `None` stays as the kernel has it.
///
/// ```
/// use agentcg_core::Limits;
/// let mut limits = Limits::default();
/// limits.memory_max = Some("512M".parse()?);
/// limits.cpu_max = Some(1.5);
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// `memory.min`, bytes: never reclaimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_min: Option<Limit>,
    /// `memory.low`, bytes: reclaimed only when nothing else is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low: Option<Limit>,
    /// `memory.high`, bytes: above it the processes are slowed and reclaimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<Limit>,
    /// `memory.max`, bytes: above it the OOM killer comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Limit>,
    /// `memory.swap.max`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_max: Option<Limit>,
    /// `cpu.weight`, 1 to 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// CPUs' worth of time, `cpu.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<f64>,
    /// `pids.max`, processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<Limit>,
    /// `io.weight`, 1 to 10000; needs the BFQ or iocost policy on the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
    /// `io.max`, one entry a device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_max: Vec<IoMax>,
}

impl Limits {
    /// Refuses what cannot be, before anything is made.
    ///
    /// # Errors
    /// `InvalidInput`, naming the value.
    pub fn check(&self) -> Result<()> {
        self.cpu_weight.map_or(Ok(()), check_weight)?;
        self.io_weight.map_or(Ok(()), check_weight)?;
        self.cpu_max.map_or(Ok(()), |c| CpuMax::from_cores(c).map(drop))
    }

    /// These limits, and those of `below` where these say nothing; of `io_max` each device by itself.
    ///
    /// ```
    /// use agentcg_core::Limits;
    /// let (mut given, mut hinted) = (Limits::default(), Limits::default());
    /// given.cpu_max = Some(2.0);
    /// hinted.cpu_max = Some(1.0);
    /// hinted.pids_max = Some(100.into());
    /// let limits = given.over(&hinted);
    /// assert_eq!((limits.cpu_max, limits.pids_max), (Some(2.0), Some(100.into())));
    /// ```
    pub fn over(&self, below: &Limits) -> Limits {
        let mut io_max = self.io_max.clone();
        let ours = |max: &&IoMax| !self.io_max.iter().any(|m| m.device == max.device);
        io_max.extend(below.io_max.iter().filter(ours).cloned());
        Limits {
            memory_min: self.memory_min.or(below.memory_min),
            memory_low: self.memory_low.or(below.memory_low),
            memory_high: self.memory_high.or(below.memory_high),
            memory_max: self.memory_max.or(below.memory_max),
            swap_max: self.swap_max.or(below.swap_max),
            cpu_weight: self.cpu_weight.or(below.cpu_weight),
            cpu_max: self.cpu_max.or(below.cpu_max),
            pids_max: self.pids_max.or(below.pids_max),
            io_weight: self.io_weight.or(below.io_weight),
            io_max,
        }
    }

    /// The limits that one file of a number or `max` holds.
    fn files(&self) -> [(LimitFile, Option<Limit>); 6] {
        [
            (LimitFile::MemoryMin, self.memory_min),
            (LimitFile::MemoryLow, self.memory_low),
            (LimitFile::MemoryHigh, self.memory_high),
            (LimitFile::MemoryMax, self.memory_max),
            (LimitFile::SwapMax, self.swap_max),
            (LimitFile::PidsMax, self.pids_max),
        ]
    }

    /// Writes the limits; what `controllers` lacks is an error.
    pub(crate) fn apply(&self, cgroup: &Cgroup, controllers: &[Controller]) -> Result<()> {
        let need = |c: Controller, what: &str| {
            if controllers.contains(&c) {
                return Ok(());
            }
            Err(Error::unsupported(
                format!("{what} needs the {c} controller, which is not available in"),
                format!("enable it: echo +{c} > cgroup.subtree_control in every ancestor"),
            )
            .at(cgroup.path()))
        };
        self.check()?;
        for (file, limit) in self.files() {
            let Some(limit) = limit else { continue };
            let controller =
                if file == LimitFile::PidsMax { Controller::Pids } else { Controller::Memory };
            need(controller, file.name())?;
            cgroup.set_limit(file, limit)?;
        }
        if let Some(weight) = self.cpu_weight {
            need(Controller::Cpu, "cpu_weight")?;
            cgroup.set_cpu_weight(weight)?;
        }
        if let Some(cores) = self.cpu_max {
            need(Controller::Cpu, "cpu_max")?;
            cgroup.set_cpu_max(CpuMax::from_cores(cores)?)?;
        }
        if let Some(weight) = self.io_weight {
            need(Controller::Io, "io_weight")?;
            cgroup.write("io.weight", &weight.to_string())?;
        }
        for max in &self.io_max {
            need(Controller::Io, "io_max")?;
            cgroup.write("io.max", &max.to_string())?;
        }
        Ok(())
    }
}

/// One line of `io.max`: what a cgroup may read and write on one block device, each second.
///
/// ```
/// use agentcg_core::IoMax;
/// let max: IoMax = "259:0 rbps=10M wiops=100".parse()?;
/// assert_eq!(max.read_bytes, Some(10 << 20));
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IoMax {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// `rbps`, bytes/s.
    pub read_bytes: Option<u64>,
    /// `wbps`, bytes/s.
    pub write_bytes: Option<u64>,
    /// `riops`, operations/s.
    pub read_operations: Option<u64>,
    /// `wiops`, operations/s.
    pub write_operations: Option<u64>,
}

impl FromStr for IoMax {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid("io.max", s, why);
        let form = "expected MAJOR:MINOR and at least one of rbps=, wbps=, riops=, wiops=";
        let mut words = s.split_whitespace();
        let device = words.next().and_then(|w| w.split_once(':')).ok_or_else(|| bad(form))?;
        let number = |n: &str| n.parse().map_err(|_| bad(form));
        let mut max = Self { device: (number(device.0)?, number(device.1)?), ..Self::default() };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| bad(form))?;
            let value = crate::parse_size(value)?;
            let field = match key {
                "rbps" => &mut max.read_bytes,
                "wbps" => &mut max.write_bytes,
                "riops" => &mut max.read_operations,
                "wiops" => &mut max.write_operations,
                _ => return Err(bad(form)),
            };
            *field = Some(value);
        }
        if max.to_string().contains('=') { Ok(max) } else { Err(bad(form)) }
    }
}

/// As the kernel reads it.
impl fmt::Display for IoMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device.0, self.device.1)?;
        for (key, value) in [
            ("rbps", self.read_bytes),
            ("wbps", self.write_bytes),
            ("riops", self.read_operations),
            ("wiops", self.write_operations),
        ] {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_max_is_what_the_kernel_reads() {
        let max: IoMax = "8:16 wbps=1M rbps=2097152".parse().unwrap();
        assert_eq!(max.to_string(), "8:16 rbps=2097152 wbps=1048576");
        for bad in ["", "8", "8:x rbps=1", "8:0", "8:0 rbps", "8:0 bps=1", "8:0 rbps=1Q"] {
            assert!(bad.parse::<IoMax>().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_over_limits_keep_each_device_once() {
        let io = |lines: &[&str]| Limits {
            io_max: lines.iter().map(|l| l.parse().unwrap()).collect(),
            ..Limits::default()
        };
        let merged = io(&["8:0 rbps=1"]).over(&io(&["8:0 rbps=2", "8:16 wiops=3"]));
        assert_eq!(merged, io(&["8:0 rbps=1", "8:16 wiops=3"]));
        // An explicit `max` is said, not silence.
        let max = Limits { memory_max: Some(Limit::Max), ..Limits::default() };
        let some = Limits { memory_max: Some(Limit::Value(1)), ..Limits::default() };
        assert_eq!(max.over(&some).memory_max, Some(Limit::Max));
    }

    #[test]
    fn a_limit_that_is_not_set_is_not_shown() {
        let limits = Limits { memory_max: Some(Limit::Value(4096)), ..Limits::default() };
        assert_eq!(serde_json::to_string(&limits).unwrap(), r#"{"memory_max":4096}"#);
    }
}
