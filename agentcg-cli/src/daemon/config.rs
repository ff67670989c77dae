//! What `agentcgroupd` reads from its options and its configuration file.

use std::path::{Path, PathBuf};

use agentcg_core::{Limit, Priority, SessionConfig};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Options of `agentcgroupd`.
#[derive(Debug, clap::Parser)]
#[command(
    name = "agentcgroupd",
    version,
    about = "Schedules, protects and watches the processes of AI agents"
)]
pub struct Args {
    /// The cgroup to make the sessions in [default: agentcg below the cgroup v2 mount]
    pub cgroup_root: Option<PathBuf>,
    /// Leave the CPU to the kernel's scheduler
    #[arg(long)]
    pub no_scheduler: bool,
    /// Do not protect memory
    #[arg(long)]
    pub no_memcg: bool,
    /// Commands whose new processes move into session_high; `python` also matches python3.11
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub commands: Option<Vec<String>>,
    /// Sessions and rules, TOML; see docs/agentcgroupd.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write what each session used, and when memory was protected, as JSON at the end
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Log more; twice for libbpf's messages
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The session that commands go to when no rule says otherwise.
pub const HIGH: &str = "session_high";
/// The session that holds what is to yield.
pub const LOW: &str = "session_low";
const COMMANDS: [&str; 5] = ["python", "bash", "pytest", "node", "npm"];

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    session: Vec<SessionEntry>,
    #[serde(default)]
    rule: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionEntry {
    name: String,
    #[serde(default)]
    priority: Priority,
    cpu_weight: Option<u32>,
    cpu_max: Option<f64>,
    memory_low: Option<String>,
    memory_high: Option<String>,
    memory_max: Option<String>,
    swap_max: Option<String>,
    pids_max: Option<String>,
}

/// New processes of a command go to a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The command's name.
    pub command: String,
    /// The session's name.
    pub session: String,
}

/// Sessions to make and rules to follow.
#[derive(Debug)]
pub struct Plan {
    /// In the order in which they are made.
    pub sessions: Vec<(String, SessionConfig)>,
    /// The first that matches holds.
    pub rules: Vec<Rule>,
}

impl Plan {
    /// From the options.
    ///
    /// # Errors
    /// A configuration file that cannot be read, with an unknown key, a bad value, or a rule for a
    /// session that there is not.
    pub fn new(args: &Args) -> Result<Self> {
        let file = match &args.config {
            Some(path) => {
                read(path).with_context(|| format!("configuration {}", path.display()))?
            }
            None => File::default(),
        };
        let mut sessions: Vec<(String, SessionConfig)> = Vec::new();
        for entry in file.session {
            let name = entry.name.clone();
            ensure!(sessions.iter().all(|(n, _)| *n != name), "session {name:?} is there twice");
            sessions.push((name, entry.config()?));
        }
        for (name, priority) in [(HIGH, Priority::High), (LOW, Priority::Low)] {
            if sessions.iter().all(|(n, _)| n != name) {
                let mut config = SessionConfig::default();
                config.priority = priority;
                sessions.push((name.into(), config));
            }
        }
        let commands = args.commands.clone().unwrap_or_else(|| COMMANDS.map(String::from).into());
        let defaults = commands
            .into_iter()
            .filter(|c| !c.is_empty())
            .map(|command| Rule { command, session: HIGH.into() });
        let rules: Vec<_> = file.rule.into_iter().chain(defaults).collect();
        for rule in &rules {
            ensure!(
                sessions.iter().any(|(n, _)| *n == rule.session),
                "the rule for {:?} names the session {:?}, which there is not",
                rule.command,
                rule.session
            );
        }
        Ok(Self { sessions, rules })
    }

    /// The session that a new process of this command goes to.
    pub fn session_for(&self, command: &str) -> Option<&str> {
        self.rules.iter().find(|r| command_matches(command, &r.command)).map(|r| &*r.session)
    }
}

impl SessionEntry {
    fn config(&self) -> Result<SessionConfig> {
        let limit = |text: &Option<String>| -> Result<Option<Limit>> {
            text.as_deref()
                .map(|t| t.parse())
                .transpose()
                .with_context(|| format!("session {:?}", self.name))
        };
        let mut config = SessionConfig::default();
        config.priority = self.priority;
        config.limits.cpu_weight = self.cpu_weight;
        config.limits.cpu_max = self.cpu_max;
        config.limits.memory_low = limit(&self.memory_low)?;
        config.limits.memory_high = limit(&self.memory_high)?;
        config.limits.memory_max = limit(&self.memory_max)?;
        config.limits.swap_max = limit(&self.swap_max)?;
        config.limits.pids_max = limit(&self.pids_max)?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<File> {
    Ok(toml::from_str(&std::fs::read_to_string(path)?)?)
}

/// The rule that the event filter follows in the kernel: the name, then digits and dots only.
fn command_matches(have: &str, want: &str) -> bool {
    have.strip_prefix(want)
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(toml: &str) -> Result<Plan> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        Plan::new(&Args::parse_from(["agentcgroupd", "--config", file.path().to_str().unwrap()]))
    }

    #[test]
    fn a_rule_of_the_file_comes_before_the_defaults() {
        let plan = plan(
            "[[session]]\nname = \"build\"\npriority = \"low\"\nmemory_max = \"1.5G\"\n\
             [[rule]]\ncommand = \"python\"\nsession = \"build\"\n",
        )
        .unwrap();
        assert_eq!(plan.sessions[0].1.limits.memory_max, Some(Limit::Value(3 << 29)));
        assert_eq!(plan.session_for("python3.11"), Some("build"));
        assert_eq!(plan.session_for("bash"), Some(HIGH));
        assert_eq!(plan.session_for("pythonw"), None);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        for (toml, word) in [
            ("[[rule]]\ncommand = \"x\"\nsession = \"nope\"\n", "nope"),
            ("[[session]]\nname = \"a\"\nmemory_max = \"12Q\"\n", "12Q"),
            ("[[session]]\nname = \"a\"\ncolour = 1\n", "colour"),
            ("[[session]]\nname = \"a\"\n[[session]]\nname = \"a\"\n", "twice"),
        ] {
            let e = format!("{:#}", plan(toml).unwrap_err());
            assert!(e.contains(word), "{e}");
        }
    }
}
