//! The process monitor.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use agentcg_core::{
    DropReason, ErrorKind, Event, EventFilter, EventKind, EventMode, EventStream, Exec, Exit,
};
use anyhow::{Context, Result, ensure};

use crate::support::{Need, Test, TestCgroup, kind_of};

const HERE: &[Need] = &[Need::Root, Need::Events];
const GROUPS: &[Need] = &[Need::Root, Need::Events, Need::Cgroup2];

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "events::200_runs_give_200_exec_and_200_exit", needs: HERE, run: all_of_200 },
        Test { name: "events::any_name_and_argument_gives_valid_json", needs: HERE, run: hostile },
        Test { name: "events::a_long_argument_list_is_cut_and_says_so", needs: HERE, run: long },
        Test { name: "events::exit_codes_and_signals", needs: HERE, run: endings },
        Test { name: "events::threads_end_with_their_process", needs: HERE, run: threads },
        Test {
            name: "events::mode_2_follows_a_command_and_its_descendants",
            needs: HERE,
            run: by_command,
        },
        Test { name: "events::mode_2_follows_a_pid_that_runs_already", needs: HERE, run: by_pid },
        Test {
            name: "events::mode_2_follows_a_cgroup_and_all_below",
            needs: GROUPS,
            run: by_cgroup,
        },
        Test {
            name: "events::mode_1_has_files_of_tracked_processes_only",
            needs: HERE,
            run: files,
        },
        Test { name: "events::short_lives_are_left_out", needs: HERE, run: min_duration },
        Test { name: "events::loss_is_counted", needs: HERE, run: loss },
        Test { name: "events::bad_filters_are_refused", needs: HERE, run: bad_filters },
    ]
}

fn filter(kinds: &[EventKind]) -> EventFilter {
    let mut filter = EventFilter::default();
    filter.kinds = kinds.to_vec();
    filter
}

/// Everything up to now: until a marker process, started last, has come by.
fn collect(stream: &mut EventStream) -> Result<Vec<Event>> {
    let marker = run(Command::new("/bin/true").arg("agentcg-marker"))?;
    let mut events = Vec::new();
    loop {
        let event =
            stream.next_timeout(Duration::from_secs(10))?.context("no marker within 10 s")?;
        if event.origin().is_some_and(|o| o.pid == marker) {
            // Its EXIT is the last of it.
            if matches!(event, Event::Exit(_)) {
                return Ok(events);
            }
            continue;
        }
        events.push(event);
    }
}

/// Runs it to its end; its pid.
fn run(command: &mut Command) -> Result<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = child.id() as i32;
    child.wait()?;
    Ok(pid)
}

fn execs(events: &[Event]) -> impl Iterator<Item = &Exec> {
    events.iter().filter_map(|e| if let Event::Exec(e) = e { Some(e) } else { None })
}

fn exits(events: &[Event]) -> impl Iterator<Item = &Exit> {
    events.iter().filter_map(|e| if let Event::Exit(e) = e { Some(e) } else { None })
}

fn exit_of(events: &[Event], pid: i32) -> Result<&Exit> {
    exits(events).find(|e| e.origin.pid == pid).with_context(|| format!("no EXIT of {pid}"))
}

fn all_of_200() -> Result<()> {
    let mut stream = EventStream::open(&filter(&[EventKind::Exec, EventKind::Exit]), None)?;
    let pids = (0..200).map(|_| run(&mut Command::new("/bin/true"))).collect::<Result<Vec<_>>>()?;
    let events = collect(&mut stream)?;
    for pid in &pids {
        let exec: Vec<_> = execs(&events).filter(|e| e.origin.pid == *pid).collect();
        ensure!(exec.len() == 1 && exec[0].filename == "/bin/true", "{pid}: {exec:?}");
        ensure!(exec[0].origin.ppid == std::process::id() as i32);
        ensure!(exits(&events).filter(|e| e.origin.pid == *pid).count() == 1, "{pid}");
        ensure!(exit_of(&events, *pid)?.exit_code == Some(0));
    }
    for event in &events {
        serde_json::from_str::<serde_json::Value>(&event.to_json())?;
    }
    Ok(())
}

fn hostile() -> Result<()> {
    let dir = std::env::temp_dir().join(OsStr::from_bytes(b"agentcg \"\n\xff\\"));
    std::fs::create_dir_all(&dir)?;
    let program = dir.join(OsStr::from_bytes(b"\"q\n\xfe\x01"));
    std::fs::copy("/bin/true", &program)?;
    let mut stream = EventStream::open(&filter(&[EventKind::Exec, EventKind::Exit]), None)?;
    let args: [&[u8]; 5] = [b"", b"a\"b\\", b"new\nline\ttab", b"\xff\xfe\x80", "ü".as_bytes()];
    let pid = run(Command::new(&program).arg0("").args(args.map(OsStr::from_bytes)))?;
    let events = collect(&mut stream)?;
    std::fs::remove_dir_all(&dir)?;
    let exec = execs(&events).find(|e| e.origin.pid == pid).context("no EXEC")?;
    ensure!(exec.filename == program.as_os_str(), "{exec:?}");
    let want: Vec<_> = std::iter::once(OsStr::new("")).chain(args.map(OsStr::from_bytes)).collect();
    ensure!(exec.argv == want, "{exec:?}");
    for event in &events {
        let json: serde_json::Value = serde_json::from_str(&event.to_json())?;
        ensure!(json["comm"].is_string() && json["event"].is_string());
        ensure!(!event.to_json().contains('\n'));
    }
    Ok(())
}

