//! Removal of index entries by their locations.

use super::IndexWriter;
use super::bucket::{Bucket, IndexEntry, SLOTS};
use super::writer::collect_links;
use crate::index::lines::block_error::BlockError;
use crate::mem::location::Location;

impl IndexWriter {
    /// Removes every entry whose location `keep` refuses, and returns their number. Makes the index
    /// whole first.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint; nothing was removed then.
    pub(crate) fn purge(&mut self, keep: impl Fn(Location) -> bool) -> Result<u64, BlockError> {
        self.index.lines().load_all()?;
        self.look_around();
        let mut removed = 0;
        let mut gone = Vec::new();
        for bucket in 0..self.index.buckets() {
            let head = self.index.heads.line(bucket);
            collect_links(&self.index, head, &mut self.links);
            let lines = self.links.iter().map(|link| self.index.overflow.line(link.line()));
            let entries =
                std::iter::once(head).chain(lines).flat_map(|line| (0..SLOTS).map(|n| line.entry(n)));
            gone.extend(entries.filter_map(IndexEntry::location).filter(|location| !keep(*location)));
            for location in gone.drain(..) {
                self.announce(bucket, 0)?;
                removed += u64::from(self.remove_from(bucket, location));
            }
        }
        Ok(removed)
    }
}
