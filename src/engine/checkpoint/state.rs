//! The state of the checkpoints of an open store: the one in force, and the one in progress.

use crate::format::SegmentId;
use crate::format::checkpoint::IndexCheckpoint;
use crate::index::checkpoint::CheckpointWriter;
use crate::log::sync_plan::SegmentRange;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct CheckpointState {
    /// The number of the last one that was begun.
    pub(crate) number: u64,
    /// The one that the manifest names.
    pub(crate) named: Option<NamedCheckpoint>,
    pub(crate) taking: Option<CheckpointInProgress>,
    /// The segment that was active at the last check whether one is due.
    pub(crate) looked: Option<SegmentId>,
    /// True if the last one was abandoned: it needed copies of more than half of the pages.
    pub(crate) was_abandoned: bool,
}

/// The facts about a checkpoint that an open would begin with.
#[derive(Debug)]
pub(crate) struct NamedCheckpoint {
    pub(crate) number: u64,
    /// The end of its coverage in each segment.
    pub(crate) ends: BTreeMap<SegmentId, u64>,
}

impl NamedCheckpoint {
    pub(crate) fn of(checkpoint: &IndexCheckpoint) -> Self {
        let ends = checkpoint.segments.iter().map(|segment| (segment.id, segment.end)).collect();
        Self { number: checkpoint.number, ends }
    }
}

/// A checkpoint in progress.
#[derive(Debug)]
pub(crate) struct CheckpointInProgress {
    pub(crate) checkpoint: IndexCheckpoint,
    /// The segment that was active.
    pub(crate) active: SegmentId,
    pub(crate) writing: CheckpointWriter,
    /// The ranges of the log to be written back before its sync. `None` while the file is being
    /// written.
    pub(crate) pieces: Option<Vec<SegmentRange>>,
}
