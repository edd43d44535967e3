//! Segment allocation on a file system that reports more free space than it gives.
//!
//! Two causes are a quota that `statfs` does not show, and a file system whose metadata needs more
//! space than it says. The reserve of removals and passes cannot be computed there, so it is
//! tested: a segment is made only if the reserve can be allocated beside it. This holds from the
//! start, because nothing shows such a limit before the first refusal. After one, the store trusts
//! no number until it can make a segment of the usual size again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::low_space::is_in_memory;
use super::{InProgress, LogContext, PAGE_SIZE, SegmentAllocator, fits, least_size};
use crate::error::{Error, Resource, Result};
use crate::format::file_name;
use crate::fs::Dir;
use crate::log::allocator::quota::SpaceClass;
use crate::log::segment::Segment;

const PAGE: u64 = PAGE_SIZE as u64;
/// The bytes assumed free if the file system reports no number.
const UNKNOWN: u64 = 1 << 60;

/// True after a refusal of space that should have been free.
#[derive(Debug, Default)]
pub(in crate::log) struct Doubt(AtomicBool);

impl Doubt {
    /// Returns true if the reported free space cannot be trusted.
    pub(in crate::log) fn is_there(&self) -> bool {
        // Relaxed, here and below: a thread that misses a change learns it by trying.
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the free bytes beside `log` bytes of segments that the store counts on.
    pub(in crate::log) fn believed(&self, dir: &dyn Dir, log: u64) -> u64 {
        let told = dir.free_bytes().unwrap_or(UNKNOWN);
        // The reserve is at most a third of the total: half of the used part.
        if self.is_there() { told.min(log / 2) } else { told }
    }

    /// Records that `bytes` bytes could not be allocated.
    pub(in crate::log) fn refused(&self, dir: &dyn Dir, bytes: u64, error: &Error) {
        let is_told = || dir.free_bytes().is_none_or(|free| free >= bytes);
        if matches!(error, Error::NoSpace { .. }) && is_told() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the usual space was available.
    fn ends(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl SegmentAllocator {
    /// Takes a segment like [`SegmentAllocator::take`], and finds the space by trying.
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

    /// Takes a preallocated segment, if the reserve of others is available without it.
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

    /// Makes a segment, a small one if there is no space for another. `None` if a segment made
    /// ahead would exceed the limit.
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

    /// Proves that `bytes` bytes can be allocated.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system.
    pub(super) fn prove(shared: &LogContext, _one: &InProgress, bytes: u64) -> Result<()> {
        if bytes == 0 || is_in_memory(shared) {
            return Ok(());
        }
        shared.manifest.check_place()?;
        shared.remove_stray()?;
        let id = shared.manifest.next_segment();
        let name = file_name::temporary(&file_name::segment(id));
        let path = shared.dir.path().join(&name);
        // It is there for a moment, and empty again at its end: it counts for nothing.
        *shared.stray.lock() = Some((id, 0));
        let tried = match shared.dir.create(&name) {
            Ok(file) => file.allocate_beside(0, bytes).map_err(|error| Error::allocating(bytes, path, error)),
            Err(error) => Err(Error::io("create", path, error)),
        };
        shared.remove_stray()?;
        tried
    }
}
