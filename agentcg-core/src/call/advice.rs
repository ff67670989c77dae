//! What to do about an outcome: in words that a language model can act on, and as data. Pure.
//!
//! Empty when there is nothing to say that the command's own output does not say better.

use std::time::Duration;

use serde::Serialize;

use super::outcome::{Cause, Effect, Ended, Scope, Stopped, Verdict};
use super::verdict::{Evidence, hampered};
use crate::ErrorKind;
use crate::units::{decimals, size_about};

/// One thing to do about an outcome, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Suggestion {
    /// Run it again with this hint.
    RetryWithHint {
        /// As `--hint` takes it: `memory:1G`.
        hint: String,
    },
    /// It need not be run again; the next run of its like should have this hint.
    HintNextTime {
        /// As `--hint` takes it.
        hint: String,
    },
    /// Do less at the same time: `pytest -n 2`, `make -j 2`.
    ReduceParallelism,
    /// Run it again with more time.
    RaiseTimeout {
        /// As `--hint` takes it: `time:60s`.
        hint: String,
    },
    /// Run it again later, when less runs beside it.
    WaitAndRetry,
    /// Run it again as it is.
    RetryUnchanged,
    /// As it is, it will end the same way again.
    DoNotRetry,
}

/// Advice under construction.
#[derive(Default)]
struct Advice {
    text: String,
    suggestions: Vec<Suggestion>,
}

impl Advice {
    fn say(&mut self, sentence: impl AsRef<str>) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(sentence.as_ref());
    }

    fn suggest(&mut self, suggestion: Suggestion) {
        if !self.suggestions.contains(&suggestion) {
            self.suggestions.push(suggestion);
        }
    }
}

/// The advice for an outcome that was decided from this evidence.
pub(crate) fn advise(
    e: &Evidence,
    verdict: Verdict,
    cause: Option<&Cause>,
) -> (String, Vec<Suggestion>) {
    let mut a = Advice::default();
    match verdict {
        Verdict::Completed => slowed(&mut a, e, cause),
        Verdict::Failed => failed(&mut a, e, cause),
        Verdict::Signaled => signaled(&mut a, e, cause),
        Verdict::OomKilled => oom_killed(&mut a, e, cause),
        Verdict::TimedOut => timed_out(&mut a, e, cause),
        Verdict::PidsExhausted => pids_exhausted(&mut a, cause),
        Verdict::Cancelled => cancelled(&mut a, e),
        Verdict::SpawnFailed => spawn_failed(&mut a, e, cause),
    }
    (a.text, a.suggestions)
}

// ---- memory

fn oom_killed(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    let Some(cause) = cause else { return };
    a.say(oom_sentence(e, cause));
    match e.ended {
        Ended::Exited(0) => a.say(
            "The command itself exited with status 0, but part of it was killed: do not rely on its result.",
        ),
        Ended::Exited(status) => a.say(format!("The command exited with status {status}.")),
        _ => {}
    }
    match cause.scope {
        Scope::Call => more_memory(a, e, cause),
        Scope::Session if e.alone => {
            a.say("No other call ran beside it, so it needs more than the session has and a larger hint does not help: retrying unchanged will fail again.");
            less_at_once(a, e);
            a.suggest(Suggestion::DoNotRetry);
        }
        Scope::Session => {
            a.say("Other calls of the session ran beside it: retry when fewer run.");
            a.suggest(Suggestion::WaitAndRetry);
            less_at_once(a, e);
        }
        Scope::Ancestor | Scope::Host => {
            a.say("Others use that memory too: retry later.");
            a.suggest(Suggestion::WaitAndRetry);
            less_at_once(a, e);
        }
    }
}

fn oom_sentence(e: &Evidence, cause: &Cause) -> String {
    let (kills, exact) = e.oom_kills();
    let others = |n| {
        let least = if exact { "" } else { "at least " };
        format!("{least}{n} other process{} of it", if n == 1 { "" } else { "es" })
    };
    let who = match (&cause.victim, kills) {
        (Some(v), 0 | 1) => format!("{} (pid {}) was", v.comm, v.pid),
        (Some(v), n) => format!("{} (pid {}) and {} were", v.comm, v.pid, others(n - 1)),
        (None, 0 | 1) => "A process of it was".to_owned(),
        (None, n) => format!("A process and {} were", others(n - 1)),
    };
    let peak = match e.usage.memory_peak_bytes {
        Some(peak) => format!(" (the call's peak: {})", size_about(peak)),
        None => String::new(),
    };
    format!("{who} killed by the kernel for memory: {} was used up{peak}.", owned(cause))
}

