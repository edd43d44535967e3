//! The reports, counters and progress of compaction.

use std::time::Duration;

/// The reason for which compaction rewrites, or would rewrite, segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum CompactionReason {
    /// Nothing in these segments is live: they are removed without a copy.
    Dead,
    /// More of the log is dead than the bound allows.
    Space,
    /// Tombstones are retained because these segments still hold values that they hide.
    Tombstones,
    /// There are many small segments.
    Small,
    /// [`Store::compact`](crate::Store::compact) was called.
    Requested,
}

/// The report of a call of [`Store::compact`](crate::Store::compact).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionReport {
    /// Number of passes. Each rewrites some segments into new ones, or removes dead ones. Zero if
    /// no segment held an overwritten or removed value.
    pub passes: u64,
    /// Number of segments removed.
    pub segments_removed: u64,
    /// Number of segments created.
    pub segments_made: u64,
    /// Bytes of the log read.
    pub bytes_read: u64,
    /// Bytes of records written to new segments.
    pub bytes_moved: u64,
    /// Bytes of segment files removed, less those of the files created.
    pub bytes_freed: u64,
    /// Duration of the call.
    pub elapsed: Duration,
}

impl CompactionReport {
    /// Adds the report of another part of the same work.
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

/// Counters of compaction since the store was opened, and its next choice; part of
/// [`Stats`](crate::Stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionStats {
    /// Number of passes finished.
    pub passes: u64,
    /// Number of segments removed.
    pub segments_removed: u64,
    /// Bytes of records written to new segments.
    pub bytes_moved: u64,
    /// Bytes of segment files removed, less those of the files created.
    pub bytes_freed: u64,
    /// True if a pass is under way.
    pub running: bool,
    /// Bytes of the log that a pass could free now.
    pub freeable_bytes: u64,
    /// Bytes of tombstones that are retained, because segments still hold values that they hide.
    pub retained_tombstone_bytes: u64,
    /// Id of the segment to compact next; `None` if none is due.
    pub next_segment: Option<u64>,
    /// The reason for that choice; `None` if no segment is due.
    pub next_reason: Option<CompactionReason>,
    /// Number of segments that compaction skips because a record in them fails verification.
    pub damaged_segments: usize,
}

/// The progress of [`Store::compact_with`](crate::Store::compact_with) in the running pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionProgress {
    /// Number of passes finished.
    pub passes: u64,
    /// Bytes of the log read, in all passes.
    pub bytes_read: u64,
    /// Bytes written to new segments, in all passes.
    pub bytes_moved: u64,
    /// Bytes of the log left to read in this pass.
    pub bytes_left: u64,
}
