//! Scans over all entries of an index that changes meanwhile.
//!
//! **Concurrency.** A scan visits buckets in the order of their numbers with the bits reversed
//! (Redis's `SCAN`, Pieter Noordhuis 2010, found this order). In this order a bucket stands for a
//! range of hashes. A split cuts that range into two neighbouring halves, and a merge joins two. A
//! cursor is the end of a bucket's range: everything before it was seen, and nothing behind it. It
//! is a border between buckets, or lies inside a bucket that was merged. In the latter case the
//! entries before it are skipped, by the hash bits that an entry has. Each step takes one bucket,
//! by the rules of a search that misses, and discards its entries if the bucket moved meanwhile.
//!
//! A key that is in the index throughout is returned exactly once, with a location that it had,
//! even if its location is replaced many times. A key that is inserted or removed meanwhile is
//! returned once or not at all.

use std::ops::Range;

use super::bucket::{Bucket, IndexEntry, SLOTS};
use super::{Index, bits_of, bucket_of};
use crate::index::lines::block_error::BlockError;
use crate::mem::line_array::Line;
use crate::mem::location::Location;
use crate::sync::{Ordering, fence, spin_loop};

/// The number of buckets between a prefetch and the read of the bucket: at about five entries each,
/// enough to hide a load from memory.
const HEADS_AHEAD: u64 = 8;

/// The progress of a scan: a position in the order of bit-reversed hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor(u64);

impl Cursor {
    /// The position before all entries.
    #[cfg(test)]
    pub(crate) const START: Self = Self(0);

    /// Returns the position of this number, which [`Cursor::order`] returned; zero is before all
    /// entries.
    pub(crate) fn at(order: u64) -> Self {
        Self(order)
    }

    /// Returns the position in the order of a scan, see [`Index::order_of`].
    pub(crate) fn order(self) -> u64 {
        self.0
    }
}

impl Index {
    /// Appends the locations in the bucket at a cursor; returns the cursor of the next bucket, or
    /// `None` after the last.
    ///
    /// # Errors
    ///
    /// Returns an error if the bucket is in an unreadable block of a checkpoint; nothing was
    /// appended then.
    pub(crate) fn scan(&self, cursor: Cursor, out: &mut Vec<Location>) -> Result<Option<Cursor>, BlockError> {
        let kept = out.len();
        let known = self.known_bits();
        let hash = cursor.0.reverse_bits() >> (u64::BITS - known);
        loop {
            // Acquire: pairs with the release store of N in a split; bucket N and its memory exist.
            let shape = self.shape(Ordering::Acquire);
            let number = bucket_of(hash, shape.buckets());
            let bits = bits_of(number, shape.buckets());
            let end = (cursor.0 | ((1 << (known - bits)) - 1)) + 1;
            if self.is_partial() {
                self.ensure_searchable(number)?;
            } else if shape.buckets() > 1 << self.base_bits {
                // A smaller index is in the cache.
                self.prefetch_after(&(cursor.0..end), shape.buckets());
            }
            if self.take_bucket(number, bits, cursor, out) {
                // Relaxed: ordered by the fence in `take_bucket`.
                let now = self.shape(Ordering::Relaxed);
                if !shape.was_merged(now) && bits_of(number, now.buckets()) == bits {
                    return Ok((end < 1 << known).then_some(Cursor(end)));
                }
            }
            out.truncate(kept);
            spin_loop();
        }
    }

    /// Prefetches what a scan reads [`HEADS_AHEAD`] buckets after those of a range: their heads, and
    /// half as many buckets after it the first overflow lines.
    #[inline]
    fn prefetch_after(&self, range: &Range<u64>, buckets: u64) {
        let known = self.known_bits();
        // Of two buckets that a split made, each stands for half as much as one that was not split.
        let half = 1 << known.saturating_sub(buckets.ilog2() + 1);
        let each = |ahead: u64, prefetch: fn(&Self, u64)| {
            let end = (range.end + ahead * half).min(1 << known);
            let mut at = range.start + ahead * half;
            while at < end {
                prefetch(self, bucket_of(at.reverse_bits() >> (u64::BITS - known), buckets));
                at += half;
            }
        };
        each(HEADS_AHEAD * 2, Self::prefetch_head);
        each(HEADS_AHEAD, Self::prefetch_link);
    }

    /// Appends the locations of a bucket from a cursor on; returns false if the bucket moved
    /// meanwhile. `bits` hash bits decide what belongs to it.
    fn take_bucket(&self, number: u64, bits: u32, from: Cursor, out: &mut Vec<Location>) -> bool {
        let start = out.len();
        let head = self.heads.line(number);
        let control = head.control();
        let range = (1 << (self.known_bits() - bits)) - 1;
        let begins_inside = from.0 & range != 0;
        let mut take = |line: &Line| {
            let entries: [IndexEntry; SLOTS] = std::array::from_fn(|slot| line.entry(slot));
            // Most lines of a small index are empty.
            if entries.iter().fold(true, |none, entry| none & entry.is_empty()) {
                return;
            }
            // Without a branch per slot, as in `slots_where`.
            let mut taken = [0; SLOTS];
            let mut count = 0;
            for entry in entries {
                let hash = self.hash_of(entry, number);
                // Leavers of a split in progress belong to the sibling already (X3).
                let mut belongs = !entry.is_empty() & (hash & ((1 << bits) - 1) == number);
                // Entries before the cursor were taken from a bucket that was merged into this one.
                if begins_inside {
                    belongs &= self.order(hash) >= from.0;
                }
                taken[count] = entry.location_bits();
                count += usize::from(belongs);
            }
            out.extend(taken[..count].iter().map(|bits| Location::from_bits(*bits)));
        };
        take(head);
        let mut link = control.link();
        while let Some(next) = link {
            let line = self.overflow.line(next.line());
            take(line);
            // As in `find`: at every line, so that a chain cannot become a circle. Acquire: pairs
            // with the release of every entry that was loaded.
            fence(Ordering::Acquire);
            if head.control_unordered() != control {
                return false;
            }
            link = line.control().link();
        }
        // Acquire: as above.
        fence(Ordering::Acquire);
        if control.link().is_some() {
            // A move inside the chain is visible in both places for a moment (X5), before the
            // version changes.
            out[start..].sort_unstable();
            let mut last = None;
            let mut kept = start;
            for at in start..out.len() {
                if last.replace(out[at]) != Some(out[at]) {
                    out[kept] = out[at];
                    kept += 1;
                }
            }
            out.truncate(kept);
        }
        head.control_unordered() == control
    }
}