/// More memory where the session allows it, else less use.
fn more_memory(a: &mut Advice, e: &Evidence, cause: &Cause) {
    match memory_hint(e, cause) {
        Some(hint) => {
            a.say(format!("Retrying unchanged will fail again: retry with the hint {hint}."));
            a.suggest(Suggestion::RetryWithHint { hint });
        }
        None => {
            a.say("Retrying unchanged will fail again, and no larger hint is allowed here.");
            a.suggest(Suggestion::DoNotRetry);
        }
    }
    less_at_once(a, e);
}

/// The next size to try: double, but not over the limit of a level above.
fn memory_hint(e: &Evidence, cause: &Cause) -> Option<String> {
    // The limit of a sub-cgroup was set by the call itself: a hint does not change it.
    let call = e
        .levels
        .iter()
        .find(|l| l.scope == Scope::Call && Some(&l.cgroup) == cause.cgroup.as_ref());
    let is_calls = e.levels.iter().rfind(|l| l.scope == Scope::Call) == call;
    let limit = cause.limit_bytes.filter(|n| *n > 0 && is_calls)?;
    let above =
        e.levels.iter().filter(|l| l.scope != Scope::Call).filter_map(|l| l.limits.memory_max);
    let next = above.chain([limit.saturating_mul(2)]).min()?;
    // A little more would only fail a little later.
    (next >= limit.saturating_add(limit / 4)).then(|| format!("memory:{}", hint_size(next)))
}

fn less_at_once(a: &mut Advice, e: &Evidence) {
    let or = if a.suggestions.iter().any(|s| matches!(s, Suggestion::RetryWithHint { .. })) {
        "Or use"
    } else {
        "Use"
    };
    // Whether it has workers is not known without pids.peak.
    if e.usage.pids_peak.is_none_or(|n| n >= 3) {
        a.say(format!(
            "{or} less at once: fewer workers (pytest -n 2, make -j 2), smaller inputs."
        ));
        a.suggest(Suggestion::ReduceParallelism);
    } else {
        a.say(format!("{or} less at once: smaller inputs, or in parts."));
    }
}

// ---- what slowed it

fn slowed(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    let Some(cause) = cause else { return };
    let hint = slowed_sentence(a, e, cause);
    if let Some(hint) = hint {
        a.say(format!("Give the next run of it the hint {hint}."));
        a.suggest(Suggestion::HintNextTime { hint });
    }
}

/// Says what hampered it; returns the hint that would help.
fn slowed_sentence(a: &mut Advice, e: &Evidence, cause: &Cause) -> Option<String> {
    let own = cause.scope == Scope::Call;
    let hedge = if cause.effect == Effect::Possible { "may have been" } else { "was" };
    match cause.limit {
        "pids.max" if cause.effect == Effect::Possible => {
            a.say(format!(
                "While it ran a fork was refused by {}: perhaps one of its own.",
                owned(cause)
            ));
            a.suggest(Suggestion::WaitAndRetry);
            None
        }
        "pids.max" => {
            a.say(format!("The kernel refused a fork or thread of it: {} was reached; it may have done its work with less, or left some out.", owned(cause)));
            a.suggest(Suggestion::ReduceParallelism);
            own.then(|| pids_hint(cause)).flatten()
        }
        "cpu.max" => {
            let throttled = if own { e.usage.cpu_throttled_us } else { e.throttled_above_us };
            let share = percent(e.throttled_share(throttled));
            a.say(format!(
                "It {hedge} slowed by {}: denied {share} of the CPU time it wanted.",
                owned(cause)
            ));
            cause.limit_value.filter(|_| own).map(|c| format!("cpu:{}", decimals(c * 2.0)))
        }
        _ => {
            let stalled = match e.share(e.usage.memory_stall_us) {
                0.0 => String::new(),
                share => format!(": it waited for memory {} of its time", percent(share)),
            };
            a.say(format!("It {hedge} slowed by {}{stalled}.", owned(cause)));
            if own { memory_hint(e, cause) } else { None }
        }
    }
}

// ---- the other verdicts

fn failed(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    if let Ended::Exited(status) = e.ended
        && status > 128
        && let Some(name) = signal_name(status - 128)
    {
        a.say(format!(
            "Exit status {status} usually means that a process of it was ended by {name}."
        ));
        if status - 128 == libc::SIGKILL {
            a.say(no_oom(e));
        }
    }
    let Some(cause) = cause else { return };
    if cause.limit == "memory.max" && e.share(e.usage.memory_stall_us) == 0.0 {
        a.say(format!("An allocation failed because {} was used up.", owned(cause)));
        more_memory(a, e, cause);
    } else if let Some(hint) = slowed_sentence(a, e, cause) {
        a.say(format!("If that is why it failed, retry with the hint {hint}."));
        a.suggest(Suggestion::RetryWithHint { hint });
    }
}

