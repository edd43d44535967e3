//! The checkpointer: makes index checkpoints of an open store, beside its writers.
//!
//! **Order.**
//!
//! 1. Under the writer mutex, in one hold, between batches and outside any compaction pass: record
//!    the last number P0 and the state of the store, and begin to capture every index. P0 must not
//!    fall inside a pass. The pass could look up a record before P0 and copy it after a removal,
//!    and the copy would bring the removed record back.
//! 2. Write the captures to a file.
//! 3. Make the log durable up to P0 (I3), and mark every segment that was full at P0 as sealed in
//!    the manifest. An open relies on it.
//! 4. Rename the file to its final name, durably.
//! 5. Name it in the manifest.
//! 6. Remove the checkpoint before it.
//!
//! **Failure.** A checkpoint is disposable. The error that stops one is reported to a subscriber of
//! events, and the one before stays in force. Only a failed sync of the log is more than that.
//!
//! **Concurrency.** The state has its own lock, which comes before the writer mutex and every other
//! lock. A caller that finds it taken continues with other work, except `close`.
//!
//! **Crash points.** Those of `checkpoint`, and `image-named` before the older checkpoint is
//! removed.

pub(crate) mod state;
mod take;

use parking_lot::Mutex;

use crate::engine::checkpoint::state::{CheckpointState, NamedCheckpoint};
use crate::engine::compaction::Compactor;
use crate::engine::state::State;
use crate::error::Result;
use crate::format::checkpoint::IndexCheckpoint;
use crate::format::file_name;
use crate::sync::statistic::Statistic;

/// A clean close makes no checkpoint if the next open would read less than this, in bytes.
const CLOSE_MIN: u64 = 1 << 20;
/// If the next open would read more than this, the checkpoint may be large in comparison.
const CLOSE_MAX: u64 = 16 << 20;
/// A checkpoint of an open store is due when the bytes to read are this many times its size.
const SHARE: u64 = 4;

/// The job of making index checkpoints of one store.
#[derive(Debug, Default)]
pub(crate) struct Checkpointer {
    checkpoints: Mutex<CheckpointState>,
    /// The number of checkpoints made since the store was opened.
    made: Statistic,
    /// The size of the one that the manifest names, in bytes.
    size: Statistic,
}

impl Checkpointer {
    /// Starts with the checkpoint that the indexes came from, if there is one.
    pub(crate) fn new(checkpoint: Option<&IndexCheckpoint>) -> Self {
        let Some(checkpoint) = checkpoint else { return Self::default() };
        let checkpoints = CheckpointState {
            number: checkpoint.number,
            named: Some(NamedCheckpoint::of(checkpoint)),
            ..CheckpointState::default()
        };
        Self {
            checkpoints: Mutex::new(checkpoints),
            made: Statistic::new(0),
            size: Statistic::new(checkpoint.size()),
        }
    }

    /// Returns the number of checkpoints made since the store was opened.
    pub(crate) fn made(&self) -> u64 {
        self.made.get()
    }

    /// Returns the size of the checkpoint that the manifest names, in bytes. Zero if it names none.
    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    /// Does one step of a checkpoint, if one is due. Returns true if it did.
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

    /// Removes a damaged checkpoint, and its name from the manifest.
    fn forget_spoiled(&self, state: &State, checkpoints: &mut CheckpointState) -> Result<()> {
        if state.loader.is_spoiled() {
            self.size.set(0);
            state.shared.manifest.update(|manifest| manifest.checkpoint = 0)?;
            self.remove_checkpoint(state, checkpoints.named.take());
            state.loader.forget_spoiled();
        }
        Ok(())
    }

    /// Removes the file of a checkpoint that the manifest no longer names.
    fn remove_checkpoint(&self, state: &State, checkpoint: Option<NamedCheckpoint>) {
        if let Some(checkpoint) = checkpoint {
            state.shared.leftovers.remove(
                state.shared.dir.as_ref(),
                file_name::checkpoint(checkpoint.number),
                0,
            );
        }
    }

    /// Begins a checkpoint if an open after a kill would take long, by the bytes written since the
    /// last one.
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
        let Some(whole) = state.loader.whole() else { return Ok(false) };
        let begun = self.begin_checkpoint(state, compactor, checkpoints, whole)?;
        if begun {
            checkpoints.looked = Some(active);
        }
        Ok(begun)
    }

    /// Returns the bytes that an open after a kill would have to read now.
    fn bytes_to_read(&self, state: &State, checkpoints: &CheckpointState) -> u64 {
        let held =
            |id| checkpoints.named.as_ref().and_then(|named| named.ends.get(&id).copied()).unwrap_or(0);
        let segments = state.shared.segments.read();
        segments
            .values()
            .map(|segment| segment.mapping().published().saturating_sub(held(segment.id())))
            .sum()
    }

    /// Returns the present size of a checkpoint, in bytes.
    fn checkpoint_size(&self, state: &State) -> u64 {
        state.all_keyspaces().1.index_bytes as u64
    }

    /// Makes a checkpoint now, even if nothing was written since the last one. Returns false if an
    /// index cannot be captured now.
    ///
    /// # Errors
    ///
    /// The error that stopped it.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn take_now(&self, state: &State, compactor: &Compactor) -> Result<bool> {
        let whole = state.load_all()?;
        let mut checkpoints = self.checkpoints.lock();
        state.check_writable()?;
        self.forget_spoiled(state, &mut checkpoints)?;
        if checkpoints.taking.is_none()
            && !self.begin_checkpoint(state, compactor, &mut checkpoints, whole)?
        {
            return Ok(false);
        }
        let before = self.made();
        while checkpoints.taking.is_some() {
            self.advance(state, &mut checkpoints)?;
        }
        Ok(self.made() > before)
    }

    /// Makes a checkpoint for the next open, if that would read much. The store is being closed,
    /// and everything is durable.
    pub(crate) fn take_at_close(&self, state: &State, compactor: &Compactor) -> Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        self.forget_spoiled(state, &mut checkpoints)?;
        let (to_read, size) = (self.bytes_to_read(state, &checkpoints), self.checkpoint_size(state));
        let share = if to_read > CLOSE_MAX { 64 } else { 8 };
        if to_read <= CLOSE_MIN || size > to_read.saturating_mul(share) {
            return Ok(());
        }
        let whole = state.load_all()?;
        if !self.begin_checkpoint(state, compactor, &mut checkpoints, whole)? {
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

    /// Discards the checkpoint in progress, since the store is being closed.
    pub(crate) fn end(&self, state: &State) {
        self.give_up(state, &mut self.checkpoints.lock());
    }
}
