//! The codec for postcard 1.

use std::cell::Cell;
use std::marker::PhantomData;

use ::postcard::ser_flavors::Flavor;
use ::postcard::{Deserializer, serialize_with_flavor};
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

use super::bounds::{Bounded, Bounds};
use super::codec::Codec;
use crate::error::{Error, Result};

/// postcard 1: compact, maintained, with a [specification](https://postcard.jamesmunns.com).
///
/// Decoding is bounded by the length of the bytes, and must use all of them. A value may be nested
/// up to 256 levels deep. Its collections may together hold up to 4,096 elements that take no
/// bytes, such as `()`. Decoding and encoding both refuse other values. A type that contains itself
/// and is kilobytes large may still overflow the stack below that depth.
///
/// ```
/// use mapcask::{Codec, Postcard};
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let mut bytes = Vec::new();
/// Postcard.encode(&("anna", 42_u32), &mut bytes)?;
/// store.insert("user", &bytes)?;
/// let value = store.get("user")?.expect("just inserted");
/// // The name is borrowed from the value, and so from the mapped file.
/// let (name, age): (&str, u32) = Postcard.decode(&value)?;
/// assert_eq!((name, age), ("anna", 42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Postcard;

impl Codec for Postcard {
    fn id(&self) -> &str {
        "postcard-1"
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        let (start, elements) = (into.len(), Cell::new(0));
        let bounded = Bounded { inner: value, bounds: Bounds::of_writing(&elements) };
        let written = serialize_with_flavor(&bounded, Append(into)).map_err(|error| error.to_string());
        let checked = written.and_then(|()| Bounds::check_written(&elements, into.len() - start));
        checked.map_err(|reason| {
            into.truncate(start);
            refused(reason)
        })
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
        let elements = Cell::new(0);
        let seed = Bounded { inner: PhantomData::<T>, bounds: Bounds::of_reading(&elements, bytes.len()) };
        let mut deserializer = Deserializer::from_bytes(bytes);
        let value = seed.deserialize(&mut deserializer).map_err(|error| refused(error.to_string()))?;
        match deserializer.finalize() {
            Ok([]) => Ok(value),
            Ok(rest) => Err(refused(format!("{} bytes are left over", rest.len()))),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

/// Appends to existing bytes. postcard's own collectors start empty.
struct Append<'v>(&'v mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> ::postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> ::postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> ::postcard::Result<()> {
        Ok(())
    }
}

fn refused(reason: String) -> Error {
    Error::Codec { codec: "postcard", reason }
}
