//! Giving space back that is not needed, when a store shrinks and when it closes: preallocated
//! segments, and the end of the active one.

use std::sync::Arc;

use super::SegmentAllocator;
use crate::error::Result;
use crate::format::SegmentId;
use crate::log::context::LogContext;
use crate::log::segment::{Prefault, Segment};
use crate::log::segment_file::unlink_segment;
use crate::mem::PAGE_SIZE;

/// A close keeps at most one part in this many of what the rest of the store takes.
const KEPT_SHARE: u64 = 8;

impl SegmentAllocator {
    /// Returns the bytes from which a close removes the preallocated segments. It keeps as many at
    /// the end of the active one. `end` is the end of the last record.
    ///
    /// A store that is not open needs no space for what comes next.
    pub(crate) fn kept_at_close(&self, shared: &LogContext, active: &Segment, end: u64) -> u64 {
        let ready: u64 = self.ready.lock().iter().map(|segment| segment.size()).sum();
        let used = shared.files_size().saturating_sub(ready + active.size().saturating_sub(end));
        shared.dir.tuning().unused_at_close.max(used / KEPT_SHARE)
    }

    /// Takes the preallocated segments out of use, unless they take less than `kept` bytes.
    ///
    /// The close then has the manifest forget them, and removes their files.
    pub(crate) fn take_unused(&self, kept: u64) -> Vec<Arc<Segment>> {
        let mut ready = self.ready.lock();
        let unused: u64 = ready.iter().map(|segment| segment.size()).sum();
        if unused < kept { Vec::new() } else { ready.drain(..).collect() }
    }

    /// Frees the blocks at the end of the active segment, but for `kept` bytes behind its last
    /// record. The store is closed.
    ///
    /// A store of durable puts keeps them all: its syncs would have to write to new blocks.
    pub(crate) fn free_end(&self, active: &Segment, end: u64, kept: u64) {
        let from = (end + kept).next_multiple_of(PAGE_SIZE as u64);
        if self.prefault == Prefault::Small || from >= active.size() {
            return;
        }
        let freed = active.file().map(|file| file.punch_hole(from, active.size() - from));
        if let Some(Err(error)) = freed {
            // The store is closed as it should be, and only takes more space.
            crate::trace::background_failed(&error);
        }
    }
}

/// Removes the file of a segment that never held a record, and gives its blocks back at once.
///
/// # Errors
///
/// Errors of the operating system. The next open uses or removes the file.
pub(crate) fn remove_unused(shared: &LogContext, segment: &Segment) -> Result<()> {
    // A pin keeps the mapping, and that keeps its blocks. The header stays: it tells an open whose
    // file it is.
    if let Some(file) = segment.file() {
        drop(file.punch_hole(PAGE_SIZE as u64, segment.size() - PAGE_SIZE as u64));
    }
    unlink_segment(shared.dir.as_ref(), segment.id())?;
    shared.segments.write().remove(&segment.id());
    // Its blocks are free, even if the mapping is pinned.
    shared.space.retire(segment.mapping(), PAGE_SIZE as u64);
    Ok(())
}

/// Returns the numbers of segments.
pub(crate) fn ids_of(segments: &[Arc<Segment>]) -> Vec<SegmentId> {
    segments.iter().map(|segment| segment.id()).collect()
}
