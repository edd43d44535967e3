//! Images of the indexes of an open store: when one is made, and how, beside writers.
//!
//! **Order.** (1) Under the writer mutex, in one hold, between batches and while no pass of compaction is under way: note
//! the last number P0 and what the store is then, and begin to capture every index. A pass that had looked up a record
//! before P0 and copies it after could bring back what was removed in between. (2) Write the captures to a file.
//! (3) Make the log durable up to P0 (I3), and have the manifest call every segment sealed that was full at P0: an open
//! relies on it. (4) Give the file its name, durably. (5) The manifest names it. (6) The image before it goes.
//!
//! **Failure.** An image is disposable: what stops one is told to a subscriber of events, and the one before goes on to count.
//! Only a failed sync of the log is more.
//!
//! **Concurrency.** The state has a lock of its own, which comes before the writer mutex and every other lock; whoever finds
//! it taken goes on with something else, except for `close`.
//!
//! **Crash points.** Those of `checkpoint`, and `checkpoint-named` before the older image goes.

pub(crate) mod state;
mod take;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::engine::checkpoint::state::{CheckpointState, NamedCheckpoint};
use crate::engine::compaction::Compactor;
use crate::engine::state::State;
use crate::error::Result;
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::file_name;

/// A clean close makes no image where the next open would have less to read than this, in bytes.
const CLOSE_MIN: u64 = 1 << 20;
/// Where it would have more to read than this, the image may be large in comparison.
const CLOSE_MAX: u64 = 16 << 20;
/// While the store is open an image is made when there is so many times more to read than it takes.
const SHARE: u64 = 4;

/// The job of making images of the indexes of one store.
#[derive(Debug, Default)]
pub(crate) struct Checkpointer {
    checkpoints: Mutex<CheckpointState>,
    /// Images made since the store was opened.
    made: AtomicU64,
    /// The size of the one that the manifest names, in bytes.
    size: AtomicU64,
}

impl Checkpointer {
    /// Starts with the image that the indexes came from, if they did.
    pub(crate) fn new(checkpoint: Option<&IndexCheckpoint>) -> Self {
        let Some(checkpoint) = checkpoint else { return Self::default() };
        let checkpoints = CheckpointState {
            number: checkpoint.number,
            named: Some(NamedCheckpoint::of(checkpoint)),
            ..CheckpointState::default()
        };
        Self {
            checkpoints: Mutex::new(checkpoints),
            made: AtomicU64::new(0),
            size: AtomicU64::new(checkpoint.size()),
        }
    }

    /// Images made since the store was opened.
    pub(crate) fn made(&self) -> u64 {
        // Relaxed: a statistic.
        self.made.load(Ordering::Relaxed)
    }

    /// The size of the image that the manifest names, in bytes; zero where it names none.
    pub(crate) fn size(&self) -> u64 {
        // Relaxed: a statistic.
        self.size.load(Ordering::Relaxed)
    }

    /// A piece of an image, where one is due; whether there was one.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn step(&self, state: &State, compactor: &Compactor) -> Result<bool> {
        let Some(mut checkpoints) = self.checkpoints.try_lock() else { return Ok(false) };
        self.forget_spoiled(state, &mut checkpoints)?;
        if checkpoints.taking.is_none() && !self.begin_due(state, compactor, &mut checkpoints)? {
            return Ok(false);
        }
        self.advance(state, &mut checkpoints)?;
        Ok(true)
    }

    /// Has the manifest name no image, where the one that it names is damaged.
    fn forget_spoiled(&self, state: &State, checkpoints: &mut CheckpointState) -> Result<()> {
        if state.loader.is_spoiled() {
            // Relaxed: a statistic.
            self.size.store(0, Ordering::Relaxed);
            state.shared.manifest.update(|manifest| manifest.checkpoint = 0)?;
            self.remove_checkpoint(state, checkpoints.named.take());
            state.loader.forget_spoiled();
        }
        Ok(())
    }

    /// Removes the file of an image that the manifest names no longer.
    fn remove_checkpoint(&self, state: &State, checkpoint: Option<NamedCheckpoint>) {
        if let Some(checkpoint) = checkpoint {
            state.shared.leftovers.remove(
                state.shared.dir.as_ref(),
                file_name::checkpoint(checkpoint.number),
                0,
            );
        }
    }

    /// Begins an image if so much was written since the last one that an open after a kill would take long.
    fn begin_due(
        &self,
        state: &State,
        compactor: &Compactor,
        checkpoints: &mut CheckpointState,
    ) -> Result<bool> {
        let active = state.allocator.active_id();
        if checkpoints.looked == Some(active) {
            return Ok(false);
        }
        let least = state.config.checkpoint_bytes.max(SHARE.saturating_mul(self.checkpoint_size(state)));
        if self.bytes_to_read(state, checkpoints) < least {
            checkpoints.looked = Some(active);
            return Ok(false);
        }
        let begun = self.begin_checkpoint(state, compactor, checkpoints)?;
        if begun {
            checkpoints.looked = Some(active);
        }
        Ok(begun)
    }

    /// Bytes that an open after a kill would have to read now.
    fn bytes_to_read(&self, state: &State, checkpoints: &CheckpointState) -> u64 {
        let held =
            |id| checkpoints.named.as_ref().and_then(|named| named.ends.get(&id).copied()).unwrap_or(0);
        let segments = state.shared.segments.read();
        segments
            .values()
            .map(|segment| segment.mapping().published().saturating_sub(held(segment.id())))
            .sum()
    }

    /// What an image would take now, in bytes.
    fn checkpoint_size(&self, state: &State) -> u64 {
        state.all_keyspaces().1.index_bytes as u64
    }

    /// Makes an image now, whatever was written since the last one; false where an index cannot be captured just now.
    ///
    /// # Errors
    ///
    /// What stopped it.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn take_now(&self, state: &State, compactor: &Compactor) -> Result<bool> {
        state.load_all()?;
        let mut checkpoints = self.checkpoints.lock();
        state.check_writable()?;
        self.forget_spoiled(state, &mut checkpoints)?;
        if checkpoints.taking.is_none() && !self.begin_checkpoint(state, compactor, &mut checkpoints)? {
            return Ok(false);
        }
        let before = self.made();
        while checkpoints.taking.is_some() {
            self.advance(state, &mut checkpoints)?;
        }
        Ok(self.made() > before)
    }

    /// Makes an image for the next open, where that would have much to read: the store is being closed, and everything is
    /// durable.
    pub(crate) fn take_at_close(&self, state: &State, compactor: &Compactor) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        self.forget_spoiled(state, &mut checkpoints)?;
        let (to_read, size) = (self.bytes_to_read(state, &checkpoints), self.checkpoint_size(state));
        let share = if to_read > CLOSE_MAX { 64 } else { 8 };
        if to_read <= CLOSE_MIN || size > to_read.saturating_mul(share) {
            return Ok(());
        }
        state.load_all()?;
        if !self.begin_checkpoint(state, compactor, &mut checkpoints)? {
            return Ok(());
        }
        while checkpoints.taking.is_some() {
            if let Err(error) = self.advance(state, &mut checkpoints) {
                self.give_up(state, &mut checkpoints);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives up the image that is being made: the store is being closed.
    pub(crate) fn end(&self, state: &State) {
        self.give_up(state, &mut self.checkpoints.lock());
    }
}
