//! What the groups run: processes of one cgroup that begin together.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentcg_core::Cgroup;
use anyhow::{Context, Result};

/// Processes, and a cgroup, that are gone afterwards.
pub struct Group {
    pub cgroup: Cgroup,
    helper: Child,
}

impl Group {
    /// `count` processes that do `job` in a new cgroup, once [`go`](Self::go) says so. A helper
    /// forks them there: to start a program for each would take long in an emulator.
    pub fn new(parent: &Cgroup, name: &str, weight: u32, job: Job, count: usize) -> Result<Self> {
        let cgroup = parent.create_child(&name.parse()?)?;
        cgroup.set_cpu_weight(weight)?;
        Self::inside(cgroup, job, count)
    }

    /// The same in a cgroup that exists, which is removed too.
    pub fn inside(cgroup: Cgroup, job: Job, count: usize) -> Result<Self> {
        let helper = Command::new(std::env::current_exe()?)
            .args(["job", job.name(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut group = Self { cgroup, helper };
        group.read(1)?;
        group.cgroup.move_pid(group.helper.id() as i32)?;
        group.write()?;
        group.read(1)?;
        Ok(group)
    }

    pub fn go(&mut self) -> Result<()> {
        self.write()
    }

    /// All processes but the helper.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = self.cgroup.procs()?;
        pids.retain(|p| *p != self.helper.id() as i32);
        Ok(pids)
    }

    pub fn used_us(&self) -> Result<f64> {
        Ok(self.cgroup.cpu_stat()?.usage_usec as f64)
    }

    /// The numbers that a job gives when it is done; before them it says how many.
    pub fn numbers(&mut self) -> Result<Vec<u64>> {
        let out = self.helper.stdout.as_mut().context("no pipe")?;
        let mut count = [0; 8];
        out.read_exact(&mut count).context("a job gave no result")?;
        let mut bytes = vec![0; 8 * u64::from_le_bytes(count) as usize];
        out.read_exact(&mut bytes)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().unwrap_or([0; 8])))
            .collect())
    }

    fn write(&mut self) -> Result<()> {
        Ok(self.helper.stdin.as_mut().context("no pipe")?.write_all(b"g")?)
    }

    fn read(&mut self, bytes: usize) -> Result<()> {
        let out = self.helper.stdout.as_mut().context("no pipe")?;
        Ok(out.read_exact(&mut vec![0; bytes])?)
    }
}

/// Ends many at once: one after the other, each would wait for its turn among the rest.
pub fn kill(groups: &[Group]) {
    for group in groups {
        let _ = group.cgroup.kill();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.helper.wait();
        let _ = self.cgroup.wait_populated(false, Duration::from_secs(20));
        if let Err(e) = self.cgroup.remove() {
            println!("{e}");
        }
    }
}

/// What one process of a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Uses CPU until it is killed.
    Burn,
    /// Uses CPU for [`GAPS`]; gives the longest time in which it had none, ns.
    Gaps,
    /// Works 1 ms in each 10 ms; gives two numbers of each wake-up, ns: how late it came, and for how
    /// long of that it waited for a CPU. The rest is the timer, which no scheduler has a part in.
    Periodic,
    /// Forks without end; the children end at once.
    Forks,
    /// Passes a byte back and forth between two processes; gives the round trips in 5 s.
    Pipe,
    /// Ten senders and ten receivers, each pair with a socket; gives the messages in 5 s.
    Messages,
}

const JOBS: [Job; 6] = [Job::Burn, Job::Gaps, Job::Periodic, Job::Forks, Job::Pipe, Job::Messages];
/// How long the jobs take that end.
pub const LENGTH: Duration = Duration::from_secs(5);
/// How long the job of that name takes; the first second, in which the others begin, does not count,
/// nor do the last two, in which they end.
pub const GAPS: Duration = Duration::from_secs(16);

impl Job {
    fn name(self) -> &'static str {
        match self {
            Job::Burn => "burn",
            Job::Gaps => "gaps",
            Job::Periodic => "periodic",
            Job::Forks => "forks",
            Job::Pipe => "pipe",
            Job::Messages => "messages",
        }
    }

    fn run(self) -> Vec<u64> {
        match self {
            Job::Burn => burn(|| true),
            Job::Gaps => return vec![gaps()],
            Job::Periodic => return periodic(),
            Job::Forks => forks(),
            Job::Pipe => return vec![round_trips()],
            Job::Messages => return vec![messages()],
        }
        Vec::new()
    }
}

/// The helper: forks the others, has them begin, and waits.
pub fn job(name: &str, count: usize) -> Result<()> {
    let job = JOBS.into_iter().find(|j| j.name() == name).context("no such job")?;
    let mut out = std::io::stdout();
    let mut tell = || -> Result<()> {
        out.write_all(b"r")?;
        Ok(out.flush()?)
    };
    let wait = || std::io::stdin().read_exact(&mut [0]);
    tell()?;
    wait()?;
    let (start, begin) = std::io::pipe()?;
    for _ in 0..count {
        if fork() == 0 {
            // SAFETY: asks to be killed with the parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let mut start = &start;
            // SAFETY: this process has a copy of its own.
            unsafe { libc::close(begin.as_raw_fd()) };
            let _ = start.read(&mut [0]);
            let numbers = job.run();
            let count = numbers.len() as u64;
            let result: Vec<u8> =
                std::iter::once(count).chain(numbers).flat_map(u64::to_le_bytes).collect();
            let written =
                std::io::stdout().write_all(&result).and_then(|()| std::io::stdout().flush());
            exit(written.is_err());
        }
    }
    tell()?;
    wait()?;
    drop(begin);
    while wait_child() {}
    Ok(())
}

