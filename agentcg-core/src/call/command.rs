//! [`Command`]: one tool call before it is started.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::cancel::Canceller;
use super::clone::{self, Launch, Step};
use super::evidence::End;
use super::outcome::{Ended, Outcome, Scope, Stopped, Verdict};
use super::running::{Ending, Plan, Running};
use super::stdio::{Opened, Stdio, raw};
use super::strings::Strings;
use super::supervisor::Slot;
use super::usage::Ahead;
use super::{CallControl, Pipes, ToolCall, US};
use crate::admission::{Need, Pass, Place};
use crate::budget::budget;
use crate::cgroup::{Cgroup, Controller, Limit};
use crate::hint::{Hint, MemoryHint};
use crate::history::{CommandKey, History};
use crate::limits::Limits;
use crate::session::{Parts, Session, killed_by};
use crate::{Error, ErrorKind, Result};

/// How much output is kept, bytes, unless [`Command::capture_limit`] says otherwise.
const CAPTURE_LIMIT: usize = 10 << 20;
/// From SIGTERM to `cgroup.kill`.
const GRACE: Duration = Duration::from_secs(2);
/// How long killed processes are waited for.
const TEARDOWN: Duration = Duration::from_secs(10);

/// A tool call to be started: shaped like [`std::process::Command`], with limits, a timeout, and an
/// [`Outcome`] at the end.
///
/// ```no_run
/// use std::time::Duration;
/// use agentcg_core::{Runtime, SessionConfig, Verdict};
///
/// let runtime = Runtime::new()?;
/// let session = runtime.session("agent-1", SessionConfig::default())?;
/// let outcome = session
///     .command("pytest")
///     .args(["-x", "tests"])
///     .timeout(Duration::from_secs(300))
///     .output()?;
/// if outcome.verdict != Verdict::Completed {
///     println!("{}", outcome.advice);
/// }
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a command does nothing until it is started"]
pub struct Command<'a> {
    session: &'a Session,
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    name: Option<String>,
    env: BTreeMap<OsString, Option<OsString>>,
    env_clear: bool,
    cwd: Option<PathBuf>,
    umask: Option<u32>,
    rlimits: Vec<(u32, libc::rlimit)>,
    groups: Option<Vec<u32>>,
    gid: Option<u32>,
    uid: Option<u32>,
    new_session: bool,
    process_group: Option<i32>,
    inherit_fds: bool,
    extra_fds: Vec<Option<OwnedFd>>,
    pass_fds: BTreeSet<RawFd>,
    stdio: [Option<Stdio>; 3],
    capture_limit: usize,
    limits: Limits,
    timeout: Option<Duration>,
    grace: Duration,
    teardown: Duration,
    oom_group: bool,
    oom_score_adj: Option<i32>,
    background: bool,
    sample: Option<Duration>,
    hint: Hint,
    budget: bool,
    queue_timeout: Option<Duration>,
    history: Option<History>,
    retry: Option<bool>,
    place: Option<Place>,
    canceller: Canceller,
}

impl Session {
    /// A tool call that runs `program` in a cgroup of its own in this session. A name without a
    /// slash is looked for in the `PATH` that the call will have.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command<'_> {
        Command {
            session: self,
            program: program.as_ref().to_owned(),
            arg0: None,
            args: Vec::new(),
            name: None,
            env: BTreeMap::new(),
            env_clear: false,
            cwd: None,
            umask: None,
            rlimits: Vec::new(),
            groups: None,
            gid: None,
            uid: None,
            new_session: false,
            process_group: None,
            inherit_fds: false,
            extra_fds: Vec::new(),
            pass_fds: BTreeSet::new(),
            stdio: [None, None, None],
            capture_limit: CAPTURE_LIMIT,
            limits: Limits::default(),
            timeout: None,
            grace: GRACE,
            teardown: TEARDOWN,
            oom_group: true,
            oom_score_adj: None,
            background: false,
            sample: None,
            hint: Hint::default(),
            budget: true,
            queue_timeout: None,
            history: None,
            retry: None,
            place: None,
            canceller: Canceller::default(),
        }
    }
}

