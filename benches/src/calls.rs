//! What a tool call costs, beside `std::process`, from a small and from a large parent.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Stdio as StdStdio;
use std::time::{Duration, Instant};

use agentcg_core::{Runtime, Session, SessionConfig, Stdio, mount_point};
use anyhow::{Result, ensure};

/// Runs in turn, so that whatever else the machine does meets all alike; medians.
pub fn compare(
    rounds: u32,
    ways: &mut [(&str, &mut dyn FnMut() -> Result<()>)],
) -> Result<Vec<Duration>> {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..rounds + rounds / 10 {
        for ((_, run), times) in ways.iter_mut().zip(&mut times) {
            let since = Instant::now();
            run()?;
            // The first ones warm up.
            if round >= rounds / 10 {
                times.push(since.elapsed());
            }
        }
    }
    let medians: Vec<_> = times
        .iter_mut()
        .map(|t| {
            t.sort();
            t[t.len() / 2]
        })
        .collect();
    for ((name, _), median) in ways.iter().zip(&medians) {
        let (us, base) = (median.as_secs_f64() * 1e6, medians[0].as_secs_f64() * 1e6);
        println!("{name:40} {us:8.0} µs   {:+6.0} µs   {:.2}x", us - base, us / base);
    }
    Ok(medians)
}

fn std_process() -> Result<()> {
    let status = std::process::Command::new("/bin/true")
        .stdin(StdStdio::null())
        .stdout(StdStdio::null())
        .stderr(StdStdio::null())
        .status()?;
    ensure!(status.success());
    Ok(())
}

/// The system calls that no tool call can do without, from C.
fn kernel_alone(calls: &File) -> Result<()> {
    unsafe extern "C" {
        fn agentcg_floor(calls: c_int, name: *const c_char) -> c_int;
    }
    // SAFETY: an open directory and a string; one thread calls it at a time, as its stack asks.
    let status = unsafe { agentcg_floor(calls.as_raw_fd(), c"floor".as_ptr()) };
    ensure!(status == 0, "the kernel alone: {}", std::io::Error::from_raw_os_error(status));
    Ok(())
}

fn call(session: &Session) -> Result<()> {
    let mut command = session.command("/bin/true");
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    ensure!(command.status()?.success());
    Ok(())
}

pub fn run(rounds: u32, large_gib: usize) -> Result<()> {
    let root = mount_point()?.join(format!("agentcg-bench-{}", std::process::id()));
    let runtime = Runtime::builder().root(root).build()?;
    let session = runtime.session("bench", SessionConfig::default())?;
    // The first call makes it.
    call(&session)?;
    let calls = File::open(session.path().join("calls"))?;
    println!(
        "\n/bin/true, start to end, median of {rounds}; controllers {:?}",
        runtime.controllers()
    );
    let small = compare(
        rounds,
        &mut [
            ("std::process", &mut std_process),
            ("mkdir, clone3, rmdir alone, in C", &mut || kernel_alone(&calls)),
            ("tool call", &mut || call(&session)),
            ("tool call, output captured", &mut || {
                ensure!(session.command("/bin/true").output()?.success());
                Ok(())
            }),
        ],
    )?;
    // What the kernel charges for any process in a cgroup with these controllers.
    session.move_pid(std::process::id() as i32)?;
    println!("\nthe same from inside the session");
    compare(
        rounds,
        &mut [("std::process", &mut std_process), ("tool call", &mut || call(&session))],
    )?;
    if large_gib > 0 {
        let memory = vec![1u8; large_gib << 30];
        std::hint::black_box(&memory);
        println!("\nthe same with {large_gib} GiB resident");
        let large = compare(
            rounds,
            &mut [("std::process", &mut std_process), ("tool call", &mut || call(&session))],
        )?;
        let ratio = large[1].as_secs_f64() / small[2].as_secs_f64();
        println!("tool call, large parent / small parent: {ratio:.2}");
    }
    Ok(())
}
