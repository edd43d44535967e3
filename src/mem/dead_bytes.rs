//! Counters of the dead bytes of a segment, by cause.
//!
//! **Concurrency.** The one writer of the store counts under its mutex, so no count is a
//! read-modify-write. Any thread may read, and each number stands on its own.

use crate::sync::statistic::SingleWriter;

/// The cause for which bytes of a segment are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadCause {
    /// A superseded value, which is not the newest record of its key, or a value of a keyspace that
    /// no longer exists.
    Hidden,
    /// A tombstone.
    Tombstone,
    /// An internal record of the log: a start, a watermark, the header of a batch, or a keyspace
    /// change.
    Note,
}

/// The counters of one segment. They have cache lines apart from the words that readers load for
/// every record.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct DeadBytes {
    hidden: SingleWriter,
    tombstones: SingleWriter,
    notes: SingleWriter,
}

/// The values of the counters at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DeadByteCounts {
    pub(crate) hidden: u64,
    pub(crate) tombstones: u64,
    pub(crate) notes: u64,
}

impl DeadByteCounts {
    /// Returns the sum of all dead bytes.
    pub(crate) fn dead(self) -> u64 {
        self.hidden + self.tombstones + self.notes
    }
}

impl DeadBytes {
    /// Adds dead bytes. Called by the one writer only.
    #[inline]
    pub(crate) fn add(&self, why: DeadCause, bytes: u64) {
        let counter = match why {
            DeadCause::Hidden => &self.hidden,
            DeadCause::Tombstone => &self.tombstones,
            DeadCause::Note => &self.notes,
        };
        // Relaxed, and no read-modify-write: there is one writer.
        counter.add(bytes);
    }

    /// Returns the bytes counted so far.
    pub(crate) fn counted(&self) -> DeadByteCounts {
        // Relaxed, all: see the module's documentation.
        DeadByteCounts {
            hidden: self.hidden.get(),
            tombstones: self.tombstones.get(),
            notes: self.notes.get(),
        }
    }
}
