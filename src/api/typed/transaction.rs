//! Transactions on typed keyspaces.

use std::borrow::Borrow;
use std::fmt;
use std::ops::RangeBounds;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::Codec;
use super::iter::TypedTxRange;
use super::typed_keyspace::TypedKeyspace;
use crate::api::transaction::Transaction;
use crate::api::tx_range::TxRange;
use crate::api::tx_value::TxValue;
use crate::engine::read::key_range::KeyRange;
use crate::error::Result;

/// Reads and writes one typed keyspace in a transaction; see [`Transaction::on`].
///
/// Its methods are those of [`Transaction`], with types. So they have its contract: what they read is a
/// part of what must hold at the commit, and own writes are seen in place.
pub struct TypedTransaction<'t, K: ?Sized, V, C> {
    transaction: &'t mut Transaction,
    keyspace: &'t TypedKeyspace<K, V, C>,
}

impl<K: ?Sized, V, C> fmt::Debug for TypedTransaction<'_, K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("TypedTransaction");
        text.field("transaction", &self.transaction).field("keyspace", &self.keyspace).finish()
    }
}

impl Transaction {
    /// Returns a handle that reads and writes a typed keyspace in this transaction.
    ///
    /// The keyspace must belong to the same open store.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let accounts: TypedKeyspace<str, i64, _> = store.typed_keyspace("accounts", Postcard)?;
    /// let transfers: TypedKeyspace<u64, (String, String, i64), _> =
    ///     store.ordered_typed_keyspace("transfers", Postcard)?;
    /// accounts.insert("anna", &100)?;
    /// store.transact(|transaction| {
    ///     for (name, change) in [("anna", -30), ("berta", 30)] {
    ///         let mut accounts = transaction.on(&accounts);
    ///         let balance = accounts.get(name)?.unwrap_or(0);
    ///         accounts.insert(name, &(balance + change))?;
    ///     }
    ///     let mut transfers = transaction.on(&transfers);
    ///     let last = transfers.last_key_value()?.map_or(0, |(number, _)| number);
    ///     transfers.insert(&(last + 1), &("anna".to_owned(), "berta".to_owned(), 30))
    /// })?;
    /// assert_eq!((accounts.get("anna")?, accounts.get("berta")?), (Some(70), Some(30)));
    /// assert_eq!(transfers.len(), 1);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on<'t, K, V, C>(
        &'t mut self,
        keyspace: &'t TypedKeyspace<K, V, C>,
    ) -> TypedTransaction<'t, K, V, C>
    where
        K: ?Sized + Serialize,
        V: Serialize + DeserializeOwned,
        C: Codec,
    {
        TypedTransaction { transaction: self, keyspace }
    }
}

impl<K, V, C> TypedTransaction<'_, K, V, C>
where
    K: ?Sized + Serialize,
    V: Serialize + DeserializeOwned,
    C: Codec,
{
    /// Returns the value of a key; see [`Transaction::get`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::get`] does. Also `Codec` if the key cannot be encoded, or the value not
    /// decoded.
    pub fn get(&mut self, key: &K) -> Result<Option<V>> {
        let found = self.transaction.get(self.keyspace.raw(), self.keyspace.encode_key(key)?)?;
        self.keyspace.decoded(found)
    }

    /// Returns `true` if a key exists; see [`Transaction::contains_key`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::get`] does.
    pub fn contains_key(&mut self, key: &K) -> Result<bool> {
        self.transaction.contains_key(self.keyspace.raw(), self.keyspace.encode_key(key)?)
    }

    /// Returns the value of a key, but not as a part of what must hold; see [`Transaction::peek`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::get`] does, without `Limit`.
    pub fn peek(&self, key: &K) -> Result<Option<V>> {
        let found = self.transaction.peek(self.keyspace.raw(), self.keyspace.encode_key(key)?)?;
        self.keyspace.decoded(found)
    }

    /// Inserts a key, or overwrites its value, once the transaction commits; see
    /// [`Transaction::insert`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::insert`] does. Also `Codec` if the key or the value cannot be encoded.
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&mut self, key: &K, value: &V) -> Result<()> {
        let (key, value) = (self.keyspace.encode_key(key)?, self.keyspace.encoding.value(value)?);
        self.transaction.insert(self.keyspace.raw(), key, value)
    }

    /// Removes a key once the transaction commits; see [`Transaction::remove`].
    ///
    /// # Errors
    ///
    /// Fails as [`Transaction::remove`] does. Also `Codec` if the key cannot be encoded.
    #[doc(alias = "delete")]
    pub fn remove(&mut self, key: &K) -> Result<()> {
        self.transaction.remove(self.keyspace.raw(), self.keyspace.encode_key(key)?)
    }
}

