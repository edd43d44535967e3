//! Merges of nodes with their neighbours.

use super::inner::{Draft, InnerImage, InnerView};
use super::leaf::{LEAF_MAX, LeafCopy, LeafEntries};
use super::node::INNER_WORDS;
use super::split::skip_between;
use super::writer::{Step, TreeChange, TreeWriter, key_of_entry};
use crate::index::lines::Row;
use crate::mem::location::Location;

/// The most entries of a leaf that was merged: the next inserts must not split it.
const MERGED_MAX: usize = if cfg!(loom) { LEAF_MAX } else { 24 };
/// An inner node whose children take at most this many bytes is merged with a neighbour, if both take
/// at most three times as many.
const SMALL: usize = INNER_WORDS * 8 / 4;

impl TreeWriter {
    /// Merges the leaf on the path, whose entries are now those of `leaf`, with a neighbour. `None` if
    /// there is none with space.
    pub(super) fn merge<'k>(
        &mut self,
        leaf: &LeafCopy,
        mut key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) -> Option<TreeChange> {
        let Step { node, slot } = *self.path.last()?;
        let parent = self.tree.inner(node);
        let view = InnerView::new(&parent, parent.control_unordered());
        let lefts = [Some(slot), slot.checked_sub(1)].into_iter().flatten();
        for left in lefts.filter(|left| left + 1 < view.count) {
            let other_slot = if left == slot { slot + 1 } else { left };
            let number = view.child(other_slot);
            if !self.tree.is_loaded(Row::First, number) {
                continue;
            }
            let other = self.read_leaf(number);
            if leaf.count() + other.count() > MERGED_MAX {
                continue;
            }
            let fences = self.fences(left..left + 2);
            let (first, second) = if left == slot { (leaf, &other) } else { (&other, leaf) };
            let skip = skip_between(fences.lower.as_deref(), fences.upper.as_deref());
            let mut merged = LeafCopy::empty(skip);
            for entry in first.entries().chain(second.entries()) {
                merged.push(entry.with_key(key_of_entry(entry, &mut key_of)?, skip).verified());
            }
            self.old_leaves.push(number);
            return Some(TreeChange::Merge { slot: left, child: self.build_leaf(&merged) });
        }
        None
    }

    /// Builds a node anew that has lost a child, together with a neighbour if it is small.
    pub(super) fn with_merge(&mut self, draft: &Draft, level: u64) -> TreeChange {
        let parent = self.path.last().copied().filter(|_| draft.size() <= SMALL);
        if let Some(Step { node, slot }) = parent {
            let above = InnerImage::read(self.tree.inner(node));
            let lefts = [Some(slot), slot.checked_sub(1)].into_iter().flatten();
            for left in lefts.filter(|left| left + 1 < above.count) {
                let number = above.view().child(if left == slot { slot + 1 } else { left });
                if !self.tree.is_loaded(Row::Second, number) {
                    continue;
                }
                let other = Draft::of(&InnerImage::read(self.tree.inner(number)));
                if draft.size() + other.size() > 3 * SMALL {
                    continue;
                }
                let (first, second) = if left == slot { (draft, &other) } else { (&other, draft) };
                let mut separator = Vec::new();
                above.view().separator(left + 1, &mut separator);
                let mut joined = first.clone();
                joined.append(&separator, second);
                let Some(image) = joined.encode(0..joined.count()) else { continue };
                self.old_inners.push(number);
                return TreeChange::Merge { slot: left, child: self.build_inner(&image, level) };
            }
        }
        let image = draft.encode(0..draft.count()).expect("fewer children fit");
        TreeChange::Child(self.build_inner(&image, level))
    }
}
