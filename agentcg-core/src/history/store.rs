//! [`History`]: the file that the runs of commands are kept in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::CommandKey;
use super::propose::{MAX_AGE, RUNS, Run, propose};
use crate::{Error, ErrorKind, Result};

/// Of the file's format.
const VERSION: u32 = 1;

/// Commands that are kept; then the one that ran longest ago is forgotten.
const COMMANDS: usize = 512;

/// A file larger than this is not ours: ours stays below 1 MiB.
const LARGEST: u64 = 4 << 20;

/// How long a writer waits for others; each holds the lock for about a millisecond. Not for ever:
/// one that was frozen while it held the lock would stop every other agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// What commands took before, in a small JSON file that any number of processes share.
///
/// | | |
/// |---|---|
/// | bounded | 512 commands, the last 8 runs of each, none older than 30 days |
/// | writers | one at a time, by `flock` on `FILE.lock`; each replaces the file as a whole, so a reader needs no lock and never sees half of it |
/// | a file that is not ours, or damaged | is renamed to `FILE.corrupt` and said as a `tracing` warning; the history starts anew |
/// | a full disk, a read-only directory | an error of [`record`](Self::record); the old file stays |
///
/// It is not synced to the disk: after a power failure the last runs may be missing.
///
/// ```
/// use agentcg_core::{CommandKey, History, Run};
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("history.json");
/// let history = History::open(path)?;
/// let key = CommandKey::normalise(&["python3", "-m", "pytest", "-x"]);
/// assert_eq!(history.propose(&key), None);
/// history.record(&key, Run { peak_bytes: 400 << 20, limit_bytes: None, oom_killed: false })?;
/// assert_eq!(history.propose(&key), Some(800 << 20));
/// # Ok::<(), agentcg_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct History {
    path: PathBuf,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Store {
    version: u32,
    /// By [`CommandKey`], oldest run first.
    commands: BTreeMap<String, Vec<Sample>>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sample {
    /// When it was recorded, seconds since 1970.
    at: u64,
    // The fields of `Run`, one by one: `serde(flatten)` takes several times as long to read.
    peak_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    oom_killed: bool,
}

impl Sample {
    fn new(at: u64, run: Run) -> Self {
        let Run { peak_bytes, limit_bytes, oom_killed } = run;
        Self { at, peak_bytes, limit_bytes, oom_killed }
    }

    fn run(&self) -> Run {
        let Self { peak_bytes, limit_bytes, oom_killed, .. } = *self;
        Run { peak_bytes, limit_bytes, oom_killed }
    }
}

/// What was found at the path.
enum Found {
    Store(Store),
    Nothing,
    /// And why it is not a history.
    Corrupt(String),
}

impl History {
    /// Opens the history at `path`; the file and its directory need not be there yet.
    ///
    /// # Errors
    /// Those of reading it; `Unsupported` when a later version wrote it. A damaged file is no error,
    /// see above.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let history = Self { path: path.into() };
        history.read()?;
        Ok(history)
    }

    /// `$XDG_STATE_HOME/agentcg/history.json`, else `~/.local/state/agentcg/history.json`; `None`
    /// without a home directory.
    pub fn default_path() -> Option<PathBuf> {
        default_path(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The memory that the next run of a command should have, bytes; `None` when nothing is known.
    ///
    /// | the last runs, each | ask for |
    /// |---|---|
    /// | ended by itself | its peak and a margin, from 100 % when it is the only run to 34 % of eight |
    /// | ended by itself, with its peak at its limit | its peak, for page cache fills any limit |
    /// | was OOM killed | twice its peak, until a later run shows a peak as large |
    ///
    /// The largest counts; at least 64 MiB, in whole MiB. A history that cannot be read is a
    /// `tracing` warning here.
    pub fn propose(&self, key: &CommandKey) -> Option<u64> {
        self.propose_at(key, now())
    }

    fn propose_at(&self, key: &CommandKey, now: u64) -> Option<u64> {
        let store = self.read().unwrap_or_else(|e| {
            tracing::warn!("no proposal for {key}: {e}");
            None
        })?;
        let samples = store.commands.get(key.as_str())?.iter().filter(|s| is_recent(s, now));
        propose(&samples.map(Sample::run).collect::<Vec<_>>())
    }

    /// Adds a run of a command.
    ///
    /// # Errors
    /// Those of making the directory and writing the file; `TimedOut` when another process keeps
    /// the file locked. The file is as it was then.
    pub fn record(&self, key: &CommandKey, run: Run) -> Result<()> {
        self.record_at(key, run, now())
    }

    fn record_at(&self, key: &CommandKey, run: Run, now: u64) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|e| Error::os("create", directory, e))?;
        }
        let _lock = self.lock()?;
        let empty = || Store { version: VERSION, commands: BTreeMap::new() };
        let mut store = self.read_locked()?.unwrap_or_else(empty);
        let samples = store.commands.entry(key.as_str().to_owned()).or_default();
        samples.push(Sample::new(now, run));
        samples.drain(..samples.len().saturating_sub(RUNS));
        store.forget(now);
        self.replace(&store)
    }

    /// Reads the file without a lock; only to set a damaged one aside it takes it.
    fn read(&self) -> Result<Option<Store>> {
        match self.look()? {
            Found::Store(store) => Ok(Some(store)),
            Found::Nothing => Ok(None),
            Found::Corrupt(why) => {
                // Where it cannot be set aside it cannot be written either.
                let read = self.lock().and_then(|_lock| self.read_locked());
                Ok(read.unwrap_or_else(|e| {
                    tracing::warn!("{} is not a history ({why}): {e}", self.path.display());
                    None
                }))
            }
        }
    }

    /// The same for who holds the lock.
    fn read_locked(&self) -> Result<Option<Store>> {
        let why = match self.look()? {
            Found::Store(store) => return Ok(Some(store)),
            Found::Nothing => return Ok(None),
            Found::Corrupt(why) => why,
        };
        let aside = self.beside(".corrupt");
        fs::rename(&self.path, &aside).map_err(|e| Error::os("set aside", &self.path, e))?;
        let path = self.path.display();
        tracing::warn!("{path} is not a history ({why}); it is {} now", aside.display());
        Ok(None)
    }

    fn look(&self) -> Result<Found> {
        let error = |e| Error::os("read", &self.path, e);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(error(e)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(error)?;
        if bytes.len() as u64 > LARGEST {
            return Ok(Found::Corrupt("it is too large".to_owned()));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // The whole first: the version by itself costs as much to find, and is nearly always ours.
        let store = serde_json::from_slice::<Store>(&bytes);
        let version = match &store {
            Ok(store) => store.version,
            Err(_) => serde_json::from_slice::<Version>(&bytes).map_or(VERSION, |v| v.version),
        };
        if version > VERSION {
            let what = format!("format {version} is unknown; it was written by a later version:");
            let help = "update agentcg, or name another history file";
            return Err(Error::unsupported(what, help).at(&self.path));
        }
        Ok(store.map_or_else(|e| Found::Corrupt(e.to_string()), Found::Store))
    }

    /// The lock is a file of its own: the history itself is replaced, and a lock on it would go
    /// with the old one.
    fn lock(&self) -> Result<File> {
        let path = self.beside(".lock");
        let open =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|e| Error::os("open", &path, e))?;
        let until = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(100);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::os("lock", &path, e)),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    let what = "another process keeps this file locked:";
                    return Err(Error::new(ErrorKind::TimedOut, what).at(&path));
                }
                // flock has no timeout, and a signal to interrupt it would be the host program's.
                Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Writes a new file and puts it in place of the old one. The name is free: we hold the lock,
    /// and what a killed writer left is written over.
    fn replace(&self, store: &Store) -> Result<()> {
        let new = self.beside(".new");
        let write = || {
            let json = serde_json::to_vec(store).map_err(io::Error::other)?;
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&json)
        };
        let written = write().map_err(|e| Error::os("write", &new, e));
        let renamed = written.and_then(|()| {
            fs::rename(&new, &self.path).map_err(|e| Error::os("replace", &self.path, e))
        });
        if renamed.is_err() {
            let _ = fs::remove_file(&new);
        }
        renamed
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

impl Store {
    /// Keeps it small.
    fn forget(&mut self, now: u64) {
        self.commands.retain(|_, samples| {
            samples.retain(|s| is_recent(s, now));
            samples.drain(..samples.len().saturating_sub(RUNS));
            !samples.is_empty()
        });
        while self.commands.len() > COMMANDS {
            let last_run = |(key, samples): (&String, &Vec<Sample>)| {
                (samples.last().map(|s| s.at), key.clone())
            };
            let Some((_, key)) = self.commands.iter().map(last_run).min() else { break };
            self.commands.remove(&key);
        }
    }
}

/// One from the future, of a clock that was set back, is.
fn is_recent(sample: &Sample, now: u64) -> bool {
    now.saturating_sub(sample.at) < MAX_AGE
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn default_path(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|p| p.is_absolute());
    let state = state.and_then(absolute);
    let state = state.or_else(|| Some(home.and_then(absolute)?.join(".local/state")))?;
    Some(state.join("agentcg/history.json"))
}

#[cfg(test)]
mod tests;
