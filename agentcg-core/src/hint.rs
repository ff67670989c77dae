//! [`Hint`]: what an agent says a tool call needs, and what becomes of it.
//!
//! | item | means | becomes |
//! |---|---|---|
//! | `memory:low`, `memory:medium`, `memory:high` | a class, [`HintClasses`] | `memory.max` |
//! | `memory:1.5G` | bytes, or a number with `K`, `M`, `G` | `memory.max` |
//! | `memory:auto`, `auto` | what the command's history proposes | `memory.max` |
//! | `cpu:1.5` | cores | `cpu.max` |
//! | `pids:200` | processes and threads | `pids.max` |
//! | `time:10m` | `500ms`, `30s`, `5m`, `1h30m` | the call's timeout |
//!
//! Items are separated by commas or white space. A hint is a request: the session's own limits
//! bound it ([`Bounds`]), and limits that were given beside the hint win over it
//! ([`Limits::over`]).
//!
//! Memory becomes `memory.max` and not `memory.high`: above `memory.high` the kernel throttles a
//! call to a crawl, and its harness sees a command that hangs. Above `memory.max` it ends at once,
//! with a verdict that names the limit, and a retry with double the memory is cheap.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::cgroup::{CpuMax, Limit};
use crate::limits::Limits;
use crate::units::{exact_size, size_in_words};
use crate::{Error, Result};

/// The least memory that can be asked for: less than a page is no memory at all.
const MEMORY_FLOOR: u64 = 4096;

/// What an agent says a call needs. What is `None` was not said.
///
/// ```
/// use agentcg_core::{Hint, MemoryHint};
/// let hint: Hint = "memory:high, cpu:2 time:10m".parse()?;
/// assert_eq!(hint.memory, Some(MemoryHint::High));
/// assert_eq!(hint.to_string(), "memory:high,cpu:2,time:10m");
///
/// let error = "memory:huge".parse::<Hint>().unwrap_err();
/// assert!(error.to_string().contains("expected low, medium, high, auto or a size"));
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Hint {
    /// Memory, bytes or a class.
    pub memory: Option<MemoryHint>,
    /// Cores, 0.01 or more.
    pub cpu: Option<f64>,
    /// Processes and threads, 1 or more.
    pub pids: Option<u64>,
    /// Time from start to end, more than zero.
    pub time: Option<Duration>,
}

/// The memory that a [`Hint`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryHint {
    /// [`HintClasses::low`].
    Low,
    /// [`HintClasses::medium`].
    Medium,
    /// [`HintClasses::high`].
    High,
    /// What the history of the command proposes; no limit of its own while there is none.
    Auto,
    /// Bytes.
    Size(u64),
}

/// What the classes of memory mean, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HintClasses {
    /// `memory:low`; 512 MiB unless changed.
    pub low: u64,
    /// `memory:medium`; 2 GiB unless changed.
    pub medium: u64,
    /// `memory:high`; 8 GiB unless changed.
    pub high: u64,
}

impl Default for HintClasses {
    fn default() -> Self {
        Self { low: 512 << 20, medium: 2 << 30, high: 8 << 30 }
    }
}

impl HintClasses {
    /// Refuses classes that are not in order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the three sizes.
    pub fn check(&self) -> Result<()> {
        if (MEMORY_FLOOR..=self.medium).contains(&self.low) && self.medium <= self.high {
            return Ok(());
        }
        let sizes = [self.low, self.medium, self.high].map(exact_size).join(", ");
        Err(Error::invalid("hint classes", sizes, "expected 4K <= low <= medium <= high"))
    }
}

/// What a session lets its calls have at most. What is `None` is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Bounds {
    /// The session's `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// The session's `cpu.max`, cores.
    pub cpu_max: Option<f64>,
    /// The session's `pids.max`, processes and threads.
    pub pids_max: Option<u64>,
    /// The longest time that a call of the session may take.
    pub time: Option<Duration>,
}

/// The bounds that a session's limits are; these have none for the time.
impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self {
            memory_max: limits.memory_max.and_then(Limit::value),
            cpu_max: limits.cpu_max,
            pids_max: limits.pids_max.and_then(Limit::value),
            time: None,
        }
    }
}

/// What became of a [`Hint`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Resolved {
    /// For the call; only what the hint asked for is set.
    pub limits: Limits,
    /// For the call, if the hint asked for a time.
    pub timeout: Option<Duration>,
    /// Where the hint was not followed to the letter, and why; one sentence each.
    pub notes: Vec<String>,
}