fn signaled(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    let Ended::Signaled { signal, .. } = e.ended else { return };
    let name = signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
    match signal {
        libc::SIGSEGV
        | libc::SIGBUS
        | libc::SIGABRT
        | libc::SIGFPE
        | libc::SIGILL
        | libc::SIGTRAP
        | libc::SIGSYS => {
            a.say(format!("It crashed ({name}): a defect of the program or its input, so retrying unchanged will crash again."));
            a.suggest(Suggestion::DoNotRetry);
        }
        libc::SIGXCPU => {
            a.say(
                "It used up its CPU time (RLIMIT_CPU): retrying unchanged will end the same way.",
            );
            a.suggest(Suggestion::DoNotRetry);
        }
        libc::SIGXFSZ => {
            a.say("It wrote a file larger than RLIMIT_FSIZE allows: retrying unchanged will end the same way.");
            a.suggest(Suggestion::DoNotRetry);
        }
        libc::SIGPIPE => a.say("The reader of its output had gone (SIGPIPE)."),
        libc::SIGKILL => {
            a.say(format!(
                "It was ended by SIGKILL, sent by another process or by itself. {}",
                no_oom(e)
            ));
            a.suggest(Suggestion::RetryUnchanged);
        }
        _ => {
            a.say(format!("It was ended by {name}, sent by another process or by itself."));
            a.suggest(Suggestion::RetryUnchanged);
        }
    }
    if let Some(cause) = cause {
        slowed_sentence(a, e, cause);
    }
}

/// What is known about memory when SIGKILL makes one think of it.
fn no_oom(e: &Evidence) -> &'static str {
    if e.own.memory.is_some() {
        "The kernel counted no kill for memory in it."
    } else {
        "Whether it was for memory is not known: the memory controller is not enabled for it."
    }
}

fn timed_out(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    let Some(Stopped::TimedOut(timeout)) = e.stopped else { return };
    a.say(format!("It was stopped after its timeout of {}.", time(timeout)));
    if let Some(cause) = cause.filter(|_| e.oom_killed()) {
        a.say(format!("Before that: {}", oom_sentence(e, cause)));
        return if cause.scope == Scope::Call {
            more_memory(a, e, cause);
        } else {
            a.say("Retry later, and take less.");
            a.suggest(Suggestion::WaitAndRetry);
        };
    }
    if let Some(cause) = hampered(e).filter(|c| c.effect != Effect::Possible) {
        if let Some(hint) = slowed_sentence(a, e, &cause) {
            a.say(format!("Retry with the hint {hint}, or with more time."));
            a.suggest(Suggestion::RetryWithHint { hint });
        } else if cause.scope != Scope::Call {
            a.say("Retry when less runs beside it, or with more time.");
            a.suggest(Suggestion::WaitAndRetry);
        }
        return more_time(a, timeout);
    }
    let Some(cpu) = e.usage.cpu_us().map(Duration::from_micros) else {
        return more_time(a, timeout);
    };
    let share = |us: Option<u64>| e.share(us);
    if share(e.usage.cpu_stall_us) >= 0.5 {
        a.say(format!(
            "It waited for a free CPU {} of its time, because others use them: retry later, or with more time.",
            percent(share(e.usage.cpu_stall_us).min(1.0))
        ));
        a.suggest(Suggestion::WaitAndRetry);
        more_time(a, timeout);
    } else if share(e.usage.io_stall_us) >= 0.3 {
        a.say(format!(
            "It waited for disk I/O {} of its time: read and write less, or give it more time.",
            percent(share(e.usage.io_stall_us).min(1.0))
        ));
        more_time(a, timeout);
    } else if cpu < e.duration / 20 {
        a.say(format!(
            "It used only {} of CPU time, so it was waiting: for input, a lock, the network, or for a server that does not end by itself. Retrying unchanged will wait again; run it without prompts, or in the background.",
            time(cpu)
        ));
        a.suggest(Suggestion::DoNotRetry);
    } else {
        a.say(format!(
            "It was working ({} of CPU time): give it more time, or less to do.",
            time(cpu)
        ));
        more_time(a, timeout);
    }
}

