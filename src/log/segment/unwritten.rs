//! Pages that were faulted and can no longer be written to, or read.
//!
//! A copy of the file that shares its blocks (a reflink, a file-system snapshot) undoes the
//! guarantee of `extend`: the next store into a page needs a new block. On a full disk there is
//! none, and the mapping's guard catches the signal (`mapping`). This module finds the cause, and
//! its consequence for a sync.

use super::{Segment, to_usize};
use crate::error::{Error, Result};
use crate::log::segment_file::check_identity;

impl Segment {
    /// Makes the faulted pages writable again, because they may no longer be.
    ///
    /// # Errors
    ///
    /// The errors of [`Segment::extend`].
    pub(crate) fn make_ready_again(&self) -> Result<()> {
        let len = to_usize(self.ready());
        self.mapping.populate_write(0, len).map_err(|error| self.no_page(0, len as u64, error))
    }

    /// Returns the reason why bytes stored from `offset` to `end` did not reach the file. Nothing
    /// is published there.
    #[cold]
    pub(crate) fn unwritten(&self, offset: u64, end: u64) -> Error {
        let Some((file, opened)) = self.file.lock().clone() else { return self.mapping.unreadable(offset) };
        if let Err(error) = check_identity(file.as_ref(), &opened, &self.path) {
            return error;
        }
        let Some(page) = self.mapping.unwritten_in(offset, end) else {
            return self.mapping.unreadable(offset);
        };
        // The operating system gives the reason when asked to write the zeros that are there.
        let needed = end - offset;
        match file.write_at(&[0; 8], page.max(offset)).map_err(|error| self.io("write", error)) {
            // There is space by now.
            Ok(()) => Error::NoSpace { path: self.path.clone(), needed, source: None },
            Err(Error::NoSpace { path, source, .. }) => Error::NoSpace { path, needed, source },
            Err(other) => other,
        }
    }

    /// Refuses a range with an unreadable page: nothing proves that it holds the published bytes.
    pub(crate) fn check_readable(&self, from: u64, to: u64) -> Result<()> {
        match self.mapping.replaced_in(from, to) {
            Some(offset) => Err(self.mapping.unreadable(offset)),
            None => Ok(()),
        }
    }

    /// Syncs the file's own pages behind private copies, which the sync of the mapping leaves out.
    ///
    /// The kernel no longer counts them as part of the mapping. Records published there earlier are
    /// in them.
    pub(super) fn sync_behind_copies(&self) -> Result<()> {
        match self.file().filter(|_| self.mapping.is_unwritten()) {
            Some(file) => file.sync().map_err(|error| self.io("sync", error)),
            None => Ok(()),
        }
    }
}
