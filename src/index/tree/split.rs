//! The entries of a leaf that is split, or merged with another one.

use std::ops::Range;

use super::leaf::{FRAGMENT_BITS, LeafCopy, LeafEntry};
use super::node::common_len;

/// Returns the length of the common prefix of the fences of a leaf.
pub(super) fn skip_between(lower: Option<&[u8]>, upper: Option<&[u8]>) -> usize {
    lower.zip(upper).map_or(0, |(lower, upper)| common_len(lower, upper))
}

/// Returns a range of the entries of a leaf as those of a leaf with other fences, which lie between its
/// own. Where a key cannot be read, the prefix of the leaf stays.
pub(super) fn with_fences<'k>(
    leaf: &LeafCopy,
    slots: Range<usize>,
    lower: Option<&[u8]>,
    upper: Option<&[u8]>,
    mut key_of: impl FnMut(LeafEntry) -> Option<&'k [u8]>,
) -> LeafCopy {
    let skip = skip_between(lower, upper);
    let mut part = LeafCopy::empty(skip);
    for slot in slots.clone() {
        let entry = leaf.entry(slot);
        if skip == leaf.skip {
            part.push(entry);
        } else if let Some(key) = key_of(entry) {
            part.push(entry.with_key(key, skip).verified());
        } else {
            let mut same = LeafCopy::empty(leaf.skip);
            slots.for_each(|slot| same.push(leaf.entry(slot)));
            return same;
        }
    }
    part
}

/// Returns the slot in the middle half of a leaf before which the shortest separator lies.
pub(super) fn best_split(leaf: &LeafCopy) -> usize {
    let count = leaf.count();
    let separator_len = |slot: usize| {
        let differing = leaf.entry(slot - 1).fragment() ^ leaf.entry(slot).fragment();
        // Equal fragments differ behind their bits.
        (differing.leading_zeros() - (u64::BITS - FRAGMENT_BITS)) / 8
    };
    let slots = (count / 4).max(1)..=(count - count / 4).min(count - 1);
    slots.min_by_key(|slot| (separator_len(*slot), slot.abs_diff(count / 2))).expect("at least two entries")
}
