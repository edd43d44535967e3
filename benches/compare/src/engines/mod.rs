//! The stores, each behind the same interface.

pub(crate) mod candystore;
pub(crate) mod emdb;
pub(crate) mod fjall;
pub(crate) mod lmdb;
pub(crate) mod mapcask;
pub(crate) mod maps;
pub(crate) mod parity_db;
pub(crate) mod redb;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;
pub(crate) mod sled;
pub(crate) mod surrealkv;
