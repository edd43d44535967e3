//! Freeing space: for writers that find none, on a full disk, and in a store that has become small.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Compactor, StepOutcome};
use crate::engine::compaction::compactor_state::CompactorState;
use crate::engine::compaction::policy::{Decision, SegmentSurvey};
use crate::engine::compaction::report::CompactionReport;
use crate::engine::state::State;
use crate::engine::state::index_loader::Whole;
use crate::engine::state::write_guard::Due;
use crate::error::{Error, Resource, Result};
use crate::log::allocator::quota::SpaceClass;
use crate::mem::PAGE_SIZE;

/// The time that a writer waits, for each 64 KiB it writes and each segment that the log is beyond
/// its bound.
const PACE: Duration = Duration::from_millis(1);
/// The number of segments beyond the bound from which a writer compacts until the log is smaller.
const BEYOND_MAX: u64 = 4;
/// The time after which it takes no other step, for each 64 KiB that it writes.
///
/// It is bounded, since compaction may be stopped by an error, or by the caller itself.
const STOP: Duration = Duration::from_secs(1);
/// The number of unsynced segments of dead processes from which an open handles them itself.
const UNPROVEN_MAX: usize = 8;
/// The most bytes in them for that: they are rewritten before the open returns.
const UNPROVEN_BYTES: u64 = 8 << 20;
/// The multiple of the live bytes that the active and preallocated segments may take in a store at
/// rest.
const OUTGROWN: u64 = 8;

/// The resource that a pass is to free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// Bytes below the store's limit.
    Limit,
    /// Blocks of the disk.
    Space,
    /// Files of the file system.
    Files,
}

impl Lack {
    /// Returns the resource for which a write was refused.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::DiskLimit { .. } => Some(Self::Limit),
            Error::NoSpace { .. } => Some(Self::Space),
            Error::Exhausted { resource: Resource::Files, .. } => Some(Self::Files),
            _ => None,
        }
    }
}

