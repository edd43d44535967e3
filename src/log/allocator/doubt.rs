//! Giving out segments where the file system tells of room that it does not give.
//!
//! A quota that `statfs` does not show is met so, and a file system whose own notes need more room than it says. The reserve of
//! removals and passes cannot be computed there, so it is tried for: a segment is made only where the reserve can be had besides.
//! This holds from the start, because the first refusal is the first that is seen of such a limit. After one the store believes
//! nothing until a segment of the usual size is to be had again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{InProgress, LogContext, PAGE_SIZE, SegmentAllocator, fits, least_size};
use crate::error::{Error, Resource, Result};
use crate::format::file_name;
use crate::fs::Dir;
use crate::log::allocator::quota::SpaceClass;
use crate::log::segment::Segment;

const PAGE: u64 = PAGE_SIZE as u64;
/// Where nothing tells how much is free, so much is taken to be, in bytes.
const UNKNOWN: u64 = 1 << 60;

/// True after something was refused that should have been there.
#[derive(Debug, Default)]
pub(in crate::log) struct Doubt(AtomicBool);

impl Doubt {
    /// True where what the file system tells cannot be believed.
    pub(in crate::log) fn is_there(&self) -> bool {
        // Relaxed, here and below: who misses a change finds out by trying.
        self.0.load(Ordering::Relaxed)
    }

    /// The bytes that are free beside `log` bytes of segments, as far as the store reckons with them.
    pub(in crate::log) fn believed(&self, dir: &dyn Dir, log: u64) -> u64 {
        let told = dir.free_bytes().unwrap_or(UNKNOWN);
        // The reserve is a third of all at most: half of the part that is used.
        if self.is_there() { told.min(log / 2) } else { told }
    }

    /// Takes note that so much could not be had.
    pub(in crate::log) fn refused(&self, dir: &dyn Dir, bytes: u64, error: &Error) {
        let is_told = || dir.free_bytes().is_none_or(|free| free >= bytes);
        if matches!(error, Error::NoSpace { .. }) && is_told() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Takes note that as much was there as there should be.
    fn ends(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl SegmentAllocator {
    /// As [`SegmentAllocator::take`], where room is found by trying.
    pub(super) fn take_doubted(
        &self,
        shared: &LogContext,
        want: SpaceClass,
        need: u64,
    ) -> Result<Arc<Segment>> {
        let mut making = self.making.lock();
        if want != SpaceClass::Insertion {
            // Relaxed: see `SegmentAllocator::check`.
            self.short.store(true, Ordering::Relaxed);
        }
        if let Some(segment) = Self::name_made(shared, &mut making)? {
            self.ready.lock().push_front(segment);
        }
        if let Some(segment) = self.take_ready_doubted(shared, &making, want, need)? {
            return Ok(segment);
        }
        self.count_stall();
        let made = match self.make_doubted(shared, &mut making, want, need) {
            Err(Error::NoSpace { .. })
                if want == SpaceClass::Last && self.give_up(shared, &mut making)? > 0 =>
            {
                self.make_doubted(shared, &mut making, want, need)
            }
            made => made,
        };
        Ok(made?.expect("only what is made ahead can be done without"))
    }

    /// A ready segment, where the reserve of others is there without it.
    fn take_ready_doubted(
        &self,
        shared: &LogContext,
        making: &InProgress,
        want: SpaceClass,
        need: u64,
    ) -> Result<Option<Arc<Segment>>> {
        let size = self.ready.lock().iter().find(|segment| fits(segment, need)).map(|segment| segment.size());
        let Some(size) = size else { return Ok(None) };
        let room = self.room(shared);
        match Self::prove(shared, making, room.kept(want).saturating_sub(room.ready - size)) {
            Ok(()) => Ok(self.take_ready(need)),
            Err(Error::NoSpace { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Makes a segment, a small one where there is room for no other; none ahead where the store may have no more.
    pub(super) fn make_doubted(
        &self,
        shared: &LogContext,
        making: &mut InProgress,
        want: SpaceClass,
        need: u64,
    ) -> Result<Option<Arc<Segment>>> {
        let least = least_size(need);
        let usual =
            if want == SpaceClass::Last { least } else { making.next_size.min(self.room(shared).largest) };
        let Some(mut size) = self.allowance.size(want, usual, least)? else { return Ok(None) };
        loop {
            let beside = self.room(shared).beside(shared, want);
            match self.make_of(shared, making, want, size, beside) {
                Err(Error::NoSpace { .. }) if size > least => size = (size / 2 / PAGE * PAGE).max(least),
                Err(Error::Exhausted { resource: Resource::FileSize, .. }) if size > least => {
                    size = (size / 2 / PAGE * PAGE).max(least);
                }
                made => {
                    let segment = made?;
                    if size >= usual && matches!(want, SpaceClass::Insertion | SpaceClass::Ahead) {
                        shared.doubt.ends();
                    }
                    return Ok(Some(segment));
                }
            }
        }
    }

    /// Proves that so much can be had.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or what the operating system says.
    pub(super) fn prove(shared: &LogContext, _one: &InProgress, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        shared.manifest.check_place()?;
        shared.remove_stray()?;
        let id = shared.manifest.next_segment();
        let name = file_name::temporary(&file_name::segment(id));
        let path = shared.dir.path().join(&name);
        *shared.stray.lock() = Some((id, bytes));
        let tried = match shared.dir.create(&name) {
            Ok(file) => file.allocate(bytes).map_err(|error| Error::allocating(bytes, path, error)),
            Err(error) => Err(Error::io("create", path, error)),
        };
        shared.remove_stray()?;
        match tried {
            Err(Error::Exhausted { resource: Resource::FileSize, .. }) => Ok(()),
            tried => tried,
        }
    }
}
