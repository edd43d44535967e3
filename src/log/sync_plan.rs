//! A sync plan: the bytes of the log that one sync makes durable.

use std::sync::Arc;

use super::group_commit::GroupCommit;
use super::segment::Segment;
use crate::error::Result;
use crate::format::{SegmentId, Seq};
use crate::fs::Dir;

/// The distance that an early write-back keeps behind the writer, in bytes: the folio that it
/// writes to, and the one before.
const NEAR: u64 = 2 << 20;

/// A range of bytes of one segment.
#[derive(Debug, Clone)]
pub(crate) struct SegmentRange {
    pub(crate) segment: Arc<Segment>,
    pub(crate) from: u64,
    /// The end, behind the last byte.
    pub(crate) to: u64,
}

impl SegmentRange {
    pub(crate) fn new(segment: &Arc<Segment>, from: u64, to: u64) -> Self {
        Self { segment: Arc::clone(segment), from, to }
    }
}

/// A segment that is full and not yet known to be durable.
#[derive(Debug, Clone)]
pub(crate) struct FilledSegment {
    pub(crate) segment: Arc<Segment>,
    /// Bytes below this are durable.
    pub(super) synced: u64,
    /// The end of its records.
    pub(crate) end: u64,
    pub(crate) last_seq: Seq,
}

impl FilledSegment {
    /// Returns the part that is not known to be durable.
    pub(super) fn unsynced(&self) -> SegmentRange {
        SegmentRange::new(&self.segment, self.synced, self.end)
    }
}

/// The ranges that one sync makes durable.
#[derive(Debug)]
pub(crate) struct SyncPlan {
    /// The ranges in log order. The active segment is the last.
    ranges: Vec<SegmentRange>,
    /// The sequence number of the last record in them.
    upto: Seq,
}

impl SyncPlan {
    pub(super) fn new(ranges: Vec<SegmentRange>, upto: Seq) -> Self {
        Self { ranges, upto }
    }

    /// Returns the number up to which every record is durable once the plan has been executed.
    pub(crate) fn upto(&self) -> Seq {
        self.upto
    }

    pub(crate) fn ranges(&self) -> &[SegmentRange] {
        &self.ranges
    }

    /// Returns the ranges in pieces of at most `len` bytes, the last piece first.
    ///
    /// It leaves out the pages that the writer is at, because a page under write-back makes the
    /// writer wait.
    pub(crate) fn pieces(&self, len: u64) -> Vec<SegmentRange> {
        let mut pieces = Vec::new();
        for (at, SegmentRange { segment, from, to }) in self.ranges.iter().enumerate() {
            let is_active = at + 1 == self.ranges.len();
            let end = if is_active { to.saturating_sub(NEAR) / NEAR * NEAR } else { *to };
            let starts = (*from..end).step_by(usize::try_from(len).unwrap_or(usize::MAX));
            pieces.extend(starts.map(|from| SegmentRange::new(segment, from, (from + len).min(end))));
        }
        pieces.reverse();
        pieces
    }

    /// Returns the number of bytes that it makes durable.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.to - range.from).sum()
    }

    /// Makes the ranges durable. The caller does not hold the writer mutex. The name of the segment
    /// `checked` is known to lead to it.
    ///
    /// # Errors
    ///
    /// `Poisoned` with the first failure, even if another thread has already reported it.
    pub(crate) fn execute(
        &self,
        dir: &dyn Dir,
        commit: &GroupCommit,
        checked: Option<SegmentId>,
    ) -> Result<()> {
        for SegmentRange { segment, from, to } in &self.ranges {
            if checked != Some(segment.id()) {
                segment.check_name(dir)?;
            }
            if from < to {
                segment.sync(*from, *to, commit)?;
            }
        }
        Ok(())
    }
}
