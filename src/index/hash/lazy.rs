//! Lazy loading: an index whose lines are read from an index checkpoint on demand.
//!
//! Recovery decides if a checkpoint may be used; this module only reads it.
//!
//! **Why the file is not mapped.** Lines of a *partial* index lie in the same zeroed memory as those of any other index.
//! Each block is read, compared with its checksum and stored. A private mapping would save one copy at a first read and
//! cost a page copy at a first store. A failing disk or a cut file would then be a signal instead of an error. The
//! kernel could drop a clean page and read it again unverified. The file would have to stay while the store is open.
//!
//! **Concurrency.** A block is *loaded* once its bit is set. A thread that needs another block reads and verifies it into
//! memory of its own. Under the loader's lock it stores the block (relaxed) and sets the bit (release), unless another
//! thread was quicker. Every access to a line of a partial index goes through [`Index::ensure_loaded`], which loads the
//! bit of its block (acquire). The writer changes lines of loaded blocks only. So each store here comes before every
//! other access to the line, and the protocol in the head of `index::hash` never sees a block arrive.
//!
//! *Loaded lines.* A search loads the whole chain of its bucket before it looks at any line of it. The writer does so
//! before it changes a chain. Links therefore lead to loaded lines: those of the checkpoint were loaded, and the writer
//! links lines only from chains that it loaded itself, or new lines. The last blocks of the buckets and of the overflow
//! lines are loaded when the index is made, because new lines share them. A reader whose chain changes while it loads
//! may stop: the writer has loaded that chain.
//!
//! *The end.* After the last block the flag `partial` falls (release). A thread that sees that (acquire) sees all blocks.
//! Overflow lines that hold nothing were free (X4). The writer takes them over at that moment and not earlier, so none
//! of them changes while other threads load.
//!
//! **Damage** is an error of every search that needs the block, and never a miss: the bit stays unset, and the next
//! search reads the block again. A line that would break X4 is refused like a wrong checksum. So is a second link to one
//! line, which could make a chain a circle. A change whose chain is damaged ends the index: every later search fails.

use std::io;
use std::sync::Arc;

use super::bitset::{AtomicBitSet, place};
use super::block_error::{BlockError, Why};
use super::bucket::{Bucket, Checkpointed, OverflowLink};
use super::{BLOCK_LINES, Index, LINES};
use crate::format::Defect;
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE, IndexTable, LINE_SIZE, block_of};
use crate::fs::{File, read_exact_at};
use crate::mem::alloc;
use crate::mem::line_array::{LINE_WORDS, Line};
use crate::sync::{Mutex, Ordering, fence};

/// Blocks that a step of [`Index::load_more`] reads at once: 1 MiB.
const STEP_BLOCKS: u64 = (1 << 20) / BLOCK_LEN as u64;

/// Bits of [`IndexHead::partial`](super::IndexHead): blocks are not loaded, and the index has ended.
pub(super) const PARTIAL: u64 = 1;
const DEAD: u64 = 2;

/// The location of an index's blocks in a checkpoint file.
#[derive(Debug, Clone)]
pub(crate) struct BlockSource {
    /// The checkpoint, open for reading.
    pub(crate) file: Arc<dyn File>,
    /// The file's path, for messages.
    pub(crate) path: Arc<std::path::Path>,
    /// The nonce of the file.
    pub(crate) nonce: u64,
    /// The number of the first frame of this index.
    pub(crate) first_frame: u64,
    /// The length of the front in bytes, which is the offset of frame zero.
    pub(crate) frames_at: u64,
}

/// One of the two arrays of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Heads = 0,
    Overflow = 1,
}

/// The state of loading an index.
#[derive(Debug)]
pub(super) struct LazyLoader {
    table: IndexTable,
    /// A bit for each loaded block, of buckets and of overflow lines.
    there: [AtomicBitSet; 2],
    /// The checkpoint's path, for messages.
    path: Arc<std::path::Path>,
    state: Mutex<BlockState>,
}

