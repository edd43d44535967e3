//! Reads of an ordered keyspace as of one point in the order of writes.
//!
//! The seqlock (`sync::seqlock`) makes them one point, as it does for `multi_get`.

use std::ops::RangeBounds;

use super::key_range::KeyRange;
use super::multi_get::ATTEMPTS;
use super::pages_ahead::{AHEAD_MAX, PagesAhead};
use super::range_buffer::End;
use super::{Value, View};
use crate::engine::state::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::index::key_index::KeyIndex;
use crate::index::tree::{Aim, EntryPlace, LEAF_MAX};
use crate::mem::address_space::Record;
use crate::sync::epoch::Pin;

/// The most leaves that are read at once.
pub(super) const LEAVES_MAX: usize = 6;
/// The most items that [`State::range_values`] returns: it may read them under the writer mutex.
pub(crate) const RANGE_MAX: usize = 4096;

impl State {
    /// Returns the contents of an ordered keyspace.
    ///
    /// # Errors
    ///
    /// `KeyspaceNotOrdered` or `KeyspaceDropped`.
    pub(crate) fn ordered_contents<'p>(
        &self,
        keyspace: &'p KeyspaceState,
        pin: &'p Pin,
    ) -> Result<&'p KeyspaceData> {
        let contents = self.contents(keyspace, pin)?;
        if contents.id.is_ordered() {
            return Ok(contents);
        }
        Err(Error::KeyspaceNotOrdered { name: keyspace.name().to_string() })
    }

    /// Appends the places of the records of the next few keys at an end of a range, in the order in which that
    /// end returns them, and takes the keys off the range; it is `None` once no key may be left. Beside the
    /// end stands the most leaves that are read; those that were are taken off.
    ///
    /// # Errors
    ///
    /// If the tree has ended, a block of a checkpoint cannot be read, or a key at an end of the range
    /// cannot be read. Nothing was taken off then.
    pub(crate) fn scan_piece(
        &self,
        index: &KeyIndex,
        range: &mut Option<KeyRange>,
        (end, leaves): (End, &mut usize),
        out: &mut Vec<EntryPlace>,
        pin: &Pin,
    ) -> Result<()> {
        let (Some(tree), Some(left)) = (index.sorted(), range.as_mut()) else {
            *range = None;
            return Ok(());
        };
        out.reserve(*leaves * LEAF_MAX);
        let is_before = |place, key: &[u8]| self.is_before(place, key, pin);
        let (bounds, take) = ((&*left.from, left.to.as_deref()), |place| out.push(place));
        let next = match end {
            End::Front => tree.scan(bounds, leaves, take, is_before)?,
            End::Back => tree.scan_back(bounds, leaves, take, is_before)?,
        };
        match (next, end) {
            (Some(next), End::Front) => left.from = next,
            (Some(next), End::Back) => left.to = Some(next),
            (None, _) => *range = None,
        }
        Ok(())
    }

    /// Runs a read as of one point in the order of writes. After three attempts that a write
    /// overlapped, it runs under the writer mutex. The read may end early, with any result, once the
    /// condition that it gets no longer holds.
    ///
    /// # Errors
    ///
    /// The error of the read.
    fn at_one_moment<T>(&self, mut read: impl FnMut(&dyn Fn() -> bool) -> Result<T>) -> Result<T> {
        let mut attempts = 0;
        loop {
            let quiet = (attempts == ATTEMPTS).then(|| self.writer.lock());
            let start = self.seqlock.now();
            let goes_on = || quiet.is_some() || self.seqlock.is_unchanged_since(start);
            match read(&goes_on) {
                Ok(found) if goes_on() => return Ok(found),
                Ok(_) => attempts += 1,
                Err(error) => {
                    // A rebuild takes the lock.
                    drop(quiet);
                    if !self.rebuild_if_damaged(&error)? {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Calls `take` with the place of each key's record in a range, from one end, until it returns true or
    /// `goes_on` returns false. While no write takes effect, all these records are of values.
    fn each_in<'p>(
        &'p self,
        contents: &KeyspaceData,
        (range, end): (&KeyRange, End),
        pin: &'p Pin,
        goes_on: &dyn Fn() -> bool,
        mut take: impl FnMut(EntryPlace) -> Result<bool>,
    ) -> Result<()> {
        let mut left = Some(range.clone()).filter(|range| !range.is_empty());
        // Most reads end in the first leaf.
        let (mut places, mut leaves) = (Vec::new(), 1);
        while left.is_some() && goes_on() {
            places.clear();
            self.scan_piece(&contents.index, &mut left, (end, &mut { leaves }), &mut places, pin)?;
            leaves = (leaves * 2).min(LEAVES_MAX);
            for place in &places {
                if take(*place)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns the number of keys in a range of an ordered keyspace; more than `most` count as one
    /// more. It is exact if no write takes effect meanwhile.
    ///
    /// # Errors
    ///
    /// The errors of [`State::scan_piece`].
    pub(crate) fn count_upto(
        &self,
        contents: &KeyspaceData,
        range: &KeyRange,
        most: u64,
        pin: &Pin,
    ) -> Result<u64> {
        let mut count = 0;
        self.each_in(contents, (range, End::Front), pin, &|| true, |_| {
            count += 1;
            Ok(count > most)
        })?;
        Ok(count)
    }

    /// Returns the first or the last record of a range that readers see.
    ///
    /// # Errors
    ///
    /// The errors of a get.
    pub(crate) fn end_of_range<'p>(
        &'p self,
        contents: &KeyspaceData,
        range: &KeyRange,
        end: End,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        if let Some(found) = self.nearest_end(contents, range, end, pin) {
            return Ok(found);
        }
        let mut found = None;
        self.each_in(contents, (range, end), pin, &|| true, |entry| {
            found = super::iter::read(self, contents, entry, pin)?;
            Ok(found.is_some())
        })?;
        Ok(found)
    }

    /// Returns what [`State::end_of_range`] does, if the leaf where a search for the key arrives is enough:
    /// `Some(None)` says that the range has no key.
    ///
    /// It returns no error, because the record may lie outside the range. The walk over the range meets an
    /// error that lies within.
    fn nearest_end<'p>(
        &'p self,
        contents: &KeyspaceData,
        range: &KeyRange,
        end: End,
        pin: &'p Pin,
    ) -> Option<Option<Record<'p>>> {
        let aim = match end {
            End::Front if range.from.is_empty() => Aim::First,
            End::Front => Aim::At(&range.from),
            End::Back => range.to.as_deref().map_or(Aim::Last, Aim::Before),
        };
        let is_before = |place, key: &[u8]| self.is_before(place, key, pin);
        let place = contents.index.sorted()?.nearest(aim, is_before).ok()??;
        let record = super::iter::read(self, contents, place, pin).ok()??;
        let is_within = range.contains(record.key());
        // The key, too, may lie on a page that cannot be read.
        self.check_replaced(&record).ok().map(|()| is_within.then_some(record))
    }

    /// Returns the first or the last key of a range with its value, as of one point in the order of
    /// writes.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`](crate::Reader::first_key_value) does.
    pub(crate) fn end_item(
        &self,
        keyspace: &KeyspaceState,
        range: &KeyRange,
        end: End,
    ) -> Result<Option<(Value, Value)>> {
        Ok(self.end_record(keyspace, range, end)?.map(|(_, item)| item))
    }

    /// Returns what [`State::end_item`] does, with the record's sequence number.
    ///
    /// # Errors
    ///
    /// Fails as [`State::end_item`] does.
    pub(crate) fn end_record(
        &self,
        keyspace: &KeyspaceState,
        range: &KeyRange,
        end: End,
    ) -> Result<Option<(Seq, (Value, Value))>> {
        let pin = self.pin();
        let found = self.end_as_of_now(keyspace, range, end, &pin)?;
        Ok(found.map(|record| (record.seq(), item_of(&record))))
    }

    /// Returns the first or the last record of a range, as of one point in the order of writes.
    ///
    /// # Errors
    ///
    /// Fails as [`State::end_item`] does.
    fn end_as_of_now<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        range: &KeyRange,
        end: End,
        pin: &'p Pin,
    ) -> Result<Option<Record<'p>>> {
        self.fork_guard.check()?;
        self.at_one_moment(|_| {
            let contents = self.ordered_contents(keyspace, pin)?;
            self.end_of_range(contents, range, end, pin)
        })
    }

    /// Returns the first items of a range, as of one point in the order of writes.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::get_range`](crate::Reader::get_range) does.
    pub(crate) fn range_values(
        &self,
        keyspace: &KeyspaceState,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(Value, Value)>> {
        let pin = self.pin();
        Ok(self.range_records(keyspace, range, limit, &pin)?.iter().map(item_of).collect())
    }

    /// Returns the records of the first items of a range, as of one point in the order of writes.
    ///
    /// # Errors
    ///
    /// Fails as [`State::range_values`] does.
    fn range_records<'p>(
        &'p self,
        keyspace: &'p KeyspaceState,
        range: &KeyRange,
        limit: usize,
        pin: &'p Pin,
    ) -> Result<Vec<Record<'p>>> {
        self.fork_guard.check()?;
        if limit > RANGE_MAX {
            return Err(Error::Limit {
                what: "a range is read as of one moment with a limit of at most 4,096 keys",
                advice: "use `range`, or read one as of a snapshot",
            });
        }
        self.at_one_moment(|goes_on| {
            let contents = self.ordered_contents(keyspace, pin)?;
            let mut places = Vec::new();
            if limit > 0 {
                self.each_in(contents, (range, End::Front), pin, goes_on, |entry| {
                    self.shared.space.prefetch(entry.0);
                    places.push(entry);
                    // A write that takes effect now hides some, and then all is read again.
                    Ok(places.len() == limit)
                })?;
            }
            let (mut records, mut pages) = (Vec::with_capacity(places.len()), PagesAhead::default());
            // A read that a write has overlapped is repeated, so it may end early.
            for group in places.chunks(AHEAD_MAX).take_while(|_| goes_on()) {
                pages.ask(self, group, |(location, _)| *location, pin);
                for entry in group {
                    records.extend(super::iter::read(self, contents, *entry, pin)?);
                }
            }
            Ok(records)
        })
    }

    /// Returns the number of keys in a range, as of one point in the order of writes. It reads no
    /// values.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::count_range`](crate::Reader::count_range) does.
    pub(crate) fn count_range(&self, keyspace: &KeyspaceState, range: &KeyRange) -> Result<u64> {
        self.fork_guard.check()?;
        let pin = self.pin();
        self.at_one_moment(|goes_on| {
            let contents = self.ordered_contents(keyspace, &pin)?;
            let mut count = 0;
            self.each_in(contents, (range, End::Front), &pin, goes_on, |_| {
                count += 1;
                Ok(false)
            })?;
            Ok(count)
        })
    }
}

