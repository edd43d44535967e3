//! The change feed: every change of a store, in the order of the log.
//!
//! A feed reads the log in mappings of its own, and needs no index. It takes no lock and writes
//! nothing. The feed of an open store and that of a store in another process are the same.
//!
//! **Whole ranges.** A feed returns a change only if it has returned all changes before it, or has
//! said which are missing. Each segment's start record names the last number of the log that it
//! continues. So a feed compares one number at each border of two segments:
//!
//! - If it is that of the last record that was read, the range is whole.
//! - If it is greater, compaction has removed a segment between: `Lagged`.
//! - If it is less than that of the last change that was returned, the log lost its end: `Rewound`.
//! - If it lies between, only the log's own records were lost, and the range is whole.
//!
//! Numbers are never given out twice, so this decides. A segment may be missing because the manifest
//! at hand is old, or because it was written to after the feed looked at it. So before a feed reports
//! a missing range, it reads the newest manifest, and looks for start records until there is no new
//! one.
//!
//! **Place.** A feed keeps the segment that it reads, the segments behind it, and none before.

pub(crate) mod change;
mod keyspace_names;
mod locate;
mod mapped_log;
mod read_on;
pub(crate) mod since;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::change::{Change, ChangeKind, KeyspaceRef};
use self::keyspace_names::KeyspaceNames;
use self::locate::Target;
use self::mapped_log::MappedLog;
use self::since::Since;
use crate::engine::follow::log_tail::LogUnit;
use crate::engine::follow::wait::{Wait, Waiter, Waiting};
use crate::error::{Error, Result};
use crate::format::feed_position::FeedPosition;
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::format::record_reader::RecordAt;
use crate::format::waiters::{FOR_DURABLE, FOR_RECORDS};
use crate::format::{Defect, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::mem::fork_guard::ForkGuard;
use crate::recovery::attach;
use crate::recovery::tail_findings::change_of;

/// The part of the log that a consumer has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The number of the last change.
    seq: Seq,
    /// The number of the last record, the log's own included.
    last: Seq,
    /// The incarnation that wrote the last change; zero if it is not known.
    incarnation: u64,
}

impl Mark {
    fn at(seq: Seq) -> Self {
        Self { seq, last: seq, incarnation: 0 }
    }
}

/// The place up to which a feed has read the log.
#[derive(Debug)]
struct FeedPlace {
    segment: Arc<Segment>,
    /// The offset of the next record, in bytes.
    offset: u64,
    /// The number of the last record before the place.
    last: Seq,
    /// The incarnation that began the segment.
    incarnation: u64,
}

/// A change that was found, and the next one of its batch if there is one.
#[derive(Debug, Clone, Copy)]
struct FoundChange {
    record: RecordAt,
    more: bool,
}

/// A reader of all changes of a store.
#[derive(Debug)]
pub(crate) struct Feed {
    fork_guard: ForkGuard,
    log: MappedLog,
    place: Option<FeedPlace>,
    /// Units before the place that were not returned.
    units: VecDeque<LogUnit>,
    /// The number of records of the first unit that were returned or left out.
    done: usize,
    mark: Mark,
    names: KeyspaceNames,
    /// The change of a keyspace that was returned last. It takes effect with the next call.
    keyspace_change: Option<KeyspaceChange>,
    /// The error about the history before the place, to be returned once, and the mark behind it.
    loss: Option<(Error, Mark)>,
    /// The names of the keyspaces whose changes are returned. `None` for all.
    only: Option<BTreeSet<String>>,
    is_durable: bool,
    /// The number up to which the log was last known to be durable.
    durable: Seq,
    waiter: Arc<Waiter>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.fork_guard.is_forked() {
            // Threads that this process lacks may hold the locks of the mappings.
            self.log.abandon();
            std::mem::forget(self.place.take());
        }
    }
}

impl Feed {
    /// Opens a feed of the store in a directory, which only offers reading.
    ///
    /// # Errors
    ///
    /// See [`Changes::open`](crate::Changes::open).
    pub(crate) fn open(dir: Arc<dyn Dir>, is_guarded: bool, since: Since) -> Result<Self> {
        let fork_guard = ForkGuard::new().map_err(|error| Error::io("make a page for", dir.path(), error))?;
        let manifest = attach::find(dir.as_ref())?;
        let waiter = Arc::new(Waiter::new(Arc::clone(&dir), is_guarded));
        let mut feed = Self {
            fork_guard,
            waiter,
            names: KeyspaceNames::of(&manifest.keyspaces),
            log: MappedLog::open(dir, is_guarded, manifest)?,
            place: None,
            units: VecDeque::new(),
            done: 0,
            mark: Mark::at(Seq::ZERO),
            keyspace_change: None,
            loss: None,
            only: None,
            is_durable: false,
            durable: Seq::ZERO,
        };
        let target = match since {
            Since::Now | Since::State => Target::End,
            Since::Oldest => Target::Beginning,
            Since::Seq(seq) => Target::Behind(Mark::at(seq)),
            Since::Position(FeedPosition { store, .. }) if store != feed.log.manifest.store => {
                return Err(feed.log.replaced());
            }
            Since::Position(FeedPosition { incarnation, seq, last, .. }) => {
                Target::Behind(Mark { seq, last, incarnation })
            }
        };
        feed.locate(target)?;
        Ok(feed)
    }

