//! Indexes: from a key to the location of its record, and the file that holds them between two opens.

pub(crate) mod checkpoint;
pub(crate) mod hash;
pub(crate) mod keyspace_index;
