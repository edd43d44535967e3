//! Writing a batch: its records in one unit, its effect in one step.

use std::io;
use std::sync::Arc;

use super::{Condition, check_len};
use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::state::WriterState;
use crate::engine::state::catalog::{Indexes, KeyspaceData, KeyspaceState};
use crate::engine::state::hinted_records::waiting_part;
use crate::engine::state::lookup::{FoundRecord, Lookup};
use crate::engine::state::visibility::ReservedEntries;
use crate::engine::state::write_guard::WriteGuard;
use crate::engine::write::batch_ops::{BatchOp, BatchOps, Expected, frame_len};
use crate::engine::write::read_set::ReadSet;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::record::{BatchSum, HEADER_SIZE, RecordKind};
use crate::index::key_index::SearchKey;
use crate::log::allocator::quota::SpaceClass;
use crate::log::segment::Segment;
use crate::log::writer::{BatchHeader, NewRecord};
use crate::mem::alloc;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The records that a batch of up to so many writes replaces are prefetched before the mutex is taken.
/// Those of a larger one are prefetched under it, and their loads overlap.
const FEW: usize = 16;

/// A batch, prepared before the mutex is taken.
struct Prepared<'a> {
    writes: Vec<PlannedWrite<'a>>,
    checks: Vec<Check<'a>>,
    frame: BatchHeader,
}

/// Memory for the notes made while a batch is applied, when no step can fail any more.
pub(crate) struct Notes<'a> {
    room: ReservedEntries,
    tombstones: Vec<(&'a KeyspaceData, SearchKey<'a>, Location)>,
}

/// The present records of keys that a batch writes to, in the order of the writes, with their
/// positions.
pub(crate) type PresentRecords<'p> = Vec<(usize, FoundRecord<'p>)>;

/// A write of a batch.
pub(crate) struct PlannedWrite<'a> {
    pub(crate) contents: &'a KeyspaceData,
    pub(crate) key: SearchKey<'a>,
    pub(crate) draft: NewRecord<'a>,
    /// True if another write to the key follows.
    pub(crate) superseded: bool,
}

/// A condition of a batch.
struct Check<'a> {
    keyspace: &'a KeyspaceState,
    contents: &'a KeyspaceData,
    key: SearchKey<'a>,
    expected: Expected<'a>,
}

impl Engine {
    /// Writes a batch, and returns its last number. An operation without a keyspace of its own
    /// belongs to `keyspace`.
    ///
    /// # Errors
    ///
    /// See [`Keyspace::write`](crate::Keyspace::write).
    pub(crate) fn write(
        &self,
        keyspace: &Arc<KeyspaceState>,
        batch: &BatchOps,
        durability: Durability,
    ) -> Result<Seq> {
        self.write_after(None, keyspace, batch, durability)
    }

    /// Writes a batch as [`Engine::write`] does, unless a read no longer holds.
    ///
    /// # Errors
    ///
    /// See [`Keyspace::write`](crate::Keyspace::write). Also `Conflict`.
    pub(super) fn write_after(
        &self,
        reads: Option<&ReadSet<'_>>,
        keyspace: &Arc<KeyspaceState>,
        batch: &BatchOps,
        durability: Durability,
    ) -> Result<Seq> {
        let mut want = SpaceClass::of(!batch.iter().any(|(_, _, step)| matches!(step, BatchOp::Insert(_))));
        loop {
            match self.attempt_batch(reads, keyspace, batch, durability, want) {
                Err(error) if waiting_part(&error).is_some() => {
                    let read = reads.into_iter().flat_map(ReadSet::keys);
                    let keys = batch.iter().map(|(_, key, _)| key).chain(read);
                    self.complete_parts_of(keys.map(|key| self.hash_of(key)))?;
                }
                Err(error) if self.is_worth_another(&error, &mut want)? => {}
                other => return other,
            }
        }
    }

