//! The engine: an open store without its public handles.
//!
//! An engine is a state (`state`), which reads (`read`) and writes (`write`) share, and two jobs on
//! it: compaction and index checkpoints. `maintenance` gives the jobs their turns.
//!
//! **Concurrency.** Lock order: the lock of the checkpoints, the lock of compaction, the writer
//! mutex, and then those that `log::allocator` names.

pub(crate) mod checkpoint;
pub(crate) mod compaction;
pub(crate) mod feed;
pub(crate) mod follow;
pub(crate) mod handle;
pub(crate) mod maintenance;
pub(crate) mod maintenance_task;
pub(crate) mod moment;
pub(crate) mod read;
pub(crate) mod scrub;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod write;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use self::checkpoint::Checkpointer;
use self::compaction::Compactor;
use self::state::State;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::control_page::WriterStatus;
use crate::fs::Lock;
use crate::log::allocator::unused::{ids_of, remove_unused};
use crate::recovery::Recovered;

/// An open store.
pub(crate) struct Engine {
    /// The shared state. Readers that outlive the engine have a share of it.
    pub(crate) state: Arc<State>,
    pub(crate) compactor: Compactor,
    pub(crate) checkpointer: Checkpointer,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

/// Reads need the state and no job.
impl Deref for Engine {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.state
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl Engine {
    /// Starts on the result of recovery.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or the first pages of the log cannot be faulted.
    pub(crate) fn start(opened: Recovered, config: Config) -> Result<Self> {
        let checkpointer = Checkpointer::new(opened.checkpoint.as_ref());
        let (state, lock) = State::start(opened, config)?;
        let state = Arc::new(state);
        Ok(Self { state, compactor: Compactor::default(), checkpointer, lock: Mutex::new(Some(lock)) })
    }

    /// Closes the store: makes everything durable, records that in the manifest, and releases the
    /// lock.
    ///
    /// # Errors
    ///
    /// The first error. The store is closed nevertheless, and the next open recovers.
    pub(crate) fn close(&self) -> Result<()> {
        // A write is refused from there on, and this appends a record.
        let resumed = self.resume();
        if !self.fork_guard.close() {
            return Err(Error::Closed);
        }
        // Another thread may be about to do the same.
        self.waiting_open.pass();
        let result = resumed.and(self.finish());
        // After a failure, only the next open finds out what is durable.
        let is_sound = self.config.read_only || self.shared.commit.check().is_ok();
        self.syncer.control.set_status(if is_sound { WriterStatus::Closed } else { WriterStatus::Failed });
        self.map_for_readers();
        self.lock.lock().take();
        crate::trace::closed(self.shared.dir.path(), result.is_ok());
        result
    }

    /// Maps the segments that are not mapped yet, if a live snapshot or iterator may need them.
    ///
    /// Both outlive the store, and a store that is opened next may remove the files.
    fn map_for_readers(&self) {
        // Relaxed: an iterator created meanwhile is created concurrently with the close.
        let iterators = self.counters.iterators.load(Ordering::Relaxed);
        if self.catalog.snapshots.holding().snapshots == 0 && iterators == 0 {
            return;
        }
        for segment in self.shared.segments.read().values() {
            if let Err(error) = self.shared.space.map_now(segment.mapping()) {
                // The read that needs it tries again, and returns the error.
                crate::trace::segment_unusable(&error);
            }
        }
    }

    fn finish(&self) -> Result<()> {
        if self.config.read_only {
            return Ok(());
        }
        self.compactor.end(self);
        self.checkpointer.end(self);
        self.shared.commit.check()?;
        // A writer that came before the close is done once the mutex is free.
        drop(self.writer.lock());
        if self.shared.manifest.is_closed() {
            // Nothing was written: the manifest on the disk is still true.
            return Ok(());
        }
        self.flush()?;
        self.allocator.tell_time(self.last_seq());
        // A watermark followed the flush. The second sync makes the very end durable, and no
        // watermark follows it.
        self.sync()?;
        let sealed = self.seal();
        if let Err(error) = self.checkpointer.take_at_close(self, &self.compactor) {
            // The next open reads more.
            self.shared.commit.check()?;
            crate::trace::checkpoint_failed(&error);
        }
        let writer = self.writer.lock();
        let (segment, offset) = writer.log.position();
        let kept = self.allocator.kept_at_close(&self.shared, segment, offset);
        let unused = self.allocator.take_unused(kept);
        let (last_seq, next_seq) = (writer.log.last_seq(), writer.log.next_seq());
        self.shared.manifest.update(|manifest| {
            if let Some(entry) = manifest.segment_mut(segment.id()) {
                entry.end = offset;
                entry.last_seq = last_seq;
            }
            manifest.clean = true;
            self.catalog.note_durable(manifest, last_seq);
            manifest.next_seq = next_seq;
            // They never held a record. A file that stays is used again.
            manifest.forget(&ids_of(&unused));
        })?;
        let removed = unused.iter().try_for_each(|segment| remove_unused(&self.shared, segment));
        self.allocator.free_end(segment, offset, kept);
        // The store is closed cleanly all the same. The caller learns that some space was not
        // freed.
        sealed.map(drop).and(removed)
    }
}
