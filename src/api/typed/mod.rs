//! Keyspaces whose keys and values are types of your own.

#[cfg(feature = "bincode")]
pub(crate) mod bincode;
pub(crate) mod bounded_reader;
pub(crate) mod bounded_writer;
pub(crate) mod bounds;
pub(crate) mod codec;
pub(crate) mod encoding;
pub(crate) mod iter;
pub(crate) mod order;
#[cfg(feature = "postcard")]
pub(crate) mod postcard;
pub(crate) mod range;
pub(crate) mod reader;
pub(crate) mod transaction;
pub(crate) mod typed_keyspace;
