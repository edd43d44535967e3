//! The images of an open store: which one counts, and which one is being made.

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
    /// The segment that was active when it was last asked whether one is due.
    pub(crate) looked: Option<SegmentId>,
    /// The last one was abandoned: the writer was faster than half of the pages.
    pub(crate) was_abandoned: bool,
}

/// What is to be known of an image that an open would begin with.
#[derive(Debug)]
pub(crate) struct NamedCheckpoint {
    pub(crate) number: u64,
    /// How far it reaches in each segment.
    pub(crate) ends: BTreeMap<SegmentId, u64>,
}

impl NamedCheckpoint {
    pub(crate) fn of(checkpoint: &IndexCheckpoint) -> Self {
        let ends = checkpoint.segments.iter().map(|segment| (segment.id, segment.end)).collect();
        Self { number: checkpoint.number, ends }
    }
}

/// An image in the making.
#[derive(Debug)]
pub(crate) struct CheckpointInProgress {
    pub(crate) checkpoint: IndexCheckpoint,
    /// The segment that was active.
    pub(crate) active: SegmentId,
    pub(crate) writing: CheckpointWriter,
    /// What of the log is to be written back before the sync that counts; none while the file is being written.
    pub(crate) pieces: Option<Vec<SegmentRange>>,
}
