//! Merges: shrinking the index by one bucket, the reverse of a split, when few entries are left.
//!
//! **Concurrency.** As for all changes: made by the writer, in the order of the table in the head
//! of `index::hash`.
//!
//! **Steps.** Each reservation merges two buckets for each entry that it reserves or that is to be
//! removed, and two more. A removal makes 0.85 merges necessary on average, so the index is never
//! larger than its entries need, except while a capture is running or the index is partial. A merge
//! costs about as much as a split. Memory behind the last bucket is released in pieces of 256 KiB.

use std::sync::Arc;

use super::bucket::{Bucket, ControlWord, IndexEntry, OverflowLink, SLOTS, slots_where};
use super::writer::{IndexWriter, LOAD_TIMES_TEN, collect_links};
use super::{Index, split_source};
use crate::index::lines::chunked::ChunkedLines;
use crate::mem::line_array::Line;
use crate::sync::{AtomicU64, Ordering};

/// Buckets are merged if they hold less than this fraction (one in four) of the entries that make
/// them split.
const SPARSE: u64 = 4;
/// Merges for each change, and in addition to them.
const MERGES: usize = 2;
/// The most overflow lines that are given up at once.
const LINES_AT_ONCE: usize = 64;
/// The number of lines behind the last one that are released together.
const RELEASED: u64 = (256 << 10) / 64;

impl Index {
    /// True if there are too many buckets for the entries, and some can be merged.
    pub(crate) fn is_sparse(&self) -> bool {
        self.is_thin() && self.buckets() > 1 << self.base_bits
    }

    /// True if there are too many buckets for the entries.
    #[inline]
    fn is_thin(&self) -> bool {
        (self.len() as u64).saturating_mul(SPARSE * 10) < self.buckets().saturating_mul(LOAD_TIMES_TEN)
    }
}

impl IndexWriter {
    /// Merges up to `most` buckets while there are too many, and returns the number merged. Does
    /// nothing while a capture is running, which would have to keep the changed pages, or before an
    /// index from a checkpoint is whole.
    pub(crate) fn shrink(&mut self, most: usize) -> usize {
        self.look_around();
        if self.is_watched() {
            return 0;
        }
        self.highest = self.highest.raised_to([self.index.buckets(), self.lines.used]);
        let merged = (0..most).take_while(|_| self.index.is_sparse() && self.merge()).count();
        self.give_up_lines();
        self.release();
        merged
    }

    /// The shrinking part of [`IndexWriter::reserve_many`], for an index of few entries.
    #[cold]
    pub(super) fn shrink_for(&mut self, changes: usize) {
        self.shrink(MERGES.saturating_mul(changes.saturating_add(1)));
    }

    /// True if a reservation may shrink the index. If not, this costs one look at counters.
    #[inline]
    pub(super) fn may_shrink(&self) -> bool {
        // The second condition needs a walk.
        self.index.is_thin() && (self.index.is_sparse() || self.lines.ends_free())
    }

    /// Merges the last bucket into the one that it was split from; returns false if there is no
    /// memory for overflow lines.
    pub(super) fn merge(&mut self) -> bool {
        let shape = self.index.shape(Ordering::Relaxed);
        let number = shape.buckets() - 1;
        debug_assert!(
            number >= 1 << self.index.base_bits,
            "the first buckets are what their entries' tags stand on"
        );
        let index = Arc::clone(&self.index);
        let [target, last] = [split_source(number), number].map(|number| index.heads.line(number));
        index.prefetch_merges(number);
        let mut gone = std::mem::take(&mut self.gone);
        collect_links(&index, last, &mut gone);
        collect_links(&index, target, &mut self.links);
        // A head that has a second line is full (X4).
        let room = if self.links.is_empty() { slots_where(target, IndexEntry::is_empty).count() } else { 0 };
        let overflow = self.links.iter().map(|link| index.overflow.line(link.line()));
        let moving = std::iter::once(last).chain(gone.iter().map(|link| index.overflow.line(link.line())));
        self.entries.clear();
        self.entries.extend(entries(moving).chain(entries(overflow)));
        let behind = self.entries.len().saturating_sub(room);
        let enough = self.lines.ensure(behind.div_ceil(SLOTS) as u64, &index.overflow).is_ok();
        if enough {
            let used = self.lines.used;
            self.merge_into(&index, target, room.min(self.entries.len()));
            // Release: pairs with the acquire load in `find` and `scan`: the target is filled. By
            // the entries emptied afterwards it also pairs with the fence of a reader that misses
            // one of them.
            index.front.0.shape.store(shape.merged().to_bits(), Ordering::Release);
            self.empty(&index, last, &gone);
            self.count_lines(used);
        }
        self.gone = gone;
        enough
    }

