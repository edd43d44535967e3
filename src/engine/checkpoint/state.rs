//! The images of an open store: which one counts, and which one is being made.

use crate::format::SegmentId;
use crate::format::checkpoint::Image;
use crate::index::checkpoint::Writing;
use crate::log::sync_plan::SegmentRange;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Images {
    /// The number of the last one that was begun.
    pub(crate) number: u64,
    /// The one that the manifest names.
    pub(crate) named: Option<Named>,
    pub(crate) taking: Option<Taking>,
    /// The segment that was active when it was last asked whether one is due.
    pub(crate) looked: Option<SegmentId>,
    /// The last one was abandoned: the writer was faster than half of the pages.
    pub(crate) was_abandoned: bool,
}

/// What is to be known of an image that an open would begin with.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) number: u64,
    /// How far it reaches in each segment.
    pub(crate) ends: BTreeMap<SegmentId, u64>,
}

impl Named {
    pub(crate) fn of(image: &Image) -> Self {
        let ends = image.segments.iter().map(|segment| (segment.id, segment.end)).collect();
        Self { number: image.number, ends }
    }
}

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) image: Image,
    /// The segment that was active.
    pub(crate) active: SegmentId,
    pub(crate) writing: Writing,
    /// What of the log is to be written back before the sync that counts; none while the file is being written.
    pub(crate) pieces: Option<Vec<SegmentRange>>,
}
