//! Putting the records that hints stand for into the indexes, part by part, after an open.
//!
//! A search that needs a part puts its records there first, and the worker does so with the rest.
//!
//! **Concurrency.** It happens under the writer mutex, so no write is between. Readers go on in the
//! parts that do not wait.
//!
//! **Order.** The newest sequence number of a key wins. Records are compared only if their hashes are
//! equal, or the index has their tag. Each one that is compared is verified first. So a record that is
//! not what its hint says is an error, and hides no other record.
//!
//! **Failure.** Everything is read and compared before the indexes change. A part that fails waits
//! on, and every search of it fails. If a hint is damaged, the indexes are rebuilt from the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{State, WriterState};
use crate::engine::state::catalog::KeyspaceData;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::format::hash::Hash;
use crate::format::hint::{PARTS, part_of};
use crate::index::checkpoint::is_of_checkpoint;
use crate::index::hash::IndexWriter;
use crate::index::lines::block_error::BlockError;
use crate::mem::address_space::Record;
use crate::mem::alloc;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::recovery::hinted_parts::{HintedParts, HintedRecord};
use crate::sync::epoch::Pin;
use crate::sync::statistic::Statistic;

/// The records that are not in the indexes yet.
#[derive(Debug, Default)]
pub(crate) struct HintedRecords {
    parts: Mutex<Option<Arc<HintedParts>>>,
    /// The part at which the worker goes on.
    next: AtomicUsize,
    /// The number of parts whose records were put into the indexes.
    applied: Statistic,
}

/// A change of an index.
#[derive(Debug, Clone, Copy)]
enum IndexChange {
    Insert(Hash, Location),
    Replace(Hash, Location, Location),
    Remove(Hash, Location),
}

/// The changes that the records of one keyspace in a part make.
#[derive(Debug, Default)]
struct PartChanges {
    changes: Vec<IndexChange>,
    /// Bytes of superseded values, by the ordinal of their segment, with a location in it.
    hidden: BTreeMap<usize, (Location, u64)>,
}

impl HintedRecords {
    pub(super) fn new(parts: Option<HintedParts>) -> Self {
        Self { parts: Mutex::new(parts.map(Arc::new)), ..Self::default() }
    }

    /// Returns the number of parts that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.parts().map_or(0, |parts| parts.waiting.left())
    }

    /// Returns the number of parts whose records were put into the indexes.
    #[cfg(any(test, feature = "sim", mapcask_internal))]
    pub(crate) fn applied(&self) -> u64 {
        self.applied.get()
    }

    fn parts(&self) -> Option<Arc<HintedParts>> {
        self.parts.lock().clone()
    }
}

impl State {
    /// Puts the records of one part into the indexes.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a record is not the one that its hint describes, and errors of the operating
    /// system.
    pub(crate) fn complete_part(&self, part: usize) -> Result<()> {
        let mut writer = self.writer.lock();
        let Some(parts) = self.hinted.parts() else { return Ok(()) };
        if !parts.waiting.waits(part) {
            return Ok(());
        }
        match parts.read(self.shared.dir.as_ref(), part..part + 1) {
            Ok(mut read) => self.apply_part(&mut writer, &parts, part, read.pop().unwrap_or_default()),
            Err(error) if is_damage(&error) => self.rebuild_with(&mut writer, &error),
            Err(error) => Err(error),
        }
    }

    /// Puts the records of one part into the indexes, which were read.
    fn apply_part(
        &self,
        writer: &mut WriterState,
        parts: &HintedParts,
        part: usize,
        records: Vec<HintedRecord>,
    ) -> Result<()> {
        let complete = self.purge_part(writer, parts, part).and_then(|()| self.put_in(writer, records));
        match complete {
            Err(error) if is_of_checkpoint(&error) => self.rebuild_with(writer, &error),
            other => {
                other?;
                parts.waiting.settle(part);
                self.hinted.applied.add(1);
                self.end_if_complete(parts);
                Ok(())
            }
        }
    }

    /// Puts all records into the indexes, so that counts are exact. After an error they are those of the
    /// parts that are complete.
    pub(crate) fn complete_for_counts(&self) {
        let _events = crate::trace::at_end();
        // A search that needs such a part gets the error.
        drop(self.complete_all());
    }

