//! Bulk loading: records in the order of their keys, put into a tree that has no readers yet.
//!
//! An insert of each would walk down to its leaf and build that anew. Here, one walk leads to an inner node above
//! leaves, and all records of its range are put there: those of one leaf together, from leaf to leaf. Where they fit
//! into the leaf, one is built for them. Elsewhere several take its place, and the inner node is built once, with
//! all of these. So a run into an empty tree builds leaf after leaf, and then each level of inner nodes from the
//! one below.
//!
//! **Fill.** Random keys find room in leaves of two thirds to nine tenths, which differ, so that later inserts do not
//! split all of them at about the same time. A series, whose keys were written in order, fills its leaves, as it does
//! by inserts.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Root;
use super::inner::{Draft, InnerImage, InnerView, Side};
use super::leaf::{FRAGMENT_BITS, LEAF_MAX, LeafCopy, LeafEntries, LeafEntry};
use super::node::{TreeNode, Words, common_len};
use super::split::skip_between;
use super::writer::{Fences, Step, TreeChange, TreeWriter};
use crate::mem::alloc;
use crate::mem::location::Location;

/// The least entries that are planned for a leaf, and the number of plans.
const PLAN_LEAST: usize = LEAF_MAX * 2 / 3;
const PLANS: u64 = if cfg!(loom) { 1 } else { LEAF_MAX as u64 * 3 / 10 };
/// The number of entries by which a leaf may differ from its plan, so that a separator is short.
const NEAR: usize = if cfg!(loom) { 1 } else { 3 };
/// The number of leaves between the prefetch of one and its turn.
const AHEAD: usize = 2;

/// A run of records in the order of their keys, each key once.
pub(crate) trait RunSource<'k> {
    type Error;

    /// Takes the next record: its key, and its location.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn next(&mut self) -> Result<Option<(&'k [u8], Location)>, Self::Error>;

    /// Returns the key of a record in the tree.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn key(&mut self, location: Location) -> Result<&'k [u8], Self::Error>;

    /// Prefetches a record in the tree.
    fn prefetch(&self, location: Location);

    /// Returns true if the record at `location` is newer than the one at `other`, which is of its key.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    fn is_newer(&mut self, other: Location, location: Location) -> Result<bool, Self::Error>;

    /// Returns the error for a lack of memory.
    fn failed(&self, error: io::Error) -> Self::Error;
}

/// An entry of the leaves that are built.
#[derive(Debug, Clone, Copy)]
struct RunEntry<'k> {
    entry: LeafEntry,
    /// The key of an entry that is new.
    key: Option<&'k [u8]>,
}

/// The entries of one of several leaves that take the place of one.
#[derive(Debug)]
struct LeafPart {
    /// The separator before it; empty for the first one.
    separator: Vec<u8>,
    entries: Range<usize>,
    skip: usize,
}

/// A run on its way into a tree.
struct RunFill<'s, 'k, S> {
    source: &'s mut S,
    next: Option<(&'k [u8], Location)>,
    is_series: bool,
    /// The entries of the leaf whose turn it is, old and new ones, and the prefix that it skips.
    entries: Vec<RunEntry<'k>>,
    skip: usize,
    added: usize,
}

impl<'k, S: RunSource<'k>> RunFill<'_, 'k, S> {
    /// Returns the next key of the run, if it is below a fence.
    fn next_below(&self, upper: Option<&[u8]>) -> Option<(&'k [u8], Location)> {
        self.next.filter(|(key, _)| upper.is_none_or(|upper| *key < upper))
    }

    /// Takes the records of a leaf, and notes all entries that it gets.
    fn take(&mut self, mut leaf: LeafCopy, upper: Option<&[u8]>) -> Result<(), S::Error> {
        self.entries.clear();
        self.skip = leaf.skip;
        let mut passed = 0;
        while let Some((key, location)) = self.next_below(upper) {
            let slot =
                leaf.search(key, |entry| Ok::<_, S::Error>(self.source.key(entry.location())?.cmp(key)))?;
            match slot {
                Ok(slot) => {
                    let entry = leaf.entry(slot);
                    if self.source.is_newer(entry.location(), location)? {
                        leaf.set(slot, entry.with_location(location));
                    }
                }
                Err(slot) => {
                    self.keep(&leaf, passed..slot)?;
                    passed = slot;
                    let entry = LeafEntry::new(key, leaf.skip, location);
                    self.reserve(1)?;
                    self.entries.push(RunEntry { entry, key: Some(key) });
                    self.added += 1;
                }
            }
            self.next = self.source.next()?;
        }
        self.keep(&leaf, passed..leaf.count())
    }

