//! A persistent hash map you can kill.
//!
//! mapcask embeds an append-only, log-structured key-value store on memory-mapped files.

mod commit;
mod control_page;
mod epoch;
mod error;
pub(crate) mod format;
mod fs;
mod index;
mod location;
mod log;
mod manifest_store;
mod mapping;
mod options;
mod provision;
mod segment;
mod sync;

pub use error::{Error, Result};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, KeyspaceId, Seq};
pub use options::{Durability, Options};
