//! The segment allocator: it preallocates segments ahead of the writer, so the writer finds mapped
//! pages and never a full disk.
//!
//! **Concurrency.** Lock order: the store's writer mutex, then `making`, then the manifest's, then
//! `ready`. The worker takes `making` without the writer mutex. A writer that finds no preallocated
//! segment waits for it, or makes a segment itself.
//!
//! **Invariants.** I6: a segment that [`SegmentAllocator::take`] returns is named by both copies of
//! the manifest, durably.

pub(in crate::log) mod doubt;
mod low_space;
mod make_segment;
pub(crate) mod quota;
pub(crate) mod reserve;
pub(crate) mod unused;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::make_segment::{Wanted, make_segment};
use self::unused::{ids_of, remove_unused};
use crate::config::Config;
use crate::error::{Error, Resource, Result};
use crate::format::record::{HEADER_SIZE, StartRecord, Watermark};
use crate::format::segment_header::SEGMENT_HEADER_SIZE;
use crate::format::{SegmentId, Seq};
use crate::log::allocator::quota::{Quota, SpaceClass};
use crate::log::context::total_size;
use crate::log::context::{LogContext, Segments};
use crate::log::manifest::SPARE_ENTRIES;
use crate::log::segment::segment_plan::LARGE_PIECE;
use crate::log::segment::{Prefault, Segment};
use crate::mem::PAGE_SIZE;
use crate::sync::statistic::Statistic;

/// The distance that pages are faulted ahead of the writer, in bytes.
///
/// The worker's other tasks take steps of up to some tens of milliseconds, and a fast writer writes
/// megabytes meanwhile.
const WINDOW: u64 = 16 << 20;
/// The bytes faulted in one step.
const STEP: u64 = 2 << 20;
/// A large write that needs a new segment gets one for this many like it, up to the greatest size.
///
/// A segment costs syncs, and a writer of large records fills a small one before the next is made.
const FRAMES_LIKE_IT: u64 = 16;
/// Writes of fewer bytes follow the size schedule alone.
const LARGE_FRAME: u64 = 64 << 10;
/// The bytes of a segment beside its users' records: its header, its start record, and space for a
/// watermark.
pub(crate) const OVERHEAD: u64 = SEGMENT_HEADER_SIZE as u64
    + (HEADER_SIZE + StartRecord::SIZE) as u64
    + (HEADER_SIZE + Watermark::SIZE) as u64;

/// Preallocates segments.
#[derive(Debug)]
pub(crate) struct SegmentAllocator {
    prefault: Prefault,
    allowance: Quota,
    making: Mutex<InProgress>,
    ready: Mutex<VecDeque<Arc<Segment>>>,
    /// The active segment, for the worker.
    active: Mutex<Arc<Segment>>,
    /// The writer's offset in it, for the worker.
    offset: AtomicU64,
    /// Bytes of files that are pending removal and belong to no segment any more.
    leaving: AtomicU64,
    /// Bytes of the largest recent write that needed a segment.
    need: AtomicU64,
    /// The number of times a writer had to make a segment or fault pages itself.
    stalls: Statistic,
    /// True if space kept for removals may be in use. The next insertion checks.
    short: AtomicBool,
    /// True if the writer makes its pages itself, with the large values that it writes.
    writer_makes_pages: AtomicBool,
}

#[derive(Debug)]
struct InProgress {
    next_size: u64,
    /// The largest size known to fit the process's limit on file sizes.
    most: u64,
    /// A segment whose file exists but whose name in the manifest is not yet known to be durable.
    unnamed: Option<Arc<Segment>>,
    /// Preallocated segments that are to be removed.
    given_up: Vec<Arc<Segment>>,
}

impl SegmentAllocator {
    /// Starts with segments that are already preallocated.
    pub(crate) fn new(
        prefault: Prefault,
        config: &Config,
        segments: &Segments,
        ready: Vec<Arc<Segment>>,
        active: Arc<Segment>,
    ) -> Self {
        let allowance = Quota::new(config, total_size(segments));
        let is_first = active.is_nowhere();
        let next_size = if is_first { allowance.least() } else { allowance.after(active.size()) };
        Self {
            prefault,
            allowance,
            making: Mutex::new(InProgress { next_size, most: u64::MAX, unnamed: None, given_up: Vec::new() }),
            ready: Mutex::new(ready.into()),
            offset: AtomicU64::new(active.data_offset()),
            active: Mutex::new(active),
            leaving: AtomicU64::new(0),
            need: AtomicU64::new(0),
            stalls: Statistic::new(0),
            short: AtomicBool::new(true),
            writer_makes_pages: AtomicBool::new(false),
        }
    }

