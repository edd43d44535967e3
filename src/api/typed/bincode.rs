//! The codec for bincode 1.3.3.

use std::cell::Cell;
use std::marker::PhantomData;

use ::bincode::{DefaultOptions, Options};
use serde::{Deserialize, Serialize};

use super::bounds::{Bounded, Bounds};
use super::codec::Codec;
use crate::error::{Error, Result};

/// bincode 1.3.3: compact and fast; variable-length integers, little-endian.
///
/// bincode is no longer maintained (its authors call 1.3.3 complete), and no other version is used.
/// The encoding is that of `bincode::DefaultOptions`.
///
/// Decoding is bounded by the length of the bytes, and must use all of them. A value may be nested
/// up to 256 levels deep. Its collections may together hold up to 4,096 elements that take no
/// bytes, such as `()`. Decoding and encoding both refuse other values. A type that contains itself
/// and is kilobytes large may still overflow the stack below that depth.
///
/// ```
/// use mapcask::{Bincode, Codec};
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let mut bytes = Vec::new();
/// Bincode.encode(&("anna", 42_u32), &mut bytes)?;
/// store.insert("user", &bytes)?;
/// let value = store.get("user")?.expect("just inserted");
/// // The name is borrowed from the value, and so from the mapped file.
/// let (name, age): (&str, u32) = Bincode.decode(&value)?;
/// assert_eq!((name, age), ("anna", 42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bincode;

impl Codec for Bincode {
    fn id(&self) -> &str {
        "bincode-1"
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        let (start, elements) = (into.len(), Cell::new(0));
        let bounded = Bounded { inner: value, bounds: Bounds::of_writing(&elements) };
        let written = DefaultOptions::new().serialize_into(&mut *into, &bounded);
        let written = written.map_err(|error| error.to_string());
        let checked = written.and_then(|()| Bounds::check_written(&elements, into.len() - start));
        checked.map_err(|reason| {
            into.truncate(start);
            refused(reason)
        })
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
        let elements = Cell::new(0);
        let seed = Bounded { inner: PhantomData::<T>, bounds: Bounds::of_reading(&elements, bytes.len()) };
        // bincode ignores this limit for bytes in memory, and uses their length. It is set so that
        // nothing depends on that.
        let options = DefaultOptions::new().with_limit(bytes.len() as u64).reject_trailing_bytes();
        options.deserialize_seed(seed, bytes).map_err(|error| refused(error.to_string()))
    }
}

fn refused(reason: String) -> Error {
    Error::Codec { codec: "bincode", reason }
}
