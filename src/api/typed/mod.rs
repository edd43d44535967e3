//! Keyspaces whose keys and values are types of your own.

#[cfg(feature = "bincode")]
pub(crate) mod bincode;
#[cfg(any(test, feature = "bincode", feature = "postcard"))]
pub(crate) mod bounded_reader;
#[cfg(any(test, feature = "bincode", feature = "postcard"))]
pub(crate) mod bounded_writer;
#[cfg(any(test, feature = "bincode", feature = "postcard"))]
pub(crate) mod bounds;
#[cfg(feature = "serde")]
pub(crate) mod codec;
#[cfg(test)]
pub(crate) mod order;
#[cfg(feature = "postcard")]
pub(crate) mod postcard;
pub(crate) mod reader;

use std::fmt;
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::conditional::CompareAndSwapError;
use crate::api::keyspace::Keyspace;
use crate::api::reader::Reader;
use crate::api::store::Store;
use crate::api::typed::codec::{Codec, id_of};
use crate::api::typed::reader::TypedReader;
use crate::api::write_batch::WriteBatch;
use crate::config::Durability;
use crate::engine::write::Returning;
use crate::engine::write::keyspaces::KeyOrder;
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
        let keyspace = self.keyspace_of(name, id_of(&codec)?, KeyOrder::Any)?;
        let reader = TypedReader::of(Reader::clone(&keyspace), codec)?;
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
        self.keyspace.insert(self.encode(key)?, self.encode(value)?)
    }

    /// Inserts a key if it is absent, and returns `true` if it was inserted.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::insert`] does.
    pub fn insert_if_absent(&self, key: &K, value: &V) -> Result<bool> {
        self.keyspace.insert_if_absent(self.encode(key)?, self.encode(value)?)
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
        let old = self.keyspace.replace(self.encode(key)?, self.encode(value)?)?;
        self.decoded(old)
    }

    /// Removes a key, and returns `true` if it existed.
    ///
    /// # Errors
    ///
    /// Fails as [`Keyspace::remove`] does. Also `Codec` if the key cannot be encoded.
    #[doc(alias = "delete")]
    pub fn remove(&self, key: &K) -> Result<bool> {
        self.keyspace.remove(self.encode(key)?)
    }

    /// Removes a key, and returns the value that it had.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedKeyspace::remove`] does. If the value cannot be decoded, the key was
    /// removed.
    pub fn take(&self, key: &K) -> Result<Option<V>> {
        let old = self.keyspace.take(self.encode(key)?)?;
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
        let kept = self.keyspace.update(&self.encode(key)?, keep, |old| {
            let new = update(self.decoded(old)?);
            new.map(|new| self.encode(&new)).transpose()
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
        batch.on(&self.keyspace).insert(self.encode(key)?, self.encode(value)?);
        Ok(())
    }

    /// Adds a removal to a batch.
    ///
    /// # Errors
    ///
    /// `Codec` if the key cannot be encoded.
    pub fn remove_in(&self, batch: &mut WriteBatch, key: &K) -> Result<()> {
        batch.on(&self.keyspace).remove(self.encode(key)?);
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
        let encoded = |value: Option<&V>| value.map(|value| self.encode(value)).transpose();
        self.keyspace.compare_and_swap(self.encode(key)?, encoded(old)?, encoded(new)?)
    }
}