    /// Returns the size of the first segment after an open, in bytes.
    ///
    /// On a full disk it is one page, so that space is left for the passes that free some.
    fn first_size(config: &Config, shared: &LogContext) -> u64 {
        let size = Quota::new(config, total_size(&shared.segments)).first();
        let page = PAGE_SIZE as u64;
        let most = shared.dir.free_bytes().map_or(u64::MAX, |free| free / 4 / page * page);
        size.min(most.max(page))
    }

    /// Returns the bytes of all segments.
    pub(crate) fn used(&self) -> u64 {
        self.allowance.used()
    }

    /// Refuses a write of `need` bytes that the limit or a full disk does not allow, even if the
    /// segment has space.
    ///
    /// # Errors
    ///
    /// `DiskLimit` or `NoSpace`.
    #[inline]
    pub(crate) fn check(&self, shared: &LogContext, want: SpaceClass, need: u64) -> Result<()> {
        self.allowance.check(want, || least_size(need))?;
        // Relaxed: set under the writer mutex by the write that took space, or long before it
        // matters.
        if want == SpaceClass::Insertion && self.short.load(Ordering::Relaxed) {
            self.restore(shared)
        } else {
            Ok(())
        }
    }

    /// Returns the bytes that count against the limit: all segments, and removed files that are
    /// still in use.
    pub(crate) fn counted(&self) -> u64 {
        self.allowance.counted()
    }

    /// Returns the error of an insertion that needs `needed` bytes more than there is space for.
    pub(crate) fn refusal(&self, needed: u64) -> Error {
        self.allowance.refusal(needed)
    }

    /// Recounts after segments were added or removed, or the use of removed ones changed.
    pub(crate) fn recount(&self, shared: &LogContext) {
        // Relaxed: only passes change it, one at a time.
        let leaving = self.leaving.load(Ordering::Relaxed);
        self.allowance.set_used(shared.files_size() + leaving);
        if self.allowance.is_limited() {
            // The pass that removes files holds those that are pending removal.
            self.allowance.set_held(shared.space.bytes_in_use_of_removed().saturating_sub(leaving));
        }
    }

    /// Keeps counting a removed segment's bytes until its file is unlinked.
    pub(crate) fn leaves(&self, size: u64) {
        // Relaxed: see `recount`.
        self.leaving.fetch_add(size, Ordering::Relaxed);
    }

    /// Stops counting a file that was unlinked.
    pub(crate) fn has_left(&self, size: u64, shared: &LogContext) {
        // Relaxed: see `recount`.
        self.leaving.fetch_sub(size, Ordering::Relaxed);
        self.recount(shared);
    }

    /// Takes a segment that has space for a write of `need` bytes.
    ///
    /// # Errors
    ///
    /// `DiskLimit`, `NoSpace`, `Exhausted`, or an error of the operating system. Nothing has been
    /// written.
    pub(crate) fn take(&self, shared: &LogContext, want: SpaceClass, need: u64) -> Result<Arc<Segment>> {
        self.check_files(shared, want)?;
        if let Some(room) = self.space_budget(shared) {
            return self.take_low_space(shared, want, need, room);
        }
        self.note_need(need);
        if let Some(segment) = self.take_ready(need) {
            return Ok(segment);
        }
        let mut making = self.making.lock();
        // The worker may have made the missing one meanwhile.
        if let Some(segment) = self.take_ready(need) {
            self.count_stall();
            return Ok(segment);
        }
        let made = match self.make(shared, &mut making, want, need) {
            Err(Error::NoSpace { .. }) if shared.doubt.is_there() => {
                drop(making);
                return self.take_doubted(shared, want, need);
            }
            made => made?,
        };
        self.count_stall();
        Ok(made.expect("only what is made ahead can be done without"))
    }

    /// Takes the first preallocated segment that the write fits into. Those before it wait for
    /// smaller writes.
    fn take_ready(&self, need: u64) -> Option<Arc<Segment>> {
        let mut ready = self.ready.lock();
        let at = ready.iter().position(|segment| fits(segment, need))?;
        ready.remove(at)
    }

    /// Records the size of a write that needed a segment.
    ///
    /// A larger one is remembered for a while, so that a segment for the next one like it is made
    /// ahead.
    fn note_need(&self, need: u64) {
        // Relaxed, both: the worker only estimates with it.
        let before = self.need.load(Ordering::Relaxed);
        self.need.store(need.max(before - before / 4), Ordering::Relaxed);
    }

