//! What the process monitor costs, beside no monitor and beside bcc's tools.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentcg_core::{Event, EventFilter, EventKind, EventMode, EventStream};
use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

const ROUNDS: usize = 5;
const SHORT_ROUNDS: u32 = 31;
const KINDS: [EventKind; 3] = [EventKind::Exec, EventKind::Exit, EventKind::Fork];

pub fn run(runs: u32) -> Result<()> {
    spawn_cost(runs)?;
    kernel_cost(runs)?;
    complete(runs * 10)?;
    throughput(runs * 10)
}

fn filter(mode: EventMode, delay_ms: u64) -> EventFilter {
    let mut filter = EventFilter::default();
    filter.mode = mode;
    filter.kinds = KINDS.to_vec();
    filter.delay = Duration::from_millis(delay_ms);
    filter.commands = vec!["no-such-command".into()];
    filter
}

fn with_kinds(kinds: &[EventKind]) -> EventFilter {
    let mut filter = filter(EventMode::All, 10);
    filter.kinds = kinds.to_vec();
    filter
}

fn spawn_loop(runs: u32) -> Result<Duration> {
    let at = Instant::now();
    for _ in 0..runs {
        Command::new("/bin/true").stdin(Stdio::null()).status()?;
    }
    Ok(at.elapsed())
}

/// Something that watches while programs run.
enum Watcher {
    None,
    Ours(EventFilter),
    Tools(&'static [&'static str]),
}

fn spawn_cost(runs: u32) -> Result<()> {
    println!(
        "\n{runs} runs of /bin/true in {SHORT_ROUNDS} rounds; ratios to the same round's first case"
    );
    let mut cases = vec![
        ("no monitor", Watcher::None),
        ("EXEC, EXIT, FORK", Watcher::Ours(filter(EventMode::All, 10))),
        ("the same, delay 0", Watcher::Ours(filter(EventMode::All, 0))),
        ("filtered out in the kernel", Watcher::Ours(filter(EventMode::TrackedOnly, 10))),
        ("EXEC, EXIT", Watcher::Ours(with_kinds(&KINDS[..2]))),
    ];
    const TOOLS: [&str; 3] = ["execsnoop", "exitsnoop", "opensnoop"];
    match Running::start(&Watcher::Tools(&TOOLS)) {
        Ok(running) => {
            running.stop();
            cases.push(("bcc execsnoop + exitsnoop", Watcher::Tools(&TOOLS[..2])));
            let opens = [&KINDS[..2], &[EventKind::FileOpen]].concat();
            cases.push(("EXEC, EXIT, FILE_OPEN", Watcher::Ours(with_kinds(&opens))));
            cases.push(("the same three of bcc", Watcher::Tools(&TOOLS)));
        }
        Err(e) => println!("without bcc's tools: {e:#}"),
    }
    let of_round = (runs / SHORT_ROUNDS).max(1);
    let mut times = vec![Vec::new(); cases.len()];
    let mut ratios = times.clone();
    let mut events = vec![0; cases.len()];
    // Short rounds, and the first case beside each other one: the speed of a shared machine drifts
    // by more than what is to be seen here.
    for round in 0..SHORT_ROUNDS as usize {
        for (i, (_, watcher)) in cases.iter().enumerate() {
            // These take seconds to start.
            if matches!(watcher, Watcher::Tools(_)) && round % 4 != 0 {
                continue;
            }
            let time_of = |watcher, events: &mut u64| -> Result<f64> {
                let running = Running::start(watcher)?;
                // The kernel cleans up after the case before.
                std::thread::sleep(Duration::from_millis(100));
                let time = spawn_loop(of_round)?;
                *events += running.stop();
                Ok(time.as_secs_f64() * 1e6 / f64::from(of_round))
            };
            let mut none = 0;
            // Who is first takes turns too.
            let (base, time) = if round % 2 == 0 {
                let base = time_of(&Watcher::None, &mut none)?;
                (base, time_of(watcher, &mut events[i])?)
            } else {
                let time = time_of(watcher, &mut events[i])?;
                (time_of(&Watcher::None, &mut none)?, time)
            };
            times[i].push(time);
            ratios[i].push(time / base);
        }
    }
    let quantile = |values: &mut Vec<f64>, part: f64| {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * part) as usize]
    };
    println!("{:<28} {:>10} {:>8} {:>15} {:>8}", "", "a run", "ratio", "middle half", "events");
    for (i, (name, _)) in cases.iter().enumerate() {
        let time = quantile(&mut times[i], 0.5);
        let [low, ratio, high] = [0.25, 0.5, 0.75].map(|part| quantile(&mut ratios[i], part));
        println!("{name:<28} {time:>7.0} µs {ratio:>8.3} {low:>7.3}-{high:<7.3} {:>8}", events[i]);
    }
    Ok(())
}

