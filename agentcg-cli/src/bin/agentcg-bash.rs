//! `agentcg-bash`: bash, with `bash -c` as a tool call.

use std::process::ExitCode;

use agentcg_cli::{bash, output};

fn main() -> ExitCode {
    // Nothing of ours belongs into an agent's standard error.
    if std::env::var_os("RUST_LOG").is_some() {
        output::log_to_stderr("warn");
    }
    bash::run(std::env::args_os())
}
