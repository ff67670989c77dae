//! The victim of an OOM kill and the cgroup whose limit it was, from the kernel log.
//!
//! For one kill the kernel writes, in this order and under one lock for the whole machine:
//!
//! | record | says | when |
//! |---|---|---|
//! | `oom-kill:constraint=...` | limit's cgroup, victim's cgroup, name and pid | at most 10 in 5 s |
//! | `... Killed process PID (COMM) ...` | name and pid | always |
//! | `Tasks in CGROUP are going to be killed ...` | the group killed whole | with `memory.oom.group` |
//!
//! So the first is used where it is there, and else the second together with the third.
//! `/dev/kmsg` is read only when a call's counters say that there was an OOM kill.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::outcome::Victim;
use crate::cgroup::mount_root;

/// What one record of the kernel log says about an OOM kill. Paths are of the whole hierarchy, as
/// the kernel names cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Record {
    /// Who was chosen, and why.
    Chosen {
        /// The cgroup whose `memory.max` was met; `None` when the machine's memory was short.
        limit: Option<String>,
        /// The victim's cgroup.
        cgroup: String,
        /// The victim.
        victim: Victim,
    },
    /// A process was killed.
    Killed(Victim),
    /// All processes of this cgroup are killed with it.
    Group(String),
}

/// One record of `/dev/kmsg`: the kernel's clock, µs, and what it says about an OOM kill; `None`
/// for every other record, and for what user space wrote there.
#[doc(hidden)]
pub fn parse(record: &[u8]) -> Option<(u64, Record)> {
    let semicolon = record.iter().position(|b| *b == b';')?;
    let mut head = std::str::from_utf8(&record[..semicolon]).ok()?.split(',');
    // Facility 0, the kernel, can be had by the kernel only.
    if head.next()?.parse::<u32>().ok()? >= 8 {
        return None;
    }
    let time = head.nth(1)?.parse().ok()?;
    let line = record[semicolon + 1..].split(|b| *b == b'\n').next()?;
    let text = unescape(line);
    let record = if let Some(rest) = text.strip_prefix("oom-kill:") {
        chosen(rest)?
    } else if text.starts_with("Memory cgroup out of memory") || text.starts_with("Out of memory") {
        Record::Killed(killed(&text)?)
    } else {
        let rest = text.strip_prefix("Tasks in ")?;
        Record::Group(
            rest.strip_suffix(" are going to be killed due to memory.oom.group set")?.into(),
        )
    };
    Some((time, record))
}

/// `constraint=C,nodemask=N,cpuset=S,mems_allowed=M,[oom_memcg=P|global_oom],task_memcg=P,task=COMM,pid=N,uid=N`.
/// Names of cgroups and commands can hold commas, so the ends are found from outside inwards.
fn chosen(text: &str) -> Option<Record> {
    let (text, _uid) = text.rsplit_once(",uid=")?;
    let (text, pid) = text.rsplit_once(",pid=")?;
    let (text, comm) = text.rsplit_once(",task=")?;
    let (text, cgroup) = text.split_once(",task_memcg=")?;
    let limit = text.split_once(",oom_memcg=").map(|(_, limit)| limit.to_owned());
    if limit.is_none() && !text.ends_with(",global_oom") {
        return None;
    }
    let victim = Victim { pid: pid.parse().ok()?, comm: comm.to_owned() };
    Some(Record::Chosen { limit, cgroup: cgroup.to_owned(), victim })
}

/// `...: Killed process PID (COMM) total-vm:...`
fn killed(text: &str) -> Option<Victim> {
    let (_, rest) = text.split_once(": Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    let end = rest.rfind(") total-vm:").or_else(|| rest.rfind(')'))?;
    Some(Victim { pid: pid.parse().ok()?, comm: rest[..end].to_owned() })
}

