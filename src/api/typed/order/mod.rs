//! The encoding `order-1`, whose bytes are in the order of the values.
//!
//! It encodes the keys of ordered typed keyspaces. Of two values of one type, the lesser one has the
//! lesser bytes. "Lesser" is the order of the values that serde sees: field after field, variants by their
//! index. Each value has one encoding, and other bytes are refused.
//!
//! **Format.** `docs/design/ordered.md`, under "Keys of your own types", has the table and the reasons for
//! which the order holds. The encoding never changes: another one would be `order-2`.

pub(super) mod reader;
#[cfg(test)]
mod tests;
pub(super) mod writer;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize, de, ser};

use self::reader::OrderReader;
use self::writer::OrderWriter;
use super::bounds::{Bounded, Bounds};
use super::codec::Codec;
use crate::error::{Error, Result};

/// The codec whose bytes are in the order of the values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderCodec;

impl Codec for OrderCodec {
    fn id(&self) -> &str {
        "order-1"
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        let (start, elements) = (into.len(), Cell::new(0));
        let bounded = Bounded { inner: value, bounds: Bounds::of_writing(&elements) };
        // Each element has its mark, so there are never more elements than bytes.
        bounded.serialize(OrderWriter::new(into)).map_err(|error| {
            into.truncate(start);
            error.into_error()
        })
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
        let (elements, mut rest) = (Cell::new(0), bytes);
        let seed = Bounded { inner: PhantomData::<T>, bounds: Bounds::of_reading(&elements, bytes.len()) };
        let value = seed.deserialize(OrderReader::new(&mut rest)).map_err(OrderError::into_error)?;
        match rest {
            [] => Ok(value),
            rest => Err(OrderError(format!("{} bytes are left over", rest.len())).into_error()),
        }
    }
}

/// The reason for which a value cannot be encoded, or bytes not be decoded.
#[derive(Debug)]
pub(crate) struct OrderError(String);

impl OrderError {
    fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }

    fn into_error(self) -> Error {
        Error::Codec { codec: "order-1", reason: self.0 }
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OrderError {}

impl ser::Error for OrderError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(reason.to_string())
    }
}

impl de::Error for OrderError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(reason.to_string())
    }
}
