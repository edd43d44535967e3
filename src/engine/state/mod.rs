//! The state of an open store that reads, writes and jobs share.

pub(crate) mod catalog;
pub(crate) mod snapshot_registry;
pub(crate) mod visibility;
