//! A persistent hash map you can kill: an embedded, log-structured key-value store on memory-mapped files.
//!
//! ```
//! # let directory = tempfile::tempdir_in(".")?;
//! # let path = directory.path().join("data");
//! let store = mapcask::Store::open(&path)?; // created where there is none
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
//! Point reads and writes at the speed of memory, by any number of threads of one process. Not ordered (no ranges or
//! prefixes yet), not a server, not a cache that evicts. Nor are there
//! transactions that read and write, or readers in other processes yet.
//!
//! This page is a short book: [keyspaces](#keyspaces), [batches and conditions](#batches-and-conditions),
//! [durability](#durability), [isolation](#isolation), [values and views](#values-and-views),
//! [typed values](#typed-values), [async](#async), [many stores](#many-stores), [crash tests](#crash-tests),
//! [limits](#limits), [overload](#overload), [how it ends](#how-it-ends), [damage](#damage), [events](#events),
//! [coming from another store](#coming-from-another-store). The programs in `examples/` are longer ones, each of which
//! checks its own result.
//!
//! # Keyspaces
//!
//! A store holds maps by name; the [`Store`] itself is the one without a name, and each [`Keyspace`] has the same methods.
//! They share one log: a batch spans them, and after a crash all of them are as of the same moment.
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
//! A [`WriteBatch`] is carried out as a whole or not at all, after any crash and for every reader. It may hold conditions,
//! which are looked at in the same step: that is how one changes several keys on account of what was read.
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
//! // Somebody else did it already.
//! assert!(matches!(store.write(&batch), Err(mapcask::Error::ConditionFailed { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For one key there are [`compare_and_swap`](Keyspace::compare_and_swap),
//! [`insert_if_absent`](Keyspace::insert_if_absent), [`replace`](Keyspace::replace), [`take`](Keyspace::take) and
//! [`update_and_fetch`](Keyspace::update_and_fetch).
//!
//! # Durability
//!
//! | [`Durability`] | an acknowledged write survives | cost |
//! |---|---|---|
//! | `Os` (default) | death of the process: panic, abort, `kill -9`, the out-of-memory killer | memory speed, no system call for values below 64 KiB |
//! | `Interval` | also power loss, except for the last interval (100 ms by default) and a sync under way | a sync in the background |
//! | `Disk` | also power loss and a kernel crash, before the call returns | one device flush per group of writers |
//!
//! The level is an option of the store, and can be raised for some writes. [`Store::flush`] makes all of them durable at
//! any level, and [`Store::wait_durable`] those up to a sequence number. After a power cut the store holds a prefix of
//! what was acknowledged, in the order of the writes, no shorter than what was durable: never a hole, never a part of a
//! batch, never an older value.
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
//! | `get`, `try_get`, `view().get`, `contains_key` | the newest write of that key, linearizable; once one key of a batch was seen new, no key of it is seen old |
//! | `multi_get`, `get_many_into` | all keys as of one moment |
//! | conditions of a batch, `compare_and_swap` and the like | what was there right before the write: nothing comes between |
//! | `iter`, `keys`, `values` | every key that is there throughout, exactly once, each with a value it had meanwhile |
//! | a [`Snapshot`], all that is read from it, iteration included | all keyspaces as of the moment it was taken |
//!
//! So to move something from key to key, and see it in one place only, write a batch and read with
//! [`multi_get`](Keyspace::multi_get), or from a snapshot.
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
//! What was overwritten or removed takes room until compaction gives it back. The background does so by itself, a step at
//! a time: it copies what is alive out of the segments that are emptiest, and removes them. At rest compaction could free
//! at most 35 % of what is alive and 1 MiB more. While writes go on as fast as they can the files take more: from twice
//! what is alive, eight segments and 1 MiB on writers help, and are slowed by it, the more the further; four segments on a writer
//! does nothing else until there is less, for a second at most for each 64 KiB that it writes. While a pass runs its output takes at most
//! [`Options::segment_bytes`] more, and a segment is kept ready. So the files stay within twice what is alive, fourteen segments and 1 MiB, unless
//! somebody keeps compaction from going on (a callback of [`Store::compact_with`], a damaged segment, a limit on its bandwidth); a limit that nothing
//! exceeds is [`Options::max_disk_bytes`]. Compaction makes the log durable up to what it has looked at, at any
//! level: nothing durable is given up for something that is not.
//!
//! [`Store::compact`] does all there is, so that removed bytes are in no file any more; [`Stats::compaction`] says what is
//! next and why; [`Options::compaction_bytes_per_second`] limits it, and [`Options::compaction`] switches it off. A value, an
//! iterator, a view or a snapshot that is held keeps what it has mapped, and never holds up a writer or compaction: the
//! files go, and their blocks when it is dropped ([`Stats::removed_bytes_in_use`]; they count against
//! [`Options::max_disk_bytes`] until then). A view holds every file of its store that is removed while it lives:
//! [`View::refresh`] lets go.
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
//! A [`Value`] is a piece of the mapped file: nothing is copied, and it stays valid after its key, its keyspace and its
//! store are gone. A [`View`] gives borrowed values, for many reads in a row. [`get_into`](Keyspace::get_into) copies, and
//! verifies the copy. A value that is kept for long keeps its whole segment file mapped; copy small ones.
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
//! With the feature `postcard` or `bincode` a keyspace holds your own types; with `serde` alone you bring a codec.
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
//! # Async
//!
//! The store has no runtime. A read of what is in memory does not wait, and neither does a write at `Os` or `Interval`,
//! unless it outruns the background ([overload](#overload)). [`try_get`](Keyspace::try_get) answers at once or says that
//! it would wait for the disk; hand that read, and every `flush`, to a thread that may block.
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
//! Each store has a thread for what can be done ahead of its writers; [`Background::shared`] is one thread for any number
//! of stores. What a small store takes is stated there.
//!
//! # Crash tests
//!
//! With the feature `sim` your own program runs on [`sim::SimDisk`], a disk in memory, and a test asks for the machine as a
//! power cut at any moment of that run could have left it. `examples/crash_test.rs` finds a bug that way.
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
//! | what | limit |
//! |---|---|
//! | key | 65,535 bytes ([`MAX_KEY_LEN`]); it may be empty |
//! | value | 4 GiB - 1 ([`MAX_VALUE_LEN`]); it may be empty |
//! | batch | 4 GiB - 1 of records: 32 bytes, key and value each, rounded up to eight |
//! | keyspace's name | 255 bytes of UTF-8 ([`MAX_KEYSPACE_NAME_LEN`]) |
//! | keyspaces and clears in a store's life | 2^32 - 1 |
//! | writes in a store's life | 2^56 |
//! | segment files together | 8 TiB; each 4 KiB to 4 GiB, 64 MiB by default |
//! | memory per key | at most 16 bytes from 100,000 keys in a keyspace on; below that up to 256 KiB for the keyspace |
//! | processes | one that writes, or any number that only read ([`Options::read_only`]); others get [`Error::Locked`] |
//! | opening | after a clean close nothing of the log; after a kill what was written since the last image ([`Options::checkpoint_bytes`]) |
//! | small store | 5 descriptors, 4 mappings, 32 KiB on the disk, 37 KiB of memory ([`Background`]) |
//! | typed value | 256 levels of nesting, 4,096 elements without bytes |
//! | file systems | NFS, SMB, 9p and their like are refused on Linux |
//!
//! # Overload
//!
//! At `Os` and `Interval` writers do not wait for their bytes to reach the disk: those lie in the page cache, and how many
//! may do so is the kernel's affair. A writer that outruns the background makes its next pages and segment ready itself, and
//! a segment takes syncs; [`Stats::stalls`] counts that. At `Disk` a writer waits for its sync, and all who wait share one.
//! So a disk that is slower than the writers slows them down; there is no queue in memory that grows.
//!
//! A full disk is [`Error::NoSpace`]: nothing was written, reads go on, and writing works again once there is room.
//! [`Options::max_disk_bytes`] draws the line earlier: insertions get [`Error::DiskLimit`], removals never do. Before an
//! insertion is refused for either reason, compaction makes what room there is to be made. On a full disk insertions end
//! early: what removals need, and the compaction that follows them, is kept for these: about a segment in a large store,
//! and at most a third of what there is in a small one. So removals lead out of it in whatever order, unless another
//! program takes the rest. When compaction lags behind the writers they help with it, and are slowed by it: far beyond the bound ([space](#space)) a
//! write may take a second and one step of compaction, which may be a sync of all that was written; once for each 64 KiB.
//!
//! Where memory, or address space for it, runs out, what is large or grows with the data is refused as [`Error::Exhausted`], and what
//! was called works again once there is some. Pieces of a few KiB are taken as std takes them: where even those cannot be had, the
//! process ends, which loses nothing that was acknowledged. So it is with a [`WriteBatch`] that grows, and with [`salvage()`].
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
//! # How it ends
//!
//! | what happens | what it does |
//! |---|---|
//! | [`Store::close`] | makes every write durable, marks the files clean, frees the lock, and reports; other handles get [`Error::Closed`]; values, iterators and snapshots go on |
//! | the last handle is dropped | the same, and nobody hears of a failure; keyspaces are handles, iterators and values are not |
//! | the process dies | nothing acknowledged is lost; the next open recovers and says so ([`Store::recovery_report`]) |
//! | `fork` | the child gets [`Error::Forked`] from inherited handles, at once, and dropping them touches nothing; what cannot fail is empty there (statistics, names, a snapshot whose reads are refused); while it lives it keeps the lock |
//! | a sync fails | writing ends with [`Error::Poisoned`], because the kernel never writes the lost pages again; reads go on; open the store again |
//! | a panic in the background | likewise, with [`Error::Panicked`] as the cause; the process and other stores go on |
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
//! # Damage
//!
//! Damage to durable data is an [`Error`] that names file and offset, never a wrong value, and nothing is deleted because
//! it looks wrong. [`Store::verify`] reads everything and compares it with its checksums; [`salvage()`] gets out of a store
//! that does not open what is intact; the `mapcask` tool (feature `cli`) has both.
//!
//! # Events
//!
//! With the feature `tracing` the store tells a subscriber, under the target `mapcask`: `info` opened and closed; `warn`
//! what an unclean end cost, and failures in the background that are tried again; `error` what ended writing; `debug`
//! segments and keyspaces; `trace` syncs. Nothing is said per read or write. Events are told at the end
//! of a call, or of a step in the background, with no lock held: a subscriber may call the store, and close it.
//!
//! # Coming from another store
//!
//! | concept | sled 0.34 | redb | fjall 3 | RocksDB | LMDB, heed | here |
//! |---|---|---|---|---|---|---|
//! | database, environment | `Db` | `Database` | `Database` | `DB` | `Env` | [`Store`] |
//! | tree, table, column family | `Tree` | table | `Keyspace` (2: partition) | column family | `Database` | [`Keyspace`], by [`Store::keyspace`]; the store itself is one |
//! | get, put | `get`, `insert` | `get`, `insert` | `get`, `insert` | `get`, `put` | `get`, `put` | [`get`](Keyspace::get), [`insert`](Keyspace::insert), outside of any transaction |
//! | the value before | from `insert` | from `insert` | | | | [`replace`](Keyspace::replace), [`take`](Keyspace::take) |
//! | delete | `remove` | `remove` | `remove` | `delete` | `delete` | [`remove`](Keyspace::remove) |
//! | batch | `Batch` | a transaction | batch | `WriteBatch` | a transaction | [`WriteBatch`] |
//! | transaction | `transaction` | `begin_write` | a transactional database | `TransactionDB` | `RwTxn` | reads, then a [`WriteBatch`] with conditions; again on `ConditionFailed` |
//! | compare and swap | `compare_and_swap` | in a transaction | in a transaction | in a transaction | in a transaction | [`compare_and_swap`](Keyspace::compare_and_swap) |
//! | merge, update | `merge`, `update_and_fetch` | | in a transaction | `merge` | | [`update_and_fetch`](Keyspace::update_and_fetch), [`fetch_and_update`](Keyspace::fetch_and_update) |
//! | flush, persist, sync | `flush` | `Durability` of a transaction | `persist` | `flush_wal`, `set_sync` | `force_sync` | [`flush`](Store::flush), [`Durability`], [`wait_durable`](Store::wait_durable) |
//! | iteration | in order | in order | in order | in order | in order | [`iter`](Keyspace::iter), in no order |
//! | range, prefix | `range`, `scan_prefix` | `range` | `range`, `prefix` | `iterator` | `range`, `prefix_iter` | not yet |
//! | snapshot | | `begin_read` | `snapshot` | `snapshot` | `RoTxn` | [`Store::snapshot`]; [`multi_get`](Keyspace::multi_get) is as of one moment too |
//! | types | bytes | `Key`, `Value` | bytes | bytes | codecs | bytes, or [`TypedKeyspace`] |
//! | size | `size_on_disk` | `stats` | `disk_space` | properties | `real_disk_size` | [`size_on_disk`](Store::size_on_disk), [`stats`](Store::stats), [`len`](Keyspace::len) in constant time |
//! | cache size, map size | `cache_capacity` | `set_cache_size` | `cache_size` | block cache | `map_size` | none to choose: the page cache |
//! | compaction | by itself | `compact` | by itself | by itself | | by itself, and [`compact`](Store::compact) |
//! | repair | | `check_integrity` | | `repair` | `copy_to_path` | [`verify`](Store::verify), [`salvage()`] |
//!
//! `examples/from_sled` moves a sled database and compares everything.

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

