//! The write guard: the writer mutex, held for one write, and the order in which a write takes effect.
//!
//! **Order.** A write appends its record, calls [`Effect::begin`], changes the index and the counters, and lets go of
//! the guard. Letting go tells every other thread how far the log is and that the write has taken effect, also where the
//! write ends early.

use parking_lot::MutexGuard;

use super::{State, WriterState};
use crate::config::Durability;
use crate::error::Result;
use crate::format::Seq;

/// How many bytes of log lie between two looks at whether the background sleeps.
const CALL_SPACING: u64 = 64 << 10;

/// What a writer has to do once it has let go of the mutex.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// The background may have work.
    pub(super) call: bool,
    /// Another 64 KiB were written, so it is time to look whether compaction keeps pace.
    pub(crate) pace: bool,
}

impl Due {
    /// The same; with `also` the background may have work in any case.
    pub(crate) fn or(self, also: bool) -> Self {
        Self { call: self.call || also, ..self }
    }
}

/// The effect of a write, as readers are told of it.
pub(crate) struct Effect<'s> {
    state: &'s State,
    has_begun: bool,
}

impl Effect<'_> {
    /// The write of this number is in the log, and is about to take effect.
    #[inline]
    pub(crate) fn begin(&mut self, seq: Seq) {
        self.state.seqlock.begin(seq);
        self.has_begun = true;
    }
}

/// The writer mutex, held for one write.
pub(crate) struct WriteGuard<'s> {
    pub(crate) writer: MutexGuard<'s, WriterState>,
    pub(crate) effect: Effect<'s>,
}

impl<'s> WriteGuard<'s> {
    /// Takes the writer mutex of a store that can be written to.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or `Closed` where the store was closed while the caller waited.
    #[inline]
    pub(crate) fn lock(state: &'s State) -> Result<Self> {
        Self::of(state, state.writer.lock())
    }

    /// As [`WriteGuard::lock`], for a mutex that the caller has taken.
    ///
    /// # Errors
    ///
    /// As [`WriteGuard::lock`].
    #[inline]
    pub(crate) fn of(state: &'s State, writer: MutexGuard<'s, WriterState>) -> Result<Self> {
        state.check_writable()?;
        Ok(Self { writer, effect: Effect { state, has_begun: false } })
    }

    /// Ends the write, lets go of the mutex, and returns what is to be done afterwards.
    #[inline]
    pub(crate) fn end(mut self) -> Due {
        self.effect.has_begun = false;
        self.publish()
    }

    /// Tells every other thread how far the log is.
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
    fn drop(&mut self) {
        if self.effect.has_begun {
            self.publish();
        }
    }
}