    fn attempt_batch(
        &self,
        reads: Option<&ReadSet<'_>>,
        keyspace: &Arc<KeyspaceState>,
        batch: &BatchOps,
        durability: Durability,
        want: SpaceClass,
    ) -> Result<Seq> {
        self.fork_guard.check()?;
        let keyspaces: Vec<&KeyspaceState> =
            std::iter::once(keyspace).chain(batch.places()).map(|k| &**k).collect();
        if let Some(foreign) = keyspaces.iter().find(|keyspace| !keyspace.is_of(&self.catalog)) {
            return Err(Error::ForeignKeyspace { name: foreign.name().to_string() });
        }
        let pin = self.pin();
        loop {
            let contents = self.all_contents(&keyspaces, &pin)?;
            let prepared = self.prepare(batch, &keyspaces, &contents)?;
            // Allocated and freed without the mutex.
            let mut present = self.room_for_batch(prepared.writes.len().min(FEW))?;
            let checked = reads.map(|reads| self.check_reads(reads, &pin)).transpose()?;
            let mut guard = WriteGuard::lock(self)?;
            let now = self.all_contents(&keyspaces, &pin)?;
            if !contents.iter().zip(&now).all(|(before, now)| std::ptr::eq(*before, *now)) {
                // A keyspace was cleared meanwhile.
                continue;
            }
            if let (Some(reads), Some(checked)) = (reads, checked) {
                self.check_reads_again(reads, checked, &pin)?;
            }
            let seq = match self.write_prepared(&mut guard, &prepared, &mut present, want, &pin) {
                Ok(seq) => seq,
                Err(error) => {
                    drop(guard);
                    drop(pin);
                    if matches!(error, Error::ConditionFailed { .. }) {
                        // Even a refusal reveals records that may not be durable yet.
                        self.flush_at(durability)?;
                    }
                    return Err(error);
                }
            };
            let work = guard.end();
            drop(pin);
            self.notify_worker(work);
            self.compactor.throttle(self, work);
            self.wait_for(seq, durability)?;
            return Ok(seq);
        }
    }

    fn flush_at(&self, durability: Durability) -> Result<()> {
        if durability == Durability::Disk { self.flush() } else { Ok(()) }
    }

