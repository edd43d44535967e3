//! Segment allocation on a nearly full disk: it preserves the space kept for removals and passes.
//!
//! Free space and preallocated segments count as one here. Preallocated segments hold the space
//! against other programs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{InProgress, LogContext, PAGE_SIZE, SegmentAllocator, fits, least_size};
use crate::config::Config;
use crate::error::{Error, RanOut, Resource, Result};
use crate::fs::Medium;
use crate::log::allocator::quota::SpaceClass;
use crate::log::allocator::reserve::Reserve;
use crate::log::segment::Segment;

const PAGE: u64 = PAGE_SIZE as u64;
/// The multiple of the reserve above which low space does not matter.
const PLENTY: u64 = 4;
/// A segment is at most one part in this many of the space that a store can have in total.
const SHARE: u64 = 8;
/// The multiple of a usual segment's size that must be available beside it.
const USUAL_SHARE: u64 = 3;

/// The least number of segments that hold the reserve.
const PIECES: u64 = 4;
/// The files that insertions leave: two for the copies of passes, the rest for the segments of
/// removals and opens.
const FILES_KEPT: u64 = 4;
/// The files that removals leave.
const FILES_FOR_PASSES: u64 = 2;

/// The space on a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpaceBudget {
    /// Bytes that are free on the disk and can be trusted, without those that changes of names
    /// need.
    free: u64,
    /// Bytes of the preallocated segments.
    pub(super) ready: u64,
    /// Bytes of all other segments.
    log: u64,
    /// Bytes that are free or in preallocated segments.
    spare: u64,
    reserve: Reserve,
    /// Bytes that are left free so that names can be changed.
    names: u64,
    /// The greatest size for a new segment.
    pub(super) largest: u64,
    /// True if less may be free than reported, so no request is refused or allowed by these
    /// numbers.
    is_doubted: bool,
}

/// Returns true if the store lies in memory. Such a file system reports true numbers, and trying to
/// allocate takes as long as writing.
pub(super) fn is_in_memory(shared: &LogContext) -> bool {
    matches!(shared.dir.medium(), Ok(Medium::Memory))
}

impl SpaceBudget {
    /// Returns the bytes that a write leaves to others.
    pub(super) fn kept(&self, want: SpaceClass) -> u64 {
        match want {
            SpaceClass::Insertion | SpaceClass::Ahead => self.reserve.all,
            SpaceClass::Removal => self.reserve.pass,
            SpaceClass::Last => 0,
        }
    }

    /// Returns the bytes that are left for a write.
    fn left(&self, want: SpaceClass) -> u64 {
        self.spare.saturating_sub(self.kept(want)) / PAGE * PAGE
    }

    /// Returns the bytes that must be free beside a segment made for a write.
    pub(super) fn beside(&self, shared: &LogContext, want: SpaceClass) -> u64 {
        if is_in_memory(shared) {
            return 0;
        }
        let names = if want == SpaceClass::Last { 0 } else { self.names };
        self.kept(want).saturating_sub(self.ready) + names
    }

    /// Returns the bytes that must be free beside a segment of `size` bytes, if space does not seem
    /// low.
    ///
    /// They keep the segment a small part of the space that the store can have. A pass without
    /// space for a segment's copies reclaims none of it.
    pub(super) fn beside_usual(&self, shared: &LogContext, size: u64) -> u64 {
        let least = self.beside(shared, SpaceClass::Insertion);
        // With plenty of space, this much is available.
        let plenty = PLENTY.saturating_mul(self.reserve.all).saturating_add(size);
        let wanted = (USUAL_SHARE * size).saturating_sub(self.log).min(plenty);
        if least == 0 { 0 } else { least.max(wanted.min(self.free.saturating_sub(size) / 2)) }
    }

    /// Returns the bytes that one pass may write.
    pub(crate) fn for_pass(&self, segment_bytes: u64) -> u64 {
        let most = self.reserve.pass.max(segment_bytes);
        // btrfs reports freed space only once its metadata is on the disk, but gives it at once.
        if self.is_doubted || self.names > 0 { most } else { self.spare.min(most) }
    }
}