    /// Returns only changes of keyspaces with these names.
    pub(crate) fn only(&mut self, names: BTreeSet<String>) {
        self.only = Some(names);
    }

    /// Returns true if changes of a keyspace of this name are returned.
    pub(crate) fn wants(&self, name: Option<&str>) -> bool {
        self.only.as_ref().is_none_or(|only| name.is_some_and(|name| only.contains(name)))
    }

    /// Returns only changes that are durable.
    pub(crate) fn durable(&mut self) {
        self.is_durable = true;
    }

    /// Refuses a feed that was inherited through `fork`.
    ///
    /// # Errors
    ///
    /// `Forked`.
    pub(crate) fn check(&self) -> Result<()> {
        self.fork_guard.check()
    }

    /// Maps the segments that the writer has added, so that they are there when the feed comes to
    /// them.
    ///
    /// # Errors
    ///
    /// The errors of [`Feed::next`].
    pub(crate) fn keep_up(&mut self) -> Result<()> {
        self.fork_guard.check()?;
        self.log.update(false).map(drop)
    }

    /// Passes everything up to a number, of which the consumer has the effect. It may be that of one
    /// of the log's own records, so the mark is found by reading.
    ///
    /// # Errors
    ///
    /// The errors of [`Feed::next`].
    pub(crate) fn skip_to(&mut self, seq: Seq) -> Result<()> {
        loop {
            if let Some((_, mark)) = self.loss.take_if(|(_, mark)| mark.last <= seq) {
                self.mark = mark;
            }
            if self.loss.is_some() || self.units.is_empty() && !self.read_on()? {
                if self.loss.as_ref().is_some_and(|(_, mark)| mark.last <= seq) {
                    continue;
                }
                return Ok(());
            }
            let Some(unit) = self.units.front().filter(|unit| unit.last() <= seq) else { return Ok(()) };
            if let LogUnit::Record(record) = unit
                && record.header.kind == RecordKind::Keyspace
            {
                let change = self.keyspace_change_in(record)?;
                self.names.apply(&change);
            }
            self.finish_unit(true);
        }
    }

    /// Returns the place behind the last change that was returned.
    pub(crate) fn position(&self, is_state: bool) -> FeedPosition {
        let Mark { seq, last, incarnation } = self.mark;
        FeedPosition { store: self.log.manifest.store, incarnation, seq, last, is_state }
    }

