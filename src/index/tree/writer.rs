//! The one writer of a tree.

use std::cmp;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::inner::{Draft, InnerImage, InnerView, Side};
use super::leaf::{LEAF_MAX, LeafCopy, LeafEntry};
use super::node::{INNER_LINES, INNER_WORDS, LEAF_LINES, TreeNode, common_len};
use super::numbers::Numbers;
use super::split::{best_split, skip_between, with_fences};
use super::{Aim, Fences, LEVELS_MAX, Root, Tree};
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::index::lines::Row;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::SavedPages;
use crate::mem::location::Location;
use crate::sync::Ordering;

/// A leaf with at most this many entries is merged with a neighbour, if there is space.
const FEW: usize = if cfg!(loom) { 0 } else { 7 };
/// The most entries of a leaf that was merged: the next inserts must not split it.
const MERGED_MAX: usize = if cfg!(loom) { LEAF_MAX } else { 24 };
/// An inner node whose children take at most this many bytes is merged with a neighbour, if both take
/// at most three times as many.
const SMALL: usize = INNER_WORDS * 8 / 4;

/// The one that changes a tree.
#[derive(Debug)]
pub(crate) struct TreeWriter {
    pub(super) tree: Arc<Tree>,
    pub(super) leaves: Numbers,
    pub(super) inners: Numbers,
    /// The way from the root to the leaf of the last search.
    pub(super) path: Vec<Step>,
    /// The nodes that the change under way takes out of the tree.
    pub(super) old_leaves: Vec<u32>,
    pub(super) old_inners: Vec<u32>,
    /// True if a capture is running, or the tree is partial.
    pub(super) watched: bool,
    /// The capture that is running.
    pub(super) aside: Option<Arc<SavedPages>>,
}

/// An inner node on the way to a leaf, and the slot that leads on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    node: u32,
    pub(super) slot: usize,
}

/// A change of the children of an inner node.
pub(super) enum TreeChange {
    /// The child of the slot on the path is another node.
    Child(u32),
    /// It is two nodes.
    Split { left: u32, separator: Vec<u8>, right: u32 },
    /// The children in this slot and in the next one are one node.
    Merge { slot: usize, child: u32 },
}

