//! Codecs: conversion of your own types to bytes and back.
//!
//! The log stores bytes only, and a codec converts between them and a type. Its input may be
//! damaged or hostile, so its work is bounded by the length of the input. Both codecs here run
//! under `bounds`, which has the argument.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A conversion of values to bytes and back.
///
/// A codec is one encoding for all types that serde supports. Its input may be damaged or hostile.
/// It must refuse such input without a panic, in time and memory that the length of the bytes
/// bounds.
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
    /// Returns the name of the encoding: 1 to 64 bytes of ASCII, or up to 56 for the values of an
    /// [ordered keyspace](crate::Store::ordered_typed_keyspace).
    ///
    /// It is stored with a keyspace of typed values, and compared when that is opened. An encoding
    /// never changes its name, and no two encodings share one. Names that begin with `order-` are those
    /// of keys.
    fn id(&self) -> &str;

    /// Appends the value's bytes to `into`.
    ///
    /// # Errors
    ///
    /// `Codec` if the value cannot be encoded; `into` is then unchanged.
    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()>;

    /// Decodes a value from exactly these bytes. It may borrow from them.
    ///
    /// # Errors
    ///
    /// `Codec` if they are not the bytes of exactly one value.
    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T>;
}

/// Returns the id of a codec.
///
/// # Errors
///
/// `InvalidOption` if it is empty, because a keyspace of plain bytes has that id, or if it begins as
/// that of an ordered typed keyspace does.
pub(super) fn id_of<C: Codec>(codec: &C) -> Result<&str> {
    let id = codec.id();
    if id.is_empty() {
        let (option, reason) = ("codec", "its id must be 1 to 64 bytes of ASCII");
        return Err(Error::InvalidOption { option, value: "\"\"".to_owned(), reason });
    }
    if id.starts_with("order-") {
        let (option, reason) = ("codec", "its id must not begin with `order-`, as ids of keys do");
        return Err(Error::InvalidOption { option, value: format!("{id:?}"), reason });
    }
    Ok(id)
}
