//! Ranges of a transaction: the keys of its snapshot joined with its own writes.
//!
//! Each step is noted before its item is returned, so nothing depends on a drop. A key that the
//! transaction itself wrote, and that a range passes, counts as read.

use std::cmp::Ordering;
use std::collections::btree_map;
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::both_ends::BothEnds;
use super::keyspace::Keyspace;
use super::snapshot_range::SnapshotRange;
use super::transaction::{OwnValue, OwnWrites, Transaction, TxKeyspace};
use super::tx_value::TxValue;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range_buffer::End;
use crate::engine::write::read_set::KeyspaceReads;
use crate::error::{Error, Result};

/// A key and its value.
type Item = (TxValue, TxValue);

/// The reads of an ordered keyspace.
impl Transaction {
    /// Returns an iterator over the keys in a range and their values, own writes included, in ascending
    /// order. It goes from both ends.
    ///
    /// The keyspace must be [ordered](crate::Store::ordered_keyspace). The transaction has read the range up to the
    /// last item that was returned, from each end; all of it once there are no more. The items have the errors
    /// of [`Transaction::get`]. Also `KeyspaceNotOrdered`, as the only item.
    ///
    /// The iterator borrows the transaction. To write what it returns, collect the items first.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let seats = store.ordered_keyspace("seats")?;
    /// seats.insert("row 1/seat 1", "anna")?;
    /// let mut transaction = store.begin();
    /// let taken = transaction.range(&seats, "row 1".."row 2").count();
    /// transaction.insert(&seats, format!("row 1/seat {}", taken + 1), "berta")?;
    /// // A seat in another row is no conflict, one in this row is.
    /// seats.insert("row 2/seat 1", "carla")?;
    /// seats.insert("row 1/seat 2", "dora")?;
    /// assert!(matches!(transaction.commit(), Err(mapcask::Error::Conflict { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "scan")]
    pub fn range<K: AsRef<[u8]>>(&mut self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> TxRange<'_> {
        self.range_of(keyspace, KeyRange::of(&range))
    }

    /// Returns an iterator over the keys that begin with `prefix` and their values; see
    /// [`Transaction::range`].
    #[doc(alias = "scan_prefix")]
    pub fn prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> TxRange<'_> {
        self.range_of(keyspace, KeyRange::of_prefix(prefix.as_ref()))
    }

    /// Returns the first key of an ordered keyspace and its value.
    ///
    /// A new key before it is a conflict, and one behind it is none.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let (waiting, done) = (store.ordered_keyspace("waiting")?, store.keyspace("done")?);
    /// waiting.insert("1", "send the letter")?;
    /// waiting.insert("2", "call anna")?;
    /// store.transact(|transaction| {
    ///     let Some((key, job)) = transaction.first_key_value(&waiting)? else { return Ok(()) };
    ///     transaction.remove(&waiting, &key)?;
    ///     transaction.insert(&done, &key, job)
    /// })?;
    /// assert_eq!((waiting.len(), done.len()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::get`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "first")]
    pub fn first_key_value(&mut self, keyspace: &Keyspace) -> Result<Option<Item>> {
        self.range_of(keyspace, KeyRange::all()).next().transpose()
    }

    /// Returns the last key of an ordered keyspace and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    #[doc(alias = "last")]
    pub fn last_key_value(&mut self, keyspace: &Keyspace) -> Result<Option<Item>> {
        self.range_of(keyspace, KeyRange::all()).next_back().transpose()
    }

    /// Returns the greatest key below `key` and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    pub fn get_lt(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::below(key.as_ref());
        self.range_of(keyspace, range).next_back().transpose()
    }

    /// Returns the greatest key at or below `key` and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    pub fn get_le(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::up_to(key.as_ref());
        self.range_of(keyspace, range).next_back().transpose()
    }

    /// Returns the least key at or above `key` and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    pub fn get_ge(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::at_least(key.as_ref());
        self.range_of(keyspace, range).next().transpose()
    }

    /// Returns the least key above `key` and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    pub fn get_gt(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let range = KeyRange::above(key.as_ref());
        self.range_of(keyspace, range).next().transpose()
    }

    /// Returns the number of keys in a range, own writes included. It reads their records.
    ///
    /// Any change in the range is a conflict, also an overwritten value.
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::first_key_value`] does.
    pub fn count_range<K: AsRef<[u8]>>(
        &mut self,
        keyspace: &Keyspace,
        range: impl RangeBounds<K>,
    ) -> Result<u64> {
        let mut range = self.range_of(keyspace, KeyRange::of(&range));
        range.try_fold(0, |count, item| item.map(|_| count + 1))
    }

    pub(super) fn range_of(&mut self, keyspace: &Keyspace, range: KeyRange) -> TxRange<'_> {
        match self.begin_range(keyspace) {
            Ok(place) => {
                let TxKeyspace { seen, reads, own } = &mut self.parts[place];
                let stored = seen.as_ref().map(|seen| SnapshotRange::new(seen, range.clone()));
                TxRange::new(stored, own, reads, range)
            }
            Err(error) => TxRange::refused(error),
        }
    }

    /// Returns the place of an ordered keyspace in which another range may be read.
    fn begin_range(&mut self, keyspace: &Keyspace) -> Result<usize> {
        let place = self.place_of(keyspace)?;
        let part = &self.parts[place];
        let is_ordered = part.seen.as_ref().map_or_else(|| keyspace.is_ordered(), |seen| seen.is_ordered());
        if !is_ordered {
            return Err(Error::KeyspaceNotOrdered { name: keyspace.name() });
        }
        self.check_room()?;
        Ok(place)
    }
}

/// An iterator over a range of the keys of an ordered keyspace and their values, as a
/// [`Transaction`](crate::Transaction) sees them: in ascending order, or from the back in descending
/// order.
///
/// The transaction has read the keys up to the last one that was returned from each end. Other keys of
/// the range may change without a conflict. A key that the transaction itself has written counts as
/// read if the range passes it.
///
/// ```
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let users = store.ordered_keyspace("users")?;
/// users.insert("anna", "admin")?;
/// users.insert("berta", "guest")?;
/// let mut transaction = store.begin();
/// transaction.insert(&users, "carla", "guest")?;
/// transaction.remove(&users, "anna")?;
/// let names = transaction.prefix(&users, "").map(|item| Ok(item?.0));
/// assert_eq!(names.collect::<mapcask::Result<Vec<_>>>()?, ["berta", "carla"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TxRange<'t>(Progress<'t>);

