//! Parts of an index that wait for records of the log: those that an open took from hints instead of
//! reading them.
//!
//! A part is all keys whose hashes have the same low bits, so it is a set of whole buckets at every
//! size of an index. All indexes of a store share one [`WaitingParts`]. Recovery makes it; the
//! engine puts the records of a part into the indexes, and says so here.
//!
//! **Concurrency.** A search of a part that waits fails with an error that names the part, before it looks at
//! any line. The holder of the writer mutex changes the indexes as any write does, and then clears
//! the bit (release). A search that finds it clear (acquire) sees those changes.
//!
//! Entries of a checkpoint that lead to segments that are gone are removed with the part (`purge`).

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::writer::LOAD_TIMES_TEN;
use super::{BASE_BITS, Index, IndexWriter, OVERFLOW_BASE_BITS};
use crate::format::checkpoint::{IndexKind, IndexTable};
use crate::format::hint::PARTS;
use crate::index::lines::block_error::{BlockError, Why};
use crate::mem::gone_ranges::GoneRanges;
use crate::sync::{AtomicU64, Ordering};

/// A bit of [`IndexHead::partial`](super::IndexHead): parts wait for records.
const PARTS_WAIT: u64 = 4;
/// The most buckets that an empty index begins with: 1 GiB of address space.
const SIZED_MAX: u64 = 1 << 24;

/// The parts that wait.
pub(crate) struct WaitingParts {
    words: Box<[AtomicU64]>,
    /// The segments that are gone. Entries that lead there are removed before the records of a part count.
    gone: Arc<GoneRanges>,
    /// The store's path, for messages.
    path: Arc<Path>,
}

impl std::fmt::Debug for WaitingParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitingParts").field("left", &self.left()).finish_non_exhaustive()
    }
}

impl WaitingParts {
    /// Returns a set of all parts, of the store at `path`.
    pub(crate) fn all(path: &Path, gone: Arc<GoneRanges>) -> Self {
        let words = (0..PARTS / 64).map(|_| AtomicU64::new(u64::MAX)).collect();
        Self { words, gone, path: path.into() }
    }

    /// Returns the ranges of the segments that are gone.
    pub(crate) fn gone(&self) -> &GoneRanges {
        &self.gone
    }

    /// Returns true if a part waits.
    pub(crate) fn waits(&self, part: usize) -> bool {
        // Acquire: pairs with the release in `settle`.
        self.words[part / 64].load(Ordering::Acquire) & (1 << (part % 64)) != 0
    }

    /// Records that the records of a part are in the indexes.
    pub(crate) fn settle(&self, part: usize) {
        // Release: pairs with the acquire in `waits`; the indexes have the records.
        self.words[part / 64].fetch_and(!(1 << (part % 64)), Ordering::Release);
    }

    /// Returns the first part that waits, from `from` on.
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        (from..PARTS).find(|part| self.waits(*part))
    }

    /// Returns the number of parts that wait.
    pub(crate) fn left(&self) -> usize {
        // Relaxed: a count on its own.
        self.words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Returns the error of a search whose part waits.
    fn error(&self, part: usize) -> BlockError {
        BlockError::new(Arc::clone(&self.path), 0, Why::Waits(part))
    }

    /// Returns the store's path.
    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }
}

/// Returns the part that a bucket belongs to.
pub(super) fn part_of_bucket(bucket: u64) -> usize {
    usize::try_from(bucket % PARTS as u64).expect("few bits")
}

impl Index {
    /// Makes an empty index that has its size for `entries` entries already. Its memory is committed
    /// as it is touched.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short.
    pub(crate) fn sized(entries: u64) -> io::Result<(Arc<Self>, IndexWriter)> {
        let buckets = (entries.saturating_mul(10) / LOAD_TIMES_TEN).clamp(1 << BASE_BITS, SIZED_MAX);
        let kind = IndexKind::Hash { base_bits: BASE_BITS };
        let table = IndexTable { kind, entries: 0, lines: [buckets, 0] };
        let index = Arc::new(Self::of_table(table, OVERFLOW_BASE_BITS, None)?);
        Ok((Arc::clone(&index), IndexWriter::new(index)))
    }

