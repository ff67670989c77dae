use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const WRITERS: usize = 4;
const DIRECTORY: &str = "AGENTCG_TEST_HISTORY";

fn key(name: &str) -> CommandKey {
    CommandKey::normalise(&[name])
}

fn peak(mib: u64) -> Run {
    Run { peak_bytes: mib << 20, limit_bytes: None, oom_killed: false }
}

fn in_directory(directory: &tempfile::TempDir) -> History {
    History::open(directory.path().join("agentcg/history.json")).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn runs_are_kept_and_old_ones_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let history = in_directory(&directory);
    let make = key("make");
    assert_eq!(history.propose(&make), None);
    history.record_at(&make, peak(1000), 1_000).unwrap();
    assert_eq!(history.propose_at(&make, 1_000), Some(2000 << 20));
    assert_eq!(history.propose_at(&key("cc"), 1_000), None);
    assert_eq!(history.propose_at(&make, 999), Some(2000 << 20), "the clock was set back");
    assert_eq!(history.propose_at(&make, 1_000 + MAX_AGE), None);
    // A spike is forgotten after as many runs as are kept.
    for _ in 0..RUNS - 1 {
        history.record_at(&make, peak(80), 2_000).unwrap();
    }
    assert_eq!(history.propose_at(&make, 2_000), Some(1344 << 20));
    history.record_at(&make, peak(80), 2_000).unwrap();
    assert_eq!(history.propose_at(&make, 2_000), Some(108 << 20));
    // Nobody else needs to know what was run.
    assert_eq!(fs::metadata(history.path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(history.path().parent().unwrap()), ["history.json", "history.json.lock"]);
}

#[test]
fn the_number_of_commands_is_bounded() {
    let mut store = Store { version: VERSION, commands: BTreeMap::new() };
    for i in 0..COMMANDS as u64 + 10 {
        let samples = vec![Sample::new(5_000 - i, peak(1)); RUNS + 3];
        store.commands.insert(format!("command {i}"), samples);
    }
    store.forget(5_000);
    assert_eq!(store.commands.len(), COMMANDS);
    assert!(store.commands.contains_key("command 0"), "the latest stays");
    assert!(store.commands.values().all(|s| s.len() == RUNS));
    assert!((serde_json::to_vec(&store).unwrap().len() as u64) < LARGEST / 4);
}

#[test]
fn a_damaged_file_is_set_aside() {
    let good = r#"{"version":1,"commands":{"make":[{"at":1,"peak_bytes":5}]}}"#;
    let large = " ".repeat(LARGEST as usize + 1);
    for bad in ["", &good[..40], "garbage \u{0}", r#"{"version":1}"#, "[]", "null", &large] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.json");
        fs::write(&path, bad).unwrap();
        let history = History::open(&path).unwrap();
        let aside = ["history.json.corrupt", "history.json.lock"];
        assert_eq!(names(directory.path()), aside);
        assert_eq!(fs::read_to_string(directory.path().join(aside[0])).unwrap(), bad);
        history.record(&key("make"), peak(100)).unwrap();
        assert_eq!(history.propose(&key("make")), Some(200 << 20));
        // Damaged while it is in use.
        fs::write(&path, "x").unwrap();
        assert_eq!(history.propose(&key("make")), None);
        history.record(&key("make"), peak(100)).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    fs::write(&path, good).unwrap();
    History::open(&path).unwrap();
    assert_eq!(names(directory.path()), ["history.json"]);
}

#[test]
fn the_file_of_a_later_version_is_left_alone() {
    for later in [r#"{"version":2,"other":[]}"#, r#"{"version":2,"commands":{}}"#] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.json");
        fs::write(&path, later).unwrap();
        let e = History::open(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        let history = History { path: path.clone() };
        assert!(history.record(&key("make"), peak(1)).is_err());
        assert_eq!(history.propose(&key("make")), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), later);
    }
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let history = in_directory(&directory);
    history.record(&key("make"), peak(100)).unwrap();
    // Whatever is written to it, there is no space.
    symlink("/dev/full", history.beside(".new")).unwrap();
    let e = history.record(&key("make"), peak(900)).unwrap_err();
    assert_eq!(e.errno(), Some(libc::ENOSPC), "{e}");
    assert_eq!(history.propose(&key("make")), Some(200 << 20));
    history.record(&key("make"), peak(100)).unwrap();
    assert_eq!(history.propose(&key("make")), Some(163 << 20));
}

#[test]
fn a_read_only_directory_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    let history = History::open(&path).unwrap();
    history.record(&key("make"), peak(100)).unwrap();
    fs::remove_file(history.beside(".lock")).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(&path, 0o644).unwrap();
    mode(directory.path(), 0o555).unwrap();
    std::thread::spawn(move || {
        // SAFETY: only changes the ids of this thread, for access to files, and cannot fail in a
        // way that matters here: who is not root has no more rights to give up.
        unsafe { libc::setfsuid(65534) };
        let history = History::open(&path).unwrap();
        assert_eq!(history.propose(&key("make")), Some(200 << 20));
        let e = history.record(&key("make"), peak(1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
    })
    .join()
    .unwrap();
    mode(directory.path(), 0o755).unwrap();
    fs::write(history.path(), "damaged").unwrap();
    mode(directory.path(), 0o555).unwrap();
    std::thread::spawn(move || {
        // SAFETY: as above.
        unsafe { libc::setfsuid(65534) };
        assert_eq!(history.propose(&key("make")), None);
        assert!(History::open(history.path()).is_ok());
    })
    .join()
    .unwrap();
    mode(directory.path(), 0o755).unwrap();
}

/// Not a test of its own: one process of the next.
#[test]
fn one_writer() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let write = |writer: usize| {
        let name = format!("writer-{}-{writer}-x", std::process::id());
        let history = History::open(&path).unwrap();
        for run in 1..=RUNS as u64 {
            history.record(&key(&name), peak(run)).unwrap();
        }
    };
    std::thread::scope(|s| {
        for writer in 0..WRITERS {
            s.spawn(move || write(writer));
        }
    });
}

#[test]
fn concurrent_processes_and_threads_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/history.json");
    let spawn = |_| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "history::store::tests::one_writer"]).env(DIRECTORY, &path);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut writers: Vec<_> = (0..WRITERS).map(spawn).collect();
    // A reader meanwhile sees a whole file, or none yet.
    while writers.iter_mut().any(|w| w.try_wait().unwrap().is_none()) {
        assert!(!matches!(History { path: path.clone() }.look().unwrap(), Found::Corrupt(_)));
    }
    assert!(writers.iter_mut().all(|w| w.wait().unwrap().success()));
    let store = History::open(&path).unwrap().read().unwrap().unwrap();
    assert_eq!(store.commands.len(), WRITERS * WRITERS);
    for samples in store.commands.values() {
        let peaks: Vec<_> = samples.iter().map(|s| s.peak_bytes >> 20).collect();
        assert_eq!(peaks, (1..=RUNS as u64).collect::<Vec<_>>());
    }
    assert_eq!(names(path.parent().unwrap()), ["history.json", "history.json.lock"]);
}

#[test]
fn the_default_path_follows_xdg() {
    let path = |state: Option<&str>, home: Option<&str>| {
        default_path(state.map(Into::into), home.map(Into::into))
    };
    assert_eq!(path(Some("/s"), Some("/h")), Some("/s/agentcg/history.json".into()));
    for state in [None, Some(""), Some("relative")] {
        let expected = Some("/h/.local/state/agentcg/history.json".into());
        assert_eq!(path(state, Some("/h")), expected);
    }
    assert_eq!(path(None, None), None);
    assert_eq!(path(None, Some("")), None);
}