fn long() -> Result<()> {
    let mut stream = EventStream::open(&filter(&[EventKind::Exec, EventKind::Exit]), None)?;
    let fits = "x".repeat(10_000);
    let first = run(Command::new("/bin/true").arg(&fits))?;
    let second = run(Command::new("/bin/true").args(vec!["y".repeat(999); 100]))?;
    let events = collect(&mut stream)?;
    let of = |pid| execs(&events).find(move |e| e.origin.pid == pid).context("no EXEC");
    ensure!(!of(first)?.argv_truncated && of(first)?.argv[1] == *fits);
    ensure!(of(second)?.argv_truncated && of(second)?.argv.len() > 10);
    Ok(())
}

fn endings() -> Result<()> {
    let mut stream = EventStream::open(&filter(&[EventKind::Exec, EventKind::Exit]), None)?;
    let sh = |script: &str| run(Command::new("/bin/sh").args(["-c", script]));
    let seven = sh("exit 7")?;
    let term = sh("kill -TERM $$")?;
    let kill = sh("kill -KILL $$")?;
    let slow = sh("sleep 0.2")?;
    let events = collect(&mut stream)?;
    let ending = |pid| exit_of(&events, pid).map(|e| (e.exit_code, e.signal));
    ensure!(ending(seven)? == (Some(7), None));
    ensure!(ending(term)? == (None, Some(libc::SIGTERM)));
    ensure!(ending(kill)? == (None, Some(libc::SIGKILL)));
    ensure!(!exit_of(&events, kill)?.oom_killed);
    let slow = exit_of(&events, slow)?;
    ensure!((200..5000).contains(&slow.duration_ms), "{slow:?}");
    ensure!(slow.memory_peak_bytes > 100 << 10, "{slow:?}");
    Ok(())
}

fn threads() -> Result<()> {
    let mut stream =
        EventStream::open(&filter(&[EventKind::Fork, EventKind::Exec, EventKind::Exit]), None)?;
    // The loader of this program's own threads: libtest-mimic lists its tests with them.
    let pid = run(Command::new(std::env::current_exe()?).args(["--list", "--test-threads", "4"]))?;
    let events = collect(&mut stream)?;
    ensure!(exits(&events).filter(|e| e.origin.pid == pid).count() == 1);
    Ok(())
}

fn by_command() -> Result<()> {
    let mut filter = filter(&[EventKind::Exec, EventKind::Exit]);
    filter.mode = EventMode::TrackedOnly;
    filter.commands = vec!["sh".into(), "dash".into(), "true".into()];
    let mut stream = EventStream::open(&filter, None)?;
    let stranger = run(&mut Command::new("/bin/ls"))?;
    let shell = run(Command::new("/bin/sh").args(["-c", "/bin/ls; /bin/ls /; exit 0"]))?;
    let events = collect(&mut stream)?;
    ensure!(events.iter().all(|e| e.origin().is_some_and(|o| o.pid != stranger)));
    let children = execs(&events).filter(|e| e.origin.ppid == shell).count();
    ensure!(children == 2, "{children} of 2 children");
    ensure!(exit_of(&events, shell)?.exit_code == Some(0));
    Ok(())
}

fn by_pid() -> Result<()> {
    let mut worker = Command::new("/bin/sh")
        .args(["-c", "read x; /bin/ls >/dev/null; exit 3"])
        .stdin(Stdio::piped())
        .spawn()?;
    let pid = worker.id() as i32;
    let mut filter = filter(&[EventKind::Exec, EventKind::Exit]);
    filter.mode = EventMode::TrackedOnly;
    filter.pids = vec![pid];
    filter.commands = vec!["true".into()];
    let mut stream = EventStream::open(&filter, None)?;
    let missing = stream.missing().len();
    drop(worker.stdin.take());
    worker.wait()?;
    let events = collect(&mut stream)?;
    ensure!(missing == 0, "the task iterator should work");
    ensure!(execs(&events).any(|e| e.origin.ppid == pid && e.filename == "/bin/ls"));
    ensure!(exit_of(&events, pid)?.exit_code == Some(3));
    Ok(())
}

