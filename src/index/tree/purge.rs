//! Removal of the entries of a tree by their locations.

use std::io;

use super::TreeWriter;
use super::leaf::LeafEntries;
use super::writer::TreeChange;
use crate::mem::location::Location;

impl TreeWriter {
    /// Removes every entry whose location `keep` refuses, and returns their number. Makes the tree whole
    /// first. It reads no record, so leaves stay as small as they get.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint, nothing was removed then; or memory is short.
    pub(crate) fn purge(&mut self, keep: impl Fn(Location) -> bool) -> io::Result<u64> {
        self.tree.lines().load_all()?;
        self.look_around();
        self.reserve(1)?;
        let mut removed = 0;
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let number = self.descend(&key);
            let slot = self.path.last().map_or(0, |step| step.slot);
            from = self.fences(slot..slot + 1).upper;
            let leaf = self.read_leaf(number);
            let kept = leaf.retained(&keep);
            let gone = leaf.count() - kept.count();
            if gone > 0 {
                let child = self.build_leaf(&kept);
                self.old_leaves.push(number);
                self.publish(TreeChange::Child(child));
                self.count(-i64::try_from(gone).expect("a few"));
                removed += gone as u64;
            }
        }
        Ok(removed)
    }
}
