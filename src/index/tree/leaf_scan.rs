//! A scan over neighbouring leaves, beside the writer.
//!
//! It goes on from a leaf to the next one by their parent, without a search, while the parent is in the tree:
//! its separators are those of the search then (T1), so the next leaf begins where the last one ended.

use std::mem;

use super::inner::{InnerView, child_of};
use super::leaf::LeafCopy;
use super::node::Words;
use super::node_place::NodePlace;
use super::{Aim, Root, Tree};
use crate::index::lines::Row;
use crate::sync::{Ordering, fence, spin_loop};

/// The most leaves that are prefetched beside the one that is read.
const LEAVES_AHEAD: usize = 2;

/// The leaves that follow one in the direction of a scan.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The number of leaves that the scan may read after this one.
    leaves: usize,
    has_fence: bool,
    /// The separator between the leaf and the next one, if there is one.
    fence: Vec<u8>,
}

/// A scan in one direction: the leaf that was copied last, and the way on.
pub(super) struct LeafScan<'t> {
    tree: &'t Tree,
    ascends: bool,
    pub(super) leaf: LeafCopy,
    place: NodePlace<'t>,
    ahead: Ahead,
    /// Memory for the next separator.
    next_fence: Vec<u8>,
}

impl Ahead {
    /// Notes the separator beside a slot, which is nearer than one that was noted before.
    pub(super) fn note<W: Words + ?Sized>(&mut self, view: &InnerView<'_, W>, slot: usize, ascends: bool) {
        let beside = if ascends { slot + 1 } else { slot };
        if beside > 0 && beside < view.count {
            self.has_fence = true;
            self.fence.clear();
            view.separator(beside, &mut self.fence);
        }
    }

    /// Returns the words of the slots that follow, for as many leaves as are prefetched.
    pub(super) fn slots<W: Words + ?Sized>(
        &self,
        view: &InnerView<'_, W>,
        slot: usize,
        ascends: bool,
    ) -> [Option<u64>; LEAVES_AHEAD] {
        [1, 2].map(|distance| {
            let next = following(view, slot, ascends, distance);
            next.filter(|_| distance <= self.leaves).map(|next| view.slot(next))
        })
    }
}

/// Returns the slot at a distance from another one in the direction of a scan, if there is one.
fn following<W: Words + ?Sized>(
    view: &InnerView<'_, W>,
    slot: usize,
    ascends: bool,
    distance: usize,
) -> Option<usize> {
    let next = if ascends { Some(slot + distance) } else { slot.checked_sub(distance) };
    next.filter(|next| *next < view.count)
}

impl Tree {
    /// Begins a scan with the leaf of an aim, which is copied as of one moment. It reads `leaves` leaves at
    /// most.
    pub(super) fn scan_leaves(&self, aim: Aim<'_>, leaves: usize) -> LeafScan<'_> {
        let leaves = leaves.saturating_sub(1);
        let (mut ahead, mut leaf) = (Ahead { leaves, ..Ahead::default() }, LeafCopy::empty(0));
        let place = loop {
            ahead.has_fence = false;
            // Acquire: as in `search`.
            let root = Root(self.head.0.root.load(Ordering::Acquire));
            if let Some((number, place)) = self.walk_below(root, aim, Some(&mut ahead))
                && self.read_leaf(number, place, |node, control| leaf.load(node, control)).is_some()
            {
                break place;
            }
            spin_loop();
        };
        LeafScan { tree: self, ascends: aim.ascends(), leaf, place, ahead, next_fence: Vec::new() }
    }
}

impl LeafScan<'_> {
    /// Returns the number of leaves that it may still read.
    pub(super) fn left(&self) -> usize {
        self.ahead.leaves
    }

    /// Returns the separator between the leaf and the next one in the direction of the scan.
    pub(super) fn fence(&self) -> Option<&[u8]> {
        self.ahead.has_fence.then_some(&*self.ahead.fence)
    }

    /// Returns what [`LeafScan::fence`] does.
    pub(super) fn into_fence(self) -> Option<Vec<u8>> {
        self.ahead.has_fence.then_some(self.ahead.fence)
    }

    /// Copies the next leaf, as of one moment, if it is loaded, it is below the same parent, and `accepts`
    /// accepts the separator behind it. If this returns false, the rest is found by a search for the fence.
    pub(super) fn advance(&mut self, accepts: impl Fn(&[u8]) -> bool) -> bool {
        let Some(left) = self.ahead.leaves.checked_sub(1) else { return false };
        let NodePlace::Slot { node, control, slot, .. } = self.place else { return false };
        let view = InnerView::new(&node, control);
        let Some(slot) = following(&view, slot, self.ascends, 1) else { return false };
        let beside = if self.ascends { slot + 1 } else { slot };
        if beside == 0 || beside >= view.count {
            // The separator behind the leaf is in another node.
            return false;
        }
        let word = view.slot(slot);
        self.next_fence.clear();
        view.separator(beside, &mut self.next_fence);
        let coming = following(&view, slot, self.ascends, LEAVES_AHEAD).filter(|_| left >= LEAVES_AHEAD);
        let coming = coming.map(|slot| view.slot(slot));
        // Acquire: as in `walk_below`. Words of a node that is being built may name no node at all.
        fence(Ordering::Acquire);
        if node.control_unordered() != control || !accepts(&self.next_fence) {
            return false;
        }
        if let Some(word) = coming {
            self.tree.leaf_node(child_of(word)).prefetch();
        }
        if !self.tree.is_loaded(Row::First, child_of(word)) {
            return false;
        }
        let place = NodePlace::Slot { node, control, slot, word };
        let leaf = &mut self.leaf;
        let read = self.tree.read_leaf(child_of(word), place, |node, control| leaf.load(node, control));
        if read.is_none() {
            return false;
        }
        self.place = place;
        self.ahead.leaves = left;
        mem::swap(&mut self.ahead.fence, &mut self.next_fence);
        true
    }
}
