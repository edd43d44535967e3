//! The handle that reads a typed keyspace and cannot write to it.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::reader::Reader;
use crate::api::typed::codec::Codec;
use crate::api::typed::encoding::{Encoding, KeyEncoding};
use crate::api::typed::iter::TypedIter;
use crate::error::{Error, Result};
use crate::mem::page_guard::check_slice;

/// A typed keyspace that can be read through this handle, and not written to.
///
/// Each [`TypedKeyspace`](crate::TypedKeyspace) dereferences to one, so its reading methods stand
/// here. A clone is a handle of its own, as that of a [`Reader`] is.
///
/// ```
/// # #[cfg(feature = "postcard")] {
/// use mapcask::{Postcard, Store, TypedKeyspace, TypedReader};
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = Store::open(directory.path().join("data"))?;
/// let ages: TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", Postcard)?;
/// let reader = TypedReader::clone(&ages);
/// ages.insert("anna", &42)?;
/// assert_eq!(reader.get("anna")?, Some(42));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TypedReader<K: ?Sized, V, C> {
    pub(super) reader: Reader,
    pub(super) encoding: Encoding<C>,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C: Clone> Clone for TypedReader<K, V, C> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone(), encoding: self.encoding.clone(), types: PhantomData }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedReader<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("TypedReader");
        text.field("name", &self.reader.name()).field("len", &self.reader.len()).finish_non_exhaustive()
    }
}

impl<K: ?Sized, V, C: Codec> TypedReader<K, V, C> {
    /// Returns the typed reader of a keyspace. The id that is stored with it decides how keys are
    /// encoded.
    ///
    /// # Errors
    ///
    /// `CodecMismatch` if the keyspace was created with another codec, and `InvalidOption` if the
    /// codec's id is none of a codec.
    pub(crate) fn of(reader: Reader, codec: C) -> Result<Self> {
        let keys = KeyEncoding::of_stored(reader.inner().codec());
        Self::with_keys(reader, keys, codec)
    }

    /// Returns the typed reader of a keyspace whose keys must have this encoding.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::of`] does.
    pub(super) fn with_keys(reader: Reader, keys: KeyEncoding, codec: C) -> Result<Self> {
        let (stored, asked) = (reader.inner().codec(), keys.id_with(&codec)?);
        if stored != asked {
            let (name, stored) = (reader.name(), stored.to_owned());
            return Err(Error::CodecMismatch { name, stored, asked });
        }
        Ok(Self { reader, encoding: Encoding { keys, codec }, types: PhantomData })
    }
}

impl<K, V, C> TypedReader<K, V, C>
where
    K: ?Sized + Serialize,
    V: DeserializeOwned,
    C: Codec,
{
    /// Returns this keyspace with keys and values as bytes, for reading.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// let reader = mapcask::TypedReader::clone(&ages);
    /// assert_eq!(reader.raw().name(), "ages");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn raw(&self) -> &Reader {
        &self.reader
    }

    /// Returns the number of keys, in constant time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// Returns `true` if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Returns the value of a key.
    ///
    /// # Errors
    ///
    /// Fails as [`Reader::get`] does. Also `Codec` if the key cannot be encoded, or the value not
    /// decoded.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let key = self.encode_key(key)?;
        match self.reader.view().get(&key)? {
            Some(value) => self.decode_value(value).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the values of many keys, as of one point in the order of writes; see
    /// [`Reader::multi_get`].
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// ages.insert("anna", &42)?;
    /// assert_eq!(ages.multi_get(["anna", "berta"])?, [Some(42), None]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::get`] does.
    #[doc(alias = "get_many")]
    pub fn multi_get<'k>(&self, keys: impl IntoIterator<Item = &'k K>) -> Result<Vec<Option<V>>>
    where
        K: 'k,
    {
        let keys = keys.into_iter().map(|key| self.encode_key(key)).collect::<Result<Vec<_>>>()?;
        let values = self.reader.multi_get(&keys)?;
        values.into_iter().map(|value| self.decoded(value)).collect()
    }

    /// Returns `true` if the key exists.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::get`] does.
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.reader.contains_key(self.encode_key(key)?)
    }

    /// Returns an iterator over all keys and values, in no order; see [`Iter`](crate::Iter).
    ///
    /// In an ordered keyspace it goes in ascending order.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// let ages: mapcask::TypedKeyspace<str, u32, _> = store.typed_keyspace("ages", mapcask::Postcard)?;
    /// ages.insert("anna", &42)?;
    /// assert_eq!(ages.iter().collect::<Result<Vec<_>, _>>()?, [("anna".to_owned(), 42)]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> TypedIter<K, V, C>
    where
        K: ToOwned<Owned: DeserializeOwned>,
        C: Clone,
    {
        TypedIter::new(self.reader.iter(), self.encoding.clone())
    }

    /// Encodes a key as this keyspace does.
    ///
    /// It is for views, snapshots and the like, whose keys have no types.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")] {
    /// # let directory = tempfile::tempdir_in(".")?;
    /// # let store = mapcask::Store::open(directory.path().join("data"))?;
    /// use mapcask::{Postcard, TypedKeyspace};
    ///
    /// let ages: TypedKeyspace<str, u32, _> = store.ordered_typed_keyspace("ages", Postcard)?;
    /// ages.insert("anna", &42)?;
    /// ages.insert("berta", &7)?;
    /// let snapshot = store.snapshot();
    /// ages.raw().clear()?;
    /// let mut found = snapshot.keyspace("ages")?.range(ages.encode_key("b")?..);
    /// let (name, age) = found.next().expect("there is one")?;
    /// assert_eq!((ages.decode_key(&name)?, ages.decode_value(&age)?), ("berta".to_owned(), 7));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Codec` if the key cannot be encoded.
    pub fn encode_key(&self, key: &K) -> Result<Vec<u8>> {
        self.encoding.key(key)
    }

    /// Decodes the bytes of a key of this keyspace; see [`TypedReader::encode_key`].
    ///
    /// # Errors
    ///
    /// `Codec` if they are not those of a key. Also `Io` if they lie in a page that could not be had.
    pub fn decode_key(&self, bytes: &[u8]) -> Result<K::Owned>
    where
        K: ToOwned<Owned: DeserializeOwned>,
    {
        self.checked(bytes, self.encoding.decoded_key(bytes))
    }

    /// Decodes the bytes of a value of this keyspace; see [`TypedReader::encode_key`].
    ///
    /// # Errors
    ///
    /// `Codec` if they are not those of a value. Also `Io` if they lie in a page that could not be had.
    pub fn decode_value(&self, bytes: &[u8]) -> Result<V> {
        self.checked(bytes, self.encoding.codec.decode(bytes))
    }

    pub(super) fn decoded(&self, value: Option<impl AsRef<[u8]>>) -> Result<Option<V>> {
        value.map(|value| self.decode_value(value.as_ref())).transpose()
    }

    /// Refuses the zeros that replace an unreadable page of a mapping, in bytes that were decoded.
    fn checked<T>(&self, bytes: &[u8], decoded: Result<T>) -> Result<T> {
        check_slice(bytes, self.reader.state().shared.dir.path())?;
        decoded
    }
}
