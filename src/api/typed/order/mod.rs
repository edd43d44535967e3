//! The encoding `order-1`, whose bytes are in the order of the values.
//!
//! It encodes the keys of ordered typed keyspaces. Of two values of one type, the lesser one has the
//! lesser bytes. "Lesser" is the order of the values that serde sees: field after field, variants by their
//! index. Each value has one encoding, and other bytes are refused.
//!
//! **Format.** `docs/design/ordered.md`, under "Keys of your own types", has the table and the reasons for
//! which the order holds. The encoding never changes: another one would be `order-2`.

mod order_error;
pub(super) mod reader;
#[cfg(test)]
mod tests;
pub(super) mod writer;

use std::cell::Cell;
use std::marker::PhantomData;

use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

use self::order_error::OrderError;
use self::reader::OrderReader;
use self::writer::OrderWriter;
use super::bounds::{Bounded, Bounds};
use super::codec::Codec;
use crate::error::Result;

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
            rest => Err(OrderError::new(&format!("{} bytes are left over", rest.len())).into_error()),
        }
    }
}
