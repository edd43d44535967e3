//! Applying the units of another process's log to the indexes of a follower.
//!
//! **Order.** That of a write (`state::write_guard`): reserve, announce the number, change the
//! index and the counters, publish the effect. So readers of a follower have the guarantees that
//! readers of the store have.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::log_tail::LogUnit;
use crate::engine::Engine;
use crate::engine::state::WriterState;
use crate::engine::state::catalog::{KeyspaceState, NewContents};
use crate::engine::state::lookup::Lookup;
use crate::engine::write::batch::{PlannedWrite, mark_superseded, slots_for};
use crate::engine::write::{LoggedRecord, WriteTarget};
use crate::error::Result;
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::format::record::RecordKind;
use crate::format::record_reader::RecordAt;
use crate::format::{Defect, Seq};
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::segment::Segment;
use crate::log::writer::NewRecord;
use crate::mem::dead_bytes::DeadCause;
use crate::recovery::tail_findings::change_of;
use crate::sync::epoch::Pin;

/// Applies units under the writer mutex, which it holds.
pub(super) struct Applier<'e> {
    engine: &'e Engine,
    writer: MutexGuard<'e, WriterState>,
}

impl<'e> Applier<'e> {
    /// Takes the writer mutex.
    pub(super) fn lock(engine: &'e Engine) -> Self {
        Self { engine, writer: engine.writer.lock() }
    }

    /// Prefetches the lines of the index and the records that units will replace. For a large index,
    /// applying would wait for memory twice per record.
    pub(super) fn prefetch(&self, segment: &Segment, units: &[LogUnit], pin: &Pin) {
        let engine = self.engine;
        let mut found = Vec::with_capacity(units.len());
        let mut last: Option<Arc<KeyspaceState>> = None;
        let records = units.iter().flat_map(LogUnit::changes);
        for placed in records {
            let location = segment.range().at(placed.offset);
            let Some(record) = engine.shared.space.record(location, pin) else { continue };
            let id = placed.header.keyspace;
            let is_same = |keyspace: &Arc<KeyspaceState>| {
                keyspace.contents(pin).is_some_and(|contents| contents.id == id)
            };
            if !last.as_ref().is_some_and(is_same) {
                last = engine.catalog.by_id(id);
            }
            let contents = last.as_ref().and_then(|keyspace| keyspace.contents(pin));
            let Some(contents) = contents else { continue };
            let key = engine.search_key(record.key());
            contents.index.prefetch(key);
            found.push((contents.index.clone(), key));
        }
        for (index, key) in found {
            engine.prefetch_index(&index, key);
        }
    }

    /// Applies a unit that is published in the mapping of its segment.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the unit cannot follow what was applied before, and errors of the operating
    /// system if memory is short. Nothing was changed.
    pub(super) fn apply(&mut self, segment: &Segment, unit: &LogUnit, pin: &Pin) -> Result<()> {
        match unit {
            LogUnit::Batch(frame, records) => self.apply_batch(segment, frame, records, pin),
            LogUnit::Record(placed) => match placed.header.kind {
                RecordKind::Put | RecordKind::Tombstone => self.apply_record(segment, placed, pin),
                RecordKind::Keyspace => self.apply_change(segment, placed, pin),
                RecordKind::Start | RecordKind::Watermark | RecordKind::Batch => {
                    // The log's own records have no effect but their number: after a restart, the
                    // writer calls it its last.
                    self.add_note(segment, placed);
                    self.engine.seqlock.begin(placed.header.seq);
                    self.publish(placed.header.seq);
                    Ok(())
                }
            },
        }
    }

    fn add_note(&self, segment: &Segment, placed: &RecordAt) {
        segment.mapping().dead_bytes().add(DeadCause::Note, placed.header.size());
    }

    /// Publishes the effect of a write to every other thread.
    fn publish(&mut self, last: Seq) {
        self.writer.log.follow(last);
        self.engine.seqlock.end(last);
    }

    /// Returns the keyspace of a record. In the order of the log it exists when the record comes.
    fn keyspace_of(&self, segment: &Segment, placed: &RecordAt) -> Result<Arc<KeyspaceState>> {
        let found = self.engine.catalog.by_id(placed.header.keyspace);
        found.ok_or_else(|| segment.corrupt_at(placed.offset, Defect::BadField("keyspace")))
    }

    fn apply_record(&mut self, segment: &Segment, placed: &RecordAt, pin: &Pin) -> Result<()> {
        let RecordAt { offset, header } = placed;
        let engine = self.engine;
        let location = segment.range().at(*offset);
        let record = engine.record(location, pin)?;
        let keyspace = self.keyspace_of(segment, placed)?;
        let contents = engine.contents(&keyspace, pin)?;
        let key = engine.search_key(record.key());
        check_key(segment, placed)?;
        let slot = self.writer.indexes.of(contents);
        let lookup = Lookup { keyspace: contents.id, key };
        let current = engine.current(slot, lookup, false, pin)?;
        engine.reserve(slot, usize::from(header.kind == RecordKind::Put))?;
        let ordinal = segment.mapping().ordinal();
        let logged =
            LoggedRecord { kind: header.kind, location, seq: header.seq, ordinal, size: header.size() };
        engine.seqlock.begin(header.seq);
        let there = current.filter(|current| current.record.is_put());
        engine.apply_record(slot, &WriteTarget { contents, key, current, there }, &logged, pin);
        self.publish(header.seq);
        Ok(())
    }

