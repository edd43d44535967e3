//! The handle of a typed keyspace, and its writes.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::conditional::CompareAndSwapError;
use crate::api::keyspace::Keyspace;
use crate::api::reader::Reader;
use crate::api::store::Store;
use crate::api::typed::codec::Codec;
use crate::api::typed::encoding::KeyEncoding;
use crate::api::typed::reader::TypedReader;
use crate::api::write_batch::WriteBatch;
use crate::config::Durability;
use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range_buffer::End;
use crate::engine::write::Returning;
use crate::engine::write::keyspaces::KeyOrder;
use crate::engine::write::pop::PopOutcome;
use crate::error::Result;
use crate::format::Seq;

/// A keyspace whose keys and values are encoded by a [`Codec`].
///
/// `K` is the type for lookups: a type of your own, an integer, or an unsized type such as `str` or
/// `[u8]`. Unsized keys are returned as `String` and `Vec<u8>`. Equal keys must have equal
/// encodings, so a key must not contain anything of random order, such as a `HashMap`. The methods
/// that read are those of [`TypedReader`], which a typed keyspace dereferences to.
///
/// ```
/// # #[cfg(feature = "postcard")] {
/// use mapcask::{Postcard, Store, TypedKeyspace};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct User {
///     age: u32,
///     mail: Option<String>,
/// }
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = Store::open(directory.path().join("data"))?;
/// let users: TypedKeyspace<str, User, _> = store.typed_keyspace("users", Postcard)?;
/// users.insert("anna", &User { age: 42, mail: None })?;
/// assert_eq!(users.get("anna")?.expect("just inserted").age, 42);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedKeyspace<K: ?Sized, V, C> {
    keyspace: Keyspace,
    /// Reads the same keyspace.
    reader: TypedReader<K, V, C>,
}

/// Borrows the part that reads.
impl<K: ?Sized, V, C> Deref for TypedKeyspace<K, V, C> {
    type Target = TypedReader<K, V, C>;

    #[inline]
    fn deref(&self) -> &TypedReader<K, V, C> {
        &self.reader
    }
}

impl<K: ?Sized, V, C: Clone> Clone for TypedKeyspace<K, V, C> {
    fn clone(&self) -> Self {
        Self { keyspace: self.keyspace.clone(), reader: self.reader.clone() }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedKeyspace<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("TypedKeyspace");
        text.field("name", &self.keyspace.name()).field("len", &self.keyspace.len()).finish_non_exhaustive()
    }
}

impl Store {
    /// Returns the typed keyspace of a name, and creates it if there is none.
    ///
    /// The codec's id is stored with the keyspace, and compared when it is opened again.
    /// [`Store::keyspace`] returns it with keys and values as bytes.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Error, Postcard, TypedKeyspace};
    ///
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", Postcard)?;
    /// ages.insert("anna", &42)?;
    /// store.keyspace("plain")?;
    /// let plain: Result<TypedKeyspace<str, u32, _>, _> = store.typed_keyspace("plain", Postcard);
    /// assert!(matches!(plain, Err(Error::CodecMismatch { .. })));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Store::keyspace`] does. Also `CodecMismatch` if it was created with another codec
    /// or with none, and `InvalidOption` if the codec's id is not 1 to 64 bytes of ASCII.
    #[doc(alias = "open_typed")]
    pub fn typed_keyspace<K, V, C>(&self, name: &str, codec: C) -> Result<TypedKeyspace<K, V, C>>
    where
        K: ?Sized + Serialize,
        V: Serialize + DeserializeOwned,
        C: Codec,
    {
        let id = KeyEncoding::Codec.id_with(&codec)?;
        let keyspace = self.keyspace_of(name, &id, KeyOrder::Any)?;
        let reader = TypedReader::of(Reader::clone(&keyspace), codec)?;
        Ok(TypedKeyspace { keyspace, reader })
    }

