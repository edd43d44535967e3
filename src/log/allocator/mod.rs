//! Making segments ready ahead of the writer, so that it finds pages and never a full disk.
//!
//! **Concurrency.** Lock order: the store's writer mutex, then `making`, then the manifest's, then `ready`. The helper
//! takes `making` without the writer mutex; a writer that finds nothing ready waits for it, or makes a segment itself.
//!
//! **Invariants.** I6: what [`SegmentAllocator::take`] gives out is named by both copies of the manifest, durably.

pub(in crate::log) mod doubt;
mod low_space;
mod making;
pub(crate) mod quota;
pub(crate) mod reserve;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::making::{Wanted, make_segment};
use crate::config::Config;
use crate::error::{Error, Resource, Result};
use crate::format::record::{HEADER_SIZE, StartRecord, Watermark};
use crate::format::segment_header::SEGMENT_HEADER_SIZE;
use crate::format::{SegmentId, Seq};
use crate::log::allocator::quota::{Quota, SpaceClass};
use crate::log::context::total_size;
use crate::log::context::{LogContext, Segments};
use crate::log::manifest::SPARE_ENTRIES;
use crate::log::segment::{Prefault, Segment};
use crate::log::segment_file::unlink_segment;
use crate::mem::mapping::PAGE_SIZE;

/// How far ahead of the writer pages are made ready, in bytes.
/// What the helper does besides, it does in steps of up to some tens of milliseconds, and a fast writer writes megabytes meanwhile.
const WINDOW: u64 = 16 << 20;
/// How much is made ready in one step, in bytes.
const STEP: u64 = 2 << 20;
/// A frame that needs a new segment gets one for so many like it, up to the greatest size: a segment costs syncs, and a writer of
/// large frames fills a small one before the next is made.
const FRAMES_LIKE_IT: u64 = 16;
/// Frames of fewer bytes follow the schedule of sizes alone.
const LARGE_FRAME: u64 = 64 << 10;
/// What a segment needs besides its frames: its header, its start record, and room for a watermark.
pub(crate) const OVERHEAD: u64 = SEGMENT_HEADER_SIZE as u64
    + (HEADER_SIZE + StartRecord::SIZE) as u64
    + (HEADER_SIZE + Watermark::SIZE) as u64;

/// Makes segments ready.
#[derive(Debug)]
pub(crate) struct SegmentAllocator {
    prefault: Prefault,
    allowance: Quota,
    making: Mutex<InProgress>,
    ready: Mutex<VecDeque<Arc<Segment>>>,
    /// The segment that is written to, for the helper.
    active: Mutex<Arc<Segment>>,
    /// The writer's offset in it, for the helper.
    offset: AtomicU64,
    /// Bytes of files that are to be removed, and belong to no segment any more.
    leaving: AtomicU64,
    /// Bytes of the largest frame that needed a segment lately.
    need: AtomicU64,
    /// How often a writer had to make a segment or pages ready itself.
    stalls: AtomicU64,
    /// What is kept for removals may be in use; the next insertion looks.
    short: AtomicBool,
    /// The writer makes its pages itself, with the large values that it writes.
    writer_makes_pages: AtomicBool,
}

#[derive(Debug)]
struct InProgress {
    next_size: u64,
    /// The process's limit on file sizes allows no larger ones, as far as is known.
    most: u64,
    /// A segment whose file exists but whose name in the manifest is not yet known to be durable.
    unnamed: Option<Arc<Segment>>,
    /// Segments that were ready and are to be removed.
    given_up: Vec<Arc<Segment>>,
}

impl SegmentAllocator {
    /// Starts with segments that are ready already.
    pub(crate) fn new(
        prefault: Prefault,
        config: &Config,
        segments: &Segments,
        ready: Vec<Arc<Segment>>,
        active: Arc<Segment>,
    ) -> Self {
        let allowance = Quota::new(config, total_size(segments));
        let next_size = allowance.after(active.size()).max(allowance.for_store());
        Self {
            prefault,
            allowance,
            making: Mutex::new(InProgress { next_size, most: u64::MAX, unnamed: None, given_up: Vec::new() }),
            ready: Mutex::new(ready.into()),
            offset: AtomicU64::new(active.data_offset()),
            active: Mutex::new(active),
            leaving: AtomicU64::new(0),
            need: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            short: AtomicBool::new(true),
            writer_makes_pages: AtomicBool::new(false),
        }
    }

    /// The size of the first segment after an open, in bytes.
    /// On a full disk a page, so that something is left for the passes that lead out of it.
    fn first_size(config: &Config, shared: &LogContext) -> u64 {
        let size = Quota::new(config, total_size(&shared.segments)).first();
        let page = PAGE_SIZE as u64;
        let most = shared.dir.free_bytes().map_or(u64::MAX, |free| free / 4 / page * page);
        size.min(most.max(page))
    }

    /// Bytes that all segments take.
    pub(crate) fn used(&self) -> u64 {
        self.allowance.used()
    }