/// From the kernel's own statistics (BPF_STATS_RUN_TIME).
fn kernel_cost(runs: u32) -> Result<()> {
    println!("\nin the kernel, an event, least of {ROUNDS} rounds (BPF run-time statistics)");
    println!("without what measuring costs by itself, which the last column says");
    let empty = Empty::attach()?;
    // SAFETY: makes a descriptor that switches the statistics on while it is open.
    let stats = unsafe { libbpf_sys::bpf_enable_stats(0) };
    ensure!(stats >= 0, "no BPF statistics: {}", std::io::Error::from_raw_os_error(-stats));
    // SAFETY: the kernel just made this descriptor for us.
    let _stats = unsafe { OwnedFd::from_raw_fd(stats) };
    println!("{:<28} {:>10} {:>10} {:>10} {:>10}", "", "exec", "exit", "fork", "measuring");
    for (name, filter) in [
        ("delivered", filter(EventMode::All, 10)),
        ("delivered, delay 0", filter(EventMode::All, 0)),
        ("filtered out", filter(EventMode::TrackedOnly, 10)),
    ] {
        let running = Running::start(&Watcher::Ours(filter))?;
        let mut least = [f64::INFINITY; 4];
        for _ in 0..ROUNDS {
            let before = programs();
            spawn_loop(runs)?;
            let after = programs();
            let cost = |program: &str| {
                let of = |all: &HashMap<String, (u64, u64)>| all.get(program).copied();
                let (Some(then), Some(now)) = (of(&before), of(&after)) else { return f64::NAN };
                (now.0 - then.0) as f64 / (now.1 - then.1).max(1) as f64 / 1000.0
            };
            for (least, program) in least.iter_mut().zip(["on_exec", "on_exit", "on_fork"]) {
                let with_stand_ins =
                    ["", "_second", "_third"].map(|which| cost(&format!("{program}{which}")));
                *least = least.min(with_stand_ins.iter().sum());
            }
            least[3] = least[3].min(3.0 * cost(Empty::NAME));
        }
        running.stop();
        let empty = least[3];
        let [exec, exit, fork] = [0, 1, 2].map(|i| least[i] - empty);
        println!("{name:<28} {exec:>7.2} µs {exit:>7.2} µs {fork:>7.2} µs {empty:>7.2} µs");
    }
    drop(empty);
    Ok(())
}

/// A program that does nothing, at each exec: what it seems to cost is what measuring costs. Each
/// event runs three programs, so that counts three times.
struct Empty(#[allow(dead_code)] [OwnedFd; 2]);

impl Empty {
    const NAME: &'static str = "acg_empty";

    fn attach() -> Result<Self> {
        let name = CString::new(Self::NAME)?;
        let own = |fd: i32| {
            ensure!(fd >= 0, "no empty program: {}", std::io::Error::from_raw_os_error(-fd));
            // SAFETY: the kernel just made this descriptor for us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        // r0 = 0; exit
        let code = [0xb7, 0x95].map(|code| libbpf_sys::bpf_insn { code, ..Default::default() });
        // SAFETY: libbpf reads two instructions and two strings, which live through the call.
        let program = own(unsafe {
            libbpf_sys::bpf_prog_load(
                libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT,
                name.as_ptr(),
                c"GPL".as_ptr(),
                code.as_ptr(),
                code.len() as _,
                std::ptr::null_mut(),
            )
        })?;
        let tracepoint = c"sched_process_exec".as_ptr();
        // SAFETY: libbpf reads a string.
        let link =
            own(unsafe { libbpf_sys::bpf_raw_tracepoint_open(tracepoint, program.as_raw_fd()) })?;
        Ok(Self([link, program]))
    }
}

/// The tracing programs by name: time in ns, and runs. Another monitor's of the same name count too.
fn programs() -> HashMap<String, (u64, u64)> {
    let mut all = HashMap::<_, (u64, u64)>::new();
    for program in ProgInfoIter::default() {
        let sum = all.entry(program.name.to_string_lossy().into_owned()).or_default();
        sum.0 += program.run_time_ns;
        sum.1 += program.run_cnt;
    }
    all
}

/// A copy of /bin/true under a name of its own, so that nobody else's are counted.
fn own_true() -> Result<std::path::PathBuf> {
    let path = std::env::temp_dir().join("agentcg-true");
    std::fs::copy("/bin/true", &path)?;
    Ok(path)
}

/// As fast as the machine makes them: four loops at once.
pub fn storm(runs: u32) -> Result<Duration> {
    let program = own_true()?;
    let at = Instant::now();
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..runs / 4 {
                        Command::new(&program).stdin(Stdio::null()).status()?;
                    }
                    Ok(())
                })
            })
            .collect();
        loops.into_iter().try_for_each(|l| l.join().map_err(|_| anyhow::anyhow!("panicked"))?)
    })?;
    Ok(at.elapsed())
}

