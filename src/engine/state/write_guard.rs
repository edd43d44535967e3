//! The write guard: the writer mutex, held for one write, and the order in which a write takes
//! effect.
//!
//! **Order.** A write appends its record, calls [`Effect::begin`], changes the index and the
//! counters, and drops the guard. Dropping it publishes the end of the log and the effect of the
//! write to every other thread, even if the write ends early. Once the mutex is free, followers that
//! wait for records are woken.
//!
//! **Work under the mutex.** A write does this under it:
//!
//! - it checks its condition;
//! - it reserves space in the index, in the log and for retained versions; if the worker lags, it
//!   makes a segment or pages;
//! - it appends its record;
//! - it changes the index and the counters.
//!
//! Lengths, hash and checksum come before the mutex. Waking the worker, helping compaction and
//! waiting for a sync come after it.

use parking_lot::MutexGuard;

use super::{State, WriterState};
use crate::config::Durability;
use crate::error::Result;
use crate::format::Seq;
use crate::log::control_page::Request;

/// Bytes of the log between two checks for a sleeping worker.
const CALL_SPACING: u64 = 64 << 10;

/// The work of a writer after it has released the mutex.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// True if the worker may have work.
    pub(super) call: bool,
    /// True if another 64 KiB were written, so it is time to check the pace of compaction.
    pub(crate) pace: bool,
}

impl Due {
    /// Returns `self`, with the worker called as well if `also` is true.
    pub(crate) fn or(self, also: bool) -> Self {
        Self { call: self.call || also, ..self }
    }
}

/// The effect of a write, as it is published to readers.
pub(crate) struct Effect<'s> {
    state: &'s State,
    has_begun: bool,
    is_published: bool,
}

impl Effect<'_> {
    /// Announces that the write with this number is in the log, and is about to take effect.
    #[inline]
    pub(crate) fn begin(&mut self, seq: Seq) {
        self.state.seqlock.begin(seq);
        self.has_begun = true;
    }
}

/// Runs after the mutex was released: the fields of a [`WriteGuard`] are dropped in their order.
impl Drop for Effect<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.has_begun && self.state.syncer.control.wake_for_records() == Request::Sync {
            self.state.call_worker();
        }
    }
}

/// The writer mutex, held for one write. The order of the fields matters.
pub(crate) struct WriteGuard<'s> {
    pub(crate) writer: MutexGuard<'s, WriterState>,
    pub(crate) effect: Effect<'s>,
}

impl<'s> WriteGuard<'s> {
    /// Takes the writer mutex of a store that can be written to.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or `Closed` if the store was closed while the caller waited.
    #[inline]
    pub(crate) fn lock(state: &'s State) -> Result<Self> {
        Self::of(state, state.writer.lock())
    }

    /// Returns a guard like [`WriteGuard::lock`], for a mutex that the caller has taken.
    ///
    /// # Errors
    ///
    /// The errors of [`WriteGuard::lock`].
    #[inline]
    pub(crate) fn of(state: &'s State, writer: MutexGuard<'s, WriterState>) -> Result<Self> {
        state.check_writable()?;
        Ok(Self { writer, effect: Effect { state, has_begun: false, is_published: false } })
    }

    /// Ends the write, releases the mutex, and returns the work to do afterwards.
    #[inline]
    pub(crate) fn end(mut self) -> Due {
        self.effect.is_published = true;
        self.publish()
    }

    /// Publishes the end of the log to every other thread.
    #[inline]
    fn publish(&self) -> Due {
        let (state, log) = (self.effect.state, &self.writer.log);
        let (segment, offset) = log.position();
        let half = segment.size() / 2;
        let before = state.allocator.offset();
        let rolled = state.note_active(segment.id());
        state.allocator.set_offset(offset);
        state.seqlock.end(log.last_user());
        state.syncer.set_full(log.full_count());
        // A segment may be smaller than that, and the next one is made when it is half full.
        let pace = rolled || before / CALL_SPACING != offset / CALL_SPACING;
        let call =
            pace || (before < half && half <= offset) || state.config.durability == Durability::Interval;
        Due { call, pace }
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.effect.has_begun && !self.effect.is_published {
            self.publish();
        }
    }
}
