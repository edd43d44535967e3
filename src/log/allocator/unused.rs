//! Removing preallocated segments that are not needed: when a store shrinks, and when it closes.

use std::sync::Arc;

use super::SegmentAllocator;
use crate::error::Result;
use crate::format::SegmentId;
use crate::log::context::LogContext;
use crate::log::segment::Segment;
use crate::log::segment_file::unlink_segment;
use crate::mem::PAGE_SIZE;

/// A close keeps preallocated segments that take at most one part in this many of the others.
const KEPT_SHARE: u64 = 8;

impl SegmentAllocator {
    /// Takes the preallocated segments out of use, if they are large beside the rest of the store.
    ///
    /// The close then has the manifest forget them, and removes their files: a store that is not
    /// open needs no space for what comes next.
    pub(crate) fn take_unused(&self, shared: &LogContext) -> Vec<Arc<Segment>> {
        let mut ready = self.ready.lock();
        let unused: u64 = ready.iter().map(|segment| segment.size()).sum();
        let rest = shared.files_size().saturating_sub(unused);
        if unused < shared.dir.tuning().unused_at_close || unused < rest / KEPT_SHARE {
            return Vec::new();
        }
        ready.drain(..).collect()
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
