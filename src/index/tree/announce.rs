//! The part of the writer that a capture and a partial tree need.
//!
//! While a capture is running, the pages of each node are kept for it before the node changes. While a
//! tree from a checkpoint is not whole, a change loads the path to its leaf first; a search for the key
//! has done so before, so the change cannot fail. One flag tells if either is so.

use std::sync::Arc;

use super::node_check::lines_of_blocks;
use super::{Aim, Tree, TreeWriter};
use crate::index::lines::capture::{Capture, SavedPages};
use crate::index::lines::{IndexLines as _, Row};

impl TreeWriter {
    /// Begins a capture of the tree as it is now; see
    /// [`KeyIndexWriter::begin_checkpoint`](crate::index::key_index::KeyIndexWriter::begin_checkpoint).
    pub(crate) fn begin_checkpoint(&mut self, limit: usize) -> Option<Capture> {
        self.look_around();
        if self.watched || self.tree.has_ended() {
            return None;
        }
        let aside = Arc::new(SavedPages::new(self.tree.lines(), limit));
        self.aside = Some(Arc::clone(&aside));
        self.watched = true;
        Some(Capture::new(Arc::<Tree>::clone(&self.tree), aside))
    }

    /// Updates the flag that says if a capture is running, or the tree is partial.
    pub(super) fn look_around(&mut self) {
        if !self.watched {
            return;
        }
        self.aside.take_if(|aside| !aside.is_running());
        let is_partial = self.tree.is_partial();
        if !is_partial && let Some(loader) = self.tree.loader() {
            let [leaves, inners] = loader.take_free();
            let number = |number: u64| u32::try_from(number).expect("checked when it was restored");
            self.leaves.free.extend(leaves.into_iter().map(number));
            self.inners.free.extend(inners.into_iter().map(number));
        }
        self.watched = is_partial || self.aside.is_some();
    }

    /// Prepares a change of the leaf of a key that cannot fail, and returns false if it must not be
    /// made; the tree ends then. An earlier search has reported the error already.
    #[inline]
    pub(super) fn is_announced(&mut self, key: &[u8]) -> bool {
        !self.watched || self.announce(key)
    }

    #[cold]
    fn announce(&mut self, key: &[u8]) -> bool {
        self.look_around();
        if self.tree.has_ended() {
            return false;
        }
        let loaded = if self.tree.is_partial() { self.tree.ensure_searchable(Aim::At(key)) } else { Ok(()) };
        loaded.inspect_err(|unread| self.tree.lines().end(unread.clone())).is_ok()
    }

    /// Keeps the pages of a node that is about to change, for a capture.
    #[inline]
    pub(super) fn keep(&self, row: Row, number: u32) {
        if let Some(aside) = &self.aside {
            for line in lines_of_blocks(row, number) {
                aside.keep_line(self.tree.lines(), row, line);
            }
        }
    }
}
