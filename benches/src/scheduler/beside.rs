//! Another program's sched_ext scheduler.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const STATE: &str = "/sys/kernel/sched_ext/state";

/// It runs, and is attached, until this is dropped.
pub(super) struct Other(Child);

impl Other {
    pub(super) fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| program.display().to_string())?;
        let other = Self(child);
        wait_for("enabled").with_context(|| format!("{} did not attach", program.display()))?;
        Ok(other)
    }

    /// Whether the kernel has detached it.
    pub(super) fn ended(&self) -> Result<bool> {
        Ok(std::fs::read_to_string(STATE)?.trim() != "enabled")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = wait_for("disabled");
    }
}

fn wait_for(state: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(STATE)?.trim() != state {
        ensure!(Instant::now() < end, "sched_ext is not {state}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
