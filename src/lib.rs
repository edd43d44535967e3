//! A persistent hash map you can kill: an embedded, log-structured key-value store on memory-mapped
//! files.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let path = directory.path().join("data");
//! let store = mapcask::Store::open(&path)?; // created if there is none
//! store.insert("key", "value")?; // survives `kill -9` from here on
//! assert_eq!(store.get("key")?.as_deref(), Some(b"value".as_slice()));
//! for item in &store {
//!     let (key, value) = item?;
//!     assert_eq!((&*key, &*value), (b"key".as_slice(), b"value".as_slice()));
//! }
//! assert!(store.remove("key")?);
//! store.flush()?; // survives a power cut from here on
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any number of threads of one process read and write single keys at the speed of memory; the page
//! `benches/README.md` of the repository compares mapcask with other stores, row by row. A keyspace
//! is ordered if it is created as such. mapcask is not a server, and not a cache that evicts. Other
//! processes read the store while one writes to it.
//!
//! This page is a short book: [keyspaces](#keyspaces), [batches and
//! conditions](#batches-and-conditions), [transactions](#transactions), [durability](#durability), [isolation](#isolation),
//! [space](#space), [values and views](#values-and-views), [typed values](#typed-values),
//! [async](#async), [many stores](#many-stores), [crash tests](#crash-tests), [limits](#limits),
//! [overload](#overload), [close, kill, fork and failures](#close-kill-fork-and-failures), [several
//! processes](#several-processes), [several machines](#several-machines), [backup](#backup),
//! [damage](#damage), [events](#events), [coming from another store](#coming-from-another-store).
//! The programs in `examples/` are longer, and each checks its own result.
//!
//! # Keyspaces
//!
//! A store holds maps by name, called keyspaces. The [`Store`] itself is the keyspace without a
//! name, and each [`Keyspace`] has the same methods. Those that read are in [`Reader`], a handle for
//! code that must not write. All keyspaces share one log. So a batch spans them, and a crash leaves
//! all of them as of one point in the order of writes.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! let users = store.keyspace("users")?;
//! users.insert("anna", "admin")?;
//! assert_eq!(store.get("anna")?, None);
//! store.rename_keyspace("users", "people")?;
//! users.clear()?; // in constant time, as dropping it is
//! assert!(store.drop_keyspace("people")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Batches and conditions
//!
//! A [`WriteBatch`] is applied as a whole or not at all, after any crash and for every reader. It
//! may hold conditions, which are checked in the same atomic step. Use them to change several keys
//! depending on values that were read.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! let jobs = store.keyspace("jobs")?;
//! jobs.insert("7", "send the letter")?;
//! let mut batch = mapcask::WriteBatch::new();
//! batch.on(&jobs).require("7", "send the letter").remove("7");
//! batch.insert("sent", "7");
//! store.write(&batch)?;
//! // Another thread did it already.
//! assert!(matches!(store.write(&batch), Err(mapcask::Error::ConditionFailed { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For single keys there are [`compare_and_swap`](Keyspace::compare_and_swap),
//! [`insert_if_absent`](Keyspace::insert_if_absent), [`replace`](Keyspace::replace),
//! [`take`](Keyspace::take) and [`update_and_fetch`](Keyspace::update_and_fetch).
//!
#![doc = include_str!("../docs/transactions.md")]
//!
//! # Durability
//!
//! | [`Durability`] | an acknowledged write survives | cost |
//! |---|---|---|
//! | `Os` (default) | death of the process: panic, abort, `kill -9`, the out-of-memory killer | memory speed, no system call for values below 64 KiB |
//! | `Interval` | also power loss, except for the last interval (100 ms by default) and a sync under way | a sync in the background |
//! | `Disk` | also power loss and a kernel crash, before the call returns | one device flush per group of writers |
//!
//! The level is an option of the store, and a handle can raise it for some writes. [`Store::flush`]
//! makes all writes durable at any level. [`Store::wait_durable`] makes those up to a sequence
//! number durable.
//!
//! After a power cut the store holds a prefix of the acknowledged writes, in their order. The
//! prefix is no shorter than the durable part. So there is never a hole, never a part of a batch,
//! and never an older value.
//!
//! ```
//! use mapcask::Durability;
//!
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! store.insert("seen", "yes")?;
//! store.with_durability(Durability::Disk).insert("paid", "yes")?; // both survive a power cut from here on
//! assert!(store.durable_seq() >= store.last_seq());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Isolation
//!
//! | operation | sees |
//! |---|---|
//! | `get`, `try_get`, `view().get`, `contains_key` | the newest write of that key, linearizable. After a new value of one key of a batch was seen, no old value of its other keys is seen |
//! | `multi_get`, `get_many_into` | all keys as of one point in the order of writes, linearizable as one step |
//! | a write to one key, with its condition if there is one | the state right before the write: one step, linearizable |
//! | a batch over any keyspaces with its conditions | the state right before the batch: one step, or nothing |
//! | a [`Transaction`] | a snapshot and its own writes; at its commit, all that it read still holds. It is strictly serializable with every other write |
//! | `clear`, and changes to the set of keyspaces | one step in the order of all writes. A read that began before may still see the old state |
//! | `first_key_value`, `last_key_value`, `get_lt`, `get_le`, `get_ge`, `get_gt`, `get_range`, `count_range` | the keyspace as of one point in the order of writes, linearizable as one step |
//! | `pop_first`, `pop_last`, `pop_first_in`, `pop_last_in` | one step with the removal. Two callers never get the same key |
//! | `range`, `prefix`, and the same of a view | as `iter`, in ascending order, and from the back in descending order |
//! | `iter`, `keys`, `values`, `view().iter` | each key that exists throughout, exactly once, with a value that it had during the iteration. It ends once the keyspace is cleared |
//! | any read of a [`Snapshot`], iteration included | all keyspaces as of the point at which it was taken, with whole batches |
//! | `len`, `is_empty` | the number of keys at some moment of the call. While a batch takes effect, its keys are counted one by one |
//!
//! To move a value from key to key and never see it in both or neither, write a batch. Read the
//! keys with [`multi_get`](Reader::multi_get), or from a snapshot.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! store.insert("a", "1")?;
//! let snapshot = store.snapshot();
//! store.clear()?;
//! assert_eq!(snapshot.iter().count(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Space
//!
//! Overwritten and removed records take space until compaction frees it. The background compacts in
//! steps: it copies the live records out of the emptiest segments, and removes those segments. The
//! bounds below use the size of all live records, and [`Options::segment_bytes`] as the size of a
//! segment.
//!
//! | state | bound |
//! |---|---|
//! | at rest | compaction could free at most 35 % of the live bytes plus 1 MiB |
//! | files above 2 × live + 8 segments + 1 MiB | each writer spends time on compaction, in proportion to the excess |
//! | files 4 segments above that | writers wait for compaction, for at most one second per 64 KiB written |
//! | the most that files take | 2 × live + 14 segments + 1 MiB. The last two are the output of a running pass and a preallocated segment |
//!
//! The last bound holds unless compaction is kept from its work: by a callback of
//! [`Store::compact_with`], a damaged segment, or a limit on its bandwidth.
//! [`Options::keep_changes`] adds as many bytes to each bound, and two segments.
//! [`Options::max_disk_bytes`] is a limit that no insertion exceeds. Compaction never deletes
//! durable data until its replacement is durable. So, at any level, it makes the log durable up to
//! the records that it read.
//!
//! [`Store::compact`] compacts the whole store, after which removed bytes are in no file.
//! [`Stats::compaction`] reports the next choice and its reason.
//! [`Options::compaction_bytes_per_second`] limits compaction, and [`Options::compaction`] switches
//! it off.
//!
//! A value, an iterator, a view or a snapshot keeps its files mapped, and never delays a writer or
//! compaction. If compaction removes such a file, its blocks are freed once it is no longer in use.
//! Until then they count as [`Stats::removed_bytes_in_use`] and against
//! [`Options::max_disk_bytes`]. A view keeps every file of its store that is removed while it
//! lives: [`View::refresh`] releases them.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! for n in 0..1000_u32 {
//!     store.insert("counter", n.to_le_bytes())?;
//! }
//! let report = store.compact()?;
//! assert!(report.bytes_freed > 0);
//! assert_eq!(store.get("counter")?.as_deref(), Some(999_u32.to_le_bytes().as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Values and views
//!
//! A [`Value`] is a slice of the mapped file: nothing is copied. It stays valid after its key, its
//! keyspace and its store are gone. A [`View`] returns borrowed values, for many reads in a row.
//! [`View::iter`] is the fastest way to read everything.
//! [`get_into`](Reader::get_into) copies a value and verifies the copy. A value keeps its whole
//! segment file mapped, so copy small values that you keep for long.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! store.insert("a", "1")?;
//! let value = store.get("a")?.expect("just inserted");
//! {
//!     let view = store.view();
//!     assert_eq!(view.get("a")?, Some(b"1".as_slice()));
//! }
//! store.close()?;
//! assert_eq!(value, b"1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Typed values
//!
//! With the feature `postcard` or `bincode` a keyspace holds your own types. With `serde` alone you
//! supply a codec.
//!
//! ```
//! # #[cfg(feature = "postcard")] {
//! use mapcask::{Postcard, Store, TypedKeyspace};
//!
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = Store::open(directory.path().join("data"))?;
//! let visits: TypedKeyspace<str, u32, _> = store.typed_keyspace("visits", Postcard)?;
//! visits.update_and_fetch("anna", |old| Some(old.unwrap_or(0) + 1))?;
//! assert_eq!(visits.get("anna")?, Some(1));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The keys of an [ordered typed keyspace](Store::ordered_typed_keyspace) are in the order of their values.
//! [`Transaction::on`] reads and writes a typed keyspace in a transaction.
//!
//! # Async
//!
//! The store has no runtime. A read of data in memory does not wait. A write at `Os` or `Interval`
//! does not wait either, unless it outruns the background ([overload](#overload)).
//! [`try_get`](Reader::try_get) returns at once, either with the value or with the news that it
//! would wait for the disk. Hand that read, and every `flush`, to a thread that may block.
//! `examples/tokio_reads.rs` does so with tokio.
//!
//! ```
//! use mapcask::TryGet;
//!
//! # let directory = tempfile::tempdir_in(".")?;
//! # let store = mapcask::Store::open(directory.path().join("data"))?;
//! store.insert("a", "1")?;
//! let value = match store.try_get("a")? {
//!     TryGet::Ready(value) => value,
//!     TryGet::NotResident => store.get("a")?, // in a task: `spawn_blocking(move || store.get("a")).await`
//! };
//! assert!(value.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Many stores
//!
//! By default each store has a worker thread that prepares work ahead of its writers.
//! [`Background::shared`] is one thread for any number of stores. Its page lists the resources that
//! a small store takes.
//!
//! # Crash tests
//!
//! With the feature `sim` your own program runs on [`sim::SimDisk`], a disk in memory. A test can
//! then ask for any state in which a power cut, at any moment of that run, could have left the
//! machine. `examples/crash_test.rs` finds a bug that way.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use mapcask::Options;
//! use mapcask::sim::{Seeded, SimDisk, Tears};
//!
//! let disk = SimDisk::new();
//! let store = Options::new().background(false).open_on(&disk)?;
//! store.insert("paid", "yes")?;
//! store.flush()?;
//! let promised = disk.position();
//! store.insert("seen", "yes")?;
//! for moment in disk.positions().into_iter().filter(|moment| *moment >= promised) {
//!     for seed in 0..10 {
//!         let after = disk.crash_at(moment, Tears::Any, &mut Seeded::new(seed));
//!         let store = Options::new().background(false).open_on(&after)?;
//!         assert!(store.contains_key("paid")?);
//!     }
//! }
//! # }
//! # Ok::<(), mapcask::Error>(())
//! ```
//!
//! # Limits
//!
//! | subject | limit |
//! |---|---|
//! | key | 65,535 bytes ([`MAX_KEY_LEN`]); it may be empty |
//! | key of an ordered keyspace | 1,024 bytes ([`MAX_ORDERED_KEY_LEN`]) |
//! | value | 4 GiB - 1 ([`MAX_VALUE_LEN`]); it may be empty |
//! | batch | 4 GiB - 1 of records: for each 32 bytes, the key and the value, rounded up to a multiple of eight |
//! | transaction | a batch of its writes; 1,048,576 noted reads, 64 MiB of their keys |
//! | name of a keyspace | 255 bytes of UTF-8 ([`MAX_KEYSPACE_NAME_LEN`]) |
//! | keyspaces and clears in a store's life | 2^31 - 1 |
//! | writes in a store's life | 2^56 |
//! | segment files together | 8 TiB; their size grows to [`Options::segment_bytes`]: 4 KiB to 4 GiB, 64 MiB by default |
//! | memory per key | at most 16 bytes in a keyspace of 100,000 keys or more; a smaller one takes up to 256 KiB |
//! | processes | one that writes, or any number that open the store with [`Options::read_only`]; others get [`Error::Locked`]. Any number of [followers](#several-processes) beside them |
//! | reading by an open | nothing of the log after a clean close; after a kill, what no hint describes yet; after a power cut, the log since the last index checkpoint ([`Options::checkpoint_bytes`]). With ordered keyspaces, after a kill: also what hints describe of the log since the last checkpoint |
//! | small store | 5 descriptors, 5 mappings, 36 KiB on the disk, 42 KiB of memory ([`Background`]) |
//! | typed value | 256 levels of nesting, 4,096 elements without bytes |
//! | file systems | NFS, SMB, 9p and the like are refused on Linux |
//!
//! # Overload
//!
//! **Slow disk.** At `Os` and `Interval` writers do not wait for their bytes to reach the disk. The
//! bytes lie in the page cache, and the kernel decides how many may. A writer that outruns the
//! background prepares its next pages and its next segment itself, and a segment takes syncs;
//! [`Stats::stalls`] counts these writes. At `Disk` a writer waits for its sync, which it shares
//! with all waiting writers. So a slow disk slows its writers down, and no queue in memory grows.
//!
//! **Full disk.** A write that finds no space fails with [`Error::NoSpace`]. Nothing was written,
//! reads go on, and writes succeed again once there is space. [`Options::max_disk_bytes`] sets a
//! lower limit: insertions get [`Error::DiskLimit`], removals never do. Before an insertion is
//! refused for either reason, compaction frees the space that it can.
//!
//! mapcask reserves space for removals and the compaction that follows them, so insertions fail
//! before the disk is completely full. The reserve is about one segment in a large store, and at
//! most a third of the space in a small one. So removals succeed in any order, unless another
//! program takes the reserve.
//!
//! **Slow compaction.** If compaction lags behind the writers, they help with it and are slowed
//! down. Far above the [bound](#space) a write may take one second and one step of compaction,
//! which may be a sync of everything written. That happens at most once per 64 KiB written.
//!
//! **Memory.** If memory or address space runs out, a large request, or one that grows with the
//! data, fails with [`Error::Exhausted`]. The call succeeds again once there is memory. Pieces of a
//! few KiB are allocated as std allocates: if even those are refused, the process ends, and no
//! acknowledged write is lost. That also holds for a growing [`WriteBatch`] and for [`salvage()`].
//!
//! ```
//! use mapcask::{Error, Options};
//!
//! # let directory = tempfile::tempdir_in(".")?;
//! let store = Options::new().max_disk_bytes(512 << 10).open(directory.path().join("data"))?;
//! let refused = (0..1000_u32).find_map(|n| store.insert(n.to_le_bytes(), [7; 1000]).err());
//! assert!(matches!(refused, Some(Error::DiskLimit { .. })));
//! assert!(store.remove(0_u32.to_le_bytes())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Close, kill, fork and failures
//!
//! | event | effect |
//! |---|---|
//! | [`Store::close`] | makes every write durable, marks the files clean, frees the lock, and returns errors. Other handles get [`Error::Closed`]. Values, snapshots and iterators stay readable, those of a [`View`] apart, which end with that error |
//! | drop of the last [`Store`], [`Keyspace`] or [`Reader`] handle | closes the store and discards errors. Iterators and values are not handles |
//! | death of the process | no acknowledged write is lost. The next open recovers and reports it ([`Store::recovery_report`]) |
//! | `fork` | in the child, inherited handles fail at once with [`Error::Forked`], and dropping them touches nothing. Calls that cannot fail return nothing there: statistics, names, a snapshot that refuses every read. If the parent dies without a close, the child keeps the lock while it lives |
//! | failed sync | writes fail with [`Error::Poisoned`], because the kernel never writes the lost pages again. Reads go on. Open the store again |
//! | panic in the background | writes fail with [`Error::Poisoned`], caused by [`Error::Panicked`]. The process and other stores go on |
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let path = directory.path().join("data");
//! let store = mapcask::Store::open(&path)?;
//! let handle = store.clone();
//! store.close()?;
//! assert!(matches!(handle.get("a"), Err(mapcask::Error::Closed)));
//! assert!(mapcask::Store::open(&path)?.recovery_report().clean);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
#![doc = include_str!("../docs/several_processes.md")]
//!
#![doc = include_str!("../docs/replication.md")]
//!
//! # Damage
//!
//! Damage to durable data is an [`Error`] that names file and offset, never a wrong value. Nothing
//! is deleted because it looks wrong. [`Store::verify`] reads everything and compares it with its
//! checksums. [`salvage()`] copies the intact data out of a store that does not open. The `mapcask`
//! tool (feature `cli`) has both.
//!
//! # Events
//!
//! With the feature `tracing` the store emits events under the target `mapcask`:
//!
//! | level | events |
//! |---|---|
//! | `error` | a failure that ended writing |
//! | `warn` | the cost of an unclean end; failures in the background that are retried |
//! | `info` | opened, closed |
//! | `debug` | segments, keyspaces |
//! | `trace` | syncs |
//!
//! There is no event per read or write. Events are emitted at the end of a call or of a background
//! step, with no lock held. So a subscriber may call the store, and close it.
//!
#![doc = include_str!("../docs/coming_from.md")]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod api;
mod config;
mod engine;
mod error;
#[cfg(mapcask_internal)]
pub mod format;
#[cfg(not(mapcask_internal))]
mod format;
mod fs;
mod index;
mod log;
mod mem;
mod recovery;
mod sync;
mod trace;

