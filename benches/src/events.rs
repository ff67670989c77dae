//! What the process monitor adds to running /bin/true.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentcg_core::{EventFilter, EventKind, EventMode, EventStream};
use anyhow::Result;

const ROUNDS: usize = 5;

pub fn run(runs: u32) -> Result<()> {
    println!("{runs} runs of /bin/true, median of {ROUNDS} rounds, the cases in turn");
    let cases: [(&str, Option<EventFilter>); 3] = [
        ("no monitor", None),
        ("all EXEC, EXIT, FORK", Some(filter(EventMode::All))),
        ("filtered out in the kernel", Some(filter(EventMode::TrackedOnly))),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    let mut events = vec![0; cases.len()];
    // In turn, so that what else the machine does hits all cases alike.
    for _ in 0..ROUNDS {
        for (i, (_, filter)) in cases.iter().enumerate() {
            let reader = filter.clone().map(Reader::start).transpose()?;
            times[i].push(spawn_loop(runs)?);
            events[i] = reader.map_or(0, Reader::stop);
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let base = median(&mut times[0]);
    println!("{:<28} {:>10} {:>8} {:>8}", "", "a run", "ratio", "events");
    for (i, (name, _)) in cases.iter().enumerate() {
        let time = median(&mut times[i]);
        println!(
            "{name:<28} {:>7} µs {:>8.3} {:>8}",
            (time / runs).as_micros(),
            time.as_secs_f64() / base.as_secs_f64(),
            events[i]
        );
    }
    Ok(())
}

fn filter(mode: EventMode) -> EventFilter {
    let mut filter = EventFilter::default();
    filter.mode = mode;
    filter.kinds = vec![EventKind::Exec, EventKind::Exit, EventKind::Fork];
    filter.commands = vec!["no-such-command".into()];
    filter
}

fn spawn_loop(runs: u32) -> Result<Duration> {
    let at = Instant::now();
    for _ in 0..runs {
        Command::new("/bin/true").stdin(Stdio::null()).status()?;
    }
    Ok(at.elapsed())
}

/// Reads events in a thread, as a program beside would.
struct Reader {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Reader {
    fn start(filter: EventFilter) -> Result<Self> {
        let mut stream = EventStream::open(&filter, None)?;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, count) = (stop.clone(), count.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(Some(_)) = stream.next_timeout(Duration::from_millis(50)) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(Self { stop, count, thread })
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.count.load(Ordering::Relaxed)
    }
}
