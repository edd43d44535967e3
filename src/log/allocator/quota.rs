//! The quota: the size schedule of segments, and the limit on their total size.
//!
//! It only decides about numbers. `allocator` makes the segments.
//!
//! **Concurrency.** Segments are added under `allocator`'s lock. A writer that checks without it
//! sees the total before or after. Neither lets an insertion exceed the limit.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::mem::PAGE_SIZE;

/// The smallest possible file, in bytes.
const PAGE: u64 = PAGE_SIZE as u64;

/// The least size of the second segment, in bytes: a store that fills fast waits for few small
/// ones.
const SECOND: u64 = 256 << 10;

/// After an open, the schedule continues at one part in this many of the store.
const STORE_SHARE: u64 = 16;

/// The purpose that space is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpaceClass {
    /// A write that holds an insertion: it gets no space beyond the limit.
    Insertion,
    /// A write of removals only: it always gets space, or a full store could never be emptied.
    Removal,
    /// A removal, once no pass of compaction can free space: it may use the space kept for
    /// passes, too.
    Last,
    /// No write yet: a segment made before it is needed.
    Ahead,
}

impl SpaceClass {
    /// Returns the class of a write, by whether it only removes.
    pub(crate) fn of(removes: bool) -> Self {
        if removes { Self::Removal } else { Self::Insertion }
    }

    /// Returns true for a write that only removes.
    pub(crate) fn removes(self) -> bool {
        matches!(self, Self::Removal | Self::Last)
    }

    /// Gives a removal the last space, because no pass could free any. Returns true if it had not
    /// got it yet.
    pub(crate) fn escalate(&mut self) -> bool {
        let hopes = *self == Self::Removal;
        if hopes {
            *self = Self::Last;
        }
        hopes
    }
}

/// The bytes that the segments may take, and take.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: u64,
    segment_bytes: u64,
    smallest: u64,
    used: AtomicU64,
    /// Bytes of removed files that views, values or snapshots still hold.
    held: AtomicU64,
}

impl Quota {
    /// Returns the quota that the configuration allows to a store with `used` bytes of segments.
    pub(crate) fn new(config: &Config, used: u64) -> Self {
        Self {
            limit: config.max_disk_bytes.unwrap_or(u64::MAX),
            segment_bytes: config.segment_bytes,
            smallest: config.smallest_segment(),
            used: AtomicU64::new(used),
            held: AtomicU64::new(0),
        }
    }

    /// Sets the total bytes of all segments.
    pub(crate) fn set_used(&self, bytes: u64) {
        // Relaxed: see the module's documentation.
        self.used.store(bytes, Ordering::Relaxed);
    }

    /// Returns the total bytes of all segments.
    pub(crate) fn used(&self) -> u64 {
        // Relaxed: see the module's documentation.
        self.used.load(Ordering::Relaxed)
    }

