//! A capture of an index: its state at one moment, copied page by page while the writer continues.
//!
//! It writes no files: it returns blocks, in order, to its caller.
//!
//! **The moment.** The writer of an index begins it under the writer mutex: it notes the numbers of
//! lines in both rows. That takes constant time, except for a bitmap of one bit per 4 KiB. From then
//! on the writer saves each line of a page that the capture has not taken, before it changes the line
//! for the first time. Lines behind those counted at the moment are not captured, so they need no copy.
//! This is cheap because a change touches one or two lines.
//!
//! **Concurrency.** One bit per page means *taken*. The [`Capture`] sets it, after it has loaded the page:
//!
//! | | steps, in order |
//! |---|---|
//! | capture | loads the words (relaxed); fences (acquire); sets the bit (release). Under the lock of the copies: checks if it was abandoned; puts the copies in place of what it loaded |
//! | writer | checks the bit: if set, nothing to do. Else, under that lock: checks it again; copies the line, unless it has a copy. Then changes the line |
//!
//! 1. *The writer saw the bit* (acquire). Then the capture's loads come before the change, and no load
//!    saw it.
//! 2. *It did not.* Then there is a copy before the change. If a load saw the change (a release store),
//!    then by the fence the capture comes to the lock after the writer left it, and finds the copy. If
//!    none did, the words are those of the moment, with the copy or without.
//!
//! **Bounds.** A limit bounds the copies, and so the memory. A writer that reaches it *abandons*
//! the capture and does not wait. The capture returns that at its next block, and the checkpoint's
//! file is useless. Each page that was written leaves its copies' memory to the next ones.
//! The index's memory counts all of it. With a limit of as many lines as the index has, no
//! capture is ever abandoned.
//!
//! Dropping the [`Capture`], at its end or before, ends the writer's part at its next change.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
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

/// The words of a line.
type Words = [u64; LINE_WORDS];
/// The words of a page's lines.
type CapturedPage = [Words; LINES];

/// The size of a slot in bytes: two numbers of 32 bits, and the words of a line.
const SLOT_SIZE: usize = 8 + size_of::<Words>();
/// The number of slots in a piece of the memory for copies, about 256 KiB.
const SLOTS: usize = (256 << 10) / SLOT_SIZE;

const RUNNING: u64 = 0;
const ABANDONED: u64 = 1;
const ENDED: u64 = 2;

/// The state shared by capture and writer.
#[derive(Debug)]
pub(in crate::index) struct SavedLines {
    table: IndexTable,
    /// The numbers of pages of both rows.
    pages: [u64; 2],
    /// A bit for each page: set once the page is taken.
    taken: AtomicBitSet,
    /// The state: the writer stores `ABANDONED`, and the capture `ENDED`.
    state: AtomicU64,
    copies: Mutex<Copies>,
}

/// Copies of lines, in memory that goes back to the system with them.
///
/// They may take as much memory as the index, which an allocator would keep for later.
#[derive(Debug)]
struct Copies {
    /// The copies of each page that has some.
    by_page: BTreeMap<u64, PageCopies>,
    /// The number of copies, and the greatest.
    count: usize,
    limit: usize,
    /// The first slot that is no longer needed; it leads to the next one.
    spare: Option<Slot>,
    /// The memory: `SLOTS` slots in each piece.
    pieces: Vec<MmapMut>,
    /// The number of slots in use or spare.
    slots: u32,
}

/// The copies of a page.
#[derive(Debug)]
struct PageCopies {
    /// A bit for each line that has a copy.
    lines: u64,
    /// The slot of the last copy; it leads to the one before.
    last: Slot,
}

/// The number of a slot.
type Slot = NonZeroU32;

/// A capture of an index at the moment when it was made.
#[derive(Debug)]
pub(crate) struct Capture {
    index: Arc<dyn IndexLines>,
    aside: Arc<SavedLines>,
    next: u64,
}

/// The error of a capture that was abandoned: the writer reached the limit of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

