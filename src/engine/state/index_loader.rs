//! The index loader: loads the parts of an index checkpoint that no read has needed yet.
//!
//! If the checkpoint is damaged, the indexes are rebuilt from the log (`rebuild`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::State;
use super::hinted_records::waiting_part;
use crate::error::{Error, Result};
use crate::index::checkpoint::is_of_checkpoint;
use crate::index::key_index::KeyIndex;
use crate::index::lines::IndexLines;
use crate::index::lines::block_error::BlockError;
use crate::index::lines::collapsed::Collapsed;
use crate::sync::statistic::Statistic;

/// The token that all indexes are whole, and stay so.
///
/// No pass of compaction and no checkpoint begins without it. The worker waits for it, and a call
/// that compacts loads all indexes first ([`State::load_all`]). The records of all segments then
/// match the indexes, and no record is in two places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole(());

/// The indexes that are not yet known to be whole.
#[derive(Debug, Default)]
pub(crate) struct IndexLoader {
    loading: Mutex<Vec<Arc<dyn IndexLines>>>,
    /// The indexes that were loaded, and whose memory is to move to huge pages.
    loaded: Mutex<Vec<(Weak<dyn IndexLines>, Collapsed)>>,
    /// True if there are any.
    is_loading: AtomicBool,
    /// The number of times indexes were rebuilt because a checkpoint was damaged.
    rebuilds: Statistic,
    /// True if the checkpoint that the manifest names is damaged.
    is_spoiled: AtomicBool,
    /// The error that stopped a rebuild: the log is damaged as well, and reading it again would
    /// fail again.
    stuck: Mutex<Option<Error>>,
}

impl IndexLoader {
    /// Starts with the indexes that recovery opened.
    pub(super) fn new(indexes: impl Iterator<Item = KeyIndex>) -> Self {
        let partial = indexes.filter(KeyIndex::is_partial);
        let partial: Vec<_> = partial.map(|index| index.shared_lines()).collect();
        let is_loading = AtomicBool::new(!partial.is_empty());
        Self { loading: Mutex::new(partial), is_loading, ..Self::default() }
    }

    /// Returns the token that all indexes are whole. `None` while one may lack a part of its
    /// checkpoint.
    #[inline]
    pub(crate) fn whole(&self) -> Option<Whole> {
        // Acquire: pairs with the release in `load_some`: a thread that reads false sees whole
        // indexes.
        (!self.is_loading.load(Ordering::Acquire)).then_some(Whole(()))
    }

    /// Returns the number of times indexes were rebuilt because a checkpoint was damaged.
    pub(crate) fn rebuilds(&self) -> u64 {
        self.rebuilds.get()
    }

    /// Returns true if the checkpoint that the manifest names is damaged.
    pub(crate) fn is_spoiled(&self) -> bool {
        // Relaxed: a thread that misses it finds it the next time.
        self.is_spoiled.load(Ordering::Relaxed)
    }

    /// Records that the manifest no longer names the damaged checkpoint.
    pub(crate) fn forget_spoiled(&self) {
        // Relaxed: indexes are rebuilt once, and have been.
        self.is_spoiled.store(false, Ordering::Relaxed);
    }

    /// Refuses a rebuild after one has failed.
    ///
    /// # Errors
    ///
    /// The error that stopped it.
    pub(super) fn check_stuck(&self) -> Result<()> {
        self.stuck.lock().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Records that a checkpoint is damaged.
    pub(super) fn note_spoiled(&self) {
        // Relaxed: see `is_spoiled`.
        self.is_spoiled.store(true, Ordering::Relaxed);
    }

    /// Records the error that stopped a rebuild.
    pub(super) fn note_stuck(&self, error: &Error) {
        *self.stuck.lock() = Some(error.clone());
    }

    /// Records that the indexes were rebuilt.
    pub(super) fn note_rebuilt(&self) {
        self.rebuilds.add(1);
    }
}

impl State {
    /// Loads a piece of an index. Returns true if one was left to load.
    ///
    /// # Errors
    ///
    /// The error that stopped a rebuild, if the checkpoint is damaged.
    pub(crate) fn load_some(&self) -> Result<bool> {
        let loader = &self.loader;
        if loader.whole().is_some() || loader.stuck.lock().is_some() {
            return Ok(false);
        }
        match self.complete_next() {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => {
                // Another error may be over the next time.
                if matches!(error, Error::Corrupt { .. }) {
                    loader.note_stuck(&error);
                }
                return Err(error);
            }
        }
        let Some(index) = loader.loading.lock().last().map(Arc::clone) else { return Ok(false) };
        // If only this list has it, its keyspace is gone.
        let more = if Arc::strong_count(&index) <= 2 { Ok(false) } else { index.load_more() };
        match more {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // Its keyspace is gone, or it was rebuilt.
            Err(unread) if unread.is_superseded() => {}
            Err(unread) => self.rebuild(&unread.into())?,
        }
        let mut loading = loader.loading.lock();
        // Another thread may have loaded it, too.
        let before = loading.len();
        loading.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(&index)));
        if loading.len() < before {
            loader.loaded.lock().push((Arc::downgrade(&index), Collapsed::default()));
        }
        // Release: pairs with the acquire in `whole`.
        loader.is_loading.store(!loading.is_empty(), Ordering::Release);
        Ok(true)
    }

    /// Moves a piece of a loaded index to a huge page. Returns true if there was one.
    pub(crate) fn collapse_some(&self) -> bool {
        let mut loaded = self.loader.loaded.lock();
        let Some((index, done)) = loaded.last_mut() else { return false };
        let more = index.upgrade().is_some_and(|index| index.collapse_some(done));
        if !more {
            loaded.pop();
        }
        true
    }

    /// Loads all indexes.
    ///
    /// # Errors
    ///
    /// The errors of [`State::load_some`].
    pub(crate) fn load_all(&self) -> Result<Whole> {
        while self.load_some()? {}
        self.loader.check_stuck()?;
        Ok(self.loader.whole().expect("nothing is left to load, and no rebuild has failed"))
    }

    /// Returns true if a failed operation may be repeated: a part that waited was the cause, and is
    /// complete now; the index was replaced; or a block of a checkpoint was damaged, and the indexes were
    /// rebuilt.
    ///
    /// # Errors
    ///
    /// The error that stopped the rebuild.
    #[cold]
    pub(crate) fn rebuild_if_damaged(&self, error: &Error) -> Result<bool> {
        let _events = crate::trace::at_end();
        if let Some(part) = waiting_part(error) {
            self.complete_part(part)?;
            return Ok(true);
        }
        if BlockError::of(error).is_some_and(BlockError::is_superseded) {
            return Ok(true);
        }
        if !is_of_checkpoint(error) {
            return Ok(false);
        }
        self.rebuild(error)?;
        Ok(true)
    }

    /// Rebuilds the indexes after one could not be read.
    ///
    /// # Errors
    ///
    /// The error that stopped the rebuild.
    #[cold]
    pub(crate) fn rebuild_for(&self, unread: BlockError) -> Result<()> {
        let _events = crate::trace::at_end();
        match unread.waiting_part() {
            Some(part) => self.complete_part(part),
            None if unread.is_final() => Err(unread.into()),
            None => self.rebuild(&unread.into()),
        }
    }
}
