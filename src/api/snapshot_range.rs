//! Ranges of the keys of an ordered keyspace as of a snapshot.

use std::ops::RangeBounds;

use super::snapshot::KeyspaceSnapshot;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::pages_ahead::PagesAhead;
use crate::engine::read::range_buffer::{End, Popped, RangeBuffer};
use crate::engine::state::catalog::KeyspaceAsOf;
use crate::error::{Error, Result};
use crate::index::key_index::ScanPosition;
use crate::index::tree::EntryPlace;
use crate::mem::address_space::OwnedRecord;
use crate::sync::epoch::Pin;

/// A key and its value.
type Item = (Value, Value);

/// The reads of an ordered keyspace; see [`Reader::range`](crate::Reader::range) and its like.
impl KeyspaceSnapshot {
    /// Returns true if the keyspace is ordered, so that [`KeyspaceSnapshot::range`] and its like work.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.id().is_ordered()
    }

    /// Returns an iterator over the keys in a range and the values that they had, in ascending order. It
    /// goes from both ends.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// users.insert("anna", "admin")?;
    /// users.insert("berta", "guest")?;
    /// let snapshot = store.snapshot();
    /// users.clear()?;
    /// let names = snapshot.keyspace("users")?.range("b"..).map(|item| Ok(item?.0));
    /// assert_eq!(names.collect::<mapcask::Result<Vec<_>>>()?, ["berta"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The items have the errors of [`KeyspaceSnapshot::get`]. Also `KeyspaceNotOrdered`, as the only
    /// item.
    #[must_use]
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> SnapshotRange {
        SnapshotRange::new(self, KeyRange::of(&range))
    }

    /// Returns an iterator over the keys that begin with `prefix` and the values that they had; see
    /// [`KeyspaceSnapshot::range`].
    #[doc(alias = "scan_prefix")]
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> SnapshotRange {
        SnapshotRange::new(self, KeyRange::of_prefix(prefix.as_ref()))
    }

    /// Returns the first key and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::get`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "first")]
    pub fn first_key_value(&self) -> Result<Option<Item>> {
        SnapshotRange::new(self, KeyRange::all()).next().transpose()
    }

    /// Returns the last key and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    #[doc(alias = "last")]
    pub fn last_key_value(&self) -> Result<Option<Item>> {
        SnapshotRange::new(self, KeyRange::all()).next_back().transpose()
    }

    /// Returns the greatest key below `key` and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    pub fn get_lt(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::below(key.as_ref());
        SnapshotRange::new(self, range).next_back().transpose()
    }

    /// Returns the greatest key at or below `key` and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    pub fn get_le(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::up_to(key.as_ref());
        SnapshotRange::new(self, range).next_back().transpose()
    }

    /// Returns the least key at or above `key` and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    pub fn get_ge(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::at_least(key.as_ref());
        SnapshotRange::new(self, range).next().transpose()
    }

    /// Returns the least key above `key` and the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    pub fn get_gt(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::above(key.as_ref());
        SnapshotRange::new(self, range).next().transpose()
    }

    /// Returns the number of keys in a range. It reads their records.
    ///
    /// # Errors
    ///
    /// Fails as [`KeyspaceSnapshot::first_key_value`] does.
    pub fn count_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        let mut count = 0;
        for item in self.range(range) {
            item?;
            count += 1;
        }
        Ok(count)
    }

    /// Gathers the records of the next few keys at an end, in ascending order, and takes them off the
    /// range. Beside the end stands the most leaves that are read.
    fn gather_range(
        &self,
        range: &mut Option<KeyRange>,
        (end, leaves): (End, usize),
        pages: &mut PagesAhead,
    ) -> Result<Vec<OwnedRecord>> {
        let Some(before) = range.clone() else { return Ok(Vec::new()) };
        let (left, found) = self.mended(|seen| {
            let state = self.state();
            let pin = state.pin();
            let (mut left, mut places, mut found) = (Some(before.clone()), Vec::new(), Vec::new());
            state.scan_piece(&seen.index, &mut left, (end, &mut { leaves }), &mut places, &pin)?;
            let taken = match (&left, end) {
                (None, _) => before.clone(),
                (Some(left), End::Front) => {
                    KeyRange { from: before.from.clone(), to: Some(left.from.clone()) }
                }
                (Some(left), End::Back) => {
                    KeyRange { from: left.to.clone().unwrap_or_default(), to: before.to.clone() }
                }
            };
            pages.ask(state, &places, |(location, _)| *location, &pin);
            self.keep_seen(seen, places.into_iter(), &pin, &mut found)?;
            let to = taken.to.as_deref().map(ScanPosition::of_key);
            self.keep_versions(seen, &ScanPosition::of_key(&taken.from), to.as_ref(), &mut found);
            found.sort_unstable_by(|one, other| one.key().cmp(other.key()));
            Ok((left, found))
        })?;
        *range = left;
        Ok(found)
    }

    /// Appends the records at some places of the index that the snapshot sees.
    pub(super) fn keep_seen(
        &self,
        seen: &KeyspaceAsOf,
        places: impl Iterator<Item = EntryPlace>,
        pin: &Pin,
        found: &mut Vec<OwnedRecord>,
    ) -> Result<()> {
        let (state, at) = (self.state(), self.at());
        for (location, is_verified) in places {
            let record = state.record(location, pin)?;
            if record.seq() <= at {
                if !record.is_put() || state.config.verify_reads {
                    state.check_record(&record)?;
                }
                if !is_verified && seen.index.is_from_checkpoint() {
                    state.check_first(&seen.index, state.search_key(record.key()), location, &record)?;
                }
                state.check_replaced(&record)?;
                record.bring_large_value();
                found.extend(record.is_put().then(|| record.keep_record()));
            }
        }
        Ok(())
    }

    /// Appends the versions of the keys between two positions that the snapshot sees, and leaves out
    /// what is there already.
    ///
    /// The versions are read after the index: a record that was superseded before the scan reached it
    /// is retained by now. A record superseded in between is found twice, with one sequence number.
    pub(super) fn keep_versions(
        &self,
        seen: &KeyspaceAsOf,
        from: &ScanPosition,
        to: Option<&ScanPosition>,
        found: &mut Vec<OwnedRecord>,
    ) {
        seen.versions.between(from, to, self.at(), found);
        found.sort_unstable_by_key(OwnedRecord::seq);
        found.dedup_by_key(|record| record.seq());
    }
}

