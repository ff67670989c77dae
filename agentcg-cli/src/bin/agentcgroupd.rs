//! `agentcgroupd`: the scheduler, memory protection and process events together.

use std::process::ExitCode;

use agentcg_cli::{daemon, output};
use clap::Parser;

fn main() -> ExitCode {
    let args = daemon::Args::parse();
    output::log_to_stderr(match args.verbose {
        0 => "info,libbpf=warn,scx_utils=warn",
        1 => "debug,libbpf=warn,scx_utils=warn",
        _ => "debug",
    });
    output::finish("agentcgroupd", daemon::run(&args))
}
