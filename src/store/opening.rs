//! Opening a directory that others may be destroying, and making again.

use std::path::Path;
use std::sync::Arc;

use super::Store;
use crate::error::{Error, Result};
use crate::fs::real::RealDir;
use crate::fs::{Dir, Misplaced};
use crate::options::Options;

/// An open begins again so often, at most, because its directory went away under it.
const ATTEMPTS: usize = 100;

/// Opens the store at a path.
///
/// # Errors
///
/// See [`Options::open`].
pub(super) fn open(options: &Options, path: &Path) -> Result<Store> {
    let mut left = ATTEMPTS;
    loop {
        let dir = Arc::new(RealDir::new(path).map_err(|error| Error::io("find", path, error))?);
        let opened = options.clone().open_in(Arc::clone(&dir) as Arc<dyn Dir>);
        left -= 1;
        // Another process removed the directory between two steps of this: then there is another one by now, or none.
        let is_gone = || matches!(dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced));
        if opened.is_ok() || left == 0 || !is_gone() {
            return opened;
        }
    }
}
