//! Following: an engine that applies the log of another process instead of writing one.
//!
//! A follower has the state of a store, so everything that reads works on it unchanged. Its indexes
//! are its own. Its segments are read-only mappings of the writer's files. It writes nothing and
//! takes no lock, and no other process knows of it. So a follower that is stopped costs the writer
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
mod log_tail;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use self::apply::Applier;
use self::continuation::Continuation;
use self::copies::NewCopies;
use self::log_tail::{LogTail, is_published};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::control_page::WriterStatus;
use crate::format::file_name::MANIFESTS;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::segment_header::Role;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::Misplaced;
use crate::log::control_page::{ControlReader, ControlState};
use crate::log::segment::Segment;
use crate::recovery::Recovered;
use crate::recovery::attach::{Attached, LogPlace};
use crate::recovery::directory::read_manifest;

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
    /// The number of the last write that the follower shows.
    pub seq: Seq,
    /// The number of records that were applied, the log's own included.
    pub records: u64,
    /// True if a part of the log was gone, and the store was read anew.
    pub jumped: bool,
}

/// The place of a follower in the log of the store.
#[derive(Debug)]
pub(crate) struct Following {
    inner: Mutex<Inner>,
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
    /// The words of the control page before its contents were read last.
    words: Option<[u64; 3]>,
    /// The words with which the last refresh found the manifest at hand to be the announced one.
    seen: Option<[u64; 3]>,
    /// The time of the last check of the store's place, by the store's clock.
    checked: Option<Duration>,
}

impl Following {
    /// Splits an attached store into an engine's part, and the place from which to follow.
    pub(crate) fn of(attached: Attached) -> (Recovered, Self) {
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
            words: None,
            seen: None,
            checked: None,
        };
        inner.ahead = ahead_of(segments.values());
        drop(segments);
        (recovered, Self { inner: Mutex::new(inner) })
    }

    /// Applies everything that is in the log.
    ///
    /// # Errors
    ///
    /// See [`Follower::refresh`](crate::Follower::refresh).
    pub(crate) fn refresh(&self, engine: &Engine) -> Result<Refreshed> {
        engine.fork_guard.check()?;
        let mut inner = self.inner.lock();
        let (mut records, mut jumped) = (0, false);
        inner.check_place(engine)?;
        if inner.is_as_seen() && inner.follow_log(engine, &mut records)? {
            return Ok(Refreshed { seq: engine.last_seq(), records, jumped });
        }
        for _ in 0..ATTEMPTS {
            let state = inner.control(engine)?;
            let words = inner.words;
            let is_new = inner.is_new(state.as_ref());
            engine.shared.dir.reader_point("follow-compared");
            let is_known = !is_new || inner.take_manifest(engine, state.as_ref())?;
            engine.shared.dir.reader_point("follow-mapped");
            let is_whole = is_known && inner.follow_log(engine, &mut records)? && {
                engine.shared.dir.reader_point("follow-applied");
                inner.use_copies(engine)?;
                !inner.must_let_go || inner.let_go(engine)
            };
            if is_whole {
                inner.seen = words.filter(|_| state.is_some());
                return Ok(Refreshed { seq: engine.last_seq(), records, jumped });
            }
            let now = inner.control(engine)?;
            if is_known && inner.is_new(now.as_ref()) {
                // The manifest has changed since, and may lead on.
                continue;
            }
            inner.jump(engine)?;
            inner.nonce = now.map(|state| state.header.writer_nonce);
            jumped = true;
        }
        Err(inner.unsteady(engine))
    }

    /// Returns true if the writer has announced a newer manifest than the one at hand.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn is_behind(&self, engine: &Engine) -> Result<bool> {
        let mut inner = self.inner.lock();
        let state = inner.control(engine)?;
        Ok(inner.is_new(state.as_ref()))
    }

    /// Returns the status of the store's writer, and the number up to which it calls the log
    /// durable.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn writer(&self, engine: &Engine) -> Result<(WriterStatus, Seq)> {
        engine.fork_guard.check()?;
        let mut inner = self.inner.lock();
        let state = inner.control(engine)?;
        let is_of_this_boot =
            |state: &ControlState| Some(state.header.boot_id) == engine.shared.dir.boot_id();
        let durable = state.filter(is_of_this_boot).and_then(|state| state.durable).unwrap_or(Seq::ZERO);
        let status = state.map_or(WriterStatus::Unknown, |state| state.status);
        Ok((status, durable.max(inner.manifest.durable)))
    }
}

/// Returns true if a page is of a writer that opened the store in this boot of the system, and has
/// not closed it.
fn is_of_live_writer(state: &ControlState, engine: &Engine) -> bool {
    state.status == WriterStatus::Open && Some(state.header.boot_id) == engine.shared.dir.boot_id()
}

/// Returns the segments of the log without a published record.
fn ahead_of<'s>(segments: impl Iterator<Item = &'s Arc<Segment>>) -> Vec<Arc<Segment>> {
    let is_ahead =
        |segment: &&Arc<Segment>| segment.role() == Role::Log && segment.mapping().published() == 0;
    segments.filter(is_ahead).map(Arc::clone).collect()
}

