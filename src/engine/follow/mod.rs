//! Following: an engine that applies the log of another process instead of writing one.
//!
//! A follower has the state of a store, so everything that reads works on it unchanged. Its indexes
//! are its own. Its segments are read-only mappings of the writer's files. It takes no
//! lock, and writes nothing but requests to be woken. So a follower that is stopped costs the writer
//! nothing but the disk space of removed files that it has mapped.
//!
//! **Order of a refresh.**
//!
//! 1. Compare the generation on the control page with that of the manifest at hand. If a newer one
//!    was announced, read the manifest and map the segments that are new in it.
//! 2. Apply the log to its end.
//! 3. If the manifest was read, lead the index to the new copies, and let go of the segments that
//!    the manifest no longer names.
//!
//! **Exactness.** A pass leaves a record out only if a later record hides it. The log is durable up
//! to that later record before the manifest names the copies. So step 2, which comes after the
//! manifest was read, applies the later record. Then every entry that leads to a replaced segment is
//! of a record that was copied. Its copy has the same number, and step 3 finds it. The counts of
//! live bytes prove that no such entry is left.
//!
//! With the steps in another order, the later record could be missed, and an entry would lead to a
//! segment that is let go (I15).
//!
//! **Gaps.** If the next part of the log is gone, the store is read anew (`jump`).
//!
//! **Concurrency.** A refresh holds the follower's own lock, and the writer mutex for short times,
//! as writes do. Reads go on. Lock order: the lock of the follower, then the writer mutex.

mod apply;
mod continuation;
mod copies;
mod jump;
pub(super) mod log_tail;
mod take_manifest;
pub(crate) mod wait;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::apply::Applier;
use self::continuation::Continuation;
use self::copies::NewCopies;
use self::log_tail::{LogTail, is_published};
use self::wait::Waiter;
use crate::engine::Engine;
use crate::engine::moment::Moment;
use crate::error::{Error, Result};
use crate::format::control_page::WriterStatus;
use crate::format::file_name;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::segment_header::Role;
use crate::format::{SegmentId, Seq};
use crate::fs::Misplaced;
use crate::log::control_page::{ControlReader, ControlState};
use crate::log::segment::Segment;
use crate::recovery::Recovered;
use crate::recovery::attach::{Attached, LogPlace};

/// The number of units that are applied while the writer mutex is held once.
const GROUP: usize = 64;
/// The most times that a refresh begins again because the manifest has changed.
const ATTEMPTS: usize = 1000;
/// The time between two checks of the store's place while a writer has it open.
const CHECK_SPACING: Duration = Duration::from_secs(1);

/// The result of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refreshed {
    /// The number of the last record that the follower shows, the log's own included. It is at least
    /// that of the last write.
    pub seq: Seq,
    /// The number of records that were applied, the log's own included.
    pub records: u64,
    /// The number of insertions and removals among them.
    pub writes: u64,
    /// The number of the last of them that is not the log's own. `None` if there is none.
    pub last_write: Option<Seq>,
    /// The size of these records in bytes, headers included.
    pub bytes: u64,
    /// True if a part of the log was gone, and the store was read anew.
    pub jumped: bool,
}

/// The place of a follower in the log of the store.
#[derive(Debug)]
pub(crate) struct Following {
    inner: Mutex<Inner>,
    /// The control page for questions that do not wait for a refresh.
    page: Mutex<Option<ControlReader>>,
    waiter: Waiter,
}

#[derive(Debug)]
struct Inner {
    /// The writer's control page. `None` if the store was never opened.
    control: Option<ControlReader>,
    /// The nonce of the writer that announced the manifest.
    nonce: Option<u64>,
    /// The manifest that was read last.
    manifest: Manifest,
    /// The generation of the manifest with which the whole store was read.
    whole_at: u64,
    place: Option<LogPlace>,
    /// The last segment before the place that holds a user's record, and its end. After a kill, a
    /// segment without such a record is removed, and the log continues here.
    before: Option<(SegmentId, u64)>,
    /// Copies that the index does not lead to yet.
    copies: Vec<NewCopies>,
    /// The segments of the log that were not reached yet.
    ahead: Vec<Arc<Segment>>,
    /// True if the manifest at hand may no longer name a segment that is mapped.
    must_let_go: bool,
    /// True if other files are in place of the store's, which no refresh has read yet.
    are_files_new: bool,
    /// The words of the control page before its contents were read last.
    words: Option<[u64; 3]>,
    /// The words with which the last refresh found the manifest at hand to be the announced one.
    seen: Option<[u64; 3]>,
    /// The time of the last check of the store's place, by the store's clock.
    checked: Option<Duration>,
}

