//! What runs in the cgroups: processes that use memory and say how it went.
//!
//! Each is this program again. It waits for a line, works, and keeps a record of its progress in a
//! file on tmpfs, which the measuring process reads while it works.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentcg_core::Cgroup;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

const PAGE: usize = 4096;
/// What an allocation is measured by: the kernel's charge batch.
const CHUNK: usize = 256 << 10;

/// The record: numbers, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes touched so far.
    pub bytes: u64,
    /// When everything was touched once, µs after the start; 0 before.
    pub touched_us: u64,
    /// When the work was done, µs after the start; 0 before.
    pub done_us: u64,
    /// The 95th percentile of the time that a chunk of new memory took, µs; at the end.
    pub p95_us: u64,
    /// The time that all new memory took, µs; at the end.
    pub waited_us: u64,
}

/// A worker in a cgroup; killed when dropped.
pub struct Worker {
    child: Child,
    record: PathBuf,
}

impl Worker {
    pub fn start(cgroup: &Cgroup, job: &str) -> Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let record = std::env::temp_dir().join(format!("memory-{}-{n}", std::process::id()));
        std::fs::write(&record, [0; 40])?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["memory-worker", job])
            .arg(&record)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if child.stdout.as_mut().context("no pipe")?.read_exact(&mut [0]).is_err() {
            anyhow::bail!("a worker did not start: {}", child.wait()?);
        }
        cgroup.move_pid(child.id() as i32)?;
        Ok(Self { child, record })
    }

    /// The end of its input is what it waits for.
    pub fn go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Stops it, without a change to its cgroup.
    pub fn stop(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    pub fn go_on(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// An error when it has ended: what it did not do then says nothing.
    pub fn ensure_runs(&self) -> Result<()> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), options)?;
        anyhow::ensure!(ended.is_none(), "a worker has ended, or was killed");
        Ok(())
    }

    pub fn progress(&self) -> Result<Progress> {
        let bytes = std::fs::read(&self.record)?;
        let number = |i: usize| {
            bytes
                .get(i * 8..i * 8 + 8)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_ne_bytes)
        };
        Ok(Progress {
            bytes: number(0),
            touched_us: number(1),
            done_us: number(2),
            p95_us: number(3),
            waited_us: number(4),
        })
    }

    /// Waits until it is done; false when it was killed, or not done in time.
    pub fn finish(&mut self, deadline: Instant) -> Result<bool> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.record);
    }
}

/// The process itself: `loop:BYTES`, `use:BYTES` (reads it too), `hold:BYTES`, `touch:BYTES`, `replay:SECONDS:LATE:TRACE` or
/// `bursts:SEED:COUNT:MIB`.
pub fn work(job: &str, record: &Path) -> Result<()> {
    // Who has huge pages first keeps them and stalls no more: chance would decide.
    // SAFETY: changes this process only.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    let record = Record { file: File::options().write(true).open(record)? };
    std::io::stdout().write_all(b"r")?;
    std::io::stdout().flush()?;
    let _ = std::io::stdin().read(&mut [0])?;
    let start = Instant::now();
    let (kind, rest) = job.split_once(':').context("no job")?;
    match kind {
        "loop" | "use" => {
            let mut memory = Memory::default();
            memory.resize(rest.parse()?, &mut Vec::new());
            record.set(1, micros(start))?;
            let mut flushed = Instant::now();
            for pass in 0u64.. {
                memory.touch(kind == "use", |bytes| record.set(0, bytes))?;
                if pass < 16 || flushed.elapsed() > Duration::from_millis(200) {
                    flush_tlb();
                    flushed = Instant::now();
                }
            }
            Ok(())
        }
        "hold" => {
            let mut memory = Memory::default();
            memory.resize(rest.parse()?, &mut Vec::new());
            record.set(1, micros(start))?;
            loop {
                std::thread::park();
            }
        }
        "touch" => {
            Memory::default().resize(rest.parse()?, &mut Vec::new());
            record.set(2, micros(start))
        }
        "replay" => {
            let [seconds, late, trace] = rest.split(':').collect::<Vec<_>>()[..] else {
                anyhow::bail!("{rest}");
            };
            let (seconds, late): (f64, f64) = (seconds.parse()?, late.parse()?);
            replay(&record, Path::new(trace), seconds, start + Duration::from_secs_f64(late))
        }
        "bursts" => {
            let [seed, count, mib] = rest.split(':').collect::<Vec<_>>()[..] else {
                anyhow::bail!("{rest}");
            };
            bursts(seed.parse()?, count.parse()?, mib.parse::<usize>()? << 20);
            record.set(2, micros(start))
        }
        other => anyhow::bail!("no job {other}"),
    }
}

