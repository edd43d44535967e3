//! What an index was at one moment, taken page by page while the writer goes on.
//!
//! It does not write files: it gives blocks, in order, to whoever does.
//!
//! **The moment.** [`IndexWriter::begin_checkpoint`](super::IndexWriter::begin_image), under the writer mutex, notes how many buckets and
//! overflow lines there are; that takes the same time at every size, but for a bitmap of one bit per 4 KiB. From then on
//! the writer, before it changes a chain, copies aside each page of the chain that the image has not got yet: those of its lines, and of
//! the free lines that it may be given. Lines behind those counted at the moment are no part of the image, so they need no
//! copy. How few pages there are to copy is what makes this cheap: a page is copied once at most.
//!
//! **Concurrency.** One bit per page says: *taken*. Whoever sets it first decides where the page of the image comes from. The
//! [`Capture`] takes pages in order and needs no lock for a page that the writer has left alone:
//!
//! | | steps, in order |
//! |---|---|
//! | capture | loads the words (relaxed); fences (acquire); looks whether it was abandoned; sets the bit. It was unset: the words are the page. It was set: the copy is, under the lock of the copies |
//! | writer | looks at the bit: set, nothing to do. Else, under that lock: copies the words; sets the bit. It was unset: puts the copy there. It was set: drops it. Then changes the page |
//!
//! If the capture set the bit, its loads come before it (release), and the writer's first change comes after the
//! writer saw it (acquire): no load saw a change. If a load did see one (a release store), then by the fence the
//! capture sees all that the writer did before: the bit, whose copy the lock hands over, or that it gave up. That
//! the lock spans the writer's two steps is why the copy is there once the lock is free.
//!
//! **Bounds.** The copies, and so the memory, are bounded by a limit. A writer that reaches it *abandons* the
//! image instead of waiting: the capture says so at its next block, and the file is of no use. Each page that was written
//! gives its copy's memory to the next. [`Index::memory_bytes`] counts all of it. With a limit of as many pages as the index
//! has, no image is ever abandoned.
//!
//! Dropping the [`Capture`], at its end or before, ends the writer's part at its next change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Index;
use super::bitset::AtomicBitSet;
use super::bucket::checkpointed;
use super::chunked::ChunkedLines;
use crate::format::checkpoint::{BLOCK_LEN, IndexTable, LINE_SIZE};
use crate::mem::alloc;
use crate::mem::cache_lines::{LINE_WORDS, Line};
use crate::sync::{AtomicU64, Mutex, Ordering, fence};

/// Lines in a block: the unit in which a checkpoint is read and written.
#[cfg(not(loom))]
pub(super) const LINES: usize = crate::format::checkpoint::BLOCK_LINES;
/// Lines in a block: one, so that a few keys already lie in several.
#[cfg(loom)]
pub(super) const LINES: usize = 1;
/// The same number, for line numbers.
pub(super) const BLOCK_LINES: u64 = LINES as u64;

/// The words of the lines of a page.
type CapturedPage = [[u64; LINE_WORDS]; LINES];
/// A copy's size in bytes.
const PAGE_SIZE: u64 = size_of::<CapturedPage>() as u64;

const RUNNING: u64 = 0;
const ABANDONED: u64 = 1;
const ENDED: u64 = 2;

/// What capture and writer share.
#[derive(Debug)]
pub(super) struct SavedPages {
    table: IndexTable,
    /// Pages of buckets, and then those of overflow lines.
    pages: [u64; 2],
    /// A bit for each page: it was taken.
    taken: AtomicBitSet,
    /// `ABANDONED` is stored by the writer, `ENDED` by the capture.
    state: AtomicU64,
    copies: Mutex<Copies>,
}

#[derive(Debug)]
struct Copies {
    /// Each of one page: memory of such a type can be asked for.
    by_page: BTreeMap<u64, Box<[CapturedPage]>>,
    spare: Vec<Box<[CapturedPage]>>,
    /// The most of them.
    limit: usize,
}

/// An index at the moment when this was made.
#[derive(Debug)]
pub(crate) struct Capture {
    index: Arc<Index>,
    aside: Arc<SavedPages>,
    next: u64,
}

/// The writer had to keep more pages than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

impl SavedPages {
    pub(super) fn new(index: &Index, limit: usize) -> Self {
        let table = index.table();
        let pages = [table.buckets, table.overflow_lines].map(|lines| lines.div_ceil(BLOCK_LINES));
        let copies = Copies { by_page: BTreeMap::new(), spare: Vec::new(), limit };
        let taken = AtomicBitSet::new(pages.iter().sum());
        let aside = Self { table, pages, taken, state: AtomicU64::new(RUNNING), copies: Mutex::new(copies) };
        aside.count(index, &aside.copies.lock());
        aside
    }

    /// Whether the capture still needs what the writer keeps.
    pub(super) fn is_running(&self) -> bool {
        // Relaxed: a writer that misses the end keeps a page in vain, which `keep` drops under the lock.
        self.state.load(Ordering::Relaxed) == RUNNING
    }