    /// Returns the ordered typed keyspace of a name, and creates it if there is none.
    ///
    /// Its keys are in the order of their values, and have the reads of an
    /// [ordered keyspace](Store::ordered_keyspace): [`range`](TypedReader::range),
    /// [`prefix`](TypedReader::prefix), [`pop_first`](TypedKeyspace::pop_first) and their like. The codec
    /// encodes the values only. Keys have an encoding of their own, whose bytes sort as the values do:
    ///
    /// - numbers by their value, text by its bytes, `None` before `Some`, sequences element by element;
    /// - tuples and structs field by field, enums by the position of the variant and then by its fields;
    /// - types of other crates by what they give to serde.
    ///
    /// An encoded key is at most [`MAX_ORDERED_KEY_LEN`](crate::MAX_ORDERED_KEY_LEN) bytes long. A key holds no
    /// NaN, no map, and no untagged, internally tagged or flattened type. [`Store::typed_keyspace`] returns an
    /// ordered typed keyspace, too, if there is one of the name.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// // The keys are a sensor and a time.
    /// let readings: TypedKeyspace<(String, u64), f64, _> =
    ///     store.ordered_typed_keyspace("readings", Postcard)?;
    /// for (sensor, time, value) in [("attic", 9, 21.5), ("attic", 10, 22.0), ("cellar", 9, 11.0)] {
    ///     readings.insert(&(sensor.to_owned(), time), &value)?;
    /// }
    /// let latest = readings.prefix(&("attic",)).next_back().transpose()?;
    /// assert_eq!(latest, Some((("attic".to_owned(), 10), 22.0)));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`Store::ordered_keyspace`] does. Also `CodecMismatch` if it was created with another
    /// codec or with none, and `InvalidOption` if the codec's id is not 1 to 56 bytes of ASCII.
    pub fn ordered_typed_keyspace<K, V, C>(&self, name: &str, codec: C) -> Result<TypedKeyspace<K, V, C>>
    where
        K: ?Sized + Serialize,
        V: Serialize + DeserializeOwned,
        C: Codec,
    {
        let keys = KeyEncoding::Order;
        let keyspace = self.keyspace_of(name, &keys.id_with(&codec)?, KeyOrder::Ascending)?;
        let reader = TypedReader::with_keys(Reader::clone(&keyspace), keys, codec)?;
        Ok(TypedKeyspace { keyspace, reader })
    }
}

