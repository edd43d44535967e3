//! The error of the encoding `order-1`.

use std::fmt;

use serde::{de, ser};

use crate::error::Error;

/// The reason for which a value cannot be encoded, or bytes not be decoded.
#[derive(Debug)]
pub(crate) struct OrderError(String);

impl OrderError {
    pub(super) fn new(reason: &str) -> Self {
        Self(reason.to_owned())
    }

    pub(super) fn into_error(self) -> Error {
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