pub fn own_filter(buffer_bytes: u32) -> EventFilter {
    let mut filter = filter(EventMode::TrackedOnly, 10);
    filter.kinds = vec![EventKind::Exec, EventKind::Exit];
    filter.commands = vec!["agentcg-true".into()];
    filter.buffer_bytes = buffer_bytes;
    filter
}

fn complete(runs: u32) -> Result<()> {
    println!("\n{runs} short processes, four loops at once");
    let running = Running::start(&Watcher::Ours(own_filter(8 << 20)))?;
    let time = storm(runs)?;
    // The last ones wait for their delay.
    std::thread::sleep(Duration::from_millis(100));
    let received = running.stop();
    println!("read meanwhile, 8 MiB:    {received} of {} events, {time:.1?}", 2 * runs);

    let mut stream = EventStream::open(&own_filter(64 << 10), None)?;
    storm(runs)?;
    let (mut received, mut dropped) = (0u64, 0u64);
    while let Some(event) = stream.next_timeout(Duration::from_millis(200))? {
        match event {
            Event::Dropped(d) => dropped += d.count,
            _ => received += 1,
        }
    }
    println!(
        "read afterwards, 64 KiB:  {received} received + {dropped} dropped = {}",
        received + dropped
    );
    Ok(())
}

/// A full ring is read at once.
fn throughput(runs: u32) -> Result<()> {
    println!("\nreading a ring that {runs} processes have filled");
    for json in [false, true] {
        let mut stream = EventStream::open(&own_filter(64 << 20), None)?;
        storm(runs)?;
        let at = Instant::now();
        let (mut events, mut bytes) = (0u64, 0);
        while let Some(event) = stream.try_next()? {
            events += 1;
            if json {
                bytes += event.to_json().len();
            }
        }
        let rate = events as f64 / at.elapsed().as_secs_f64() / 1e6;
        match json {
            false => println!("as values:  {rate:.2} million events/s"),
            true => println!(
                "as JSON:    {rate:.2} million events/s, {} bytes each",
                bytes as u64 / events.max(1)
            ),
        }
    }
    Ok(())
}

/// A watcher at work.
enum Running {
    None,
    Ours { stop: Arc<AtomicBool>, count: Arc<AtomicU64>, thread: std::thread::JoinHandle<()> },
    Tools(Vec<Tool>),
}

impl Running {
    fn start(watcher: &Watcher) -> Result<Self> {
        match watcher {
            Watcher::None => Ok(Running::None),
            Watcher::Ours(filter) => Self::read(EventStream::open(filter, None)?),
            Watcher::Tools(names) => {
                let mut tools =
                    names.iter().map(|name| Tool::start(name)).collect::<Result<Vec<_>>>()?;
                // They say nothing when they are ready.
                std::thread::sleep(Duration::from_secs(2));
                for (tool, name) in tools.iter_mut().zip(*names) {
                    ensure!(tool.child.try_wait()?.is_none(), "{name} does not run here");
                }
                Ok(Running::Tools(tools))
            }
        }
    }

    /// In a thread, as a program beside would.
    fn read(mut stream: EventStream) -> Result<Self> {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, count) = (stop.clone(), count.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(Some(_)) = stream.next_timeout(Duration::from_millis(50)) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                while let Ok(Some(_)) = stream.try_next() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Running::Ours { stop, count, thread })
    }

    /// Events seen.
    fn stop(self) -> u64 {
        match self {
            Running::None => 0,
            Running::Ours { stop, count, thread } => {
                stop.store(true, Ordering::Relaxed);
                let _ = thread.join();
                count.load(Ordering::Relaxed)
            }
            Running::Tools(tools) => tools.into_iter().map(Tool::stop).sum(),
        }
    }
}

/// One of bcc's tools; it prints a line an event.
struct Tool {
    child: Child,
    lines: Option<std::thread::JoinHandle<u64>>,
}

impl Tool {
    fn start(name: &str) -> Result<Self> {
        let path = std::path::Path::new("/usr/sbin").join(name);
        let mut child = Command::new(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} (Debian: libbpf-tools)", path.display()))?;
        let out = BufReader::new(child.stdout.take().context("no pipe")?);
        let lines = Some(std::thread::spawn(move || out.split(b'\n').count() as u64));
        Ok(Self { child, lines })
    }

    /// The lines that it printed, without the heading.
    fn stop(mut self) -> u64 {
        self.end();
        self.lines.take().and_then(|l| l.join().ok()).unwrap_or(0).saturating_sub(1)
    }

    /// It prints what it still holds when it is interrupted, and not when it is killed.
    fn end(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if self.lines.is_some() {
            self.end();
        }
    }
}
