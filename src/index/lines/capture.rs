//! A capture of an index: its state at one moment, copied page by page while the writer continues.
//!
//! It writes no files: it returns blocks, in order, to its caller.
//!
//! **The moment.** The writer of an index begins it under the writer mutex: it notes the numbers of
//! lines in both rows. That takes constant time, except for a bitmap of one bit per 4 KiB. From then
//! on the writer saves pages of lines before it changes them. It copies each page that the capture
//! has not taken yet. Lines behind those counted at the moment are not captured, so they need no
//! copy. This is cheap because few pages are copied, each once at most.
//!
//! **Concurrency.** One bit per page means *taken*. The side that sets it first decides the source
//! of the captured page. The [`Capture`] takes pages in order and needs no lock for a page that the
//! writer has not changed:
//!
//! | | steps, in order |
//! |---|---|
//! | capture | loads the words (relaxed); fences (acquire); checks if it was abandoned; sets the bit. If it was unset, the words are the page. If it was set, the copy is, under the lock of the copies |
//! | writer | checks the bit: if set, nothing to do. Else, under that lock: copies the words; sets the bit. If it was unset, keeps the copy. If it was set, drops it. Then changes the page |
//!
//! 1. *The capture set the bit.* Its loads come before the bit (release), and the writer's first
//!    change comes after the writer saw it (acquire). So no load saw a change.
//! 2. *A load saw a change* (a release store). Then by the fence the capture sees all that the
//!    writer did before: the bit, whose copy the lock hands over, or that the writer abandoned the
//!    capture. The copy exists once the lock is free, because the lock spans the writer's two
//!    steps.
//!
//! **Bounds.** A limit bounds the copies, and so the memory. A writer that reaches it *abandons*
//! the capture and does not wait. The capture returns that at its next block, and the checkpoint's
//! file is useless. Each page that was written leaves its copy's memory to the next copy.
//! The index's memory counts all of it. With a limit of as many pages as the index has, no
//! capture is ever abandoned.
//!
//! Dropping the [`Capture`], at its end or before, ends the writer's part at its next change.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;

use super::bitset::AtomicBitSet;
use super::{IndexLines, Row};
use crate::format::checkpoint::{BLOCK_LEN, IndexTable, LINE_SIZE};
use crate::mem::alloc;
use crate::mem::line_array::{LINE_WORDS, Line};
use crate::sync::{AtomicU64, Mutex, Ordering, fence};

/// The number of lines in a block: the unit in which a checkpoint is read and written.
#[cfg(not(loom))]
pub(in crate::index) const LINES: usize = crate::format::checkpoint::BLOCK_LINES;
/// The number of lines in a block: one, so that a few keys already lie in several blocks.
#[cfg(loom)]
pub(in crate::index) const LINES: usize = 1;
/// The number of lines in a block, for line numbers.
pub(in crate::index) const BLOCK_LINES: u64 = LINES as u64;

/// The words of a page's lines.
type CapturedPage = [[u64; LINE_WORDS]; LINES];
/// The size of a copy in bytes.
const PAGE_SIZE: u64 = size_of::<CapturedPage>() as u64;

/// The number of slots in a piece of the memory for copies.
const SLOTS: usize = 64;

const RUNNING: u64 = 0;
const ABANDONED: u64 = 1;
const ENDED: u64 = 2;

/// The state shared by capture and writer.
#[derive(Debug)]
pub(in crate::index) struct SavedPages {
    table: IndexTable,
    /// The numbers of pages of both rows.
    pages: [u64; 2],
    /// A bit for each page: set once the page is taken.
    taken: AtomicBitSet,
    /// The state: the writer stores `ABANDONED`, and the capture `ENDED`.
    state: AtomicU64,
    copies: Mutex<Copies>,
}

/// Copies of pages, in memory that goes back to the system with them.
///
/// They take up to half as much memory as the index, which an allocator would keep for later.
#[derive(Debug)]
struct Copies {
    /// The slots of the copies, by page.
    by_page: BTreeMap<u64, usize>,
    /// The slots whose copies are no longer needed.
    spare: Vec<usize>,
    /// The memory: `SLOTS` slots in each piece.
    pieces: Vec<MmapMut>,
    /// The number of slots in use or spare.
    slots: usize,
    /// The greatest number of copies.
    limit: usize,
}