impl<K, V, C> TypedKeyspace<K, V, C>
where
    K: ?Sized + Serialize,
    V: Serialize + DeserializeOwned,
    C: Codec,
{
    /// Returns this keyspace with keys and values as bytes: for its name, its length, and byte
    /// operations.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// ages.insert("anna", &42)?;
    /// ages.raw().clear()?;
    /// assert!(ages.is_empty());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn raw(&self) -> &Keyspace {
        &self.keyspace
    }

    /// Returns a handle whose writes are at least this durable; see [`Keyspace::with_durability`].
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self
    where
        C: Clone,
    {
        Self { keyspace: self.keyspace.with_durability(durability), reader: self.reader.clone() }
    }

    /// Inserts a key, or overwrites its value. Returns the write's sequence number.
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::insert`] does. Also `Codec` if the key or the value cannot be encoded.
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&self, key: &K, value: &V) -> Result<Seq> {
        self.keyspace.insert(self.encode_key(key)?, self.encoding.value(value)?)
    }

    /// Inserts a key if it is absent, and returns `true` if it was inserted.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::insert`] does.
    pub fn insert_if_absent(&self, key: &K, value: &V) -> Result<bool> {
        self.keyspace.insert_if_absent(self.encode_key(key)?, self.encoding.value(value)?)
    }

    /// Inserts a key, or overwrites its value, and returns the previous value.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// assert_eq!(ages.replace("anna", &42)?, None);
    /// assert_eq!(ages.replace("anna", &43)?, Some(42));
    /// assert_eq!(ages.take("anna")?, Some(43));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::insert`] does. If the previous value cannot be decoded, the new
    /// one was written.
    pub fn replace(&self, key: &K, value: &V) -> Result<Option<V>> {
        let old = self.keyspace.replace(self.encode_key(key)?, self.encoding.value(value)?)?;
        self.decoded(old)
    }

    /// Removes a key, and returns `true` if it existed.
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::remove`] does. Also `Codec` if the key cannot be encoded.
    #[doc(alias = "delete")]
    pub fn remove(&self, key: &K) -> Result<bool> {
        self.keyspace.remove(self.encode_key(key)?)
    }

    /// Removes a key, and returns the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::remove`] does. If the value cannot be decoded, the key was
    /// removed.
    pub fn take(&self, key: &K) -> Result<Option<V>> {
        let old = self.keyspace.take(self.encode_key(key)?)?;
        self.decoded(old)
    }

    /// Replaces the value of a key by the result of `update`, and returns the previous value.
    ///
    /// `None` means an absent key. See [`Keyspace::fetch_and_update`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::insert`] and [`TypedReader::get`] do; nothing was written then.
    #[doc(alias = "merge")]
    pub fn fetch_and_update(&self, key: &K, update: impl FnMut(Option<V>) -> Option<V>) -> Result<Option<V>> {
        self.update(key, Returning::Old, update)
    }

    /// Replaces the value of a key by the result of `update`, and returns the new value.
    ///
    /// See [`TypedKeyspace::fetch_and_update`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// let birthday = |age: Option<u32>| Some(age.unwrap_or(0) + 1);
    /// assert_eq!(ages.update_and_fetch("anna", birthday)?, Some(1));
    /// assert_eq!(ages.fetch_and_update("anna", birthday)?, Some(1));
    /// assert_eq!(ages.get("anna")?, Some(2));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::fetch_and_update`] does. If decoding the new value fails, the value
    /// has been written all the same.
    #[doc(alias = "merge")]
    pub fn update_and_fetch(&self, key: &K, update: impl FnMut(Option<V>) -> Option<V>) -> Result<Option<V>> {
        self.update(key, Returning::New, update)
    }

    fn update(
        &self,
        key: &K,
        keep: Returning,
        mut update: impl FnMut(Option<V>) -> Option<V>,
    ) -> Result<Option<V>> {
        let kept = self.keyspace.update(&self.encode_key(key)?, keep, |old| {
            let new = update(self.decoded(old)?);
            new.map(|new| self.encoding.value(&new)).transpose()
        })?;
        self.decoded(kept)
    }

    /// Adds an insertion to a batch.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// let mut batch = mapcask::WriteBatch::new();
    /// ages.insert_in(&mut batch, "anna", &42)?;
    /// ages.remove_in(&mut batch, "berta")?;
    /// batch.insert("count", "1");
    /// store.write(&batch)?;
    /// assert_eq!(ages.get("anna")?, Some(42));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Codec` if the key or the value cannot be encoded.
    pub fn insert_in(&self, batch: &mut WriteBatch, key: &K, value: &V) -> Result<()> {
        batch.on(&self.keyspace).insert(self.encode_key(key)?, self.encoding.value(value)?);
        Ok(())
    }

    /// Adds a removal to a batch.
    ///
    /// # Errors
    ///
    /// `Codec` if the key cannot be encoded.
    pub fn remove_in(&self, batch: &mut WriteBatch, key: &K) -> Result<()> {
        batch.on(&self.keyspace).remove(self.encode_key(key)?);
        Ok(())
    }

    /// Replaces the value `old` of a key by `new`, in one step. `None` means an absent key in both.
    ///
    /// Encodings are compared. If a value has more than one encoding (it contains a `HashMap`), use
    /// [`TypedKeyspace::fetch_and_update`]. See also [`Keyspace::compare_and_swap`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// assert!(ages.compare_and_swap("anna", None, Some(&42))?.is_ok());
    /// assert!(ages.compare_and_swap("anna", Some(&41), Some(&43))?.is_err());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::insert`] does. The inner error is the key's current value, if it
    /// can be decoded.
    #[doc(alias = "cas")]
    pub fn compare_and_swap(
        &self,
        key: &K,
        old: Option<&V>,
        new: Option<&V>,
    ) -> Result<Result<Seq, CompareAndSwapError>> {
        let encoded = |value: Option<&V>| value.map(|value| self.encoding.value(value)).transpose();
        self.keyspace.compare_and_swap(self.encode_key(key)?, encoded(old)?, encoded(new)?)
    }
}