impl Following {
    /// Splits an attached store into an engine's part, and the place from which to follow.
    pub(crate) fn of(attached: Attached, is_guarded: bool) -> (Recovered, Self) {
        let Attached { recovered, manifest, place, before } = attached;
        let segments = recovered.shared.segments.read();
        let mut inner = Inner {
            control: None,
            nonce: None,
            whole_at: manifest.generation,
            manifest,
            place,
            before,
            copies: Vec::new(),
            ahead: Vec::new(),
            must_let_go: false,
            are_files_new: false,
            words: None,
            seen: None,
            checked: None,
        };
        inner.ahead = ahead_of(segments.values());
        drop(segments);
        let waiter = Waiter::new(Arc::clone(&recovered.shared.dir), is_guarded);
        (recovered, Self { inner: Mutex::new(inner), page: Mutex::default(), waiter })
    }

    /// Applies everything that is in the log.
    ///
    /// # Errors
    ///
    /// See [`Follower::refresh`](crate::Follower::refresh).
    pub(crate) fn refresh(&self, engine: &Engine) -> Result<Refreshed> {
        engine.fork_guard.check()?;
        self.inner.lock().refresh(engine)
    }

    /// Refreshes, and returns the moment of the store that is shown then.
    ///
    /// # Errors
    ///
    /// The errors of [`Following::refresh`].
    pub(crate) fn moment(&self, engine: &Engine) -> Result<Moment> {
        engine.fork_guard.check()?;
        // Under one lock: a refresh that fails may leave the log behind the manifest.
        let mut inner = self.inner.lock();
        let last = inner.refresh(engine)?.seq;
        let segments = engine.shared.segments.read();
        let moment = Moment::of(inner.manifest.clone(), last, &segments, |segment, _| {
            // Published to the end of the log, and in a segment that was not reached not at all.
            segment.mapping().published()
        });
        moment.map_err(|id| {
            let path = engine.shared.dir.path().join(file_name::segment(id));
            Error::MissingSegment { path }
        })
    }

    /// Returns the status of the store's writer, and the number up to which it calls the log
    /// durable. It does not wait for a refresh.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn writer(&self, engine: &Engine) -> Result<(WriterStatus, Seq)> {
        engine.fork_guard.check()?;
        let dir = engine.shared.dir.as_ref();
        let mut page = self.page.lock();
        if page.as_ref().is_none_or(|page| !page.is_in_place(dir).unwrap_or(false)) {
            *page = ControlReader::open(dir, engine.config.sigbus_guard)?;
        }
        let state = page.as_ref().and_then(|page| page.state(engine.shared.store));
        drop(page);
        let boot_id = dir.boot_id().unwrap_or([0; 16]);
        let of_this_boot = state.filter(|state| state.header.boot_id == boot_id);
        let durable = of_this_boot.and_then(|state| state.durable).unwrap_or(Seq::ZERO);
        let status = state.map_or(WriterStatus::Unknown, |state| state.status);
        Ok((status, durable.max(engine.shared.manifest.read(|manifest| manifest.durable))))
    }
}

/// Returns the segments of the log without a published record.
fn ahead_of<'s>(segments: impl Iterator<Item = &'s Arc<Segment>>) -> Vec<Arc<Segment>> {
    let is_ahead =
        |segment: &&Arc<Segment>| segment.role() == Role::Log && segment.mapping().published() == 0;
    segments.filter(is_ahead).map(Arc::clone).collect()
}

