//! The evidence as real kernels give it. Needs root and the controllers, so it runs in the lab:
//!
//! `tests/vm/lab.py run --kernel 7.3 -- PROGRAM --ignored`, where PROGRAM is what
//! `cargo test -p agentcg-core --lib --no-run` names.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use super::evidence::{Ancestors, End, KILLED_BY};
use super::outcome::{Effect, Ended, Outcome, Scope, Verdict};
use crate::limits::Limits;
use crate::{Cgroup, CgroupName, Controller, mount_point};

const USED: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

/// A root, a session and its `calls`, removed at the end.
struct Place {
    root: Cgroup,
    session: Cgroup,
    calls: Cgroup,
}

fn name(text: &str) -> CgroupName {
    text.parse().unwrap()
}

impl Place {
    fn new() -> Self {
        let top = Cgroup::open(mount_point().unwrap()).unwrap();
        top.enable(&USED).unwrap();
        let root = top.create_child(&name(&format!("verdict-{}", std::process::id()))).unwrap();
        root.enable(&USED).unwrap();
        let session = root.create_child(&name("s")).unwrap();
        session.enable(&USED).unwrap();
        let calls = session.create_child(&name("calls")).unwrap();
        calls.enable(&USED).unwrap();
        Self { root, session, calls }
    }

    /// Runs a shell line in a call with these files written: `s/` before a name means the session's.
    fn run(&self, call: &str, files: &[(&str, &str)], line: &str) -> Outcome {
        let cgroup = self.calls.create_child(&name(call)).unwrap();
        let write = |file: &str, value: &str| match file.strip_prefix("s/") {
            Some(file) => self.session.write(file, value).unwrap(),
            None => cgroup.write(file, value).unwrap(),
        };
        files.iter().for_each(|(file, value)| write(file, value));
        let ancestors = Ancestors::open(&self.calls);
        let before = ancestors.baseline();
        let (started_at, start) = (SystemTime::now(), Instant::now());
        let dir = cgroup.path().display();
        // Entered by a shell of its own, so that the line's shell starts as a call would.
        let enter = format!("echo 0 >{dir}/cgroup.procs && exec sh -c \"$0\"");
        let status = Command::new("sh")
            .args(["-c", &enter, line])
            .env("CALL", cgroup.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        let duration = start.elapsed();
        cgroup.kill().unwrap();
        assert!(cgroup.wait_populated(false, Duration::from_secs(5)).unwrap());
        let ended = match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (_, Some(signal)) => Ended::Signaled { signal, core_dumped: status.core_dumped() },
            _ => Ended::Unknown("neither".into()),
        };
        let outcome = End {
            cgroup: &cgroup,
            ancestors: &ancestors,
            before: &before,
            ended,
            stopped: None,
            alone: true,
            limits: &Limits::default(),
            session: "s",
            call,
            command: &["sh".into(), "-c".into(), line.into()],
            started_at,
            duration,
            max_rss_bytes: None,
        }
        .conclude();
        for file in files.iter().filter_map(|(file, _)| file.strip_prefix("s/")) {
            let none = if file == "cpu.max" { "max 100000" } else { "max" };
            self.session.write(file, none).unwrap();
        }
        cgroup.remove_tree().unwrap();
        outcome
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.root.kill();
        let _ = self.root.remove_tree();
    }
}

/// `tail` keeps what has no line ends: this takes so many MiB.
fn hog(mib: u32) -> String {
    format!("head -c {mib}M /dev/zero | tail >/dev/null")
}