    /// Fills the target: the first entries into its head, the others into new lines that replace
    /// its own.
    fn merge_into(&mut self, index: &Index, target: &Line, first: usize) {
        let (head, behind) = self.entries.split_at(first);
        for (slot, entry) in slots_where(target, IndexEntry::is_empty).zip(head) {
            target.set_entry(slot, *entry);
        }
        // From the end, so that each line is complete before a link leads to it.
        let mut link = None;
        for chunk in behind.chunks(SLOTS).rev() {
            let taken = self.lines.take();
            let line = index.overflow.line(taken.line());
            chunk.iter().enumerate().for_each(|(slot, entry)| line.set_entry(slot, *entry));
            line.set_control(ControlWord::default().with_link(link));
            link = Some(taken);
        }
        target.set_control(target.control_unordered().bumped().with_link(link));
    }

    /// Empties the slots of moved entries, after the number of buckets and the versions that
    /// announce it (X1).
    fn empty(&mut self, index: &Index, last: &Line, gone: &[OverflowLink]) {
        last.set_control(last.control_unordered().bumped().with_link(None));
        empty_line(last);
        for link in gone.iter().chain(&self.links) {
            let line = index.overflow.line(link.line());
            line.set_control(ControlWord::default());
            empty_line(line);
            self.lines.free.insert(*link);
        }
    }

    /// Gives up free overflow lines at the end of the array.
    fn give_up_lines(&mut self) {
        let used = self.lines.used;
        for _ in 0..LINES_AT_ONCE {
            if !self.lines.ends_free() {
                break;
            }
            self.lines.free.pop_last();
            self.lines.used -= 1;
        }
        self.count_lines(used);
    }

    /// Releases memory that no line needs.
    fn release(&mut self) {
        let index = &*self.index;
        let ends = [index.buckets(), self.lines.used];
        let least = [1 << index.base_bits, 0];
        let rows = [(&index.heads, &index.populated.heads), (&index.overflow, &index.populated.overflow)];
        for (nth, (row, mark)) in rows.into_iter().enumerate() {
            let highest = &mut self.highest.0[nth];
            let is_last = ends[nth] == least[nth] && *highest > ends[nth];
            if *highest >= ends[nth] + RELEASED || is_last {
                release(row, mark, ends[nth], *highest);
                *highest = ends[nth];
            }
        }
    }
}

/// The greatest number of lines of each array in use since memory was released last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Highest([u64; 2]);

impl Highest {
    fn raised_to(self, used: [u64; 2]) -> Self {
        Self([self.0[0].max(used[0]), self.0[1].max(used[1])])
    }
}

fn release(row: &ChunkedLines, mark: &AtomicU64, end: u64, highest: u64) {
    // Relaxed: a note from one step to the next; the worker may have populated more, or be about
    // to.
    let present = mark.load(Ordering::Relaxed).max(highest);
    row.release(end..present);
    mark.store(end, Ordering::Relaxed);
}

/// Returns the entries of some lines.
fn entries<'l>(lines: impl Iterator<Item = &'l Line>) -> impl Iterator<Item = IndexEntry> {
    lines.flat_map(|line| (0..SLOTS).map(|slot| line.entry(slot))).filter(|entry| !entry.is_empty())
}

fn empty_line(line: &Line) {
    slots_where(line, |entry| !entry.is_empty()).for_each(|slot| line.set_entry(slot, IndexEntry::EMPTY));
}
