//! [`Usage`]: what a call or a session took, from the kernel's files.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgroup::Cgroup;

/// What the kernel says that a cgroup used. What this kernel, or this cgroup, does not count is
/// `None`, with the reason in [`unavailable`](Self::unavailable).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time in user mode, µs.
    pub cpu_user_us: Option<u64>,
    /// Names of missing fields, each with the reason.
    pub unavailable: BTreeMap<&'static str, String>,
}

impl Usage {
    pub(crate) fn read(_cgroup: &Cgroup) -> Self {
        Self::default()
    }
}