impl Hint {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Limits for one call. `proposal` is what the history of its command proposes, bytes
    /// ([`History::propose`](crate::History::propose)); only `memory:auto` looks at it.
    ///
    /// A value above the session's own is clamped to that, for the kernel would hold the call to
    /// it all the same, and said in [`Resolved::notes`].
    pub fn resolve(
        &self,
        classes: &HintClasses,
        bounds: &Bounds,
        proposal: Option<u64>,
    ) -> Resolved {
        let mut to = Resolved::default();
        if let Some(memory) = self.memory {
            match memory.bytes(classes, proposal) {
                Some(bytes) => {
                    let asked = memory.in_words(bytes);
                    let limit =
                        clamp(bytes, bounds.memory_max, &asked, "memory.max", size_in_words, &mut to.notes);
                    to.limits.memory_max = Some(Limit::Value(limit));
                }
                None => to.notes.push(
                    "memory:auto has no history of this command to go by: no limit of its own, the session's holds"
                        .to_owned(),
                ),
            }
        }
        if let Some(cpu) = self.cpu {
            let words = |c: f64| if c == 1.0 { "1 core".to_owned() } else { format!("{c} cores") };
            let limit =
                clamp(cpu, bounds.cpu_max, &format!("cpu:{cpu}"), "cpu.max", words, &mut to.notes);
            to.limits.cpu_max = Some(limit);
        }
        if let Some(pids) = self.pids {
            let words = |n: u64| n.to_string();
            let limit = clamp(
                pids,
                bounds.pids_max,
                &format!("pids:{pids}"),
                "pids.max",
                words,
                &mut to.notes,
            );
            to.limits.pids_max = Some(Limit::Value(limit));
        }
        if let Some(time) = self.time {
            let asked = format!("time:{}", exact_time(time));
            let limit = clamp(time, bounds.time, &asked, "time limit", exact_time, &mut to.notes);
            to.timeout = Some(limit);
        }
        to
    }
}

/// The smaller of the two; says so when it is the bound.
fn clamp<T: PartialOrd + Copy>(
    value: T,
    bound: Option<T>,
    asked: &str,
    limit: &str,
    in_words: impl Fn(T) -> String,
    notes: &mut Vec<String>,
) -> T {
    match bound {
        Some(bound) if value > bound => {
            notes.push(format!("{asked} clamped to the session's {limit} of {}", in_words(bound)));
            bound
        }
        _ => value,
    }
}

impl MemoryHint {
    /// Bytes; `None` for `auto` without a proposal.
    fn bytes(self, classes: &HintClasses, proposal: Option<u64>) -> Option<u64> {
        match self {
            Self::Low => Some(classes.low),
            Self::Medium => Some(classes.medium),
            Self::High => Some(classes.high),
            Self::Size(bytes) => Some(bytes),
            Self::Auto => proposal,
        }
    }

    /// As it was asked for, with the bytes where it does not say them itself.
    fn in_words(self, bytes: u64) -> String {
        match self {
            Self::Size(_) => format!("memory:{self}"),
            _ => format!("memory:{self} ({})", size_in_words(bytes)),
        }
    }
}

/// As in a hint: `low`, `medium`, `high`, `auto` or a size.
impl FromStr for MemoryHint {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            "auto" => Ok(Self::Auto),
            size => match crate::parse_size(size) {
                Ok(bytes) if bytes >= MEMORY_FLOOR => Ok(Self::Size(bytes)),
                _ => Err(Error::invalid(
                    "memory hint",
                    s,
                    "expected low, medium, high, auto or a size of 4K or more, such as 512M",
                )),
            },
        }
    }
}

impl fmt::Display for MemoryHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.write_str("low"),
            Self::Medium => f.write_str("medium"),
            Self::High => f.write_str("high"),
            Self::Auto => f.write_str("auto"),
            Self::Size(bytes) => f.write_str(&exact_size(*bytes)),
        }
    }
}

impl FromStr for Hint {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let mut hint = Self::default();
        for item in s.split(|c: char| c == ',' || c.is_whitespace()).filter(|i| !i.is_empty()) {
            let bad = |why: &str| Error::invalid("hint", item, why);
            let (key, value) = match item.split_once(':') {
                Some(pair) => pair,
                None if item == "auto" => ("memory", "auto"),
                None => return Err(bad("expected memory:, cpu:, pids: or time: with a value")),
            };
            let twice = match key {
                "memory" => hint.memory.replace(value.parse().map_err(|_| {
                    bad("expected low, medium, high, auto or a size of 4K or more, such as 512M")
                })?).is_some(),
                "cpu" => hint.cpu.replace(cores(value).ok_or_else(|| {
                    bad("expected a number of cores, 0.01 or more, such as 1.5")
                })?).is_some(),
                "pids" => hint.pids.replace(pids(value).ok_or_else(|| {
                    bad("expected a number of processes, 1 or more, such as 200")
                })?).is_some(),
                "time" => hint.time.replace(time(value).ok_or_else(|| {
                    bad("expected a time of more than zero, such as 500ms, 30s, 5m or 1h30m")
                })?).is_some(),
                _ => return Err(bad("expected memory:, cpu:, pids: or time: with a value")),
            };
            if twice {
                return Err(bad(&format!("{key} is there twice, expected it once")));
            }
        }
        Ok(hint)
    }
}

