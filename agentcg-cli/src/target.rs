//! Sessions and calls by the names that a user gives: `SESSION`, `SESSION/CALL`, or `CALL` alone
//! where there is one of that name.

use std::path::PathBuf;

use agentcg_core::{CallView, Runtime, SessionView, inspect};
use anyhow::{Result, bail};

use crate::run::root_from_env;

/// Where to look.
#[derive(Debug, clap::Args)]
pub struct RootArg {
    /// The cgroup that holds the sessions [default: AGENTCG_ROOT, else agentcg below the cgroup v2 mount]
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
}

impl RootArg {
    /// The root itself.
    ///
    /// # Errors
    /// No cgroup v2.
    pub fn path(&self) -> Result<PathBuf> {
        match self.root.clone().or_else(root_from_env) {
            Some(root) => Ok(root),
            None => Ok(Runtime::default_root()?),
        }
    }

    /// Its sessions.
    ///
    /// # Errors
    /// Those of [`inspect`].
    pub fn sessions(&self) -> Result<Vec<SessionView>> {
        Ok(inspect(&self.path()?)?)
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A whole session.
    Session(&'a SessionView),
    /// One call.
    Call(&'a CallView),
}

impl<'a> Target<'a> {
    /// Finds it.
    ///
    /// # Errors
    /// There is none of that name, or more than one; the error lists what there is.
    pub fn find(sessions: &'a [SessionView], name: &str) -> Result<Self> {
        if let Some((session, call)) = name.split_once('/') {
            let calls = sessions.iter().filter(|s| s.name == session).flat_map(|s| &s.calls);
            if let Some(call) = calls.into_iter().find(|c| c.name == call) {
                return Ok(Self::Call(call));
            }
        }
        if let Some(session) = sessions.iter().find(|s| s.name == name) {
            return Ok(Self::Session(session));
        }
        let all = || sessions.iter().flat_map(|s| &s.calls);
        let calls: Vec<_> = all().filter(|c| c.name == name).collect();
        match calls[..] {
            [call] => Ok(Self::Call(call)),
            [] if sessions.is_empty() => bail!("no session or call {name:?}: there is none at all"),
            [] => {
                let names = sessions.iter().map(|s| s.name.clone()).chain(all().map(full_name));
                bail!("no session or call {name:?}; there are: {}", list(names))
            }
            _ => {
                bail!("{name:?} is more than one call: {}", list(calls.into_iter().map(full_name)))
            }
        }
    }
}

/// `SESSION/CALL`.
pub fn full_name(call: &CallView) -> String {
    format!("{}/{}", call.session, call.name)
}

/// The first ones; a busy machine has thousands.
fn list(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.collect();
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
