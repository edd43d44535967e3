//! The directory of the demo's store, and its removal.
//!
//! A directory that the demo chose and will remove is named after its process. So the next demo
//! recognises the remains of an interrupted one. A directory to keep has another name, and only its
//! owner removes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The name of a directory that will be removed, before the process id.
const PASSING: &str = "mapcask-demo-";
/// The name of a directory that is kept, before the process id.
const KEPT: &str = "mapcask-kept-";

/// The directory of the demo's store.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    is_kept: bool,
    /// The directories of earlier demos that were removed.
    pub(super) removed: Vec<PathBuf>,
}

impl Place {
    /// Chooses the directory without creating it: the given one, or one in `target`, or in the
    /// current one.
    ///
    /// The last two are on a disk, whereas the temporary directory may be in memory.
    pub(super) fn choose(given: Option<&Path>, keep: bool) -> Result<Self> {
        let (path, removed) = match given {
            Some(path) => (path.to_owned(), Vec::new()),
            None => {
                let build = Path::new("target");
                let parent = if build.is_dir() { build } else { Path::new(".") };
                let parent = fs::canonicalize(parent).context("cannot find the current directory")?;
                let removed = remove_leftovers(&parent);
                let name = if keep { KEPT } else { PASSING };
                (parent.join(format!("{name}{}", std::process::id())), removed)
            }
        };
        let is_there = path.try_exists().with_context(|| format!("cannot look at {}", path.display()))?;
        let path = if is_there { fs::canonicalize(&path) } else { std::path::absolute(&path) }
            .with_context(|| format!("cannot find {}", path.display()))?;
        if is_there && list(&path)?.next().is_some() {
            bail!(
                "{} is not empty; the demo needs a store of its own, choose another directory",
                path.display()
            );
        }
        Ok(Self { path, is_kept: keep || given.is_some(), removed })
    }

    /// Creates the directory.
    pub(super) fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| format!("cannot make {}", self.path.display()))
    }

    /// Returns the fate of the directory, to be shown while the demo runs.
    pub(super) fn fate(&self) -> &'static str {
        if self.is_kept { "kept" } else { "removed at the end; an interrupted demo leaves it" }
    }

    /// Removes the directory, or prints its path if it is kept. A failed demo always keeps it.
    pub(super) fn leave(self, is_good: bool) -> Result<()> {
        let path = self.path;
        if is_good && !self.is_kept {
            return fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()));
        }
        let kept = path.with_file_name(format!("{KEPT}{}", std::process::id()));
        if self.is_kept {
            eprintln!("the store is kept at {}", path.display());
        } else if fs::rename(&path, &kept).is_ok() {
            // Under its old name the next demo would remove the evidence.
            eprintln!("the store is kept at {}", kept.display());
        } else {
            eprintln!("the store is kept at {} until the next demo; rename it to keep it", path.display());
        }
        Ok(())
    }
}

fn list(path: &Path) -> Result<fs::ReadDir> {
    fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))
}

/// Removes the directories of demos whose process is gone, and returns them. Ignores failures.
fn remove_leftovers(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let entries = entries.flatten().filter(|entry| {
        // A link is not a directory here, and stays.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_directory && entry.file_name().to_str().and_then(process_of).is_some_and(is_gone)
    });
    entries.map(|entry| entry.path()).filter(|path| fs::remove_dir_all(path).is_ok()).collect()
}

/// Returns the process whose directory has this name.
fn process_of(name: &str) -> Option<u32> {
    let process: u32 = name.strip_prefix(PASSING)?.parse().ok()?;
    // A demo writes the number in this way only.
    (name == format!("{PASSING}{process}")).then_some(process)
}

/// Returns `true` if no such process exists.
///
/// This process has created no directory yet, so its own id is that of an earlier one.
#[cfg(unix)]
fn is_gone(process: u32) -> bool {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};

    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    process == std::process::id() || pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// The system cannot be asked here, so everything stays.
#[cfg(not(unix))]
fn is_gone(_process: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_a_demo_gives_are_leftovers() {
        assert_eq!(process_of("mapcask-demo-17"), Some(17));
        for name in ["mapcask-demo-", "mapcask-demo-+17", "mapcask-demo-017", "mapcask-kept-17", "demo-17"] {
            assert_eq!(process_of(name), None, "{name}");
        }
    }
}
