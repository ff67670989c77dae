//! The JSON of outcomes: one of every kind, checked in as `docs/outcome.examples.jsonl`, which
//! `tests/python/test_outcome_schema.py` holds against `docs/outcome.schema.json`.

use std::time::{Duration, SystemTime};

use super::oom::LoggedLimit;
use super::outcome::{Captured, Ended, Outcome, Sample, Survivor, Verdict};
use super::tests::{CALL, exited, not_started, signaled};
use super::verdict::Evidence;
use crate::Limit;
use crate::limits::Limits;

fn outcome(mut evidence: Evidence, command: &[&str]) -> Outcome {
    evidence
        .usage
        .unavailable
        .insert("swap_peak_bytes", "this kernel has no memory.swap.peak: it came with 6.5".into());
    let memory_max = Some(Limit::Value(512 << 20));
    let limits = Limits { memory_max, cpu_max: Some(0.5), ..Limits::default() };
    Outcome {
        call: "7".into(),
        session: "a".into(),
        cgroup: CALL.into(),
        command: command.iter().map(|&s| s.to_owned()).collect(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        limits,
        ..evidence.conclude()
    }
}

/// Everything that an outcome can have.
fn full() -> Outcome {
    let path = Some(LoggedLimit::Cgroup(CALL.into()));
    let first = outcome(signaled(9).oom_at(0).logged(path.clone()), &["pytest"]);
    let mut all = outcome(signaled(9).oom_at(0).logged(path), &["pytest", "-n", "8"]);
    all.ended = Ended::Signaled { signal: 9, core_dumped: true };
    all.hint = Some("memory:512M".into());
    all.queued = Duration::from_millis(250);
    all.usage.memory_current_bytes = Some(4096);
    all.usage.swap_peak_bytes = Some(0);
    all.usage.unavailable.clear();
    all.usage.max_rss_bytes = Some(90 << 20);
    all.usage.io_read_bytes = Some(1);
    all.usage.io_write_bytes = Some(u64::MAX);
    all.usage.memory_high_events = Some(2);
    all.usage.oom_kills = Some(1);
    all.stdout = Some(Captured { bytes: vec![b'x'; 10], total: 30, cut_at: Some(5) });
    all.stderr = Some(Captured::default());
    all.killed_processes = 3;
    all.background = vec![4711];
    all.survivors = vec![Survivor { pid: 12, comm: "nfs \u{fffd}".into(), state: 'D' }];
    all.timeline = vec![
        Sample { at_ms: 0, cpu_us: 0, ..Sample::default() },
        Sample {
            at_ms: 100,
            cpu_us: 90_000,
            memory_bytes: Some(1 << 20),
            memory_stall_us: Some(0),
            pids: Some(3),
        },
    ];
    all.notes = vec!["memory 4 GiB clamped to the session's 2 GiB".into()];
    all.retries = vec![first];
    all
}

#[test]
fn the_examples_are_what_is_checked_in() {
    let odd = &["sh", "-c", "printf '\u{1}\n\"\u{fffd}'"][..];
    let unknown = exited(0);
    let unknown = Evidence { ended: Ended::Unknown("reaped elsewhere".into()), ..unknown };
    let outcomes = [
        outcome(exited(0), &["true"]),
        outcome(exited(0).without_controllers(), odd),
        outcome(exited(3), &["false"]),
        outcome(signaled(11), &["crash"]),
        outcome(exited(0).oom_at(2), &["sh"]),
        outcome(signaled(9).oom_at(3).logged(Some(LoggedLimit::Host)), &["sh"]),
        outcome(signaled(15).timed_out(), &["sleep", "60"]),
        outcome(exited(2).refused_at(0), &["make", "-j"]),
        outcome(exited(0).at(0, |m| m.high = 9).stalled(4000), &["cargo"]),
        outcome(signaled(9).cancelled("the caller"), &["server"]),
        outcome(not_started(libc::ENOENT), &["/no/such"]),
        outcome(unknown, &["true"]),
        full(),
    ];
    use Verdict::*;
    let all =
        [Completed, Failed, Signaled, OomKilled, TimedOut, PidsExhausted, Cancelled, SpawnFailed];
    assert!(all.iter().all(|v| outcomes.iter().any(|o| o.verdict == *v)));
    assert_eq!(outcomes.iter().filter(|o| o.success()).count(), 3);

    let lines: String = outcomes.iter().map(|o| o.to_json() + "\n").collect();
    assert_eq!(lines.lines().count(), outcomes.len());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/outcome.examples.jsonl");
    if std::env::var_os("AGENTCG_UPDATE").is_some() {
        std::fs::write(file, &lines).unwrap();
    }
    let checked_in = std::fs::read_to_string(file).unwrap();
    assert_eq!(lines, checked_in, "AGENTCG_UPDATE=1 cargo test writes it anew");
}

#[test]
fn a_clock_that_is_not_set_is_no_panic() {
    let mut o = outcome(exited(0), &[]);
    for (time, text) in [
        (SystemTime::UNIX_EPOCH - Duration::from_secs(5), "1970-01-01T00:00:00.000Z"),
        (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40), "9999-12-31T23:59:59.000Z"),
    ] {
        o.started_at = time;
        let json: serde_json::Value = serde_json::from_str(&o.to_json()).unwrap();
        assert_eq!(json["started_at"], text);
    }
}

#[test]
fn a_path_that_is_not_text_is_still_json() {
    use std::os::unix::ffi::OsStringExt;
    let mut o = outcome(signaled(9).oom_at(0), &[]);
    o.cgroup = std::ffi::OsString::from_vec(b"/sys/\xff".to_vec()).into();
    o.cause.as_mut().unwrap().cgroup = Some(o.cgroup.clone());
    let json: serde_json::Value = serde_json::from_str(&o.to_json()).unwrap();
    assert_eq!(json["cgroup"], "/sys/\u{fffd}");
    assert_eq!(json["cause"]["cgroup"], "/sys/\u{fffd}");
}
