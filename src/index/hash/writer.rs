//! The one writer of an index.
//!
//! **Concurrency.** The store's writer mutex keeps the writer alone; the order of its stores
//! against readers is the table in the head of `index::hash`.
//!
//! **Invariants.** After [`IndexWriter::reserve_many`] of n, n inserts neither fail nor allocate
//! lines: each takes at most one overflow line. Growing either completes or changes nothing. The
//! index also shrinks at a reservation (`merge`), and never between a reservation and its inserts.
//!
//! **Watching.** While a capture is running, or an index from a checkpoint is not whole, a change
//! must be announced before it is made. Announcing loads the chain, and keeps its pages for the
//! capture. One flag tells if that is needed. It is false nearly always, so a change costs one more
//! branch. A change of a partial index must follow a successful search for its hash, which every
//! writer makes anyway; then the change cannot fail either.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::bucket::{Bucket, IndexEntry, OverflowLink, SLOTS, slots_where};
use super::merge::Highest;
use super::{Index, bucket_of, search};
use crate::format::hash::Hash;
use crate::index::lines::Row;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::capture::{Capture, SavedPages};
use crate::index::lines::chunked::ChunkedLines;
use crate::mem::line_array::Line;
use crate::mem::location::Location;
use crate::sync::Ordering;

/// Entries per bucket, times ten, above which a bucket is split. That is 13.6 bytes of buckets per
/// entry, and about 15 with the overflow lines: the least of both together (simulated in the
/// research for this crate).
pub(super) const LOAD_TIMES_TEN: u64 = 47;

/// The handle that changes an index.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    pub(super) index: Arc<Index>,
    pub(super) lines: OverflowLines,
    /// The links of the current chain; kept for its memory.
    pub(super) links: Vec<OverflowLink>,
    /// The entries of the chain that is being split; kept for its memory.
    pub(super) entries: Vec<IndexEntry>,
    /// The links of the chain that is merged into another; kept for its memory.
    pub(super) gone: Vec<OverflowLink>,
    pub(super) highest: Highest,
    /// The locations that are removed from a bucket; kept for its memory.
    pub(super) dead: Vec<Location>,
    /// The number of entries that purges have removed since it was last taken; see `purge`.
    pub(super) purged: u64,
    /// True if changes must be announced: a capture is running, or the index is partial.
    watched: bool,
    /// The capture that is running.
    aside: Option<Arc<SavedPages>>,
}

/// The free overflow lines: those that were returned, and those that were never used.
#[derive(Debug)]
pub(super) struct OverflowLines {
    /// The returned lines. The lowest is taken first, so that lines at the end can be given up when
    /// the index shrinks.
    pub(super) free: BTreeSet<OverflowLink>,
    /// The number of lines ever used.
    pub(super) used: u64,
    /// The number of lines whose memory exists.
    pub(super) ensured: u64,
}

impl OverflowLines {
    pub(super) fn take(&mut self) -> OverflowLink {
        if let Some(link) = self.free.pop_first() {
            return link;
        }
        assert!(self.used < self.ensured, "an overflow line was taken that was not reserved");
        let link = OverflowLink::to(self.used).expect("reserved lines have links");
        self.used += 1;
        link
    }

    /// True if the last line that was ever used is free.
    #[inline]
    pub(super) fn ends_free(&self) -> bool {
        self.free.last().is_some_and(|last| last.line() + 1 == self.used)
    }

    /// Returns the number of lines that can be taken.
    #[inline]
    pub(super) fn left(&self) -> u64 {
        self.free.len() as u64 + (self.ensured - self.used)
    }

    #[inline]
    pub(super) fn ensure(&mut self, count: u64, row: &ChunkedLines) -> io::Result<()> {
        if self.left() < count {
            self.ensure_more(count, row)?;
        }
        Ok(())
    }

    #[cold]
    fn ensure_more(&mut self, count: u64, row: &ChunkedLines) -> io::Result<()> {
        while self.left() < count {
            if OverflowLink::to(self.ensured).is_none() {
                return Err(io::Error::other(
                    "the index has as many overflow lines as its links can tell apart",
                ));
            }
            row.ensure(self.ensured)?;
            self.ensured = row.chunk_end(self.ensured).min(super::bucket::LINKS);
        }
        Ok(())
    }
}

