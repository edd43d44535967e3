//! Files that are to be removed, and those that could not be.

use std::io::ErrorKind;

use parking_lot::Mutex;

use super::Dir;
use crate::error::{Error, Result};

/// Files that are not wanted and could not be removed, by name, and their sizes: they count until they are.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Mutex<Vec<(String, u64)>>);

impl Leftovers {
    /// Removes a file; one that cannot be removed now is removed later.
    pub(crate) fn remove(&self, dir: &dyn Dir, name: String, size: u64) {
        if let Err(error) = unlink(dir, &name) {
            crate::trace::background_failed(&error);
            self.0.lock().push((name, size));
        }
    }

    /// Removes what is left; whether there was anything.
    ///
    /// # Errors
    ///
    /// What the operating system says; what could not be removed still counts.
    pub(crate) fn remove_all(&self, dir: &dyn Dir) -> Result<bool> {
        let mut files = self.0.lock();
        let before = files.len();
        while let Some((name, _)) = files.last() {
            unlink(dir, name)?;
            files.pop();
        }
        Ok(before > 0)
    }

    /// The bytes of what is left.
    pub(crate) fn size(&self) -> u64 {
        self.0.lock().iter().map(|(_, size)| size).sum()
    }
}

/// Removes a file; gone already is as good. Durable after the directory's sync.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn unlink(dir: &dyn Dir, name: &str) -> Result<()> {
    match dir.unlink(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove", dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}