/// Follows a recorded use of memory, in so many seconds when nothing hinders it. What is held is
/// used at each sample.
fn replay(record: &Record, trace: &Path, seconds: f64, start: Instant) -> Result<()> {
    let samples = samples(&std::fs::read_to_string(trace)?).context("no samples in the trace")?;
    let last = samples.last().context("an empty trace")?.0.max(1.0);
    let mut memory = Memory::default();
    let mut times = Vec::new();
    for (at, bytes) in samples {
        let due = start + Duration::from_secs_f64(at / last * seconds);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        memory.resize(bytes, &mut times);
        memory.touch(false, |_| Ok(()))?;
    }
    times.sort_unstable();
    record.set(3, times.get(times.len() * 95 / 100).copied().unwrap_or(0))?;
    record.set(4, times.iter().sum())?;
    record.set(2, micros(start))
}

/// Takes and uses memory for a short time again and again, at random.
fn bursts(seed: u64, count: u32, most: usize) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below.max(1)
    };
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(random(4000)));
        let mut memory = Memory::default();
        memory.resize(most / 3 + random(most as u64 * 2 / 3) as usize, &mut Vec::new());
        for _ in 0..5 {
            let _ = memory.touch(false, |_| Ok(()));
            std::thread::sleep(Duration::from_millis(random(2400)));
        }
    }
}

/// `"samples":[[t, bytes, cpu], ...]`.
fn samples(json: &str) -> Option<Vec<(f64, usize)>> {
    let (_, rest) = json.split_once("\"samples\":[[")?;
    let (rows, _) = rest.split_once("]]")?;
    rows.split("],[")
        .map(|row| {
            let mut columns = row.split(',');
            Some((columns.next()?.parse().ok()?, columns.next()?.parse::<f64>().ok()? as usize))
        })
        .collect()
}

struct Record {
    file: File,
}

impl Record {
    fn set(&self, number: u64, value: u64) -> Result<()> {
        Ok(self.file.write_all_at(&value.to_ne_bytes(), number * 8)?)
    }
}

#[derive(Default)]
struct Memory {
    chunks: Vec<Vec<u8>>,
    touched: u64,
}

impl Memory {
    /// Takes or gives back memory; what each new chunk took is added to `times`, µs.
    fn resize(&mut self, bytes: usize, times: &mut Vec<u64>) {
        let wanted = bytes / CHUNK;
        self.chunks.truncate(wanted);
        while self.chunks.len() < wanted {
            let at = Instant::now();
            self.chunks.push(std::hint::black_box(vec![1u8; CHUNK]));
            times.push(micros(at));
        }
    }

    /// Writes to every page once; before that, reads all of it if wanted.
    fn touch(&mut self, read: bool, mut tell: impl FnMut(u64) -> Result<()>) -> Result<()> {
        for (i, chunk) in self.chunks.iter_mut().enumerate() {
            if read {
                let sum = |sum: u8, word: &[u8]| std::hint::black_box(sum.wrapping_add(word[0]));
                std::hint::black_box(chunk.chunks_exact(16).fold(0, sum));
            }
            for page in chunk.chunks_mut(PAGE) {
                page[0] = page[0].wrapping_add(1);
            }
            self.touched += CHUNK as u64;
            if i % 16 == 0 {
                tell(self.touched)?;
            }
        }
        Ok(())
    }
}

/// Without this a process that is alone is slower than beside others. Our reading, not checked: QEMU
/// enlarges the TLB of an emulated CPU only when it is flushed, which the others cause.
fn flush_tlb() {
    const BYTES: usize = 1 << 20;
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of its own, written to within its bounds, that nobody else knows.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), BYTES, access, kind, -1, 0);
        if at != libc::MAP_FAILED {
            // From the first page to the last: the kernel flushes few pages one by one.
            at.cast::<u8>().write_volatile(1);
            at.cast::<u8>().add(BYTES - 1).write_volatile(1);
            libc::munmap(at, BYTES);
        }
    }
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}