impl SavedLines {
    /// Makes the state of a capture of the index as it is now. At most `limit` lines are kept for it.
    pub(in crate::index) fn new(index: &dyn IndexLines, limit: usize) -> Self {
        let table = index.table();
        let pages = table.lines.map(|lines| lines.div_ceil(BLOCK_LINES));
        let taken = AtomicBitSet::new(pages.iter().sum());
        let copies = Mutex::new(Copies::new(limit));
        let aside = Self { table, pages, taken, state: AtomicU64::new(RUNNING), copies };
        aside.count(index, &aside.copies.lock());
        aside
    }

    /// True while the capture still needs the writer's copies.
    pub(in crate::index) fn is_running(&self) -> bool {
        // Relaxed: a writer that misses the end is told under the lock.
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// Keeps lines that are about to change. Writer only.
    #[inline]
    pub(in crate::index) fn keep(&self, index: &dyn IndexLines, row: Row, lines: Range<u64>) {
        let end = lines.end.min(self.table.lines[row as usize]);
        let mut start = lines.start;
        while start < end {
            let next = (start / BLOCK_LINES + 1) * BLOCK_LINES;
            self.keep_in_page(index, row, start..end.min(next));
            start = next;
        }
    }

    /// Keeps lines of one page.
    fn keep_in_page(&self, index: &dyn IndexLines, row: Row, lines: Range<u64>) {
        let page = lines.start / BLOCK_LINES + if row == Row::First { 0 } else { self.pages[0] };
        if self.taken.get(page) || !self.is_running() {
            return;
        }
        let mut copies = self.copies.lock();
        // Relaxed: the capture stores it under this lock, and this thread is the writer.
        if self.state.load(Ordering::Relaxed) != RUNNING || self.taken.get(page) {
            return;
        }
        for line in lines {
            if copies.has(page, line % BLOCK_LINES) {
                continue;
            }
            let words = self.words(index, row, line);
            if copies.add(page, line % BLOCK_LINES, &words).is_none() {
                // Release: as for every change that follows. The capture reads it under the lock.
                self.state.store(ABANDONED, Ordering::Release);
                copies.clear();
                break;
            }
        }
        self.count(index, &copies);
    }

    /// Reads a page as it is in memory now; lines that are not captured are zero.
    fn read(&self, index: &dyn IndexLines, page: u64, words: &mut CapturedPage) {
        let (row, page) = match page.checked_sub(self.pages[0]) {
            None => (Row::First, page),
            Some(page) => (Row::Second, page),
        };
        let count = self.table.lines[row as usize];
        for (number, words) in (page * BLOCK_LINES..).zip(words) {
            *words = if number < count { self.words(index, row, number) } else { [0; LINE_WORDS] };
        }
    }

    /// Returns a line as it is in memory now.
    fn words(&self, index: &dyn IndexLines, row: Row, number: u64) -> Words {
        let mut words = words_of(index.row(row).line(number));
        index.clear_unsaved_bits(row, number, &mut words);
        words
    }

    /// Publishes the memory that the capture takes.
    fn count(&self, index: &dyn IndexLines, copies: &Copies) {
        let bytes = copies.slots as usize * SLOT_SIZE + self.taken.memory_bytes();
        // Relaxed: a count on its own.
        index.captured().store(bytes as u64, Ordering::Relaxed);
    }
}

impl Copies {
    fn new(limit: usize) -> Self {
        Self { by_page: BTreeMap::new(), count: 0, limit, spare: None, pieces: Vec::new(), slots: 0 }
    }

    /// Returns true if a line of a page has a copy.
    fn has(&self, page: u64, line: u64) -> bool {
        self.by_page.get(&page).is_some_and(|copies| copies.lines & (1 << line) != 0)
    }

    /// Adds the copy of a line; `None` if the limit is reached or memory is short.
    fn add(&mut self, page: u64, line: u64, words: &Words) -> Option<()> {
        if self.count >= self.limit {
            return None;
        }
        let slot = self.take_slot()?;
        let before = self.by_page.get(&page).map(|copies| copies.last);
        self.store(slot, before, u32::try_from(line).ok()?, words);
        let copies = self.by_page.entry(page).or_insert(PageCopies { lines: 0, last: slot });
        copies.lines |= 1 << line;
        copies.last = slot;
        self.count += 1;
        Some(())
    }

