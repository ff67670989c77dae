//! Tests that need a real kernel. One program, so that one boot serves them all; each test has a
//! cgroup of its own and says what it needs. What the running kernel does not have is shown as
//! `ignored`; over all kernels of the lab every test must have run.
//!
//! | file | subject |
//! |---|---|
//! | `support.rs` | needs, test cgroups, workers, the programs under test |
//! | `worker.rs` | what child processes of the tests do |
//! | `cgroups.rs`, `runtime.rs`, `calls.rs`, `scheduler.rs`, `memory.rs`, `events.rs` | the library |
//! | `storm.rs` | many calls at once |
//! | `crash.rs`, `confined.rs` | a harness that was killed; less allowed than usual |
//! | `doctor.rs`, `programs.rs`, `run.rs` | the programs |
//! | `verdicts.rs` | a table of ways in which a call can end |

#![allow(clippy::print_stdout)]

mod calls;
mod cgroups;
mod confined;
mod crash;
mod doctor;
mod events;
mod memory;
mod programs;
mod run;
mod runtime;
mod scheduler;
mod storm;
mod support;
mod verdicts;
mod worker;

use libtest_mimic::{Arguments, Trial};
use support::{Machine, Need, Test};

fn main() {
    if let Some(job) = std::env::args().nth(1).filter(|a| a.starts_with("worker=")) {
        worker::run(&job["worker=".len()..]);
    }
    let mut args = Arguments::from_args();
    // One at a time: there is one sched_ext, one machine to put under pressure.
    args.test_threads = Some(1);
    let machine = Machine::look();
    let all: Vec<Test> = [
        cgroups::tests(),
        runtime::tests(),
        calls::tests(),
        events::tests(),
        scheduler::tests(),
        memory::tests(),
        doctor::tests(),
        programs::tests(),
        run::tests(),
        crash::tests(),
        confined::tests(),
        storm::tests(),
    ]
    .concat();
    let tests = all.into_iter().map(|t| trial(&machine, t.name.into(), t.needs, t.run));
    let verdicts = verdicts::rows().into_iter().map(|row| {
        trial(&machine, format!("verdicts::{}", row.name), row.needs, move || row.run())
    });
    libtest_mimic::run(&args, tests.chain(verdicts).collect()).exit();
}

fn trial(
    machine: &Machine,
    name: String,
    needs: &[Need],
    run: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let missing = machine.missing(needs);
    // A busy host can distort what is measured in an emulated machine: one more try. The lab lists
    // who needed it.
    let twice = move || {
        run().or_else(|e| {
            println!("at first: {}", format!("{e:#}").replace('\n', " "));
            run()
        })
    };
    Trial::test(name, move || twice().map_err(|e| format!("{e:#}").into()))
        .with_ignored_flag(!missing.is_empty())
        .with_kind(missing)
}