fn cores(text: &str) -> Option<f64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let cores = text.parse().ok().filter(|_| digits)?;
    CpuMax::from_cores(cores).ok().map(|_| cores)
}

fn pids(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&n| digits && n > 0)
}

fn time(text: &str) -> Option<Duration> {
    crate::parse_duration(text).ok().filter(|t| !t.is_zero())
}

/// As it is parsed, with nothing that would separate items.
fn exact_time(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// As it is parsed.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = [
            self.memory.map(|m| format!("memory:{m}")),
            self.cpu.map(|c| format!("cpu:{c}")),
            self.pids.map(|n| format!("pids:{n}")),
            self.time.map(|t| format!("time:{}", exact_time(t))),
        ];
        f.write_str(&items.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

impl Serialize for Hint {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    fn hint(text: &str) -> Hint {
        text.parse().unwrap()
    }

    #[test]
    fn items_are_separated_by_commas_or_white_space() {
        let all = Hint {
            memory: Some(MemoryHint::Size(3 << 29)),
            cpu: Some(1.5),
            pids: Some(200),
            time: Some(Duration::from_secs(5400)),
        };
        for text in [
            "memory:1.5G,cpu:1.5,pids:200,time:90m",
            "time:1h30m  pids:200\tcpu:1.50 , memory:1536MiB,",
        ] {
            assert_eq!(hint(text), all, "{text}");
        }
        assert_eq!(all.to_string(), "memory:1536M,cpu:1.5,pids:200,time:1h30m");
        assert_eq!(hint("auto"), hint("memory:auto"));
        assert!(hint("").is_empty() && hint(" ,\n").is_empty());
        assert_eq!(serde_json::to_string(&hint("pids:1 auto")).unwrap(), r#""memory:auto,pids:1""#);
    }

    #[test]
    fn errors_name_the_item_and_what_was_expected() {
        for (text, item, expected) in [
            ("cpu:1 memory:huge", "memory:huge", "low, medium, high, auto or a size"),
            ("memory:", "memory:", "such as 512M"),
            ("memory:2", "memory:2", "4K or more"),
            ("memory:-1", "memory:-1", "4K or more"),
            ("high", "high", "memory:, cpu:, pids: or time:"),
            ("ram:2G", "ram:2G", "memory:, cpu:, pids: or time:"),
            ("memory=2G", "memory=2G", "memory:, cpu:, pids: or time:"),
            ("memory: high", "memory:", "low, medium"),
            ("cpu:0", "cpu:0", "0.01 or more"),
            ("cpu:NaN", "cpu:NaN", "cores"),
            ("cpu:inf", "cpu:inf", "cores"),
            ("cpu:1e2", "cpu:1e2", "cores"),
            ("cpu:50%", "cpu:50%", "cores"),
            ("pids:0", "pids:0", "1 or more"),
            ("pids:+5", "pids:+5", "1 or more"),
            ("pids:99999999999999999999", "pids:99999999999999999999", "processes"),
            ("time:5", "time:5", "30s"),
            ("time:0s", "time:0s", "more than zero"),
            ("memory:low,memory:high", "memory:high", "twice"),
            ("auto memory:auto", "memory:auto", "twice"),
        ] {
            let e = text.parse::<Hint>().expect_err(text);
            assert_eq!(e.kind(), crate::ErrorKind::InvalidInput);
            let message = e.to_string();
            assert!(message.starts_with(&format!("invalid hint {item:?}: ")), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn classes_become_memory_max() {
        let classes = HintClasses::default();
        for (text, bytes) in [
            ("memory:low", 512 << 20),
            ("memory:medium", 2 << 30),
            ("memory:high", 8 << 30),
            ("memory:auto", 300 << 20),
            ("memory:64K", 64 << 10),
        ] {
            let to = hint(text).resolve(&classes, &Bounds::default(), Some(300 << 20));
            let limits = Limits { memory_max: Some(Limit::Value(bytes)), ..Limits::default() };
            assert_eq!((to.limits, to.notes), (limits, vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_above_the_sessions_limits_is_clamped_and_said() {
        let bounds = Bounds {
            memory_max: Some(2 << 30),
            cpu_max: Some(1.0),
            pids_max: Some(64),
            time: Some(Duration::from_secs(60)),
        };
        let to = hint("memory:8G cpu:4 pids:1000 time:5m").resolve(
            &HintClasses::default(),
            &bounds,
            None,
        );
        assert_eq!(to.limits.memory_max, Some(Limit::Value(2 << 30)));
        assert_eq!(to.limits.cpu_max, Some(1.0));
        assert_eq!(to.limits.pids_max, Some(Limit::Value(64)));
        assert_eq!(to.timeout, bounds.time);
        assert_eq!(
            to.notes,
            [
                "memory:8G clamped to the session's memory.max of 2 GiB",
                "cpu:4 clamped to the session's cpu.max of 1 core",
                "pids:1000 clamped to the session's pids.max of 64",
                "time:5m clamped to the session's time limit of 1m",
            ]
        );
        let to = hint("memory:high").resolve(&HintClasses::default(), &bounds, None);
        assert_eq!(to.notes, ["memory:high (8 GiB) clamped to the session's memory.max of 2 GiB"]);
        let to = hint("memory:2G cpu:1").resolve(&HintClasses::default(), &bounds, None);
        assert_eq!(to.notes, [""; 0]);
    }

    #[test]
    fn auto_without_history_sets_nothing_and_says_so() {
        let to = hint("auto").resolve(&HintClasses::default(), &Bounds::default(), None);
        assert_eq!(to.limits, Limits::default());
        assert!(to.notes[0].contains("no history"), "{:?}", to.notes);
    }

    #[test]
    fn classes_are_in_order() {
        assert!(HintClasses::default().check().is_ok());
        let e = HintClasses { low: 4 << 30, ..Default::default() }.check().unwrap_err();
        assert!(e.to_string().contains("4G, 2G, 8G"), "{e}");
        assert!(HintClasses { low: 0, ..Default::default() }.check().is_err());
    }

    fn any_hint() -> impl Strategy<Value = Hint> {
        let memory = prop_oneof![
            Just(MemoryHint::Low),
            Just(MemoryHint::Medium),
            Just(MemoryHint::High),
            Just(MemoryHint::Auto),
            (MEMORY_FLOOR..1 << 53).prop_map(MemoryHint::Size),
            (1u64..1 << 20).prop_map(|m| MemoryHint::Size(m << 20)),
        ];
        let time = (0u64..1 << 40, 1u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n));
        (of(memory), of(0.01f64..1e5), of(1u64..), of(time))
            .prop_map(|(memory, cpu, pids, time)| Hint { memory, cpu, pids, time })
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(hint in any_hint()) {
            prop_assert_eq!(hint.to_string().parse::<Hint>().unwrap(), hint);
        }

        #[test]
        fn no_text_panics_and_what_parses_reads_back(
            text in "((memory|cpu|pids|time|auto|x)?:?([0-9.]{0,9}|low|max)[KMGsmhd]{0,2}[, \u{2003}]?){0,4}|.*",
        ) {
            if let Ok(hint) = text.parse::<Hint>() {
                prop_assert_eq!(hint.to_string().parse::<Hint>().unwrap(), hint);
            }
        }

        #[test]
        fn nothing_is_above_its_bound(
            hint in any_hint(), memory in of(1u64..1 << 40), cpu in of(0.01f64..64.0),
            pids in of(1u64..1000), time in of(1u64..1000), proposal in of(0u64..1 << 40),
        ) {
            let bounds = Bounds {
                memory_max: memory, cpu_max: cpu, pids_max: pids, time: time.map(Duration::from_secs),
            };
            let to = hint.resolve(&HintClasses::default(), &bounds, proposal);
            let free = hint.resolve(&HintClasses::default(), &Bounds::default(), proposal);
            let bytes = to.limits.memory_max.and_then(Limit::value);
            prop_assert!(bytes.is_none() || memory.is_none() || bytes <= memory);
            prop_assert!(to.limits.cpu_max.is_none() || cpu.is_none() || to.limits.cpu_max <= cpu);
            let n = to.limits.pids_max.and_then(Limit::value);
            prop_assert!(n.is_none() || pids.is_none() || n <= pids);
            prop_assert!(to.timeout.is_none() || time.is_none() || to.timeout <= bounds.time);
            // A note for each difference, and for nothing else.
            let differences = [
                to.limits.memory_max != free.limits.memory_max,
                to.limits.cpu_max != free.limits.cpu_max,
                to.limits.pids_max != free.limits.pids_max,
                to.timeout != free.timeout,
            ];
            let differences = differences.iter().filter(|d| **d).count();
            prop_assert_eq!(to.notes.len() - free.notes.len(), differences);
        }
    }
}