    /// Returns the preallocated segment that the writer is likely to continue in.
    fn next_ready(&self) -> Option<Arc<Segment>> {
        // Relaxed: see `note_need`.
        let need = self.need.load(Ordering::Relaxed);
        self.ready.lock().iter().find(|segment| fits(segment, need)).map(Arc::clone)
    }

    /// Returns an unused segment to the front of the queue.
    pub(crate) fn give_back(&self, segment: Arc<Segment>) {
        self.ready.lock().push_front(segment);
    }

    /// Removes the preallocated segments, and starts the size schedule again. Returns the bytes
    /// freed.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. The next open removes the files that are left.
    pub(crate) fn give_up_ready(&self, shared: &LogContext) -> Result<u64> {
        self.give_up(shared, &mut self.making.lock())
    }

    fn give_up(&self, shared: &LogContext, making: &mut InProgress) -> Result<u64> {
        making.next_size = self.allowance.least();
        making.given_up.extend(self.ready.lock().drain(..));
        let ids = ids_of(&making.given_up);
        if ids.is_empty() {
            return Ok(0);
        }
        // Relaxed: see `check`.
        self.short.store(true, Ordering::Relaxed);
        if let Err(error) = shared.manifest.retire(&ids, Seq::ZERO) {
            // Segments that the manifest still names are available again. The rest waits for the
            // next try.
            let named = |segment: &Arc<Segment>| shared.manifest.has(segment.id());
            self.ready.lock().extend(making.given_up.extract_if(.., |segment| named(segment)));
            return Err(error);
        }
        let mut freed = 0;
        while let Some(segment) = making.given_up.last() {
            remove_unused(shared, segment)?;
            freed += segment.size();
            // It never held a record, so a power cut may restore its file.
            shared.manifest.forget(&[segment.id()]);
            making.given_up.pop();
        }
        self.recount(shared);
        shared.sync_dir()?;
        Ok(freed)
    }

    fn make(
        &self,
        shared: &LogContext,
        making: &mut InProgress,
        want: SpaceClass,
        need: u64,
    ) -> Result<Option<Arc<Segment>>> {
        if let Some(segment) = Self::name_made(shared, making)? {
            if fits(&segment, need) {
                return Ok(Some(segment));
            }
            self.ready.lock().push_back(segment);
        }
        let least = least_size(need);
        let usual = making.next_size.max(self.for_frames_like(shared, need));
        let Some(mut size) = self.allowance.size(want, usual, least)? else {
            return Ok(None);
        };
        // Required for every class: if it is not available, `take_doubted` takes little of it.
        let room = self.room(shared);
        loop {
            let beside = room.beside_usual(shared, size);
            match self.make_of(shared, making, want, size, beside) {
                // The process may not create a file this large.
                Err(Error::Exhausted { resource: Resource::FileSize, .. }) if size > least => {
                    size = (size / 2).next_multiple_of(PAGE_SIZE as u64).max(least);
                    (making.most, making.next_size) = (size, size);
                }
                made => return made.map(Some),
            }
        }
    }

    /// Returns the size worth making for a write of `need` bytes, at most a part of the free space.
    /// 0 leaves it to the schedule.
    fn for_frames_like(&self, shared: &LogContext, need: u64) -> u64 {
        let (least, most) = (least_size(need), self.allowance.most());
        if need < LARGE_FRAME || least > most / 2 {
            return 0;
        }
        let free = shared.dir.free_bytes().unwrap_or(u64::MAX);
        most.min(least * FRAMES_LIKE_IT).min(low_space::part_of(free))
    }

    /// Names the segment that was made and not named yet.
    fn name_made(shared: &LogContext, making: &mut InProgress) -> Result<Option<Arc<Segment>>> {
        shared.commit.check()?;
        if let Some(segment) = &making.unnamed {
            shared.manifest.add(segment.entry())?;
        }
        Ok(making.unnamed.take())
    }

    /// Makes a segment of that size if `beside` more bytes are free.
    fn make_of(
        &self,
        shared: &LogContext,
        making: &mut InProgress,
        want: SpaceClass,
        size: u64,
        beside: u64,
    ) -> Result<Arc<Segment>> {
        // Removals and passes may use the space that the others leave.
        let spare = if matches!(want, SpaceClass::Insertion | SpaceClass::Ahead) { SPARE_ENTRIES } else { 0 };
        // The writer would write the pages again.
        let piece = if self.makes_pages() { PAGE_SIZE as u64 } else { LARGE_PIECE };
        let made = make_segment(shared, self.prefault, &Wanted { size, spare, beside, piece });
        self.recount(shared);
        let (segment, named) = made?;
        if size >= making.next_size {
            making.next_size = self.allowance.after(size).min(making.most);
        }
        if let Err(error) = named {
            making.unnamed = Some(segment);
            return Err(error);
        }
        Ok(segment)
    }