    /// Puts the records of the parts of some hashes into the indexes, for an operation on many keys.
    ///
    /// # Errors
    ///
    /// The errors of [`State::complete_part`].
    pub(crate) fn complete_parts_of(&self, hashes: impl Iterator<Item = Hash>) -> Result<()> {
        let _events = crate::trace::at_end();
        let Some(parts) = self.hinted.parts() else { return Ok(()) };
        for part in hashes.map(part_of) {
            if parts.waiting.waits(part) {
                self.complete_part(part)?;
            }
        }
        Ok(())
    }

    /// Puts the records of the next few parts into the indexes, for the worker. Returns true if one
    /// waited.
    ///
    /// # Errors
    ///
    /// The errors of [`State::complete_part`].
    pub(super) fn complete_next(&self) -> Result<bool> {
        let Some(parts) = self.hinted.parts() else { return Ok(false) };
        // Relaxed: a part that is left out has a turn later.
        let from = self.hinted.next.load(Ordering::Relaxed) % PARTS;
        let Some(first) = parts.waiting.next(from).or_else(|| parts.waiting.next(0)) else {
            return Ok(false);
        };
        let end = (first + parts.group()).min(PARTS);
        // Without the writer mutex: the hints do not change.
        let read = parts.read(self.shared.dir.as_ref(), first..end);
        self.hinted.next.store(if read.is_ok() { end } else { first + 1 }, Ordering::Relaxed);
        let Ok(read) = read else {
            // This tells the error, or mends it, once the part that has it is the first.
            return self.complete_part(first).map(|()| true);
        };
        for (part, records) in (first..end).zip(read) {
            let mut writer = self.writer.lock();
            // A search may have needed it, or the indexes were rebuilt.
            let is_there = self.hinted.parts().is_some_and(|now| Arc::ptr_eq(&now, &parts));
            if is_there && parts.waiting.waits(part) {
                self.apply_part(&mut writer, &parts, part, records)?;
            }
        }
        Ok(true)
    }

    /// Puts all records into the indexes.
    ///
    /// # Errors
    ///
    /// The errors of [`State::complete_part`].
    pub(crate) fn complete_all(&self) -> Result<()> {
        while self.complete_next()? {}
        Ok(())
    }

    /// Lets go of the hints after the last part.
    fn end_if_complete(&self, parts: &HintedParts) {
        if parts.waiting.left() == 0 {
            self.end_waiting();
        }
    }

    /// Lets go of the hints: no part waits any more.
    pub(super) fn end_waiting(&self) {
        let pin = self.pin();
        for keyspace in self.catalog.all() {
            if let Some(contents) = keyspace.contents(&pin) {
                contents.index.hashed().into_iter().for_each(|index| index.end_waiting());
            }
        }
        *self.hinted.parts.lock() = None;
    }

    /// Removes the entries of a part that lead to segments that are gone.
    fn purge_part(&self, writer: &mut WriterState, parts: &HintedParts, part: usize) -> Result<()> {
        let pin = self.pin();
        for id in &parts.to_purge {
            // Nothing is left to do for one that was dropped or cleared.
            let Some(keyspace) = self.catalog.by_id(*id) else { continue };
            let Some(contents) = keyspace.contents(&pin) else { continue };
            let Some(index) = writer.indexes.of(contents).index.hashed() else { continue };
            contents.keys.add(index.purge_part(part)?.wrapping_neg());
        }
        Ok(())
    }