    /// Prefetches the records of a leaf that a search may have to read: those that share their fragment.
    fn prefetch_tied(&self, leaf: &LeafCopy) {
        for slot in 1..leaf.count() {
            let [before, entry] = [slot - 1, slot].map(|slot| leaf.entry(slot));
            if before.fragment() == entry.fragment() {
                self.source.prefetch(before.location());
                self.source.prefetch(entry.location());
            }
        }
    }

    fn keep(&mut self, leaf: &LeafCopy, slots: Range<usize>) -> Result<(), S::Error> {
        self.reserve(slots.len())?;
        self.entries.extend(slots.map(|slot| RunEntry { entry: leaf.entry(slot), key: None }));
        Ok(())
    }

    /// The first run into a tree goes into one leaf, so its entries are many.
    fn reserve(&mut self, more: usize) -> Result<(), S::Error> {
        alloc::reserve(&mut self.entries, more).map_err(|error| self.source.failed(error))
    }

    fn key(&mut self, at: usize) -> Result<&'k [u8], S::Error> {
        let RunEntry { entry, key } = self.entries[at];
        key.map_or_else(|| self.source.key(entry.location()), Ok)
    }

    /// Divides the entries into leaves, which lie between the fences of the one that they are for.
    fn parts(&mut self, lower: Option<&[u8]>, upper: Option<&[u8]>) -> Result<Vec<LeafPart>, S::Error> {
        let is_dense = self.is_series && (lower.is_none() || upper.is_none());
        let (mut parts, mut from, mut separator) = (Vec::new(), 0, Vec::new());
        while from < self.entries.len() {
            let end = self.end_of_leaf(from, is_dense);
            let next = if end == self.entries.len() { None } else { Some(self.separator(end)?) };
            let lower = if from == 0 { lower } else { Some(&*separator) };
            let skip = skip_between(lower, next.as_deref().or(upper));
            if skip != self.skip {
                // The fragments of old entries are made anew, from their keys.
                let old = self.entries[from..end].iter().filter(|entry| entry.key.is_none());
                old.for_each(|old| self.source.prefetch(old.entry.location()));
            }
            let next = next.unwrap_or_default();
            let separator = std::mem::replace(&mut separator, next);
            parts.push(LeafPart { separator, entries: from..end, skip });
            from = end;
        }
        Ok(parts)
    }

    /// Returns the end of the leaf that begins with an entry.
    fn end_of_leaf(&self, from: usize, is_dense: bool) -> usize {
        let left = self.entries.len() - from;
        if left <= LEAF_MAX {
            return self.entries.len();
        }
        if is_dense {
            return from + LEAF_MAX;
        }
        // Any number that differs from leaf to leaf, and is the same each time.
        let mixed = self.entries[from].entry.location().to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let plan = PLAN_LEAST + usize::try_from((mixed >> 32) % PLANS).expect("a few");
        let planned = from + if left < 2 * plan { left / 2 } else { plan };
        let ends = planned - NEAR..=planned + NEAR;
        let end = ends.min_by_key(|end| (self.shared(*end), end.abs_diff(planned)));
        end.expect("not empty")
    }

    /// Returns the length of what the keys beside an end of a leaf share, about.
    fn shared(&self, end: usize) -> usize {
        let [before, behind] = [end - 1, end].map(|at| self.entries[at]);
        if let (Some(before), Some(behind)) = (before.key, behind.key) {
            return common_len(before, behind);
        }
        let differing = before.entry.fragment() ^ behind.entry.fragment();
        self.skip + (differing.leading_zeros() - (u64::BITS - FRAGMENT_BITS)) as usize / 8
    }

