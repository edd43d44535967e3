//! The allocator of ranges of the address space.
//!
//! It does not know the contents of a range; `address_space` does.

use crate::mem::location::{LOCATION_BITS, Location};

/// Size of one granule in bytes.
pub(super) const GRANULE_SIZE: u64 = 1 << 20;
/// The number of granules in the whole space.
pub(super) const GRANULES: usize = 1 << (LOCATION_BITS + 3 - 20);

/// The range of the address space that one segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GranuleRange {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl GranuleRange {
    /// The range of a mapping that is in no address space.
    pub(crate) const NONE: Self = Self { first: 0, count: 0 };

    /// Returns the range of these granules, as an index checkpoint lists it; `None` if there is no
    /// such range.
    pub(crate) fn from_granules(first: u32, count: u32) -> Option<Self> {
        // Granule zero is never used, because location zero means "no location".
        let (first, count) = (u64::from(first), u64::from(count));
        (first > 0 && count > 0 && first + count <= GRANULES as u64).then_some(Self { first, count })
    }

    /// Returns the first granule and the number of granules.
    pub(crate) fn granules(self) -> (u32, u32) {
        let narrow = |granules| u32::try_from(granules).expect("the space has fewer granules than 2^32");
        (narrow(self.first), narrow(self.count))
    }

    /// Returns the location of the byte at `offset` of the segment.
    pub(crate) fn at(self, offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(8) && offset < self.count * GRANULE_SIZE);
        Location::from_bits((self.first * GRANULE_SIZE + offset) / 8)
    }

    /// Returns the offset in the segment of a location; `None` if the location is outside this
    /// range.
    pub(crate) fn offset_of(self, location: Location) -> Option<u64> {
        let flat = location.to_bits() * 8;
        let start = self.first * GRANULE_SIZE;
        (flat >= start && flat < start + self.count * GRANULE_SIZE).then(|| flat - start)
    }
}

/// The free granules: all from `next` on, and the ranges in `free` below it, no two of which touch.
#[derive(Debug)]
pub(super) struct RangeAllocator {
    granules: u64,
    next: u64,
    free: Vec<GranuleRange>,
}

impl RangeAllocator {
    /// Makes an allocator of all granules but the first: location zero is the index's "empty".
    pub(super) fn of(granules: u64) -> Self {
        Self { granules, next: 1, free: Vec::new() }
    }

    /// Takes a range of `count` granules: the smallest freed one that is long enough, or else a new
    /// one. `None` if the space is full.
    pub(super) fn any(&mut self, count: u64) -> Option<GranuleRange> {
        let fits = |range: &(usize, &GranuleRange)| range.1.count >= count;
        let best = self.free.iter().enumerate().filter(fits).min_by_key(|(_, range)| range.count);
        if let Some((at, range)) = best.map(|(at, range)| (at, *range)) {
            self.free.swap_remove(at);
            if range.count > count {
                self.give_back(GranuleRange { first: range.first + count, count: range.count - count });
            }
            return Some(GranuleRange { first: range.first, count });
        }
        let range = GranuleRange { first: self.next, count };
        if range.first + count > self.granules {
            return None;
        }
        self.next += count;
        Some(range)
    }

    /// Takes exactly this range; returns false if any of it is taken or outside the space.
    pub(super) fn take(&mut self, range: GranuleRange) -> bool {
        let end = range.first + range.count;
        if range.first >= self.next {
            if end > self.granules {
                return false;
            }
            let before = GranuleRange { first: self.next, count: range.first - self.next };
            self.next = end;
            if before.count > 0 {
                self.give_back(before);
            }
            return true;
        }
        let holds = |free: &GranuleRange| free.first <= range.first && end <= free.first + free.count;
        let Some(at) = self.free.iter().position(holds) else { return false };
        let free = self.free.swap_remove(at);
        let before = GranuleRange { first: free.first, count: range.first - free.first };
        let behind = GranuleRange { first: end, count: free.first + free.count - end };
        self.free.extend([before, behind].into_iter().filter(|rest| rest.count > 0));
        true
    }

    /// Frees a range and joins it with its free neighbours.
    pub(super) fn give_back(&mut self, mut range: GranuleRange) {
        let touches = |one: &GranuleRange, other: &GranuleRange| one.first + one.count == other.first;
        self.free.retain(|other| {
            let before = touches(other, &range);
            let after = touches(&range, other);
            if before {
                range.first = other.first;
            }
            if before || after {
                range.count += other.count;
            }
            !before && !after
        });
        if range.first + range.count == self.next {
            self.next = range.first;
        } else {
            self.free.push(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_lead_back_to_offsets() {
        let range = GranuleRange { first: 3, count: 2 };
        for offset in [0, 8, 4096, GRANULE_SIZE - 8, GRANULE_SIZE, 2 * GRANULE_SIZE - 8] {
            assert_eq!(range.offset_of(range.at(offset)), Some(offset));
        }
        assert_eq!(range.offset_of(Location::from_bits(8)), None);
    }

    #[test]
    fn freed_ranges_merge_before_reuse() {
        let mut ranges = RangeAllocator::of(20);
        let taken: Vec<_> = (0..4).map(|_| ranges.any(3).expect("room")).collect();
        ranges.give_back(taken[0]);
        ranges.give_back(taken[2]);
        assert_eq!(ranges.any(2), Some(GranuleRange { first: 1, count: 2 }));
        ranges.give_back(taken[1]);
        // The rest of the first range, the second and the third are one range now.
        assert_eq!(ranges.any(7), Some(GranuleRange { first: 3, count: 7 }));
        assert_eq!(ranges.any(8), None, "20 granules, the first of which is never given out");
        ranges.give_back(taken[3]);
        assert_eq!(ranges.any(10), Some(GranuleRange { first: 10, count: 10 }));
    }

    #[test]
    fn range_outside_the_space_is_none() {
        let last = u32::try_from(GRANULES).expect("fewer than 2^32");
        assert!(GranuleRange::from_granules(last - 1, 1).is_some());
        for (first, count) in [(0, 1), (1, 0), (last, 1), (last - 1, 2), (u32::MAX, u32::MAX)] {
            assert_eq!(GranuleRange::from_granules(first, count), None);
        }
    }
}