#[derive(Debug)]
struct BlockState {
    /// `None` once every block is loaded.
    source: Option<BlockSource>,
    /// The number of blocks that are not loaded.
    left: u64,
    /// The frame at which `load_more` continues.
    next: u64,
    /// True once `load_more` has begun: lines are filled from now on.
    filling: bool,
    /// Entries in the loaded blocks.
    entries: u64,
    overflow_lines: u64,
    /// Overflow lines that a loaded line links to.
    linked: Linked,
    /// Overflow lines without entries.
    free: Vec<OverflowLink>,
    /// The error that ended the index, if any.
    dead: Option<BlockError>,
}

impl LazyLoader {
    pub(super) fn new(table: IndexTable, source: BlockSource) -> Self {
        let blocks = table.blocks();
        let path = Arc::clone(&source.path);
        let state = BlockState {
            source: Some(source),
            left: blocks.iter().sum(),
            next: 0,
            filling: false,
            entries: 0,
            overflow_lines: table.overflow_lines,
            linked: Linked::new(table.overflow_lines),
            free: Vec::new(),
            dead: None,
        };
        Self { table, there: blocks.map(AtomicBitSet::new), path, state: Mutex::new(state) }
    }

    fn is_there(&self, which: Which, block: u64) -> bool {
        self.there[which as usize].get(block)
    }

    /// Returns the frame of a block among those of this index.
    fn frame(&self, which: Which, block: u64) -> u64 {
        if which == Which::Heads { block } else { self.table.blocks()[0] + block }
    }

    /// Returns the block of a frame.
    fn block(&self, frame: u64) -> (Which, u64) {
        let heads = self.table.blocks()[0];
        if frame < heads { (Which::Heads, frame) } else { (Which::Overflow, frame - heads) }
    }

    /// Returns the source; `None` once every block is loaded.
    fn source(&self) -> Result<Option<BlockSource>, BlockError> {
        let state = self.state.lock();
        state.dead.clone().map_or_else(|| Ok(state.source.clone()), Err)
    }

    /// Returns the overflow lines that were free, at the first call only.
    pub(super) fn take_free(&self) -> Vec<OverflowLink> {
        std::mem::take(&mut self.state.lock().free)
    }
}

impl BlockSource {
    fn offset(&self, frame: u64) -> u64 {
        self.frames_at + (self.first_frame + frame) * FRAME_SIZE as u64
    }

    fn unread(&self, frame: u64, why: Why) -> BlockError {
        BlockError::new(Arc::clone(&self.path), self.offset(frame), why)
    }

    /// Reads consecutive frames.
    fn read(&self, frame: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        let read = read_exact_at(&*self.file, buffer, self.offset(frame));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.unread(frame, Why::Damaged(Defect::Truncated)),
            _ => self.unread(frame, Why::Failed(Arc::new(error))),
        })
    }

    fn block<'b>(&self, frame: u64, bytes: &'b [u8]) -> Result<&'b [u8; BLOCK_LEN], BlockError> {
        let block = block_of(self.nonce, self.first_frame + frame, bytes);
        block.map_err(|defect| self.unread(frame, Why::Damaged(defect)))
    }
}

impl Index {
    /// Loads the chain of a bucket; returns at once for a whole index.
    #[cold]
    pub(super) fn ensure_loaded(&self, bucket: u64) -> Result<(), BlockError> {
        // Relaxed: a search that begins after the end sees it; `end_with` says why.
        let is_dead = self.front.0.partial.load(Ordering::Relaxed) & DEAD != 0;
        let Some(loader) = &self.loader else {
            return if is_dead { Err(self.superseded()) } else { Ok(()) };
        };
        if is_dead {
            loader.source()?;
        }
        self.load_block(loader, Which::Heads, bucket / BLOCK_LINES)?;
        let head = self.heads.line(bucket);
        let control = head.control();
        let mut link = control.link();
        while let Some(next) = link {
            self.load_block(loader, Which::Overflow, next.line() / BLOCK_LINES)?;
            let line = self.overflow.line(next.line());
            // Acquire: as in `find`, so that lines that change hands cannot lead in a circle.
            fence(Ordering::Acquire);
            if head.control_unordered() != control {
                break;
            }
            link = line.control().link();
        }
        Ok(())
    }

