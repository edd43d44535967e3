//! Writes to one key: one mutex, one order.
//!
//! 1. Before the mutex: lengths, hash, checksum, prefetch.
//! 2. Under it: the condition, then space in the log and the index, so that no step can fail half
//!    done. Then the record, the index and the counters.
//! 3. After it: waiting for durability.

pub(crate) mod batch;
pub(crate) mod batch_ops;
pub(crate) mod commit;
pub(crate) mod keyspaces;
pub(crate) mod pop;
pub(crate) mod read_set;

use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::read::Value;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::engine::state::lookup::{FoundRecord, Lookup};
use crate::engine::state::write_guard::WriteGuard;
use crate::error::{Error, Result};
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::format::record::RecordKind;
use crate::format::{KeyspaceId, Seq};
use crate::index::key_index::SearchKey;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::allocator::quota::SpaceClass;
use crate::log::writer::NewRecord;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// A value or a tombstone in the log, before its effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggedRecord {
    pub(crate) kind: RecordKind,
    pub(crate) location: Location,
    pub(crate) seq: Seq,
    /// The ordinal of its segment.
    pub(crate) ordinal: usize,
    pub(crate) size: u64,
}

/// The condition on a key under which a write is carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition<'a> {
    /// There is no condition.
    Always,
    /// The key has this value, or is absent.
    Value(Option<&'a [u8]>),
    /// The key is present, or is absent.
    Present(bool),
    /// The key has the record of this number, or is absent.
    Seq(Option<Seq>),
}

/// A write to one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyWrite<'a> {
    pub(crate) key: &'a [u8],
    /// The new value. `None` removes the key.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) condition: Condition<'a>,
    /// The value to return: the one before, the one after, or none.
    pub(crate) keep: Returning,
}

impl KeyWrite<'_> {
    /// Returns true if the write reads the value before.
    fn reads(&self) -> bool {
        self.keep == Returning::Old || matches!(self.condition, Condition::Value(_))
    }
}

/// The value that a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returning {
    Nothing,
    Old,
    New,
}

/// The outcome of a write to one key.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was carried out, or there was nothing to remove.
    Done {
        /// Its number. For a removal of an absent key, the last number before.
        seq: Seq,
        /// True if the key was present before.
        was_there: bool,
        /// The value that was to be returned.
        kept: Option<Value>,
    },
    /// The condition did not hold. This is the key's value.
    Refused(Option<Value>),
}

/// The key of a write, as it is under the writer mutex.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteTarget<'p> {
    pub(crate) contents: &'p KeyspaceData,
    pub(crate) key: SearchKey<'p>,
    /// The record that the index leads to.
    pub(crate) current: Option<FoundRecord<'p>>,
    /// That record, if it is a value.
    pub(crate) there: Option<FoundRecord<'p>>,
}

impl Engine {
    /// Writes to one key.
    ///
    /// # Errors
    ///
    /// See [`Keyspace::insert`](crate::Keyspace::insert).
    #[inline]
    pub(crate) fn change(
        &self,
        keyspace: &KeyspaceState,
        change: &KeyWrite<'_>,
        durability: Durability,
    ) -> Result<Outcome> {
        let mut want = SpaceClass::of(change.value.is_none());
        loop {
            match self.attempt(keyspace, change, durability, want) {
                Err(error) if self.is_worth_another(&error, &mut want)? => {}
                other => return other,
            }
        }
    }

    /// Returns true if a failed write may be repeated: there is space now, or damaged indexes have
    /// been rebuilt.
    ///
    /// # Errors
    ///
    /// The error that stopped the repair.
    #[cold]
    fn is_worth_another(&self, error: &Error, want: &mut SpaceClass) -> Result<bool> {
        Ok(self.compactor.makes_room(self, error, want)? || self.rebuild_if_damaged(error)?)
    }

