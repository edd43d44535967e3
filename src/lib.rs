//! A persistent hash map you can kill.
//!
//! mapcask embeds an append-only, log-structured key-value store on memory-mapped files.

mod batch;
mod bell;
mod commit;
mod control_page;
mod engine;
mod epoch;
mod error;
#[cfg(mapcask_internal)]
pub mod format;
#[cfg(not(mapcask_internal))]
mod format;
mod fs;
mod guarded;
mod helper;
mod index;
mod location;
mod log;
mod manifest_store;
mod mapping;
mod options;
mod provision;
mod read;
mod recovery;
mod salvage;
mod segment;
mod stats;
mod store;
mod sync;
mod undo;
mod verify;
mod write;

pub use batch::WriteBatch;
pub use error::{Error, Result};
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, KeyspaceId, Seq};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use options::{Durability, Options};
pub use read::{Iter, Keys, Value, Values, View};
pub use recovery::report::RecoveryReport;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use salvage::salvage_on;
pub use salvage::{Damage, SalvageReport, salvage};
pub use stats::Stats;
pub use store::Store;
pub use verify::VerifyReport;