/// The log has bytes that are not printable, and the backslash, as `\xNN`.
fn unescape(line: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\' && tail.first() == Some(&b'x'))
            .then(|| std::str::from_utf8(tail.get(1..3)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the kernel log says about an OOM kill in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub victim: Victim,
    /// Whose limit it was; `None` when the record of it is missing.
    pub limit: Option<LoggedLimit>,
}

/// Whose limit, as the kernel log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoggedLimit {
    /// The machine's memory.
    Host,
    /// A cgroup, by its path below the mount point where that is visible.
    Cgroup(PathBuf),
}

/// The OOM kill in the cgroup `path` or below it in the last `ago`, or why it is not known.
pub(crate) fn look_up(path: &Path, ago: Duration) -> Result<Kill, String> {
    let names = Names::of(path)?;
    let mut search = Search::new(&names, ago);
    let log = openat(
        CWD,
        c"/dev/kmsg",
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| match e {
        Errno::PERM | Errno::ACCESS => {
            "reading /dev/kmsg needs CAP_SYSLOG (or root and kernel.dmesg_restrict=0)".to_owned()
        }
        e => format!("opening /dev/kmsg failed: {e}"),
    })?;
    let mut buf = [0; 8192];
    let mut waited = false;
    loop {
        match rustix::io::read(&log, &mut buf) {
            Ok(n) => search.add(&buf[..n]),
            // Records were overwritten before we came to them.
            Err(Errno::PIPE | Errno::INTR) => {}
            // The kernel counts a kill shortly before it writes about it.
            Err(Errno::AGAIN) if search.found.is_none() && !waited => {
                waited = true;
                let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let _ = poll(&mut [PollFd::new(&log, PollFlags::IN)], Some(&wait));
            }
            Err(Errno::AGAIN) => break,
            Err(e) => return Err(format!("reading /dev/kmsg failed: {e}")),
        }
    }
    search.found.ok_or_else(|| {
        "the kernel log has no record of it: it was overwritten, or left out by its rate limit"
            .into()
    })
}

/// How the kernel names a cgroup, and how we do.
struct Names {
    /// The call's path from the root of what is mounted, without the leading `/`.
    inside: String,
    /// What is before it in the kernel's names; `None` inside a cgroup namespace, where that cannot
    /// be seen.
    prefix: Option<String>,
    mount: PathBuf,
}

impl Names {
    fn of(path: &Path) -> Result<Self, String> {
        let (mount, root) = mount_root().map_err(|e| e.message())?;
        let inside = path
            .strip_prefix(&mount)
            .map_err(|_| format!("{} is not below {}", path.display(), mount.display()))?;
        // PROC_CGROUP_INIT_INO: the inode of the first cgroup namespace, in every kernel.
        let whole =
            rustix::fs::stat(c"/proc/self/ns/cgroup").is_ok_and(|s| s.st_ino == 0xEFFF_FFFB);
        let root = root.to_string_lossy();
        Ok(Self {
            inside: inside.to_string_lossy().into_owned(),
            prefix: whole.then(|| root.trim_end_matches('/').to_owned()),
            mount,
        })
    }

    /// What of the kernel's name is before `inside`, if it is the call's cgroup or one below it.
    fn before<'k>(&self, kernel: &'k str) -> Option<&'k str> {
        if self.inside.is_empty() {
            return None;
        }
        let fits = |at: usize| {
            let before = kernel[..at].strip_suffix('/')?;
            let after = &kernel[at + self.inside.len()..];
            let known = self.prefix.as_ref().is_none_or(|p| p == before);
            (known && (after.is_empty() || after.starts_with('/'))).then_some(before)
        };
        kernel.match_indices(&self.inside).find_map(|(at, _)| fits(at))
    }

    /// Our path of the cgroup that the kernel names so; below the mount point only when `prefix`
    /// is a prefix of it.
    fn ours(&self, kernel: &str, prefix: &str) -> PathBuf {
        match kernel.strip_prefix(prefix).filter(|r| r.is_empty() || r.starts_with('/')) {
            Some(inside) => self.mount.join(inside.trim_start_matches('/')),
            None => PathBuf::from(kernel),
        }
    }
}

/// Goes through the records and keeps the first kill that fits: when several processes are killed one
/// after the other, it is the first that was too large.
///
/// The log's clock is not corrected by NTP as `CLOCK_MONOTONIC` is (at most by 500 ppm), so a record
/// of this call can seem to be from before its start. Such a one is taken when there is none after it,
/// and then the last, for another call may have had the name before.
struct Search<'a> {
    names: &'a Names,
    /// The call's start by `CLOCK_MONOTONIC`, µs.
    start: u64,
    /// The earliest that its start can be by the log's clock, µs.
    earliest: u64,
    killed: Option<Victim>,
    found: Option<Kill>,
    found_after_start: bool,
}