    #[inline]
    fn attempt(
        &self,
        keyspace: &KeyspaceState,
        change: &KeyWrite<'_>,
        durability: Durability,
        want: SpaceClass,
    ) -> Result<Outcome> {
        self.fork_guard.check()?;
        let pin = self.pin();
        let key = self.search_key(change.key);
        let mut draft = self.draft_write(keyspace, change, key, &pin)?;
        let mut guard = WriteGuard::lock(self)?;
        // They may have been replaced since. From here on they stay.
        let contents = self.contents(keyspace, &pin)?;
        draft.keyspace = contents.id;
        let slot = guard.writer.indexes.of(contents);
        let lookup = Lookup { keyspace: contents.id, key };
        let current = self.current(slot, lookup, change.reads(), &pin)?;
        let there = current.filter(|current| current.record.is_put());
        let holds = self.holds(change.condition, there)?;
        if !holds || (there.is_none() && change.value.is_none()) {
            // The key's record may not be durable yet, and a crash must not undo the answer.
            let seq = guard.writer.log.last_user();
            drop(guard);
            let now = there.map(|there| Value::of(&there.record)).filter(|_| !holds);
            drop(pin);
            self.wait_for(seq, durability)?;
            let done = Outcome::Done { seq, was_there: false, kept: None };
            return Ok(if holds { done } else { Outcome::Refused(now) });
        }
        let target = WriteTarget { contents, key, current, there };
        let (location, seq) = self.apply_write(&mut guard, &target, &draft, want, &pin)?;
        let work = guard.end();
        let kept = match change.keep {
            Returning::Nothing => None,
            Returning::Old => there.map(|there| Value::of(&there.record)),
            Returning::New if change.value.is_some() => Some(Value::of(&self.record(location, &pin)?)),
            Returning::New => None,
        };
        let was_there = there.is_some();
        drop(pin);
        self.notify_worker(work);
        self.compactor.throttle(self, work);
        self.wait_for(seq, durability)?;
        Ok(Outcome::Done { seq, was_there, kept })
    }