impl Inner {
    /// Applies everything that is in the log.
    fn refresh(&mut self, engine: &Engine) -> Result<Refreshed> {
        let mut refreshed =
            Refreshed { seq: Seq::ZERO, records: 0, writes: 0, last_write: None, bytes: 0, jumped: false };
        self.check_place(engine)?;
        if self.are_files_new {
            self.jump(engine)?;
            (self.are_files_new, refreshed.jumped) = (false, true);
        }
        let mut is_done = refreshed.jumped || self.is_as_seen() && self.follow_log(engine, &mut refreshed)?;
        let mut left = ATTEMPTS;
        while !is_done {
            is_done = self.follow_store(engine, &mut refreshed)?;
            left -= 1;
            // A newer manifest may lead on.
            if !is_done && (left == 0 || self.newest(engine, 0)?.generation <= self.manifest.generation) {
                // The store is read after this call began, so nothing is missing.
                self.jump(engine)?;
                (is_done, refreshed.jumped) = (true, true);
            }
            // The manifest may have been read, and then the segments are others.
            engine.allocator.recount(&engine.shared);
        }
        self.collect(engine);
        refreshed.seq = engine.last_seq();
        Ok(refreshed)
    }

    /// Returns the state of the control page. `None` if there is none, or a writer is opening the
    /// store.
    fn control(&mut self, engine: &Engine) -> Result<Option<ControlState>> {
        if self.control.is_none() {
            self.control = ControlReader::open(engine.shared.dir.as_ref(), engine.config.sigbus_guard)?;
        }
        // Before the contents: a later glance shows if they have changed.
        self.words = self.glance();
        Ok(self.control.as_ref().and_then(|page| page.state(engine.shared.store)))
    }

    fn glance(&self) -> Option<[u64; 3]> {
        self.control.as_ref().map(ControlReader::glance)
    }

    /// Returns true if a writer has the store open, and the manifest at hand is the announced one.
    fn is_as_seen(&self) -> bool {
        self.seen.is_some_and(|seen| {
            self.glance() == Some(seen) && WriterStatus::from_word(seen[0]) == WriterStatus::Open
        })
    }

    /// Checks from time to time that the store is still in its place: while a writer has it open and
    /// announces nothing, once a second, and otherwise always.
    ///
    /// # Errors
    ///
    /// `Replaced`, and errors of the operating system.
    fn check_place(&mut self, engine: &Engine) -> Result<()> {
        let dir = engine.shared.dir.as_ref();
        let now = dir.now();
        if self.is_as_seen()
            && self.checked.is_some_and(|checked| now.saturating_sub(checked) < CHECK_SPACING)
        {
            return Ok(());
        }
        self.checked = Some(now);
        if matches!(dir.check_place(), Err(Misplaced::Removed | Misplaced::Replaced)) {
            return Err(self.replaced(engine));
        }
        if let Some(page) = &self.control
            && !page.is_in_place(dir)?
        {
            // No writer replaces it. An earlier state of the store may have been put back, whose
            // segments have the same numbers and nonces.
            (self.control, self.nonce, self.are_files_new) = (None, None, true);
            // Without a page, too, the manifest says which store is there.
            self.newest(engine, 0)?;
        }
        Ok(())
    }

    /// Returns true if there may be a newer manifest than the one at hand.
    fn is_new(&self, state: Option<&ControlState>) -> bool {
        // Without a page that can be read, only the manifest tells.
        state.is_none_or(|state| {
            state.generation > self.manifest.generation || self.nonce != Some(state.header.writer_nonce)
        })
    }

    /// Follows the store once: manifest, log, copies. Returns false if that did not lead to the end
    /// of the log.
    ///
    /// # Errors
    ///
    /// The errors of a refresh.
    fn follow_store(&mut self, engine: &Engine, refreshed: &mut Refreshed) -> Result<bool> {
        let state = self.control(engine)?;
        let words = self.words;
        let dir = engine.shared.dir.as_ref();
        dir.reader_point("follow-compared");
        let is_known = !self.is_new(state.as_ref()) || self.take_manifest(engine, state.as_ref())?;
        dir.reader_point("follow-mapped");
        if !is_known || !self.follow_log(engine, refreshed)? {
            return Ok(false);
        }
        dir.reader_point("follow-applied");
        self.use_copies(engine)?;
        if self.must_let_go && !self.let_go(engine) {
            return Ok(false);
        }
        self.seen = words.filter(|_| state.is_some());
        Ok(true)
    }

