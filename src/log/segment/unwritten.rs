//! Pages that were made ready and cannot be written to all the same, or not be read any more.
//!
//! A copy of the file that shares its blocks (a reflink, a snapshot of the file system) takes back what `extend` has
//! made sure of: the next store into a page needs a new block. On a full disk there is none, and the guard of the mapping
//! catches the signal (`mapping`). Here is said why, and what that means for a sync.

use super::{Segment, to_usize};
use crate::error::{Error, Result};
use crate::log::segment_file::check_identity;

impl Segment {
    /// Makes the pages that are ready writable once more, because they may not be any more.
    ///
    /// # Errors
    ///
    /// As [`Segment::extend`].
    pub(crate) fn make_ready_again(&self) -> Result<()> {
        let len = to_usize(self.ready());
        self.mapping.populate_write(0, len).map_err(|error| self.no_page(0, len as u64, error))
    }

    /// Why bytes that were stored from `offset` to `end` did not reach the file; nothing is published there.
    #[cold]
    pub(crate) fn unwritten(&self, offset: u64, end: u64) -> Error {
        let Some((file, opened)) = self.file.lock().clone() else { return self.mapping.unreadable(offset) };
        if let Err(error) = check_identity(file.as_ref(), &opened, &self.path) {
            return error;
        }
        let Some(page) = self.mapping.unwritten_in(offset, end) else {
            return self.mapping.unreadable(offset);
        };
        // The operating system says why, if it is asked to write the zeros that are there.
        let needed = end - offset;
        match file.write_at(&[0; 8], page.max(offset)).map_err(|error| self.io("write", error)) {
            // There is room by now.
            Ok(()) => Error::NoSpace { path: self.path.clone(), needed, source: None },
            Err(Error::NoSpace { path, source, .. }) => Error::NoSpace { path, needed, source },
            Err(other) => other,
        }
    }

    /// Refuses a range of which a page cannot be read any more, for then nothing says that it holds what was published there.
    pub(super) fn check_readable(&self, from: u64, to: u64) -> Result<()> {
        match self.mapping.replaced_in(from, to) {
            Some(offset) => Err(self.mapping.unreadable(offset)),
            None => Ok(()),
        }
    }

    /// Syncs what the sync of the mapping leaves out: the file's own pages behind copies, which the kernel does not count as
    /// part of the mapping any more. What was published there before is in them.
    pub(super) fn sync_behind_copies(&self) -> Result<()> {
        match self.file().filter(|_| self.mapping.is_unwritten()) {
            Some(file) => file.sync().map_err(|error| self.io("sync", error)),
            None => Ok(()),
        }
    }
}
