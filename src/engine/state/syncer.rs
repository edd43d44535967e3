//! The syncer: makes the log durable, at once or in time, and records that in the manifest.
//!
//! **Concurrency.** Many threads ask for durability, and one of them at a time runs
//! [`Syncer::sync`] for all (the group commit). It takes the writer mutex twice, briefly, and syncs
//! without it.
//!
//! **Invariants.** I2, I3, I11.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::State;
use crate::config::Durability;
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::{SegmentId, Seq};
use crate::fs::NamesStamp;
use crate::log::control_page::ControlPage;
use crate::log::rewrite::{ToRewrite, free_behind, note_rewritten, rewrite};
use crate::log::sync_plan::{FilledSegment, SegmentRange};

/// The number of full segments that are not durable at which the worker syncs them.
const FULL_MAX: u64 = 16;
/// The bytes of the log that one step writes back.
const PIECE: u64 = 2 << 20;

/// Segments that are durable to their end, and that the manifest does not mark as sealed yet.
#[derive(Debug, Default)]
struct Sealing {
    full: Vec<FilledSegment>,
    rewritten: Vec<SegmentRange>,
}

impl Sealing {
    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.rewritten.is_empty()
    }
}

/// The names that a sync has checked: those of the lock file, of the manifest, and of a segment.
#[derive(Debug, Clone, Copy)]
struct CheckedNames {
    stamp: NamesStamp,
    segment: SegmentId,
}

/// The parts of the log to be made durable, and the time for it.
#[derive(Debug)]
pub(crate) struct Syncer {
    pub(crate) control: Arc<ControlPage>,
    /// Ranges to be written back before a background sync.
    ahead: Mutex<Option<Vec<SegmentRange>>>,
    /// Ranges that must be rewritten after an unclean end.
    unsynced: Mutex<ToRewrite>,
    sealing: Mutex<Sealing>,
    /// The names that the last sync checked; `None` if a change of them could go unnoticed.
    checked: Mutex<Option<CheckedNames>>,
    /// The time at which the oldest unsynced write was noticed, by the store's clock.
    dirty_since: Mutex<Option<Duration>>,
    /// The number of segments that are full and not durable.
    full: AtomicU64,
}

/// The result of a step of writing back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBackStep {
    /// It wrote a piece.
    Wrote,
    /// No piece was left. The sync may follow.
    Done,
}

