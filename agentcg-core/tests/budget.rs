//! The variables of [`agentcg_core::budget`], read by the tools themselves.
//!
//! The tools are those that `scripts/setup.sh` installs. Three CPUs are told, on whatever machine:
//! a number that few machines have, so that a tool that goes by the machine is found out.

use std::path::Path;
use std::process::Command;

use agentcg_core::{Limits, budget};

const CPUS: usize = 3;
const MEMORY: u64 = 1 << 30;

/// A command in `directory` with the budget, whatever the test's own environment says.
fn tool(directory: &Path, program: &str) -> Command {
    let mut limits = Limits::default();
    limits.cpu_max = Some(CPUS as f64 - 0.5);
    limits.memory_max = Some(MEMORY.into());
    let mut command = Command::new(program);
    command.current_dir(directory).env_remove("CARGO_MAKEFLAGS");
    command.envs(budget(&limits, 64, &|_| false));
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

#[test]
fn make_runs_that_many_jobs() {
    let directory = tempfile::tempdir().unwrap();
    // Each job waits until all three have started: with fewer at a time this times out.
    let rules = "all: a b c\na b c:\n\t@touch $@.started; for i in $$(seq 100); do \
                 [ $$(ls *.started | wc -l) -eq 3 ] && exit 0; sleep 0.1; done; exit 1\n\
                 flags:\n\t@echo $(MAKEFLAGS)\n";
    std::fs::write(directory.path().join("Makefile"), rules).unwrap();
    output(tool(directory.path(), "make"));
    // What the command line says wins.
    let mut serial = tool(directory.path(), "make");
    serial.args(["-j1", "flags"]);
    assert!(!output(serial).contains("-j3"));
}

#[test]
fn cargo_runs_that_many_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "Cargo.toml",
        "[package]\nname = 'jobs'\nedition = '2021'\n[lib]\npath = 'lib.rs'\n[workspace]\n",
    );
    write("lib.rs", "");
    write(
        "build.rs",
        r#"fn main() { std::fs::write("jobs", std::env::var("NUM_JOBS").unwrap()).unwrap() }"#,
    );
    let mut cargo = tool(directory.path(), env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--target-dir", "target"]);
    output(cargo);
    let jobs = std::fs::read_to_string(directory.path().join("jobs")).unwrap();
    assert_eq!(jobs, CPUS.to_string());
}

#[test]
fn go_has_that_many_threads_and_that_heap() {
    let directory = tempfile::tempdir().unwrap();
    let program = r#"package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func main() { fmt.Println(runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1)) }
"#;
    std::fs::write(directory.path().join("main.go"), program).unwrap();
    let mut go = tool(directory.path(), "go");
    go.args(["run", "main.go"]);
    let shown = output(go);
    let [cpus, bytes] = *shown.split_whitespace().collect::<Vec<_>>() else { panic!() };
    assert_eq!(cpus, CPUS.to_string());
    assert_eq!(bytes.parse::<u64>().unwrap(), MEMORY / 10 * 9);
}

#[test]
fn openmp_and_nproc_have_that_many_threads() {
    let directory = tempfile::tempdir().unwrap();
    let program = "#include <omp.h>\n#include <stdio.h>\nint main(void) { printf(\"%d\\n\", omp_get_max_threads()); }\n";
    std::fs::write(directory.path().join("threads.c"), program).unwrap();
    let mut gcc = tool(directory.path(), "gcc");
    gcc.args(["-fopenmp", "threads.c", "-o", "threads"]);
    output(gcc);
    let threads = directory.path().join("threads");
    assert_eq!(output(tool(directory.path(), threads.to_str().unwrap())).trim(), CPUS.to_string());
    assert_eq!(output(tool(directory.path(), "nproc")).trim(), CPUS.to_string());
}

#[test]
fn python_counts_that_many_cpus() {
    let directory = tempfile::tempdir().unwrap();
    let mut python = tool(directory.path(), "python3");
    python.args([
        "-c",
        "import os, sys; print(os.cpu_count() if sys.version_info >= (3, 13) else 'old')",
    ]);
    let shown = output(python);
    // PYTHON_CPU_COUNT came with 3.13; older ones go by the machine.
    assert!(["old", &CPUS.to_string()].contains(&shown.trim()), "{shown}");
}