fn by_cgroup() -> Result<()> {
    let place = TestCgroup::new()?;
    let inner = place.child("inner")?;
    let mut filter = filter(&[EventKind::Exec, EventKind::Exit]);
    filter.mode = EventMode::TrackedOnly;
    filter.cgroups = vec![place.path().into()];
    filter.commands = vec!["true".into()];
    let mut stream = EventStream::open(&filter, Some(place.path()))?;
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "read x; /bin/ls >/dev/null; sleep 0.2; exit 0"])
        .stdin(Stdio::piped())
        .spawn()?;
    let pid = shell.id() as i32;
    inner.move_pid(pid)?;
    drop(shell.stdin.take());
    shell.wait()?;
    let events = collect(&mut stream)?;
    let ls = execs(&events).find(|e| e.origin.ppid == pid && e.filename == "/bin/ls");
    let ls = ls.context("no EXEC of the child")?;
    ensure!(ls.origin.cgroup_id == inner.id()?);
    ensure!(ls.origin.cgroup.as_deref().is_none_or(|p| p == inner.path()), "{ls:?}");
    let sleep = execs(&events).find(|e| e.origin.ppid == pid && e.origin.comm == "sleep");
    let sleep = sleep.context("no EXEC of sleep")?;
    ensure!(sleep.origin.session.as_deref() == Some("inner"), "{sleep:?}");
    Ok(())
}

fn files() -> Result<()> {
    let mut filter = filter(&[EventKind::Exec, EventKind::Exit, EventKind::FileOpen]);
    filter.mode = EventMode::FilesOfTracked;
    filter.commands = vec!["cat".into()];
    let mut stream = EventStream::open(&filter, None)?;
    ensure!(stream.missing().is_empty(), "{:?}", stream.missing());
    run(Command::new("/bin/head").arg("/etc/hostname"))?;
    let cat = run(Command::new("/bin/cat").args(["/etc/hostname", "/none/such"]))?;
    let events = collect(&mut stream)?;
    let opened: Vec<_> = events
        .iter()
        .filter_map(|e| if let Event::FileOpen(f) = e { Some(f) } else { None })
        .collect();
    ensure!(opened.iter().all(|f| f.origin.pid == cat), "files of others: {opened:?}");
    let of = |path: &str| opened.iter().find(|f| f.filepath == path).context("no FILE_OPEN");
    ensure!(of("/etc/hostname")?.result >= 0 && of("/etc/hostname")?.count == 1);
    ensure!(of("/none/such")?.result == -libc::ENOENT);
    Ok(())
}

fn min_duration() -> Result<()> {
    let mut filter = filter(&[EventKind::Exec, EventKind::Exit]);
    filter.min_duration = Duration::from_millis(300);
    let mut stream = EventStream::open(&filter, None)?;
    let short = run(Command::new("/bin/true").arg("short"))?;
    let long = run(Command::new("/bin/sleep").arg("0.5"))?;
    let mut seen = Vec::new();
    while seen.last() != Some(&long) {
        let event =
            stream.next_timeout(Duration::from_secs(10))?.context("no EXIT of the long one")?;
        if let Event::Exit(e) = event {
            seen.push(e.origin.pid);
        }
    }
    ensure!(!seen.contains(&short), "{seen:?}");
    Ok(())
}

fn loss() -> Result<()> {
    let mut filter = filter(&[EventKind::Exec]);
    filter.buffer_bytes = 4096;
    let mut stream = EventStream::open(&filter, None)?;
    for _ in 0..50 {
        run(&mut Command::new("/bin/true"))?;
    }
    let (mut received, mut dropped) = (0, 0);
    while let Some(event) = stream.next_timeout(Duration::from_millis(200))? {
        match event {
            Event::Dropped(d) if d.reason == DropReason::RingFull => dropped += d.count,
            Event::Exec(_) => received += 1,
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
    // Others may run programs on this machine too, so there may be more than ours.
    ensure!(dropped > 0 && received > 0 && received + dropped >= 50, "{received} + {dropped}");
    Ok(())
}

fn bad_filters() -> Result<()> {
    let refused = |change: &dyn Fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        kind_of(EventStream::open(&filter, None))
    };
    ensure!(
        refused(&|f| f.commands = vec!["a-name-that-is-too-long".into()])?
            == ErrorKind::InvalidInput
    );
    ensure!(refused(&|f| f.commands = vec!["".into()])? == ErrorKind::InvalidInput);
    ensure!(refused(&|f| f.pids = vec![-1])? == ErrorKind::InvalidInput);
    ensure!(refused(&|f| f.pids = vec![i32::MAX])? == ErrorKind::NotFound);
    ensure!(refused(&|f| f.cgroups = vec!["/none/such".into()])? == ErrorKind::NotFound);
    ensure!(refused(&|f| f.cgroups = vec!["/proc".into()])? == ErrorKind::InvalidInput);
    ensure!(refused(&|f| f.buffer_bytes = 0)? == ErrorKind::InvalidInput);
    ensure!(refused(&|f| f.kinds.clear())? == ErrorKind::InvalidInput);
    Ok(())
}
