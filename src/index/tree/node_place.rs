//! The search of readers: from the root to a leaf, beside the writer.

use super::inner::{InnerView, child_of};
use super::leaf::{LeafCopy, LeafView, TiedEntries};
use super::node::{Control, TreeNode, Words};
use super::{Aim, Root, Tree};
use crate::sync::{Ordering, fence, spin_loop};

/// The place that led a reader to a node.
#[derive(Clone, Copy)]
pub(super) enum NodePlace<'t> {
    Root(Root),
    Slot { node: TreeNode<'t>, control: Control, slot: usize, word: u64 },
}

/// The leaves that follow one in the direction of a scan.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The number of leaves that the scan will read after this one: they are prefetched.
    leaves: usize,
    has_fence: bool,
    /// The separator between the leaf and the next one, if there is one.
    fence: Vec<u8>,
}

impl Ahead {
    /// Notes the separator beside a slot, which is nearer than one that was noted before.
    fn note<W: Words + ?Sized>(&mut self, view: &InnerView<'_, W>, slot: usize, aim: Aim<'_>) {
        let beside = if aim.ascends() { slot + 1 } else { slot };
        if beside > 0 && beside < view.count {
            self.has_fence = true;
            self.fence.clear();
            view.separator(beside, &mut self.fence);
        }
    }

    /// Returns the words of the slots that follow, for as many leaves as are prefetched.
    fn slots<W: Words + ?Sized>(
        &self,
        view: &InnerView<'_, W>,
        slot: usize,
        aim: Aim<'_>,
    ) -> [Option<u64>; 2] {
        [1, 2].map(|distance| {
            let next = if aim.ascends() { Some(slot + distance) } else { slot.checked_sub(distance) };
            next.filter(|next| distance <= self.leaves && *next < view.count).map(|next| view.slot(next))
        })
    }
}

impl Tree {
    /// Copies the leaf of an aim as of one moment, and returns the separator between it and the leaf that
    /// follows in the direction of the aim. `leaves` more are prefetched, up to two.
    #[inline]
    pub(super) fn leaf(&self, aim: Aim<'_>, leaves: usize) -> (LeafCopy, Option<Vec<u8>>) {
        let (mut ahead, mut leaf) = (Ahead { leaves, ..Ahead::default() }, LeafCopy::empty(0));
        self.search(aim, Some(&mut ahead), |node, control| leaf.load(node, control));
        (leaf, ahead.has_fence.then_some(ahead.fence))
    }

    /// Copies the leaf of an aim as of one moment.
    #[inline]
    pub(super) fn leaf_at(&self, aim: Aim<'_>) -> LeafCopy {
        let mut leaf = LeafCopy::empty(0);
        self.search(aim, None, |node, control| leaf.load(node, control));
        leaf
    }

    /// Copies the leaf that may hold a key, as of one moment, with its number.
    #[inline]
    pub(super) fn leaf_of(&self, key: &[u8]) -> (u32, LeafCopy) {
        let mut leaf = LeafCopy::empty(0);
        let (number, ()) = self.search(Aim::At(key), None, |node, control| leaf.load(node, control));
        (number, leaf)
    }

    /// Returns the entries that are tied with a key, as of one moment.
    #[inline]
    pub(super) fn tied(&self, key: &[u8]) -> TiedEntries {
        self.search(Aim::At(key), None, |leaf, control| TiedEntries::read(LeafView::new(leaf, control), key))
            .1
    }

    /// Reads from the leaf of an aim as of one moment. Returns its number, and what `read` returned.
    #[inline]
    fn search<R>(
        &self,
        aim: Aim<'_>,
        mut ahead: Option<&mut Ahead>,
        mut read: impl FnMut(TreeNode<'_>, Control) -> R,
    ) -> (u32, R) {
        loop {
            if let Some(ahead) = &mut ahead {
                ahead.has_fence = false;
            }
            // Acquire: pairs with the release of the store that published the root.
            let root = Root(self.head.0.root.load(Ordering::Acquire));
            if let Some(found) = self.search_below(root, aim, ahead.as_deref_mut(), &mut read) {
                return found;
            }
            spin_loop();
        }
    }

    /// Reads from the leaf; `None` if something on the path changed meanwhile.
    #[inline]
    fn search_below<R>(
        &self,
        root: Root,
        aim: Aim<'_>,
        ahead: Option<&mut Ahead>,
        mut read: impl FnMut(TreeNode<'_>, Control) -> R,
    ) -> Option<(u32, R)> {
        let (number, place) = self.walk_below(root, aim, ahead)?;
        let leaf = self.leaf_node(number);
        let control = leaf.control();
        if control.level() != 0 || !self.is_in_force(place) {
            return None;
        }
        let found = read(leaf, control);
        // Acquire: as in `walk_below`; also pairs with the release of an entry, whose record is then seen (I2).
        fence(Ordering::Acquire);
        (leaf.control_unordered() == control).then_some((number, found))
    }

    /// Returns the number of the leaf of an aim, which is prefetched, and the place that led there; `None` if
    /// something on the path changed meanwhile.
    #[inline]
    fn walk_below(
        &self,
        root: Root,
        aim: Aim<'_>,
        mut ahead: Option<&mut Ahead>,
    ) -> Option<(u32, NodePlace<'_>)> {
        let mut place = NodePlace::Root(root);
        let (mut number, mut level) = (root.node(), root.level());
        while level > 0 {
            let node = self.inner(number);
            let control = node.control();
            if control.level() != level || !self.is_in_force(place) {
                return None;
            }
            let view = InnerView::new(&node, control);
            let slot = aim.slot_in(&view);
            let word = view.slot(slot);
            let following = ahead.as_deref_mut().map(|ahead| {
                ahead.note(&view, slot, aim);
                ahead.slots(&view, slot, aim)
            });
            // Acquire: pairs with the release of every word that was loaded above (T3).
            fence(Ordering::Acquire);
            if node.control_unordered() != control {
                return None;
            }
            place = NodePlace::Slot { node, control, slot, word };
            (number, level) = (child_of(word), level - 1);
            if level == 0 {
                self.leaf_node(number).prefetch();
                let following = following.into_iter().flatten().flatten();
                following.for_each(|word| self.leaf_node(child_of(word)).prefetch());
            }
        }
        Some((number, place))
    }

    /// Prefetches the leaf of a key. It reads no file, and waits for nothing.
    pub(crate) fn prefetch(&self, key: &[u8]) {
        // Acquire: as in `check`. The nodes of a partial tree may be missing.
        if self.head.0.flags.load(Ordering::Acquire) == 0 {
            // Acquire: as in `search`.
            let root = Root(self.head.0.root.load(Ordering::Acquire));
            self.walk_below(root, Aim::At(key), None);
        }
    }

    /// Returns true if a place still leads to the node whose control word was loaded after it.
    #[inline]
    pub(super) fn is_in_force(&self, place: NodePlace<'_>) -> bool {
        // Relaxed, all: ordered by the acquire of the control word.
        match place {
            NodePlace::Root(root) => self.head.0.root.load(Ordering::Relaxed) == root.0,
            NodePlace::Slot { node, control, slot, word } => {
                node.control_unordered() == control && InnerView::new(&node, control).slot(slot) == word
            }
        }
    }
}