/// The most leaves that are read at once, behind the first one.
const LEAVES_MAX: usize = 2;

/// An iterator over a range of the keys of an ordered keyspace as of a snapshot, in ascending order, or
/// from the back in descending order.
#[derive(Debug)]
pub struct SnapshotRange {
    snapshot: KeyspaceSnapshot,
    buffer: RangeBuffer<OwnedRecord>,
    /// The number of leaves to gather next.
    leaves: usize,
    pages: PagesAhead,
}

impl SnapshotRange {
    pub(super) fn new(snapshot: &KeyspaceSnapshot, range: KeyRange) -> Self {
        let mut buffer = RangeBuffer::new(range);
        if let Err(error) = snapshot.check() {
            // The name is behind a lock, which a child cannot take.
            buffer.end_with(error);
        } else if !snapshot.id().is_ordered() {
            buffer.end_with(Error::KeyspaceNotOrdered { name: snapshot.name() });
        }
        Self { snapshot: snapshot.clone(), buffer, leaves: 1, pages: PagesAhead::default() }
    }

    /// Skips the keys before `key`; see [`Range::seek`](crate::Range::seek).
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Front);
    }

    /// Skips the keys behind `key`; see [`Range::seek_back`](crate::Range::seek_back).
    pub fn seek_back(&mut self, key: impl AsRef<[u8]>) {
        self.seek_at(key.as_ref(), End::Back);
    }

    fn seek_at(&mut self, key: &[u8], end: End) {
        self.buffer.seek(key, end, |record| Some(record.key().cmp(key)));
    }

    fn step(&mut self, end: End) -> Option<Result<Item>> {
        loop {
            match self.buffer.pop(end) {
                Popped::Item(record) => {
                    let (key, value) = record.into_parts();
                    return Some(Ok((Value::from_slice(key), Value::from_slice(value))));
                }
                Popped::Failed(error) => return Some(Err(error)),
                Popped::Missing => {
                    let Self { snapshot, buffer, leaves, pages } = self;
                    let way = (end, *leaves);
                    let found =
                        snapshot.check().and_then(|()| snapshot.gather_range(&mut buffer.left, way, pages));
                    *leaves = LEAVES_MAX;
                    match found {
                        Ok(mut found) => {
                            if end == End::Back {
                                found.reverse();
                            }
                            buffer.fill(end, found);
                        }
                        Err(error) => buffer.end_with(error),
                    }
                }
                Popped::End => return None,
            }
        }
    }
}

impl Iterator for SnapshotRange {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front)
    }
}

impl DoubleEndedIterator for SnapshotRange {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back)
    }
}

impl std::iter::FusedIterator for SnapshotRange {}
