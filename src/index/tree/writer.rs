//! The one writer of a tree.

use std::cell::RefCell;
use std::cmp;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::gap::Gap;
use super::inner::{ChildSplit, Draft, InnerImage, InnerView, Side};
use super::leaf::{Beside, LEAF_MAX, LeafCopy, LeafEntries, LeafEntry, LeafView};
use super::node::{INNER_LINES, LEAF_LINES, TreeNode};
use super::numbers::Numbers;
use super::{Aim, EntryPlace, LEVELS_MAX, Root, Tree};
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::index::lines::Row;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::SavedPages;
use crate::mem::location::Location;
use crate::sync::Ordering;

/// A leaf with at most this many entries is merged with a neighbour, if there is space.
const FEW: usize = if cfg!(loom) { 0 } else { 7 };

/// The one that changes a tree.
#[derive(Debug)]
pub(crate) struct TreeWriter {
    pub(super) tree: Arc<Tree>,
    pub(super) leaves: Numbers,
    pub(super) inners: Numbers,
    /// The way from the root to the leaf that the change under way is about.
    pub(super) path: Vec<Step>,
    gap: RefCell<Gap>,
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
    pub(super) node: u32,
    pub(super) slot: usize,
}

/// The keys next to a leaf: no key of the leaf is below the first or at or above the second.
#[derive(Debug, Default)]
pub(super) struct Fences {
    pub(super) lower: Option<Vec<u8>>,
    pub(super) upper: Option<Vec<u8>>,
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
            gap: RefCell::new(Gap::new()),
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
        let gap = self.gap.get_mut();
        let (number, slot) = if let Some((number, slot, beside)) = gap.take(key) {
            std::mem::swap(&mut self.path, &mut gap.path);
            // The search that found the place need not have verified the records that it compared.
            let mut beside = beside.entries();
            beside.try_for_each(|entry| key_of_entry(entry, &mut key_of).map(drop))?;
            (number, slot)
        } else {
            let number = self.descend(key);
            // A batch inserts several keys after one search for each, so records may be compared here that
            // no search has met.
            let compare = |other| key_of_entry(other, &mut key_of).map(|other| other.cmp(key)).ok_or(());
            let (Ok(slot) | Err(slot)) = self.view(number).search(key, compare).ok()?;
            (number, slot)
        };
        let leaf = self.view(number);
        let new = LeafEntry::new(key, leaf.skip(), location);
        let change =
            if leaf.count() < LEAF_MAX {
                TreeChange::Child(self.build_leaf_with(number, slot, new))
            } else {
                let mut leaf = self.read_leaf(number);
                leaf.insert(slot, new);
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
        let leaf = self.view(number);
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

    /// Looks for a key as [`Tree::look_for`] does, without a second look: nothing moves while the writer is
    /// here.
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::look_for`].
    // See there.
    #[inline(never)]
    pub(crate) fn look_for<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(EntryPlace) -> Result<cmp::Ordering, E>,
    ) -> Result<Result<Location, Beside>, E> {
        self.tree.check(Aim::At(key))?;
        let mut gap = self.gap.borrow_mut();
        gap.forget();
        let number = self.walk(key, &mut gap.path);
        let leaf = self.view(number);
        let tied = leaf.tied(key);
        let mut compare = |entry: LeafEntry| compare(entry.place());
        let found = if gap.was_last && tied.len() > 2 {
            leaf.search_from_last(tied.clone(), &mut compare)?
        } else {
            leaf.search_among(tied.clone(), &mut compare)?
        };
        Ok(match found {
            Ok(slot) => Ok(leaf.entry(slot).location()),
            Err(slot) => {
                gap.was_last = slot == tied.end;
                let beside = Beside::at(&leaf, &tied, slot);
                gap.note(key, number, slot, beside);
                Err(beside)
            }
        })
    }

    /// Returns the location of the record of a key; see [`TreeWriter::look_for`].
    ///
    /// # Errors
    ///
    /// The errors of [`Tree::look_for`].
    pub(crate) fn find<E: From<BlockError>>(
        &self,
        key: &[u8],
        mut compare: impl FnMut(Location) -> Result<cmp::Ordering, E>,
    ) -> Result<Option<Location>, E> {
        Ok(self.look_for(key, |(location, _)| compare(location))?.ok())
    }

    fn root(&self) -> Root {
        // Relaxed: the writer stored it.
        Root(self.tree.head.0.root.load(Ordering::Relaxed))
    }

    pub(super) fn set_root(&self, root: Root) {
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
        self.gap.get_mut().forget();
        let mut path = std::mem::take(&mut self.path);
        let number = self.walk(key, &mut path);
        self.path = path;
        number
    }

    /// Finds the leaf of a key, and stores the path to it.
    #[inline]
    fn walk(&self, key: &[u8], path: &mut Vec<Step>) -> u32 {
        path.clear();
        let root = self.root();
        let mut number = root.node();
        for _ in 0..root.level() {
            let node = self.tree.inner(number);
            let view = InnerView::new(&node, node.control_unordered());
            let slot = view.search(key, Side::At);
            path.push(Step { node: number, slot });
            number = view.child(slot);
        }
        number
    }

    #[inline]
    pub(super) fn view(&self, number: u32) -> LeafView<'_> {
        let node = self.tree.leaf_node(number);
        LeafView::new(node, node.control_unordered())
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

    pub(super) fn build_leaf(&mut self, leaf: &LeafCopy) -> u32 {
        let number = self.leaves.take();
        self.keep(Row::First, number);
        let node = self.tree.leaf_node(number);
        leaf.write(node);
        node.set_control(node.control_unordered().built(0, leaf.count(), leaf.skip));
        number
    }

    /// Builds a leaf anew with one entry more.
    fn build_leaf_with(&mut self, old: u32, slot: usize, new: LeafEntry) -> u32 {
        let number = self.leaves.take();
        self.keep(Row::First, number);
        let (leaf, node) = (self.view(old), self.tree.leaf_node(number));
        leaf.write_with(slot, new, node);
        node.set_control(node.control_unordered().built(0, leaf.count() + 1, leaf.skip()));
        number
    }

    pub(super) fn build_inner(&mut self, image: &InnerImage, level: u64) -> u32 {
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
                self.store_child(Step { node, slot }, child);
                return self.retire();
            }
            self.old_inners.push(node);
            change = match change {
                TreeChange::Split { left, separator, right } => {
                    self.with_split(node, level, ChildSplit { slot, left, separator: &separator, right })
                }
                TreeChange::Merge { slot, child } => {
                    let mut draft = Draft::of(&InnerImage::read(self.tree.inner(node)));
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

    /// Stores a child of an inner node.
    pub(super) fn store_child(&self, Step { node, slot }: Step, child: u32) {
        let parent = self.tree.inner(node);
        let view = InnerView::new(&parent, parent.control_unordered());
        let word = view.slot(slot) >> 32 << 32 | u64::from(child);
        self.keep(Row::Second, node);
        parent.set(InnerView::<[u64]>::slot_word(slot), word);
    }

    /// Takes the replaced nodes out of the tree (T2). Their numbers are the next ones.
    pub(super) fn retire(&mut self) {
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
pub(super) fn key_of_entry<'k>(
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
