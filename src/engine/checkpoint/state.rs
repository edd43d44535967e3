//! The images of an open store: which one counts, which one is being made. `imaging` makes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::Error;
use crate::format::SegmentId;
use crate::format::checkpoint::Image;
use crate::index::checkpoint::Writing;
use crate::index::hash::Index;
use crate::log::sync_plan::SegmentRange;

/// The images of one store.
#[derive(Debug, Default)]
pub(crate) struct Imaging {
    pub(crate) images: Mutex<Images>,
    /// Indexes that are not yet known to be whole.
    pub(crate) loading: Mutex<Vec<Arc<Index>>>,
    /// Whether there are any.
    pub(crate) is_loading: AtomicBool,
    /// Images made since the store was opened.
    pub(crate) made: AtomicU64,
    /// The size of the one that the manifest names, in bytes.
    pub(crate) size: AtomicU64,
    /// How often indexes were built anew because an image was damaged.
    pub(crate) rebuilds: AtomicU64,
    /// The image that the manifest names turned out to be damaged.
    pub(crate) is_spoiled: AtomicBool,
    /// Why the indexes could not be built anew: the log is damaged as well, and reading it again would say the same.
    pub(crate) stuck: Mutex<Option<Error>>,
}

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

/// What the store says of its images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageStats {
    pub(crate) made: u64,
    pub(crate) size: u64,
    pub(crate) rebuilds: u64,
}

impl Imaging {
    /// Starts with the image that the indexes came from, if they did.
    pub(crate) fn new<'i>(image: Option<&Image>, indexes: impl Iterator<Item = &'i Arc<Index>>) -> Self {
        let imaging = Self::default();
        let Some(image) = image else { return imaging };
        {
            let mut images = imaging.images.lock();
            images.number = image.number;
            images.named = Some(Named::of(image));
        }
        let partial: Vec<_> = indexes.filter(|index| index.is_partial()).map(Arc::clone).collect();
        // Relaxed, both: nobody else has it yet.
        imaging.is_loading.store(!partial.is_empty(), Ordering::Relaxed);
        imaging.size.store(image.size(), Ordering::Relaxed);
        *imaging.loading.lock() = partial;
        imaging
    }

    /// Whether an index may lack what an image holds; such a store is not compacted.
    pub(crate) fn is_loading(&self) -> bool {
        // Acquire: pairs with the release in `imaging`: who sees none sees whole indexes.
        self.is_loading.load(Ordering::Acquire)
    }

    pub(crate) fn stats(&self) -> ImageStats {
        // Relaxed, all: statistics.
        ImageStats {
            made: self.made.load(Ordering::Relaxed),
            size: self.size.load(Ordering::Relaxed),
            rebuilds: self.rebuilds.load(Ordering::Relaxed),
        }
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
