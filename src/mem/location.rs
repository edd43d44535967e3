//! Locations: positions in a store's address space, as index entries hold them.

/// Bits of a location: 2^40 * 8 bytes = 8 TiB of address space.
pub(crate) const LOCATION_BITS: u32 = 40;

/// A position in the address space, in units of eight bytes; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location(u64);

impl Location {
    /// Makes a location from the bits of an index entry.
    pub(crate) fn from_bits(bits: u64) -> Self {
        debug_assert!(bits != 0 && bits < 1 << LOCATION_BITS);
        Self(bits)
    }

    /// Returns the location as the bits of an index entry: not zero, below `1 << LOCATION_BITS`.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }
}
