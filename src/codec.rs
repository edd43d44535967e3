//! Values of your own types as bytes, and back.
//!
//! The log knows bytes only; a codec stands between them and a type. What it reads may be damaged or hostile, so a codec
//! is bounded by the bytes it is given.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Turns values of a type into bytes, and back.
pub trait Codec<T> {
    /// Appends the value's bytes.
    ///
    /// # Errors
    ///
    /// `Codec` where the value cannot be expressed.
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<()>;

    /// Reads a value from exactly these bytes.
    ///
    /// # Errors
    ///
    /// `Codec` where they are not the bytes of a value, or more than that.
    fn decode(&self, bytes: &[u8]) -> Result<T>;
}

/// bincode 1.3.3: compact and quick; variable-length integers, little-endian.
///
/// bincode is no longer maintained (its authors call 1.3.3 complete). It is used through its options: what is read is
/// limited by the bytes at hand and may not leave any over. Types that contain themselves can overflow the stack when
/// bytes are hostile.
///
/// ```
/// use mapcask::{Bincode, Codec};
///
/// # let directory = tempfile::tempdir_in(".")?;
/// # let store = mapcask::Store::open(directory.path().join("data"))?;
/// let mut bytes = Vec::new();
/// Bincode.encode(&("anna".to_owned(), 42_u32), &mut bytes)?;
/// store.insert("user", &bytes)?;
/// let (name, age): (String, u32) = Bincode.decode(&store.get("user")?.expect("just inserted"))?;
/// assert_eq!((name.as_str(), age), ("anna", 42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Bincode;

impl<T: Serialize + DeserializeOwned> Codec<T> for Bincode {
    fn encode(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        use bincode::Options;
        bincode::DefaultOptions::new().serialize_into(into, value).map_err(|error| refused(&error))
    }

    fn decode(&self, bytes: &[u8]) -> Result<T> {
        use bincode::Options;
        let options = bincode::DefaultOptions::new().with_limit(bytes.len() as u64).reject_trailing_bytes();
        options.deserialize(bytes).map_err(|error| refused(&error))
    }
}

fn refused(error: &bincode::Error) -> Error {
    Error::Codec { codec: "bincode", reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Value = (String, Vec<u64>, Option<bool>);

    fn sample() -> Value {
        ("käse".to_owned(), vec![1, 2, u64::MAX], Some(true))
    }

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let mut bytes = Vec::new();
        Bincode.encode(&sample(), &mut bytes).expect("it can be expressed");
        let value: Value = Bincode.decode(&bytes).expect("its own bytes");
        assert_eq!(value, sample());
    }

    #[test]
    fn bytes_that_are_cut_or_left_over_are_refused() {
        let mut bytes = Vec::new();
        Bincode.encode(&sample(), &mut bytes).expect("it can be expressed");
        for len in 0..bytes.len() {
            assert!(Codec::<Value>::decode(&Bincode, &bytes[..len]).is_err(), "cut at {len}");
        }
        bytes.push(0);
        assert!(Codec::<Value>::decode(&Bincode, &bytes).is_err());
    }

    #[test]
    fn a_hostile_length_is_refused_and_not_allocated() {
        // Byte 253 announces a length of eight bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(Codec::<String>::decode(&Bincode, &bytes), Err(Error::Codec { .. })));
        assert!(matches!(Codec::<Vec<u64>>::decode(&Bincode, &bytes), Err(Error::Codec { .. })));
    }
}