impl<'a> Search<'a> {
    fn new(names: &'a Names, ago: Duration) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        let slack = Duration::from_secs(2) + now / 1000;
        let us = |ago| u64::try_from(now.saturating_sub(ago).as_micros()).unwrap_or(0);
        Self::between(names, us(ago), us(ago.saturating_add(slack)))
    }

    fn between(names: &'a Names, start: u64, earliest: u64) -> Self {
        Self { names, start, earliest, killed: None, found: None, found_after_start: false }
    }

    fn add(&mut self, record: &[u8]) {
        let Some((time, record)) = parse(record) else { return };
        if time < self.earliest {
            return;
        }
        match record {
            Record::Chosen { limit, cgroup, victim } => {
                if let Some(prefix) = self.names.before(&cgroup) {
                    let limit = match limit {
                        Some(limit) => LoggedLimit::Cgroup(self.names.ours(&limit, prefix)),
                        None => LoggedLimit::Host,
                    };
                    self.keep(time, Kill { victim, limit: Some(limit) });
                }
            }
            Record::Killed(victim) => self.killed = Some(victim),
            // The group's first victim was the one chosen.
            Record::Group(cgroup) => {
                let chosen = self.killed.take().filter(|_| self.names.before(&cgroup).is_some());
                if let Some(victim) = chosen
                    && self.found.as_ref().is_none_or(|f| f.victim != victim)
                {
                    self.keep(time, Kill { victim, limit: None });
                }
            }
        }
    }