fn fork() -> i32 {
    // SAFETY: these programs have one thread, so the child may do anything.
    unsafe { libc::fork() }
}

fn exit(failed: bool) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(failed.into()) }
}

fn wait_child() -> bool {
    // SAFETY: only waits.
    unsafe { libc::wait(std::ptr::null_mut()) > 0 }
}

/// No PAUSE instruction: an emulator takes it as a hint to do something else.
fn burn(mut goes_on: impl FnMut() -> bool) {
    let mut n = 0u64;
    while goes_on() {
        for _ in 0..1000 {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    }
}

/// Found by itself: to look at hundreds of cgroups all the time from outside would take a CPU.
fn gaps() -> u64 {
    let began = Instant::now();
    let (mut last, mut longest) = (began, Duration::ZERO);
    burn(|| {
        let now = Instant::now();
        if last - began > Duration::from_secs(1) && last - began < GAPS - Duration::from_secs(2) {
            longest = longest.max(now - last);
        }
        last = now;
        now - began < GAPS
    });
    longest.as_nanos() as u64
}

fn periodic() -> Vec<u64> {
    use rustix::thread::{ClockId, clock_nanosleep_absolute};
    let period = Duration::from_millis(10);
    let zero = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let since_zero = |t: rustix::time::Timespec| Duration::new(t.tv_sec as u64, t.tv_nsec as u32);
    let zero = since_zero(zero);
    let mut delays = Vec::new();
    let waited = run_delay();
    let mut next = zero;
    while next - zero < LENGTH {
        next += period;
        let at = rustix::time::Timespec {
            tv_sec: next.as_secs() as i64,
            tv_nsec: i64::from(next.subsec_nanos()),
        };
        let before = waited();
        while clock_nanosleep_absolute(ClockId::Monotonic, &at).is_err() {}
        let now = since_zero(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
        delays.extend([now.saturating_sub(next).as_nanos() as u64, waited() - before]);
        let began = Instant::now();
        burn(|| began.elapsed() < Duration::from_millis(1));
        // One that comes much too late is one delay, not many.
        let now = since_zero(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
        next = next.max(now.saturating_sub(period));
    }
    delays
}

/// For how long this thread has been runnable without a CPU: the second number of its `schedstat`. The
/// kernel does not count the switch itself when a wake-up preempts at once.
fn run_delay() -> impl Fn() -> u64 {
    let file = std::fs::File::open("/proc/thread-self/schedstat");
    move || {
        let mut text = [0; 64];
        let file = file.as_ref().expect("a kernel with CONFIG_SCHED_INFO");
        let read = file.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("three numbers in schedstat")
    }
}

fn forks() {
    loop {
        for _ in 0..8 {
            if fork() == 0 {
                exit(false);
            }
        }
        while wait_child() {}
    }
}

fn round_trips() -> u64 {
    let (Ok((mut a_in, mut a_out)), Ok((mut b_in, mut b_out))) = (std::io::pipe(), std::io::pipe())
    else {
        return 0;
    };
    let mut byte = [0];
    if fork() == 0 {
        drop(a_out);
        while a_in.read_exact(&mut byte).is_ok() && b_out.write_all(&byte).is_ok() {}
        exit(false);
    }
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < LENGTH
        && a_out.write_all(&byte).is_ok()
        && b_in.read_exact(&mut byte).is_ok()
    {
        n += 1;
    }
    n
}

/// As hackbench does it: each sender writes to each receiver in turn.
fn messages() -> u64 {
    const PAIRS: usize = 10;
    const SIZE: usize = 100;
    let Some(count) = shared_counter() else { return 0 };
    let sockets: Vec<(OwnedFd, OwnedFd)> = (0..PAIRS)
        .filter_map(|_| std::os::unix::net::UnixStream::pair().ok())
        .map(|(a, b)| (a.into(), b.into()))
        .collect();
    // All live until the group is killed.
    for (receiver, _) in &sockets {
        if fork() == 0 {
            let mut buf = [0u8; 64 * SIZE];
            while let Ok(n) = rustix::io::read(receiver, &mut buf) {
                count.fetch_add(n as u64, Ordering::Relaxed);
            }
            exit(true);
        }
        if fork() == 0 {
            let buf = [0u8; SIZE];
            loop {
                for (_, receiver) in &sockets {
                    if rustix::io::write(receiver, &buf).is_err() {
                        exit(true);
                    }
                }
            }
        }
    }
    std::thread::sleep(LENGTH);
    count.load(Ordering::Relaxed) / SIZE as u64
}

/// Memory that forked children share.
fn shared_counter() -> Option<&'static AtomicU64> {
    // SAFETY: new memory, a page of zeros, that is never unmapped.
    unsafe {
        let (read_write, shared) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 4096, read_write, shared, -1, 0);
        (page != libc::MAP_FAILED).then(|| &*page.cast::<AtomicU64>())
    }
}
