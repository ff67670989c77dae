//! `memory.reclaim` (kernel 5.19) on a thread of its own, for the kernel works in the write.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::OFlags;

use crate::cgroup::Cgroup;
use crate::{Error, Result};

/// What is asked for at once: between two of them the thread can be ended.
const BITE: u64 = 4 << 20;

struct Job {
    file: OwnedFd,
    bytes: u64,
    done: Arc<AtomicU64>,
}

/// Reclaims from one cgroup after the other. Dropping it ends it after the current bite.
#[derive(Debug)]
pub(super) struct Reclaimer {
    jobs: Option<SyncSender<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reclaimer {
    pub(super) fn start() -> Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(16);
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::Builder::new()
            .name("agentcg-reclaim".into())
            .spawn(move || {
                for job in queue {
                    let mut left = job.bytes;
                    while left > 0 && !ended.load(Ordering::Relaxed) {
                        let bite = left.min(BITE);
                        // EAGAIN: there is no more to be had. ENODEV: the cgroup is gone.
                        if rustix::io::write(&job.file, bite.to_string().as_bytes()).is_err() {
                            break;
                        }
                        job.done.fetch_add(bite, Ordering::Relaxed);
                        left -= bite;
                    }
                }
            })
            .map_err(|e| Error::os("start a thread", "agentcg-reclaim", e))?;
        Ok(Self { jobs: Some(jobs), stop, thread: Some(thread) })
    }

    /// Asks for reclaim; `done` counts what was reclaimed. Nothing happens where the kernel has no
    /// `memory.reclaim`, or while there is a lot to do.
    pub(super) fn reclaim(&self, cgroup: &Cgroup, bytes: u64, done: &Arc<AtomicU64>) {
        let Ok(file) = cgroup.open_file("memory.reclaim", OFlags::WRONLY) else { return };
        if let Some(jobs) = &self.jobs {
            let _ = jobs.try_send(Job { file, bytes, done: done.clone() });
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of memory.reclaim has panicked");
        }
    }
}