impl IndexWriter {
    pub(super) fn new(index: Arc<Index>) -> Self {
        let lines = OverflowLines { free: BTreeSet::new(), used: 0, ensured: 0 };
        Self {
            index,
            lines,
            links: Vec::new(),
            entries: Vec::new(),
            gone: Vec::new(),
            highest: Highest::default(),
            dead: Vec::new(),
            purged: 0,
            watched: false,
            aside: None,
        }
    }

    /// Makes the writer of a partial index with `overflow_lines` overflow lines in use.
    pub(super) fn restore(index: Arc<Index>, overflow_lines: u64) -> Self {
        let mut writer = Self { watched: true, ..Self::new(index) };
        let ensured = overflow_lines.checked_sub(1).map_or(0, |last| writer.index.overflow.chunk_end(last));
        writer.lines.used = overflow_lines;
        writer.lines.ensured = ensured.min(super::bucket::LINKS);
        writer
    }

    /// Begins a capture of the index as it is now. The store's writer mutex makes this one moment
    /// for several indexes. At most `limit` pages of 4 KiB are kept for it at once; see `capture`.
    ///
    /// `None` while another capture is running, or while the index is partial.
    pub(crate) fn begin_checkpoint(&mut self, limit: usize) -> Option<Capture> {
        self.look_around();
        if self.watched {
            return None;
        }
        let aside = Arc::new(SavedPages::new(self.index.lines(), limit));
        self.aside = Some(Arc::clone(&aside));
        self.watched = true;
        Some(Capture::new(Arc::<Index>::clone(&self.index), aside))
    }

    /// Updates the flag that says if changes must be announced.
    pub(super) fn look_around(&mut self) {
        if !self.watched {
            return;
        }
        self.aside.take_if(|aside| !aside.is_running());
        let is_partial = self.index.is_partial();
        if !is_partial && let Some(loader) = &self.index.loader {
            let [_, free] = loader.take_free();
            self.lines.free.extend(free.into_iter().filter_map(OverflowLink::to));
        }
        self.watched = is_partial || self.aside.is_some();
    }

    /// Announces a change of a bucket's chain that takes up to `takes` overflow lines.
    ///
    /// # Errors
    ///
    /// Returns an error if the chain is in an unreadable block of a checkpoint: the change must not
    /// be made then.
    #[inline]
    pub(super) fn announce(&mut self, bucket: u64, takes: usize) -> Result<(), BlockError> {
        if self.watched { self.announce_watched(bucket, takes) } else { Ok(()) }
    }

    #[cold]
    fn announce_watched(&mut self, bucket: u64, takes: usize) -> Result<(), BlockError> {
        self.look_around();
        let Self { index, lines, aside, .. } = self;
        let index = &**index;
        if index.is_partial() {
            index.ensure_loaded(bucket)?;
        }
        if let Some(aside) = aside {
            aside.keep_line(index, Row::First, bucket);
            let mut link = index.heads.line(bucket).control_unordered().link();
            while let Some(next) = link {
                aside.keep_line(index, Row::Second, next.line());
                link = index.overflow.line(next.line()).control_unordered().link();
            }
            for free in lines.free.iter().take(takes) {
                aside.keep_line(index, Row::Second, free.line());
            }
        }
        Ok(())
    }

    /// Announces a change that cannot fail, and returns false if it must not be made; the index
    /// ends then. An earlier search has reported the error already.
    #[inline]
    fn is_announced(&mut self, bucket: u64, takes: usize) -> bool {
        match self.announce(bucket, takes) {
            Ok(()) => true,
            Err(unread) => {
                self.index.lines().end(unread);
                false
            }
        }
    }

    fn bucket_of(&self, hash: Hash) -> u64 {
        bucket_of(hash.to_bits(), self.index.buckets())
    }

    /// Returns the index that this writer changes.
    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Makes the writer announce changes until the index is whole.
    pub(super) fn watch(&mut self) {
        self.watched = true;
    }

