//! Iterators over typed keys and values.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::Codec;
use super::encoding::Encoding;
use crate::api::tx_range::TxRange;
use crate::engine::read::iter::Iter;
use crate::engine::read::range::Range;
use crate::error::Result;

/// An iterator over all keys and values of a typed keyspace; see [`Iter`].
pub struct TypedIter<K: ?Sized, V, C> {
    items: Iter,
    encoding: Encoding<C>,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C> TypedIter<K, V, C> {
    pub(super) fn new(items: Iter, encoding: Encoding<C>) -> Self {
        Self { items, encoding, types: PhantomData }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedIter<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedIter").field("items", &self.items).finish_non_exhaustive()
    }
}

impl<K, V, C> Iterator for TypedIter<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    type Item = Result<(K::Owned, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.encoding.stored(self.items.next())
    }
}

impl<K, V, C> std::iter::FusedIterator for TypedIter<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
}

/// An iterator over a range of the keys of an ordered typed keyspace and their values, in ascending
/// order, or from the back in descending order; see [`Range`].
///
/// ```
/// # #[cfg(feature = "postcard")] {
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// use mapcask::{Postcard, TypedKeyspace};
///
/// let squares: TypedKeyspace<i32, i32, _> = store.ordered_typed_keyspace("squares", Postcard)?;
/// for n in -9..=9 {
///     squares.insert(&n, &(n * n))?;
/// }
/// let mut range = squares.range(-3..3);
/// assert_eq!(range.next().transpose()?, Some((-3, 9)));
/// assert_eq!(range.next_back().transpose()?, Some((2, 4)));
/// assert_eq!(range.count(), 4);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedRange<K: ?Sized, V, C> {
    items: Range,
    encoding: Encoding<C>,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C> TypedRange<K, V, C> {
    pub(super) fn new(items: Range, encoding: Encoding<C>) -> Self {
        Self { items, encoding, types: PhantomData }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedRange<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedRange").field("items", &self.items).finish_non_exhaustive()
    }
}

impl<K, V, C> Iterator for TypedRange<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    type Item = Result<(K::Owned, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.encoding.stored(self.items.next())
    }
}

impl<K, V, C> DoubleEndedIterator for TypedRange<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.encoding.stored(self.items.next_back())
    }
}

impl<K, V, C> std::iter::FusedIterator for TypedRange<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
}

impl<K: ?Sized + Serialize, V, C: Codec> TypedRange<K, V, C> {
    /// Skips the keys before `key`; see [`Range::seek`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let visits: TypedKeyspace<(u32, u64), (), _> = store.ordered_typed_keyspace("visits", Postcard)?;
    /// for visit in [(1, 100), (1, 101), (2, 50), (7, 60), (7, 61)] {
    ///     visits.insert(&visit, &())?;
    /// }
    /// // The first visit of each person.
    /// let (mut range, mut firsts) = (visits.range::<(u32, u64)>(..), Vec::new());
    /// while let Some(item) = range.next() {
    ///     let (visit, ()) = item?;
    ///     range.seek(&(visit.0, u64::MAX))?;
    ///     firsts.push(visit);
    /// }
    /// assert_eq!(firsts, [(1, 100), (2, 50), (7, 60)]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Codec` if the key cannot be encoded. Nothing was skipped then.
    #[doc(alias = "lower_bound")]
    pub fn seek(&mut self, key: &K) -> Result<()> {
        self.items.seek(self.encoding.key(key)?);
        Ok(())
    }

    /// Skips the keys behind `key`; see [`Range::seek_back`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedRange::seek`] does.
    pub fn seek_back(&mut self, key: &K) -> Result<()> {
        self.items.seek_back(self.encoding.key(key)?);
        Ok(())
    }
}

/// An iterator over a range of the keys of an ordered typed keyspace and their values, as a
/// [`Transaction`](crate::Transaction) sees them; see [`TxRange`].
pub struct TypedTxRange<'t, K: ?Sized, V, C> {
    items: TxRange<'t>,
    encoding: Encoding<C>,
    types: PhantomData<fn(&K) -> V>,
}

impl<'t, K: ?Sized, V, C> TypedTxRange<'t, K, V, C> {
    pub(super) fn new(items: TxRange<'t>, encoding: Encoding<C>) -> Self {
        Self { items, encoding, types: PhantomData }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedTxRange<'_, K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTxRange").field("items", &self.items).finish_non_exhaustive()
    }
}

impl<K, V, C> Iterator for TypedTxRange<'_, K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    type Item = Result<(K::Owned, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.encoding.read(self.items.next())
    }
}

impl<K, V, C> DoubleEndedIterator for TypedTxRange<'_, K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.encoding.read(self.items.next_back())
    }
}

impl<K, V, C> std::iter::FusedIterator for TypedTxRange<'_, K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
}
