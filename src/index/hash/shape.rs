//! The number of buckets and the number of merges in one word, so that a reader sees both change
//! together.

/// Bits of the number of buckets; the bits above count the merges.
const BUCKET_BITS: u32 = 36;
const BUCKET_MASK: u64 = (1 << BUCKET_BITS) - 1;

/// The number of buckets, at least one, and of merges. The latter wraps after 2^28, far more than
/// can happen between two loads of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexShape(u64);

impl IndexShape {
    pub(super) fn new(buckets: u64) -> Self {
        debug_assert!(buckets <= BUCKET_MASK);
        Self(buckets)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn buckets(self) -> u64 {
        self.0 & BUCKET_MASK
    }

    /// Returns the shape with more buckets.
    pub(super) fn grown(self, buckets: u64) -> Self {
        Self(self.0 & !BUCKET_MASK | buckets)
    }

    /// Returns the shape with one bucket less.
    pub(super) fn merged(self) -> Self {
        Self(self.0.wrapping_add(1 << BUCKET_BITS) - 1)
    }

    /// True if buckets were merged between the two.
    pub(super) fn was_merged(self, later: Self) -> bool {
        (self.0 ^ later.0) & !BUCKET_MASK != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_merges_are_kept_apart() {
        let mut shape = IndexShape::new(3);
        assert_eq!(shape.grown(5).buckets(), 5);
        assert!(!shape.was_merged(shape.grown(5)));
        // The count of merges wraps and leaves the buckets alone.
        for _ in 0..3 {
            let before = IndexShape::from_bits(shape.to_bits() | !BUCKET_MASK);
            assert_eq!(before.merged().buckets(), 2);
            assert!(before.was_merged(before.merged()));
            shape = before.merged().grown(3);
            assert!(before.was_merged(shape), "as many buckets as before are not the same ones");
        }
    }
}