/// A capture of an index at the moment when it was made.
#[derive(Debug)]
pub(crate) struct Capture {
    index: Arc<dyn IndexLines>,
    aside: Arc<SavedPages>,
    next: u64,
}

/// The error of a capture that was abandoned: the writer reached the limit of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

impl SavedPages {
    pub(in crate::index) fn new(index: &dyn IndexLines, limit: usize) -> Self {
        let table = index.table();
        let pages = table.lines.map(|lines| lines.div_ceil(BLOCK_LINES));
        let copies =
            Copies { by_page: BTreeMap::new(), spare: Vec::new(), pieces: Vec::new(), slots: 0, limit };
        let taken = AtomicBitSet::new(pages.iter().sum());
        let aside = Self { table, pages, taken, state: AtomicU64::new(RUNNING), copies: Mutex::new(copies) };
        aside.count(index, &aside.copies.lock());
        aside
    }

    /// True while the capture still needs the writer's copies.
    pub(in crate::index) fn is_running(&self) -> bool {
        // Relaxed: a writer that misses the end makes a needless copy, which `keep` drops under the
        // lock.
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// Keeps the page of a line that is about to change. Writer only.
    pub(in crate::index) fn keep_line(&self, index: &dyn IndexLines, row: Row, line: u64) {
        if line < self.table.lines[row as usize] {
            let first = if row == Row::First { 0 } else { self.pages[0] };
            self.keep(index, first + line / BLOCK_LINES);
        }
    }

    fn keep(&self, index: &dyn IndexLines, page: u64) {
        if self.taken.get(page) || !self.is_running() {
            return;
        }
        let mut copies = self.copies.lock();
        // Relaxed: the capture stores it under this lock, and this thread is the writer.
        if self.state.load(Ordering::Relaxed) != RUNNING {
            return;
        }
        let Some(slot) = copies.room() else {
            // Release: pairs with the fence in `Capture::take`: a capture that sees the change that
            // follows sees this.
            self.state.store(ABANDONED, Ordering::Release);
            copies.clear();
            self.count(index, &copies);
            return;
        };
        let mut words = [[0; LINE_WORDS]; LINES];
        self.read(index, page, &mut words);
        copies.store(slot, &words);
        if self.taken.set(page) {
            copies.spare.push(slot);
        } else {
            copies.by_page.insert(page, slot);
        }
        self.count(index, &copies);
    }

    /// Reads a page as it is in memory now; lines that are not captured are zero.
    fn read(&self, index: &dyn IndexLines, page: u64, words: &mut CapturedPage) {
        let (row, page) = match page.checked_sub(self.pages[0]) {
            None => (Row::First, page),
            Some(page) => (Row::Second, page),
        };
        let (lines, count) = (index.row(row), self.table.lines[row as usize]);
        for (number, words) in (page * BLOCK_LINES..).zip(words) {
            *words = [0; LINE_WORDS];
            if number < count {
                *words = words_of(lines.line(number));
                index.clear_unsaved_bits(row, number, words);
            }
        }
    }

    /// Publishes the memory that the capture takes.
    fn count(&self, index: &dyn IndexLines, copies: &Copies) {
        let bytes = copies.slots as u64 * PAGE_SIZE + self.taken.memory_bytes() as u64;
        // Relaxed: a count on its own.
        index.captured().store(bytes, Ordering::Relaxed);
    }
}

impl Copies {
    /// Returns a slot for one more copy; `None` if the limit is reached or memory is short.
    fn room(&mut self) -> Option<usize> {
        if self.by_page.len() >= self.limit {
            return None;
        }
        self.spare.pop().or_else(|| {
            if self.slots == self.pieces.len() * SLOTS {
                self.pieces.push(alloc::zeros_apart(SLOTS * size_of::<CapturedPage>()).ok()?);
            }
            self.slots += 1;
            Some(self.slots - 1)
        })
    }

    /// Returns the range of a slot in its piece.
    fn range(slot: usize) -> Range<usize> {
        let start = slot % SLOTS * size_of::<CapturedPage>();
        start..start + size_of::<CapturedPage>()
    }

