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

use super::block_error::BlockError;
use super::bucket::{Bucket, SLOTS};
use super::{Index, bits_of, bucket_of};
use crate::mem::line_array::Line;
use crate::mem::location::Location;
use crate::sync::{Ordering, fence, spin_loop};

/// The progress of a scan: a position in the order of bit-reversed hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor(u64);

impl Cursor {
    /// The position before all entries.
    pub(crate) const START: Self = Self(0);

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
            let buckets = shape.buckets();
            let number = bucket_of(hash, buckets);
            let bits = bits_of(number, buckets);
            if self.is_partial() {
                self.ensure_searchable(number)?;
            }
            if self.take_bucket(number, buckets, cursor, out) {
                // Relaxed: ordered by the fence in `take_bucket`.
                let now = self.shape(Ordering::Relaxed);
                if !shape.was_merged(now) && bits_of(number, now.buckets()) == bits {
                    let end = (cursor.0 | ((1 << (known - bits)) - 1)) + 1;
                    return Ok((end < 1 << known).then_some(Cursor(end)));
                }
            }
            out.truncate(kept);
            spin_loop();
        }
    }

    /// Appends the locations of a bucket from a cursor on; returns false if the bucket moved
    /// meanwhile.
    fn take_bucket(&self, number: u64, buckets: u64, from: Cursor, out: &mut Vec<Location>) -> bool {
        let start = out.len();
        let head = self.heads.line(number);
        let control = head.control();
        let mut take = |line: &Line| {
            for slot in 0..SLOTS {
                let entry = line.entry(slot);
                // Checked first, because most slots of a small index are empty.
                let Some(location) = entry.location() else { continue };
                let hash = self.hash_of(entry, number);
                // Leavers of a split in progress belong to the sibling already (X3). Entries before
                // the cursor were taken from a bucket that was merged into this one.
                if bucket_of(hash, buckets) == number && self.order(hash) >= from.0 {
                    out.push(location);
                }
            }
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
