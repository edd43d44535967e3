//! How large the next segment may be: the schedule of sizes, and the limit on what all segments take.
//!
//! It decides about numbers only; `allocator` makes the segments.
//!
//! **Concurrency.** Segments come under `allocator`'s lock; a writer that looks meanwhile without it sees the sum from
//! before or after, and neither is beyond the limit by an insertion.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::mem::mapping::PAGE_SIZE;

/// The smallest file there is, in bytes.
const PAGE: u64 = PAGE_SIZE as u64;

/// The least size of the second segment, in bytes: a store that fills fast waits for few small ones.
const SECOND: u64 = 256 << 10;

/// After an open the schedule goes on where a segment is one part in so many of the store.
const STORE_SHARE: u64 = 16;

/// What room is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpaceClass {
    /// A frame that holds an insertion: it gets no room beyond the limit.
    Insertion,
    /// A frame of removals only: it always gets room, or nothing could ever be removed from a full store.
    Removal,
    /// As before, where no pass of compaction can make room: what is kept for passes too.
    Last,
    /// Nothing yet: a segment made before it is needed.
    Ahead,
}

impl SpaceClass {
    /// The room that a write wants which only removes, or not.
    pub(crate) fn of(removes: bool) -> Self {
        if removes { Self::Removal } else { Self::Insertion }
    }

    /// True for a write that only removes.
    pub(crate) fn removes(self) -> bool {
        matches!(self, Self::Removal | Self::Last)
    }

    /// Gives a removal the last room there is, because no pass could make any. True if there was more to hope for.
    pub(crate) fn escalate(&mut self) -> bool {
        let hopes = *self == Self::Removal;
        if hopes {
            *self = Self::Last;
        }
        hopes
    }
}

/// How much the segments may take, and do.
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
    /// What the config allow to a store whose segments take `used` bytes.
    pub(crate) fn new(config: &Config, used: u64) -> Self {
        Self {
            limit: config.max_disk_bytes.unwrap_or(u64::MAX),
            segment_bytes: config.segment_bytes,
            smallest: config.smallest_segment(),
            used: AtomicU64::new(used),
            held: AtomicU64::new(0),
        }
    }

    /// Takes note of how much all segments take now.
    pub(crate) fn set_used(&self, bytes: u64) {
        // Relaxed: see the module's documentation.
        self.used.store(bytes, Ordering::Relaxed);
    }

    /// How much all segments take.
    pub(crate) fn used(&self) -> u64 {
        // Relaxed: see the module's documentation.
        self.used.load(Ordering::Relaxed)
    }

    /// True where there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit < u64::MAX
    }

    /// Takes note of the bytes of removed files that views, values or snapshots still hold.
    pub(crate) fn set_held(&self, bytes: u64) {
        // Relaxed: see the module's documentation.
        self.held.store(bytes, Ordering::Relaxed);
    }

    /// How much counts against the limit.
    #[inline]
    pub(crate) fn counted(&self) -> u64 {
        // Relaxed: see the module's documentation.
        self.used().saturating_add(self.held.load(Ordering::Relaxed))
    }

    /// Bytes in whole pages that may still be taken.
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.counted()) / PAGE * PAGE
    }

    /// Refuses insertions while more is used than allowed, also where the active segment has room.
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

    /// The error of an insertion that needs so many bytes more than there is room for.
    #[cold]
    pub(crate) fn refusal(&self, needed: u64) -> Error {
        // Relaxed: see the module's documentation.
        let held = self.held.load(Ordering::Relaxed);
        Error::DiskLimit { limit: self.limit, used: self.used().saturating_add(held), held, needed }
    }

    /// The size of the segment after one of `size` bytes.
    pub(crate) fn after(&self, size: u64) -> u64 {
        size.saturating_mul(4).max(SECOND).min(self.segment_bytes)
    }

    /// The size that goes with what the store has: there are few segments of a size, whatever it was opened with last.
    pub(crate) fn for_store(&self) -> u64 {
        let share = self.used() / STORE_SHARE;
        if share < SECOND { 0 } else { (1 << share.ilog2()).min(self.segment_bytes) }
    }

    /// The size that the schedule ends with.
    pub(crate) fn most(&self) -> u64 {
        self.segment_bytes
    }

    /// The size that the schedule begins with.
    pub(crate) fn least(&self) -> u64 {
        self.smallest
    }

    /// The size of the first segment after an open, in bytes. Where there is no room a store opens all the same, on one
    /// page: otherwise nothing could be read from it, or removed.
    pub(crate) fn first(&self) -> u64 {
        self.smallest.min(self.room()).max(PAGE)
    }

    /// The size of the segment to be made, which takes at least `least` bytes: `usual` where that is enough and there is
    /// room for it, or all the room that is left. `None` where a segment ahead would be beyond the limit.
    ///
    /// # Errors
    ///
    /// `DiskLimit` where an insertion needs more than there is room for.
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
    fn without_a_limit_sizes_follow_the_schedule_and_the_need() {
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
    fn near_the_limit_a_segment_takes_what_is_left() {
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
    fn the_first_segment_takes_what_is_left_too() {
        assert_eq!(allowance(1000 * K + 2048, 988 * K).first(), 12 * K);
        assert_eq!(allowance(1000 * K, 999 * K).first(), 4 * K);
    }

    #[test]
    fn beyond_the_limit_there_is_room_for_removals_only() {
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
