//! A persistent hash map you can kill.
//!
//! mapcask embeds an append-only, log-structured key-value store on memory-mapped files.

mod commit;
mod control_page;
mod epoch;
mod error;
#[cfg(not(mapcask_internal))]
pub(crate) mod format;
#[cfg(mapcask_internal)]
pub mod format;
mod fs;
mod guarded;
mod index;
mod location;
mod log;
mod manifest_store;
mod mapping;
mod options;
mod provision;
mod recovery;
mod segment;
mod sync;
mod undo;

pub use error::{Error, Result};
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, KeyspaceId, Seq};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use options::{Durability, Options};
