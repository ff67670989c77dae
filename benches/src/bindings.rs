//! What C and Go add to the library: the same work in all three, in turn.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio as StdStdio};
use std::time::{Duration, Instant};

use agentcg_core::{EventStream, Runtime, Session, SessionConfig, Stdio, mount_point};
use anyhow::{Context, Result, bail, ensure};

use crate::events::{own_filter, storm};

/// Calls of one way in a round, of which the median counts. Few, so that what else the machine does
/// meets all ways alike.
const BLOCK: u32 = 5;
/// What takes turns: the program, what it is told, and the way that its time is held against.
const WAYS: [(&str, usize, &str, usize); 7] = [
    ("Rust, status", 0, "run", 0),
    ("C, run", 1, "run", 0),
    ("Go, Run", 2, "run", 0),
    ("Rust, spawn + wait", 0, "spawn", 3),
    ("C, spawn + wait", 1, "spawn", 3),
    ("Go, Start + Wait", 2, "spawn", 3),
    ("std::process, no cgroup", 0, "std", 0),
];

/// A program that does what it is told, line by line: this one in Rust, those of `benches/bindings` in C
/// and Go. Each is a process of its own, so that the kernel treats all alike.
struct Program {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Program {
    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let root = mount_point()?.join(format!("agentcg-bench-{name}-{}", std::process::id()));
        let mut child = command
            .arg(root)
            .stdin(StdStdio::piped())
            .stdout(StdStdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} (benches/run.sh builds it)"))?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, to, from })
    }

    /// The numbers that it answers.
    fn ask(&mut self, line: &str) -> Result<Vec<u64>> {
        writeln!(self.to.as_mut().context("no pipe")?, "{line}")?;
        let mut answer = String::new();
        ensure!(self.from.read_line(&mut answer)? > 0, "it ended at {line}");
        Ok(answer.split_whitespace().filter_map(|w| w.parse().ok()).collect())
    }

    fn number(&mut self, line: &str) -> Result<u64> {
        self.ask(line)?.first().copied().context("no number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        self.to = None;
        let _ = self.child.wait();
    }
}

/// What the programs in C and Go do, in Rust.
pub fn serve(root: PathBuf) -> Result<()> {
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("bench", SessionConfig::default())?;
    let mut stream = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("std", n) => println!("{}", processes(n.parse()?)?),
            ("run", n) => println!("{}", calls(&session, n.parse()?, false)?),
            ("spawn", n) => println!("{}", calls(&session, n.parse()?, true)?),
            ("open", _) => {
                stream = Some(EventStream::open(&own_filter(64 << 20), None)?);
                println!("ok");
            }
            ("read", _) => {
                let mut stream = stream.take().context("no stream")?;
                let (since, mut events) = (Instant::now(), 0);
                while stream.try_next()?.is_some() {
                    events += 1;
                }
                println!("{events} {}", since.elapsed().as_nanos());
            }
            _ => bail!("what is {line}?"),
        }
    }
    Ok(())
}

/// What a process costs that is no call: the median, ns.
fn processes(n: u32) -> Result<u64> {
    let mut times = Vec::new();
    for _ in 0..n {
        let since = Instant::now();
        let mut command = Command::new("/bin/true");
        command.stdin(StdStdio::null()).stdout(StdStdio::null()).stderr(StdStdio::null());
        ensure!(command.status()?.success());
        times.push(since.elapsed().as_nanos() as u64);
    }
    Ok(median(&mut times))
}

/// The median, ns.
fn calls(session: &Session, n: u32, spawn: bool) -> Result<u64> {
    let mut times = Vec::new();
    for _ in 0..n {
        let since = Instant::now();
        let mut command = session.command("/bin/true");
        command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
        let outcome = if spawn { command.spawn()?.wait()? } else { command.status()? };
        ensure!(outcome.success());
        times.push(since.elapsed().as_nanos() as u64);
    }
    Ok(median(&mut times))
}

fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

pub fn run(directory: &Path, rounds: u32, processes: u32) -> Result<()> {
    let mut programs = [
        Program::start("rust", Command::new(std::env::current_exe()?).arg("serve"))?,
        Program::start("c", &mut Command::new(directory.join("bench-c")))?,
        Program::start("go", &mut Command::new(directory.join("bench-go")))?,
    ];
    overhead(&mut programs, rounds)?;
    events(&mut programs, processes)
}

fn overhead(programs: &mut [Program; 3], rounds: u32) -> Result<()> {
    let rounds = rounds.div_ceil(BLOCK).max(3) as usize;
    println!("\n/bin/true, start to end, {rounds} rounds of {BLOCK} calls each, in turn");
    let mut times = [const { Vec::new() }; WAYS.len()];
    let mut ratios = [const { Vec::new() }; WAYS.len()];
    for round in 0..=rounds {
        let mut row = [0; WAYS.len()];
        // Each comes first, and after each other one, as often as the others: their number is prime.
        let step = 1 + round / WAYS.len() % (WAYS.len() - 1);
        for turn in 0..WAYS.len() {
            let way = (round + turn * step) % WAYS.len();
            let (_, program, what, _) = WAYS[way];
            row[way] = programs[program].number(&format!("{what} {BLOCK}"))?;
        }
        // The first round warms up.
        for (way, (.., base)) in WAYS.iter().enumerate().filter(|_| round > 0) {
            times[way].push(row[way]);
            ratios[way].push(row[way] as f64 / row[*base] as f64);
        }
    }
    // Of ratios within a round, for what else the machine does changes from round to round.
    println!("{:24} {:>8}      median of the ratios in a round (95 % sure)", "", "median");
    for (way, (name, .., base)) in WAYS.iter().enumerate() {
        let time = median(&mut times[way]) as f64 / 1000.0;
        ratios[way].sort_unstable_by(f64::total_cmp);
        let around = (0.98 * (rounds as f64).sqrt()).ceil() as usize;
        let [low, middle, high] =
            [(rounds / 2).saturating_sub(around), rounds / 2, rounds / 2 + around]
                .map(|i| ratios[way][i.min(rounds - 1)]);
        let base = WAYS[*base].0;
        println!("{name:24} {time:8.0} µs   {middle:.3}x of {base} ({low:.3} to {high:.3})");
    }
    Ok(())
}

/// A buffer that the kernel has filled is read at once.
fn events(programs: &mut [Program; 3], processes: u32) -> Result<()> {
    println!("\nreading a buffer in which the kernel has recorded {processes} processes");
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..3 {
        for program in &mut *programs {
            program.ask("open")?;
        }
        storm(processes)?;
        let mut expected = None;
        for (program, rates) in programs.iter_mut().zip(&mut rates) {
            let answer = program.ask("read")?;
            let [events, ns] = answer[..] else { bail!("{answer:?} is no answer") };
            ensure!(events > 0 && *expected.get_or_insert(events) == events, "{answer:?}");
            rates.push(events as f64 / Duration::from_nanos(ns).as_secs_f64() / 1e6);
        }
    }
    for (name, mut rates) in ["Rust", "C", "Go"].into_iter().zip(rates) {
        rates.sort_by(f64::total_cmp);
        println!("{name:24} {:8.2} million events/s", rates[1]);
    }
    Ok(())
}