pub use api::conditional::CompareAndSwapError;
pub use api::destroy::destroy;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use api::destroy::destroy_on;
pub use api::keyspace::Keyspace;
pub use api::options::Options;
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use api::salvage::salvage_on;
pub use api::salvage::{Damage, DamageCause, SALVAGE_UNFINISHED, SalvageReport, salvage};
pub use api::snapshot::{KeyspaceSnapshot, Snapshot, SnapshotIter};
pub use api::store::Store;
#[cfg(feature = "bincode")]
pub use api::typed::codec::Bincode;
#[cfg(feature = "serde")]
pub use api::typed::codec::Codec;
#[cfg(feature = "postcard")]
pub use api::typed::codec::Postcard;
#[cfg(feature = "serde")]
pub use api::typed::{TypedIter, TypedKeyspace};
pub use api::write_batch::{BatchOn, WriteBatch};
pub use config::{Durability, RecoveryProgress};
pub use engine::compaction::report::{
    CompactionProgress, CompactionReason, CompactionReport, CompactionStats,
};
pub use engine::read::iter::{Iter, Keys, Values};
pub use engine::read::multi_get::TryGet;
pub use engine::read::{Value, View};
pub use engine::scrub::VerifyReport;
pub use engine::stats::{KeyspaceStats, Stats};
pub use error::{Error, Resource, Result};
pub use format::keyspace_change::MAX_NAME_LEN as MAX_KEYSPACE_NAME_LEN;
pub use format::record::{MAX_KEY_LEN, MAX_VALUE_LEN};
pub use format::{Defect, Seq};
#[cfg(any(test, feature = "sim", mapcask_internal))]
pub use fs::sim;
pub use recovery::report::RecoveryReport;
pub use sync::worker::Background;