    fn apply_batch(
        &mut self,
        segment: &Segment,
        frame: &RecordAt,
        records: &[RecordAt],
        pin: &Pin,
    ) -> Result<()> {
        let engine = self.engine;
        let keyspaces: Vec<_> =
            records.iter().map(|placed| self.keyspace_of(segment, placed)).collect::<Result<_>>()?;
        let mut writes = engine.room_for_batch(records.len())?;
        for (placed, keyspace) in records.iter().zip(&keyspaces) {
            let record = engine.record(segment.range().at(placed.offset), pin)?;
            let contents = engine.contents(keyspace, pin)?;
            check_key(segment, placed)?;
            let (kind, payload_sum) = (placed.header.kind, placed.header.payload_sum);
            let (key, value) = (record.key(), record.value());
            let (key_len, value_len) = (placed.header.key_len, placed.header.value_len);
            let keyspace = contents.id;
            let draft = NewRecord { kind, keyspace, key, value, key_len, value_len, payload_sum };
            let key = engine.search_key(key);
            writes.push(PlannedWrite { contents, key, draft, superseded: false });
        }
        // Damage is found before anything is changed.
        let mut present = Vec::new();
        engine.find_present(&mut self.writer.indexes, &writes, &mut present, pin)?;
        mark_superseded(&mut writes, engine.room_for_batch(slots_for(records.len()))?);
        engine.reserve_batch(&mut self.writer.indexes, &writes)?;
        let notes = engine.room_for_notes(&writes)?;
        let first = records.first().map_or(0, |placed| placed.offset);
        let last = records.last().map_or(frame.header.seq, |placed| placed.header.seq);
        engine.seqlock.begin(last);
        let unit = (frame.header.seq, first);
        engine.apply_batch(&mut self.writer.indexes, segment, unit, (&writes, &present), notes, pin);
        self.publish(last);
        Ok(())
    }

    fn apply_change(&mut self, segment: &Segment, placed: &RecordAt, pin: &Pin) -> Result<()> {
        let engine = self.engine;
        let impossible = |defect| segment.corrupt_at(placed.offset, defect);
        let record = engine.record(segment.range().at(placed.offset), pin)?;
        let payload = [record.key(), record.value()].concat();
        let change = change_of(&placed.header, &payload).map_err(impossible)?;
        let slot = KeyspaceIndex::empty(change.id(), engine.shared.dir.path())?;
        let mut names = self.writer.names.clone();
        names.apply(&change).map_err(impossible)?;
        let (catalog, space, seq) = (&engine.catalog, &engine.shared.space, placed.header.seq);
        let missing = || impossible(Defect::BadField("keyspace"));
        let keyspace = match &change {
            KeyspaceChange::Create { .. } => None,
            KeyspaceChange::Clear { old: id, .. }
            | KeyspaceChange::Drop { id, .. }
            | KeyspaceChange::Rename { id, .. } => Some(catalog.by_id(*id).ok_or_else(missing)?),
        };
        self.writer.names = names;
        engine.seqlock.begin(seq);
        let indexes = &mut self.writer.indexes;
        let old = match (&change, &keyspace) {
            (KeyspaceChange::Clear { id, .. }, Some(keyspace)) => {
                catalog.clear(space, indexes, keyspace, NewContents { id: *id, begin: seq, slot })
            }
            (KeyspaceChange::Drop { .. }, Some(keyspace)) => {
                catalog.drop_keyspace(space, indexes, keyspace, seq)
            }
            (KeyspaceChange::Rename { name, .. }, Some(keyspace)) => {
                catalog.rename(keyspace, name);
                None
            }
            (KeyspaceChange::Create { id, name, codec }, _) => {
                catalog.add(indexes, name, codec, NewContents { id: *id, begin: seq, slot });
                None
            }
            (_, None) => unreachable!("looked up above"),
        };
        engine.bury(old.as_ref());
        self.publish(seq);
        self.add_note(segment, placed);
        Ok(())
    }
}

/// Refuses a record whose key is too long for its ordered keyspace: no store writes it.
fn check_key(segment: &Segment, placed: &RecordAt) -> Result<()> {
    let RecordAt { offset, header } = placed;
    let is_long = usize::from(header.key_len) > MAX_ORDERED_KEY_LEN;
    // A tombstone of such a key hides nothing.
    if header.keyspace.is_ordered() && is_long && header.kind == RecordKind::Put {
        return Err(segment.corrupt_at(*offset, Defect::BadField("key_len")));
    }
    Ok(())
}
