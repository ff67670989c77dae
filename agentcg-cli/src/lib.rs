//! What the programs `agentcg`, `agentcg-bash` and `agentcgroupd` are made of. All of the work is in `agentcg-core`;
//! here are options, output and signals.
//!
//! | file | subject |
//! |---|---|
//! | `doctor.rs`, `scheduler.rs`, `memcg.rs`, `process.rs` | one subcommand each |
//! | `program.rs` | `agentcg` as a whole |
//! | `run.rs` | `agentcg run` |
//! | `bash/` | `agentcg-bash` |
//! | `tool_call.rs`, `forward.rs`, `records.rs` | what these two have in common: the call, signals, report and log |
//! | `ps.rs`, `top.rs`, `control.rs` | who runs, seen and acted on from outside; `target.rs` names, `view.rs` tables, `terminal.rs` |
//! | `report.rs` | `agentcg report` |
//! | `daemon/` | `agentcgroupd` |
//! | `signals.rs` | SIGINT and SIGTERM as a descriptor |
//! | `output.rs` | standard output that may go away, logging |

// The programs are here to print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod bash;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod forward;
pub mod memcg;
pub mod output;
pub mod process;
pub mod program;
pub mod ps;
pub mod records;
pub mod report;
pub mod run;
pub mod scheduler;
pub mod signals;
pub mod target;
pub mod terminal;
pub mod tool_call;
pub mod top;
pub mod view;
