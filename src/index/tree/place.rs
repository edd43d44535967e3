//! The search of readers: from the root to a leaf, beside the writer.

use super::inner::{InnerView, child_of};
use super::leaf::{LeafCopy, LeafView, TiedEntries};
use super::node::{Control, TreeNode, Words};
use super::{Aim, Fences, Root, Tree};
use crate::sync::{Ordering, fence, spin_loop};

/// The place that led a reader to a node.
#[derive(Clone, Copy)]
pub(super) enum Place<'t> {
    Root(Root),
    Slot { node: TreeNode<'t>, control: Control, slot: usize, word: u64 },
}

impl Tree {
    /// Copies the leaf of an aim as of one moment, and its fences.
    pub(super) fn leaf(&self, aim: Aim<'_>, fences: &mut Fences) -> LeafCopy {
        self.search(aim, Some(fences), LeafCopy::read).1
    }

    /// Copies the leaf that may hold a key, as of one moment, with its number.
    pub(super) fn leaf_of(&self, key: &[u8]) -> (u32, LeafCopy) {
        self.search(Aim::At(key), None, LeafCopy::read)
    }

    /// Returns the entries that are tied with a key, as of one moment.
    #[inline]
    pub(super) fn tied(&self, key: &[u8]) -> TiedEntries {
        self.search(Aim::At(key), None, |leaf, control| TiedEntries::read(LeafView::new(leaf, control), key))
            .1
    }

    /// Reads from the leaf of an aim as of one moment, and notes its fences. Returns its number, and what
    /// `read` returned.
    #[inline]
    fn search<R>(
        &self,
        aim: Aim<'_>,
        mut fences: Option<&mut Fences>,
        read: impl Fn(TreeNode<'_>, Control) -> R,
    ) -> (u32, R) {
        loop {
            if let Some(fences) = &mut fences {
                **fences = Fences::default();
            }
            // Acquire: pairs with the release of the store that published the root.
            let root = Root(self.head.0.root.load(Ordering::Acquire));
            if let Some(found) = self.search_below(root, aim, fences.as_deref_mut(), &read) {
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
        mut fences: Option<&mut Fences>,
        read: impl Fn(TreeNode<'_>, Control) -> R,
    ) -> Option<(u32, R)> {
        let mut place = Place::Root(root);
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
            if let Some(fences) = fences.as_deref_mut() {
                note_fences(&view, slot, fences);
            }
            // Acquire: pairs with the release of every word that was loaded above (T3).
            fence(Ordering::Acquire);
            if node.control_unordered() != control {
                return None;
            }
            place = Place::Slot { node, control, slot, word };
            (number, level) = (child_of(word), level - 1);
            if level == 0 {
                self.leaf_node(number).prefetch();
            }
        }
        let leaf = self.leaf_node(number);
        let control = leaf.control();
        if control.level() != 0 || !self.is_in_force(place) {
            return None;
        }
        let found = read(leaf, control);
        // Acquire: as above; also pairs with the release of an entry, whose record is then seen (I2).
        fence(Ordering::Acquire);
        (leaf.control_unordered() == control).then_some((number, found))
    }

    /// Returns true if a place still leads to the node whose control word was loaded after it.
    #[inline]
    pub(super) fn is_in_force(&self, place: Place<'_>) -> bool {
        // Relaxed, all: ordered by the acquire of the control word.
        match place {
            Place::Root(root) => self.head.0.root.load(Ordering::Relaxed) == root.0,
            Place::Slot { node, control, slot, word } => {
                node.control_unordered() == control && InnerView::new(&node, control).slot(slot) == word
            }
        }
    }
}

/// Notes the separators beside a slot, which are nearer than those noted before.
fn note_fences<W: Words + ?Sized>(view: &InnerView<'_, W>, slot: usize, fences: &mut Fences) {
    let separator = |slot| {
        let mut key = Vec::new();
        view.separator(slot, &mut key);
        key
    };
    if slot > 0 {
        fences.lower = Some(separator(slot));
    }
    if slot + 1 < view.count {
        fences.upper = Some(separator(slot + 1));
    }
}