impl SegmentAllocator {
    /// Refuses a segment if the file system can hold only the files kept for removals and passes.
    ///
    /// A preallocated segment counts as an available file.
    ///
    /// # Errors
    ///
    /// `Exhausted`.
    pub(super) fn check_files(&self, shared: &LogContext, want: SpaceClass) -> Result<()> {
        let kept = match want {
            SpaceClass::Insertion | SpaceClass::Ahead => FILES_KEPT,
            SpaceClass::Removal => FILES_FOR_PASSES,
            SpaceClass::Last => return Ok(()),
        };
        let Some(free) = shared.dir.free_files() else { return Ok(()) };
        if free.saturating_add(self.ready_count() as u64) > kept {
            return Ok(());
        }
        let source = Arc::new(io::Error::new(io::ErrorKind::StorageFull, RanOut(Resource::Files)));
        let path = shared.dir.path().to_owned();
        Err(Error::Exhausted { resource: Resource::Files, operation: "make a segment in", path, source })
    }

    /// Returns true if no file is available but the kept ones.
    pub(crate) fn has_few_files(&self, shared: &LogContext) -> bool {
        self.check_files(shared, SpaceClass::Ahead).is_err()
    }

    /// Returns the bytes that insertions leave in a store that is being opened.
    pub(super) fn kept_at_open(shared: &LogContext, config: &Config) -> u64 {
        if is_in_memory(shared) {
            return 0;
        }
        let (log, largest) = total_and_largest(shared);
        let free = shared.doubt.believed(shared.dir.as_ref(), log);
        Reserve::of(log, largest.min(config.segment_bytes), free).all
    }

    /// Returns the space on the disk.
    pub(super) fn room(&self, shared: &LogContext) -> SpaceBudget {
        let ready: u64 = self.ready.lock().iter().map(|segment| segment.size()).sum();
        let log = self.used().saturating_sub(ready);
        let free = shared.doubt.believed(shared.dir.as_ref(), log);
        let (_, largest) = total_and_largest(shared);
        let part = part_of(log.saturating_add(free).saturating_add(ready));
        let (names, part) = (shared.dir.names_bytes().min(part), part.max(PAGE));
        let free = free.saturating_sub(names);
        let spare = free.saturating_add(ready);
        let reserve = Reserve::of(log, largest.min(self.allowance.most()), spare);
        let largest = part;
        SpaceBudget { free, ready, log, spare, reserve, names, largest, is_doubted: shared.doubt.is_there() }
    }

    /// Returns the space on the disk. `None` if it is plenty.
    pub(crate) fn space_budget(&self, shared: &LogContext) -> Option<SpaceBudget> {
        let next = self.allowance.after(self.active.lock().size());
        let room = self.room(shared);
        let plenty = PLENTY.saturating_mul(room.reserve.all + room.names).saturating_add(2 * next);
        (room.is_doubted || room.free < plenty).then_some(room)
    }

    /// Takes a segment like [`SegmentAllocator::take`], from the space that is not kept for others.
    pub(super) fn take_low_space(
        &self,
        shared: &LogContext,
        want: SpaceClass,
        need: u64,
        room: SpaceBudget,
    ) -> Result<Arc<Segment>> {
        if room.is_doubted {
            return self.take_doubted(shared, want, need);
        }
        let mut making = self.making.lock();
        let (left, least) = (room.left(want), least_size(need));
        if left < least && want != SpaceClass::Last {
            return Err(full(shared, least));
        }
        if want != SpaceClass::Insertion {
            // Relaxed: see `SegmentAllocator::check`.
            self.short.store(true, Ordering::Relaxed);
        }
        if let Some(segment) = Self::name_made(shared, &mut making)? {
            self.ready.lock().push_front(segment);
        }
        let fits = |segment: &Arc<Segment>| fits(segment, need) && segment.size() <= left;
        let found = {
            let mut ready = self.ready.lock();
            let at = ready.iter().position(fits);
            at.and_then(|at| ready.remove(at))
        };
        if let Some(segment) = found {
            return Ok(segment);
        }
        // The last space is not used at once: a pass may free the next page.
        let usual =
            if want == SpaceClass::Last { least } else { making.next_size.min(room.largest).min(left) };
        // The disk's space still counts beyond the limit on the store's size.
        let size = self.allowance.size(want, usual, least)?.map_or(least, |size| size.min(left).max(least));
        if size > room.free {
            self.give_up(shared, &mut making)?;
        }
        self.count_stall();
        let beside = self.room(shared).beside(shared, want);
        let segment = self.make_of(shared, &mut making, want, size, beside)?;
        if want == SpaceClass::Insertion {
            self.hold(shared, &mut making, room.reserve)?;
        }
        Ok(segment)
    }