impl Compactor {
    /// Returns true if a write that found no space may be repeated.
    ///
    /// Either compaction has freed some, or a removal gets the space kept for it.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or `DiskLimit` if space cannot be freed. Other errors that stop a pass do not
    /// concern this write: it gets its own error.
    #[cold]
    pub(crate) fn makes_room(&self, state: &State, error: &Error, want: &mut SpaceClass) -> Result<bool> {
        if matches!(error, Error::Exhausted { resource: Resource::Descriptors, .. }) {
            return self.gives_back_descriptors(state);
        }
        let Some(lack) = Lack::of(error) else { return Ok(false) };
        let whole = state.load_all()?;
        let before = match error {
            Error::DiskLimit { used, .. } => *used,
            _ => 0,
        };
        // Removed files keep their blocks until they are collected, and readers do not announce
        // their end.
        if self.counted(state) < before {
            return Ok(true);
        }
        if state.config.compaction {
            let mut running = self.running.lock();
            state.check_writable()?;
            // Another thread may have freed space since.
            if self.counted(state) < before {
                return Ok(true);
            }
            // Twice: the pass under way may have begun before there was a better one.
            for _ in 0..2 {
                let passed = match lack {
                    Lack::Limit => {
                        self.pass_for_room(state, &mut running, whole).map(|()| self.counted(state) < before)
                    }
                    _ => self
                        .pass_on_full_disk(state, &mut running, lack, want.removes(), whole)
                        .map(|won| won.is_some()),
                };
                match passed {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) => {
                        state.shared.commit.check()?;
                        crate::trace::background_failed(&error);
                    }
                }
            }
        }
        if let Error::DiskLimit { needed, .. } = error {
            // With the bytes used and held now.
            return Err(state.allocator.refusal(*needed));
        }
        Ok(want.escalate())
    }

    /// Returns the bytes that count against the limit now.
    fn counted(&self, state: &State) -> u64 {
        self.take_back(state);
        state.allocator.counted()
    }

    /// Finishes the pass under way, or begins and finishes one that frees space.
    fn pass_for_room(&self, state: &State, running: &mut CompactorState, whole: Whole) -> Result<()> {
        while running.pass.is_none() {
            let survey = self.survey(state, &running.damaged).with_recent();
            if !self.begin(state, running, &survey, survey.decide_room(), whole)? {
                return Ok(());
            }
        }
        while running.pass.is_some() {
            self.drive(state, running)?;
        }
        Ok(())
    }

    /// Frees space for a pass that was refused some. Returns true if there is more than before.
    ///
    /// # Errors
    ///
    /// The error that stopped it.
    pub(super) fn finds_room(
        &self,
        state: &State,
        running: &mut CompactorState,
        refused: &Error,
        total: &mut CompactionReport,
        whole: Whole,
    ) -> Result<bool> {
        let Some(lack) = Lack::of(refused) else { return Ok(false) };
        if self.gives_up_ready(state, refused)? {
            return Ok(true);
        }
        let won = self.pass_on_full_disk(state, running, lack, true, whole)?;
        won.iter().for_each(|report| total.add(report));
        Ok(won.is_some())
    }

    /// Releases preallocated segments, if they hold the resource that a pass was refused. Returns
    /// true if it freed any.
    fn gives_up_ready(&self, state: &State, refused: &Error) -> Result<bool> {
        if Lack::of(refused).is_none() || state.allocator.give_up_ready(&state.shared)? == 0 {
            return Ok(false);
        }
        // A file exists as long as it is mapped.
        state.collect_removed();
        Ok(true)
    }

    /// Makes the full segments durable, each of which keeps its descriptor until then. Returns true
    /// if there were any.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or an error of the operating system.
    fn gives_back_descriptors(&self, state: &State) -> Result<bool> {
        if state.writer.lock().log.full_count() == 0 {
            return Ok(false);
        }
        state.sync()?;
        state.seal()
    }

    /// Runs a pass like `pass_for_room`, with little space for it on the disk. Returns its report,
    /// if there was one.
    ///
    /// Preallocated segments released for it are no gain of the pass, so the total size of the
    /// segments does not show its gain.
    fn pass_on_full_disk(
        &self,
        state: &State,
        running: &mut CompactorState,
        lack: Lack,
        urgent: bool,
        whole: Whole,
    ) -> Result<Option<CompactionReport>> {
        let segment_bytes = state.config.segment_bytes;
        let room = state.allocator.space_budget(&state.shared);
        let mut room = room.map_or(segment_bytes, |room| room.for_pass(segment_bytes));
        loop {
            let survey = self.survey(state, &running.damaged).with_recent();
            if running.pass.is_none() {
                let names = self.names_size(state);
                let decision = match lack {
                    Lack::Files => survey.decide_fewer(room, names, urgent),
                    _ => survey.decide_fitting(room, names, urgent),
                };
                if !self.begin(state, running, &survey, decision, whole)? {
                    return Ok(None);
                }
                if let Some(pass) = &mut running.pass {
                    pass.file_max = u64::MAX;
                }
            }
            while running.pass.is_some() {
                match self.drive(state, running) {
                    // Preallocated segments are space for now.
                    Err(refused) if self.gives_up_ready(state, &refused)? => break,
                    // There is less space than reported.
                    Err(Error::NoSpace { .. }) if room >= 2 * PAGE_SIZE as u64 => {
                        room /= 2;
                        break;
                    }
                    Err(other) => return Err(other),
                    Ok(StepOutcome { finished: Some(report), .. }) => return Ok(Some(report)),
                    Ok(_) => {}
                }
            }
        }
    }

    /// Makes a writer help, if the log has grown beyond its bound.
    #[inline]
    pub(crate) fn throttle(&self, state: &State, due: Due) {
        if due.pace && state.backpressure.is_over_bound() {
            self.help(state);
        }
    }

    #[cold]
    fn help(&self, state: &State) {
        if !state.config.compaction || state.notifier.has_no_worker() {
            return;
        }
        let Some(whole) = state.loader.whole() else { return };
        // While the worker compacts, this waits for it, longer the further the log is beyond its
        // bound. That slows the writer.
        let beyond =
            || state.allocator.used().saturating_sub(state.growth_bound()) / state.config.segment_bytes;
        let until = state.shared.dir.now().saturating_add(STOP);
        let few = u32::try_from(beyond().min(BEYOND_MAX)).unwrap_or(u32::MAX);
        // Relaxed: advice. A caller that compacts everything goes as fast as possible, and may be
        // this writer.
        let stops = u64::from(few) == BEYOND_MAX && self.asked.load(Ordering::Relaxed) == 0;
        let patience = if stops { STOP } else { PACE.saturating_mul(1 + few) };
        let Some(mut running) = self.running.try_lock_for(patience) else { return };
        loop {
            // A store that was closed meanwhile must not be written to.
            match state.check_writable().and_then(|()| self.step_running(state, &mut running, whole)) {
                Ok(true) => {}
                Ok(false) => return,
                // The write has succeeded. The next thread that drives the pass gets this error as
                // well.
                Err(error) => return crate::trace::background_failed(&error),
            }
            if beyond() < BEYOND_MAX || state.shared.dir.now() >= until {
                return;
            }
        }
    }

    /// Returns true if the active and preallocated segments are out of proportion to the live data.
    pub(crate) fn is_outgrown(&self, state: &State) -> bool {
        let live = state.catalog.live_bytes();
        let most = OUTGROWN * (live + self.limits(state).slack);
        state.allocator.open_bytes() > most
    }

    /// Removes segments without live data, however small. If nothing is live, it ends the active
    /// segment too.
    ///
    /// # Errors
    ///
    /// The error that stopped it.
    pub(crate) fn compact_at_rest(&self, state: &State, whole: Whole) -> Result<bool> {
        let Some(mut running) = self.running.try_lock() else { return Ok(false) };
        // Relaxed: as in `Requested`.
        if running.pass.is_some() || self.asked.load(Ordering::Relaxed) > 0 {
            // Its turn comes with the next step, which the bandwidth limit may delay.
            return Ok(false);
        }
        if state.catalog.live_bytes() == 0 && state.is_active_dirty() {
            // As in a new store.
            state.allocator.give_up_ready(&state.shared)?;
            state.roll()?;
            return Ok(true);
        }
        let survey = self.survey(state, &running.damaged);
        let decision = survey.decide_dead();
        self.begin(state, &mut running, &survey, decision, whole)
    }

    /// Handles at once the segments that many dead processes have left: each could die again before
    /// its worker does.
    ///
    /// # Errors
    ///
    /// `Poisoned` if the records read cannot be made durable.
    pub(crate) fn tidy_up(&self, state: &State) -> Result<()> {
        let (count, bytes) = state.syncer.unsynced();
        if !state.config.compaction || count < UNPROVEN_MAX || bytes > UNPROVEN_BYTES {
            return Ok(());
        }
        state.sync()?;
        state.seal()?;
        let whole = state.load_all()?;
        let mut running = self.running.lock();
        loop {
            let survey: SegmentSurvey = self.survey(state, &running.damaged);
            let decision = survey.decide_small();
            if decision == Decision::Nothing || !self.begin(state, &mut running, &survey, decision, whole)? {
                return Ok(());
            }
            while running.pass.is_some() {
                if let Err(error) = self.drive(state, &mut running) {
                    // The store works without it, and the worker tries again.
                    state.shared.commit.check()?;
                    crate::trace::background_failed(&error);
                    return Ok(());
                }
            }
        }
    }
}