    fn keep(&mut self, time: u64, kill: Kill) {
        if !self.found_after_start {
            self.found = Some(kill);
            self.found_after_start = time >= self.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHOSEN: &str = "6,812,93400512,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/agentcg/a/calls/7,task_memcg=/agentcg/a/calls/7,task=python3,pid=412,uid=0\n";
    const KILLED: &str = "3,813,93400790,-;Memory cgroup out of memory: Killed process 412 (python3) total-vm:70512kB, anon-rss:32260kB, file-rss:5888kB, shmem-rss:0kB, UID:0 pgtables:152kB oom_score_adj:0\n";
    const GROUP: &str = "6,814,93401220,-,caller=T9;Tasks in /agentcg/a/calls/7 are going to be killed due to memory.oom.group set\n";
    const GLOBAL: &str = "6,9,500,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/agentcg/a/calls/7/sub,task=a,task=b,pid=5,uid=0\n";

    fn names(prefix: Option<&str>) -> Names {
        Names {
            inside: "agentcg/a/calls/7".into(),
            prefix: prefix.map(str::to_owned),
            mount: "/sys/fs/cgroup".into(),
        }
    }

    fn search(names: &Names, since: u64, records: &[&str]) -> Option<Kill> {
        let mut search = Search::between(names, since, since);
        records.iter().for_each(|r| search.add(r.as_bytes()));
        search.found
    }

    fn victim(pid: i32, comm: &str) -> Victim {
        Victim { pid, comm: comm.into() }
    }

    #[test]
    fn records_of_6_12() {
        let (time, record) = parse(CHOSEN.as_bytes()).unwrap();
        assert_eq!(time, 93_400_512);
        let path = "/agentcg/a/calls/7".to_owned();
        let chosen = Record::Chosen {
            limit: Some(path.clone()),
            cgroup: path.clone(),
            victim: victim(412, "python3"),
        };
        assert_eq!(record, chosen);
        assert_eq!(parse(KILLED.as_bytes()).unwrap().1, Record::Killed(victim(412, "python3")));
        assert_eq!(parse(GROUP.as_bytes()).unwrap().1, Record::Group(path));
        for other in ["6,1,2,-;eth0: up\n", "", ";", "6,1,2,-;oom-kill:\n", "6;oom-kill:"] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn user_space_cannot_forge_a_record() {
        assert_eq!(parse(CHOSEN.replacen('6', "14", 1).as_bytes()), None);
    }

    #[test]
    fn names_of_commands_can_hold_anything() {
        let odd = KILLED.replace("(python3)", "(a) (b\\x0a\\x5c,pid=1)");
        let Some((_, Record::Killed(v))) = parse(odd.as_bytes()) else { panic!("{odd}") };
        assert_eq!(v, victim(412, "a) (b\n\\,pid=1"));
        let odd = CHOSEN.replace("task=python3", "task=x,pid=1,uid=3");
        let Some((_, Record::Chosen { victim: v, .. })) = parse(odd.as_bytes()) else { panic!() };
        assert_eq!(v, victim(412, "x,pid=1,uid=3"));
        assert_eq!(unescape(b"\\xff\\xZZ\\x4"), "\u{fffd}\\xZZ\\x4");
    }

    #[test]
    fn the_victim_and_the_limit_are_found() {
        let found = search(&names(Some("")), 0, &[CHOSEN, KILLED, GROUP]).unwrap();
        assert_eq!(found.victim, victim(412, "python3"));
        let call = PathBuf::from("/sys/fs/cgroup/agentcg/a/calls/7");
        assert_eq!(found.limit, Some(LoggedLimit::Cgroup(call)));

        // The rate limit has taken the first record.
        let found = search(&names(Some("")), 0, &[KILLED, GROUP, KILLED]).unwrap();
        assert_eq!((found.victim.pid, found.limit), (412, None));

        let found = search(&names(Some("")), 0, &[GLOBAL]).unwrap();
        assert_eq!((found.victim.pid, found.limit), (5, Some(LoggedLimit::Host)));
    }

    #[test]
    fn other_calls_and_other_times_do_not_count() {
        let all = [CHOSEN, KILLED, GROUP];
        assert_eq!(search(&names(Some("")), 93_500_000, &all), None);
        assert_eq!(search(&names(Some("/docker/x")), 0, &all), None);
        let other: Vec<_> = all.iter().map(|r| r.replace("calls/7", "calls/70")).collect();
        let other: Vec<_> = other.iter().map(String::as_str).collect();
        assert_eq!(search(&names(Some("")), 0, &other), None);
        assert_eq!(search(&names(None), 0, &other), None);
    }

    #[test]
    fn the_first_kill_counts_and_before_the_start_the_last() {
        let names = names(Some(""));
        let second = CHOSEN.replace("93400512", "93500000").replace("pid=412", "pid=413");
        for (start, earliest, pid) in
            [(0, 0, 412), (93_450_000, 0, 413), (99_000_000, 0, 413), (99_000_000, 93_450_000, 413)]
        {
            let mut search = Search::between(&names, start, earliest);
            [CHOSEN, &second].iter().for_each(|r| search.add(r.as_bytes()));
            assert_eq!(search.found.unwrap().victim.pid, pid, "{start} {earliest}");
        }
    }

    #[test]
    fn inside_a_namespace_the_end_of_the_path_decides() {
        let outside = CHOSEN.replace("=/agentcg", "=/docker/x/agentcg");
        let found = search(&names(None), 0, &[&outside]).unwrap();
        let call = PathBuf::from("/sys/fs/cgroup/agentcg/a/calls/7");
        assert_eq!(found.limit, Some(LoggedLimit::Cgroup(call)));
        // A limit outside the namespace keeps the kernel's name.
        let above = outside.replace("oom_memcg=/docker/x/agentcg/a/calls/7", "oom_memcg=/docker");
        let found = search(&names(None), 0, &[&above]).unwrap();
        assert_eq!(found.limit, Some(LoggedLimit::Cgroup("/docker".into())));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            head in "[0-9,;-]{0,12}",
            start in prop::sample::select(vec!["oom-kill:constraint=", "Out of memory: Killed process ", "Tasks in ", ""]),
            rest in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let record = [head.as_bytes(), b"6,1,2,-;", start.as_bytes(), &rest].concat();
            let _ = parse(&record);
            let _ = parse(&record[head.len()..]);
            let names = names(None);
            let mut search = Search::new(&names, Duration::ZERO);
            search.add(&record[head.len()..]);
        }

        #[test]
        fn matching_names_does_not_panic(kernel in "[/a-c7é]{0,12}", inside in "[/a-cé7]{0,4}") {
            let names = Names { inside, ..names(None) };
            if let Some(prefix) = names.before(&kernel) {
                let _ = names.ours(&kernel, prefix);
            }
        }
    }
}
