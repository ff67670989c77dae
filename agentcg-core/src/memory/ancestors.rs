//! `memory.low` and `memory.min` hold only as far as every ancestor grants them, so they are raised
//! there too, by the sum of what all protected cgroups below need. Several protections of this
//! process share their ancestors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parking_lot::Mutex;

use super::raise;
use crate::cgroup::{Cgroup, Claim};
use crate::{ErrorKind, Result};

/// A claimed ancestor, and what it grants to whom.
struct Ancestor {
    claim: Claim,
    users: usize,
    grants: HashMap<PathBuf, u64>,
}

static ANCESTORS: LazyLock<Mutex<HashMap<PathBuf, Ancestor>>> = LazyLock::new(Mutex::default);

/// The ancestors of one high cgroup, in use.
#[derive(Debug)]
pub(super) struct Ancestors {
    of: PathBuf,
    paths: Vec<PathBuf>,
}

impl Ancestors {
    /// Claims those that have a `memory.low`. One that another process has claimed is left to it.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let mut used = Self { of: path.to_path_buf(), paths: Vec::new() };
        let mut all = ANCESTORS.lock();
        for above in path.ancestors().skip(1).take_while(|p| p.join("memory.low").exists()) {
            if let Some(ancestor) = all.get_mut(above) {
                ancestor.users += 1;
            } else {
                match Cgroup::open(above).and_then(Claim::take) {
                    Ok(claim) => {
                        let ancestor = Ancestor { claim, users: 1, grants: HashMap::new() };
                        all.insert(above.to_path_buf(), ancestor);
                    }
                    Err(e) if e.kind() == ErrorKind::Busy => {
                        tracing::warn!("{e}: its memory.low stays as that process sets it");
                        continue;
                    }
                    Err(e) => {
                        drop(all);
                        return Err(e);
                    }
                }
            }
            used.paths.push(above.to_path_buf());
        }
        Ok(used)
    }

    /// Grants so many bytes in these files; 0 takes the grant back.
    pub(super) fn grant(&self, files: &[&str], bytes: u64) {
        let mut all = ANCESTORS.lock();
        for path in &self.paths {
            let Some(ancestor) = all.get_mut(path) else { continue };
            if bytes == 0 {
                ancestor.grants.remove(&self.of);
            } else {
                ancestor.grants.insert(self.of.clone(), bytes);
            }
            let sum = ancestor.grants.values().sum();
            let done = if sum == 0 {
                ancestor.claim.restore()
            } else {
                files.iter().try_for_each(|file| raise(&ancestor.claim, file, sum))
            };
            if let Err(e) = done {
                tracing::warn!("{e}");
            }
        }
    }
}

impl Drop for Ancestors {
    fn drop(&mut self) {
        self.grant(&[], 0);
        let mut all = ANCESTORS.lock();
        for path in &self.paths {
            if let Some(ancestor) = all.get_mut(path) {
                ancestor.users -= 1;
                if ancestor.users == 0 {
                    // Puts its values back.
                    all.remove(path);
                }
            }
        }
    }
}