impl Inner {
    /// Returns the state of the control page. `None` if there is none, or a writer is opening the
    /// store.
    fn control(&mut self, engine: &Engine) -> Result<Option<ControlState>> {
        if self.control.is_none() {
            let page = ControlReader::open(engine.shared.dir.as_ref())?;
            if let Some(page) = page.as_ref().filter(|_| engine.config.sigbus_guard) {
                page.guard();
            }
            self.control = page;
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
            (self.control, self.nonce) = (None, None);
            // Without a page, too, the manifest says which store is there.
            let now = read_manifest(dir)?;
            if now.is_none_or(|now| now.store != engine.shared.store) {
                return Err(self.replaced(engine));
            }
        }
        Ok(())
    }

    fn replaced(&self, engine: &Engine) -> Error {
        Error::Replaced { path: engine.shared.dir.path().to_owned() }
    }

    /// Returns true if there may be a newer manifest than the one at hand.
    fn is_new(&self, state: Option<&ControlState>) -> bool {
        match state {
            Some(state) => {
                state.generation > self.manifest.generation || self.nonce != Some(state.header.writer_nonce)
            }
            // Without a page there was no writer. Otherwise one is opening the store.
            None => self.control.is_some(),
        }
    }

    /// Reads the manifest, and maps the segments that are new in it. Returns false if it is older
    /// than the one at hand.
    ///
    /// # Errors
    ///
    /// `Replaced` if another store is in the directory now, the errors of [`Segment::open`], and
    /// errors of the operating system.
    fn take_manifest(&mut self, engine: &Engine, state: Option<&ControlState>) -> Result<bool> {
        // Only a live writer's word counts.
        let live = state.filter(|state| is_of_live_writer(state, engine));
        let announced = live.map_or(0, |state| state.generation);
        let dir = engine.shared.dir.as_ref();
        let mut missing = None;
        for _ in 0..ATTEMPTS {
            let read = read_manifest(dir)?;
            let Some(manifest) = read.filter(|manifest| manifest.generation >= announced) else {
                // Both copies may have been read while they were written.
                thread::yield_now();
                continue;
            };
            if manifest.store != engine.shared.store {
                return Err(self.replaced(engine));
            }
            dir.reader_point("follow-manifest");
            if manifest.generation < self.manifest.generation {
                return Ok(false);
            }
            match self.map_new(engine, &manifest) {
                Ok(()) => {
                    engine.shared.manifest.follow(manifest.clone());
                    (self.manifest, self.must_let_go) = (manifest, true);
                    self.nonce = state.map(|state| state.header.writer_nonce);
                    return Ok(true);
                }
                // Compaction has replaced it since.
                Err(error @ Error::MissingSegment { .. }) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(missing.unwrap_or_else(|| self.unsteady(engine)))
    }

    /// Maps the segments of a manifest that are not mapped yet.
    fn map_new(&mut self, engine: &Engine, manifest: &Manifest) -> Result<()> {
        let shared = &engine.shared;
        for entry in manifest.segments.iter().filter(|entry| entry.state != SegmentState::Retired) {
            if shared.segments.read().contains_key(&entry.id) {
                continue;
            }
            let segment = Segment::open(shared.dir.as_ref(), &shared.space, shared.store, entry)?;
            segment.release_file();
            if entry.role == Role::Log {
                self.ahead.push(Arc::clone(&segment));
            } else {
                segment.mapping().publish_existing(entry.end);
                let (offset, end) = (segment.data_offset(), entry.end);
                self.copies.push(NewCopies { segment: Arc::clone(&segment), offset, end });
            }
            shared.segments.write().insert(entry.id, segment);
        }
        Ok(())
    }

    /// Applies the log from the place to its end. Returns false if its next part is gone.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the log is damaged.
    fn follow_log(&mut self, engine: &Engine, records: &mut u64) -> Result<bool> {
        loop {
            match self.follow_segment(engine, records) {
                // A power cut leaves damage at the end, and the next writer cuts the log there.
                Err(Error::Corrupt { .. }) if self.may_end_here() && !self.may_have_writer(engine)? => {
                    return Ok(true);
                }
                other => other?,
            }
            engine.shared.dir.reader_point("follow-segment");
            match self.continuation(engine) {
                Continuation::LookAgain => {}
                Continuation::None => return Ok(true),
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

    /// Applies the rest of the present segment.
    fn follow_segment(&mut self, engine: &Engine, records: &mut u64) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        if !is_published(&place.segment, place.offset) {
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
                (place.offset, place.last) = (unit.end(), Some(unit.last()));
                place.is_used |= unit.is_used();
                *records += unit.records();
            }
            if stopped? {
                return Ok(());
            }
        }
    }

    /// Returns true unless the manifest knows that the log continues behind the place.
    fn may_end_here(&self) -> bool {
        let Some(place) = &self.place else { return true };
        let entry = self.manifest.segment(place.segment.id());
        entry.is_none_or(|entry| entry.end <= place.offset)
    }

    /// Returns true if a writer may have the store open.
    fn may_have_writer(&mut self, engine: &Engine) -> Result<bool> {
        let state = self.control(engine)?;
        Ok(state.map_or(self.control.is_some(), |state| is_of_live_writer(&state, engine)))
    }

    /// Returns the error for a store whose files do not settle.
    fn unsteady(&self, engine: &Engine) -> Error {
        let dir = engine.shared.dir.as_ref();
        if MANIFESTS.iter().all(|name| matches!(dir.id_of(name), Ok(None))) {
            return self.replaced(engine);
        }
        let path = engine.shared.dir.path().join(MANIFESTS[0]);
        Error::Corrupt { path, offset: 0, defect: Defect::Truncated }
    }
}
