use serde::Serialize;

use crate::bpf::scheduler::skel::SchedulerSkel;
use libbpf_rs::{MapCore, MapFlags};

/// The class of a [`SchedulerExit`]: the kernel's `enum scx_exit_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerExitKind {
    /// We detached it.
    Detached,
    /// The scheduler itself asked to leave.
    AskedByScheduler,
    /// The kernel asked it to leave, as at CPU hotplug.
    AskedByKernel,
    /// An operator pressed sysrq-S.
    SysRq,
    /// The kernel found an error.
    Error,
    /// The scheduler reported an error.
    ErrorOfScheduler,
    /// A runnable task did not run for the watchdog's time.
    Stall,
}

impl SchedulerExitKind {
    fn from_kernel(kind: i32) -> Self {
        match kind {
            65 => Self::AskedByScheduler,
            66 => Self::AskedByKernel,
            67 => Self::SysRq,
            1025 => Self::ErrorOfScheduler,
            1026 => Self::Stall,
            k if k >= 1024 => Self::Error,
            _ => Self::Detached,
        }
    }

    /// Something went wrong.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::ErrorOfScheduler | Self::Stall)
    }
}

/// Why a scheduler is no longer attached, in the kernel's words (`struct scx_exit_info`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulerExit {
    /// The class.
    pub kind: SchedulerExitKind,
    /// `exit_code` of the kernel.
    pub code: i64,
    /// The reason in a few words.
    pub reason: String,
    /// What in particular.
    pub message: String,
    /// The kernel's dump of tasks and queues at an error; empty otherwise.
    pub dump: String,
}

impl Default for SchedulerExit {
    fn default() -> Self {
        Self {
            kind: SchedulerExitKind::Detached,
            code: 0,
            reason: String::new(),
            message: String::new(),
            dump: String::new(),
        }
    }
}

impl std::fmt::Display for SchedulerExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.reason.is_empty() { "detached" } else { &self.reason })?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// What ops.exit recorded; `None` while the scheduler is attached.
pub(super) fn read(skel: &SchedulerSkel<'_>) -> Option<SchedulerExit> {
    let uei = &skel.maps.data_data.as_deref()?.uei;
    // SAFETY: the reference is valid; the kernel may write the field at any time, so it is read
    // once and not assumed to stay.
    let kind = unsafe { std::ptr::read_volatile(&raw const uei.kind) };
    if kind == 0 {
        return None;
    }
    let dump = skel
        .maps
        .data_uei_dump
        .lookup(&0u32.to_ne_bytes(), MapFlags::ANY)
        .ok()
        .flatten()
        .unwrap_or_default();
    Some(SchedulerExit {
        kind: SchedulerExitKind::from_kernel(kind),
        code: uei.exit_code,
        reason: text(uei.reason.iter().map(|c| *c as u8)),
        message: text(uei.msg.iter().map(|c| *c as u8)),
        dump: text(dump.into_iter()),
    })
}

fn text(bytes: impl Iterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_the_kernel() {
        use SchedulerExitKind as K;
        assert_eq!(K::from_kernel(64), K::Detached);
        assert_eq!(K::from_kernel(67), K::SysRq);
        assert_eq!(K::from_kernel(1026), K::Stall);
        assert!(K::from_kernel(1024).is_error() && !K::from_kernel(66).is_error());
    }
}
