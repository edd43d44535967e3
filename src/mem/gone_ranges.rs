//! The address ranges of segments that an index checkpoint names, and the manifest does not.
//!
//! They are free: other segments may get them. So every entry that leads there is removed before an entry of
//! another record joins it.

use super::address_space::GranuleRange;
use super::location::Location;

/// The ranges of segments that are gone.
#[derive(Debug, Default)]
pub(crate) struct GoneRanges {
    /// In the order of their addresses.
    ranges: Vec<GranuleRange>,
}

impl GoneRanges {
    /// Makes a set of ranges, no two of which overlap.
    pub(crate) fn new(mut ranges: Vec<GranuleRange>) -> Self {
        ranges.sort_unstable_by_key(|range| range.at(0).to_bits());
        Self { ranges }
    }

    /// Returns true if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns true if a location lies in one of them.
    pub(crate) fn has(&self, location: Location) -> bool {
        let behind = self.ranges.partition_point(|range| range.at(0).to_bits() <= location.to_bits());
        self.ranges[..behind].last().is_some_and(|range| range.offset_of(location).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_in_ranges_of_lost_segments_are_known() {
        let range = |first, count| GranuleRange::from_granules(first, count).expect("inside");
        let gone = GoneRanges::new(vec![range(5, 2), range(1, 3)]);
        for granule in 0..9 {
            let is_gone = [1, 2, 3, 5, 6].contains(&granule);
            for word in [1, (1 << 17) - 1] {
                assert_eq!(gone.has(Location::from_bits(granule << 17 | word)), is_gone, "{granule}");
            }
        }
    }
}
