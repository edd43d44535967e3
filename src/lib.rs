//! A persistent hash map you can kill: an embedded, log-structured key-value store on memory-mapped files.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let path = directory.path().join("data");
//! let store = mapcask::Store::open(&path)?;
//! store.insert("key", "value")?;
//! assert_eq!(store.get("key")?.as_deref(), Some(b"value".as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! - [`Store`]: reading and writing; what each operation sees.
//! - [`Durability`]: what an acknowledged write survives.
//! - [`Options`]: how a store is opened; [`RecoveryReport`]: what opening found.
//! - [`WriteBatch`]: writes that take effect together.
//! - [`Value`] and [`View`]: reads without copies, owned and borrowed.
//! - [`Error`]: what can go wrong, and what to do; [`salvage`]: what is left of a damaged store.
//!
//! # What is promised
//!
//! A write that returned survives the death of the process. After a power cut the store holds a prefix of what was
//! acknowledged, in order, no shorter than what was durable; a batch is there as a whole or not at all. Damage to
//! durable data is an error that names file and offset, never a wrong value. Nothing is deleted because it looks wrong.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod allowance;
mod background;
mod batch;
mod bell;
#[cfg(feature = "bincode")]
mod codec;
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

pub use background::Background;
pub use batch::WriteBatch;
#[cfg(feature = "bincode")]
pub use codec::{Bincode, Codec};
pub use error::{Error, Result};
pub use format::Defect;
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
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
