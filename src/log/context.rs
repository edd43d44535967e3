//! The context that all layers of an open store share: its directory, its manifest, its segments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The context that all layers of an open store share.
#[derive(Debug)]
pub(crate) struct LogContext {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) store: StoreId,
    pub(crate) space: AddressSpace,
    pub(crate) manifest: ManifestStore,
    pub(crate) commit: Arc<GroupCommit>,
    pub(crate) segments: Segments,
    /// The number of segments that were added since the open.
    added: AtomicU64,
    /// A file that could not be made into a segment, and its size. There is at most one, and no
    /// other is made meanwhile.
    pub(super) stray: Mutex<Option<(SegmentId, u64)>>,
    /// Files of failed compaction passes that could not be removed.
    pub(crate) leftovers: Arc<Leftovers>,
    /// The turn to sync the directory.
    dir_turn: SyncTurn,
    /// True after the file system refused space that it had reported free.
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
        let added = AtomicU64::new(0);
        Self { dir, store, space, manifest, commit, segments, added, stray, leftovers, dir_turn, doubt }
    }

    /// Adds a segment that the manifest names.
    pub(crate) fn add_segment(&self, segment: &Arc<Segment>) {
        self.segments.write().insert(segment.id(), Arc::clone(segment));
        // Release: pairs with the acquire in `added`, whose caller then finds the segment.
        self.added.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of segments that were added since the open.
    pub(crate) fn added(&self) -> u64 {
        // Acquire: see `add_segment`.
        self.added.load(Ordering::Acquire)
    }

    /// Makes creations, renames and removals so far durable, for the writes that depend on them.
    ///
    /// # Errors
    ///
    /// `Poisoned`: a failed sync may have lost any caller's changes, and is reported once. An error
    /// of the operating system if no file descriptor was available to try with.
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

    /// Removes the stray file, if there is one.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. The file still exists then.
    pub(super) fn remove_stray(&self) -> Result<()> {
        let mut stray = self.stray.lock();
        if let Some((id, _)) = *stray {
            remove_unnamed(self.dir.as_ref(), id)?;
            *stray = None;
        }
        Ok(())
    }

    /// Removes the files that passes have left. Returns true if there were any.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. A file that could not be removed still counts.
    pub(crate) fn remove_leftovers(&self) -> Result<bool> {
        self.leftovers.remove_all(self.dir.as_ref())
    }

    /// Returns the bytes of all files that are segments, or were to be.
    pub(crate) fn files_size(&self) -> u64 {
        let stray = self.stray.lock().map_or(0, |(_, size)| size);
        total_size(&self.segments) + stray + self.leftovers.size()
    }
}

/// Returns the bytes of all segments.
pub(super) fn total_size(segments: &Segments) -> u64 {
    segments.read().values().map(|segment| segment.size()).sum()
}