    /// Refuses a frame of `need` bytes that the limit or a full disk does not allow, whatever room there is.
    ///
    /// # Errors
    ///
    /// `DiskLimit` or `NoSpace`.
    #[inline]
    pub(crate) fn check(&self, shared: &LogContext, want: SpaceClass, need: u64) -> Result<()> {
        self.allowance.check(want, || least_size(need))?;
        // Relaxed: set by what took room, under the writer mutex or long before anybody counts on it.
        if want == SpaceClass::Insertion && self.short.load(Ordering::Relaxed) {
            self.restore(shared)
        } else {
            Ok(())
        }
    }

    /// Bytes that count against the limit: those, and of removed files what somebody still holds.
    pub(crate) fn counted(&self) -> u64 {
        self.allowance.counted()
    }

    /// The error of an insertion that needs so many bytes more than there is room for.
    pub(crate) fn refusal(&self, needed: u64) -> Error {
        self.allowance.refusal(needed)
    }

    /// Takes note that segments have come or gone, or that somebody holds more or less of removed ones.
    pub(crate) fn recount(&self, shared: &LogContext) {
        // Relaxed: only passes change it, one at a time.
        let leaving = self.leaving.load(Ordering::Relaxed);
        self.allowance.set_used(shared.files_size() + leaving);
        if self.allowance.is_limited() {
            // The pass that takes them away holds those that leave.
            self.allowance.set_held(shared.space.bytes_in_use_of_removed().saturating_sub(leaving));
        }
    }

    /// Takes note that a segment is none of the store's any more, whose file is still there and counts until it is removed.
    pub(crate) fn leaves(&self, size: u64) {
        // Relaxed: as in `recount`.
        self.leaving.fetch_add(size, Ordering::Relaxed);
    }

    /// Takes note that such a file was removed.
    pub(crate) fn has_left(&self, size: u64, shared: &LogContext) {
        // Relaxed: as in `recount`.
        self.leaving.fetch_sub(size, Ordering::Relaxed);
        self.recount(shared);
    }

    /// Gives out a segment that has room for frames of `need` bytes.
    ///
    /// # Errors
    ///
    /// `DiskLimit`, `NoSpace`, `Exhausted`, or what the operating system says; nothing has been written.
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
        // The helper may have been making the one that was missing.
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

    /// The first ready segment that a frame fits into; those before it wait for smaller ones.
    fn take_ready(&self, need: u64) -> Option<Arc<Segment>> {
        let mut ready = self.ready.lock();
        let at = ready.iter().position(|segment| fits(segment, need))?;
        ready.remove(at)
    }

    /// Takes note of a frame that needed a segment. A larger one is remembered for a while, so that a segment for the next one
    /// like it is made ahead.
    fn note_need(&self, need: u64) {
        // Relaxed, both: the helper only estimates with it.
        let before = self.need.load(Ordering::Relaxed);
        self.need.store(need.max(before - before / 4), Ordering::Relaxed);
    }

    /// The ready segment that the writer is likely to go on in.
    fn next_ready(&self) -> Option<Arc<Segment>> {
        // Relaxed: see `note_need`.
        let need = self.need.load(Ordering::Relaxed);
        self.ready.lock().iter().find(|segment| fits(segment, need)).map(Arc::clone)
    }

    /// Takes a segment back that could not be used; it is the next to be given out.
    pub(crate) fn give_back(&self, segment: Arc<Segment>) {
        self.ready.lock().push_front(segment);
    }

    /// Gives up the segments that are made and not written to, and begins the schedule of sizes again; how many bytes
    /// came back.
    ///
    /// # Errors
    ///
    /// What the operating system says; the next open removes what is left.
    pub(crate) fn give_up_ready(&self, shared: &LogContext) -> Result<u64> {
        self.give_up(shared, &mut self.making.lock())
    }