    /// Ensures that a segment is preallocated for when the active one is full, so that its rest can
    /// be kept for removals.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system.
    pub(crate) fn have_next(&self, shared: &LogContext) -> Result<()> {
        if self.ready_count() > 0 {
            return Ok(());
        }
        if self.space_budget(shared).is_some_and(|room| !room.is_doubted) {
            return self.restore(shared);
        }
        let mut making = self.making.lock();
        if !self.ready.lock().is_empty() {
            return Ok(());
        }
        self.check_files(shared, SpaceClass::Ahead)?;
        let mut made = Ok(None);
        if !shared.doubt.is_there() {
            made = self.make(shared, &mut making, SpaceClass::Ahead, 0);
        }
        if shared.doubt.is_there() && matches!(made, Ok(None) | Err(Error::NoSpace { .. })) {
            made = self.make_doubted(shared, &mut making, SpaceClass::Ahead, 0);
        }
        if let Some(segment) = made? {
            self.ready.lock().push_back(segment);
        }
        Ok(())
    }

    /// Ensures that insertions may continue.
    ///
    /// # Errors
    ///
    /// `NoSpace` while the space kept for removals is in use.
    #[cold]
    pub(super) fn restore(&self, shared: &LogContext) -> Result<()> {
        // Relaxed: see `SegmentAllocator::check`. First, so that segments given up meanwhile are
        // not forgotten.
        self.short.store(false, Ordering::Relaxed);
        let Some(room) = self.space_budget(shared) else { return Ok(()) };
        let kept = match room.is_doubted {
            true => Self::prove(shared, &self.making.lock(), room.beside(shared, SpaceClass::Insertion)),
            false if room.spare < room.reserve.all => Err(full(shared, room.reserve.all - room.spare)),
            false => Ok(()),
        };
        if kept.is_err() {
            self.short.store(true, Ordering::Relaxed);
        }
        if room.is_doubted || kept.is_err() {
            return kept;
        }
        self.hold(shared, &mut self.making.lock(), room.reserve)
    }

    /// Holds the reserve in segments, as far as possible, so that other programs cannot take it.
    ///
    /// An open after a kill continues in one of them, so they are several.
    fn hold(&self, shared: &LogContext, making: &mut InProgress, reserve: Reserve) -> Result<()> {
        loop {
            let ready: u64 = self.ready.lock().iter().map(|segment| segment.size()).sum();
            let missing = reserve.all.saturating_sub(ready);
            if missing == 0 || self.has_few_files(shared) {
                return Ok(());
            }
            let piece =
                (reserve.all / PIECES).next_multiple_of(PAGE).min(self.allowance.most()).min(making.most);
            let Some(size) = self.allowance.size(SpaceClass::Ahead, piece.min(missing), PAGE)? else {
                return Ok(());
            };
            match self.make_of(shared, making, SpaceClass::Ahead, size, 0) {
                Ok(segment) => self.ready.lock().push_back(segment),
                // It is free all the same.
                Err(Error::NoSpace { .. }) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }
}

/// Returns the greatest size of a segment if `bytes` bytes are available.
pub(super) fn part_of(bytes: u64) -> u64 {
    bytes / SHARE / PAGE * PAGE
}

/// Returns the bytes of all segments, and of the largest.
fn total_and_largest(shared: &LogContext) -> (u64, u64) {
    let segments = shared.segments.read();
    let sizes = || segments.values().map(|segment| segment.size());
    (sizes().sum(), sizes().max().unwrap_or(0))
}

fn full(shared: &LogContext, needed: u64) -> Error {
    Error::NoSpace { path: shared.dir.path().to_owned(), needed, source: None }
}