impl Command<'_> {
    /// Adds an argument.
    pub fn arg(&mut self, arg: impl Into<OsString>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> &mut Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What the program is told as its own name, `argv[0]`; by default the program as it was given.
    pub fn arg0(&mut self, arg0: impl AsRef<OsStr>) -> &mut Self {
        self.arg0 = Some(arg0.as_ref().to_owned());
        self
    }

    /// The name of the call's cgroup, and of the call in events and in the outcome. By default one
    /// is made up from our pid and a number.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(name.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.env.insert(key.into(), Some(value.into()));
        self
    }

    /// Sets environment variables.
    pub fn envs(
        &mut self,
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> &mut Self {
        for (key, value) in vars {
            self.env(key, value);
        }
        self
    }

    /// Leaves a variable of ours out.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(key.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment instead of ours.
    pub fn env_clear(&mut self) -> &mut Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// The working directory; without it ours.
    pub fn current_dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// The file mode creation mask.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.umask = Some(mask);
        self
    }

    /// A resource limit as of setrlimit(2): `libc::RLIMIT_NOFILE`, soft and hard.
    pub fn rlimit(&mut self, resource: u32, soft: u64, hard: u64) -> &mut Self {
        self.rlimits.push((resource, libc::rlimit { rlim_cur: soft, rlim_max: hard }));
        self
    }

    /// Runs as this user. The supplementary groups are those of [`groups`](Self::groups), by
    /// default none.
    pub fn uid(&mut self, uid: u32) -> &mut Self {
        self.uid = Some(uid);
        self.groups.get_or_insert_default();
        self
    }

    /// Runs with this group.
    pub fn gid(&mut self, gid: u32) -> &mut Self {
        self.gid = Some(gid);
        self
    }

    /// Supplementary groups.
    pub fn groups(&mut self, groups: &[u32]) -> &mut Self {
        self.groups = Some(groups.to_vec());
        self
    }

    /// In a POSIX session of its own, setsid(2): no controlling terminal, no part in its signals.
    pub fn new_session(&mut self, new: bool) -> &mut Self {
        self.new_session = new;
        self
    }

    /// In this process group, setpgid(2), of which a member lives in our session; 0: in one of its
    /// own, so that the terminal's Ctrl-C does not reach it.
    pub fn process_group(&mut self, id: i32) -> &mut Self {
        self.process_group = Some(id);
        self
    }

    /// Passes on these descriptors under their numbers, close-on-exec or not. They must be open
    /// when the call is started; 0, 1 and 2 are what [`stdin`](Self::stdin) and its like say.
    pub fn pass_fds(&mut self, fds: impl IntoIterator<Item = RawFd>) -> &mut Self {
        self.pass_fds.extend(fds);
        self
    }

    /// Passes on descriptors from 3 up that are not close-on-exec; by default none are.
    pub fn inherit_fds(&mut self, inherit: bool) -> &mut Self {
        self.inherit_fds = inherit;
        self
    }

    /// Descriptors that the call has as 3, 4, ..., in this order and whatever their numbers here;
    /// `None`: closed there. As those of [`Stdio::Fd`] they are used up when the call is started.
    pub fn extra_fds(&mut self, fds: impl IntoIterator<Item = Option<OwnedFd>>) -> &mut Self {
        self.extra_fds = fds.into_iter().collect();
        self
    }

    /// Where standard input comes from. Default: ours for [`spawn`](Self::spawn) and
    /// [`status`](Self::status), `/dev/null` for [`output`](Self::output).
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = Some(stdin.into());
        self
    }

    /// Where standard output goes. Default: ours, or [`Stdio::Capture`] for
    /// [`output`](Self::output).
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = Some(stdout.into());
        self
    }

    /// Where standard error goes; default as standard output.
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = Some(stderr.into());
        self
    }

    /// How much is kept of each captured output, bytes; of more than that the first and the last
    /// half. Default 10 MiB.
    pub fn capture_limit(&mut self, bytes: usize) -> &mut Self {
        self.capture_limit = bytes;
        self
    }

    /// Limits of the call's cgroup.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// After this time all processes of the call get SIGTERM, and after the
    /// [`grace`](Self::grace) they are killed.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = Some(timeout);
        self
    }

    /// From SIGTERM to `cgroup.kill`, when the time is over or the call is cancelled; 0: killed at
    /// once. Default 2 s.
    pub fn grace(&mut self, grace: Duration) -> &mut Self {
        self.grace = grace;
        self
    }

    /// How long killed processes are waited for (one in an uninterruptible sleep does not die)
    /// before the outcome names them as survivors. Default 10 s.
    pub fn teardown_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.teardown = timeout;
        self
    }

    /// The OOM killer takes the call as a whole, `memory.oom.group` (kernel 4.19); default true.
    /// Without it a shell may survive its child and go on.
    pub fn oom_group(&mut self, group: bool) -> &mut Self {
        self.oom_group = group;
        self
    }

    /// `oom_score_adj` of the call's processes. Default: ours plus 500, so that the OOM killer
    /// prefers tools to their harness.
    pub fn oom_score_adj(&mut self, value: i32) -> &mut Self {
        self.oom_score_adj = Some(value);
        self
    }

    /// Processes that the main process leaves behind live on in the session's `background` cgroup,
    /// until the session ends; by default they are killed.
    pub fn background(&mut self, live_on: bool) -> &mut Self {
        self.background = live_on;
        self
    }

    /// Samples the usage at this interval for [`Outcome::timeline`].
    pub fn sample(&mut self, interval: Duration) -> &mut Self {
        self.sample = Some(interval);
        self
    }

    /// What the agent says that the call needs: it becomes limits of the call, below those of
    /// [`limits`](Self::limits), within those of the session, as far as there are controllers.
    /// What was changed is said in [`Outcome::notes`].
    pub fn hint(&mut self, hint: Hint) -> &mut Self {
        self.hint = hint;
        self
    }

    /// Tells the tool its budget: [`budget`](crate::budget()) variables such as `OMP_NUM_THREADS`
    /// and `MAKEFLAGS` follow the limits, unless they are set already. Default true.
    pub fn budget(&mut self, tell: bool) -> &mut Self {
        self.budget = tell;
        self
    }

    /// How long it may wait for admission, where the session or the runtime has a
    /// [`Capacity`](crate::Capacity); default: for ever. Then its verdict is `spawn_failed`.
    pub fn queue_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.queue_timeout = Some(timeout);
        self
    }

    /// Remembers what the command takes, when its outcome is made or [waited for](ToolCall::wait),
    /// and uses it for the hint `memory:auto`.
    pub fn history(&mut self, history: History) -> &mut Self {
        self.history = Some(history);
        self
    }

    /// [`output`](Self::output) and [`status`](Self::status) run it once more, with twice the
    /// memory, when the OOM killer ended it at its own `memory.max` and the session allows more.
    /// Only where standard input is [`Stdio::Null`] or [`Stdio::Bytes`], which can be given again.
    /// Default: with the hint `memory:auto`. For what was spawned there is
    /// [`respawn`](Self::respawn).
    pub fn retry(&mut self, retry: bool) -> &mut Self {
        self.retry = Some(retry);
        self
    }

    /// Ends the call from another thread, whatever state it is in.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// As [`canceller`](Self::canceller), with one that is there already, and may have been used.
    pub fn cancelled_by(&mut self, canceller: &Canceller) -> &mut Self {
        self.canceller = canceller.clone();
        self
    }

    /// Starts it.
    ///
    /// A program that cannot be started is an outcome with [`Verdict::SpawnFailed`](super::Verdict)
    /// and not an error.
    ///
    /// # Errors
    /// `InvalidInput` for bad limits, names, arguments with a NUL; `Unsupported` for a limit whose
    /// controller is missing; `PermissionDenied`; those of making a cgroup. Nothing is left then.
    pub fn spawn(&mut self) -> Result<ToolCall> {
        self.spawn_with(None)
    }

    /// Starts it once more, with twice the memory, if [`retry`](Self::retry) wants that after this
    /// outcome, which will be in the [`retries`](Outcome::retries) of the new one; else `None`. The
    /// descriptors of the first call are used up: they are to be given again.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn respawn(&mut self, first: &Outcome) -> Result<Option<ToolCall>> {
        let Some(memory) = self.again(first) else { return Ok(None) };
        let mut call = self.spawn_with(Some(memory))?;
        call.retries.push(first.clone());
        Ok(Some(call))
    }

    fn spawn_with(&mut self, memory: Option<u64>) -> Result<ToolCall> {
        let inbox = self.session.supervisor()?.inbox()?.clone();
        let slot = Arc::new(Slot::default());
        let started = self.start(&[Stdio::Inherit, Stdio::Inherit, Stdio::Inherit], memory);
        self.use_up();
        let (id, pid, name, cgroup, pipes) = match started? {
            Started::Running(running, pid, pipes) => {
                let (name, cgroup) = (running.plan.call.clone(), running.cgroup.clone());
                let id = inbox.start(*running, slot.clone());
                (Some(id), Some(pid), name, cgroup, pipes)
            }
            Started::Failed(outcome, cgroup, pipes) => {
                let name = outcome.call.clone();
                slot.set(*outcome);
                (None, None, name, cgroup, pipes)
            }
        };
        let control = CallControl { id, name, cgroup, slot, inbox, pid };
        Ok(ToolCall::new(control, pipes, self.history.clone()))
    }

    /// Starts it and waits for its end; standard input, output and error are ours.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn status(&mut self) -> Result<Outcome> {
        self.run([Stdio::Inherit, Stdio::Inherit, Stdio::Inherit], &mut || false)
    }

    /// Starts it and waits for its end; output is kept for the outcome.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn output(&mut self) -> Result<Outcome> {
        self.output_unless(|| false)
    }

    /// As [`output`](Self::output), for programs with signal handlers: `interrupted` is asked after
    /// one has run in this thread. True ends the call: SIGTERM, SIGKILL after at most 250 ms.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn output_unless(&mut self, mut interrupted: impl FnMut() -> bool) -> Result<Outcome> {
        self.run([Stdio::Null, Stdio::Capture, Stdio::Capture], &mut interrupted)
    }

    fn run(
        &mut self,
        default: [Stdio; 3],
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome> {
        let retry = self.may_retry(&default[0]);
        let started = self.start(&default, None);
        if !retry {
            self.use_up();
        }
        let first = started?.run(interrupted);
        first.learn(self.history.as_ref());
        let Some(more) = retry.then(|| self.more_memory(&first)).flatten() else {
            self.use_up();
            return Ok(first);
        };
        let started = self.start(&default, Some(more));
        self.use_up();
        let mut second = started?.run(interrupted);
        second.learn(self.history.as_ref());
        second.retries.push(first);
        Ok(second)
    }

    /// Whoever spawns does by himself what [`retry`](Self::retry) asks for: the `memory_max`, bytes,
    /// with which a second call is to be made after this outcome of the first, if there is to be one.
    /// [`respawn`](Self::respawn) does it where no place in the queue is needed first.
    pub fn again(&self, first: &Outcome) -> Option<u64> {
        self.may_retry(&Stdio::Inherit).then(|| self.more_memory(first)).flatten()
    }

    /// It is wanted, and standard input can be given again.
    fn may_retry(&self, default: &Stdio) -> bool {
        let stdin = self.stdio[0].as_ref().unwrap_or(default);
        matches!(stdin, Stdio::Null | Stdio::Bytes(_))
            && self.retry.unwrap_or(self.hint.memory == Some(MemoryHint::Auto))
    }

    /// Lets go of the descriptors that were given: the call has its own, and ours would keep pipes
    /// open.
    fn use_up(&mut self) {
        for slot in &mut self.stdio {
            if matches!(slot, Some(Stdio::Fd(_))) {
                *slot = None;
            }
        }
        self.extra_fds.clear();
    }

    /// Twice the memory, if more of it would have helped and may be had.
    fn more_memory(&self, outcome: &Outcome) -> Option<u64> {
        let own = outcome.cause.as_ref().is_some_and(|c| c.scope == Scope::Call);
        if outcome.verdict != Verdict::OomKilled || !own {
            return None;
        }
        let before = outcome.limits.memory_max?.value()?;
        let most = self.session.bounds().memory_max.unwrap_or(u64::MAX);
        Some(before.saturating_mul(2).min(most)).filter(|more| *more > before)
    }

    /// `memory`: instead of the `memory.max` that it would have.
    fn start(&mut self, default: &[Stdio; 3], memory: Option<u64>) -> Result<Started> {
        self.check()?;
        let mut opened = {
            let [i, o, e] = [0, 1, 2].map(|i| self.stdio[i].as_ref().unwrap_or(&default[i]));
            Opened::new([i, o, e], &self.extra_fds, self.capture_limit)?
        };
        let call = self.session.new_call(self.name.as_deref())?;
        let plan = self.plan(&call.name(), call.calls().controllers(), memory);
        call.configure(&plan.limits, self.oom_group)?;
        let score = self.oom_score_adj.or(call.calls().oom_score_adj());
        let mut launch = self.launch(&plan, score, call.calls().cpus())?;
        launch.stdio = opened.raw();
        launch.extra_fds = raw(&opened.extra);
        call.describe(&plan.command)?;
        let pipes = std::mem::take(&mut opened.ours);

        let (pass, queued) = self.admitted(&plan);
        let Parts { calls, cgroup, lock, presence } = call.into_parts();
        let before = calls.ancestors().baseline();
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let made = pass.and_then(|pass| {
            if !self.canceller.runs_in(&cgroup) {
                return Err(Error::new(ErrorKind::TimedOut, "cancelled before it was started"));
            }
            if let Some(by) = killed_by(&cgroup) {
                let why = format!("killed by {by} before it was started");
                return Err(Error::new(ErrorKind::TimedOut, why));
            }
            let procs = || cgroup.open_file("cgroup.procs", OFlags::WRONLY);
            let child = clone::spawn(&launch, calls.stacks(), cgroup.as_fd(), procs);
            child.map(|child| (child, pass)).map_err(|failure| self.not_started(failure))
        });
        // The child has its own copies; ours would keep the pipes open.
        opened.theirs = [None, None, None];
        opened.extra.clear();
        match made {
            Ok((child, pass)) => {
                calls.prepare_next();
                let running = Box::new(Running {
                    plan,
                    calls,
                    cgroup,
                    lock,
                    pidfd: child.pidfd,
                    before,
                    ahead: Ahead::default(),
                    presence,
                    pass,
                    started,
                    started_at,
                    queued,
                    input: opened.input,
                    capture: opened.capture,
                    end: Ending::default(),
                });
                running.kill_if_killed_before();
                Ok(Started::Running(running, child.pid, pipes))
            }
            Err(error) => {
                let cancelled = self.canceller.is_cancelled();
                let outcome = End {
                    plan,
                    calls: &calls,
                    cgroup: &cgroup,
                    before: &before,
                    ahead: Ahead::default(),
                    ended: Ended::NotStarted(error),
                    stopped: cancelled.then(|| Stopped::Cancelled(US.into())),
                    alone: true,
                    started_at,
                    duration: started.elapsed(),
                    queued,
                    max_rss_bytes: None,
                }
                .conclude();
                cgroup.remove()?;
                Ok(Started::Failed(Box::new(outcome), cgroup, pipes))
            }
        }
    }

    /// Takes a place in the queue for admission, without waiting there: for event loops, which wait
    /// for the place's descriptor and then start the call [`at`](Self::at) it. `None`: there is no
    /// [`Capacity`](crate::Capacity), and so no queue.
    ///
    /// # Errors
    /// `InvalidInput` for a call that needs more than the whole capacity.
    pub fn enqueue(&self) -> Result<Option<Place>> {
        let plan = self.plan("", self.session.calls()?.controllers(), None);
        self.session.queue().enqueue(Need::from(&plan.limits), self.queue_timeout)
    }

    /// Starts it at a place in the queue that [`enqueue`](Self::enqueue) gave for the same command:
    /// without waiting, if the place's descriptor is readable.
    pub fn at(&mut self, place: Place) -> &mut Self {
        self.place = Some(place);
        self
    }

    /// Waits until there is room, and says how long that was: no time where there is no queue.
    fn admitted(&mut self, plan: &Plan) -> (Result<Pass>, Duration) {
        let place = match self.place.take() {
            Some(place) => Ok(Some(place)),
            None => self.session.queue().enqueue(Need::from(&plan.limits), self.queue_timeout),
        };
        let place = match place {
            Ok(Some(place)) => place,
            none => return (none.map(|_| Pass::default()), Duration::ZERO),
        };
        let since = place.since();
        self.canceller.waits_at(place.gate());
        let pass = place.wait(|| self.canceller.is_cancelled());
        (pass, since.elapsed())
    }

    fn check(&self) -> Result<()> {
        self.limits.check()?;
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(Error::invalid("oom_score_adj", score, "expected -1000 to 1000"));
        }
        if let Some(fd) = self.pass_fds.first().filter(|fd| **fd < 0) {
            return Err(Error::invalid("pass_fds", fd, "it is no file descriptor"));
        }
        let extra = 3..3 + self.extra_fds.len() as RawFd;
        if let Some(fd) = self.pass_fds.iter().find(|fd| extra.contains(fd)) {
            return Err(Error::invalid("pass_fds", fd, "it is the number of one of extra_fds"));
        }
        if let Some(group) = self.process_group.filter(|group| *group < 0) {
            return Err(Error::invalid("process group", group, "expected 0 or more"));
        }
        let short = Duration::from_millis(1);
        if self.sample.is_some_and(|s| s < short) {
            return Err(Error::invalid("sample interval", self.sample, "expected 1 ms or more"));
        }
        Ok(())
    }

    fn plan(&self, call: &str, controllers: &[Controller], memory: Option<u64>) -> Plan {
        let command = self.command_text();
        let (hinted, time, notes) = self.hinted(controllers, &command);
        let mut limits = self.limits.over(&hinted).over(&self.session.config().call);
        if let Some(memory) = memory {
            limits.memory_max = Some(Limit::Value(memory));
        }
        Plan {
            call: call.to_owned(),
            command,
            hint: (!self.hint.is_empty()).then(|| self.hint.to_string()),
            limits,
            notes,
            timeout: self.timeout.or(time),
            grace: self.grace,
            teardown: self.teardown,
            background: self.background,
            sample: self.sample,
        }
    }

    /// What the hint comes to. It is a wish: what no controller can see to is left out, and said.
    fn hinted(
        &self,
        controllers: &[Controller],
        command: &[String],
    ) -> (Limits, Option<Duration>, Vec<String>) {
        if self.hint.is_empty() {
            return (Limits::default(), None, Vec::new());
        }
        let proposal = match (&self.history, self.hint.memory) {
            (Some(history), Some(MemoryHint::Auto)) => {
                history.propose(&CommandKey::normalise(command))
            }
            _ => None,
        };
        let bounds = self.session.bounds();
        let mut to = self.hint.resolve(&self.session.config().hint_classes, &bounds, proposal);
        let mut without = |set: bool, c: Controller| {
            let missing = set && !controllers.contains(&c);
            if missing {
                to.notes.push(format!("the hint's {c} limit is left out: no {c} controller here"));
            }
            missing
        };
        if without(to.limits.memory_max.is_some(), Controller::Memory) {
            to.limits.memory_max = None;
        }
        if without(to.limits.cpu_max.is_some(), Controller::Cpu) {
            to.limits.cpu_max = None;
        }
        if without(to.limits.pids_max.is_some(), Controller::Pids) {
            to.limits.pids_max = None;
        }
        (to.limits, to.timeout, to.notes)
    }

    /// Program and arguments, for people.
    fn command_text(&self) -> Vec<String> {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|w| w.to_string_lossy().into_owned()).collect()
    }

    /// Ours, changed as asked for, with what says which call it is and what it may take.
    fn environment(&self, plan: &Plan, cpus: usize) -> Result<Strings> {
        let mut env = Strings::default();
        let mut add = |name: &OsStr, value: &OsStr| {
            let parts = [name.as_bytes(), b"=", value.as_bytes()];
            if env.push(&parts) { Ok(()) } else { Err(has_nul("variable", name)) }
        };
        let own = [("AGENTCG_SESSION", self.session.name()), ("AGENTCG_CALL", &*plan.call)];
        let is_own = |name: &OsStr| own.iter().any(|(own, _)| name == *own);
        if !self.env_clear {
            for (name, value) in std::env::vars_os() {
                if !self.env.contains_key(&name) && !is_own(&name) {
                    add(&name, &value)?;
                }
            }
        }
        for (name, value) in &self.env {
            let Some(value) = value.as_ref().filter(|_| !is_own(name)) else { continue };
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(Error::invalid("environment variable", name, "a name has no ="));
            }
            add(name, value)?;
        }
        for (name, value) in own {
            add(name.as_ref(), value.as_ref())?;
        }
        if self.budget {
            let limits = plan.limits.over(&self.session.config().limits);
            for (name, value) in budget(&limits, cpus, &|name| env.value(name).is_some()) {
                // Neither has a NUL.
                let _ = env.push(&[name.as_bytes(), b"=", value.as_bytes()]);
            }
        }
        Ok(env)
    }

    fn launch(&self, plan: &Plan, oom_score_adj: Option<i32>, cpus: usize) -> Result<Launch> {
        let envp = self.environment(plan, cpus)?;
        let path = OsStr::from_bytes(envp.value("PATH").unwrap_or(b"/usr/bin:/bin"));
        let programs = programs(&self.program, path)?;
        let mut argv = Strings::default();
        let first = ("program", self.arg0.as_ref().unwrap_or(&self.program));
        for (what, arg) in std::iter::once(first).chain(self.args.iter().map(|a| ("argument", a))) {
            if !argv.push(&[arg.as_bytes()]) {
                return Err(has_nul(what, arg));
            }
        }
        Ok(Launch {
            programs,
            argv,
            envp,
            stdio: [None; 3],
            extra_fds: Vec::new(),
            cwd: self.cwd.as_ref().map(|d| c_string(d.as_os_str(), "directory")).transpose()?,
            umask: self.umask.map(|m| m as libc::mode_t),
            rlimits: self.rlimits.clone(),
            oom_score_adj: oom_score_adj.and_then(|s| CString::new(s.to_string()).ok()),
            new_session: self.new_session,
            process_group: self.process_group,
            groups: self.groups.clone(),
            gid: self.gid,
            uid: self.uid,
            sched_ext: self.session.partial_scheduler(),
            inherit_fds: self.inherit_fds,
            pass_fds: self.pass_fds.range(3..).copied().collect(),
        })
    }

    fn not_started(&self, failure: clone::Failure) -> Error {
        let path: &Path = match (failure.step, &self.cwd) {
            (Step::Chdir, Some(dir)) => dir,
            _ => Path::new(&self.program),
        };
        let e = Error::os(failure.step.text(), path, failure.errno);
        match (failure.step, failure.errno) {
            (Step::Execute, Errno::NOENT) => {
                e.or_help("check the name, the PATH of the call, and the interpreter of a script")
            }
            (Step::Execute, Errno::NOEXEC) => {
                e.or_help("a script needs a first line like #!/bin/sh")
            }
            (Step::Make, Errno::AGAIN) => {
                e.or_help("pids.max of the call, its session or an ancestor is reached")
            }
            (Step::Make | Step::Enter, Errno::ACCESS) => e.or_help(
                "our own process must be in the same delegated subtree: start it with \
                 systemd-run --user --scope -p Delegate=yes",
            ),
            _ => e,
        }
    }
}