    /// Returns true if there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit < u64::MAX
    }

    /// Sets the bytes of removed files that views, values or snapshots still hold.
    pub(crate) fn set_held(&self, bytes: u64) {
        // Relaxed: see the module's documentation.
        self.held.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that count against the limit.
    #[inline]
    pub(crate) fn counted(&self) -> u64 {
        // Relaxed: see the module's documentation.
        self.used().saturating_add(self.held.load(Ordering::Relaxed))
    }

    /// Returns the bytes in whole pages that may still be taken.
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.counted()) / PAGE * PAGE
    }

    /// Refuses insertions while more than the limit is used, even if the active segment has space.
    ///
    /// # Errors
    ///
    /// `DiskLimit`.
    #[inline]
    pub(crate) fn check(&self, want: SpaceClass, least: impl FnOnce() -> u64) -> Result<()> {
        if want == SpaceClass::Insertion && self.counted() > self.limit {
            Err(self.refusal(least()))
        } else {
            Ok(())
        }
    }

    /// Returns the error of an insertion that needs `needed` bytes more than there is space for.
    #[cold]
    pub(crate) fn refusal(&self, needed: u64) -> Error {
        // Relaxed: see the module's documentation.
        let held = self.held.load(Ordering::Relaxed);
        Error::DiskLimit { limit: self.limit, used: self.used().saturating_add(held), held, needed }
    }

    /// Returns the size of the segment after one of `size` bytes.
    pub(crate) fn after(&self, size: u64) -> u64 {
        size.saturating_mul(4).max(SECOND).min(self.segment_bytes).max(self.for_store())
    }

    /// Returns the size that suits the store's total, so that few segments have one size, however
    /// the store was opened last.
    fn for_store(&self) -> u64 {
        let share = self.used() / STORE_SHARE;
        if share < SECOND { 0 } else { (1 << share.ilog2()).min(self.segment_bytes) }
    }

    /// Returns the last size of the schedule.
    pub(crate) fn most(&self) -> u64 {
        self.segment_bytes
    }

    /// Returns the first size of the schedule.
    pub(crate) fn least(&self) -> u64 {
        self.smallest
    }

    /// Returns the size of the first segment after an open, in bytes.
    ///
    /// Without space a store still opens, on one page. Otherwise its data could be neither read nor
    /// removed.
    pub(crate) fn first(&self) -> u64 {
        self.smallest.min(self.room()).max(PAGE)
    }

    /// Returns the size of the next segment, with at least `least` bytes.
    ///
    /// It is `usual` if that suffices and fits, or all the space that is left. `None` if a segment
    /// made ahead would exceed the limit.
    ///
    /// # Errors
    ///
    /// `DiskLimit` if an insertion needs more space than is left.
    pub(crate) fn size(&self, want: SpaceClass, usual: u64, least: u64) -> Result<Option<u64>> {
        let room = self.room();
        let size = usual.max(least).min(room.max(least));
        if size <= room {
            return Ok(Some(size));
        }
        match want {
            SpaceClass::Ahead => Ok(None),
            SpaceClass::Insertion => Err(self.refusal(least)),
            SpaceClass::Removal | SpaceClass::Last => Ok(Some(least.max(self.smallest))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(limit: u64, used: u64) -> Quota {
        Quota::new(&Config { max_disk_bytes: Some(limit), ..Config::default() }, used)
    }

    const K: u64 = 1 << 10;

    #[test]
    fn sizes_follow_schedule_and_need_without_a_limit() {
        let allowance = Quota::new(&Config::default(), 0);
        assert_eq!(allowance.first(), 16 * K);
        assert_eq!(allowance.after(4 * K), 256 * K);
        assert_eq!(allowance.after(16 * K), 256 * K);
        assert_eq!(allowance.after(256 * K), 1024 * K);
        assert_eq!(allowance.after(64 * K * K), 64 * K * K);
        assert_eq!(allowance.size(SpaceClass::Ahead, 64 * K, 4 * K).unwrap(), Some(64 * K));
        assert_eq!(allowance.size(SpaceClass::Insertion, 64 * K, 68 * K).unwrap(), Some(68 * K));
        assert_eq!(allowance.size(SpaceClass::Removal, 64 * K, 4 * K).unwrap(), Some(64 * K));
    }

    #[test]
    fn the_schedule_goes_on_where_the_size_of_the_store_has_it() {
        for (used, size) in
            [(0, 0), (4000 * K, 0), (4096 * K, 256 * K), (100 << 20, 4 << 20), (1 << 40, 64 << 20)]
        {
            assert_eq!(Quota::new(&Config::default(), used).for_store(), size, "{used}");
        }
    }

    #[test]
    fn segment_takes_the_remaining_space_near_the_limit() {
        // Half a page more than whole ones.
        let allowance = allowance(1000 * K + 2048, 900 * K);
        assert_eq!(allowance.first(), 16 * K);
        for want in [SpaceClass::Ahead, SpaceClass::Insertion, SpaceClass::Removal] {
            assert_eq!(allowance.size(want, 64 * K, 4 * K).unwrap(), Some(64 * K));
            assert_eq!(allowance.size(want, 256 * K, 4 * K).unwrap(), Some(100 * K));
            assert_eq!(allowance.size(want, 64 * K, 100 * K).unwrap(), Some(100 * K));
            allowance.check(want, || 0).unwrap();
        }
        assert_eq!(allowance.size(SpaceClass::Ahead, 64 * K, 104 * K).unwrap(), None);
        assert_eq!(allowance.size(SpaceClass::Removal, 64 * K, 104 * K).unwrap(), Some(104 * K));
        let refused = allowance.size(SpaceClass::Insertion, 64 * K, 104 * K).unwrap_err();
        let (limit, used, needed) = (1000 * K + 2048, 900 * K, 104 * K);
        assert_eq!(refused.to_string(), Error::DiskLimit { limit, used, held: 0, needed }.to_string());
    }

    #[test]
    fn first_segment_takes_the_remaining_space_near_the_limit() {
        assert_eq!(allowance(1000 * K + 2048, 988 * K).first(), 12 * K);
        assert_eq!(allowance(1000 * K, 999 * K).first(), 4 * K);
    }

    #[test]
    fn quota_allows_only_removals_beyond_the_limit() {
        let allowance = allowance(1000 * K, 1004 * K);
        assert_eq!(allowance.first(), 4 * K);
        assert_eq!(allowance.size(SpaceClass::Ahead, 64 * K, 4 * K).unwrap(), None);
        assert_eq!(allowance.size(SpaceClass::Removal, 1024 * K, 4 * K).unwrap(), Some(16 * K));
        assert_eq!(allowance.size(SpaceClass::Last, 1024 * K, 4 * K).unwrap(), Some(16 * K));
        assert_eq!(allowance.size(SpaceClass::Removal, 1024 * K, 400 * K).unwrap(), Some(400 * K));
        allowance.size(SpaceClass::Insertion, 64 * K, 4 * K).unwrap_err();
        allowance.check(SpaceClass::Insertion, || 4 * K).unwrap_err();
        allowance.check(SpaceClass::Removal, || 4 * K).unwrap();
        allowance.set_used(1000 * K);
        allowance.check(SpaceClass::Insertion, || 4 * K).unwrap();
    }
}
