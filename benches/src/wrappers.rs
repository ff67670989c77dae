//! What it costs to start a command through a program that puts it in a cgroup, whole process from
//! start to end: `agentcg run` and `agentcg-bash` beside other ways.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentcg_core::mount_point;
use anyhow::{Context, Result, ensure};

use crate::calls::compare;

/// What people write by hand: a cgroup of its own, entered by the shell, removed afterwards.
const BY_HAND: &str = r#"
cgroup=$1/by-hand-$$; shift
mkdir "$cgroup" || exit
(echo "$BASHPID" >"$cgroup/cgroup.procs" && exec "$@")
status=$?
rmdir "$cgroup"
exit $status
"#;

fn run(mut command: Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().context("start it")?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn command(program: impl AsRef<Path>, args: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(args).env_remove("AGENTCG_CALL").env_remove("AGENTCG_LOG");
    command
}

/// Our programs, built beside this one.
fn ours(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is not built: cargo build --release -p agentcg-cli", path.display());
    Ok(path)
}

pub fn measure(rounds: u32) -> Result<()> {
    let (agentcg, agentcg_bash) = (ours("agentcg")?, ours("agentcg-bash")?);
    let mount = mount_point()?.display().to_string();
    let by_hand = ["-c", BY_HAND, "by-hand", &mount, "/bin/true"];
    println!("\nwhole process around /bin/true, median of {rounds}");
    compare(
        rounds,
        &mut [
            ("/bin/true", &mut || run(command("/bin/true", &[]))),
            ("agentcg run -- /bin/true", &mut || {
                run(command(&agentcg, &["run", "--", "/bin/true"]))
            }),
            ("a shell script with mkdir, exec, rmdir", &mut || run(command("/bin/bash", &by_hand))),
        ],
    )?;
    println!("\nwhole process of bash -c true, median of {rounds}");
    compare(
        rounds,
        &mut [
            ("bash -c true", &mut || run(command("/bin/bash", &["-c", "true"]))),
            ("agentcg-bash -c true", &mut || run(command(&agentcg_bash, &["-c", "true"]))),
        ],
    )?;
    println!("\nother programs that put a command in a cgroup, median of {}", others(rounds));
    let runexec = std::env::var("RUNEXEC").unwrap_or_else(|_| "runexec".into());
    let systemd_run = ["--scope", "--quiet", "/bin/true"];
    let runexec_args = ["--no-container", "--quiet", "--output", "/dev/null", "/bin/true"];
    for (program, args) in [("systemd-run", &systemd_run[..]), (&runexec, &runexec_args[..])] {
        if let Err(e) = run(command(program, args)) {
            println!("{program}: cannot run here: {e:#}");
            continue;
        }
        compare(
            others(rounds),
            &mut [
                ("/bin/true", &mut || run(command("/bin/true", &[]))),
                (&format!("{} {}", name(program), args.join(" ")), &mut || {
                    run(command(program, args))
                }),
            ],
        )?;
    }
    Ok(())
}

/// They take a while.
fn others(rounds: u32) -> u32 {
    (rounds / 10).max(20)
}

fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}
