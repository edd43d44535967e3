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
//! thread was quicker. Every access to a line of a partial index comes after [`load_block`](IndexLines::load_block) of
//! its block, or a look at it: both load the bit (acquire). The writer changes lines of loaded blocks only. So each store here comes
//! before every other access to the line, and the protocols in the heads of `index::hash` and `index::tree` never see a
//! block arrive. `hash::bucket_check` and `tree::node_check` say which lines a search needs.
//!
//! *New lines.* The last blocks of both rows are loaded when the index is made, because new lines share them.
//!
//! *The end.* After the last block the flag `PARTIAL` falls (release). A thread that sees that (acquire) sees all blocks.
//! Lines that hold nothing were free. The writer takes them over at that moment and not earlier, so none of them changes
//! while other threads load.
//!
//! **Damage** is an error of every search that needs the block, and never a miss: the bit stays unset, and the next
//! search reads the block again. A line that no writer makes is refused like a wrong checksum. A change for which a block
//! is damaged ends the index: every later search fails.

use std::io;
use std::sync::Arc;

use super::bitset::AtomicBitSet;
use super::block_error::{BlockError, Why};
use super::capture::{BLOCK_LINES, LINES};
use super::{IndexLines, Row};
use crate::format::Defect;
use crate::format::checkpoint::{BLOCK_LEN, FRAME_SIZE, IndexTable, LINE_SIZE, block_of};
use crate::fs::{File, read_exact_at};
use crate::mem::alloc;
use crate::mem::line_array::{LINE_WORDS, Line};
use crate::sync::{Mutex, Ordering};

/// Blocks that a step of [`IndexLines::load_more`] reads at once: 1 MiB.
const STEP_BLOCKS: u64 = (1 << 20) / BLOCK_LEN as u64;

/// Bits of [`IndexLines::flags`]: blocks are not loaded, and the index has ended. Others are the index's own.
pub(in crate::index) const PARTIAL: u64 = 1;
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

/// The check of the blocks of an index: each by itself, and against those before it.
pub(in crate::index) trait BlockCheck: std::fmt::Debug + Send {
    /// Checks the lines of a block, from the line `first` on, and records what they hold; nothing of a refused block.
    /// Appends the numbers of free lines, or of free nodes. Returns the number of entries.
    ///
    /// # Errors
    ///
    /// Returns the name of an invalid field.
    fn note(
        &mut self,
        row: Row,
        first: u64,
        lines: &[[u64; LINE_WORDS]],
        free: &mut Vec<u64>,
    ) -> Result<u64, &'static str>;

    /// Returns true if all blocks together can be an index, after the last one.
    fn is_complete(&self) -> bool;
}

/// The state of loading an index.
#[derive(Debug)]
pub(crate) struct LazyLoader {
    table: IndexTable,
    /// A bit for each loaded block of both rows.
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
    /// `None` once every block is loaded.
    check: Option<Box<dyn BlockCheck>>,
    /// The numbers of free lines or nodes, by row.
    free: [Vec<u64>; 2],
    /// The error that ended the index, if any.
    dead: Option<BlockError>,
}

impl LazyLoader {
    pub(in crate::index) fn new(table: IndexTable, source: BlockSource, check: Box<dyn BlockCheck>) -> Self {
        let blocks = table.blocks();
        let path = Arc::clone(&source.path);
        let state = BlockState {
            source: Some(source),
            left: blocks.iter().sum(),
            next: 0,
            filling: false,
            entries: 0,
            check: Some(check),
            free: [Vec::new(), Vec::new()],
            dead: None,
        };
        Self { table, there: blocks.map(AtomicBitSet::new), path, state: Mutex::new(state) }
    }

    /// Returns true if a block is loaded.
    pub(in crate::index) fn is_there(&self, row: Row, block: u64) -> bool {
        self.there[row as usize].get(block)
    }

    /// Returns the frame of a block among those of this index.
    fn frame(&self, row: Row, block: u64) -> u64 {
        if row == Row::First { block } else { self.table.blocks()[0] + block }
    }

    /// Returns the block of a frame.
    fn block(&self, frame: u64) -> (Row, u64) {
        let first = self.table.blocks()[0];
        if frame < first { (Row::First, frame) } else { (Row::Second, frame - first) }
    }

    /// Returns the source; `None` once every block is loaded.
    fn source(&self) -> Result<Option<BlockSource>, BlockError> {
        let state = self.state.lock();
        state.dead.clone().map_or_else(|| Ok(state.source.clone()), Err)
    }

