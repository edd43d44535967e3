//! Room: for writers who find none, on a disk that is full, and in a store that has become small.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Compactor, StepOutcome};
use crate::engine::compaction::policy::{Decision, SegmentSurvey};
use crate::engine::compaction::report::CompactionReport;
use crate::engine::compaction::running::PassState;
use crate::engine::state::State;
use crate::engine::state::index_loader::Whole;
use crate::engine::state::write_guard::Due;
use crate::error::{Error, Resource, Result};
use crate::log::allocator::quota::SpaceClass;
use crate::mem::mapping::PAGE_SIZE;

/// How long a writer waits, for each 64 KiB that it writes and for each segment that the log is beyond its bound.
const PACE: Duration = Duration::from_millis(1);
/// So many segments beyond it a writer does what is to be done until the log is smaller.
const BEYOND_MAX: u64 = 4;
/// After how long it takes no other step, for each 64 KiB that it writes. Not for ever: what keeps compaction from going on
/// may be an error, or the one who calls this.
const STOP: Duration = Duration::from_secs(1);
/// How many segments may be left unproven by processes that died, before an open takes care of them itself.
const UNPROVEN_MAX: usize = 8;
/// And how much they may hold for that, in bytes: it is written again before the open returns.
const UNPROVEN_BYTES: u64 = 8 << 20;
/// How many times more than is alive the segments that are written to next may take in a store at rest.
const OUTGROWN: u64 = 8;