    /// Loads the blocks that new lines will share with lines of the checkpoint.
    pub(super) fn load_last(&self) -> Result<(), BlockError> {
        let Some(loader) = &self.loader else { return Ok(()) };
        for which in [Which::Heads, Which::Overflow] {
            if let Some(last) = loader.table.blocks()[which as usize].checked_sub(1) {
                self.load_block(loader, which, last)?;
            }
        }
        Ok(())
    }

    fn load_block(&self, loader: &LazyLoader, which: Which, block: u64) -> Result<(), BlockError> {
        if loader.is_there(which, block) {
            return Ok(());
        }
        let Some(source) = loader.source()? else { return Ok(()) };
        let mut frame = [0; FRAME_SIZE];
        let number = loader.frame(which, block);
        source.read(number, &mut frame)?;
        self.install_block(loader, &source, number, source.block(number, &frame)?)
    }

    /// Loads about 1 MiB of missing blocks, and returns true if some are left. A step for the
    /// worker, beside readers and the writer; a loop of it makes the index whole.
    ///
    /// # Errors
    ///
    /// Returns the error of a search that needs a damaged block. The next steps continue behind the
    /// block, and then wrap around; the index stays partial.
    pub(crate) fn load_more(&self) -> Result<bool, BlockError> {
        let Some(loader) = self.loader.as_ref().filter(|_| self.lacks_blocks()) else { return Ok(false) };
        let Some(source) = loader.source()? else { return Ok(false) };
        let frames: u64 = loader.table.blocks().iter().sum();
        let (start, is_first) = {
            let mut state = loader.state.lock();
            (state.next, !std::mem::replace(&mut state.filling, true))
        };
        if is_first {
            self.heads.fill_soon();
            self.overflow.fill_soon();
        }
        let is_missing = |frame: &u64| {
            let (which, block) = loader.block(*frame);
            !loader.is_there(which, block)
        };
        // Wrapped around: damaged blocks, or blocks that other threads are loading now.
        let first = (start..frames).find(is_missing).or_else(|| (0..start.min(frames)).find(is_missing));
        let Some(first) = first else { return Ok(self.lacks_blocks()) };
        let count = (first..frames.min(first + STEP_BLOCKS)).take_while(is_missing).count();
        let mut buffer = alloc::zeros_or_few(count * FRAME_SIZE, FRAME_SIZE);
        let end = first + (buffer.len() / FRAME_SIZE) as u64;
        loader.state.lock().next = end;
        source.read(first, &mut buffer)?;
        for (number, frame) in (first..end).zip(buffer.chunks_exact(FRAME_SIZE)) {
            let settled = source
                .block(number, frame)
                .and_then(|block| self.install_block(loader, &source, number, block));
            if let Err(unread) = settled {
                loader.state.lock().next = number + 1;
                return Err(unread);
            }
        }
        Ok(self.lacks_blocks())
    }

    /// Makes the index whole, as a scan, a checkpoint of it, or a replay onto it needs.
    ///
    /// # Errors
    ///
    /// As for [`Index::load_more`].
    pub(crate) fn load_all(&self) -> Result<(), BlockError> {
        while self.load_more()? {}
        Ok(())
    }

