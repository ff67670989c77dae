//! What the programs `agentcg` and `agentcgroupd` are made of. All of the work is in `agentcg-core`;
//! here are options, output and signals.
//!
//! | file | subject |
//! |---|---|
//! | `doctor.rs`, `scheduler.rs`, `memcg.rs`, `process.rs` | one subcommand each |
//! | `daemon/` | `agentcgroupd` |
//! | `signals.rs` | SIGINT and SIGTERM as a descriptor |
//! | `output.rs` | standard output that may go away, logging |

// The programs are here to print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod daemon;
pub mod doctor;
pub mod memcg;
pub mod output;
pub mod process;
pub mod scheduler;
pub mod signals;
