//! Reads of single pages in a store that is larger than memory.
//!
//! At a fault the kernel reads the pages around it as well, as far as the device's read-ahead says.
//! That warms a store which fits into memory. In a larger one, each of these pages takes the place
//! of another that a get needs. A get then reads megabytes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::State;
use crate::mem::record::Record;

/// A store is larger than memory if its files are larger than one part in this many of it: other
/// programs need some, too.
const SHARE: u64 = 2;
/// A value of so many bytes is read at once, where the kernel reads single pages.
const LARGE: usize = 64 << 10;

/// The segments whose pages are read singly.
#[derive(Debug, Default)]
pub(crate) struct ReadAround {
    /// The newest segment when all were as they should be; zero before.
    newest: AtomicU64,
}

impl State {
    /// Has the kernel read single pages of all mapped segments, if the store is too large for
    /// `memory` bytes. For the worker.
    pub(crate) fn read_singly_beyond(&self, memory: u64) {
        let size = self.shared.files_size();
        let segments = self.shared.segments.read();
        let newest = segments.last_key_value().map_or(0, |(id, _)| id.0);
        // Relaxed, here and below: the one worker uses it, or a test.
        if self.read_around.newest.load(Ordering::Relaxed) == newest {
            return;
        }
        let mut is_done = true;
        if size > memory / SHARE {
            for mapping in segments.values().map(|segment| segment.mapping()) {
                if mapping.is_attached() {
                    mapping.read_singly();
                } else {
                    is_done = false;
                }
            }
        }
        if is_done {
            self.read_around.newest.store(newest, Ordering::Relaxed);
        }
    }

    /// Asks the kernel to read a large value at once, where it reads single pages.
    #[inline]
    pub(crate) fn bring_large_value(&self, record: &Record<'_>) {
        if record.raw_header().value_len() >= LARGE {
            record.bring_near();
        }
    }
}
