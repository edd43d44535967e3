//! The place of an absent key, which a search of the writer found and an insert uses.

use super::LEVELS_MAX;
use super::leaf::Beside;
use super::writer::Step;
use crate::format::record::MAX_ORDERED_KEY_LEN;

/// The place at which the last search did not find its key. Any change of the tree ends it.
#[derive(Debug)]
pub(super) struct Gap {
    is_known: bool,
    /// True if the last key that was not found belongs behind all entries that are tied with it, as keys that
    /// ascend do.
    pub(super) was_last: bool,
    key: Vec<u8>,
    /// The way from the root to the leaf.
    pub(super) path: Vec<Step>,
    leaf: u32,
    slot: usize,
    /// The tied entries that the search ended beside.
    beside: Beside,
}

impl Gap {
    pub(super) fn new() -> Self {
        Self {
            is_known: false,
            was_last: false,
            key: Vec::with_capacity(MAX_ORDERED_KEY_LEN),
            path: Vec::with_capacity(LEVELS_MAX),
            leaf: 0,
            slot: 0,
            beside: Beside::NONE,
        }
    }

    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    /// Notes the leaf of a key, to which the path leads, the slot before which it belongs, and the tied entries
    /// there.
    pub(super) fn note(&mut self, key: &[u8], leaf: u32, slot: usize, beside: Beside) {
        self.key.clear();
        // Longer keys are in no tree, so this allocates nothing.
        self.key.extend_from_slice(key);
        (self.leaf, self.slot, self.beside, self.is_known) = (leaf, slot, beside, true);
    }

    /// Returns the leaf, the slot and the tied entries of a key, if it was noted last. Forgets them.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<(u32, usize, Beside)> {
        let is_known = std::mem::take(&mut self.is_known) && self.key == key;
        is_known.then_some((self.leaf, self.slot, self.beside))
    }
}