    /// Takes a slot; `None` if memory is short.
    fn take_slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.spare {
            self.spare = self.load(slot).0;
            return Some(slot);
        }
        if self.slots as usize == self.pieces.len() * SLOTS {
            self.pieces.push(alloc::zeros_apart(SLOTS * SLOT_SIZE).ok()?);
        }
        self.slots = self.slots.checked_add(1)?;
        Slot::new(self.slots)
    }

    /// Takes the copies of a page out, and puts them in place of the words of their lines.
    fn take_page(&mut self, page: u64, words: &mut CapturedPage) {
        let mut next = self.by_page.remove(&page).map(|copies| copies.last);
        while let Some(slot) = next {
            let (before, line, copy) = self.load(slot);
            words[line as usize] = copy;
            self.store(slot, self.spare, 0, &copy);
            self.spare = Some(slot);
            self.count -= 1;
            next = before;
        }
    }

    /// Returns the piece of a slot, and its range there.
    fn place(slot: Slot) -> (usize, Range<usize>) {
        let at = slot.get() as usize - 1;
        let start = at % SLOTS * SLOT_SIZE;
        (at / SLOTS, start..start + SLOT_SIZE)
    }

    /// Stores the slot that a slot leads to, the number of a line in its page, and its words.
    fn store(&mut self, slot: Slot, next: Option<Slot>, line: u32, words: &Words) {
        let (piece, range) = Self::place(slot);
        let bytes = &mut self.pieces[piece][range];
        bytes[..4].copy_from_slice(&next.map_or(0, Slot::get).to_le_bytes());
        bytes[4..8].copy_from_slice(&line.to_le_bytes());
        for (bytes, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Returns what was stored in a slot.
    fn load(&self, slot: Slot) -> (Option<Slot>, u32, Words) {
        let (piece, range) = Self::place(slot);
        let (numbers, bytes) = self.pieces[piece][range].split_at(8);
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| numbers[at + byte]));
        let (bytes, _) = bytes.as_chunks();
        (Slot::new(number(0)), number(4), std::array::from_fn(|word| u64::from_le_bytes(bytes[word])))
    }

    fn clear(&mut self) {
        *self = Self::new(self.limit);
    }
}

impl Capture {
    pub(in crate::index) fn new(index: Arc<dyn IndexLines>, aside: Arc<SavedLines>) -> Self {
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
        aside.taken.set(*next);
        let mut copies = aside.copies.lock();
        // Relaxed: the writer stores it under this lock.
        if aside.state.load(Ordering::Relaxed) == ABANDONED {
            return Err(Abandoned);
        }
        copies.take_page(*next, words);
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

fn words_of(line: &Line) -> Words {
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
            let aside = Arc::new(SavedLines::new(&*index, limit));
            let capture = Capture::new(Arc::<Index>::clone(&index), Arc::clone(&aside));
            let before = index.memory_bytes();
            for line in (0..50).chain(0..50) {
                aside.keep(&*index, Row::First, line * 70..line * 70 + 1);
            }
            assert_eq!(index.memory_bytes() - before, 50 * SLOT_SIZE);
            assert_eq!(aside.copies.lock().pieces.len(), 1);
            if limit == 50 {
                aside.keep(&*index, Row::First, 1..2);
                assert_eq!(aside.copies.lock().pieces.len(), 0, "it was abandoned");
            }
            drop(capture);
            assert_eq!(aside.copies.lock().pieces.len(), 0);
            assert_eq!(index.memory_bytes(), before - aside.taken.memory_bytes());
        }
    }

    #[test]
    fn memory_of_copies_is_used_again_once_their_page_is_taken() {
        let (index, _writer) = Index::new().unwrap();
        let aside = Arc::new(SavedLines::new(&*index, 100));
        let mut capture = Capture::new(Arc::<Index>::clone(&index), Arc::clone(&aside));
        for page in 0..30 {
            aside.keep(&*index, Row::First, page * BLOCK_LINES + 60..(page + 1) * BLOCK_LINES + 30);
            assert_eq!(aside.copies.lock().count, if page == 0 { 34 } else { 64 });
            capture.take(&mut [[0; LINE_WORDS]; LINES]).unwrap();
            assert_eq!(aside.copies.lock().count, 30);
        }
        assert_eq!(aside.copies.lock().slots, 64);
    }
}
