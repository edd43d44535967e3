//! Indexes from keys to the locations of their records, and the checkpoint file that keeps them
//! between opens.

pub(crate) mod checkpoint;
pub(crate) mod hash;
pub(crate) mod key_index;
pub(crate) mod key_search;
pub(crate) mod keyspace_index;
pub(crate) mod lines;
#[expect(clippy::big_endian_bytes, reason = "such words compare as their bytes do")]
pub(crate) mod tree;