    /// Does the part of a write that needs no mutex.
    #[inline]
    fn draft_write<'a>(
        &self,
        keyspace: &KeyspaceState,
        change: &KeyWrite<'a>,
        key: SearchKey<'_>,
        pin: &Pin,
    ) -> Result<NewRecord<'a>> {
        let contents = self.contents(keyspace, pin)?;
        check_len(contents.id, key.bytes)?;
        contents.index.prefetch(key);
        let (kind, value) = match change.value {
            Some(value) => (RecordKind::Put, value),
            None => (RecordKind::Tombstone, [].as_slice()),
        };
        let draft = NewRecord::new(kind, contents.id, change.key, value)?;
        self.prefetch_records(contents, key);
        Ok(draft)
    }

    /// Appends a record, and changes the index and the counters. On an error nothing has changed.
    // A call would cost a put 2 % of its instructions.
    #[inline(always)]
    fn apply_write<'p>(
        &'p self,
        guard: &mut WriteGuard<'_>,
        target: &WriteTarget<'p>,
        draft: &NewRecord<'_>,
        want: SpaceClass,
        pin: &'p Pin,
    ) -> Result<(Location, Seq)> {
        let is_put = draft.kind == RecordKind::Put;
        let writer = &mut *guard.writer;
        let slot = writer.indexes.of(target.contents);
        self.reserve(slot, usize::from(is_put))?;
        writer.log.reserve_record(&self.shared, &self.allocator, want, draft)?;
        let (location, seq) = writer.log.append(&self.shared, draft)?;
        guard.effect.begin(seq);
        let ordinal = writer.log.position().0.mapping().ordinal();
        let record = LoggedRecord { kind: draft.kind, location, seq, ordinal, size: draft.size() };
        self.apply_record(slot, target, &record, pin);
        Ok((location, seq))
    }

    /// Changes the index and the counters as a record in the log says. The index has the space.
    // See `apply_write`.
    #[inline(always)]
    pub(crate) fn apply_record<'p>(
        &'p self,
        slot: &mut KeyspaceIndex,
        target: &WriteTarget<'p>,
        record: &LoggedRecord,
        pin: &'p Pin,
    ) {
        let WriteTarget { contents, key, current, there } = *target;
        self.retain_version(contents, key, there, record.seq);
        if record.kind == RecordKind::Put {
            self.point(slot, key, current, record.location, pin);
            self.count(contents, slot, there, record.ordinal, record.size);
        } else {
            if let Some(current) = current {
                slot.index.remove(key, current.location, |location, is_verified| {
                    self.key_at(location, is_verified, pin)
                });
            }
            self.shared.space.add_dead(record.location, DeadCause::Tombstone, record.size);
            self.count(contents, slot, there, record.ordinal, 0);
        }
    }

    /// Returns true if a condition holds for the present record of a key.
    ///
    /// # Errors
    ///
    /// `Corrupt` if every read is verified and this one fails, `Io` if one of its pages cannot be
    /// read.
    fn holds(&self, condition: Condition<'_>, there: Option<FoundRecord<'_>>) -> Result<bool> {
        Ok(match condition {
            Condition::Always => true,
            Condition::Present(present) => there.is_some() == present,
            Condition::Seq(seq) => there.map(|there| there.record.seq()) == seq,
            Condition::Value(expected) => {
                if let (true, Some(there)) = (self.config.verify_reads, there) {
                    self.check_record(&there.record)?;
                }
                let holds = there.map(|there| there.record.value()) == expected;
                // Zeros in place of an unreadable page may equal the expected value.
                there.map_or(Ok(()), |there| self.check_replaced(&there.record))?;
                holds
            }
        })
    }

    /// Reserves space in an index, and for the versions of snapshots, so that no step can fail half
    /// done.
    pub(crate) fn reserve(&self, slot: &mut KeyspaceIndex, entries: usize) -> Result<()> {
        let kept = self.catalog.snapshots.reserve(entries.max(1));
        kept.map_err(|error| Error::io("write to", self.shared.dir.path(), error))?;
        if entries == 0 {
            let grown = slot.index.reserve_removals(1);
            return grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error));
        }
        let grown = slot.index.reserve_many(entries);
        grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))
    }

    /// Returns the present record of a key. `reads` is true if its value is read, and false if only
    /// its size counts.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    // With followers as a second caller it is no longer inlined by itself, which costs an overwrite 10 %.
    #[inline(always)]
    pub(crate) fn current<'p>(
        &'p self,
        slot: &KeyspaceIndex,
        lookup: Lookup<'_>,
        reads: bool,
        pin: &'p Pin,
    ) -> Result<Option<FoundRecord<'p>>> {
        let current = lookup.find(self, &slot.index, pin)?;
        let index = &slot.index;
        let unverified = current.filter(|current| !current.is_verified && index.is_from_checkpoint());
        if let Some(FoundRecord { location, record, .. }) = unverified {
            if reads || self.catalog.snapshots.see(record.seq()) {
                self.check_first(&index.index(), lookup.key, location, &record)?;
            } else {
                self.check_header(&record)?;
            }
        }
        Ok(current)
    }

    /// Points an index at a new record.
    #[inline]
    fn point<'p>(
        &'p self,
        slot: &mut KeyspaceIndex,
        key: SearchKey<'p>,
        current: Option<FoundRecord<'p>>,
        location: Location,
        pin: &'p Pin,
    ) {
        match current {
            Some(current) => {
                slot.index.replace(key, current.location, location);
            }
            None => {
                slot.index.insert(key, location, |other, is_verified| self.key_at(other, is_verified, pin))
            }
        }
    }

    /// Keeps the present version of a key for the snapshots that see it, before the record of
    /// number `end` replaces it.
    #[inline]
    fn retain_version(
        &self,
        contents: &KeyspaceData,
        key: SearchKey<'_>,
        there: Option<FoundRecord<'_>>,
        end: Seq,
    ) {
        let Some(there) = there else { return };
        let begin = there.record.seq();
        if self.catalog.snapshots.see(begin) {
            let position = contents.index.position_of(key);
            let record = there.record.keep_record();
            self.catalog.snapshots.keep(&contents.versions, position, record, begin, end);
        }
    }

    /// Counts a record of `size` bytes, in the segment with this ordinal, that replaces `was`. Zero
    /// stands for a removal.
    // See `current`.
    #[inline(always)]
    fn count(
        &self,
        contents: &KeyspaceData,
        slot: &mut KeyspaceIndex,
        was: Option<FoundRecord<'_>>,
        ordinal: usize,
        size: u64,
    ) {
        let mut old = 0;
        if let Some(was) = was {
            old = was.record.header().size();
            self.shared.space.add_dead(was.location, DeadCause::Hidden, old);
            slot.sub_live(was.record.ordinal(), old);
        }
        if size > 0 {
            slot.add_live(ordinal, size);
        }
        contents.live_bytes.add(size.wrapping_sub(old));
        contents.keys.add(u64::from(size > 0).wrapping_sub(u64::from(was.is_some())));
    }
}

/// Refuses a key that is too long for an ordered keyspace.
#[inline]
pub(crate) fn check_len(id: KeyspaceId, key: &[u8]) -> Result<()> {
    if id.is_ordered() && key.len() > MAX_ORDERED_KEY_LEN {
        return Err(Error::KeyTooLarge { len: key.len(), max: MAX_ORDERED_KEY_LEN });
    }
    Ok(())
}
