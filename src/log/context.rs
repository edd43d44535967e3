//! What everything below the store shares: its directory, its manifest, its segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::allocator::doubt::Doubt;
use crate::error::{Error, Result};
use crate::format::{SegmentId, StoreId};
use crate::fs::Dir;
use crate::fs::leftovers::Leftovers;
use crate::log::group_commit::{GroupCommit, SyncTurn};
use crate::log::manifest::ManifestStore;
use crate::log::segment::{Segment, remove_unnamed};
use crate::mem::address_space::AddressSpace;

/// Every segment of an open store.
pub(crate) type Segments = RwLock<BTreeMap<SegmentId, Arc<Segment>>>;

/// What everything below the store shares.
#[derive(Debug)]
pub(crate) struct LogContext {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) store: StoreId,
    pub(crate) space: AddressSpace,
    pub(crate) manifest: ManifestStore,
    pub(crate) commit: Arc<GroupCommit>,
    pub(crate) segments: Segments,
    /// A file that could not be made into a segment, and its size: there may be one, and no other is made meanwhile.
    pub(super) stray: Mutex<Option<(SegmentId, u64)>>,
    /// Files that passes of compaction wrote in vain, and could not remove.
    pub(crate) leftovers: Arc<Leftovers>,
    /// Whose turn it is to sync the directory.
    dir_turn: SyncTurn,
    /// Tells of room that the file system tells of and does not give.
    pub(super) doubt: Doubt,
}

impl LogContext {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        store: StoreId,
        space: AddressSpace,
        manifest: ManifestStore,
        commit: Arc<GroupCommit>,
        segments: BTreeMap<SegmentId, Arc<Segment>>,
    ) -> Self {
        let (segments, stray, dir_turn) = (RwLock::new(segments), Mutex::default(), SyncTurn::new());
        let (leftovers, doubt) = (Arc::default(), Doubt::default());
        Self { dir, store, space, manifest, commit, segments, stray, leftovers, dir_turn, doubt }
    }

    /// Makes creations, renames and removals so far durable, for what rests on them.
    ///
    /// # Errors
    ///
    /// `Poisoned`: what a failed sync was to make durable may be anybody's, and is reported once. What the operating system
    /// says where it had no descriptor to try with.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        let untried = self.commit.sync_alone(&self.dir_turn, || {
            match self.dir.sync().map_err(|error| Error::io("sync", self.dir.path(), error)) {
                Ok(()) => Ok(None),
                Err(untried @ Error::Exhausted { .. }) => Ok(Some(untried)),
                Err(failed) => Err(failed),
            }
        })?;
        untried.map_or(Ok(()), Err)
    }

    /// Removes that file.
    ///
    /// # Errors
    ///
    /// What the operating system says; it is still there then.
    pub(super) fn remove_stray(&self) -> Result<()> {
        let mut stray = self.stray.lock();
        if let Some((id, _)) = *stray {
            remove_unnamed(self.dir.as_ref(), id)?;
            *stray = None;
        }
        Ok(())
    }

    /// Removes what passes have left; whether there was anything.
    ///
    /// # Errors
    ///
    /// What the operating system says; what could not be removed still counts.
    pub(crate) fn remove_leftovers(&self) -> Result<bool> {
        self.leftovers.remove_all(self.dir.as_ref())
    }

    /// Bytes of all files that are segments, or were to be.
    pub(crate) fn files_size(&self) -> u64 {
        let stray = self.stray.lock().map_or(0, |(_, size)| size);
        total_size(&self.segments) + stray + self.leftovers.size()
    }
}

/// Bytes that all segments take.
pub(super) fn total_size(segments: &Segments) -> u64 {
    segments.read().values().map(|segment| segment.size()).sum()
}