impl TreeWriter {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        // The root is leaf zero at first.
        Self::with_nodes(tree, [1, 0], false)
    }

    /// Makes the writer of a partial tree with these numbers of leaves and inner nodes in use.
    pub(super) fn restore(tree: Arc<Tree>, nodes: [u64; 2]) -> Self {
        Self::with_nodes(tree, nodes, true)
    }

    fn with_nodes(tree: Arc<Tree>, [leaves, inners]: [u64; 2], watched: bool) -> Self {
        Self {
            tree,
            leaves: Numbers::new(LEAF_LINES, leaves),
            inners: Numbers::new(INNER_LINES, inners),
            path: Vec::with_capacity(LEVELS_MAX),
            old_leaves: Vec::with_capacity(2),
            old_inners: Vec::with_capacity(2 * LEVELS_MAX),
            watched,
            aside: None,
        }
    }

    /// Makes sure that `count` inserts find memory. The next reservation replaces this one.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short. Nothing is lost.
    pub(crate) fn reserve(&mut self, count: usize) -> io::Result<()> {
        let count = count as u64;
        // An insert adds one leaf at most, and one inner node at each level and a root. The nodes that
        // it replaces are free after it only.
        let levels = self.root().level() + 1;
        self.leaves.ensure(count + 2, &self.tree.leaves)?;
        self.inners.ensure(count.saturating_mul(levels + 1) + 2 * LEVELS_MAX as u64, &self.tree.inners)
    }

    /// Returns the tree that this writer changes.
    pub(crate) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Inserts the record of a key that is absent. Space was reserved. `key_of` returns the key in the
    /// record at a location, if it can be read; it is asked for keys in the same leaf. It is told if the
    /// record was verified since this open; if not, it verifies the record.
    ///
    /// If such a key cannot be read, the place of the new one is unknown, and the tree ends.
    #[inline(never)]
    pub(crate) fn insert<'k>(
        &mut self,
        key: &'k [u8],
        location: Location,
        key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) {
        if self.is_announced(key) && self.try_insert(key, location, key_of).is_none() {
            self.tree.end();
        }
    }

    fn try_insert<'k>(
        &mut self,
        key: &'k [u8],
        location: Location,
        mut key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) -> Option<()> {
        debug_assert!(key.len() <= MAX_ORDERED_KEY_LEN);
        let number = self.descend(key);
        let mut leaf = self.read_leaf(number);
        // A batch inserts several keys after one search for each, so records may be compared here that no
        // search has met.
        let compare = |other| key_of_entry(other, &mut key_of).map(|other| other.cmp(key)).ok_or(());
        let (Ok(slot) | Err(slot)) = leaf.search(key, compare).ok()?;
        let new = LeafEntry::new(key, leaf.skip, location);
        leaf.insert(slot, new);
        let change =
            if leaf.count() <= LEAF_MAX {
                TreeChange::Child(self.build_leaf(&leaf))
            } else {
                self.split(&leaf, slot, |entry| {
                    if entry == new { Some(key) } else { key_of_entry(entry, &mut key_of) }
                })?
            };
        self.old_leaves.push(number);
        self.publish(change);
        self.count(1);
        Some(())
    }

    /// Replaces the location of a key's record by another one, in place. Returns false if there is no
    /// such entry.
    pub(crate) fn replace(&mut self, key: &[u8], old: Location, new: Location) -> bool {
        if !self.is_announced(key) {
            return false;
        }
        let number = self.descend(key);
        let leaf = self.read_leaf(number);
        let Some(slot) = leaf.slot_of(key, old) else { return false };
        self.keep(Row::First, number);
        self.tree.leaf_node(number).set(slot + 1, leaf.entry(slot).with_location(new).0);
        true
    }

    /// Removes the entry of a key with this location. Returns false if there is none. Space was
    /// reserved. `key_of` is as for [`TreeWriter::insert`]; where it fails, a leaf stays smaller than it
    /// might be.
    #[inline(never)]
    pub(crate) fn remove<'k>(
        &mut self,
        key: &[u8],
        old: Location,
        key_of: impl FnMut(Location, bool) -> Option<&'k [u8]>,
    ) -> bool {
        if !self.is_announced(key) {
            return false;
        }
        let number = self.descend(key);
        let mut leaf = self.read_leaf(number);
        let Some(slot) = leaf.slot_of(key, old) else { return false };
        leaf.remove(slot);
        let merged = if leaf.count() <= FEW { self.merge(&leaf, key_of) } else { None };
        let change = merged.unwrap_or_else(|| TreeChange::Child(self.build_leaf(&leaf)));
        self.old_leaves.push(number);
        self.publish(change);
        self.count(-1);
        true
    }

    /// Searches as [`Tree::find`] does, without a second look: nothing moves while the writer is here.
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::find`].
    // See there.
    #[inline(never)]
    pub(crate) fn find<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(Location) -> Result<cmp::Ordering, E>,
    ) -> Result<Option<Location>, E> {
        self.tree.check(Aim::At(key))?;
        let root = self.root();
        let mut number = root.node();
        for _ in 0..root.level() {
            let node = self.tree.inner(number);
            let view = InnerView::new(&node, node.control_unordered());
            number = view.child(view.search(key, Side::At));
        }
        let leaf = self.read_leaf(number);
        Ok(leaf.search(key, |entry| compare(entry.location()))?.ok().map(|slot| leaf.entry(slot).location()))
    }

    fn root(&self) -> Root {
        // Relaxed: the writer stored it.
        Root(self.tree.head.0.root.load(Ordering::Relaxed))
    }

    fn set_root(&self, root: Root) {
        // Release: pairs with the acquire of readers, who see the node behind it.
        self.tree.head.0.root.store(root.0, Ordering::Release);
    }

    pub(super) fn count(&self, change: i64) {
        let counters = &self.tree.counters.0;
        let entries = &counters.entries;
        // Relaxed, both: a count on its own, stored by the one writer.
        entries.store(entries.load(Ordering::Relaxed).wrapping_add_signed(change), Ordering::Relaxed);
        // Relaxed, both: as above.
        counters.leaves.store(self.leaves.used, Ordering::Relaxed);
        counters.inners.store(self.inners.used, Ordering::Relaxed);
    }

    /// Finds the leaf of a key, and notes the path to it.
    pub(super) fn descend(&mut self, key: &[u8]) -> u32 {
        self.path.clear();
        let root = self.root();
        let mut number = root.node();
        for _ in 0..root.level() {
            let node = self.tree.inner(number);
            let view = InnerView::new(&node, node.control_unordered());
            let slot = view.search(key, Side::At);
            self.path.push(Step { node: number, slot });
            number = view.child(slot);
        }
        number
    }

    pub(super) fn read_leaf(&self, number: u32) -> LeafCopy {
        let node = self.tree.leaf_node(number);
        LeafCopy::read(node, node.control_unordered())
    }

    /// Returns the fences of a range of children of the last node on the path.
    pub(super) fn fences(&self, children: Range<usize>) -> Fences {
        let mut fences = Fences::default();
        let mut beside = children;
        for (at, step) in self.path.iter().enumerate().rev() {
            let node = self.tree.inner(step.node);
            let view = InnerView::new(&node, node.control_unordered());
            let separator = |slot| {
                let mut key = Vec::new();
                view.separator(slot, &mut key);
                key
            };
            if fences.lower.is_none() && beside.start > 0 {
                fences.lower = Some(separator(beside.start));
            }
            if fences.upper.is_none() && beside.end < view.count {
                fences.upper = Some(separator(beside.end));
            }
            if let Some(above) = at.checked_sub(1).map(|above| self.path[above].slot) {
                beside = above..above + 1;
            }
        }
        fences
    }

    /// Splits a leaf that has one entry too many: the one in slot `new`.
    fn split<'k>(
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

    /// Merges the leaf on the path, whose entries are now those of `leaf`, with a neighbour. `None` if
    /// there is none with space.
    fn merge<'k>(
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

    pub(super) fn build_leaf(&mut self, leaf: &LeafCopy) -> u32 {
        let number = self.leaves.take();
        self.keep(Row::First, number);
        let node = self.tree.leaf_node(number);
        leaf.write(node);
        node.set_control(node.control_unordered().built(0, leaf.count(), leaf.skip));
        number
    }

    fn build_inner(&mut self, image: &InnerImage, level: u64) -> u32 {
        let number = self.inners.take();
        self.keep(Row::Second, number);
        let node = self.tree.inner(number);
        image.write(node);
        node.set_control(node.control_unordered().built(level, image.count, image.skip));
        number
    }

    /// Publishes a change of the last node on the path by one store, and takes the nodes out that it
    /// replaces.
    pub(super) fn publish(&mut self, mut change: TreeChange) {
        let mut level = 1;
        while let Some(Step { node, slot }) = self.path.pop() {
            if let TreeChange::Child(child) = change {
                let parent = self.tree.inner(node);
                let view = InnerView::new(&parent, parent.control_unordered());
                let word = view.slot(slot) >> 32 << 32 | u64::from(child);
                self.keep(Row::Second, node);
                parent.set(InnerView::<[u64]>::slot_word(slot), word);
                return self.retire();
            }
            self.old_inners.push(node);
            let image = InnerImage::read(self.tree.inner(node));
            change = match change {
                TreeChange::Split { left, separator, right } => {
                    self.with_split(image, level, slot, (left, &separator, right))
                }
                TreeChange::Merge { slot, child } => {
                    let mut draft = Draft::of(&image);
                    draft.set_child(slot, child);
                    draft.remove(slot + 1);
                    if draft.count() == 1 && self.path.is_empty() {
                        self.set_root(Root::new(child, level - 1));
                        return self.retire();
                    }
                    self.with_merge(&draft, level)
                }
                TreeChange::Child(_) => unreachable!("published above"),
            };
            level += 1;
        }
        match change {
            TreeChange::Child(child) => self.set_root(Root::new(child, level - 1)),
            TreeChange::Split { left, separator, right } => {
                let mut draft = Draft::default();
                draft.push(&[], left);
                draft.push(&separator, right);
                let image = draft.encode(0..2).expect("two children fit");
                let number = self.build_inner(&image, level);
                self.set_root(Root::new(number, level));
            }
            TreeChange::Merge { .. } => unreachable!("the root has no neighbour"),
        }
        self.retire();
    }

    /// Builds a node anew in which a child was split, or two such nodes.
    fn with_split(
        &mut self,
        mut image: InnerImage,
        level: u64,
        slot: usize,
        (left, separator, right): (u32, &[u8], u32),
    ) -> TreeChange {
        image.set_child(slot, left);
        if image.insert(slot + 1, separator, right) {
            return TreeChange::Child(self.build_inner(&image, level));
        }
        let mut draft = Draft::of(&image);
        draft.insert(slot + 1, separator, right);
        if let Some(image) = draft.encode(0..draft.count()) {
            return TreeChange::Child(self.build_inner(&image, level));
        }
        let (middle, left, right) = draft.split();
        let (left, right) = (self.build_inner(&left, level), self.build_inner(&right, level));
        TreeChange::Split { left, separator: draft.separator(middle).to_vec(), right }
    }

    /// Builds a node anew that has lost a child, together with a neighbour if it is small.
    fn with_merge(&mut self, draft: &Draft, level: u64) -> TreeChange {
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

    /// Takes the replaced nodes out of the tree (T2). Their numbers are the next ones.
    fn retire(&mut self) {
        let out = |node: TreeNode<'_>| node.set_control(node.control_unordered().out());
        while let Some(number) = self.old_leaves.pop() {
            self.keep(Row::First, number);
            out(self.tree.leaf_node(number));
            self.leaves.free.push(number);
        }
        while let Some(number) = self.old_inners.pop() {
            self.keep(Row::Second, number);
            out(self.tree.inner(number));
            self.inners.free.push(number);
        }
    }
}

/// Returns the key of an entry, whose record is verified unless that was done since this open.
fn key_of_entry<'k>(
    entry: LeafEntry,
    key_of: &mut impl FnMut(Location, bool) -> Option<&'k [u8]>,
) -> Option<&'k [u8]> {
    key_of(entry.location(), entry.is_verified())
}

#[cfg(test)]
impl TreeWriter {
    /// Returns the numbers of leaves and of inner nodes ever used.
    pub(super) fn nodes_used(&self) -> [u64; 2] {
        [self.leaves.used, self.inners.used]
    }

    /// Returns the numbers of free leaves and inner nodes.
    #[cfg(not(loom))]
    pub(super) fn nodes_free(&mut self) -> [u64; 2] {
        self.look_around();
        [self.leaves.free.len() as u64, self.inners.free.len() as u64]
    }
}