impl Syncer {
    /// Starts with the ranges that an unclean end left.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn new(control: Arc<ControlPage>, unsynced: Vec<SegmentRange>) -> Result<Self> {
        Ok(Self {
            control,
            ahead: Mutex::new(None),
            unsynced: Mutex::new(ToRewrite::new(unsynced)?),
            sealing: Mutex::new(Sealing::default()),
            checked: Mutex::new(None),
            dirty_since: Mutex::new(None),
            full: AtomicU64::new(0),
        })
    }

    /// Makes everything appended so far durable. The leader of a commit runs it, one at a time.
    ///
    /// # Errors
    ///
    /// The first failure. The commit poisons the store with it.
    pub(super) fn sync(&self, state: &State) -> Result<Seq> {
        // Records in files that an open cannot find do not count as durable.
        let checked = self.checked.lock().take();
        let stamp = state.shared.manifest.check_place_since(checked.map(|checked| checked.stamp))?;
        let checked = checked.filter(|checked| Some(checked.stamp) == stamp);
        let mut unsynced = std::mem::take(&mut *self.unsynced.lock());
        rewrite(&mut unsynced)?;
        self.sealing.lock().rewritten.extend(unsynced.ranges);
        let plan = state.writer.lock().log.plan();
        plan.execute(
            state.shared.dir.as_ref(),
            &state.shared.commit,
            checked.map(|checked| checked.segment),
        )?;
        let last = plan.ranges().last().map(|range| range.segment.id());
        *self.checked.lock() = stamp.zip(last).map(|(stamp, segment)| CheckedNames { stamp, segment });
        let durable = state.writer.lock().log.synced(&state.shared, &plan);
        for full in &durable {
            full.segment.tell_time(full.last_seq);
        }
        self.sealing.lock().full.extend(durable);
        *self.dirty_since.lock() = None;
        crate::trace::synced(plan.upto().0, plan.bytes());
        Ok(plan.upto())
    }

    /// Marks durable segments as sealed in the manifest. Returns true if there were any.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. The segments are marked later.
    pub(crate) fn seal(&self, state: &State) -> Result<bool> {
        let sealing = std::mem::take(&mut *self.sealing.lock());
        if sealing.is_empty() {
            return Ok(false);
        }
        let named = state.shared.manifest.update(|manifest| {
            note_sealed(state, manifest, &sealing.full);
            note_rewritten(manifest, &sealing.rewritten);
        });
        if let Err(error) = named {
            let mut waiting = self.sealing.lock();
            waiting.full.extend(sealing.full);
            waiting.rewritten.extend(sealing.rewritten);
            return Err(error);
        }
        let mut freed = Ok(());
        for range in sealing.rewritten {
            freed = freed.and(free_behind(&range.segment, range.to));
            range.segment.release_file();
        }
        for full in sealing.full {
            // The segment ended early because the next write did not fit.
            freed = freed.and(free_behind(&full.segment, full.end));
            full.segment.release_file();
        }
        freed.map(|()| true)
    }

    /// Sets the number of segments that are full and not durable.
    #[inline]
    pub(super) fn set_full(&self, count: u64) {
        // Relaxed: the worker checks under the writer mutex before it sleeps.
        self.full.store(count, Ordering::Relaxed);
    }

    /// Returns the number of ranges to be rewritten after an unclean end, and their bytes.
    pub(crate) fn unsynced(&self) -> (usize, u64) {
        let unsynced = &self.unsynced.lock().ranges;
        (unsynced.len(), unsynced.iter().map(|range| range.to - range.from).sum())
    }

    /// Does one step of a background sync, once many segments wait: each keeps its descriptor until
    /// it is durable.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn sync_full(&self, state: &State) -> Result<bool> {
        let mut ahead = self.ahead.lock();
        if ahead.is_none() {
            // Relaxed: the next step sees the count that this one misses.
            if self.full.load(Ordering::Relaxed) < FULL_MAX {
                return Ok(false);
            }
            *ahead = Some(self.pieces(state));
        }
        if self.write_back_some(state, &mut ahead)? == WriteBackStep::Done {
            state.sync()?;
            // Relaxed: see above. A writer that fills another one meanwhile counts again.
            self.full.store(0, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Returns the ranges that are not durable yet, in pieces.
    pub(crate) fn pieces(&self, state: &State) -> Vec<SegmentRange> {
        state.writer.lock().log.plan().pieces(PIECE)
    }

    /// Writes the next piece back, if one is left.
    ///
    /// The sync itself then has little to do. It is one step, and meanwhile no pages are faulted
    /// for the writer.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn write_back_some(
        &self,
        state: &State,
        ahead: &mut Option<Vec<SegmentRange>>,
    ) -> Result<WriteBackStep> {
        if let Some(piece) = ahead.as_mut().and_then(Vec::pop) {
            self.write_back(state, &piece)?;
            return Ok(WriteBackStep::Wrote);
        }
        *ahead = None;
        Ok(WriteBackStep::Done)
    }

    /// Writes a piece of the log back before the sync.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn write_back(&self, state: &State, piece: &SegmentRange) -> Result<()> {
        let commit = &state.shared.commit;
        commit.check()?;
        // If it has no file any more, it is already durable whole.
        piece.segment.sync_if_kept(piece.from, piece.to, commit).map(drop)
    }

    /// Syncs if a follower asks for it. Returns true if it did.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn sync_as_asked(&self, state: &State) -> Result<bool> {
        let durable = state.shared.commit.durable();
        if self.control.take_wanted().is_none_or(|wanted| wanted <= durable) {
            return Ok(false);
        }
        // The number may be that of a record of the log's own.
        state.sync()?;
        Ok(true)
    }

    /// Returns true if a write waits for a sync that is due later.
    pub(crate) fn is_dirty(&self, state: &State) -> bool {
        // The worker checks under the writer mutex before it sleeps.
        state.config.durability == Durability::Interval
            && state.seqlock.last() > state.shared.commit.durable()
    }

    /// Returns the time until a sync is due. `None` if no write waits for one.
    pub(crate) fn due(&self, state: &State) -> Option<Duration> {
        let since = self.is_dirty(state).then(|| *self.dirty_since.lock()).flatten()?;
        Some(since.saturating_add(state.config.sync_interval).saturating_sub(state.shared.dir.now()))
    }

    /// Syncs if a write has waited long enough. Returns true if it did.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn sync_in_time(&self, state: &State) -> Result<bool> {
        if !self.is_dirty(state) {
            return Ok(false);
        }
        let now = state.shared.dir.now();
        let since = *self.dirty_since.lock().get_or_insert(now);
        if now.saturating_sub(since) < state.config.sync_interval {
            return Ok(false);
        }
        state.flush()?;
        Ok(true)
    }
}

fn note_sealed(state: &State, manifest: &mut Manifest, sealed: &[FilledSegment]) {
    for full in sealed {
        if let Some(entry) = manifest.segment_mut(full.segment.id()) {
            entry.state = SegmentState::Sealed;
            entry.end = full.end;
            entry.last_seq = full.last_seq;
            entry.first_seq = full.segment.first_seq();
            entry.filtered = full.segment.filtered();
        }
    }
    state.catalog.note_durable(manifest, state.shared.commit.durable());
}