    /// Stores a verified block, unless it is loaded.
    fn install_block(
        &self,
        loader: &LazyLoader,
        source: &BlockSource,
        frame: u64,
        bytes: &[u8; BLOCK_LEN],
    ) -> Result<(), BlockError> {
        let (which, block) = loader.block(frame);
        let mut state = loader.state.lock();
        if loader.is_there(which, block) {
            return Ok(());
        }
        let row = if which == Which::Heads { &self.heads } else { &self.overflow };
        let lines = if which == Which::Heads { loader.table.buckets } else { loader.table.overflow_lines };
        let damaged = |field| source.unread(frame, Why::Damaged(Defect::BadField(field)));
        let start = block * BLOCK_LINES;
        let mut words = [[0; LINE_WORDS]; LINES];
        for (words, bytes) in words.iter_mut().zip(bytes.chunks_exact(LINE_SIZE)) {
            *words = words_of(bytes);
        }
        let (here, behind) = words.split_at(usize::try_from((lines - start).min(BLOCK_LINES)).unwrap_or(0));
        if behind.iter().flatten().any(|word| *word != 0) {
            return Err(damaged("line behind the last"));
        }
        state
            .note(&|number| self.is_empty_line(loader, number), which, start..lines, here)
            .map_err(damaged)?;
        for (number, words) in (start..).zip(here) {
            store(row.line(number), words);
        }
        loader.there[which as usize].set(block);
        state.left -= 1;
        if state.left == 0 && state.dead.is_none() {
            self.finish(&mut state, loader.table.entries).map_err(damaged)?;
        }
        Ok(())
    }

    /// True if an overflow line is loaded and holds no entry.
    fn is_empty_line(&self, loader: &LazyLoader, number: u64) -> bool {
        loader.is_there(Which::Overflow, number / BLOCK_LINES)
            && self.overflow.line(number).entry(0).is_empty()
    }

    /// Ends the loading after the last block.
    fn finish(&self, state: &mut BlockState, entries: u64) -> Result<(), &'static str> {
        state.linked = Linked::default();
        if state.entries != entries {
            // Every checksum is right and the sum is wrong: no index had these blocks at one
            // moment.
            let source = state.source.take().expect("it goes when everything is there");
            self.end_with(state, source.unread(0, Why::Damaged(Defect::BadField("entries"))));
            return Err("entries");
        }
        state.source = None;
        // Release: pairs with the acquire load in `is_partial`; all blocks are stored.
        self.front.0.partial.fetch_and(!PARTIAL, Ordering::Release);
        Ok(())
    }

    /// Returns the bytes of the checkpoint that were loaded.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        let Some(loader) = &self.loader else { return 0 };
        let blocks: u64 = loader.table.blocks().iter().sum();
        (blocks - loader.state.lock().left) * FRAME_SIZE as u64
    }

    /// Ends a partial index because a change to it failed.
    pub(super) fn end(&self, unread: BlockError) {
        if let Some(loader) = &self.loader {
            let mut state = loader.state.lock();
            // An index with all blocks needs nothing from the file, so it cannot end.
            if self.lacks_blocks() {
                self.end_with(&mut state, unread);
            }
        }
    }

    fn end_with(&self, state: &mut BlockState, unread: BlockError) {
        state.dead.get_or_insert(unread);
        // Relaxed: later searches see it by what ordered them later; `finish` holds the lock.
        self.front.0.partial.fetch_or(DEAD, Ordering::Relaxed);
    }

    /// Ends an index from a checkpoint or from hints, whole or not: another one has replaced it, and
    /// this one is not changed any more.
    pub(crate) fn supersede(&self) {
        match &self.loader {
            Some(loader) => self.end_with(&mut loader.state.lock(), self.superseded()),
            // Relaxed: as in `end_with`.
            None if self.waiting.get().is_some() => {
                self.front.0.partial.fetch_or(DEAD, Ordering::Relaxed);
            }
            None => {}
        }
    }

    /// Returns the error of a search in an index that another one has replaced.
    fn superseded(&self) -> BlockError {
        let of_checkpoint = self.loader.as_ref().map(|loader| &loader.path);
        let path = of_checkpoint.or_else(|| Some(self.waiting.get()?.path()));
        let path = path.map_or_else(|| Arc::from(std::path::Path::new("")), Arc::clone);
        BlockError::new(path, 0, Why::Superseded)
    }

    /// True if a block is not loaded, or the index has ended.
    fn lacks_blocks(&self) -> bool {
        // Acquire: as in `is_partial`.
        self.front.0.partial.load(Ordering::Acquire) & (PARTIAL | DEAD) != 0
    }

    /// True if a block is not loaded (yet, or ever because it is damaged), a part waits for records, or
    /// the index has ended.
    #[inline]
    pub(crate) fn is_partial(&self) -> bool {
        // Acquire: pairs with the releases in `finish` and `end_waiting`.
        self.front.0.partial.load(Ordering::Acquire) != 0
    }
}

