//! A segment that another process owns.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Segment;
use crate::error::Result;
use crate::format::StoreId;
use crate::format::manifest::SegmentEntry;
use crate::fs::Dir;
use crate::mem::address_space::GranuleRange;

impl Segment {
    /// Opens a segment like [`Segment::open`], in no address space: it is read by offsets alone.
    ///
    /// # Errors
    ///
    /// The errors of [`Segment::open`].
    pub(crate) fn open_alone(
        dir: &dyn Dir,
        store: StoreId,
        entry: &SegmentEntry,
        is_guarded: bool,
    ) -> Result<Arc<Self>> {
        let segment = Self::open_with(dir, store, entry, |mapping| {
            if is_guarded {
                mapping.guard();
            }
            Ok(GranuleRange::NONE)
        })?;
        segment.follow();
        Ok(segment)
    }

    /// Releases the file descriptor of a segment that another process owns: it is read through its
    /// mapping, because its file may be removed at any time.
    pub(crate) fn follow(&self) {
        // Relaxed: set before another thread has the segment.
        self.is_followed.store(true, Ordering::Relaxed);
        self.release_file();
    }

    /// Returns true if another process owns the segment.
    pub(crate) fn is_followed(&self) -> bool {
        // Relaxed: see `follow`.
        self.is_followed.load(Ordering::Relaxed)
    }
}