    /// True if entries may lead to unverified records: those of an index from a checkpoint or from
    /// hints.
    #[inline]
    pub(crate) fn is_from_checkpoint(&self) -> bool {
        // Relaxed: set before any other thread has the index.
        self.front.0.unverified.load(Ordering::Relaxed)
    }

    /// Refuses a search of a bucket whose part waits, and loads the bucket's chain.
    #[cold]
    pub(super) fn ensure_searchable(&self, bucket: u64) -> Result<(), BlockError> {
        if let Some(parts) = self.waiting.get() {
            let part = part_of_bucket(bucket);
            if self.lacks_parts() && parts.waits(part) {
                // No part of an index that another one has replaced is ever complete.
                self.lines().check_ended()?;
                return Err(parts.error(part));
            }
        }
        self.ensure_loaded(bucket)
    }

    /// True if a part may wait for records.
    pub(crate) fn lacks_parts(&self) -> bool {
        // Relaxed: the bits of the parts decide.
        self.front.0.partial.load(Ordering::Relaxed) & PARTS_WAIT != 0
    }

    /// Ends the waiting, after the last part.
    pub(crate) fn end_waiting(&self) {
        // Release: pairs with the acquire load in `is_partial`; the records are in the index.
        self.front.0.partial.fetch_and(!PARTS_WAIT, Ordering::Release);
    }

    /// True if a block is not loaded (yet, or ever because it is damaged), a part waits for records, or
    /// the index has ended.
    #[inline]
    pub(crate) fn is_partial(&self) -> bool {
        // Acquire: pairs with the releases in `lines::lazy` and `end_waiting`.
        self.front.0.partial.load(Ordering::Acquire) != 0
    }
}

impl IndexWriter {
    /// Makes the index wait for the records of its parts. No other thread has it yet.
    pub(crate) fn wait_for_parts(&mut self, parts: &Arc<WaitingParts>) {
        if self.index.waiting.set(Arc::clone(parts)).is_ok() {
            // Relaxed, both: no other thread has it yet.
            self.index.front.0.partial.fetch_or(PARTS_WAIT, Ordering::Relaxed);
            self.index.front.0.unverified.store(true, Ordering::Relaxed);
            self.watch();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::format::hash::Hash;
    use crate::mem::location::Location;

    fn find(index: &Index, bits: u64) -> Result<Option<Location>, BlockError> {
        index.find(Hash::from_bits(bits), |_| Ok(true))
    }

    #[test]
    fn a_search_fails_while_its_part_waits() {
        let (index, mut writer) = Index::new().expect("memory");
        let parts = Arc::new(WaitingParts::all(Path::new("store"), Arc::default()));
        writer.wait_for_parts(&parts);
        assert!(index.is_partial() && index.is_from_checkpoint());
        let part = |unread: BlockError| unread.waiting_part();
        assert_eq!(find(&index, 5).map_err(part), Err(Some(5)));
        writer.reserve_many(1).expect("memory");
        writer.insert_unverified(Hash::from_bits(5), Location::from_bits(8));
        parts.settle(5);
        assert!(!index.is_verified(Hash::from_bits(5), Location::from_bits(8)));
        assert_eq!(find(&index, 5).map_err(part), Ok(Some(Location::from_bits(8))));
        assert_eq!(find(&index, 5 + PARTS as u64).map_err(part), Ok(None));
        assert_eq!(find(&index, 6).map_err(part), Err(Some(6)));
        assert_eq!(parts.left(), PARTS - 1);
        assert_eq!((parts.next(0), parts.next(5), parts.next(PARTS)), (Some(0), Some(6), None));
        index.end_waiting();
        assert!(!index.is_partial());
    }

    #[test]
    fn a_superseded_index_refuses_every_search() {
        let (index, mut writer) = Index::new().expect("memory");
        let parts = Arc::new(WaitingParts::all(Path::new("store"), Arc::default()));
        writer.wait_for_parts(&parts);
        parts.settle(5);
        index.lines().supersede();
        assert_eq!(find(&index, 5).map_err(|unread| unread.waiting_part()), Err(None));
    }
}