#[test]
#[ignore = "needs root and the cpu, memory and pids controllers"]
fn verdicts() {
    let place = Place::new();
    let limit = &[("memory.max", "32M"), ("memory.swap.max", "0")];
    let group = &[("memory.max", "32M"), ("memory.swap.max", "0"), ("memory.oom.group", "1")];
    let whole = &[("s/memory.max", "32M"), ("s/memory.swap.max", "0")];
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait";
    let burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
    let sub = format!(
        "mkdir $CALL/sub && echo 0 >$CALL/sub/cgroup.procs && echo +memory >$CALL/cgroup.subtree_control && \
         echo 16M >$CALL/sub/memory.max && echo 0 >$CALL/sub/memory.swap.max; {}; true",
        hog(64)
    );
    use Effect::{Ended as Ends, Hampered};
    use Scope::{Call, Session};
    use Verdict as V;
    // The call's name, files to write, a shell line; then the verdict, the cause, the victim.
    type Row<'a> = (
        &'a str,
        &'a [(&'a str, &'a str)],
        String,
        Verdict,
        Option<(&'a str, Scope, Effect)>,
        Option<&'a str>,
    );
    let rows: &[Row<'_>] = &[
        ("true", &[], "true".into(), V::Completed, None, None),
        ("false", &[], "false".into(), V::Failed, None, None),
        ("killed", &[], "kill -9 $$".into(), V::Signaled, None, None),
        (
            "pipeline",
            limit,
            format!("{}; true", hog(128)),
            V::OomKilled,
            Some(("memory.max", Call, Ends)),
            Some("tail"),
        ),
        (
            "failing",
            limit,
            format!("{}; exit 3", hog(128)),
            V::OomKilled,
            Some(("memory.max", Call, Ends)),
            Some("tail"),
        ),
        (
            "group",
            group,
            format!("{}; true", hog(128)),
            V::OomKilled,
            Some(("memory.max", Call, Ends)),
            Some("tail"),
        ),
        (
            "session",
            whole,
            format!("{}; true", hog(128)),
            V::OomKilled,
            Some(("memory.max", Session, Ends)),
            Some("tail"),
        ),
        ("sub", &[], sub, V::OomKilled, Some(("memory.max", Call, Ends)), Some("tail")),
        (
            "forks",
            &[("pids.max", "4")],
            forks.into(),
            V::PidsExhausted,
            Some(("pids.max", Call, Ends)),
            None,
        ),
        (
            "managed",
            &[("pids.max", "4")],
            format!("({forks}) ; true"),
            V::Completed,
            Some(("pids.max", Call, Hampered)),
            None,
        ),
        (
            "shared",
            &[("s/pids.max", "4")],
            forks.into(),
            V::PidsExhausted,
            Some(("pids.max", Session, Ends)),
            None,
        ),
        (
            "high",
            &[("memory.high", "16M"), ("memory.swap.max", "0")],
            hog(17),
            V::Completed,
            Some(("memory.high", Call, Hampered)),
            None,
        ),
        (
            "cpu",
            &[("cpu.max", "20000 100000")],
            burn.into(),
            V::Completed,
            Some(("cpu.max", Call, Hampered)),
            None,
        ),
        (
            "cpus",
            &[("s/cpu.max", "20000 100000")],
            burn.into(),
            V::Completed,
            Some(("cpu.max", Session, Hampered)),
            None,
        ),
        ("big", &[("memory.max", "256M")], hog(64), V::Completed, None, None),
    ];
    let mut wrong = Vec::new();
    for (call, files, line, verdict, cause, comm) in rows {
        let outcome = place.run(call, files, line);
        let found = outcome.cause.as_ref().map(|c| (c.limit, c.scope, c.effect));
        let victim =
            outcome.cause.as_ref().and_then(|c| c.victim.as_ref()).map(|v| v.comm.as_str());
        if (outcome.verdict, found, victim) != (*verdict, *cause, *comm) {
            wrong.push(outcome.to_json());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs root and the cpu, memory and pids controllers"]
fn who_killed_it_is_read_from_the_attribute() {
    let place = Place::new();
    let cgroup = place.calls.create_child(&name("c")).unwrap();
    rustix::fs::fsetxattr(
        &cgroup,
        KILLED_BY,
        b"agentcg kill (pid 12)",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let ancestors = Ancestors::open(&place.calls);
    let outcome = End {
        cgroup: &cgroup,
        ancestors: &ancestors,
        before: &ancestors.baseline(),
        ended: Ended::Signaled { signal: 9, core_dumped: false },
        stopped: None,
        alone: true,
        limits: &Limits::default(),
        session: "s",
        call: "c",
        command: &[],
        started_at: SystemTime::now(),
        duration: Duration::from_secs(1),
        max_rss_bytes: Some(1),
    }
    .conclude();
    assert_eq!(outcome.verdict, Verdict::Cancelled);
    assert!(outcome.advice.contains("by agentcg kill (pid 12)"));
}

/// With `lab.py run --mem 512M`: elsewhere it is left out, for it takes all the memory there is.
#[test]
#[ignore = "needs root, the controllers and a machine of less than 1 GiB"]
fn the_machine_is_short_of_memory() {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = info.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap();
    if total > 1 << 20 {
        return;
    }
    let outcome = Place::new().run("all", &[], &format!("{}; true", hog(1024)));
    let cause = outcome.cause.as_ref().unwrap();
    let comm = cause.victim.as_ref().map(|v| v.comm.as_str());
    let found = (outcome.verdict, cause.limit, cause.scope, comm);
    assert_eq!(
        found,
        (Verdict::OomKilled, "memory", Scope::Host, Some("tail")),
        "{}",
        outcome.to_json()
    );
}