    /// Returns the lines or nodes of both rows that were free, at the first call only.
    pub(in crate::index) fn take_free(&self) -> [Vec<u64>; 2] {
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

impl dyn IndexLines {
    /// Refuses a search of an index that has ended.
    #[cold]
    pub(in crate::index) fn check_ended(&self) -> Result<(), BlockError> {
        // Relaxed: a search that begins after the end sees it; `end_with` says why.
        if self.flags().load(Ordering::Relaxed) & DEAD == 0 {
            return Ok(());
        }
        match self.loader() {
            Some(loader) => loader.source().map(drop),
            None => Err(self.superseded()),
        }
    }

    /// Loads the blocks that new lines will share with lines of the checkpoint.
    pub(in crate::index) fn load_last(&self) -> Result<(), BlockError> {
        let Some(loader) = self.loader() else { return Ok(()) };
        for row in [Row::First, Row::Second] {
            if let Some(last) = loader.table.blocks()[row as usize].checked_sub(1) {
                self.load_block(loader, row, last)?;
            }
        }
        Ok(())
    }

    /// Loads a block; returns at once if it is loaded.
    pub(in crate::index) fn load_block(
        &self,
        loader: &LazyLoader,
        row: Row,
        block: u64,
    ) -> Result<(), BlockError> {
        if loader.is_there(row, block) {
            return Ok(());
        }
        let Some(source) = loader.source()? else { return Ok(()) };
        let mut frame = [0; FRAME_SIZE];
        let number = loader.frame(row, block);
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
        let Some(loader) = self.loader().filter(|_| self.lacks_blocks()) else { return Ok(false) };
        let Some(source) = loader.source()? else { return Ok(false) };
        let frames: u64 = loader.table.blocks().iter().sum();
        let (start, is_first) = {
            let mut state = loader.state.lock();
            (state.next, !std::mem::replace(&mut state.filling, true))
        };
        if is_first {
            self.row(Row::First).fill_soon();
            self.row(Row::Second).fill_soon();
        }
        let is_missing = |frame: &u64| {
            let (row, block) = loader.block(*frame);
            !loader.is_there(row, block)
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
    /// As for [`IndexLines::load_more`].
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
        let (row, block) = loader.block(frame);
        let mut state = loader.state.lock();
        if loader.is_there(row, block) {
            return Ok(());
        }
        let count = loader.table.lines[row as usize];
        let damaged = |field| source.unread(frame, Why::Damaged(Defect::BadField(field)));
        let start = block * BLOCK_LINES;
        let mut words = [[0; LINE_WORDS]; LINES];
        for (words, bytes) in words.iter_mut().zip(bytes.chunks_exact(LINE_SIZE)) {
            *words = words_of(bytes);
        }
        let (here, behind) = words.split_at(usize::try_from((count - start).min(BLOCK_LINES)).unwrap_or(0));
        if behind.iter().flatten().any(|word| *word != 0) {
            return Err(damaged("line behind the last"));
        }
        state.note(row, start, here).map_err(damaged)?;
        let lines = self.row(row);
        for (number, words) in (start..).zip(here) {
            store(lines.line(number), words);
        }
        loader.there[row as usize].set(block);
        state.left -= 1;
        if state.left == 0 && state.dead.is_none() {
            self.finish(&mut state, loader.table.entries).map_err(damaged)?;
        }
        Ok(())
    }

    /// Ends the loading after the last block.
    fn finish(&self, state: &mut BlockState, entries: u64) -> Result<(), &'static str> {
        let is_complete = state.check.take().is_none_or(|check| check.is_complete());
        if state.entries != entries || !is_complete {
            // Every checksum is right and the sum is wrong: no index had these blocks at one
            // moment.
            let source = state.source.take().expect("it goes when everything is there");
            self.end_with(state, source.unread(0, Why::Damaged(Defect::BadField("entries"))));
            return Err("entries");
        }
        state.source = None;
        // Release: pairs with the acquire load in `is_partial`; all blocks are stored.
        self.flags().fetch_and(!PARTIAL, Ordering::Release);
        Ok(())
    }

    /// Returns the bytes of the checkpoint that were loaded.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        let Some(loader) = self.loader() else { return 0 };
        let blocks: u64 = loader.table.blocks().iter().sum();
        (blocks - loader.state.lock().left) * FRAME_SIZE as u64
    }

    /// Ends a partial index because a change to it failed.
    pub(in crate::index) fn end(&self, unread: BlockError) {
        if let Some(loader) = self.loader() {
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
        self.flags().fetch_or(DEAD, Ordering::Relaxed);
    }

    /// Ends an index from a checkpoint or from hints, whole or not: another one has replaced it, and
    /// this one is not changed any more.
    pub(crate) fn supersede(&self) {
        match self.loader() {
            Some(loader) => self.end_with(&mut loader.state.lock(), self.superseded()),
            // Relaxed: as in `end_with`.
            None => drop(self.flags().fetch_or(DEAD, Ordering::Relaxed)),
        }
    }

    /// Returns the error for a checkpoint that leads to a damaged record.
    pub(crate) fn refused(&self, defect: Defect) -> BlockError {
        let path = self.loader().map_or_else(|| self.path(), |loader| Arc::clone(&loader.path));
        BlockError::new(path, 0, Why::Damaged(defect))
    }

    /// Returns the error of a search in an index that another one has replaced.
    fn superseded(&self) -> BlockError {
        let path = self.loader().map_or_else(|| self.path(), |loader| Arc::clone(&loader.path));
        BlockError::new(path, 0, Why::Superseded)
    }

    /// True if a block is not loaded, or the index has ended.
    fn lacks_blocks(&self) -> bool {
        // Acquire: pairs with the release in `finish`.
        self.flags().load(Ordering::Acquire) & (PARTIAL | DEAD) != 0
    }
}

impl BlockState {
    /// Checks the lines of a block and records their entries and free lines. Returns the name of an
    /// invalid field; records nothing of a refused block.
    fn note(&mut self, row: Row, first: u64, lines: &[[u64; LINE_WORDS]]) -> Result<(), &'static str> {
        let check = self.check.as_mut().ok_or("block of an index that is whole")?;
        let mut free = Vec::new();
        self.entries += check.note(row, first, lines, &mut free)?;
        self.free[row as usize].append(&mut free);
        Ok(())
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
