//! Asking for lines before they are looked at, so that several are on their way at once.
//!
//! Nothing here is needed for anything but speed, and nothing waits.

use super::bucket::Bucket;
use super::{Index, bucket_of, split_source};
use crate::format::hash::Hash;
use crate::mem::address_space::prefetch;
use crate::mem::cache_lines::Line;
use crate::sync::Ordering;

/// How many splits lie between what is asked of the memory for one of them: its bucket, its next line, and then its turn.
const SPLITS_AHEAD: u64 = 3;

impl Index {
    /// Starts the load of the line that a search for this hash will look at first.
    #[inline]
    pub(crate) fn prefetch(&self, hash: Hash) {
        // Acquire: pairs with the release store of N in a split, for the chunk that the line lies in.
        let buckets = self.shape(Ordering::Acquire).buckets();
        let head = self.heads.line(bucket_of(hash.to_bits(), buckets));
        start(head);
    }

    /// Starts the load of the line that such a search looks at next, if it does not find what it looks for in the first.
    #[inline]
    pub(crate) fn prefetch_next(&self, hash: Hash) {
        // Acquire: as in `prefetch`.
        let buckets = self.shape(Ordering::Acquire).buckets();
        self.prefetch_link(bucket_of(hash.to_bits(), buckets));
    }

    /// Starts the load of a bucket's first overflow line.
    #[inline]
    fn prefetch_link(&self, bucket: u64) {
        if let Some(link) = self.heads.line(bucket).control().link() {
            start(self.overflow.line(link.line()));
        }
    }

    /// Starts the loads of what the splits to come will look at: they go through the buckets in order.
    #[inline]
    pub(super) fn prefetch_splits(&self, buckets: u64) {
        let [next, later] = [1, 2].map(|times| split_source(buckets + times * SPLITS_AHEAD));
        // A small index does not have them yet.
        if next < buckets && later < buckets {
            start(self.heads.line(later));
            self.prefetch_link(next);
        }
    }

    /// The same for the merges to come, of which the next one takes the bucket of this number.
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