    fn store(&mut self, slot: usize, words: &CapturedPage) {
        let bytes = &mut self.pieces[slot / SLOTS][Self::range(slot)];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words.as_flattened()) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn load(&self, slot: usize, words: &mut CapturedPage) {
        let bytes = &self.pieces[slot / SLOTS][Self::range(slot)];
        for (word, bytes) in words.as_flattened_mut().iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }

    fn clear(&mut self) {
        self.by_page = BTreeMap::new();
        self.spare = Vec::new();
        self.pieces = Vec::new();
        self.slots = 0;
    }
}

impl Capture {
    pub(in crate::index) fn new(index: Arc<dyn IndexLines>, aside: Arc<SavedPages>) -> Self {
        Self { index, aside, next: 0 }
    }

    /// Returns the shape of the index at the moment of the capture, which the checkpoint's front
    /// lists.
    pub(crate) fn table(&self) -> IndexTable {
        self.aside.table
    }

    /// Copies the next block into `block`, buckets first; returns false after the last one.
    ///
    /// # Errors
    ///
    /// Returns an error if the capture was abandoned: no block follows, and those before are
    /// useless.
    pub(crate) fn next_block(&mut self, block: &mut [u8; BLOCK_LEN]) -> Result<bool, Abandoned> {
        let mut page = [[0; LINE_WORDS]; LINES];
        if self.next == self.aside.pages.iter().sum::<u64>() {
            return Ok(false);
        }
        self.take(&mut page)?;
        block.fill(0);
        for (line, words) in block.chunks_exact_mut(LINE_SIZE).zip(&page) {
            for (bytes, word) in line.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        Ok(true)
    }

    /// Takes the words of the next page.
    pub(in crate::index) fn take(&mut self, words: &mut CapturedPage) -> Result<(), Abandoned> {
        let Self { index, aside, next } = self;
        aside.read(&**index, *next, words);
        // Acquire: pairs with the release of every word that was loaded.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        if aside.state.load(Ordering::Relaxed) == ABANDONED {
            return Err(Abandoned);
        }
        if aside.taken.set(*next) {
            let mut copies = aside.copies.lock();
            // If it was abandoned after the check above, the copies are gone.
            let slot = copies.by_page.remove(next).ok_or(Abandoned)?;
            copies.load(slot, words);
            copies.spare.push(slot);
        }
        *next += 1;
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let mut copies = self.aside.copies.lock();
        copies.clear();
        // Relaxed: stored under the lock, where the writer checks it again.
        self.aside.state.store(ENDED, Ordering::Relaxed);
        self.index.captured().store(0, Ordering::Relaxed);
    }
}

fn words_of(line: &Line) -> [u64; LINE_WORDS] {
    // Relaxed: the writer reads its own stores; the capture fences before it uses the words.
    std::array::from_fn(|word| line.words[word].load(Ordering::Relaxed))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::index::hash::Index;

    /// Cause: the copies lay in small allocations. Symptom: the allocator kept 26 MiB behind the
    /// first checkpoint of 4.2 million keys.
    #[test]
    fn copies_give_their_memory_back_when_the_capture_ends() {
        for limit in [1000, 50] {
            let (index, _writer) = Index::new().unwrap();
            let aside = Arc::new(SavedPages::new(&*index, limit));
            let capture = Capture::new(Arc::<Index>::clone(&index), Arc::clone(&aside));
            let before = index.memory_bytes();
            for page in 0..50 {
                aside.keep_line(&*index, Row::First, page * BLOCK_LINES);
            }
            assert_eq!(index.memory_bytes() - before, 50 * BLOCK_LEN);
            assert_eq!(aside.copies.lock().pieces.len(), 1);
            if limit == 50 {
                aside.keep_line(&*index, Row::First, 50 * BLOCK_LINES);
                assert_eq!(aside.copies.lock().pieces.len(), 0, "it was abandoned");
            }
            drop(capture);
            assert_eq!(aside.copies.lock().pieces.len(), 0);
            assert_eq!(index.memory_bytes(), before - aside.taken.memory_bytes());
        }
    }
}
