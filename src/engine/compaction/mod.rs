//! The compactor: the threads that drive compaction, and the choice of its next step.
//!
//! The worker drives it a step at a time. A caller of `compact` does all of it.
//!
//! **Concurrency.** There is one pass at a time, under its own lock, which comes before the writer
//! mutex and every other lock. A caller's callback runs without the lock, in the middle of a pass,
//! and another thread may then continue that pass or end it. A thread that finds the lock taken
//! continues with other work. Only `compact` and `close` wait, and writers for a while if the files
//! have grown beyond their bound (`make_room`).
//!
//! **Invariants.** I7, I11.

mod compactor_state;
pub(crate) mod copy_writer;
mod key_run;
mod make_room;
#[cfg(all(test, not(loom)))]
pub(crate) mod model;
pub(crate) mod pass;
mod pass_steps;
pub(crate) mod policy;
mod repoint;
pub(crate) mod report;
mod survey;
pub(crate) mod tombstone_rule;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::engine::compaction::compactor_state::{CompactorState, LastSurvey};
use crate::engine::compaction::pass::{Pass, Victim};
use crate::engine::compaction::policy::{Decision, SegmentFacts, SegmentSurvey};
use crate::engine::compaction::report::{
    CompactionProgress, CompactionReason, CompactionReport, CompactionStats,
};
use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceState;
use crate::engine::state::index_loader::Whole;
use crate::engine::state::syncer::WriteBackStep;
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::format::record::record_size;
use crate::sync::statistic::Statistic;

/// The job of compaction on one store.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    running: Mutex<CompactorState>,
    /// The number of finished passes.
    passes: Statistic,
    removed: Statistic,
    moved: Statistic,
    freed: Statistic,
    /// The number of callers that compact everything.
    ///
    /// They hold `running` for as long as that takes, except during their callbacks, and no other
    /// thread begins a pass.
    asked: AtomicUsize,
}

/// The token that no pass is under way. None begins while it is held.
pub(crate) struct Idle<'c>(#[expect(dead_code, reason = "it is held")] MutexGuard<'c, CompactorState>);

/// The result of a step.
#[derive(Debug, Default)]
struct StepOutcome {
    /// Bytes read and written.
    bytes: u64,
    /// The report of the pass, if this was its last step.
    finished: Option<CompactionReport>,
}

/// Registers a caller that compacts everything, while it is held.
struct Requested<'a> {
    compactor: &'a Compactor,
    whole: Whole,
}

impl<'a> Requested<'a> {
    fn of(compactor: &'a Compactor, whole: Whole) -> Self {
        // Relaxed, here and below: advice, but with `running` held.
        compactor.asked.fetch_add(1, Ordering::Relaxed);
        Self { compactor, whole }
    }
}

