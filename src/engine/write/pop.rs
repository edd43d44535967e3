//! The removal of the first or the last key of a range of an ordered keyspace.
//!
//! The key is found under the writer mutex, so it is one step: two callers never get the same key.

use super::WriteTarget;
use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range_buffer::End;
use crate::engine::state::catalog::KeyspaceState;
use crate::engine::state::lookup::Lookup;
use crate::engine::state::write_guard::WriteGuard;
use crate::error::Result;
use crate::format::record::RecordKind;
use crate::format::{Defect, Seq};
use crate::log::allocator::quota::SpaceClass;
use crate::log::writer::NewRecord;
use crate::mem::address_space::Record;

/// The result of [`Engine::pop`].
#[derive(Debug)]
pub(crate) enum PopOutcome {
    /// The key that was removed, with its value; `None` if the range is empty.
    Done(Option<(Value, Value)>),
    /// The caller does not accept the record that is at the end now; nothing was removed.
    Refused,
}

impl Engine {
    /// Removes the first or the last key of a range, and returns it with its value, if the caller accepts
    /// its sequence number; `None` stands for an empty range.
    ///
    /// # Errors
    ///
    /// See [`Keyspace::pop_first`](crate::Keyspace::pop_first).
    pub(crate) fn pop(
        &self,
        keyspace: &KeyspaceState,
        range: &KeyRange,
        end: End,
        durability: Durability,
        accepts: impl Fn(Option<Seq>) -> bool,
    ) -> Result<PopOutcome> {
        let mut want = SpaceClass::of(true);
        loop {
            match self.attempt_pop(keyspace, (range, end), durability, want, &accepts) {
                Err(error) if self.is_worth_another(&error, &mut want)? => {}
                other => return other,
            }
        }
    }

    fn attempt_pop(
        &self,
        keyspace: &KeyspaceState,
        (range, end): (&KeyRange, End),
        durability: Durability,
        want: SpaceClass,
        accepts: impl Fn(Option<Seq>) -> bool,
    ) -> Result<PopOutcome> {
        self.fork_guard.check()?;
        let pin = self.pin();
        let mut guard = WriteGuard::lock(self)?;
        let contents = self.ordered_contents(keyspace, &pin)?;
        let found = self.end_of_range(contents, range, end, &pin)?;
        if !accepts(found.as_ref().map(Record::seq)) {
            return Ok(PopOutcome::Refused);
        }
        let Some(record) = found else {
            // The removal of the last key may not be durable yet, and a crash must not undo the
            // answer.
            let seq = guard.writer.log.last_user();
            drop(guard);
            drop(pin);
            self.wait_for(seq, durability)?;
            return Ok(PopOutcome::Done(None));
        };
        // Copied, because its page may be replaced before the tombstone is written. The record is
        // verified, because it is gone afterwards.
        let key = record.key().to_vec();
        self.check_record(&record)?;
        let key = self.search_key(&key);
        let slot = guard.writer.indexes.of(contents);
        let current = self.current(slot, Lookup { keyspace: contents.id, key }, true, &pin)?;
        let there = current.filter(|current| current.record.is_put() && current.record.seq() == record.seq());
        if there.is_none() {
            // A search for the key leads elsewhere.
            return Err(self.damage_of(&record, Defect::IndexMismatch));
        }
        let draft = NewRecord::new(RecordKind::Tombstone, contents.id, key.bytes, &[])?;
        let target = WriteTarget { contents, key, current, there };
        let (_, seq) = self.apply_write(&mut guard, &target, &draft, want, &pin)?;
        let work = guard.end();
        record.bring_large_value();
        let (key, value) = record.keep_record().into_parts();
        drop(pin);
        self.notify_worker(work);
        self.compactor.throttle(self, work);
        self.wait_for(seq, durability)?;
        Ok(PopOutcome::Done(Some((Value::from_slice(key), Value::from_slice(value)))))
    }
}
