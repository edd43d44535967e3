//! Values of your own types as bytes, and back.
//!
//! The log knows bytes only; a codec stands between them and a type. What it reads may be damaged or hostile, so a codec
//! is bounded by the bytes it is given. Both codecs here run under `bounds`, which has the argument.

use serde::{Deserialize, Serialize};

#[cfg(feature = "bincode")]
pub use crate::api::typed::bincode::Bincode;
#[cfg(feature = "postcard")]
pub use crate::api::typed::postcard::Postcard;
use crate::error::Result;

/// Turns values into bytes, and back.
///
/// A codec is one encoding for all types that serde knows. What it reads may be damaged or made to do harm: it must
/// refuse it in time and memory that the length of the bytes bounds, without a panic.
///
/// ```
/// use mapcask::{Codec, Error, Result};
/// use serde::{Deserialize, Serialize};
///
/// struct Json;
///
/// fn refused(error: serde_json::Error) -> Error {
///     Error::Codec { codec: "JSON", reason: error.to_string() }
/// }
///
/// impl Codec for Json {
///     fn id(&self) -> &str {
///         "json-1"
///     }
///
///     fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
///         into.extend(serde_json::to_vec(value).map_err(refused)?);
///         Ok(())
///     }
///
///     fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
///         serde_json::from_slice(bytes).map_err(refused)
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Json.encode(&("anna", 42), &mut bytes)?;
/// assert_eq!(bytes, br#"["anna",42]"#);
/// // Borrowed from the bytes: nothing is copied.
/// assert_eq!(Json.decode::<(&str, u32)>(&bytes)?, ("anna", 42));
/// # Ok::<(), Error>(())
/// ```
pub trait Codec {
    /// Returns the name of the encoding: 1 to 64 bytes of ASCII.
    ///
    /// It is kept with a keyspace of typed values and compared when that is opened. An encoding never changes its name,
    /// and two encodings never share one.
    fn id(&self) -> &str;

    /// Appends the value's bytes.
    ///
    /// # Errors
    ///
    /// `Codec` where the value cannot be expressed; `into` is as it was.
    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()>;

    /// Reads a value from exactly these bytes; it may borrow from them.
    ///
    /// # Errors
    ///
    /// `Codec` where they are not the bytes of a value, or more than that.
    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T>;
}