/// A call whose process was made, or could not be.
enum Started {
    Running(Box<Running>, i32, Pipes),
    Failed(Box<Outcome>, Arc<Cgroup>, Pipes),
}

impl Started {
    fn run(self, interrupted: &mut dyn FnMut() -> bool) -> Outcome {
        match self {
            Started::Running(running, _, pipes) => {
                // Nobody can use them, and the call might wait for the end of its input.
                drop(pipes);
                running.run(interrupted)
            }
            Started::Failed(outcome, ..) => *outcome,
        }
    }
}

/// The files to try, as execvp(3) does.
fn programs(program: &OsStr, path: &OsStr) -> Result<Vec<CString>> {
    if program.is_empty() {
        return Err(Error::invalid("program", program, "it is empty"));
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program, "program")?]);
    }
    path.as_bytes()
        .split(|b| *b == b':')
        .map(|dir| {
            let dir =
                if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
            c_string(dir.join(program), "program")
        })
        .collect()
}

fn c_string(text: impl Into<OsString>, what: &str) -> Result<CString> {
    CString::new(text.into().into_vec())
        .map_err(|e| has_nul(what, OsStr::from_bytes(&e.into_vec())))
}

fn has_nul(what: &str, text: &OsStr) -> Error {
    Error::invalid(what, text, "it contains a NUL byte")
}
