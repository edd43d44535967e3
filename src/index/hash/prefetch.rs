//! Prefetching of lines, so that several loads overlap.
//!
//! All of it is for speed only, and nothing here waits.

use super::bucket::Bucket;
use super::{Index, bucket_of, split_source};
use crate::format::hash::Hash;
use crate::mem::address_space::prefetch;
use crate::mem::line_array::Line;
use crate::sync::Ordering;

/// The number of splits between the stages of a prefetch: of the bucket, of its next line, and then
/// the split.
const SPLITS_AHEAD: u64 = 3;

impl Index {
    /// Prefetches the line that a search for this hash loads first.
    #[inline]
    pub(crate) fn prefetch(&self, hash: Hash) {
        // Acquire: pairs with the release store of N in a split, for the chunk that holds the line.
        let buckets = self.shape(Ordering::Acquire).buckets();
        let head = self.heads.line(bucket_of(hash.to_bits(), buckets));
        start(head);
    }

    /// Prefetches a bucket's head.
    #[inline]
    pub(super) fn prefetch_head(&self, bucket: u64) {
        start(self.heads.line(bucket));
    }

    /// Prefetches the line that such a search loads next, if it does not match in the first.
    #[inline]
    pub(crate) fn prefetch_next(&self, hash: Hash) {
        // Acquire: as in `prefetch`.
        let buckets = self.shape(Ordering::Acquire).buckets();
        self.prefetch_link(bucket_of(hash.to_bits(), buckets));
    }

    /// Prefetches a bucket's first overflow line.
    #[inline]
    pub(super) fn prefetch_link(&self, bucket: u64) {
        if let Some(link) = self.heads.line(bucket).control().link() {
            start(self.overflow.line(link.line()));
        }
    }

    /// Prefetches the lines of the next splits, which take the buckets in order.
    #[inline]
    pub(super) fn prefetch_splits(&self, buckets: u64) {
        let [next, later] = [1, 2].map(|times| split_source(buckets + times * SPLITS_AHEAD));
        // A small index does not have these buckets yet.
        if next < buckets && later < buckets {
            start(self.heads.line(later));
            self.prefetch_link(next);
        }
    }

    /// Prefetches the lines of the next merges, the first of which takes the bucket of this number.
    #[inline]
    pub(super) fn prefetch_merges(&self, number: u64) {
        if let Some(later) = number.checked_sub(2 * SPLITS_AHEAD).filter(|later| *later > 0) {
            start(self.heads.line(later));
            start(self.heads.line(split_source(later)));
        }
    }
}

fn start(line: &Line) {
    prefetch(std::ptr::from_ref(line).cast());
}
