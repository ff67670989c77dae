//! Where the real bash is.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Ourselves, also under another name.
const SELF: &str = "/proc/self/exe";

/// `AGENTCG_BASH`; else `bash.real` beside this program, where that took the place of bash; else
/// the system's. Never this program itself.
pub(super) fn find() -> Result<PathBuf> {
    let own = std::fs::metadata(SELF).context("look at /proc/self/exe")?;
    if let Some(given) = std::env::var_os("AGENTCG_BASH").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        let found = std::fs::metadata(&path)
            .with_context(|| format!("AGENTCG_BASH names {}", path.display()))?;
        if same(&found, &own) {
            bail!("AGENTCG_BASH names agentcg-bash itself; expected the real bash");
        }
        return Ok(path);
    }
    let beside = std::fs::read_link(SELF).ok().map(|exe| exe.with_file_name("bash.real"));
    let system = ["/bin/bash.real", "/usr/bin/bash.real", "/bin/bash", "/usr/bin/bash"];
    let is_other =
        |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && !same(&m, &own));
    beside
        .into_iter()
        .chain(system.map(PathBuf::from))
        .find(|path| is_other(path))
        .context("there is no bash: expected bash.real beside this program, /bin/bash or /usr/bin/bash; AGENTCG_BASH can name it")
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}