impl BlockState {
    /// Checks the lines of a block and records their entries, links and free lines. Returns the
    /// name of an invalid field; records nothing of a refused block.
    fn note(
        &mut self,
        is_empty: &dyn Fn(u64) -> bool,
        which: Which,
        numbers: std::ops::Range<u64>,
        lines: &[[u64; LINE_WORDS]],
    ) -> Result<(), &'static str> {
        const LINE: &str = "line of an index";
        let (start, is_head) = (numbers.start, which == Which::Heads);
        let overflow_lines = self.overflow_lines;
        let mut entries = 0;
        let (mut links, mut free) = (Vec::new(), Vec::new());
        for (number, words) in (start..).zip(lines) {
            let line = Checkpointed::of(words, is_head, overflow_lines).ok_or(LINE)?;
            entries += line.entries;
            links.extend(line.link);
            if !is_head && line.entries == 0 {
                if self.linked.get(number) {
                    return Err(LINE);
                }
                free.push(OverflowLink::to(number).ok_or(LINE)?);
            }
        }
        for (at, link) in links.iter().enumerate() {
            let is_own = !is_head && link.line().checked_sub(start).is_some_and(|at| at < lines.len() as u64);
            let is_free = if is_own { free.contains(link) } else { is_empty(link.line()) };
            if self.linked.get(link.line()) || links[..at].contains(link) || is_free {
                return Err(LINE);
            }
        }
        for link in links {
            self.linked.set(link.line());
        }
        self.entries += entries;
        self.free.append(&mut free);
        Ok(())
    }
}

/// Bits of lines, in pages that are made at their first use: making all at once would be a part of
/// each open that grows with the index.
#[derive(Debug, Default)]
struct Linked {
    pages: Vec<Option<Box<[u64; LINKED_WORDS]>>>,
}

/// The number of words in a page of [`Linked`], for 4,096 lines.
const LINKED_WORDS: usize = 64;

impl Linked {
    fn new(count: u64) -> Self {
        let pages = usize::try_from(count.div_ceil(64 * LINKED_WORDS as u64)).unwrap_or(usize::MAX);
        Self { pages: vec![None; pages] }
    }

    fn get(&self, line: u64) -> bool {
        let (word, bit) = place(line);
        let page = self.pages[word / LINKED_WORDS].as_ref();
        page.is_some_and(|page| page[word % LINKED_WORDS] & bit != 0)
    }

    fn set(&mut self, line: u64) {
        let (word, bit) = place(line);
        let page = self.pages[word / LINKED_WORDS].get_or_insert_with(|| Box::new([0; LINKED_WORDS]));
        page[word % LINKED_WORDS] |= bit;
    }
}

fn words_of(bytes: &[u8]) -> [u64; LINE_WORDS] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

fn store(line: &Line, words: &[u64; LINE_WORDS]) {
    for (to, word) in line.words.iter().zip(words) {
        // Relaxed: the bit of the block, set afterwards, orders it.
        to.store(*word, Ordering::Relaxed);
    }
}
