//! Room: for writers who find none, on a disk that is full, and in a store that has become small.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Driven;
use crate::engine::Engine;
use crate::engine::compaction::policy::{Decision, Survey};
use crate::engine::compaction::report::CompactionReport;
use crate::engine::compaction::state::{Running, Wish};
use crate::engine::write::Due;
use crate::error::{Error, Resource, Result};
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

impl Engine {
    /// Whether a write that found no room may be tried again: compaction has made some, or a removal gets what is kept for
    /// that.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or `DiskLimit` where it cannot. What else stops a pass is not this write's affair: it gets its own error.
    #[cold]
    pub(crate) fn makes_room(&self, error: &Error, wish: &mut Wish) -> Result<bool> {
        if matches!(error, Error::Exhausted { resource: Resource::Descriptors, .. }) {
            return self.gives_back_descriptors();
        }
        let Some(lack) = Lack::of(error) else { return Ok(false) };
        self.load_all()?;
        let before = match error {
            Error::DiskLimit { used, .. } => *used,
            _ => 0,
        };
        // What was removed before keeps its blocks until it is collected; readers say nothing when they go.
        if self.counted() < before {
            return Ok(true);
        }
        if self.config.compaction {
            let mut running = self.compaction.running.lock();
            self.check_writable()?;
            // Somebody may have made room since.
            if self.counted() < before {
                return Ok(true);
            }
            // Twice: what is under way may have begun before there was something better to do.
            for _ in 0..2 {
                let passed = match lack {
                    Lack::Limit => self.pass_for_room(&mut running).map(|()| self.counted() < before),
                    _ => self.pass_on_full_disk(&mut running, lack, wish.removes()).map(|won| won.is_some()),
                };
                match passed {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) => {
                        self.shared.commit.check()?;
                        crate::trace::helper_failed(&error);
                    }
                }
            }
        }
        if let Error::DiskLimit { needed, .. } = error {
            // With what is used and held now.
            return Err(self.provision.refusal(*needed));
        }
        Ok(wish.insist())
    }

    /// What counts against the limit now.
    fn counted(&self) -> u64 {
        self.take_back();
        self.provision.counted()
    }

    /// Ends the pass under way, or begins and ends one that gives back room.
    fn pass_for_room(&self, running: &mut Running) -> Result<()> {
        while running.job.is_none() {
            let survey = self.survey(&running.damaged);
            if !self.begin(running, &survey, survey.decide_room())? {
                return Ok(());
            }
        }
        while running.job.is_some() {
            self.drive(running)?;
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
        running: &mut Running,
        refused: &Error,
        total: &mut CompactionReport,
    ) -> Result<bool> {
        let Some(lack) = Lack::of(refused) else { return Ok(false) };
        if self.gives_up_ready(refused)? {
            return Ok(true);
        }
        let won = self.pass_on_full_disk(running, lack, true)?;
        won.iter().for_each(|report| total.add(report));
        Ok(won.is_some())
    }

    /// Gives up what was made for later, where that is what a pass was refused; whether something came back.
    fn gives_up_ready(&self, refused: &Error) -> Result<bool> {
        if Lack::of(refused).is_none() || self.provision.give_up_ready(&self.shared)? == 0 {
            return Ok(false);
        }
        // A file is there as long as it is mapped.
        self.collect_removed();
        Ok(true)
    }

    /// Makes the full segments durable, each of which keeps its descriptor until then; whether there were any.
    ///
    /// # Errors
    ///
    /// `Poisoned`, or what the operating system says.
    fn gives_back_descriptors(&self) -> Result<bool> {
        if self.writer.lock().log.full_count() == 0 {
            return Ok(false);
        }
        self.shared.commit.run(|| self.sync_once())?;
        self.seal()
    }

    /// As before, where the pass finds room on the disk only for little; what it did, if there was one.
    ///
    /// What is given up for it is not won by it, so that what the segments take says nothing here.
    fn pass_on_full_disk(
        &self,
        running: &mut Running,
        lack: Lack,
        urgent: bool,
    ) -> Result<Option<CompactionReport>> {
        let segment_bytes = self.config.segment_bytes;
        let room = self.provision.scarce(&self.shared);
        let mut room = room.map_or(segment_bytes, |room| room.for_pass(segment_bytes));
        loop {
            let survey = self.survey(&running.damaged);
            if running.job.is_none() {
                let names = self.names_size();
                let decision = match lack {
                    Lack::Files => survey.decide_fewer(room, names, urgent),
                    _ => survey.decide_fitting(room, names, urgent),
                };
                if !self.begin(running, &survey, decision)? {
                    return Ok(None);
                }
                if let Some(job) = &mut running.job {
                    job.file_max = u64::MAX;
                }
            }
            while running.job.is_some() {
                match self.drive(running) {
                    // What was made for later is room for now.
                    Err(refused) if self.gives_up_ready(&refused)? => break,
                    // There is less than was said.
                    Err(Error::NoSpace { .. }) if room >= 2 * PAGE_SIZE as u64 => {
                        room /= 2;
                        break;
                    }
                    Err(other) => return Err(other),
                    Ok(Driven { finished: Some(report), .. }) => return Ok(Some(report)),
                    Ok(_) => {}
                }
            }
        }
    }

    /// Takes note whether the log has grown beyond what it may be while writes go on.
    pub(crate) fn note_growth(&self) {
        let behind = self.provision.used() > self.growth_bound();
        // Relaxed: advice.
        self.compaction.behind.store(behind, Ordering::Relaxed);
    }

    /// Has a writer help, where the log has grown beyond that.
    #[inline]
    pub(crate) fn keep_pace(&self, due: Due) {
        // Relaxed: advice.
        if due.pace && self.compaction.behind.load(Ordering::Relaxed) {
            self.help();
        }
    }

    #[cold]
    fn help(&self) {
        if !self.config.compaction || self.bell.is_unattended() || self.imaging.is_loading() {
            return;
        }
        // Where the background is at it, this waits for it, the longer the further the log is beyond its bound: that is
        // what slows the writer.
        let beyond = || self.provision.used().saturating_sub(self.growth_bound()) / self.config.segment_bytes;
        let until = self.shared.dir.now().saturating_add(STOP);
        let few = u32::try_from(beyond().min(BEYOND_MAX)).unwrap_or(u32::MAX);
        // Relaxed: advice. Whoever compacts all there is is as fast as can be, and may be the one who writes.
        let stops = u64::from(few) == BEYOND_MAX && self.compaction.asked.load(Ordering::Relaxed) == 0;
        let patience = if stops { STOP } else { PACE.saturating_mul(1 + few) };
        let Some(mut running) = self.compaction.running.try_lock_for(patience) else { return };
        loop {
            // A store that was closed meanwhile is not to be written to.
            match self.check_writable().and_then(|()| self.step_running(&mut running)) {
                Ok(true) => {}
                Ok(false) => return,
                // The write has succeeded; whoever drives the pass next will meet the same.
                Err(error) => return crate::trace::helper_failed(&error),
            }
            if beyond() < BEYOND_MAX || self.shared.dir.now() >= until {
                return;
            }
        }
    }

    /// What the log may take while writes go on.
    fn growth_bound(&self) -> u64 {
        self.limits().under_load(self.catalog.live_bytes())
    }

    /// Whether what is written to next is out of proportion to what is alive.
    pub(crate) fn is_outgrown(&self) -> bool {
        let live = self.catalog.live_bytes();
        let most = OUTGROWN * (live + self.limits().slack);
        self.provision.open_bytes() > most
    }

    /// Goes on in another segment, and makes the one before durable.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `Poisoned`, or what the operating system says.
    pub(crate) fn roll(&self) -> Result<()> {
        {
            let mut writer = self.writer.lock();
            self.check_writable()?;
            writer.log.roll_now(&self.shared, &self.provision)?;
            self.note_position(&writer);
        }
        self.shared.commit.run(|| self.sync_once())?;
        self.seal().map(drop)
    }

    /// Whether the active segment holds something that compaction could take out.
    pub(crate) fn is_active_dirty(&self) -> bool {
        let writer = self.writer.lock();
        let counted = writer.log.position().0.mapping().tally().counted();
        counted.hidden > 0 || counted.tombstones > 0
    }

    /// Removes what is dead altogether, however little it is; and where nothing is alive, ends the active segment too.
    ///
    /// # Errors
    ///
    /// What stopped it.
    pub(crate) fn compact_at_rest(&self) -> Result<bool> {
        let Some(mut running) = self.compaction.running.try_lock().filter(|_| !self.imaging.is_loading())
        else {
            return Ok(false);
        };
        // Relaxed: as in `Asked`.
        if running.job.is_some() || self.compaction.asked.load(Ordering::Relaxed) > 0 {
            // Its turn comes with the next step; the limit on bandwidth may keep it waiting.
            return Ok(false);
        }
        if self.catalog.live_bytes() == 0 && self.is_active_dirty() {
            // As if it were new.
            self.provision.give_up_ready(&self.shared)?;
            self.roll()?;
            return Ok(true);
        }
        let survey = self.survey(&running.damaged);
        let decision = survey.decide_dead();
        self.begin(&mut running, &survey, decision)
    }

    /// Takes care at once of what many processes that died have left: each may die again before its background gets to it.
    ///
    /// # Errors
    ///
    /// `Poisoned`, where what was read cannot be made durable.
    pub(crate) fn tidy_up(&self) -> Result<()> {
        let (count, bytes) = {
            let unproven = self.unproven.lock();
            (unproven.len(), unproven.iter().map(|range| range.to - range.from).sum::<u64>())
        };
        if !self.config.compaction || count < UNPROVEN_MAX || bytes > UNPROVEN_BYTES {
            return Ok(());
        }
        self.shared.commit.run(|| self.sync_once())?;
        self.seal()?;
        self.load_all()?;
        let mut running = self.compaction.running.lock();
        loop {
            let survey: Survey = self.survey(&running.damaged);
            let decision = survey.decide_small();
            if decision == Decision::Nothing || !self.begin(&mut running, &survey, decision)? {
                return Ok(());
            }
            while running.job.is_some() {
                if let Err(error) = self.drive(&mut running) {
                    // The store is as good as before; the background tries again.
                    self.shared.commit.check()?;
                    crate::trace::helper_failed(&error);
                    return Ok(());
                }
            }
        }
    }
}