    /// True if changes must be announced, as of the last check.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Makes sure that `count` inserts cannot fail. Splits about one bucket for every five inserts,
    /// and at most one for one insert, at every size of the index.
    /// The next reservation replaces this one; they do not add up. If few entries are left, it
    /// merges two buckets for each insert and two more.
    ///
    /// # Errors
    ///
    /// Returns an error if memory or address space is short, or the index has its greatest size.
    /// Nothing is lost.
    pub(crate) fn reserve_many(&mut self, count: usize) -> io::Result<()> {
        let count = count as u64;
        // Relaxed: the writer stored it.
        let entries = self.index.counters.0.entries.load(Ordering::Relaxed).saturating_add(count);
        if self.may_shrink() {
            self.shrink_for(usize::try_from(count).unwrap_or(usize::MAX));
        }
        while entries.saturating_mul(10) > self.index.buckets().saturating_mul(LOAD_TIMES_TEN) {
            self.split()?;
        }
        self.lines.ensure(count, &self.index.overflow)
    }

    /// Shrinks the index before `count` removals: if few entries are left, it merges two buckets
    /// for each and two more.
    #[inline]
    pub(crate) fn before_removals(&mut self, count: usize) {
        if self.may_shrink() {
            self.shrink_for(count);
        }
    }

    /// Searches as [`Index::find`] does, without a check at the end: nothing moves while the writer
    /// is here.
    #[inline]
    pub(crate) fn find<E: From<BlockError>>(
        &self,
        hash: Hash,
        mut matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        let tag = self.index.tag(hash);
        if self.watched && self.index.is_partial() {
            self.index.ensure_searchable(self.bucket_of(hash))?;
        }
        self.find_in_chain(hash, tag, &mut matches)
    }

    /// Searches as [`IndexWriter::find`] does, in a part that may wait: for the caller that puts its
    /// records into the index.
    pub(crate) fn find_below<E: From<BlockError>>(
        &self,
        hash: Hash,
        mut matches: impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        self.index.ensure_loaded(self.bucket_of(hash))?;
        self.find_in_chain(hash, self.index.tag(hash), &mut matches)
    }

    #[inline]
    fn find_in_chain<E>(
        &self,
        hash: Hash,
        tag: u64,
        matches: &mut impl FnMut(Location) -> Result<bool, E>,
    ) -> Result<Option<Location>, E> {
        let mut line = self.head(hash);
        loop {
            if let Some(found) = search(line, tag, matches)? {
                return Ok(Some(found));
            }
            match line.control_unordered().link() {
                Some(link) => line = self.index.overflow.line(link.line()),
                None => return Ok(None),
            }
        }
    }

    /// Inserts an entry. The key must be absent, and space for the entry reserved.
    pub(crate) fn insert(&mut self, hash: Hash, location: Location) {
        self.insert_entry(hash, IndexEntry::new(self.index.tag(hash), location));
    }

    /// Inserts an entry for a record that nothing has verified since this open.
    pub(crate) fn insert_unverified(&mut self, hash: Hash, location: Location) {
        self.insert_entry(hash, IndexEntry::unverified(self.index.tag(hash), location));
    }

    #[inline]
    fn insert_entry(&mut self, hash: Hash, entry: IndexEntry) {
        if !self.is_announced(self.bucket_of(hash), 1) {
            return;
        }
        let Self { index, lines, .. } = self;
        let head = index.heads.line(bucket_of(hash.to_bits(), index.buckets()));
        let used = lines.used;
        append(index, lines, head, entry);
        self.count_lines(used);
        self.count(1);
    }

    /// Replaces an entry's location by another one of its key, in place; returns false if there is
    /// no such entry.
    pub(crate) fn replace(&mut self, hash: Hash, old: Location, new: Location) -> bool {
        self.is_announced(self.bucket_of(hash), 0) && replace_in(&self.index, hash, old, new)
    }

    /// Removes the entry with this location; returns false if there is none. Never needs memory.
    pub(crate) fn remove(&mut self, hash: Hash, old: Location) -> bool {
        let bucket = self.bucket_of(hash);
        self.is_announced(bucket, 0) && self.remove_from(bucket, old)
    }