pub use api::auto_refresh::AutoRefresh;
pub use api::backup::report::{BackupReport, RestoreReport};
pub use api::backup::restore::restore;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use api::backup::restore::restore_on;
pub use api::batch_on::BatchOn;
pub use api::changes::Changes;
pub use api::conditional::CompareAndSwapError;
pub use api::destroy::destroy;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use api::destroy::destroy_on;
pub use api::follower::Follower;
pub use api::keyspace::Keyspace;
pub use api::options::Options;
pub use api::reader::Reader;
pub use api::salvage::fates::SALVAGE_UNFINISHED;
pub use api::salvage::report::{Damage, DamageCause, SalvageReport};
pub use api::salvage::salvage;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use api::salvage::salvage_on;
pub use api::snapshot::{KeyspaceSnapshot, Snapshot, SnapshotIter};
pub use api::snapshot_range::SnapshotRange;
pub use api::store::Store;
pub use api::transaction::Transaction;
pub use api::tx_range::TxRange;
pub use api::tx_value::TxValue;
#[cfg(feature = "bincode")]
pub use api::typed::bincode::Bincode;
#[cfg(feature = "serde")]
pub use api::typed::codec::Codec;
#[cfg(feature = "serde")]
pub use api::typed::iter::{TypedIter, TypedRange, TypedTxRange};
#[cfg(feature = "postcard")]
pub use api::typed::postcard::Postcard;
#[cfg(feature = "serde")]
pub use api::typed::reader::TypedReader;
#[cfg(feature = "serde")]
pub use api::typed::transaction::TypedTransaction;
#[cfg(feature = "serde")]
pub use api::typed::typed_keyspace::TypedKeyspace;
pub use api::write_batch::WriteBatch;
pub use config::{Durability, RecoveryProgress};
pub use engine::compaction::report::{
    CompactionProgress, CompactionReason, CompactionReport, CompactionStats,
};
pub use engine::feed::change::{Change, ChangeKind, KeyspaceRef};
pub use engine::feed::since::Since;
pub use engine::follow::Refreshed;
pub use engine::follow::wait::Wait;
pub use engine::read::iter::{Iter, Keys, Values, ViewIter};
pub use engine::read::multi_get::TryGet;
pub use engine::read::range::{Range, ViewRange};
pub use engine::read::{Value, View};
pub use engine::scrub::VerifyReport;
pub use engine::stats::{KeyspaceStats, Stats};
pub use error::resource::Resource;
pub use error::{Error, Result};
pub use format::control_page::WriterStatus;
pub use format::feed_position::FeedPosition;
pub use format::keyspace_change::MAX_NAME_LEN as MAX_KEYSPACE_NAME_LEN;
pub use format::record::{MAX_KEY_LEN, MAX_ORDERED_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, Seq};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use recovery::report::RecoveryReport;
pub use sync::worker::Background;
