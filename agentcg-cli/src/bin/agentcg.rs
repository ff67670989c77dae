//! `agentcg`; all of it is in `program.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentcg_cli::program::run(std::env::args_os())
}
