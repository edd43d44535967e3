//! Splits: growth of the index by one bucket.
//!
//! **Concurrency.** As for all changes: made by the writer, in the order of the table in the head
//! of `index::hash`.

use std::io;

use super::bucket::{Bucket, ControlWord, IndexEntry, OverflowLink, SLOTS, slots_where};
use super::writer::{IndexWriter, OverflowLines, append, collect_links};
use super::{Index, TAG_MASK, split_source};
use crate::mem::line_array::Line;
use crate::sync::Ordering;

impl IndexWriter {
    /// Splits the next bucket.
    pub(super) fn split(&mut self) -> io::Result<()> {
        // Relaxed: the writer stored it.
        let shape = self.index.shape(Ordering::Relaxed);
        let buckets = shape.buckets();
        self.index.heads.ensure(buckets)?;
        self.index.prefetch_splits(buckets);
        let number = split_source(buckets);
        // The links are known once the chain is loaded, and then the number of lines that the split
        // takes.
        self.announce(number, 0)?;
        self.purge_for_split(number)?;
        collect_links(&self.index, self.index.heads.line(number), &mut self.links);
        self.announce(number, self.links.len())?;
        let Self { index, lines, links, entries, .. } = self;
        let index = &**index;
        // The sibling's chain is not longer than its source's.
        lines.ensure(links.len() as u64, &index.overflow)?;
        let used = lines.used;
        split_off(index, lines, SplitBuffers { links, entries }, buckets, || {
            // Release: pairs with the acquire load in `find` and `scan`: the sibling is filled. By
            // the entries emptied afterwards it also pairs with the fence of a reader that misses a
            // leaver.
            index.front.0.shape.store(shape.grown(buckets + 1).to_bits(), Ordering::Release);
        });
        self.count_lines(used);
        Ok(())
    }
}

/// Memory for a split.
pub(super) struct SplitBuffers<'w> {
    /// The links of the chain of the bucket that is split.
    pub(super) links: &'w mut Vec<OverflowLink>,
    /// Its entries are put here.
    pub(super) entries: &'w mut Vec<IndexEntry>,
}

/// Moves the leavers of a bucket to its sibling, which has the number `sibling` and is empty. The
/// sibling counts from `publish` on. As many lines must be reserved as the bucket's chain has links.
pub(super) fn split_off(
    index: &Index,
    lines: &mut OverflowLines,
    buffers: SplitBuffers<'_>,
    sibling: u64,
    publish: impl FnOnce(),
) {
    let source = index.heads.line(split_source(sibling));
    // This bit distinguishes leavers from stayers, which have all lower bits in common. It is zero
    // in an empty entry.
    let leaves = {
        let bit = sibling.ilog2() - index.base_bits;
        debug_assert!(TAG_MASK >> bit != 0, "the row of buckets ends where tags do");
        move |entry: IndexEntry| entry.tag() >> bit & 1 == 1
    };
    if buffers.links.is_empty() {
        // Most buckets have one line.
        let target = index.heads.line(sibling);
        let leavers = slots_where(source, leaves);
        leavers.clone().enumerate().for_each(|(place, slot)| target.set_entry(place, source.entry(slot)));
        publish();
        leavers.for_each(|slot| source.set_entry(slot, IndexEntry::EMPTY));
        return;
    }
    let mut chain = BucketChain::of(index, source, buffers);
    let stayers = chain.copy_leavers(lines, index.heads.line(sibling), leaves);
    publish();
    chain.drop_leavers(lines, stayers, leaves);
}

/// The bucket that is being split.
struct BucketChain<'w> {
    index: &'w Index,
    head: &'w Line,
    links: &'w mut Vec<OverflowLink>,
    /// The entries before the split, empty slots included.
    entries: &'w mut Vec<IndexEntry>,
}

impl<'w> BucketChain<'w> {
    fn of(index: &'w Index, head: &'w Line, SplitBuffers { links, entries }: SplitBuffers<'w>) -> Self {
        entries.clear();
        let lines = std::iter::once(head).chain(links.iter().map(|link| index.overflow.line(link.line())));
        entries.extend(lines.flat_map(|line| (0..SLOTS).map(|slot| line.entry(slot))));
        Self { index, head, links, entries }
    }

    fn line(&self, number: usize) -> &'w Line {
        match number.checked_sub(1) {
            None => self.head,
            Some(link) => self.index.overflow.line(self.links[link].line()),
        }
    }

    /// Copies the leavers to the sibling, which no reader can reach yet; returns the number of
    /// stayers.
    fn copy_leavers(
        &self,
        lines: &mut OverflowLines,
        sibling: &Line,
        leaves: impl Fn(IndexEntry) -> bool,
    ) -> usize {
        let (mut stayers, mut leavers) = (0, 0);
        for entry in self.entries.iter().copied().filter(|entry| !entry.is_empty()) {
            if !leaves(entry) {
                stayers += 1;
            } else if leavers < SLOTS {
                sibling.set_entry(leavers, entry);
                leavers += 1;
            } else {
                append(self.index, lines, sibling, entry);
            }
        }
        stayers
    }

    /// Removes the leavers, and the lines that the stayers do not need. The sibling must be
    /// published.
    fn drop_leavers(
        &mut self,
        lines: &mut OverflowLines,
        stayers: usize,
        leaves: impl Fn(IndexEntry) -> bool,
    ) {
        self.gather(stayers, leaves);
        let kept = stayers.div_ceil(SLOTS).max(1);
        let control = self.head.control_unordered().bumped();
        self.head.set_control(if kept == 1 { control.with_link(None) } else { control });
        if kept > 1 {
            self.line(kept - 1).set_control(ControlWord::default());
        }
        // After the version, which announces it (X1).
        for place in stayers..self.entries.len() {
            let (line, slot) = self.place(place);
            line.set_entry(slot, IndexEntry::EMPTY);
        }
        for link in self.links.drain(kept - 1..) {
            self.index.overflow.line(link.line()).set_control(ControlWord::default());
            lines.free.insert(link);
        }
    }

    /// Copies stayers from the end of the chain into the slots of leavers at its front, until the
    /// first slots of the chain hold all stayers (X4).
    fn gather(&self, stayers: usize, leaves: impl Fn(IndexEntry) -> bool) {
        let range_pins = |entry: &IndexEntry| !entry.is_empty() && !leaves(*entry);
        let (front, rest) = self.entries.split_at(stayers);
        let free = front.iter().enumerate().filter(|(_, entry)| !range_pins(entry));
        for ((place, _), entry) in free.zip(rest.iter().filter(|entry| range_pins(entry))) {
            let (line, slot) = self.place(place);
            line.set_entry(slot, *entry);
        }
    }

    fn place(&self, place: usize) -> (&'w Line, usize) {
        (self.line(place / SLOTS), place % SLOTS)
    }
}
