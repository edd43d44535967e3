//! The handle that reads a typed keyspace and cannot write to it.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::reader::Reader;
use crate::api::typed::codec::{Codec, id_of};
use crate::engine::read::iter::Iter;
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
    reader: Reader,
    codec: C,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C: Clone> Clone for TypedReader<K, V, C> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone(), codec: self.codec.clone(), types: PhantomData }
    }
}

impl<K: ?Sized, V, C> fmt::Debug for TypedReader<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("TypedReader");
        text.field("name", &self.reader.name()).field("len", &self.reader.len()).finish_non_exhaustive()
    }
}

impl<K: ?Sized, V, C: Codec> TypedReader<K, V, C> {
    /// Returns the typed reader of a keyspace.
    ///
    /// # Errors
    ///
    /// `CodecMismatch` if the keyspace was created with another codec, and `InvalidOption` if the
    /// codec's id is empty.
    pub(crate) fn of(reader: Reader, codec: C) -> Result<Self> {
        let (stored, asked) = (reader.inner().codec(), id_of(&codec)?);
        if stored != asked {
            let (name, stored, asked) = (reader.name(), stored.to_owned(), asked.to_owned());
            return Err(Error::CodecMismatch { name, stored, asked });
        }
        Ok(Self { reader, codec, types: PhantomData })
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
        let key = self.encode(key)?;
        match self.reader.view().get(&key)? {
            Some(value) => self.decode(value).map(Some),
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
        let keys = keys.into_iter().map(|key| self.encode(key)).collect::<Result<Vec<_>>>()?;
        let values = self.reader.multi_get(&keys)?;
        values.into_iter().map(|value| self.decoded(value)).collect()
    }

    /// Returns `true` if the key exists.
    ///
    /// # Errors
    ///
    /// Fails as [`TypedReader::get`] does.
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.reader.contains_key(self.encode(key)?)
    }

    /// Returns an iterator over all keys and values, in no order; see [`Iter`].
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
        TypedIter { iter: self.reader.iter(), codec: self.codec.clone(), types: PhantomData }
    }

    pub(super) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.codec.encode(value, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn decoded(&self, value: Option<impl AsRef<[u8]>>) -> Result<Option<V>> {
        value.map(|value| self.decode(value.as_ref())).transpose()
    }

    /// Decodes bytes of a mapping. Refuses the zeros that replace an unreadable page.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<V> {
        let value = self.codec.decode(bytes);
        check_slice(bytes, self.reader.state().shared.dir.path())?;
        value
    }
}

/// An iterator over all keys and values of a typed keyspace; see [`Iter`].
pub struct TypedIter<K: ?Sized, V, C> {
    iter: Iter,
    codec: C,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C> fmt::Debug for TypedIter<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedIter").field("iter", &self.iter).finish_non_exhaustive()
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
        let item = self.iter.next()?;
        Some(item.and_then(|(key, value)| {
            let (of_key, of_value) = (self.codec.decode(&key), self.codec.decode(&value));
            // Refuses the zeros that replace an unreadable page.
            key.check()?;
            value.check()?;
            Ok((of_key?, of_value?))
        }))
    }
}

impl<K, V, C> std::iter::FusedIterator for TypedIter<K, V, C>
where
    K: ?Sized + ToOwned<Owned: DeserializeOwned>,
    V: DeserializeOwned,
    C: Codec,
{
}
