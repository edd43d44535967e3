//! Removal of files, with a list of those that could not be removed.

use std::io::ErrorKind;

use parking_lot::Mutex;

use super::Dir;
use crate::error::{Error, Result};

/// Names and sizes of unwanted files that could not be removed. They count as used space until they
/// are.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Vec<(String, u64)>>);

impl Leftovers {
    /// Removes a file; if that fails, it is removed later.
    pub(crate) fn remove(&self, dir: &dyn Dir, name: String, size: u64) {
        if let Err(error) = unlink(dir, &name) {
            crate::trace::background_failed(&error);
            self.0.lock().push((name, size));
        }
    }

    /// Removes all leftover files, and returns true if there were any.
    ///
    /// # Errors
    ///
    /// Returns the system's error; files that could not be removed still count.
    pub(crate) fn remove_all(&self, dir: &dyn Dir) -> Result<bool> {
        let mut files = self.0.lock();
        let before = files.len();
        while let Some((name, _)) = files.last() {
            unlink(dir, name)?;
            files.pop();
        }
        Ok(before > 0)
    }

    /// Returns the total size of the leftover files, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.0.lock().iter().map(|(_, size)| size).sum()
    }
}

/// Removes a file; succeeds if it does not exist. The removal is durable after the directory's
/// sync.
///
/// # Errors
///
/// Returns the system's error.
pub(crate) fn unlink(dir: &dyn Dir, name: &str) -> Result<()> {
    match dir.unlink(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}