/// The removals from the ends of an ordered typed keyspace.
impl<K, V, C> TypedKeyspace<K, V, C>
where
    K: ?Sized + Serialize + ToOwned<Owned: DeserializeOwned>,
    V: Serialize + DeserializeOwned,
    C: Codec,
{
    /// Removes the first key of an ordered typed keyspace, and returns it with its value; see
    /// [`Keyspace::pop_first`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// // The keys are a priority and a number.
    /// let jobs: TypedKeyspace<(i8, u64), String, _> = store.ordered_typed_keyspace("jobs", Postcard)?;
    /// jobs.insert(&(0, 1), &"clean".to_owned())?;
    /// jobs.insert(&(-1, 2), &"repair".to_owned())?;
    /// assert_eq!(jobs.pop_first()?, Some(((-1, 2), "repair".to_owned())));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It decodes the key and the value before it removes them. If another thread removes the key
    /// meanwhile, it begins again with the next one.
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::pop_first`] does. Also `Codec` if a key of a range cannot be encoded, or the
    /// removed key or its value not be decoded: nothing was removed then.
    #[doc(alias = "pop_min")]
    pub fn pop_first(&self) -> Result<Option<(K::Owned, V)>> {
        self.pop(Ok(KeyRange::all()), End::Front)
    }

    /// Removes the last key of an ordered typed keyspace, and returns it with its value; see
    /// [`TypedKeyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::pop_first`] does.
    #[doc(alias = "pop_max")]
    pub fn pop_last(&self) -> Result<Option<(K::Owned, V)>> {
        self.pop(Ok(KeyRange::all()), End::Back)
    }

    /// Removes the first key of a range of an ordered typed keyspace, and returns it with its value; see
    /// [`TypedKeyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::pop_first`] does.
    pub fn pop_first_in<Q: Borrow<K>>(&self, range: impl RangeBounds<Q>) -> Result<Option<(K::Owned, V)>> {
        self.pop(self.encoding.range(&range), End::Front)
    }

    /// Removes the last key of a range of an ordered typed keyspace, and returns it with its value; see
    /// [`TypedKeyspace::pop_first`].
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::pop_first`] does.
    pub fn pop_last_in<Q: Borrow<K>>(&self, range: impl RangeBounds<Q>) -> Result<Option<(K::Owned, V)>> {
        self.pop(self.encoding.range(&range), End::Back)
    }

    fn pop(&self, range: Result<KeyRange>, end: End) -> Result<Option<(K::Owned, V)>> {
        let range = range?;
        loop {
            // User code runs under no lock, and must have decoded what is removed.
            let found = self.keyspace.state().end_record(self.keyspace.inner(), &range, end);
            let decoded = found.and_then(|found| {
                let seq = found.as_ref().map(|(seq, _)| *seq);
                let item = self.encoding.stored(found.map(|(_, item)| Ok(item))).transpose()?;
                Ok((seq, item))
            });
            // A store that refuses writes says so in any case.
            let Ok((seq, item)) = decoded else {
                self.keyspace.pop_if(&range, end, |_| false)?;
                return decoded.map(|(_, item)| item);
            };
            if let PopOutcome::Done(_) = self.keyspace.pop_if(&range, end, |now| now == seq)? {
                return Ok(item);
            }
        }
    }
}
