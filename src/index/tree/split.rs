//! Splits of nodes, and the entries of a leaf whose fences change.

use std::ops::Range;

use super::inner::{ChildSplit, Draft, InnerImage, build_with_split};
use super::leaf::{FRAGMENT_BITS, LeafCopy, LeafEntries, LeafEntry};
use super::node::common_len;
use super::writer::{TreeChange, TreeWriter};
use crate::index::lines::Row;

impl TreeWriter {
    /// Splits a leaf that has one entry too many: the one in slot `new`.
    pub(super) fn split<'k>(
        &mut self,
        leaf: &LeafCopy,
        new: usize,
        mut key_of: impl FnMut(LeafEntry) -> Option<&'k [u8]>,
    ) -> Option<TreeChange> {
        let last = self.path.last().map_or(0, |step| step.slot);
        let fences = self.fences(last..last + 1);
        let count = leaf.count();
        let middle = match new {
            // Keys that ascend fill their leaves.
            new if new + 1 == count && fences.upper.is_none() => new,
            0 if fences.lower.is_none() => 1,
            _ => best_split(leaf),
        };
        // Where the keys beside the best place cannot be read, any other place will do.
        let places = std::iter::once(middle).chain(1..count);
        let found = places.into_iter().find_map(|at| {
            let (before, behind) = (key_of(leaf.entry(at - 1))?, key_of(leaf.entry(at))?);
            (before < behind).then_some((at, before, behind))
        });
        let (middle, before, behind) = found?;
        let separator = behind[..common_len(before, behind) + 1].to_vec();
        let left = with_fences(leaf, 0..middle, fences.lower.as_deref(), Some(&separator), &mut key_of);
        let right = with_fences(leaf, middle..count, Some(&separator), fences.upper.as_deref(), &mut key_of);
        let (left, right) = (self.build_leaf(&left), self.build_leaf(&right));
        Some(TreeChange::Split { left, separator, right })
    }

    /// Builds a node anew in which a child was split, or two such nodes.
    pub(super) fn with_split(&mut self, node: u32, level: u64, split: ChildSplit<'_>) -> TreeChange {
        let number = self.inners.take();
        self.keep(Row::Second, number);
        let (old, new) = (self.tree.inner(node), self.tree.inner(number));
        if let Some(count) = build_with_split(old, new, split) {
            new.set_control(new.control_unordered().built(level, count, old.control_unordered().skip()));
            return TreeChange::Child(number);
        }
        self.inners.free.push(number);
        let mut draft = Draft::of(&InnerImage::read(old));
        draft.set_child(split.slot, split.left);
        draft.insert(split.slot + 1, split.separator, split.right);
        if let Some(image) = draft.encode(0..draft.count()) {
            return TreeChange::Child(self.build_inner(&image, level));
        }
        let (middle, left, right) = draft.split();
        let (left, right) = (self.build_inner(&left, level), self.build_inner(&right, level));
        TreeChange::Split { left, separator: draft.separator(middle).to_vec(), right }
    }
}

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