fn more_time(a: &mut Advice, timeout: Duration) {
    let seconds = timeout.saturating_mul(2).as_secs().max(1);
    a.suggest(Suggestion::RaiseTimeout { hint: format!("time:{seconds}s") });
}

fn pids_exhausted(a: &mut Advice, cause: Option<&Cause>) {
    let Some(cause) = cause else { return };
    a.say(format!(
        "The kernel refused a fork or thread: {} was reached. Start fewer workers (pytest -n 2, make -j 2).",
        owned(cause)
    ));
    a.suggest(Suggestion::ReduceParallelism);
    match (cause.scope, pids_hint(cause)) {
        (Scope::Call, Some(hint)) => {
            a.say(format!("If it really needs that many, retry with the hint {hint}."));
            a.suggest(Suggestion::RetryWithHint { hint });
        }
        (Scope::Call, None) => {}
        _ => {
            a.say("That limit is shared: retry when less runs beside it.");
            a.suggest(Suggestion::WaitAndRetry);
        }
    }
}

fn pids_hint(cause: &Cause) -> Option<String> {
    cause.limit_value.map(|n| format!("pids:{}", decimals((n * 2.0).max(16.0))))
}

fn cancelled(a: &mut Advice, e: &Evidence) {
    let Some(Stopped::Cancelled(by)) = &e.stopped else { return };
    let by = by.trim();
    if by.is_empty() {
        a.say("It was cancelled on purpose: do not retry it unasked.");
    } else {
        a.say(format!("It was cancelled on purpose, by {by}: do not retry it unasked."));
    }
    a.suggest(Suggestion::DoNotRetry);
}

fn spawn_failed(a: &mut Advice, e: &Evidence, cause: Option<&Cause>) {
    let Ended::NotStarted(error) = &e.ended else { return };
    a.say(format!("It was not started: {error}."));
    if let Some(cause) = cause {
        a.say(format!("The kernel refused the process because {} was reached.", owned(cause)));
        if cause.scope != Scope::Call {
            a.suggest(Suggestion::WaitAndRetry);
        } else if cause.limit == "pids.max"
            && let Some(hint) = pids_hint(cause)
        {
            // Nothing else is in it: waiting changes nothing.
            a.say(format!("Retry with the hint {hint}."));
            a.suggest(Suggestion::RetryWithHint { hint });
        } else {
            a.say("Not even its first process has room: it needs a larger limit.");
            a.suggest(Suggestion::DoNotRetry);
        }
    } else if matches!(error.kind(), ErrorKind::Busy | ErrorKind::TimedOut) {
        a.suggest(Suggestion::WaitAndRetry);
    } else {
        a.suggest(Suggestion::DoNotRetry);
    }
}

// ---- words

/// "the call's memory.max of 512 MiB".
fn owned(cause: &Cause) -> String {
    if cause.limit == "memory" {
        return "the machine's memory".to_owned();
    }
    let of = match (cause.limit, cause.limit_bytes, cause.limit_value) {
        (_, Some(bytes), _) => format!(" of {}", size_about(bytes)),
        ("pids.max", _, Some(n)) => format!(" of {} processes and threads", decimals(n)),
        ("cpu.max", _, Some(n)) => format!(" of {} CPUs", decimals(n)),
        _ => String::new(),
    };
    let whose = match (cause.scope, &cause.cgroup) {
        (Scope::Call, _) => "the call's".to_owned(),
        (Scope::Session, _) => "the session's".to_owned(),
        (Scope::Ancestor, Some(path)) => {
            return format!("{}{of} of {}, above the session,", cause.limit, path.display());
        }
        (Scope::Ancestor, None) => "a".to_owned(),
        (Scope::Host, _) => "the machine's".to_owned(),
    };
    let above = if cause.scope == Scope::Ancestor { " above the session" } else { "" };
    format!("{whose} {}{of}{above}", cause.limit)
}

/// As a hint has it: whole GiB or MiB, rounded down, for what is above is a limit.
fn hint_size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        n if n >= 1 << 30 && n % (1 << 30) == 0 => format!("{}G", n >> 30),
        n if n >= MIB => format!("{}M", n / MIB),
        n => format!("{}K", (n >> 10).max(1)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// "250 ms", "1.5 s", "12 min 5 s".
fn time(t: Duration) -> String {
    match t.as_secs() {
        0 => format!("{} ms", t.as_millis()),
        1..=119 => format!("{} s", decimals((t.as_secs_f64() * 10.0).round() / 10.0)),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{} min {} s", s / 60, s % 60),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
