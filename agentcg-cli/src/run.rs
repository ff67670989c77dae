//! `agentcg run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agentcg_core::{Hint, Limit, Limits};
use anyhow::Result;

use crate::records::Records;
use crate::tool_call::{self, FAILED, Request};

/// Options of `agentcg run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status:
  that of COMMAND; 128 + N when signal N ended it; 124 timed out; 125 agentcg failed, nothing was run;
  126 COMMAND cannot be executed; 127 it was not found

Environment:
  AGENTCG_ROOT, AGENTCG_SESSION, AGENT_RESOURCE_HINT  as --root, --session, --hint
  AGENTCG_LOG  append the outcome of every call to this file, one JSON object a line")]
pub struct Args {
    /// The session to run it in; made when it is missing [default: default]
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// The cgroup that holds the sessions [default: agentcg below the cgroup v2 mount]
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
    /// What it needs: memory:low|medium|high|auto|SIZE, cpu:CORES, pids:N, time:DURATION
    #[arg(long)]
    hint: Option<Hint>,
    /// Slow it above this much memory
    #[arg(long, value_name = "SIZE")]
    memory_high: Option<Limit>,
    /// Kill it above this much memory
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<Limit>,
    /// The most swap
    #[arg(long, value_name = "SIZE")]
    swap_max: Option<Limit>,
    /// Its share of the CPU beside other calls, 1 to 10000 (100)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cpu_weight: Option<u32>,
    /// The most CPU time, in CPUs: 1.5
    #[arg(long, value_name = "CORES")]
    cpu_max: Option<f64>,
    /// The most processes and threads
    #[arg(long, value_name = "N")]
    pids_max: Option<Limit>,
    /// End it after this time: SIGTERM, then SIGKILL
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// From the first signal to SIGKILL [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = agentcg_core::parse_duration)]
    grace: Option<Duration>,
    /// Write the outcome as JSON; - is standard error
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Do not say on standard error what ended it
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn duration(text: &str) -> Result<Duration, String> {
    match agentcg_core::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than zero".into()),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

impl Args {
    fn request(&self) -> Result<Request> {
        let mut limits = Limits::default();
        limits.memory_high = self.memory_high;
        limits.memory_max = self.memory_max;
        limits.swap_max = self.swap_max;
        limits.cpu_weight = self.cpu_weight;
        limits.cpu_max = self.cpu_max;
        limits.pids_max = self.pids_max;
        limits.check()?;
        let (program, args) =
            self.command.split_first().map_or((None, &[][..]), |(p, a)| (Some(p), a));
        Ok(Request {
            root: self.root.clone().or_else(root_from_env),
            session: self.session.clone().map_or_else(session_from_env, Ok)?,
            program: program.cloned().unwrap_or_default(),
            args: args.to_vec(),
            hint: match &self.hint {
                Some(hint) => hint.clone(),
                None => hint_from_env()?,
            },
            limits,
            timeout: self.timeout,
            grace: self.grace,
            ..Request::default()
        })
    }
}

/// `AGENTCG_ROOT`.
pub fn root_from_env() -> Option<PathBuf> {
    std::env::var_os("AGENTCG_ROOT").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `AGENTCG_SESSION`, else `default`.
pub(crate) fn session_from_env() -> Result<String> {
    let given = std::env::var_os("AGENTCG_SESSION").filter(|v| !v.is_empty());
    let name = given.unwrap_or_else(|| "default".into());
    name.into_string().map_err(|name| anyhow::anyhow!("AGENTCG_SESSION is not UTF-8: {name:?}"))
}

/// `AGENT_RESOURCE_HINT`.
pub(crate) fn hint_from_env() -> Result<Hint> {
    let text = std::env::var_os("AGENT_RESOURCE_HINT").unwrap_or_default();
    text.to_string_lossy().parse().map_err(|e| anyhow::anyhow!("AGENT_RESOURCE_HINT: {e}"))
}

/// Runs the command; its exit status stands for what came of it.
pub fn run(args: &Args) -> ExitCode {
    let done = args.request().and_then(|request| {
        let log = std::env::var_os("AGENTCG_LOG");
        let records = Records::open(args.report.as_deref(), log.as_deref())?;
        Ok((tool_call::perform(&request)?, records))
    });
    match done {
        Ok((outcome, records)) => {
            if !args.quiet
                && let Some(advice) = tool_call::advice(&outcome)
            {
                eprintln!("agentcg: {advice}");
            }
            records.write(&outcome);
            ExitCode::from(tool_call::status(&outcome))
        }
        Err(e) => {
            eprintln!("agentcg: {e:#}");
            ExitCode::from(FAILED)
        }
    }
}
