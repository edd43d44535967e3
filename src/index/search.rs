//! The search of an index: one interface for its readers and its writer.

use super::hash::block_error::BlockError;
use super::hash::{Index, IndexWriter};
use crate::format::hash::Hash;
use crate::mem::location::Location;

/// An index that can be searched.
pub(crate) trait IndexSearch {
    /// Finds the entry of a hash whose record `matches` accepts.
    ///
    /// `matches` is called for entries that probably are of the hash, possibly twice for one entry.
    /// Its error, or an unreadable block of a checkpoint, ends the search.
    fn find<E: From<BlockError>>(
        &self,
        hash: Hash,
        matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E>;
}

/// Searches beside the writer.
impl IndexSearch for Index {
    #[inline]
    fn find<E: From<BlockError>>(
        &self,
        hash: Hash,
        matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        self.find(hash, matches)
    }
}

/// Searches under the writer mutex, while nothing moves.
impl IndexSearch for IndexWriter {
    #[inline]
    fn find<E: From<BlockError>>(
        &self,
        hash: Hash,
        matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        self.find(hash, matches)
    }
}