#[derive(Debug)]
enum Progress<'t> {
    Walk(Box<TxWalk<'t>>),
    /// The next item is an error, and the last.
    Refused(Error),
    End,
}

/// Both sides of a range, and the notes of its reads.
struct TxWalk<'t> {
    stored: BothEnds<StoredItems>,
    own: BothEnds<btree_map::Range<'t, Arc<[u8]>, OwnValue>>,
    reads: &'t mut KeyspaceReads,
}

impl fmt::Debug for TxWalk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxWalk").finish_non_exhaustive()
    }
}

impl<'t> TxRange<'t> {
    /// Begins to read a range. `stored` has its keys in the snapshot; it is `None` if the snapshot lacks
    /// the keyspace.
    pub(super) fn new(
        stored: Option<SnapshotRange>,
        own: &'t OwnWrites,
        reads: &'t mut KeyspaceReads,
        range: KeyRange,
    ) -> Self {
        let own = if range.is_empty() {
            // A map refuses a range whose end is before its begin.
            own.range::<[u8], _>((Bound::Included(&[][..]), Bound::Excluded(&[][..])))
        } else {
            let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            own.range::<[u8], _>((Bound::Included(&*range.from), to))
        };
        reads.begin_range(range);
        let (stored, own) = (BothEnds::new(StoredItems(stored)), BothEnds::new(own));
        Self(Progress::Walk(Box::new(TxWalk { stored, own, reads })))
    }

    /// Returns a range whose only item is an error.
    pub(super) fn refused(error: Error) -> Self {
        Self(Progress::Refused(error))
    }

    fn step(&mut self, end: End) -> Option<Result<Item>> {
        let item = match &mut self.0 {
            Progress::Walk(walk) => walk.step(end),
            Progress::Refused(_) | Progress::End => None,
        };
        if item.as_ref().is_some_and(Result::is_ok) {
            return item;
        }
        match std::mem::replace(&mut self.0, Progress::End) {
            Progress::Refused(error) => Some(Err(error)),
            Progress::Walk(_) | Progress::End => item,
        }
    }
}

impl Iterator for TxRange<'_> {
    type Item = Result<(TxValue, TxValue)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front)
    }
}

impl DoubleEndedIterator for TxRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back)
    }
}

impl std::iter::FusedIterator for TxRange<'_> {}

impl TxWalk<'_> {
    fn step(&mut self, end: End) -> Option<Result<Item>> {
        loop {
            let order = match (self.stored.peek(end), self.own.peek(end)) {
                (Some(Err(_)), _) => return self.stored.pop(end)?.err().map(Err),
                (Some(Ok((stored, _))), Some((own, _))) if end == End::Front => (**stored).cmp(own),
                (Some(Ok((stored, _))), Some((own, _))) => (***own).cmp(stored),
                (Some(Ok(_)), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => {
                    self.reads.note_rest();
                    return None;
                }
            };
            let stored = if order.is_le() { self.stored.pop(end).and_then(Result::ok) } else { None };
            let own = if order.is_ge() { self.own.pop(end) } else { None };
            if let Some((key, value)) = own {
                self.reads.note_step(end, key, stored.is_some());
                // A key that the transaction has removed is passed.
                let Some(value) = value else { continue };
                return Some(Ok((TxValue::own(key), TxValue::own(value))));
            }
            let (key, value) = stored?;
            self.reads.note_step(end, &key, true);
            return Some(Ok((TxValue::stored(key), TxValue::stored(value))));
        }
    }
}

/// The keys of a range in the snapshot; none if the snapshot lacks the keyspace.
struct StoredItems(Option<SnapshotRange>);

impl Iterator for StoredItems {
    type Item = Result<(Value, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.as_mut()?.next()
    }
}

impl DoubleEndedIterator for StoredItems {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.as_mut()?.next_back()
    }
}
