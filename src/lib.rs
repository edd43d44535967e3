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
//!
//! # Events
//!
//! With the feature `tracing` the store tells a subscriber, under the target `mapcask`: `info` opened and closed; `warn`
//! what an unclean end cost, and failures in the background that are tried again; `error` what ended writing; `debug`
//! segments; `trace` syncs. Nothing is said per read or write. A subscriber must not call the store: some events are
//! made with its locks held.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod allowance;
mod background;
mod batch;
mod bell;
#[cfg(feature = "bytes")]
mod bytes;
mod catalog;
#[cfg(feature = "serde")]
mod codec;
mod commit;
mod conditional;
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
mod handle;
mod helper;
mod index;
mod keyspace;
mod keyspaces;
mod location;
mod log;
mod lookahead;
mod manifest_store;
mod mapping;
mod moment;
mod options;
mod provision;
mod read;
mod recovery;
mod salvage;
mod segment;
mod stats;
mod store;
mod sync;
mod trace;
#[cfg(feature = "serde")]
mod typed;
mod undo;
mod verify;
mod write;

pub use background::Background;
pub use batch::{BatchOn, WriteBatch};
#[cfg(feature = "bincode")]
pub use codec::Bincode;
#[cfg(feature = "serde")]
pub use codec::Codec;
#[cfg(feature = "postcard")]
pub use codec::Postcard;
pub use conditional::CompareAndSwapError;
pub use error::{Error, Result};
pub use format::keyspace::MAX_NAME_LEN as MAX_KEYSPACE_NAME_LEN;
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, Seq};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use keyspace::Keyspace;
pub use lookahead::TryGet;
pub use options::{Durability, Options};
pub use read::{Iter, Keys, Value, Values, View};
pub use recovery::report::RecoveryReport;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use salvage::salvage_on;
pub use salvage::{Damage, SalvageReport, salvage};
pub use stats::{KeyspaceStats, Stats};
pub use store::Store;
#[cfg(feature = "serde")]
pub use typed::{TypedIter, TypedKeyspace};
pub use verify::VerifyReport;
