//! The search of readers: from the root to a leaf, beside the writer.

use super::inner::{InnerView, child_of};
use super::leaf::{LeafCopy, LeafView, TiedEntries};
use super::leaf_scan::Ahead;
use super::node::{Control, TreeNode};
use super::{Aim, Root, Tree};
use crate::sync::{Ordering, fence, spin_loop};

/// The place that led a reader to a node.
#[derive(Clone, Copy)]
pub(super) enum NodePlace<'t> {
    Root(Root),
    Slot { node: TreeNode<'t>, control: Control, slot: usize, word: u64 },
}

impl Tree {
    /// Copies the leaf that may hold a key, as of one moment, with its number.
    #[inline]
    pub(super) fn leaf_of(&self, key: &[u8]) -> (u32, LeafCopy) {
        let mut leaf = LeafCopy::empty(0);
        let (number, ()) = self.search(Aim::At(key), |node, control| leaf.load(node, control));
        (number, leaf)
    }

    /// Returns the entries that are tied with a key, as of one moment.
    #[inline]
    pub(super) fn tied(&self, key: &[u8]) -> TiedEntries {
        self.search(Aim::At(key), |leaf, control| TiedEntries::read(LeafView::new(leaf, control), key)).1
    }

    /// Reads from the leaf of an aim as of one moment. Returns its number, and what `read` returned.
    #[inline]
    pub(super) fn search<R>(
        &self,
        aim: Aim<'_>,
        mut read: impl FnMut(TreeNode<'_>, Control) -> R,
    ) -> (u32, R) {
        loop {
            // Acquire: pairs with the release of the store that published the root.
            let root = Root(self.head.0.root.load(Ordering::Acquire));
            if let Some((number, place)) = self.walk_below(root, aim, None)
                && let Some(found) = self.read_leaf(number, place, &mut read)
            {
                return (number, found);
            }
            spin_loop();
        }
    }

    /// Reads from a leaf as of one moment; `None` if the place that led there is not in force, or the leaf
    /// changed meanwhile.
    #[inline]
    pub(super) fn read_leaf<R>(
        &self,
        number: u32,
        place: NodePlace<'_>,
        read: impl FnOnce(TreeNode<'_>, Control) -> R,
    ) -> Option<R> {
        let leaf = self.leaf_node(number);
        let control = leaf.control();
        if control.level() != 0 || !self.is_in_force(place) {
            return None;
        }
        let found = read(leaf, control);
        // Acquire: as in `walk_below`; also pairs with the release of an entry, whose record is then seen (I2).
        fence(Ordering::Acquire);
        (leaf.control_unordered() == control).then_some(found)
    }

    /// Returns the number of the leaf of an aim, which is prefetched, and the place that led there; `None` if
    /// something on the path changed meanwhile.
    #[inline]
    pub(super) fn walk_below(
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
                ahead.note(&view, slot, aim.ascends());
                ahead.slots(&view, slot, aim.ascends())
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