impl View<'_> {
    /// Returns the first key of an ordered keyspace and its value, borrowed from the view, as of one point
    /// in the order of writes.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// users.insert("berta", "guest")?;
    /// users.insert("anna", "admin")?;
    /// assert_eq!(users.view().first_key_value()?, Some((&b"anna"[..], &b"admin"[..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`](crate::Reader::first_key_value) does.
    #[doc(alias = "first")]
    #[doc(alias = "min")]
    pub fn first_key_value(&self) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::all(), End::Front)
    }

    /// Returns the last key of an ordered keyspace and its value; see [`View::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`View::first_key_value`] does.
    #[doc(alias = "last")]
    #[doc(alias = "max")]
    pub fn last_key_value(&self) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::all(), End::Back)
    }

    /// Returns the greatest key below `key` and its value; see [`View::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`View::first_key_value`] does.
    pub fn get_lt(&self, key: impl AsRef<[u8]>) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::below(key.as_ref()), End::Back)
    }

    /// Returns the greatest key at or below `key` and its value; see [`View::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`View::first_key_value`] does.
    #[doc(alias = "floor")]
    pub fn get_le(&self, key: impl AsRef<[u8]>) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::up_to(key.as_ref()), End::Back)
    }

    /// Returns the least key at or above `key` and its value; see [`View::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`View::first_key_value`] does.
    #[doc(alias = "ceiling")]
    pub fn get_ge(&self, key: impl AsRef<[u8]>) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::at_least(key.as_ref()), End::Front)
    }

    /// Returns the least key above `key` and its value; see [`View::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`View::first_key_value`] does.
    pub fn get_gt(&self, key: impl AsRef<[u8]>) -> Result<Option<(&[u8], &[u8])>> {
        self.end_item(&KeyRange::above(key.as_ref()), End::Front)
    }

    /// Returns the first `limit` keys in a range and their values, borrowed from the view, as of one point in
    /// the order of writes; see [`Reader::get_range`](crate::Reader::get_range).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// for name in ["anna", "berta", "carla"] {
    ///     users.insert(name, "")?;
    /// }
    /// let view = users.view();
    /// assert_eq!(view.get_range("b".., 1)?, [(&b"berta"[..], &b""[..])]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::get_range`](crate::Reader::get_range) does.
    pub fn get_range<K: AsRef<[u8]>>(
        &self,
        range: impl RangeBounds<K>,
        limit: usize,
    ) -> Result<Vec<(&[u8], &[u8])>> {
        let records = self.state.range_records(self.keyspace, &KeyRange::of(&range), limit, &self.pin)?;
        Ok(records.iter().map(|record| (record.key(), record.value())).collect())
    }

    /// Returns the number of keys in a range, as of one point in the order of writes; see
    /// [`Reader::count_range`](crate::Reader::count_range).
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::count_range`](crate::Reader::count_range) does.
    pub fn count_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        self.state.count_range(self.keyspace, &KeyRange::of(&range))
    }

    fn end_item(&self, range: &KeyRange, end: End) -> Result<Option<(&[u8], &[u8])>> {
        let record = self.state.end_as_of_now(self.keyspace, range, end, &self.pin)?;
        Ok(record.map(|record| (record.key(), record.value())))
    }
}

fn item_of(record: &Record<'_>) -> (Value, Value) {
    record.bring_large_value();
    let (key, value) = record.keep_record().into_parts();
    (Value::from_slice(key), Value::from_slice(value))
}