    fn all_contents<'p>(
        &self,
        keyspaces: &[&'p KeyspaceState],
        pin: &'p Pin,
    ) -> Result<Vec<&'p KeyspaceData>> {
        keyspaces.iter().map(|keyspace| self.contents(keyspace, pin)).collect()
    }

    /// Does the part of a batch that needs no mutex.
    fn prepare<'a>(
        &self,
        batch: &'a BatchOps,
        keyspaces: &[&'a KeyspaceState],
        contents: &[&'a KeyspaceData],
    ) -> Result<Prepared<'a>> {
        let mut writes = self.room_for_batch(batch.len())?;
        let mut checks = Vec::new();
        let mut len = 0;
        let mut sum = BatchSum::default();
        for (place, key, step) in batch.iter() {
            let contents = contents[place];
            let search = self.search_key(key);
            contents.index.prefetch(search);
            let (kind, value) = match step {
                BatchOp::Insert(value) => (RecordKind::Put, value),
                BatchOp::Remove => (RecordKind::Tombstone, [].as_slice()),
                BatchOp::Require(expected) => {
                    alloc::reserve(&mut checks, 1).map_err(|error| self.no_room_for_batch(error))?;
                    checks.push(Check { keyspace: keyspaces[place], contents, key: search, expected });
                    continue;
                }
            };
            check_len(contents.id, key)?;
            let draft = NewRecord::new(kind, contents.id, key, value)?;
            len += draft.size();
            sum.add(draft.payload_sum);
            writes.push(PlannedWrite { contents, key: search, draft, superseded: false });
        }
        let count = u32::try_from(writes.len())
            .map_err(|_| Error::BatchTooLarge { len, max: u64::from(u32::MAX) })?;
        let frame = BatchHeader { count, len: frame_len(len)?, sum: sum.finish() };
        mark_superseded(&mut writes, self.room_for_batch(slots_for(batch.len()))?);
        let is_few = writes.len() <= FEW;
        for planned in &writes {
            // Blocks of a checkpoint are read from the disk here.
            if is_few || planned.contents.index.is_partial() {
                self.prefetch_records(planned.contents, planned.key);
            }
        }
        Ok(Prepared { writes, checks, frame })
    }

    /// Checks the conditions and reserves space. Then only the store into the log can fail.
    fn write_prepared<'p>(
        &'p self,
        guard: &mut WriteGuard<'_>,
        prepared: &Prepared<'_>,
        present: &mut PresentRecords<'p>,
        want: SpaceClass,
        pin: &'p Pin,
    ) -> Result<Seq> {
        let writer = &mut *guard.writer;
        for check in &prepared.checks {
            let slot = writer.indexes.of(check.contents);
            let reads = matches!(check.expected, Expected::Value(_));
            let lookup = Lookup { keyspace: check.contents.id, key: check.key };
            let current = self.current(slot, lookup, reads, pin)?;
            let there = current.filter(|current| current.record.is_put());
            let condition = match check.expected {
                Expected::Absent => Condition::Present(false),
                Expected::Present => Condition::Present(true),
                Expected::Value(value) => Condition::Value(Some(value)),
            };
            if !self.holds(condition, there)? {
                let keyspace = check.keyspace.name().to_string();
                return Err(Error::ConditionFailed { keyspace, key: check.key.bytes.to_vec() });
            }
        }
        if prepared.writes.is_empty() {
            return Ok(writer.log.last_user());
        }
        // Damage is found before anything is written.
        self.find_present(&mut writer.indexes, &prepared.writes, present, pin)?;
        let is_removal = |(at, _): &(usize, _)| prepared.writes[*at].draft.kind == RecordKind::Tombstone;
        let frees = present.iter().any(is_removal);
        self.reserve_batch(&mut writer.indexes, &prepared.writes)?;
        let size = HEADER_SIZE as u64 + u64::from(prepared.frame.len);
        // Removals of absent keys take space and free none.
        let want = if frees { want } else { SpaceClass::Insertion };
        let notes = self.room_for_notes(&prepared.writes)?;
        writer.log.reserve(&self.shared, &self.allocator, want, size)?;
        self.apply(guard, prepared, present, notes, pin)
    }

    /// Finds the present records of the keys that have one.
    ///
    /// Most keys of a load are new, and one look at the bucket shows that. The records of the others
    /// are prefetched, unless they are few.
    ///
    /// # Errors
    ///
    /// `Corrupt`, an error of the operating system, or a lack of memory.
    pub(crate) fn find_present<'p>(
        &'p self,
        indexes: &mut Indexes,
        writes: &[PlannedWrite<'_>],
        present: &mut PresentRecords<'p>,
        pin: &'p Pin,
    ) -> Result<()> {
        let mut look = |indexes: &mut Indexes, at: usize| {
            let PlannedWrite { contents, key, .. } = &writes[at];
            let lookup = Lookup { keyspace: contents.id, key: *key };
            if let Some(current) = self.current(indexes.of(contents), lookup, false, pin)? {
                alloc::reserve(present, 1).map_err(|error| self.no_room_for_batch(error))?;
                present.push((at, current));
            }
            Ok::<(), Error>(())
        };
        if writes.len() <= FEW {
            return (0..writes.len()).try_for_each(|at| look(indexes, at));
        }
        let mut candidates = Vec::new();
        for (at, planned) in writes.iter().enumerate() {
            let mut is_candidate = false;
            indexes.of(planned.contents).index.visit_candidates(planned.key, |location| {
                self.shared.space.prefetch(location);
                is_candidate = true;
                Ok::<(), Error>(())
            })?;
            if is_candidate {
                alloc::reserve(&mut candidates, 1).map_err(|error| self.no_room_for_batch(error))?;
                candidates.push(at);
            }
        }
        candidates.into_iter().try_for_each(|at| look(indexes, at))
    }

    /// Reserves space in the indexes for all writes of a batch.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn reserve_batch(&self, indexes: &mut Indexes, writes: &[PlannedWrite<'_>]) -> Result<()> {
        // Grouped by keyspace: each index reserves once for all its entries.
        let mut counts: Vec<(&KeyspaceData, usize)> = Vec::new();
        for planned in writes {
            match counts.iter_mut().find(|(contents, _)| contents.id == planned.contents.id) {
                Some((_, count)) => *count += 1,
                None => counts.push((planned.contents, 1)),
            }
        }
        for (contents, count) in counts {
            self.reserve(indexes.of(contents), count)?;
        }
        Ok(())
    }

    /// Reserves memory for the notes that are made while a batch is applied.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn room_for_notes<'a>(&self, writes: &[PlannedWrite<'a>]) -> Result<Notes<'a>> {
        let is_removal = |planned: &&PlannedWrite<'_>| planned.draft.kind == RecordKind::Tombstone;
        let failed = |error| self.no_room_for_batch(error);
        self.catalog.snapshots.reserve(writes.len()).map_err(failed)?;
        let tombstones = alloc::with_capacity(writes.iter().filter(is_removal).count()).map_err(failed)?;
        Ok(Notes { room: ReservedEntries::of(writes.len()).map_err(failed)?, tombstones })
    }

    pub(crate) fn room_for_batch<T>(&self, count: usize) -> Result<Vec<T>> {
        alloc::with_capacity(count).map_err(|error| self.no_room_for_batch(error))
    }

    #[cold]
    fn no_room_for_batch(&self, error: io::Error) -> Error {
        Error::io("write a batch to", self.shared.dir.path(), error)
    }

    /// Appends a batch and changes the index. It is visible whole on return. Returns the last
    /// sequence number.
    ///
    /// The index never leads to a superseded record, not even while the floor hides it. A reader
    /// that had loaded such an entry, and checked the floor after the batch ended, would take it
    /// for the newest.
    ///
    /// # Errors
    ///
    /// Returns an error if its pages cannot be written to after all. Nothing was changed.
    fn apply<'a>(
        &'a self,
        guard: &mut WriteGuard<'_>,
        prepared: &Prepared<'a>,
        present: &PresentRecords<'a>,
        notes: Notes<'a>,
        pin: &'a Pin,
    ) -> Result<Seq> {
        let Prepared { writes, frame, .. } = prepared;
        let WriteGuard { writer, effect } = guard;
        let writer = &mut **writer;
        let before = writer.log.position().0.id();
        let drafts = writes.iter().map(|planned| planned.draft);
        let (frame_seq, first) = writer.log.append_batch(&self.shared, *frame, drafts)?;
        let WriterState { log, indexes, .. } = writer;
        let segment = log.position().0;
        debug_assert_eq!(before, segment.id(), "a batch lies in one segment");
        effect.begin(log.last_user());
        self.apply_batch(indexes, segment, (frame_seq, first), (writes, present), notes, pin);
        Ok(log.last_user())
    }

    /// Changes the indexes as a batch in the log says. It is visible whole on return.
    ///
    /// `frame_seq` is the number of the batch, and `first` is the offset of its first record.
    /// `present` comes from [`Engine::find_present`], under the same mutex. The indexes have the
    /// space.
    pub(crate) fn apply_batch<'a>(
        &'a self,
        indexes: &mut Indexes,
        segment: &Segment,
        (frame_seq, first): (Seq, u64),
        (writes, present): (&[PlannedWrite<'a>], &PresentRecords<'a>),
        notes: Notes<'a>,
        pin: &'a Pin,
    ) {
        let Notes { room, mut tombstones } = notes;
        let (range, ordinal) = (segment.range(), segment.mapping().ordinal());
        self.shared.space.add_dead(range.at(first - HEADER_SIZE as u64), DeadCause::Note, HEADER_SIZE as u64);
        self.visibility.begin(frame_seq.next(), room);
        let mut offset = first;
        let mut seq = frame_seq;
        let mut present = present.iter().peekable();
        for (at, PlannedWrite { contents, key, draft, superseded }) in writes.iter().enumerate() {
            let current = present.next_if(|(of, _)| *of == at).map(|(_, current)| *current);
            seq = seq.next();
            let location = range.at(offset);
            offset += draft.size();
            if *superseded {
                let why =
                    if draft.kind == RecordKind::Put { DeadCause::Hidden } else { DeadCause::Tombstone };
                self.shared.space.add_dead(location, why, draft.size());
                continue;
            }
            let slot = indexes.of(contents);
            let there = current.filter(|current| current.record.is_put());
            self.visibility.note(location, current.map(|current| current.location), pin);
            self.retain_version(contents, *key, there, seq);
            if draft.kind == RecordKind::Put {
                self.point(slot, *key, current, location, pin);
                self.count(contents, slot, there, ordinal, draft.size());
                continue;
            }
            self.shared.space.add_dead(location, DeadCause::Tombstone, draft.size());
            if let Some(current) = current {
                // The entry stays until the batch is visible: a miss has no number to compare.
                slot.index.replace(*key, current.location, location);
                tombstones.push((contents, *key, location));
                self.count(contents, slot, there, ordinal, 0);
            }
        }
        self.visibility.end();
        for (contents, key, location) in tombstones {
            let index = &mut indexes.of(contents).index;
            index.remove(key, location, |other, is_verified| self.key_at(other, is_verified, pin));
        }
    }
}

