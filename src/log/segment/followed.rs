//! A segment that another process owns.

use std::sync::atomic::Ordering;

use super::Segment;

impl Segment {
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
