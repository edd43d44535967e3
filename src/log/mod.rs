//! The log: segments, appending records to them, and making them durable.

pub(crate) mod allocator;
pub(crate) mod context;
pub(crate) mod control_page;
pub(crate) mod group_commit;
pub(crate) mod manifest;
pub(crate) mod rewrite;
pub(crate) mod segment;
pub(crate) mod segment_file;
pub(crate) mod segment_reader;
pub(crate) mod sync_plan;
pub(crate) mod waiters;
mod waiting_line;
pub(crate) mod writer;
