//! Reads of single pages in a store that is larger than memory.
//!
//! At a fault the kernel reads the pages around it as well, as far as the device's read-ahead says.
//! That warms a store which fits into memory. In a larger one, each of these pages takes the place
//! of another that a get needs. A get then reads megabytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::State;

/// A store is too large for memory if its files take more than one part less than so many of it:
/// other programs need some, too.
const SHARE: u64 = 4;

/// The moment at which the segments were as they should be.
#[derive(Debug, Default)]
pub(crate) struct ReadAround {
    /// The number of segments that had been added then, plus one.
    added: AtomicU64,
    /// True once the store was too large for memory.
    is_beyond: AtomicBool,
}

impl State {
    /// Has the kernel read single pages of all mapped segments, if the store is too large for
    /// `memory` bytes. For the worker.
    pub(crate) fn read_singly_beyond(&self, memory: u64) {
        let added = self.shared.added() + 1;
        // Relaxed, both: the one worker uses it, or a test.
        if self.read_around.added.load(Ordering::Relaxed) == added {
            return;
        }
        let is_beyond = self.shared.files_size() > memory - memory / SHARE;
        let mut is_done = true;
        if is_beyond {
            // Relaxed: advice.
            self.read_around.is_beyond.store(true, Ordering::Relaxed);
            let segments: Vec<_> = self.shared.segments.read().values().map(Arc::clone).collect();
            for mapping in segments.iter().map(|segment| segment.mapping()) {
                if mapping.is_attached() {
                    mapping.read_singly();
                } else {
                    is_done = false;
                }
            }
        }
        if is_done {
            self.read_around.added.store(added, Ordering::Relaxed);
        }
    }
    /// Returns true if the kernel was told to read single pages, because the store is too large for memory.
    #[inline]
    pub(crate) fn reads_singly(&self) -> bool {
        // Relaxed: advice.
        self.read_around.is_beyond.load(Ordering::Relaxed)
    }
}
