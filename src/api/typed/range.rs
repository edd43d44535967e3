//! The reads of an ordered typed keyspace: ranges, its ends, neighbours of a key.

use std::borrow::Borrow;
use std::ops::RangeBounds;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::Codec;
use super::iter::TypedRange;
use super::reader::TypedReader;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::error::Result;

impl<K, V, C> TypedReader<K, V, C>
where
    K: ?Sized + Serialize + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    /// Returns an iterator over the keys in a range and their values, in ascending order. It goes from
    /// both ends.
    ///
    /// The keyspace must be [ordered](crate::Store::ordered_typed_keyspace). See
    /// [`Reader::range`](crate::Reader::range).
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let ages: TypedKeyspace<str, u32, _> = store.ordered_typed_keyspace("ages", Postcard)?;
    /// for (name, age) in [("dora", 9), ("anna", 42), ("carla", 31), ("berta", 7)] {
    ///     ages.insert(name, &age)?;
    /// }
    /// let found = ages.range("anna"..="berta").collect::<mapcask::Result<Vec<_>>>()?;
    /// assert_eq!(found, [("anna".to_owned(), 42), ("berta".to_owned(), 7)]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The items have the errors of [`TypedReader::get`]. Also `KeyspaceNotOrdered`, or `Codec` if a bound
    /// cannot be encoded, as the only item.
    #[doc(alias = "scan")]
    #[must_use]
    pub fn range<Q: Borrow<K>>(&self, range: impl RangeBounds<Q>) -> TypedRange<K, V, C>
    where
        C: Clone,
    {
        self.range_of(self.encoding.range(&range))
    }

    /// Returns an iterator over the keys that begin with `prefix` and their values; see
    /// [`TypedReader::range`].
    ///
    /// The prefix holds the first fields of the key: of keys `(String, u32, u64)` it is `&("anna",)` or
    /// `&("anna", 7_u32)`. A text alone, as `"an"`, is the beginning of the key's text, or of its first field.
    /// So is one in a newtype. A text behind other fields is a whole field.
    ///
    /// The fields must have the types of the key: `&7` is an `i32` and finds no key of `u32`. A key that is
    /// a sequence, as `[u8]` is for serde, has no prefix but itself; use [`TypedReader::range`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let visits: TypedKeyspace<(String, u64), (), _> = store.ordered_typed_keyspace("visits", Postcard)?;
    /// for (name, time) in [("anna", 1), ("anna", 2), ("annabel", 3), ("berta", 4)] {
    ///     visits.insert(&(name.to_owned(), time), &())?;
    /// }
    /// assert_eq!(visits.prefix(&("anna",)).count(), 2);
    /// assert_eq!(visits.prefix("anna").count(), 3);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "scan_prefix")]
    #[must_use]
    pub fn prefix<P: Serialize + ?Sized>(&self, prefix: &P) -> TypedRange<K, V, C>
    where
        C: Clone,
    {
        self.range_of(self.encoding.prefix(prefix))
    }

    fn range_of(&self, range: Result<KeyRange>) -> TypedRange<K, V, C>
    where
        C: Clone,
    {
        let (range, refusal) = match range {
            Ok(range) => (range, None),
            Err(error) => (KeyRange::all(), Some(error)),
        };
        let mut items = self.reader.range_of(range);
        if let Some(error) = refusal {
            items.refuse(error);
        }
        TypedRange::new(items, self.encoding.clone())
    }

    /// Returns the first key of an ordered typed keyspace and its value, as of one point in the order of
    /// writes.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let depths: TypedKeyspace<i32, String, _> = store.ordered_typed_keyspace("depths", Postcard)?;
    /// assert_eq!(depths.first_key_value()?, None);
    /// depths.insert(&8848, &"summit".to_owned())?;
    /// depths.insert(&-10_935, &"trench".to_owned())?;
    /// assert_eq!(depths.first_key_value()?, Some((-10_935, "trench".to_owned())));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::get`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "first")]
    #[doc(alias = "min")]
    pub fn first_key_value(&self) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.first_key_value())
    }

    /// Returns the last key of an ordered typed keyspace and its value; see
    /// [`TypedReader::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    #[doc(alias = "last")]
    #[doc(alias = "max")]
    pub fn last_key_value(&self) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.last_key_value())
    }

    /// Returns the greatest key below `key` and its value; see [`Reader::get_lt`](crate::Reader::get_lt).
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// // Keys are a year, a month and a day.
    /// let prices: TypedKeyspace<(i32, u8, u8), u32, _> = store.ordered_typed_keyspace("prices", Postcard)?;
    /// prices.insert(&(2026, 1, 1), &10)?;
    /// prices.insert(&(2026, 3, 1), &12)?;
    /// // The price on a day is the one of the last change up to it.
    /// assert_eq!(prices.get_le(&(2026, 2, 11))?, Some(((2026, 1, 1), 10)));
    /// assert_eq!(prices.get_lt(&(2026, 1, 1))?, None);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    pub fn get_lt(&self, key: &K) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.get_lt(self.encode_key(key)?))
    }

    /// Returns the greatest key at or below `key` and its value; see [`TypedReader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    #[doc(alias = "floor")]
    pub fn get_le(&self, key: &K) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.get_le(self.encode_key(key)?))
    }

    /// Returns the least key at or above `key` and its value; see [`TypedReader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    #[doc(alias = "lower_bound")]
    #[doc(alias = "ceiling")]
    pub fn get_ge(&self, key: &K) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.get_ge(self.encode_key(key)?))
    }

    /// Returns the least key above `key` and its value; see [`TypedReader::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    #[doc(alias = "upper_bound")]
    pub fn get_gt(&self, key: &K) -> Result<Option<(K::Owned, V)>> {
        self.item(self.reader.get_gt(self.encode_key(key)?))
    }

    /// Returns the first `limit` keys in a range and their values, as of one point in the order of
    /// writes; see [`Reader::get_range`](crate::Reader::get_range).
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    /// use std::ops::Bound::{Excluded, Unbounded};
    ///
    /// let ages: TypedKeyspace<str, u32, _> = store.ordered_typed_keyspace("ages", Postcard)?;
    /// for (name, age) in [("anna", 42), ("berta", 7), ("carla", 31)] {
    ///     ages.insert(name, &age)?;
    /// }
    /// // The next page begins behind the last key of the page before.
    /// let page = ages.get_range::<&str>((Excluded("anna"), Unbounded), 1)?;
    /// assert_eq!(page, [("berta".to_owned(), 7)]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does. Also `Limit`.
    pub fn get_range<Q: Borrow<K>>(
        &self,
        range: impl RangeBounds<Q>,
        limit: usize,
    ) -> Result<Vec<(K::Owned, V)>> {
        let range = self.encoding.range(&range)?;
        let items = self.reader.state().range_values(self.reader.inner(), &range, limit)?;
        items.into_iter().filter_map(|item| self.encoding.stored(Some(Ok(item)))).collect()
    }

    /// Returns the number of keys in a range, as of one point in the order of writes; see
    /// [`Reader::count_range`](crate::Reader::count_range).
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::first_key_value`] does.
    pub fn count_range<Q: Borrow<K>>(&self, range: impl RangeBounds<Q>) -> Result<u64> {
        self.reader.state().count_range(self.reader.inner(), &self.encoding.range(&range)?)
    }

    fn item(&self, found: Result<Option<(Value, Value)>>) -> Result<Option<(K::Owned, V)>> {
        self.encoding.stored(found.transpose()).transpose()
    }
}
