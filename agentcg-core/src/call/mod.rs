//! Tool calls.
//!
//! | file | subject |
//! |---|---|
//! | `usage.rs` | [`Usage`]: what a cgroup took, from the kernel's files |
//! | `evidence.rs` | the counters of a call and of the cgroups above it, before and after |
//! | `oom.rs` | the victim and the limit of an OOM kill, from the kernel log |
//! | `verdict.rs` | the verdict and its cause, decided from the evidence |
//! | `advice.rs` | what to do about it, in words and as data |
//! | `outcome.rs` | [`Outcome`]: all of it together, and its JSON |

mod advice;
mod evidence;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod kernel_tests;
mod oom;
mod outcome;
#[cfg(test)]
mod tests;
mod usage;
mod verdict;

pub use advice::Suggestion;
pub use oom::parse as parse_kernel_log;
pub use outcome::{
    Captured, Cause, Effect, Ended, Outcome, Sample, Scope, Survivor, Verdict, Victim,
};
pub use usage::Usage;
