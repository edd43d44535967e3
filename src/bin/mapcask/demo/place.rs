//! Where the demo's store lies, and what becomes of it.
//!
//! A directory that the demo chose and will remove is named after its process, so that the next demo can tell what an
//! interrupted one left. One that is kept has another name: nothing removes it but its owner.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What a directory that will be removed is called, before the number of its process.
const PASSING: &str = "mapcask-demo-";
/// What a directory that is kept is called, before the number of its process.
const KEPT: &str = "mapcask-kept-";

/// The directory of the demo's store.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    is_kept: bool,
    /// What earlier demos left, and is gone now.
    pub(super) removed: Vec<PathBuf>,
}

impl Place {
    /// Chooses the directory, without making it: the given one, or one in the build directory, or in the current one.
    /// Both are on a disk, where the temporary directory may be memory.
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

    /// Makes the directory.
    pub(super) fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| format!("cannot make {}", self.path.display()))
    }

    /// What the user should know about the directory while the demo runs.
    pub(super) fn fate(&self) -> &'static str {
        if self.is_kept { "kept" } else { "removed at the end; an interrupted demo leaves it" }
    }

    /// Removes the directory, or says where it is kept. One of a demo that went wrong is kept in any case.
    pub(super) fn leave(self, is_good: bool) -> Result<()> {
        let path = self.path;
        if is_good && !self.is_kept {
            return fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()));
        }
        let kept = path.with_file_name(format!("{KEPT}{}", std::process::id()));
        if self.is_kept {
            eprintln!("the store is kept at {}", path.display());
        } else if fs::rename(&path, &kept).is_ok() {
            // Under its old name the next demo would take the evidence for a leftover.
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

/// Removes the directories of demos whose process is gone, and returns them. One that cannot be removed stays, which
/// is no reason to refuse a demo.
fn remove_leftovers(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let entries = entries.flatten().filter(|entry| {
        // A link is no directory here, and is left alone.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_directory && entry.file_name().to_str().and_then(process_of).is_some_and(is_gone)
    });
    entries.map(|entry| entry.path()).filter(|path| fs::remove_dir_all(path).is_ok()).collect()
}

/// The process whose directory has this name.
fn process_of(name: &str) -> Option<u32> {
    let process: u32 = name.strip_prefix(PASSING)?.parse().ok()?;
    // No other spelling of a number is a name that a demo gives.
    (name == format!("{PASSING}{process}")).then_some(process)
}

/// Returns whether no such process exists; this one has made no directory yet, so its number is that of an earlier one.
#[cfg(unix)]
fn is_gone(process: u32) -> bool {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};

    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    process == std::process::id() || pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Nobody can be asked here, so everything stays.
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