/// Returns the number of slots that [`mark_superseded`] needs for so many writes: at most half of
/// them fill up.
pub(crate) fn slots_for(writes: usize) -> usize {
    writes.saturating_mul(2).next_power_of_two()
}

/// Marks the writes of a batch that are followed by another one to the same key. `slots` has space
/// for [`slots_for`] them.
pub(crate) fn mark_superseded(writes: &mut [PlannedWrite<'_>], mut slots: Vec<u32>) {
    // A hash table of the last write to each key: the position plus one, or zero.
    let count = slots_for(writes.len());
    slots.resize(count, 0);
    for at in (0..writes.len()).rev() {
        let write = &writes[at];
        let home = write.key.hash.to_bits() & (count as u64 - 1);
        let mut slot = usize::try_from(home).expect("below the number of slots");
        let is_last = loop {
            let Some(later) = slots[slot].checked_sub(1) else { break true };
            let later = &writes[later as usize];
            let is_same = later.key.hash == write.key.hash
                && later.draft.keyspace == write.draft.keyspace
                && later.key.bytes == write.key.bytes;
            if is_same {
                break false;
            }
            slot = (slot + 1) & (count - 1);
        };
        if is_last {
            slots[slot] = u32::try_from(at + 1).expect("a batch counts its writes in 32 bits");
        } else {
            writes[at].superseded = true;
        }
    }
}