    /// Returns the shortest separator between two entries.
    fn separator(&mut self, end: usize) -> Result<Vec<u8>, S::Error> {
        let (before, behind) = (self.key(end - 1)?, self.key(end)?);
        if before >= behind {
            // Their order was that of the records when they were read first.
            return Err(self.source.failed(io::Error::other("a record changed while it was read")));
        }
        Ok(behind[..common_len(before, behind) + 1].to_vec())
    }

    /// Returns a range of the entries as those of a leaf that skips `skip` bytes.
    fn leaf(&mut self, entries: Range<usize>, skip: usize) -> Result<LeafCopy, S::Error> {
        let mut leaf = LeafCopy::empty(skip);
        for at in entries {
            let entry = self.entries[at].entry;
            leaf.push(if skip == self.skip { entry } else { entry.with_key(self.key(at)?, skip) });
        }
        Ok(leaf)
    }
}

/// Returns the fence behind a child of an inner node, unless it is that of the node.
fn fence_behind<'f, W: Words + ?Sized>(
    view: &InnerView<'_, W>,
    slot: usize,
    fence: &'f mut Vec<u8>,
) -> Option<&'f [u8]> {
    (slot + 1 < view.count).then(|| {
        fence.clear();
        view.separator(slot + 1, fence);
        &fence[..]
    })
}

/// Returns the children of an inner node with others in the places of some, which ascend.
fn with_children(node: TreeNode<'_>, places: &[(usize, Draft)]) -> Draft {
    let (old, mut all, mut places) =
        (Draft::of(&InnerImage::read(node)), Draft::default(), places.iter().peekable());
    for slot in 0..old.count() {
        match places.next_if(|(place, _)| *place == slot) {
            Some((_, others)) => all.append(old.separator(slot), others),
            None => all.push(old.separator(slot), old.child(slot)),
        }
    }
    all
}

impl TreeWriter {
    /// Puts a run of records into a tree that is not from a checkpoint. `is_series` says that they were written
    /// in the order of their keys, or in the reverse one.
    ///
    /// # Errors
    ///
    /// The errors of the source, or memory is short. The tree ends then.
    pub(crate) fn fill<'k, S: RunSource<'k>>(
        &mut self,
        source: &mut S,
        is_series: bool,
    ) -> Result<(), S::Error> {
        debug_assert!(!self.watched, "an insert has the rules for captures and partial trees");
        let next = source.next()?;
        let mut run = RunFill { source, next, is_series, entries: Vec::new(), skip: 0, added: 0 };
        while let Some((key, _)) = run.next {
            if let Err(error) = self.fill_from(&mut run, key) {
                self.tree.end();
                return Err(error);
            }
            self.count(i64::try_from(std::mem::take(&mut run.added)).expect("keys in memory"));
        }
        Ok(())
    }

    /// Puts the records of a run into the tree that belong below the inner node above the leaf of a key.
    fn fill_from<'k, S: RunSource<'k>>(
        &mut self,
        run: &mut RunFill<'_, 'k, S>,
        key: &[u8],
    ) -> Result<(), S::Error> {
        let number = self.descend(key);
        let Some(&Step { node, mut slot }) = self.path.last() else {
            run.take(self.read_leaf(number), None)?;
            let leaves = self.build_leaves(run, &Fences::default())?;
            self.old_leaves.push(number);
            return self.publish_all(leaves, 1).map_err(|error| run.source.failed(error));
        };
        // It stays in the tree until all its leaves are filled.
        let tree = Arc::clone(&self.tree);
        let parent = tree.inner(node);
        let view = InnerView::new(&parent, parent.control_unordered());
        let end = self.fences(0..view.count).upper;
        let (mut fence, mut splits) = (Vec::new(), Vec::new());
        while let Some((key, _)) = run.next_below(end.as_deref()) {
            // Mostly, the next key is in the next leaf.
            let mut upper = fence_behind(&view, slot, &mut fence).or(end.as_deref());
            if run.next_below(upper).is_none() {
                slot = view.search(key, Side::At);
                upper = fence_behind(&view, slot, &mut fence).or(end.as_deref());
            }
            if slot + AHEAD < view.count {
                tree.leaf_node(view.child(slot + AHEAD)).prefetch();
            }
            if slot + 1 < view.count {
                run.prefetch_tied(&self.read_leaf(view.child(slot + 1)));
            }
            let number = view.child(slot);
            run.take(self.read_leaf(number), upper)?;
            if run.entries.len() <= LEAF_MAX {
                self.leaves.ensure(1, &tree.leaves).map_err(|error| run.source.failed(error))?;
                // Its fences stay, so the prefix that it skips does.
                let leaf = self.build_leaf(&run.leaf(0..run.entries.len(), run.skip)?);
                self.store_child(Step { node, slot }, leaf);
                self.old_leaves.push(number);
                self.retire();
            } else {
                self.path.last_mut().expect("the node is on it").slot = slot;
                let fences = self.fences(slot..slot + 1);
                splits.push((slot, self.build_leaves(run, &fences)?));
            }
            slot = (slot + 1).min(view.count - 1);
        }
        self.publish_splits(node, &splits).map_err(|error| run.source.failed(error))
    }