    /// Removes the entry with this location from a bucket whose change was announced.
    pub(super) fn remove_from(&mut self, bucket: u64, old: Location) -> bool {
        let index = &*self.index;
        let head = index.heads.line(bucket);
        collect_links(index, head, &mut self.links);
        let mut lines =
            std::iter::once(head).chain(self.links.iter().map(|link| index.overflow.line(link.line())));
        let Some((line, slot)) = lines.find_map(|line| Some((line, slot_of(line, old)?))) else {
            return false;
        };
        let control = head.control_unordered().bumped();
        if let Some((&last_link, before)) = self.links.split_last() {
            // The chain's last entry takes its slot, so that chains stay as short as possible (X4).
            let last = index.overflow.line(last_link.line());
            let last_slot = (0..SLOTS).rev().find(|&slot| !last.entry(slot).is_empty());
            let last_slot = last_slot.expect("the last line of a chain is not empty");
            line.set_entry(slot, last.entry(last_slot));
            if last_slot > 0 {
                head.set_control(control);
            } else if let Some(previous) = before.last() {
                head.set_control(control);
                let previous = index.overflow.line(previous.line());
                previous.set_control(previous.control_unordered().with_link(None));
            } else {
                head.set_control(control.with_link(None));
            }
            // After the version, which announces it (X1).
            last.set_entry(last_slot, IndexEntry::EMPTY);
            if last_slot == 0 {
                self.lines.free.insert(last_link);
            }
        } else {
            line.set_entry(slot, IndexEntry::EMPTY);
            head.set_control(control);
        }
        self.count(-1);
        true
    }

    fn head(&self, hash: Hash) -> &Line {
        self.index.heads.line(self.bucket_of(hash))
    }

    /// Publishes the number of overflow lines ever used, if it is not `before`.
    #[inline]
    pub(super) fn count_lines(&self, before: u64) {
        if self.lines.used != before {
            // Relaxed: a count for `memory_bytes` and `populate_ahead`, stored by the one writer.
            self.index.counters.0.overflow_lines.store(self.lines.used, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, change: i64) {
        let entries = &self.index.counters.0.entries;
        // Relaxed, both: a count on its own, stored by the one writer.
        entries.store(entries.load(Ordering::Relaxed).wrapping_add_signed(change), Ordering::Relaxed);
    }
}

/// Puts an entry into the first free slot of a chain, or into a new line at its end.
pub(super) fn append(index: &Index, lines: &mut OverflowLines, head: &Line, entry: IndexEntry) {
    let mut line = head;
    loop {
        if let Some(slot) = slots_where(line, IndexEntry::is_empty).next() {
            line.set_entry(slot, entry);
            return;
        }
        let control = line.control_unordered();
        let Some(link) = control.link() else {
            let link = lines.take();
            // The entry is stored before the link to its line.
            index.overflow.line(link.line()).set_entry(0, entry);
            line.set_control(control.with_link(Some(link)));
            return;
        };
        line = index.overflow.line(link.line());
    }
}

/// Replaces an entry's location in place; returns false if there is no such entry.
pub(super) fn replace_in(index: &Index, hash: Hash, old: Location, new: Location) -> bool {
    let mut line = index.heads.line(bucket_of(hash.to_bits(), index.buckets()));
    loop {
        if let Some(slot) = slot_of(line, old) {
            line.set_entry(slot, IndexEntry::new(index.tag(hash), new));
            return true;
        }
        match line.control_unordered().link() {
            Some(link) => line = index.overflow.line(link.line()),
            None => return false,
        }
    }
}

/// Returns the slot of a location in a line.
fn slot_of(line: &Line, location: Location) -> Option<usize> {
    slots_where(line, |entry| entry.index_leads_to(location)).next()
}

/// Collects the links of a chain, in order.
pub(super) fn collect_links(index: &Index, head: &Line, links: &mut Vec<OverflowLink>) {
    links.clear();
    let mut link = head.control_unordered().link();
    while let Some(next) = link {
        links.push(next);
        link = index.overflow.line(next.line()).control_unordered().link();
    }
}

#[cfg(test)]
impl IndexWriter {
    /// Makes sure that one insert cannot fail.
    pub(crate) fn reserve(&mut self) -> io::Result<()> {
        self.reserve_many(1)
    }

    /// Reserves overflow lines for inserts, without the splits that `reserve` would make.
    pub(super) fn reserve_lines(&mut self, count: u64) {
        self.lines.ensure(count, &self.index.overflow).expect("memory");
    }

    #[cfg(loom)]
    pub(super) fn merge_one(&mut self) {
        assert!(self.merge(), "memory");
    }

    pub(super) fn split_one(&mut self) {
        self.split().expect("memory");
    }

    #[cfg(not(loom))]
    pub(super) fn free_lines(&self) -> u64 {
        self.lines.free.len() as u64
    }

    #[cfg(not(loom))]
    pub(super) fn ensured_lines(&self) -> u64 {
        self.lines.ensured
    }
}