    /// Tells the worker the active segment and the writer's offset.
    pub(crate) fn set_active(&self, segment: &Arc<Segment>, offset: u64) {
        *self.active.lock() = Arc::clone(segment);
        self.set_offset(offset);
    }

    /// Tells the worker the writer's offset in its segment.
    pub(crate) fn set_offset(&self, offset: u64) {
        // Relaxed: the worker only estimates with it.
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Sets whether the writer makes its pages itself. Pages made ahead would then be written
    /// twice.
    pub(crate) fn writer_makes_pages(&self, itself: bool) {
        // Relaxed: a hint to the worker.
        self.writer_makes_pages.store(itself, Ordering::Relaxed);
    }

    /// Returns true if the writer makes its pages itself. It then fills a segment faster than one
    /// is made.
    fn makes_pages(&self) -> bool {
        // Relaxed: see `writer_makes_pages`.
        self.writer_makes_pages.load(Ordering::Relaxed)
    }

    /// Returns the distance that pages are faulted ahead of the writer, in bytes.
    fn window(&self) -> u64 {
        if self.makes_pages() { 0 } else { WINDOW }
    }

    /// Returns the writer's offset, to see if it moves.
    pub(crate) fn offset(&self) -> u64 {
        // Relaxed: see `set_offset`.
        self.offset.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the active segment and of the preallocated ones.
    pub(crate) fn open_bytes(&self) -> u64 {
        let ready: u64 = self.ready.lock().iter().map(|segment| segment.size()).sum();
        self.active.lock().size() + ready
    }

    /// Returns the number of the active segment.
    pub(crate) fn active_id(&self) -> SegmentId {
        self.active.lock().id()
    }

    /// Updates the times of the active segment's file, with `last` as the last number in it.
    pub(crate) fn tell_time(&self, last: Seq) {
        let active = Arc::clone(&self.active.lock());
        active.tell_time(last);
    }

    /// Counts a writer that had to do the worker's work.
    pub(crate) fn count_stall(&self) {
        self.stalls.add(1);
    }

    /// Returns the number of times a writer had to do the worker's work.
    pub(crate) fn stalls(&self) -> u64 {
        self.stalls.get()
    }

    /// Returns the number of preallocated segments.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.lock().len()
    }

    /// Returns true if less than half of the window ahead of the writer is faulted.
    pub(crate) fn is_short(&self) -> bool {
        let active = Arc::clone(&self.active.lock());
        let (offset, ready) = (self.offset(), active.ready());
        let next = if ready < active.size() { 0 } else { self.next_ready().map_or(0, |next| next.ready()) };
        ready.saturating_sub(offset) + next < self.window() / 2
    }

    /// Does one step of the worker's work. Returns true if there was any.
    ///
    /// # Errors
    ///
    /// The errors of [`SegmentAllocator::take`]. The writer will get them as well, and report them.
    pub(crate) fn step(&self, shared: &LogContext) -> Result<bool> {
        let active = Arc::clone(&self.active.lock());
        let offset = self.offset();
        let window = self.window();
        let target = (offset + window).min(active.size());
        if active.ready() < target {
            active.extend((active.ready() + STEP).min(target))?;
            return Ok(true);
        }
        let Some(next) = self.next_ready() else {
            let is_early = offset < active.size() / 2 && !self.makes_pages();
            if is_early || self.space_budget(shared).is_some() || self.has_few_files(shared) {
                return Ok(false);
            }
            let mut making = self.making.lock();
            if self.next_ready().is_some() {
                return Ok(true);
            }
            // Relaxed: see `note_need`.
            let need = self.need.load(Ordering::Relaxed);
            let Some(segment) = self.make(shared, &mut making, SpaceClass::Ahead, need)? else {
                return Ok(false);
            };
            self.ready.lock().push_back(segment);
            return Ok(true);
        };
        let target = (offset + window).saturating_sub(active.size()).min(next.size());
        if next.ready() < target {
            next.extend((next.ready() + STEP).min(target))?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Returns true if a write of `need` bytes fits into an empty segment.
fn fits(segment: &Segment, need: u64) -> bool {
    segment.size() - OVERHEAD >= need
}

/// Returns the size of the smallest segment that has space for a write of `need` bytes.
fn least_size(need: u64) -> u64 {
    (need + OVERHEAD).next_multiple_of(PAGE_SIZE as u64)
}
