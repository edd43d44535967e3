//! How much of a segment is dead, and why.
//!
//! **Concurrency.** Counted by the one writer of the store, under its mutex, so no count is a read-modify-write; read by
//! anybody, each number on its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why bytes of a segment are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadCause {
    /// A value that is not the newest record of its key, or whose keyspace is gone.
    Hidden,
    /// A tombstone.
    Tombstone,
    /// A record of the log's own: start, watermark, the header of a batch, a change of the keyspaces.
    Note,
}

/// The counters of one segment; apart from what readers load for every record.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct DeadBytes {
    hidden: AtomicU64,
    tombstones: AtomicU64,
    notes: AtomicU64,
}

/// What the counters say at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DeadByteCounts {
    pub(crate) hidden: u64,
    pub(crate) tombstones: u64,
    pub(crate) notes: u64,
}

impl DeadByteCounts {
    /// All of them together.
    pub(crate) fn dead(self) -> u64 {
        self.hidden + self.tombstones + self.notes
    }
}

impl DeadBytes {
    /// Counts bytes; by the one writer only.
    #[inline]
    pub(crate) fn add(&self, why: DeadCause, bytes: u64) {
        let counter = match why {
            DeadCause::Hidden => &self.hidden,
            DeadCause::Tombstone => &self.tombstones,
            DeadCause::Note => &self.notes,
        };
        // Relaxed, and not one operation: one writer.
        counter.store(counter.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> DeadByteCounts {
        // Relaxed, all: see the module's documentation.
        DeadByteCounts {
            hidden: self.hidden.load(Ordering::Relaxed),
            tombstones: self.tombstones.load(Ordering::Relaxed),
            notes: self.notes.load(Ordering::Relaxed),
        }
    }
}
