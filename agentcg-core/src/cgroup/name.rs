use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The name of one cgroup directory: what a session or a tool call may be called.
///
/// Not empty, at most 128 bytes, no `/`, no control characters, not starting with `.` and not a
/// name that the kernel gives its own files (`cgroup.*`, `memory.*`, ...).
///
/// ```
/// use agentcg_core::CgroupName;
/// assert!("agent-7".parse::<CgroupName>().is_ok());
/// assert!("../etc".parse::<CgroupName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupName(String);

/// A file of a controller and a child cgroup share one directory: `mkdir cpu.max` fails with EEXIST,
/// and a name that a later controller takes would break then.
const KERNEL_PREFIXES: [&str; 10] =
    ["cgroup.", "cpu.", "cpuset.", "hugetlb.", "io.", "irq.", "memory.", "misc.", "pids.", "rdma."];

impl CgroupName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the value and the rule.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > Self::MAX_LEN {
            "it is longer than 128 bytes"
        } else if name.starts_with('.') {
            "it starts with a dot"
        } else if name.contains('/') {
            "it contains a slash"
        } else if name.chars().any(char::is_control) {
            "it contains a control character"
        } else if KERNEL_PREFIXES.iter().any(|p| name.starts_with(p)) {
            "the kernel uses this prefix for its own files"
        } else {
            return Ok(Self(name));
        };
        Err(Error::invalid("cgroup name", name, why))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::new(s)
    }
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        let long = "x".repeat(129);
        for (name, rule) in [
            ("", "empty"),
            (".", "dot"),
            ("..", "dot"),
            ("a/b", "slash"),
            ("a\nb", "control"),
            ("a\0", "control"),
            ("memory.max", "kernel"),
            (long.as_str(), "128"),
        ] {
            let e = CgroupName::new(name).expect_err(name);
            assert!(e.to_string().contains(rule), "{name:?}: {e}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_path_component(name in ".*") {
            if let Ok(name) = CgroupName::new(name) {
                let parts: Vec<_> = std::path::Path::new(name.as_str()).components().collect();
                prop_assert_eq!(parts.len(), 1);
                prop_assert!(matches!(parts[0], std::path::Component::Normal(_)));
            }
        }
    }
}
