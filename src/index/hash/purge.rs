//! Removal of the entries that lead to segments that are gone.
//!
//! A whole index is purged before it gets another entry. Of an index whose parts wait for records, each
//! part is purged before it gets them. A search of a part that waits is refused, so no search ever meets
//! such an entry.
//!
//! **Concurrency.** A reader may still follow a link to an overflow line that another chain has taken
//! since. A split is the only change that gives lines to a bucket of a part that waits, so it purges the
//! bucket before. Then no such entry lies in a line that a reader can reach.

use std::sync::Arc;

use super::IndexWriter;
use super::bucket::{Bucket, IndexEntry, SLOTS};
use super::parts::part_of_bucket;
use super::writer::collect_links;
use crate::format::hint::PARTS;
use crate::index::lines::block_error::BlockError;
use crate::mem::gone_ranges::GoneRanges;

impl IndexWriter {
    /// Removes every entry that leads to a segment that is gone, and returns their number. Makes the
    /// index whole first.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint; nothing was removed then.
    pub(crate) fn purge(&mut self, gone: &GoneRanges) -> Result<u64, BlockError> {
        self.index.lines().load_all()?;
        self.look_around();
        for bucket in 0..self.index.buckets() {
            self.purge_bucket(bucket, gone)?;
        }
        Ok(std::mem::take(&mut self.purged))
    }

    /// Removes the entries of a part that lead to segments that are gone. Returns the number of those
    /// removed since the last call; splits remove some of other parts.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint. The next call continues.
    pub(crate) fn purge_part(&mut self, part: usize) -> Result<u64, BlockError> {
        if let Some(parts) = self.index.waiting.get().map(Arc::clone) {
            for bucket in (part as u64..self.index.buckets()).step_by(PARTS) {
                self.purge_bucket(bucket, parts.gone())?;
            }
        }
        Ok(std::mem::take(&mut self.purged))
    }

    /// Purges a bucket before its split, if its part waits.
    ///
    /// # Errors
    ///
    /// An unreadable block of a checkpoint.
    pub(super) fn purge_for_split(&mut self, bucket: u64) -> Result<(), BlockError> {
        if !self.is_watched() || !self.index.lacks_parts() {
            return Ok(());
        }
        let parts = self.index.waiting.get().filter(|parts| parts.waits(part_of_bucket(bucket)));
        match parts.map(Arc::clone) {
            Some(parts) => self.purge_bucket(bucket, parts.gone()),
            None => Ok(()),
        }
    }

    fn purge_bucket(&mut self, bucket: u64, gone: &GoneRanges) -> Result<(), BlockError> {
        if gone.is_empty() {
            return Ok(());
        }
        self.announce(bucket, 0)?;
        let head = self.index.heads.line(bucket);
        collect_links(&self.index, head, &mut self.links);
        let lines = self.links.iter().map(|link| self.index.overflow.line(link.line()));
        let entries = std::iter::once(head).chain(lines).flat_map(|line| (0..SLOTS).map(|n| line.entry(n)));
        let mut dead = std::mem::take(&mut self.dead);
        dead.extend(entries.filter_map(IndexEntry::location).filter(|location| gone.has(*location)));
        for location in dead.drain(..) {
            self.purged += u64::from(self.remove_from(bucket, location));
        }
        self.dead = dead;
        Ok(())
    }
}
