//! What compaction says of itself.

use std::time::Duration;

/// Why compaction does, or would do, what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum CompactionReason {
    /// Nothing in these segments is alive: they are removed without copying anything.
    Dead,
    /// More of the log is dead than the bound allows.
    Space,
    /// Tombstones are kept because of these segments, which still hold values that they hide.
    Tombstones,
    /// There are many small segments.
    Small,
    /// [`Store::compact`](crate::Store::compact) was called.
    Requested,
}

/// What [`Store::compact`](crate::Store::compact) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionReport {
    /// Passes: each rewrites some segments into new ones, or removes dead ones. Zero where there was nothing to do: no
    /// segment held a value that was overwritten or removed.
    pub passes: u64,
    /// Segments that were removed.
    pub segments_removed: u64,
    /// Segments that were made.
    pub segments_made: u64,
    /// Bytes of the log that were read.
    pub bytes_read: u64,
    /// Bytes of records that were written to new segments.
    pub bytes_moved: u64,
    /// Bytes of segment files that are gone, less those of the files made.
    pub bytes_freed: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl CompactionReport {
    /// Adds what another part of the same work did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passes += other.passes;
        self.segments_removed += other.segments_removed;
        self.segments_made += other.segments_made;
        self.bytes_read += other.bytes_read;
        self.bytes_moved += other.bytes_moved;
        self.bytes_freed += other.bytes_freed;
        self.elapsed += other.elapsed;
    }
}

/// What compaction has done since the store was opened, and would do next; part of [`Stats`](crate::Stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionStats {
    /// Passes that were finished.
    pub passes: u64,
    /// Segments that were removed.
    pub segments_removed: u64,
    /// Bytes of records that were written to new segments.
    pub bytes_moved: u64,
    /// Bytes of segment files that are gone, less those of the files made.
    pub bytes_freed: u64,
    /// Whether a pass is under way.
    pub running: bool,
    /// Bytes of the log that a pass could free now.
    pub freeable_bytes: u64,
    /// Bytes of removals that are kept, because segments still hold values that they hide.
    pub retained_tombstone_bytes: u64,
    /// The number of the segment that is next, where one is due.
    pub next_segment: Option<u64>,
    /// Why it is.
    pub next_reason: Option<CompactionReason>,
    /// Segments that are left alone because a record in them does not verify.
    pub damaged_segments: usize,
}

/// How far [`Store::compact_with`](crate::Store::compact_with) has come in the pass under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionProgress {
    /// Passes that are done.
    pub passes: u64,
    /// Bytes of the log that were read, in all passes.
    pub bytes_read: u64,
    /// Bytes that were written to new segments, in all passes.
    pub bytes_moved: u64,
    /// Bytes of the log that are left to read in this pass.
    pub bytes_left: u64,
}
