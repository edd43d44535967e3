//! The encodings of the keys and the values of a typed keyspace.

use std::borrow::Borrow;
use std::ops::{Bound, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Codec, id_of};
use super::order::OrderCodec;
use crate::api::tx_value::TxValue;
use crate::engine::read::Value;
use crate::engine::read::key_range::KeyRange;
use crate::error::{Error, Result};

/// The beginning of the id that is stored with an ordered typed keyspace, before the id of the codec of
/// its values.
const ORDERED_KEYS: &str = "order-1+";

/// The most bytes of the id of a codec in an ordered keyspace: both ids have 64 together.
const ORDERED_ID_MAX: usize = 64 - ORDERED_KEYS.len();

/// The encoding of the keys of a typed keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyEncoding {
    /// That of the values.
    Codec,
    /// `order-1`, in an ordered keyspace.
    Order,
}

impl KeyEncoding {
    /// Returns the encoding that an id stored with a keyspace names.
    pub(super) fn of_stored(id: &str) -> Self {
        if id.starts_with(ORDERED_KEYS) { Self::Order } else { Self::Codec }
    }

    /// Returns the id that is stored with a keyspace of this encoding, and of a codec of values.
    ///
    /// # Errors
    ///
    /// `InvalidOption` if the codec's id is none of a codec.
    pub(super) fn id_with<C: Codec>(self, codec: &C) -> Result<String> {
        let id = id_of(codec)?;
        if self == Self::Order && id.len() > ORDERED_ID_MAX {
            let (option, reason) = ("codec", "its id must be 1 to 56 bytes of ASCII in an ordered keyspace");
            return Err(Error::InvalidOption { option, value: format!("{id:?}"), reason });
        }
        Ok(if self == Self::Order { format!("{ORDERED_KEYS}{id}") } else { id.to_owned() })
    }
}

/// The encodings of the keys and the values of a typed keyspace.
#[derive(Debug, Clone)]
pub(crate) struct Encoding<C> {
    pub(super) keys: KeyEncoding,
    pub(super) codec: C,
}

impl<C: Codec> Encoding<C> {
    pub(super) fn value<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.codec.encode(value, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn key<K: Serialize + ?Sized>(&self, key: &K) -> Result<Vec<u8>> {
        match self.keys {
            KeyEncoding::Codec => self.value(key),
            KeyEncoding::Order => {
                let mut bytes = Vec::new();
                OrderCodec.encode(key, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Returns the range of the keys whose encodings are within the bounds.
    pub(super) fn range<K, Q>(&self, range: &impl RangeBounds<Q>) -> Result<KeyRange>
    where
        K: Serialize + ?Sized,
        Q: Borrow<K>,
    {
        let encoded = |bound: Bound<&Q>| match bound {
            Bound::Included(key) => self.key(key.borrow()).map(Bound::Included),
            Bound::Excluded(key) => self.key(key.borrow()).map(Bound::Excluded),
            Bound::Unbounded => Ok(Bound::Unbounded),
        };
        let bounds = (encoded(range.start_bound())?, encoded(range.end_bound())?);
        Ok(KeyRange::of::<Vec<u8>>(&bounds))
    }

    /// Returns the range of the keys whose encodings begin with that of `prefix`.
    pub(super) fn prefix<P: Serialize + ?Sized>(&self, prefix: &P) -> Result<KeyRange> {
        Ok(KeyRange::of_prefix(&self.key(prefix)?))
    }

    pub(super) fn decoded_key<K: DeserializeOwned>(&self, bytes: &[u8]) -> Result<K> {
        match self.keys {
            KeyEncoding::Codec => self.codec.decode(bytes),
            KeyEncoding::Order => OrderCodec.decode(bytes),
        }
    }

    /// Decodes what a read of a keyspace found.
    pub(super) fn stored<K, V>(&self, found: Option<Result<(Value, Value)>>) -> Option<Result<(K, V)>>
    where
        K: DeserializeOwned,
        V: DeserializeOwned,
    {
        let wrap = |(key, value)| (TxValue::stored(key), TxValue::stored(value));
        self.read(found.map(|item| item.map(wrap)))
    }

    /// Decodes what a read of a transaction found. Refuses the zeros that replace an unreadable page.
    pub(super) fn read<K, V>(&self, found: Option<Result<(TxValue, TxValue)>>) -> Option<Result<(K, V)>>
    where
        K: DeserializeOwned,
        V: DeserializeOwned,
    {
        let decode = |(key, value): (TxValue, TxValue)| {
            let (of_key, of_value) = (self.decoded_key(&key), self.codec.decode(&value));
            key.check()?;
            value.check()?;
            Ok((of_key?, of_value?))
        };
        found.map(|item| item.and_then(decode))
    }
}