    /// Puts the records of a part into the indexes.
    fn put_in(&self, writer: &mut WriterState, mut records: Vec<HintedRecord>) -> Result<()> {
        let pin = self.pin();
        records.sort_unstable_by_key(|record| (record.keyspace, record.hash.to_bits()));
        let mut planned = Vec::new();
        for group in records.chunk_by(|one, other| one.keyspace == other.keyspace) {
            // Nothing is left to do for one that was dropped or cleared.
            let Some(keyspace) = self.catalog.by_id(group[0].keyspace) else { continue };
            planned.push((keyspace, group));
        }
        let mut changes = Vec::new();
        for (keyspace, group) in &planned {
            let Some(contents) = keyspace.contents(&pin) else { continue };
            // Only hash indexes wait for hints.
            let Some(index) = writer.indexes.of(contents).index.hashed() else { continue };
            let grown = index.reserve_many(group.len());
            grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))?;
            changes.push((contents, self.plan(index, contents, group, &pin)?));
        }
        for (contents, changes) in changes {
            self.carry_out(writer, contents, changes);
        }
        Ok(())
    }

    /// Decides about the records of one keyspace. It changes nothing.
    fn plan(
        &self,
        index: &IndexWriter,
        contents: &KeyspaceData,
        records: &[HintedRecord],
        pin: &Pin,
    ) -> Result<PartChanges> {
        let mut plan = PartChanges::default();
        let room = alloc::reserve(&mut plan.changes, records.len());
        room.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))?;
        for same in records.chunk_by(|one, other| one.hash == other.hash) {
            for newest in self.newest(contents.id, same, &mut plan, pin)? {
                let HintedRecord { hash, location, is_tombstone, .. } = newest;
                let found = index.find_below(hash, |other| {
                    let (other, own) = (self.checked(other, pin)?, self.checked(location, pin)?);
                    Ok::<bool, Error>(own.is_of(contents.id, other.key()))
                })?;
                let Some(other) = found else {
                    if !is_tombstone {
                        plan.changes.push(IndexChange::Insert(hash, location));
                    }
                    continue;
                };
                let (old, own) = (self.checked(other, pin)?, self.checked(location, pin)?);
                if old.seq() >= own.seq() {
                    plan.hide(&own, location);
                    continue;
                }
                plan.hide(&old, other);
                plan.changes.push(match is_tombstone {
                    true => IndexChange::Remove(hash, other),
                    false => IndexChange::Replace(hash, other, location),
                });
            }
        }
        Ok(plan)
    }

    /// Returns the newest record of each key among records of one hash: nearly always one key.
    fn newest(
        &self,
        id: KeyspaceId,
        same: &[HintedRecord],
        plan: &mut PartChanges,
        pin: &Pin,
    ) -> Result<Vec<HintedRecord>> {
        let mut newest: Vec<HintedRecord> = Vec::with_capacity(1);
        let [first, more @ ..] = same else { return Ok(newest) };
        newest.push(*first);
        for record in more {
            let own = self.checked(record.location, pin)?;
            let mut place = None;
            for (at, other) in newest.iter().enumerate() {
                if own.is_of(id, self.checked(other.location, pin)?.key()) {
                    place = Some(at);
                }
            }
            let Some(at) = place else {
                newest.push(*record);
                continue;
            };
            let other = self.checked(newest[at].location, pin)?;
            if other.seq() < own.seq() {
                plan.hide(&other, newest[at].location);
                newest[at] = *record;
            } else {
                plan.hide(&own, record.location);
            }
        }
        Ok(newest)
    }

    /// Returns a verified record.
    fn checked<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        self.shared.space.reach(location, pin)?;
        let record = self.record(location, pin)?;
        self.check_record(&record)?;
        Ok(record)
    }

    /// Changes the index of a keyspace and its counters. The index has the space.
    fn carry_out(&self, writer: &mut WriterState, contents: &KeyspaceData, plan: PartChanges) {
        let slot = writer.indexes.of(contents);
        let Some(index) = slot.index.hashed() else { return };
        for change in plan.changes {
            match change {
                IndexChange::Insert(hash, location) => {
                    // Its first read verifies it.
                    index.insert_unverified(hash, location);
                    contents.keys.add(1);
                }
                IndexChange::Replace(hash, old, new) => {
                    index.replace(hash, old, new);
                }
                IndexChange::Remove(hash, old) => {
                    index.remove(hash, old);
                    contents.keys.add(u64::MAX);
                }
            }
        }
        for (ordinal, (location, bytes)) in plan.hidden {
            self.shared.space.add_dead(location, DeadCause::Hidden, bytes);
            slot.sub_live(ordinal, bytes);
            contents.live_bytes.add(bytes.wrapping_neg());
        }
    }
}

impl PartChanges {
    /// Counts a superseded record. A tombstone counts as dead already.
    fn hide(&mut self, record: &Record<'_>, location: Location) {
        if record.is_put() {
            self.hidden.entry(record.ordinal()).or_insert((location, 0)).1 += record.header().size();
        }
    }
}

/// Returns true if a hint file is damaged or missing, and false if reading it may succeed later.
fn is_damage(error: &Error) -> bool {
    let is_missing = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    matches!(error, Error::Corrupt { .. }) || matches!(error, Error::Io { source, .. } if is_missing(source))
}

/// Returns the part whose records a failed search needs, if that is the reason.
pub(crate) fn waiting_part(error: &Error) -> Option<usize> {
    BlockError::of(error)?.waiting_part()
}