    /// Builds leaves for the entries that a run has noted, between the fences of the leaf whose place they take.
    fn build_leaves<'k, S: RunSource<'k>>(
        &mut self,
        run: &mut RunFill<'_, 'k, S>,
        fences: &Fences,
    ) -> Result<Draft, S::Error> {
        let parts = run.parts(fences.lower.as_deref(), fences.upper.as_deref())?;
        let reserved = self.leaves.ensure(parts.len() as u64, &self.tree.leaves);
        reserved.map_err(|error| run.source.failed(error))?;
        let mut leaves = Draft::default();
        for LeafPart { separator, entries, skip } in parts {
            leaves.push(&separator, self.build_leaf(&run.leaf(entries, skip)?));
        }
        Ok(leaves)
    }

    /// Publishes the leaves that take the places of children of the last node on the path.
    fn publish_splits(&mut self, node: u32, splits: &[(usize, Draft)]) -> io::Result<()> {
        let parent = self.tree.inner(node);
        let view = InnerView::new(&parent, parent.control_unordered());
        self.old_leaves.extend(splits.iter().map(|(slot, _)| view.child(*slot)));
        match splits {
            [] => return Ok(()),
            [(slot, leaves)] if leaves.count() == 2 => {
                // Only one leaf was split, as by an insert.
                self.inners.ensure(2 * self.path.len() as u64 + 1, &self.tree.inners)?;
                self.path.last_mut().expect("the node is on it").slot = *slot;
                let [left, right] = [leaves.child(0), leaves.child(1)];
                let separator = leaves.separator(1).to_vec();
                self.publish(TreeChange::Split { left, separator, right });
                return Ok(());
            }
            _ => {}
        }
        self.path.pop();
        self.old_inners.push(node);
        let draft = with_children(self.tree.inner(node), splits);
        let nodes = self.build_inners(&draft, 1)?;
        self.publish_all(nodes, 2)
    }

    /// Publishes nodes that take the place of the one to which the path leads, by one store. They are below level
    /// `level`.
    fn publish_all(&mut self, mut nodes: Draft, mut level: u64) -> io::Result<()> {
        while let Some(step @ Step { node, slot }) = self.path.pop() {
            if nodes.count() == 1 {
                self.store_child(step, nodes.child(0));
                self.retire();
                return Ok(());
            }
            self.old_inners.push(node);
            let draft = with_children(self.tree.inner(node), &[(slot, nodes)]);
            nodes = self.build_inners(&draft, level)?;
            level += 1;
        }
        while nodes.count() > 1 {
            nodes = self.build_inners(&nodes, level)?;
            level += 1;
        }
        self.set_root(Root::new(nodes.child(0), level - 1));
        self.retire();
        Ok(())
    }

    /// Builds the nodes of a level that hold these children. Returns them as children.
    fn build_inners(&mut self, draft: &Draft, level: u64) -> io::Result<Draft> {
        let mut images = Vec::new();
        draft.encode_all(0..draft.count(), &mut images);
        self.inners.ensure(images.len() as u64, &self.tree.inners)?;
        let mut nodes = Draft::default();
        for (first, image) in images {
            nodes.push(draft.separator(first), self.build_inner(&image, level));
        }
        Ok(nodes)
    }
}
