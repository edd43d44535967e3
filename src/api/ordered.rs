//! The reads of an ordered keyspace: ranges, its ends, neighbours of a key.

use std::ops::RangeBounds;
use std::sync::Arc;

use super::reader::Reader;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range::Range;
use crate::engine::read::range_buffer::End;
use crate::error::Result;

impl Reader {
    /// Returns true if the keyspace is ordered, so that [`Reader::range`] and its like work.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let pin = self.inner().pin();
        self.inner().contents(&pin).is_some_and(|contents| contents.id.is_ordered())
    }

    /// Returns an iterator over the keys in a range and their values, in ascending order. It goes from
    /// both ends.
    ///
    /// The keyspace must be [ordered](crate::Store::ordered_keyspace). A range whose end is before its
    /// begin is empty.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// for name in ["dora", "anna", "carla", "berta"] {
    ///     users.insert(name, "")?;
    /// }
    /// let names = users.range("anna"..="carla").map(|item| Ok(item?.0));
    /// assert_eq!(names.collect::<mapcask::Result<Vec<_>>>()?, ["anna", "berta", "carla"]);
    /// let last = users.range::<&str>(..).next_back().expect("there are four")?;
    /// assert_eq!(last.0, "dora");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// If the store is larger than memory, a range reads a page of 4 KiB from the device for each key, or
    /// two if its record ends on another page. Keys share pages that were written in order, or that compaction
    /// has copied. The range asks for many pages at a time: for those of up to 31 keys at first, and of up to 186
    /// later. A range of a [`View`](crate::View::range) of which you take few keys, without `seek` and from one end,
    /// reads less: eight keys more than twice as many as it returns.
    ///
    /// The items have the errors of [`Reader::get`]. Also `KeyspaceNotOrdered`, as the only item.
    #[doc(alias = "scan")]
    #[must_use]
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Range {
        self.range_of(KeyRange::of(&range))
    }

    /// Returns an iterator over the keys that begin with `prefix` and their values; see
    /// [`Reader::range`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let data = store.ordered_keyspace("data")?;
    /// data.insert("user/anna", "admin")?;
    /// data.insert("user/berta", "guest")?;
    /// data.insert("version", "7")?;
    /// assert_eq!(data.prefix("user/").count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "scan_prefix")]
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.range_of(KeyRange::of_prefix(prefix.as_ref()))
    }

    pub(super) fn range_of(&self, range: KeyRange) -> Range {
        Range::new(Arc::clone(&self.handle().state), Arc::clone(self.inner()), range)
    }

    /// Returns the first key of an ordered keyspace and its value, as of one point in the order of
    /// writes.
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// assert_eq!(users.first_key_value()?, None);
    /// users.insert("berta", "guest")?;
    /// users.insert("anna", "admin")?;
    /// assert_eq!(users.first_key_value()?.expect("there are two").0, "anna");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::get`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "first")]
    #[doc(alias = "min")]
    pub fn first_key_value(&self) -> Result<Option<(Value, Value)>> {
        self.state().end_item(self.inner(), &KeyRange::all(), End::Front)
    }

    /// Returns the last key of an ordered keyspace and its value; see [`Reader::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    #[doc(alias = "last")]
    #[doc(alias = "max")]
    pub fn last_key_value(&self) -> Result<Option<(Value, Value)>> {
        self.state().end_item(self.inner(), &KeyRange::all(), End::Back)
    }

    /// Returns the greatest key below `key` and its value; see [`Reader::first_key_value`].
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let prices = store.ordered_keyspace("prices")?;
    /// prices.insert("2026-01-01", "10")?;
    /// prices.insert("2026-03-01", "12")?;
    /// // The price on a day is the one of the last change up to it.
    /// assert_eq!(prices.get_le("2026-02-11")?.expect("there is one").1, "10");
    /// assert_eq!(prices.get_lt("2026-01-01")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    pub fn get_lt(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Value)>> {
        let range = KeyRange::below(key.as_ref());
        self.state().end_item(self.inner(), &range, End::Back)
    }

    /// Returns the greatest key at or below `key` and its value; see [`Reader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    #[doc(alias = "floor")]
    pub fn get_le(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Value)>> {
        let range = KeyRange::up_to(key.as_ref());
        self.state().end_item(self.inner(), &range, End::Back)
    }

    /// Returns the least key at or above `key` and its value; see [`Reader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    #[doc(alias = "lower_bound")]
    #[doc(alias = "ceiling")]
    pub fn get_ge(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Value)>> {
        let range = KeyRange::at_least(key.as_ref());
        self.state().end_item(self.inner(), &range, End::Front)
    }

    /// Returns the least key above `key` and its value; see [`Reader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    #[doc(alias = "upper_bound")]
    pub fn get_gt(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Value)>> {
        let range = KeyRange::above(key.as_ref());
        self.state().end_item(self.inner(), &range, End::Front)
    }

    /// Returns the first `limit` keys in a range and their values, as of one point in the order of
    /// writes.
    ///
    /// After three attempts that a write overlapped, it reads under the writer mutex. So the limit is
    /// at most 4,096. For more, use [`Reader::range`], or a [`Snapshot`](crate::Snapshot).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// for name in ["anna", "berta", "carla"] {
    ///     users.insert(name, "")?;
    /// }
    /// // The next page begins behind the last key of the page before.
    /// let behind = (std::ops::Bound::Excluded("anna"), std::ops::Bound::Unbounded);
    /// let page = users.get_range::<&str>(behind, 2)?;
    /// assert_eq!(page[0].0, "berta");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does. Also `Limit`.
    pub fn get_range<K: AsRef<[u8]>>(
        &self,
        range: impl RangeBounds<K>,
        limit: usize,
    ) -> Result<Vec<(Value, Value)>> {
        self.state().range_values(self.inner(), &KeyRange::of(&range), limit)
    }

    /// Returns the number of keys in a range, as of one point in the order of writes.
    ///
    /// It reads no values. After three attempts that a write overlapped, it counts under the writer mutex,
    /// and writers wait for the time that it takes. For a large range beside steady writes, use
    /// [`Reader::range`] or a [`Snapshot`](crate::Snapshot).
    ///
    /// ```
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let users = store.ordered_keyspace("users")?;
    /// for name in ["anna", "berta", "carla"] {
    ///     users.insert(name, "")?;
    /// }
    /// assert_eq!(users.count_range("b"..)?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::first_key_value`] does.
    pub fn count_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        self.state().count_range(self.inner(), &KeyRange::of(&range))
    }
}