    /// Applies the log from the place to its end. Returns false if its next part is gone.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the log is damaged.
    fn follow_log(&mut self, engine: &Engine, refreshed: &mut Refreshed) -> Result<bool> {
        loop {
            match self.follow_segment(engine, refreshed) {
                Err(damage @ Error::Corrupt { .. }) if self.may_end_here() => {
                    match self.judge_damage(engine, damage) {
                        Err(Error::Corrupt { .. }) => self.follow_segment(engine, refreshed)?,
                        end => return end,
                    }
                }
                other => other?,
            }
            engine.shared.dir.reader_point("follow-segment");
            match self.continuation(engine)? {
                Continuation::LookAgain => {}
                Continuation::None => {
                    let damage = self.damaged_start()?;
                    return damage.map_or(Ok(true), |damage| self.judge_damage(engine, damage));
                }
                Continuation::Gap => return Ok(false),
                Continuation::Found(segment) => {
                    self.ahead.retain(|ahead| !Arc::ptr_eq(ahead, &segment));
                    if let Some(place) = self.place.take().filter(|place| place.is_used) {
                        self.before = Some((place.segment.id(), place.offset));
                    }
                    let offset = segment.data_offset();
                    self.place = Some(LogPlace { segment, offset, last: None, is_used: false });
                }
            }
        }
    }

    /// Decides about damage at the end of what was read. Returns true if the log may end there, and
    /// false if a newer manifest may lead on.
    ///
    /// # Errors
    ///
    /// The damage, and errors of the operating system.
    fn judge_damage(&mut self, engine: &Engine, damage: Error) -> Result<bool> {
        let state = self.control(engine)?;
        if state.is_some() && self.is_new(state.as_ref()) {
            // A recovery may have cut the log here.
            return Ok(false);
        }
        // A power cut leaves damage at the end, and the next writer cuts the log there.
        if self.may_have_writer(engine) { Err(damage) } else { Ok(true) }
    }

    /// Applies the rest of the present segment.
    fn follow_segment(&mut self, engine: &Engine, refreshed: &mut Refreshed) -> Result<()> {
        let has_ended = self.has_ended();
        let Some(place) = &mut self.place else { return Ok(()) };
        if has_ended || !is_published(&place.segment, place.offset)? {
            // Behind the end of a segment that a recovery cut, torn bytes may lie.
            return Ok(());
        }
        let segment = Arc::clone(&place.segment);
        let mut tail = LogTail::new(&segment, place.offset, place.last);
        let mut units = Vec::with_capacity(GROUP);
        loop {
            let stopped = tail.read_some(&mut units, GROUP);
            let pin = engine.pin();
            let mut applier = Applier::lock(engine);
            applier.prefetch(&segment, &units, &pin);
            for unit in units.drain(..) {
                applier.apply(&segment, &unit, &pin)?;
                refreshed.bytes += unit.end() - place.offset;
                (place.offset, place.last) = (unit.end(), Some(unit.last()));
                if unit.is_used() {
                    place.is_used = true;
                    refreshed.last_write = Some(unit.last());
                }
                refreshed.records += unit.records();
                refreshed.writes += unit.changes().count() as u64;
            }
            if stopped? {
                return Ok(());
            }
        }
    }

    /// Returns true if the place is the end of a segment that is never appended to again.
    fn has_ended(&self) -> bool {
        let Some(place) = &self.place else { return false };
        let entry = self.manifest.segment(place.segment.id());
        entry.is_some_and(|entry| entry.state != SegmentState::Open && entry.end <= place.offset)
    }

    /// Returns true unless the manifest knows that the log continues behind the place.
    fn may_end_here(&self) -> bool {
        let Some(place) = &self.place else { return true };
        let entry = self.manifest.segment(place.segment.id());
        entry.is_none_or(|entry| entry.end <= place.offset)
    }

    /// Returns true if a writer may have the store open.
    fn may_have_writer(&self, engine: &Engine) -> bool {
        let shared = &engine.shared;
        self.control.as_ref().is_some_and(|page| page.may_have_writer(shared.dir.as_ref(), shared.store))
    }

    /// Frees what no reader can see any more.
    fn collect(&self, engine: &Engine) {
        if engine.catalog.has_retired() {
            engine.catalog.collect();
        }
        if engine.shared.space.waits() {
            engine.shared.space.collect();
        }
    }
}