    /// Returns the next change. `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// See [`Changes::next`](crate::Changes::next).
    pub(crate) fn next(&mut self) -> Result<Option<Change<'_>>> {
        let found = self.find_next()?;
        found.map(|found| self.change(found)).transpose()
    }

    /// Returns the next change, and waits for it. `None` if the time is over.
    ///
    /// # Errors
    ///
    /// See [`Changes::next_within`](crate::Changes::next_within).
    pub(crate) fn next_within(&mut self, way: Wait, timeout: Duration) -> Result<Option<Change<'_>>> {
        let (waiter, mut found) = (Arc::clone(&self.waiter), None);
        let reason = if self.is_durable { FOR_DURABLE } else { FOR_RECORDS };
        let is_done = || {
            found = self.find_next()?;
            Ok(found.is_some())
        };
        waiter.wait_until(way, timeout, Waiting { reason, wanted: None, is_done })?;
        found.map(|found| self.change(found)).transpose()
    }

    /// Finds the next change.
    fn find_next(&mut self) -> Result<Option<FoundChange>> {
        self.fork_guard.check()?;
        if let Some(change) = self.keyspace_change.take() {
            self.names.apply(&change);
        }
        loop {
            if let Some((error, mark)) = self.loss.take() {
                self.mark = mark;
                return Err(error);
            }
            if self.units.is_empty() && !self.read_on()? {
                match self.loss {
                    Some(_) => continue,
                    None => return Ok(None),
                }
            }
            if self.is_durable && !self.is_unit_durable()? {
                return Ok(None);
            }
            if let Some(found) = self.find_in_unit()? {
                return Ok(Some(found));
            }
        }
    }

    /// Returns true if the first unit is durable.
    fn is_unit_durable(&mut self) -> Result<bool> {
        let last = self.units.front().map_or(Seq::ZERO, LogUnit::last);
        if last > self.durable {
            self.log.update(false)?;
            self.durable = self.durable.max(self.log.durable());
        }
        Ok(last <= self.durable)
    }

    /// Finds the next change in the first unit that is to be returned. `None` if there is none left:
    /// then the unit is done.
    fn find_in_unit(&mut self) -> Result<Option<FoundChange>> {
        let Some(unit) = self.units.front() else { return Ok(None) };
        let is_new = unit.last() > self.mark.seq;
        let (mut found, mut more) = (None, false);
        let records: &[RecordAt] = match unit {
            LogUnit::Record(record) => std::slice::from_ref(record),
            LogUnit::Batch(_, records) => records,
        };
        let keyspace_change = match unit {
            LogUnit::Record(record) if record.header.kind == RecordKind::Keyspace => {
                Some(self.keyspace_change_in(record)?)
            }
            _ => None,
        };
        if is_new {
            for (at, record) in records.iter().enumerate().skip(self.done) {
                if !self.is_wanted(record, keyspace_change.as_ref()) {
                    continue;
                }
                if found.is_some() {
                    more = true;
                    break;
                }
                found = Some((at, *record));
            }
        }
        if let (Some((_, record)), Some(place)) = (&found, &self.place) {
            // Zeros in place of a page that cannot be read are no value. The next call tries again.
            place.segment.check_readable(record.offset, record.offset + record.header.size())?;
        }
        let found = found.map(|(at, record)| {
            self.done = at + 1;
            FoundChange { record, more }
        });
        match (keyspace_change, found.is_some()) {
            (Some(change), true) => self.keyspace_change = Some(change),
            (Some(change), false) => self.names.apply(&change),
            (None, _) => {}
        }
        if !more {
            self.finish_unit(is_new);
        }
        Ok(found)
    }

    /// Removes the first unit, which the consumer has seen.
    fn finish_unit(&mut self, is_new: bool) {
        self.done = 0;
        let Some(unit) = self.units.pop_front() else { return };
        self.mark.last = self.mark.last.max(unit.last());
        if is_new && unit.is_used() {
            self.mark.seq = unit.last();
            self.mark.incarnation = self.place.as_ref().map_or(0, |place| place.incarnation);
        }
    }

    /// Returns true if a record is a change that is to be returned.
    fn is_wanted(&self, record: &RecordAt, keyspace_change: Option<&KeyspaceChange>) -> bool {
        match (record.header.kind, keyspace_change) {
            (RecordKind::Put | RecordKind::Tombstone, _) => {
                self.only.is_none() || self.wants(self.names.get(record.header.keyspace))
            }
            (RecordKind::Keyspace, Some(change)) => {
                let is_rename = matches!(change, KeyspaceChange::Rename { .. });
                self.wants(Some(change.name())) || is_rename && self.wants(self.names.get(change.id()))
            }
            _ => false,
        }
    }

    /// Returns published bytes of the present segment.
    fn bytes(&self, offset: u64, len: u64) -> Result<&[u8]> {
        let place = self.place.as_ref().expect("units are read at a place");
        let bytes = place.segment.mapping().bytes(offset, len);
        bytes.ok_or_else(|| place.segment.corrupt_at(offset, Defect::LengthOutOfRange))
    }

    fn keyspace_change_in(&self, record: &RecordAt) -> Result<KeyspaceChange> {
        let payload = self.bytes(record.offset + HEADER_SIZE as u64, record.header.payload_len())?;
        let place = self.place.as_ref().expect("units are read at a place");
        change_of(&record.header, payload).map_err(|defect| place.segment.corrupt_at(record.offset, defect))
    }

    /// Returns a change in place.
    fn change(&self, FoundChange { record, more }: FoundChange) -> Result<Change<'_>> {
        let RecordAt { offset, header } = record;
        let payload = self.bytes(offset + HEADER_SIZE as u64, header.payload_len())?;
        let (key, value) = payload.split_at(usize::from(header.key_len));
        let (mut name, kind) = match (header.kind, &self.keyspace_change) {
            (RecordKind::Put, _) => (None, ChangeKind::Insert { key, value }),
            (RecordKind::Tombstone, _) => (None, ChangeKind::Remove { key }),
            (_, Some(KeyspaceChange::Create { name, .. })) => {
                (Some(name.as_str()), ChangeKind::Created { name })
            }
            (_, Some(KeyspaceChange::Rename { name, .. })) => (None, ChangeKind::Renamed { name }),
            (_, Some(KeyspaceChange::Clear { old, name, .. })) => {
                (Some(name.as_str()), ChangeKind::Cleared { before: old.number() })
            }
            (_, Some(KeyspaceChange::Drop { name, .. })) => (Some(name.as_str()), ChangeKind::Dropped),
            (_, None) => unreachable!("no other record is a change"),
        };
        name = name.or_else(|| self.names.get(header.keyspace));
        let keyspace = KeyspaceRef { id: header.keyspace.number(), name };
        Ok(Change { seq: header.seq, keyspace, kind, more })
    }
}