/// The resource that a pass is to win.
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
    /// That for which a write was refused.
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
    /// Whether a write that found no room may be tried again: compaction has made some, or a removal gets what is kept for
    /// that.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or `DiskLimit` where it cannot. What else stops a pass is not this write's affair: it gets its own error.
    #[cold]
    pub(crate) fn makes_room(&self, state: &State, error: &Error, want: &mut SpaceClass) -> Result<bool> {
        if matches!(error, Error::Exhausted { resource: Resource::Descriptors, .. }) {
            return self.gives_back_descriptors(state);
        }
        let Some(lack) = Lack::of(error) else { return Ok(false) };
        state.load_all()?;
        let before = match error {
            Error::DiskLimit { used, .. } => *used,
            _ => 0,
        };
        // What was removed before keeps its blocks until it is collected; readers say nothing when they go.
        if self.counted(state) < before {
            return Ok(true);
        }
        if state.config.compaction {
            let mut running = self.running.lock();
            state.check_writable()?;
            // Somebody may have made room since.
            if self.counted(state) < before {
                return Ok(true);
            }
            // Twice: what is under way may have begun before there was something better to do.
            for _ in 0..2 {
                let passed = match lack {
                    Lack::Limit => {
                        self.pass_for_room(state, &mut running).map(|()| self.counted(state) < before)
                    }
                    _ => self
                        .pass_on_full_disk(state, &mut running, lack, want.removes())
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
            // With what is used and held now.
            return Err(state.allocator.refusal(*needed));
        }
        Ok(want.escalate())
    }

    /// What counts against the limit now.
    fn counted(&self, state: &State) -> u64 {
        self.take_back(state);
        state.allocator.counted()
    }

    /// Ends the pass under way, or begins and ends one that gives back room.
    fn pass_for_room(&self, state: &State, running: &mut PassState) -> Result<()> {
        while running.job.is_none() {
            let survey = self.survey(state, &running.damaged);
            if !self.begin(state, running, &survey, survey.decide_room())? {
                return Ok(());
            }
        }
        while running.job.is_some() {
            self.drive(state, running)?;
        }
        Ok(())
    }

    /// Makes room for a pass that was refused some; whether there is more than before.
    ///
    /// # Errors
    ///
    /// What stopped it.
    pub(super) fn finds_room(
        &self,
        state: &State,
        running: &mut PassState,
        refused: &Error,
        total: &mut CompactionReport,
    ) -> Result<bool> {
        let Some(lack) = Lack::of(refused) else { return Ok(false) };
        if self.gives_up_ready(state, refused)? {
            return Ok(true);
        }
        let won = self.pass_on_full_disk(state, running, lack, true)?;
        won.iter().for_each(|report| total.add(report));
        Ok(won.is_some())
    }

    /// Gives up what was made for later, where that is what a pass was refused; whether something came back.
    fn gives_up_ready(&self, state: &State, refused: &Error) -> Result<bool> {
        if Lack::of(refused).is_none() || state.allocator.give_up_ready(&state.shared)? == 0 {
            return Ok(false);
        }
        // A file is there as long as it is mapped.
        state.collect_removed();
        Ok(true)
    }

    /// Makes the full segments durable, each of which keeps its descriptor until then; whether there were any.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or what the operating system says.
    fn gives_back_descriptors(&self, state: &State) -> Result<bool> {
        if state.writer.lock().log.full_count() == 0 {
            return Ok(false);
        }
        state.sync()?;
        state.seal()
    }

    /// As before, where the pass finds room on the disk only for little; what it did, if there was one.
    ///
    /// What is given up for it is not won by it, so that what the segments take says nothing here.
    fn pass_on_full_disk(
        &self,
        state: &State,
        running: &mut PassState,
        lack: Lack,
        urgent: bool,
    ) -> Result<Option<CompactionReport>> {
        let segment_bytes = state.config.segment_bytes;
        let room = state.allocator.space_budget(&state.shared);
        let mut room = room.map_or(segment_bytes, |room| room.for_pass(segment_bytes));
        loop {
            let survey = self.survey(state, &running.damaged);
            if running.job.is_none() {
                let names = self.names_size(state);
                let decision = match lack {
                    Lack::Files => survey.decide_fewer(room, names, urgent),
                    _ => survey.decide_fitting(room, names, urgent),
                };
                if !self.begin(state, running, &survey, decision)? {
                    return Ok(None);
                }
                if let Some(job) = &mut running.job {
                    job.file_max = u64::MAX;
                }
            }
            while running.job.is_some() {
                match self.drive(state, running) {
                    // What was made for later is room for now.
                    Err(refused) if self.gives_up_ready(state, &refused)? => break,
                    // There is less than was said.
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

    /// Has a writer help, where the log has grown beyond that.
    #[inline]
    pub(crate) fn throttle(&self, state: &State, due: Due) {
        if due.pace && state.backpressure.is_over_bound() {
            self.help(state);
        }
    }

    #[cold]
    fn help(&self, state: &State) {
        if !state.config.compaction || state.notifier.has_no_worker() || state.loader.whole().is_none() {
            return;
        }
        // Where the background is at it, this waits for it, the longer the further the log is beyond its bound: that is
        // what slows the writer.
        let beyond =
            || state.allocator.used().saturating_sub(state.growth_bound()) / state.config.segment_bytes;
        let until = state.shared.dir.now().saturating_add(STOP);
        let few = u32::try_from(beyond().min(BEYOND_MAX)).unwrap_or(u32::MAX);
        // Relaxed: advice. Whoever compacts all there is is as fast as can be, and may be the one who writes.
        let stops = u64::from(few) == BEYOND_MAX && self.asked.load(Ordering::Relaxed) == 0;
        let patience = if stops { STOP } else { PACE.saturating_mul(1 + few) };
        let Some(mut running) = self.running.try_lock_for(patience) else { return };
        loop {
            // A store that was closed meanwhile is not to be written to.
            match state.check_writable().and_then(|()| self.step_running(state, &mut running)) {
                Ok(true) => {}
                Ok(false) => return,
                // The write has succeeded; whoever drives the pass next will meet the same.
                Err(error) => return crate::trace::background_failed(&error),
            }
            if beyond() < BEYOND_MAX || state.shared.dir.now() >= until {
                return;
            }
        }
    }

    /// Whether what is written to next is out of proportion to what is alive.
    pub(crate) fn is_outgrown(&self, state: &State) -> bool {
        let live = state.catalog.live_bytes();
        let most = OUTGROWN * (live + self.limits(state).slack);
        state.allocator.open_bytes() > most
    }

    /// Removes what is dead altogether, however little it is; and where nothing is alive, ends the active segment too.
    ///
    /// # Errors
    ///
    /// What stopped it.
    pub(crate) fn compact_at_rest(&self, state: &State, _whole: Whole) -> Result<bool> {
        let Some(mut running) = self.running.try_lock() else { return Ok(false) };
        // Relaxed: as in `Requested`.
        if running.job.is_some() || self.asked.load(Ordering::Relaxed) > 0 {
            // Its turn comes with the next step; the limit on bandwidth may keep it waiting.
            return Ok(false);
        }
        if state.catalog.live_bytes() == 0 && state.is_active_dirty() {
            // As if it were new.
            state.allocator.give_up_ready(&state.shared)?;
            state.roll()?;
            return Ok(true);
        }
        let survey = self.survey(state, &running.damaged);
        let decision = survey.decide_dead();
        self.begin(state, &mut running, &survey, decision)
    }

    /// Takes care at once of what many processes that died have left: each may die again before its background gets to it.
    ///
    /// # Errors
    ///
    /// `Poisoned`, where what was read cannot be made durable.
    pub(crate) fn tidy_up(&self, state: &State) -> Result<()> {
        let (count, bytes) = state.syncer.unsynced();
        if !state.config.compaction || count < UNPROVEN_MAX || bytes > UNPROVEN_BYTES {
            return Ok(());
        }
        state.sync()?;
        state.seal()?;
        state.load_all()?;
        let mut running = self.running.lock();
        loop {
            let survey: SegmentSurvey = self.survey(state, &running.damaged);
            let decision = survey.decide_small();
            if decision == Decision::Nothing || !self.begin(state, &mut running, &survey, decision)? {
                return Ok(());
            }
            while running.job.is_some() {
                if let Err(error) = self.drive(state, &mut running) {
                    // The store is as good as before; the background tries again.
                    state.shared.commit.check()?;
                    crate::trace::background_failed(&error);
                    return Ok(());
                }
            }
        }
    }
}