    /// Keeps the page of a bucket that is about to change. Writer only.
    pub(super) fn keep_head(&self, index: &Index, bucket: u64) {
        if bucket < self.table.buckets {
            self.keep(index, bucket / BLOCK_LINES);
        }
    }

    /// Keeps the page of an overflow line that is about to change. Writer only.
    pub(super) fn keep_overflow(&self, index: &Index, line: u64) {
        if line < self.table.overflow_lines {
            self.keep(index, self.pages[0] + line / BLOCK_LINES);
        }
    }

    fn keep(&self, index: &Index, page: u64) {
        if self.taken.get(page) || !self.is_running() {
            return;
        }
        let mut copies = self.copies.lock();
        // Relaxed: the capture stores it under this lock, the writer is we.
        if self.state.load(Ordering::Relaxed) != RUNNING {
            return;
        }
        let Some(mut copy) = copies.room() else {
            // Release: pairs with the fence in `Capture::take`: whoever sees the change that follows sees this.
            self.state.store(ABANDONED, Ordering::Release);
            copies.clear();
            self.count(index, &copies);
            return;
        };
        self.read(index, page, &mut copy[0]);
        if self.taken.set(page) {
            copies.spare.push(copy);
        } else {
            copies.by_page.insert(page, copy);
        }
        self.count(index, &copies);
    }

    /// Reads a page as it is in memory now; lines that the image does not have are left at zero.
    fn read(&self, index: &Index, page: u64, words: &mut CapturedPage) {
        let (row, lines, page): (&ChunkedLines, _, _) = match page.checked_sub(self.pages[0]) {
            None => (&index.heads, self.table.buckets, page),
            Some(page) => (&index.overflow, self.table.overflow_lines, page),
        };
        for (number, words) in (page * BLOCK_LINES..).zip(words) {
            *words = if number < lines { checkpointed(words_of(row.line(number))) } else { [0; LINE_WORDS] };
        }
    }

    /// Tells how much memory this takes.
    fn count(&self, index: &Index, copies: &Copies) {
        let pages = (copies.by_page.len() + copies.spare.len()) as u64;
        // Relaxed: a count on its own.
        index
            .counters
            .0
            .captured
            .store(pages * PAGE_SIZE + self.taken.memory_bytes() as u64, Ordering::Relaxed);
    }
}

impl Copies {
    /// Room for one more; none where there are enough, or memory is short.
    fn room(&mut self) -> Option<Box<[CapturedPage]>> {
        if self.by_page.len() >= self.limit {
            return None;
        }
        self.spare.pop().or_else(|| {
            let mut page = alloc::with_capacity(1).ok()?;
            page.push([[0; LINE_WORDS]; LINES]);
            Some(page.into_boxed_slice())
        })
    }

    fn clear(&mut self) {
        self.by_page = BTreeMap::new();
        self.spare = Vec::new();
    }
}

impl Capture {
    pub(super) fn new(index: Arc<Index>, aside: Arc<SavedPages>) -> Self {
        Self { index, aside, next: 0 }
    }

    /// What the index was at the moment: the front of the image says so.
    pub(crate) fn table(&self) -> IndexTable {
        self.aside.table
    }

    /// The next block, buckets first: its bytes are put into `block`; false after the last one.
    ///
    /// # Errors
    ///
    /// When the image was abandoned: no block follows any more, and those before are of no use.
    pub(crate) fn next_block(&mut self, block: &mut [u8; BLOCK_LEN]) -> Result<bool, Abandoned> {
        let mut page = [[0; LINE_WORDS]; LINES];
        if self.next == self.aside.pages.iter().sum() {
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

    /// The words of the next page.
    pub(super) fn take(&mut self, words: &mut CapturedPage) -> Result<(), Abandoned> {
        let Self { index, aside, next } = self;
        aside.read(index, *next, words);
        // Acquire: pairs with the release of every word that was loaded.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        if aside.state.load(Ordering::Relaxed) == ABANDONED {
            return Err(Abandoned);
        }
        if aside.taken.set(*next) {
            let mut copies = aside.copies.lock();
            // Abandoned after the look above, the copies are gone.
            let copy = copies.by_page.remove(next).ok_or(Abandoned)?;
            *words = copy[0];
            copies.spare.push(copy);
        }
        *next += 1;
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let mut copies = self.aside.copies.lock();
        copies.clear();
        // Relaxed: stored under the lock, where the writer looks again.
        self.aside.state.store(ENDED, Ordering::Relaxed);
        self.index.counters.0.captured.store(0, Ordering::Relaxed);
    }
}

fn words_of(line: &Line) -> [u64; LINE_WORDS] {
    // Relaxed: the writer reads what it stored itself; the capture fences before it believes what it read.
    std::array::from_fn(|word| line.words[word].load(Ordering::Relaxed))
}