impl Drop for Requested<'_> {
    fn drop(&mut self) {
        self.compactor.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compactor {
    /// Returns the token that no pass is under way. `None` if one is, or another thread is choosing
    /// one.
    pub(crate) fn idle(&self) -> Option<Idle<'_>> {
        self.running.try_lock().filter(|running| running.pass.is_none()).map(Idle)
    }

    /// Does one step of compaction, if there is work. Returns true if it did.
    ///
    /// # Errors
    ///
    /// The error that stopped it. It is tried again after more writes.
    pub(crate) fn step(&self, state: &State, whole: Whole) -> Result<bool> {
        if !state.config.compaction {
            return Ok(false);
        }
        let Some(mut running) = self.running.try_lock() else { return Ok(false) };
        // Relaxed: see `Requested`. The requested call is in its callback, and continues
        // afterwards.
        if self.asked.load(Ordering::Relaxed) > 0 {
            return Ok(false);
        }
        self.take_back(state);
        self.step_running(state, &mut running, whole)
    }

    /// Does a step of the pass under way, or of the sync before the next one, or begins a pass.
    ///
    /// # Errors
    ///
    /// The errors of [`Compactor::step`].
    fn step_running(&self, state: &State, running: &mut CompactorState, whole: Whole) -> Result<bool> {
        let now = state.shared.dir.now();
        if now < running.not_before {
            return Ok(false);
        }
        if running.ahead.is_some() {
            if state.syncer.write_back_some(state, &mut running.ahead)? == WriteBackStep::Done {
                state.sync()?;
                state.seal()?;
            }
            return Ok(true);
        }
        if running.pass.is_none() && !self.look(state, running, now, whole)? {
            return Ok(false);
        }
        if running.pass.is_none() {
            return Ok(true);
        }
        let done = self.drive(state, running)?.bytes;
        if let Some(limit) = state.config.compaction_bytes_per_second {
            let nanos = u128::from(done) * 1_000_000_000 / u128::from(limit);
            let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            running.not_before = now.max(running.not_before).saturating_add(wait);
        }
        Ok(true)
    }

    /// Frees removed memory and files, and removes the files that passes have left.
    fn take_back(&self, state: &State) {
        // The next pass needs it gone, and reports an error if it is not.
        drop(state.shared.remove_leftovers());
        state.collect_removed();
    }

    /// Returns the time that the bandwidth limit delays the next step, if there is one.
    pub(crate) fn due(&self, state: &State) -> Option<Duration> {
        let running = self.running.try_lock()?;
        let wait = running.not_before.saturating_sub(state.shared.dir.now());
        (running.pass.is_some() && !wait.is_zero()).then_some(wait)
    }

    /// Begins a pass if one is due. Returns true if it did any work.
    fn look(&self, state: &State, running: &mut CompactorState, now: Duration, whole: Whole) -> Result<bool> {
        let looked =
            LastSurvey { when: now, last: state.seqlock.last(), active: state.allocator.active_id() };
        if running.looked.is_some_and(|before| !looked.is_worth_it(before)) {
            return Ok(false);
        }
        running.looked = Some(looked);
        let survey = self.survey(state, &running.damaged);
        let begun = match survey.decide() {
            Decision::Sync { .. } => {
                running.ahead = Some(state.syncer.pieces(state));
                true
            }
            decision => self.begin(state, running, &survey, decision, whole)?,
        };
        if begun {
            running.looked = None;
        }
        Ok(begun)
    }

    /// Carries out a decision, as far as one step goes.
    fn begin(
        &self,
        state: &State,
        running: &mut CompactorState,
        survey: &SegmentSurvey,
        decision: Decision,
        whole: Whole,
    ) -> Result<bool> {
        running.ahead = None;
        match decision {
            Decision::Nothing => return Ok(false),
            Decision::Sync { .. } => {
                state.sync()?;
                state.seal()?;
            }
            Decision::Compact { victims, reason } => {
                // Leftover files that repeat a victim must be removed before the victim is.
                if state.shared.remove_leftovers()? {
                    state.shared.sync_dir()?;
                }
                let mut pass = self.new_pass(state, survey, &victims, reason, whole);
                pass.file_max = state.config.segment_bytes;
                running.pass = Some(pass);
            }
        }
        Ok(true)
    }

    fn new_pass(
        &self,
        state: &State,
        survey: &SegmentSurvey,
        victims: &[SegmentId],
        reason: CompactionReason,
        _whole: Whole,
    ) -> Pass {
        let horizon = survey.horizon(victims);
        let victims = survey.costs(victims).filter_map(|(facts, cost)| {
            let segment = state.shared.segments.read().get(&facts.id).map(Arc::clone)?;
            let end = segment.data_offset() + facts.used;
            Some(Victim { segment, end, last: facts.last, footprint: facts.footprint, cost })
        });
        let victims: Vec<_> = victims.collect();
        let names = self.names_size(state);
        // Under the mutex every number up to this one is in the index.
        let filtered = state.writer.lock().log.last_user();
        crate::trace::compaction_begun(victims.len(), victims.iter().map(|victim| victim.footprint).sum());
        Pass::new(victims, reason, filtered, horizon, names)
    }

    /// Returns the bytes of the records that name the keyspaces.
    fn names_size(&self, state: &State) -> u64 {
        let named = |keyspace: &Arc<KeyspaceState>| {
            record_size((keyspace.name().len() + keyspace.codec().len() + 1) as u64)
        };
        state.catalog.all().iter().map(named).sum()
    }

    /// Does a step of the pass under way.
    fn drive(&self, state: &State, running: &mut CompactorState) -> Result<StepOutcome> {
        let Some(pass) = &mut running.pass else { return Ok(StepOutcome::default()) };
        let before = pass.report.bytes_read + pass.report.bytes_moved;
        if let Err(error) = self.step_pass(state, pass) {
            // None of these errors goes away by itself, and there are other victims.
            let lasts = matches!(
                error,
                Error::Corrupt { .. }
                    | Error::MissingSegment { .. }
                    | Error::ForeignFile { .. }
                    | Error::TooNew { .. }
            );
            if lasts {
                running.damaged.extend(pass.suspects());
            }
            if let Some(pass) = running.pass.take_if(|pass| pass.can_give_up()) {
                self.give_up_pass(state, pass);
            }
            return Err(error);
        }
        let report = pass.report;
        let bytes = report.bytes_read + report.bytes_moved - before;
        if pass.is_done() {
            self.passes.add(1);
            self.removed.add(report.segments_removed);
            self.moved.add(report.bytes_moved);
            self.freed.add(report.bytes_freed);
            crate::trace::compaction_ended(
                report.segments_removed,
                report.bytes_read,
                report.bytes_moved,
                report.bytes_freed,
            );
            if running.lent > 0 && pass.reason == CompactionReason::Requested {
                running.ended.add(&report);
            }
            running.pass = None;
            running.looked = None;
            state.note_growth();
            return Ok(StepOutcome { bytes, finished: Some(report) });
        }
        Ok(StepOutcome { bytes, finished: None })
    }

    /// Compacts every segment that holds dead records.
    ///
    /// # Errors
    ///
    /// See [`Store::compact`](crate::Store::compact).
    pub(crate) fn compact(
        &self,
        state: &State,
        mut progress: impl FnMut(CompactionProgress) -> bool,
    ) -> Result<CompactionReport> {
        let begun = state.shared.dir.now();
        let mut total = CompactionReport::default();
        let (mut running, asked) = self.lock_asked(state)?;
        if state.is_active_dirty() {
            state.roll()?;
        }
        state.flush()?;
        let limit = state.shared.manifest.next_segment();
        for second in [false, true] {
            // The first round's copies may keep tombstones that no other segment needs any more.
            // Later segments are left: beside a writer that removes, the rounds would never end.
            let end = if second { state.shared.manifest.next_segment() } else { limit };
            let wanted = |facts: &SegmentFacts, held: u64| {
                let is_left = facts.id > limit && facts.counted.tombstones > 0 && held == 0;
                facts.id < end && (!second || is_left)
            };
            loop {
                state.check_writable()?;
                let survey = self.survey(state, &running.damaged).with_recent();
                let decision = survey.decide_all(wanted);
                if !self.begin(state, &mut running, &survey, decision, asked.whole)? {
                    break;
                }
                while running.pass.is_some() {
                    match self.drive_asked(state, &mut running, &mut total, &mut progress) {
                        Ok(ControlFlow::Continue(())) => {}
                        Ok(ControlFlow::Break(())) => {
                            total.elapsed = state.shared.dir.now().saturating_sub(begun);
                            return Ok(total);
                        }
                        Err(refused)
                            if self.finds_room(state, &mut running, &refused, &mut total, asked.whole)? => {}
                        Err(other) => return Err(other),
                    }
                }
            }
        }
        running.looked = None;
        total.elapsed = state.shared.dir.now().saturating_sub(begun);
        Ok(total)
    }

    /// Runs one pass over exactly these segments, as far as they are sealed, even if no policy
    /// would choose them.
    ///
    /// # Errors
    ///
    /// The errors of [`Compactor::compact`].
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn compact_segments(
        &self,
        state: &State,
        ids: &[u64],
        mut progress: impl FnMut(CompactionProgress) -> bool,
    ) -> Result<CompactionReport> {
        let (mut running, asked) = self.lock_asked(state)?;
        let wanted: Vec<_> = ids.iter().copied().map(SegmentId).collect();
        let survey = self.survey(state, &running.damaged).with_recent();
        let sealed = survey.costs(&wanted).filter(|(facts, _)| facts.stage == policy::SegmentStage::Sealed);
        let victims: Vec<_> = sealed.map(|(facts, _)| facts.id).collect();
        let mut total = CompactionReport::default();
        if victims.is_empty() {
            return Ok(total);
        }
        running.pass =
            Some(self.new_pass(state, &survey, &victims, CompactionReason::Requested, asked.whole));
        while running.pass.is_some()
            && self.drive_asked(state, &mut running, &mut total, &mut progress)?.is_continue()
        {}
        Ok(total)
    }

    /// Takes the lock for a call that compacts everything, and ends the worker's pass.
    fn lock_asked(&self, state: &State) -> Result<(MutexGuard<'_, CompactorState>, Requested<'_>)> {
        // Before any lock, here and in every public call: threads of a forked child's parent may
        // hold them all.
        state.fork_guard.check()?;
        let whole = state.load_all()?;
        let mut running = self.running.lock();
        // Relaxed: see `Requested`.
        if self.asked.load(Ordering::Relaxed) == 0 {
            // Left by a call that ended with an error, or a panic in its callback.
            running.lent = 0;
            running.ended = CompactionReport::default();
        }
        let asked = Requested::of(self, whole);
        // This call syncs it.
        running.ahead = None;
        state.check_writable()?;
        // Not earlier: the store may have been closed, and may be another process's by now.
        state.resume()?;
        state.shared.manifest.begin()?;
        // The worker's pass is not this call's work, but its victims are.
        while running.pass.is_some() {
            self.drive(state, &mut running)?;
        }
        Ok((running, asked))
    }

    /// Does one step, and reports it. Breaks if the caller wants to stop.
    fn drive_asked(
        &self,
        state: &State,
        running: &mut MutexGuard<'_, CompactorState>,
        total: &mut CompactionReport,
        progress: &mut impl FnMut(CompactionProgress) -> bool,
    ) -> Result<ControlFlow<()>> {
        let pass = running.pass.as_ref().expect("the caller has looked");
        let mut so_far = *total;
        so_far.add(&pass.report);
        let now = CompactionProgress {
            passes: total.passes,
            bytes_read: so_far.bytes_read,
            bytes_moved: so_far.bytes_moved,
            bytes_left: pass.bytes_left(),
        };
        running.lent += 1;
        // The callback runs without the lock: it may write, and a write may need a pass to free
        // space.
        let go_on = MutexGuard::unlocked(running, || progress(now));
        running.lent = running.lent.saturating_sub(1);
        total.add(&std::mem::take(&mut running.ended));
        // The callback may have closed the store.
        state.check_writable()?;
        // The pass may be another one by now, or none.
        let Some(pass) = &running.pass else {
            return Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
        };
        let is_asked = pass.reason == CompactionReason::Requested;
        if !go_on
            && is_asked
            && let Some(pass) = running.pass.take_if(|pass| pass.can_give_up())
        {
            self.give_up_pass(state, pass);
        }
        // Only this call drives a pass that a writer began and left: the worker stands aside for
        // it.
        if !go_on && (!is_asked || running.pass.is_none()) {
            return Ok(ControlFlow::Break(()));
        }
        let lent = std::mem::take(&mut running.lent);
        let driven = self.drive(state, running);
        running.lent = lent;
        if let Some(report) = driven?.finished {
            total.add(&report);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Gives up the pass under way, or finishes it if the manifest knows it. The store is being
    /// closed.
    pub(crate) fn end(&self, state: &State) {
        let mut running = self.running.lock();
        while running.pass.as_ref().is_some_and(|pass| !pass.can_give_up()) {
            if self.drive(state, &mut running).is_err() {
                // The next open removes the files that are left.
                break;
            }
        }
        // A pass that the manifest knows stays: no checkpoint may begin within it.
        if let Some(pass) = running.pass.take_if(|pass| pass.can_give_up()) {
            self.give_up_pass(state, pass);
        }
    }

    /// Returns the results of compaction so far, and its next choice.
    pub(crate) fn stats(&self, state: &State) -> CompactionStats {
        let (running, damaged) = match self.running.try_lock() {
            Some(running) => (running.pass.is_some(), running.damaged.clone()),
            None => (true, BTreeSet::new()),
        };
        let survey = self.survey(state, &damaged);
        let (next_segment, next_reason) = match survey.decide() {
            Decision::Nothing => (None, None),
            Decision::Compact { victims, reason } => (victims.first().copied(), Some(reason)),
            Decision::Sync { victim, reason } => (Some(victim), Some(reason)),
        };
        CompactionStats {
            passes: self.passes.get(),
            segments_removed: self.removed.get(),
            bytes_moved: self.moved.get(),
            bytes_freed: self.freed.get(),
            running,
            freeable_bytes: survey.freeable(),
            retained_tombstone_bytes: survey.kept(),
            next_segment: next_segment.map(|id| id.0),
            next_reason,
            damaged_segments: damaged.len(),
        }
    }
}
