//! Rows of lines, of which an index is made: their memory, their capture for a checkpoint, and their
//! loading from one on demand.
//!
//! A hash index has a row of buckets and one of overflow lines, a tree one of leaves and one of inner
//! nodes. This module does not interpret the words of a line.

pub(in crate::index) mod bitset;
pub(crate) mod block_error;
pub(crate) mod capture;
pub(crate) mod chunked;
pub(crate) mod collapsed;
pub(crate) mod lazy;

#[cfg(all(test, not(loom)))]
pub(in crate::index) mod test_file;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::chunked::ChunkedLines;
use self::lazy::LazyLoader;
use crate::format::checkpoint::IndexTable;
use crate::mem::line_array::LINE_WORDS;
use crate::sync::AtomicU64;

/// One of the two rows of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// Buckets, or leaves.
    First = 0,
    /// Overflow lines, or inner nodes.
    Second = 1,
}

/// An index whose lines can be captured, and loaded from a checkpoint.
pub(crate) trait IndexLines: fmt::Debug + Send + Sync {
    /// Returns the shape; it is exact while the writer makes no change.
    fn table(&self) -> IndexTable;

    /// Returns a row.
    fn row(&self, row: Row) -> &ChunkedLines;

    /// Clears the bits of a line's words that a checkpoint does not hold: versions, and the marks of
    /// verified records. The words may be of two moments.
    fn clear_unsaved_bits(&self, row: Row, line: u64, words: &mut [u64; LINE_WORDS]);

    /// Returns the count of the bytes that a capture takes.
    fn captured(&self) -> &AtomicU64;

    /// Returns the loader of an index from a checkpoint.
    fn loader(&self) -> Option<&LazyLoader>;

    /// Returns the word that is not zero while a search may fail; see [`lazy`].
    fn flags(&self) -> &AtomicU64;

    /// Returns the path of the store, if it is known, for the message of an index that has no loader.
    fn path(&self) -> Arc<Path>;
}