    fn give_up(&self, shared: &LogContext, making: &mut InProgress) -> Result<u64> {
        making.next_size = self.allowance.least();
        making.given_up.extend(self.ready.lock().drain(..));
        let ids: Vec<_> = making.given_up.iter().map(|segment| segment.id()).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        // Relaxed: see `check`.
        self.short.store(true, Ordering::Relaxed);
        if let Err(error) = shared.manifest.retire(&ids, Seq::ZERO) {
            // What the manifest still names in memory is ready again; the rest waits for the next try.
            let named = |segment: &Arc<Segment>| shared.manifest.has(segment.id());
            self.ready.lock().extend(making.given_up.extract_if(.., |segment| named(segment)));
            return Err(error);
        }
        let mut freed = 0;
        while let Some(segment) = making.given_up.last() {
            // Whoever is pinned keeps the mapping, and that its blocks. The header stays: it tells an open whose file it is.
            if let Some(file) = segment.file() {
                drop(file.punch_hole(PAGE_SIZE as u64, segment.size() - PAGE_SIZE as u64));
            }
            unlink_segment(shared.dir.as_ref(), segment.id())?;
            freed += segment.size();
            shared.segments.write().remove(&segment.id());
            // Its blocks are gone, whoever holds the mapping.
            shared.space.retire(segment.mapping(), PAGE_SIZE as u64);
            // It never held a record, so that a power cut may bring its file back.
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
        // Whatever it is for: where that is not to be had, others see to it that little is taken of it.
        let room = self.room(shared);
        loop {
            let beside = room.beside_usual(shared, size);
            match self.make_of(shared, making, want, size, beside) {
                // The process may have no file as large as that.
                Err(Error::Exhausted { resource: Resource::FileSize, .. }) if size > least => {
                    size = (size / 2).next_multiple_of(PAGE_SIZE as u64).max(least);
                    (making.most, making.next_size) = (size, size);
                }
                made => return made.map(Some),
            }
        }
    }

    /// The size that is worth making for a frame of `need` bytes, a part of what is free at most; 0 where the schedule knows better.
    fn for_frames_like(&self, shared: &LogContext, need: u64) -> u64 {
        let (least, most) = (least_size(need), self.allowance.most());
        if need < LARGE_FRAME || least > most / 2 {
            return 0;
        }
        let free = shared.dir.free_bytes().unwrap_or(u64::MAX);
        most.min(least * FRAMES_LIKE_IT).min(low_space::part_of(free))
    }

    /// The segment that was made and not named, named now.
    fn name_made(shared: &LogContext, making: &mut InProgress) -> Result<Option<Arc<Segment>>> {
        shared.commit.check()?;
        if let Some(segment) = &making.unnamed {
            shared.manifest.add(segment.entry())?;
        }
        Ok(making.unnamed.take())
    }

    /// Makes a segment of that size where so many bytes can be had `beside` it.
    fn make_of(
        &self,
        shared: &LogContext,
        making: &mut InProgress,
        want: SpaceClass,
        size: u64,
        beside: u64,
    ) -> Result<Arc<Segment>> {
        // What leads out of a full disk may use the room that the others leave.
        let spare = if matches!(want, SpaceClass::Insertion | SpaceClass::Ahead) { SPARE_ENTRIES } else { 0 };
        let made = make_segment(shared, self.prefault, &Wanted { size, spare, beside });
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

    /// Tells the helper where the writer is.
    pub(crate) fn set_active(&self, segment: &Arc<Segment>, offset: u64) {
        *self.active.lock() = Arc::clone(segment);
        self.set_offset(offset);
    }

    /// Tells the helper how far the writer is in its segment.
    pub(crate) fn set_offset(&self, offset: u64) {
        // Relaxed: the helper only estimates with it.
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Tells the helper whether the writer makes its pages itself: those made ahead would be written twice.
    pub(crate) fn writer_makes_pages(&self, itself: bool) {
        // Relaxed: a hint to the helper.
        self.writer_makes_pages.store(itself, Ordering::Relaxed);
    }

    /// How far ahead of the writer pages are made ready, in bytes.
    fn window(&self) -> u64 {
        // Relaxed: as above.
        if self.writer_makes_pages.load(Ordering::Relaxed) { 0 } else { WINDOW }
    }

    /// The writer's offset, for whoever asks whether it moves.
    pub(crate) fn offset(&self) -> u64 {
        // Relaxed: see `set_offset`.
        self.offset.load(Ordering::Relaxed)
    }

    /// Bytes of the segment that is written to, and of those that are ready.
    pub(crate) fn open_bytes(&self) -> u64 {
        let ready: u64 = self.ready.lock().iter().map(|segment| segment.size()).sum();
        self.active.lock().size() + ready
    }

    /// The segment that is written to.
    pub(crate) fn active_id(&self) -> SegmentId {
        self.active.lock().id()
    }

    /// Has the times of the segment that is written to say so, the last number being `last`.
    pub(crate) fn tell_time(&self, last: Seq) {
        let active = Arc::clone(&self.active.lock());
        active.tell_time(last);
    }

    /// Counts a writer that had to do the helper's work.
    pub(crate) fn count_stall(&self) {
        // Relaxed: a statistic.
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a writer had to do the helper's work.
    pub(crate) fn stalls(&self) -> u64 {
        // Relaxed: a statistic.
        self.stalls.load(Ordering::Relaxed)
    }

    /// Segments that are made and not yet written to.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.lock().len()
    }

    /// Whether less than half of what should lie ready ahead of the writer does.
    pub(crate) fn is_short(&self) -> bool {
        let active = Arc::clone(&self.active.lock());
        let (offset, ready) = (self.offset(), active.ready());
        let next = if ready < active.size() { 0 } else { self.next_ready().map_or(0, |next| next.ready()) };
        ready.saturating_sub(offset) + next < self.window() / 2
    }

    /// One piece of the helper's work; whether there was any.
    ///
    /// # Errors
    ///
    /// As [`SegmentAllocator::take`]; the writer will meet the same, and report it.
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
            let is_early = offset < active.size() / 2;
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

/// Whether a frame of `need` bytes fits into a segment that is not written to yet.
fn fits(segment: &Segment, need: u64) -> bool {
    segment.size() - OVERHEAD >= need
}

/// The size of the smallest segment that has room for a frame of `need` bytes.
fn least_size(need: u64) -> u64 {
    (need + OVERHEAD).next_multiple_of(PAGE_SIZE as u64)
}
