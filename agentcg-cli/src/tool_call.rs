//! One tool call in a shared runtime, with our own standard input and output: what `agentcg run`
//! and `agentcg-bash` have in common.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentcg_core::{
    Ended, Hint, History, Limits, MemoryHint, Outcome, Runtime, SessionConfig, ToolCall, Verdict,
};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};

use crate::forward::{Received, Signals};

/// agentcg itself failed, and nothing was run.
pub const FAILED: u8 = 125;
/// The command was ended by its timeout.
const TIMED_OUT: u8 = 124;
/// Ctrl-C within this time after another is meant seriously.
const AGAIN: Duration = Duration::from_secs(1);

/// A call that is to be made.
#[derive(Debug, Default)]
pub struct Request {
    /// The runtime's root; `None`: the default one.
    pub root: Option<PathBuf>,
    /// The session's name.
    pub session: String,
    /// The program.
    pub program: OsString,
    /// What it is told as its name, if it is another.
    pub arg0: Option<OsString>,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What the agent says that it needs.
    pub hint: Hint,
    /// Limits of the call.
    pub limits: Limits,
    /// For the whole of it.
    pub timeout: Option<Duration>,
    /// From the first signal to `cgroup.kill`.
    pub grace: Option<Duration>,
}

/// Makes the call, passes signals on to it and waits for its end.
///
/// # Errors
/// Nothing was run: those of [`Runtime`], its session and [`agentcg_core::Command::spawn`].
pub fn perform(request: &Request) -> anyhow::Result<Outcome> {
    let signals = Signals::catch()?;
    let mut builder = Runtime::builder().shared(true);
    if let Some(root) = &request.root {
        builder = builder.root(root);
    }
    let runtime = builder.build()?;
    let session = runtime.session(&request.session, SessionConfig::default())?;
    let mut command = session.command(&request.program);
    command.args(&request.args).inherit_fds(true).limits(request.limits.clone());
    if let Some(arg0) = &request.arg0 {
        command.arg0(arg0);
    }
    if let Some(timeout) = request.timeout {
        command.timeout(timeout);
    }
    if let Some(grace) = request.grace {
        command.grace(grace);
    }
    // Only who asks for it has a file made.
    let history = (request.hint.memory == Some(MemoryHint::Auto)).then(history).flatten();
    if let Some(history) = history {
        command.history(history);
    }
    command.hint(request.hint.clone());
    let mut call = command.spawn()?;
    watch(&mut call, &signals)?;
    Ok(call.wait()?)
}

fn history() -> Option<History> {
    let path = History::default_path()?;
    History::open(path).inspect_err(|e| tracing::warn!("no history: {e}")).ok()
}

/// Waits until the call is over.
fn watch(call: &mut ToolCall, signals: &Signals) -> anyhow::Result<()> {
    let control = call.control().clone();
    let mut asked = Asked::default();
    loop {
        let over = call.ready_fd()?;
        let mut fds = [
            PollFd::from_borrowed_fd(over, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        while let Some(received) = signals.next() {
            let number = received.signal as i32;
            match asked.on(received, Instant::now()) {
                Act::Nothing => {}
                Act::PassOn => control.signal(number)?,
                Act::End => control.interrupt(number, format!("{} to agentcg", received.signal))?,
                Act::Kill => control.kill(),
            }
        }
    }
}

/// What has been asked for by signals so far.
#[derive(Debug, Default)]
struct Asked {
    /// The call is being ended.
    ending: bool,
    /// The last Ctrl-C.
    typed: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    PassOn,
    End,
    Kill,
}

impl Asked {
    /// | signal | the call |
    /// |---|---|
    /// | Ctrl-C, Ctrl-\ on the terminal | has got it itself and decides; twice within a second: killed |
    /// | SIGINT, SIGQUIT, SIGTERM, SIGHUP | all of it gets it; killed after the grace; a second one: killed at once |
    /// | SIGUSR1, SIGUSR2 | its main process gets it |
    fn on(&mut self, received: Received, now: Instant) -> Act {
        match received.signal {
            Signal::SIGUSR1 | Signal::SIGUSR2 => Act::PassOn,
            _ if self.ending => Act::Kill,
            Signal::SIGINT | Signal::SIGQUIT if received.from_terminal => {
                let before = self.typed.replace(now);
                match before.is_some_and(|before| now.duration_since(before) < AGAIN) {
                    true => Act::Kill,
                    false => Act::Nothing,
                }
            }
            _ => {
                self.ending = true;
                Act::End
            }
        }
    }
}

/// The exit status that stands for an outcome.
pub fn status(outcome: &Outcome) -> u8 {
    match outcome.shell_status() {
        _ if outcome.verdict == Verdict::TimedOut => TIMED_OUT,
        Some(status) => u8::try_from(status & 0xff).unwrap_or(FAILED),
        None => FAILED,
    }
}

/// One line for the agent, when there is more to be said than an exit status says.
pub fn advice(outcome: &Outcome) -> Option<String> {
    let said = match (&outcome.ended, outcome.verdict) {
        (_, Verdict::Completed | Verdict::Failed) => return None,
        (Ended::NotStarted(e), _) => return Some(e.to_string()),
        _ => outcome.advice.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let verdict = crate::output::name(outcome.verdict).replace('_', " ");
    Some(if said.is_empty() { verdict } else { format!("{verdict}: {said}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_end_a_call_and_the_second_one_kills() {
        let at = Instant::now();
        let later = at + Duration::from_secs(5);
        let sent = |signal| Received { signal, from_terminal: false };
        let typed = |signal| Received { signal, from_terminal: true };
        for (row, expected) in [
            (vec![(sent(Signal::SIGTERM), at)], vec![Act::End]),
            (
                vec![(sent(Signal::SIGINT), at), (sent(Signal::SIGTERM), later)],
                vec![Act::End, Act::Kill],
            ),
            (
                vec![(typed(Signal::SIGINT), at), (typed(Signal::SIGINT), later)],
                vec![Act::Nothing, Act::Nothing],
            ),
            (
                vec![(typed(Signal::SIGINT), at), (typed(Signal::SIGINT), at)],
                vec![Act::Nothing, Act::Kill],
            ),
            (
                vec![(typed(Signal::SIGINT), at), (sent(Signal::SIGHUP), at)],
                vec![Act::Nothing, Act::End],
            ),
            (
                vec![(sent(Signal::SIGUSR1), at), (sent(Signal::SIGTERM), at)],
                vec![Act::PassOn, Act::End],
            ),
        ] {
            let mut asked = Asked::default();
            let acts: Vec<_> = row.iter().map(|(r, at)| asked.on(*r, *at)).collect();
            assert_eq!(acts, expected, "{row:?}");
        }
    }
}
