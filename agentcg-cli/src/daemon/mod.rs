//! `agentcgroupd`: all parts together.

mod config;
mod reattach;
mod report;

use std::os::fd::AsFd;
use std::process::ExitCode;

use agentcg_core::{
    Event, EventFilter, EventKind, EventMode, EventStream, Exec, MemcgConfig, MemoryProtection,
    Priority, Runtime, Session, path_of,
};
use anyhow::{Context, Result};

pub use config::{Args, HIGH, LOW, Plan, Rule};

use crate::signals::Signals;
use reattach::Reattached;
use report::Report;

/// The running daemon. The fields are dropped in this order: what is attached goes before the
/// cgroups.
struct Daemon {
    stream: Option<EventStream>,
    memory: Option<MemoryProtection>,
    scheduler: Reattached,
    sessions: Vec<(Session, u64)>,
    runtime: Runtime,
    plan: Plan,
}

/// Runs until SIGINT or SIGTERM; then everything is detached, removed and put back.
///
/// # Errors
/// A bad configuration; no cgroup v2, no permission; another daemon on the same root. A part that
/// this kernel does not support is no error: it is logged, and the others run.
pub fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is made, so that no signal finds it half done.
    let mut signals = Signals::install()?;
    let plan = Plan::new(args)?;
    let mut daemon = Daemon::start(args, plan)?;
    daemon.serve(&mut signals)?;
    tracing::info!("stopping");
    if let Some(path) = &args.report {
        let report = Report::new(&daemon);
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("write the report {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Daemon {
    fn start(args: &Args, plan: Plan) -> Result<Self> {
        let mut builder = Runtime::builder();
        if let Some(root) = &args.cgroup_root {
            builder = builder.root(root);
        }
        let runtime = builder.build()?;
        let mut sessions = Vec::new();
        for (name, config) in &plan.sessions {
            let session = runtime.session(name, config.clone())?;
            tracing::info!("session {} ({:?} priority)", session.path().display(), config.priority);
            sessions.push((session, 0));
        }
        let controllers: Vec<_> = runtime.controllers().iter().map(|c| c.name()).collect();
        tracing::info!(
            "controllers: {}",
            if controllers.is_empty() { "none".into() } else { controllers.join(" ") }
        );

        let scheduler = Reattached::new(&runtime, !args.no_scheduler);
        let memory = (!args.no_memcg)
            .then(|| part("memory protection", runtime.attach_memcg_ops(memcg_config(&sessions))))
            .flatten();
        let stream = part("process events", runtime.subscribe(event_filter(&plan)));
        if stream.is_none() {
            tracing::warn!("processes are not moved into sessions by themselves");
        }
        Ok(Self { stream, memory, scheduler, sessions, runtime, plan })
    }

    fn serve(&mut self, signals: &mut Signals) -> Result<()> {
        tracing::info!("ready");
        loop {
            let mut fds = Vec::new();
            fds.extend(self.stream.as_ref().map(AsFd::as_fd));
            fds.extend(self.scheduler.scheduler.as_ref().map(AsFd::as_fd));
            if signals.wait(&fds, self.scheduler.pause())? {
                return Ok(());
            }
            self.scheduler.look(&self.runtime);
            while let Some(event) = self.next_event()? {
                match event {
                    Event::Exec(exec) => self.place(&exec),
                    Event::Dropped(d) => tracing::warn!("{} events lost ({:?})", d.count, d.reason),
                    _ => {}
                }
                if signals.received() {
                    return Ok(());
                }
            }
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>> {
        Ok(match &mut self.stream {
            Some(stream) => stream.try_next()?,
            None => None,
        })
    }

    /// Moves a new process into its session, unless it is in one already.
    fn place(&mut self, exec: &Exec) {
        let comm = exec.origin.comm.to_string_lossy();
        let Some(name) = self.plan.session_for(&comm) else {
            return;
        };
        let pid = exec.origin.pid;
        let Ok(cgroup) = path_of(pid) else {
            tracing::debug!("{comm} ({pid}) was gone before it could be moved");
            return;
        };
        if cgroup.starts_with(self.runtime.root().path()) {
            return;
        }
        let Some((session, moved)) = self.sessions.iter_mut().find(|(s, _)| s.name() == name)
        else {
            return;
        };
        match self.runtime.move_pid(pid, session) {
            Ok(()) => {
                *moved += 1;
                tracing::info!("{comm} ({pid}) -> {name}");
            }
            Err(e) => tracing::debug!("{comm} ({pid}) stays: {e}"),
        }
    }
}

/// A part of the daemon, or a line that says why there is none.
fn part<T>(name: &str, result: agentcg_core::Result<T>) -> Option<T> {
    match result {
        Ok(part) => {
            tracing::info!("{name}: on");
            Some(part)
        }
        Err(e) => {
            tracing::warn!("{name}: off: {e}");
            None
        }
    }
}

fn memcg_config(sessions: &[(Session, u64)]) -> MemcgConfig {
    let paths = |priority| {
        let of = move |(s, _): &&(Session, u64)| s.priority() == priority;
        sessions.iter().filter(of).map(|(s, _)| s.path().to_path_buf()).collect()
    };
    let mut config = MemcgConfig::default();
    config.high = paths(Priority::High);
    config.low = paths(Priority::Low);
    config
}

fn event_filter(plan: &Plan) -> EventFilter {
    let mut filter = EventFilter::default();
    filter.mode = EventMode::TrackedOnly;
    filter.kinds = vec![EventKind::Exec];
    for rule in &plan.rules {
        if !filter.commands.contains(&rule.command) {
            filter.commands.push(rule.command.clone());
        }
    }
    filter
}