/// The reads of an ordered typed keyspace.
impl<K, V, C> TypedTransaction<'_, K, V, C>
where
    K: ?Sized + Serialize + ToOwned<Owned: DeserializeOwned>,
    V: Serialize + DeserializeOwned,
    C: Codec,
{
    /// Returns an iterator over the keys in a range and their values, own writes included, in ascending
    /// order. It goes from both ends. See [`Transaction::range`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let seats: TypedKeyspace<(u32, u32), String, _> = store.ordered_typed_keyspace("seats", Postcard)?;
    /// seats.insert(&(1, 1), &"anna".to_owned())?;
    /// store.transact(|transaction| {
    ///     let mut seats = transaction.on(&seats);
    ///     let last = seats.prefix(&(1_u32,)).next_back().transpose()?;
    ///     let free = last.map_or(1, |((_, seat), _)| seat + 1);
    ///     seats.insert(&(1, free), &"berta".to_owned())
    /// })?;
    /// assert_eq!(seats.get(&(1, 2))?.as_deref(), Some("berta"));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The items have the errors of [`TypedTransaction::get`]. Also `KeyspaceNotOrdered`, or `Codec` if a
    /// bound cannot be encoded, as the only item.
    #[doc(alias = "scan")]
    pub fn range<Q: Borrow<K>>(&mut self, range: impl RangeBounds<Q>) -> TypedTxRange<'_, K, V, C>
    where
        C: Clone,
    {
        self.range_of(self.keyspace.encoding.range(&range))
    }

    /// Returns an iterator over the keys that begin with `prefix` and their values; see
    /// [`TypedReader::prefix`](crate::TypedReader::prefix) and [`TypedTransaction::range`].
    #[doc(alias = "scan_prefix")]
    pub fn prefix<P: Serialize + ?Sized>(&mut self, prefix: &P) -> TypedTxRange<'_, K, V, C>
    where
        C: Clone,
    {
        self.range_of(self.keyspace.encoding.prefix(prefix))
    }

    fn range_of(&mut self, range: Result<KeyRange>) -> TypedTxRange<'_, K, V, C>
    where
        C: Clone,
    {
        let items = match range {
            Ok(range) => self.transaction.range_of(self.keyspace.raw(), range),
            Err(error) => TxRange::refused(error),
        };
        TypedTxRange::new(items, self.keyspace.encoding.clone())
    }

    /// Returns the first key and its value; see [`Transaction::first_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::get`] does. Also `KeyspaceNotOrdered`.
    #[doc(alias = "first")]
    pub fn first_key_value(&mut self) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.first_key_value(self.keyspace.raw());
        self.item(found)
    }

    /// Returns the last key and its value; see [`Transaction::last_key_value`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    #[doc(alias = "last")]
    pub fn last_key_value(&mut self) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.last_key_value(self.keyspace.raw());
        self.item(found)
    }

    /// Returns the greatest key below `key` and its value; see [`Transaction::get_lt`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    pub fn get_lt(&mut self, key: &K) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.get_lt(self.keyspace.raw(), self.keyspace.encode_key(key)?);
        self.item(found)
    }

    /// Returns the greatest key at or below `key` and its value; see [`Transaction::get_le`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    pub fn get_le(&mut self, key: &K) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.get_le(self.keyspace.raw(), self.keyspace.encode_key(key)?);
        self.item(found)
    }

    /// Returns the least key at or above `key` and its value; see [`Transaction::get_ge`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    pub fn get_ge(&mut self, key: &K) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.get_ge(self.keyspace.raw(), self.keyspace.encode_key(key)?);
        self.item(found)
    }

    /// Returns the least key above `key` and its value; see [`Transaction::get_gt`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    pub fn get_gt(&mut self, key: &K) -> Result<Option<(K::Owned, V)>> {
        let found = self.transaction.get_gt(self.keyspace.raw(), self.keyspace.encode_key(key)?);
        self.item(found)
    }

    /// Returns the number of keys in a range; see [`Transaction::count_range`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedTransaction::first_key_value`] does.
    pub fn count_range<Q: Borrow<K>>(&mut self, range: impl RangeBounds<Q>) -> Result<u64> {
        let range = self.keyspace.encoding.range(&range)?;
        self.transaction
            .range_of(self.keyspace.raw(), range)
            .try_fold(0, |count, item| item.map(|_| count + 1))
    }

    fn item(&self, found: Result<Option<(TxValue, TxValue)>>) -> Result<Option<(K::Owned, V)>> {
        self.keyspace.encoding.read(found.transpose()).transpose()
    }
}
