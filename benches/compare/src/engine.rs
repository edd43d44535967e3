//! One interface to all stores, and the list of them.
//!
//! Every store is called through the same trait object, so that a call costs all of them the same.

use std::path::Path;

use crate::workload::Key;
use crate::{Result, engines};

/// The use of a value that was read.
pub(crate) type Touch<'t> = &'t mut dyn FnMut(&[u8]);

/// A store that is open.
pub(crate) trait Engine: Send + Sync {
    /// Puts one key.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Puts several keys: in one atomic batch where the store has those.
    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()>;
    /// Reads one key. Returns true if it is there.
    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool>;
    /// Removes one key.
    fn remove(&self, key: &[u8]) -> Result<()>;
    /// Reads all keys and values. `None` if the store cannot, and else their number.
    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>>;
    /// Reads many keys in the fastest way, such as one read transaction for all of them. Returns the
    /// number of those that are there.
    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let mut found = 0;
        for key in keys {
            found += usize::from(self.get(key, touch)?);
        }
        Ok(found)
    }
    /// Closes the store as its documentation says.
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Reads of keys in order, from one state of a store where it has those.
pub(crate) trait OrderedReads {
    /// Reads at most `limit` keys, one at least, and their values from a key on. Returns their number.
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize>;
    /// Reads the keys with a prefix and their values. Returns their number.
    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize>;
    /// Counts the keys from `from` on that are less than `to`.
    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize>;
    /// Reads the first key and its value. Returns false if there is none.
    fn first(&self, touch: Touch<'_>) -> Result<bool>;
}

/// A store that is open, and that has its keys in order.
pub(crate) trait OrderedEngine: Engine {
    /// Calls `work` with the fastest reads, such as those of one read transaction.
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()>;
    /// Returns reads of values that outlive the call. `None` if they are no other reads.
    fn owned(&self) -> Option<&dyn OrderedReads> {
        None
    }
    /// Reads and removes the first key. Returns false if there is none.
    fn pop_first(&self, touch: Touch<'_>) -> Result<bool>;
}

/// Touches keys and values, and returns their number.
pub(crate) fn touch_all<K: AsRef<[u8]>, V: AsRef<[u8]>, E: Into<Box<dyn std::error::Error>>>(
    items: impl Iterator<Item = std::result::Result<(K, V), E>>,
    touch: Touch<'_>,
) -> Result<usize> {
    let mut count = 0;
    for item in items {
        let (key, value) = item.map_err(Into::into)?;
        touch(key.as_ref());
        touch(value.as_ref());
        count += 1;
    }
    Ok(count)
}

/// The change of some values; a key that is absent has an empty one. A transaction that is tried again
/// calls it again.
pub(crate) type Change<'c> = &'c dyn Fn(&mut [Vec<u8>]);

/// A store that is open, and that has transactions.
pub(crate) trait TransactionEngine: Send + Sync {
    /// Puts several keys in the fastest way, outside of a transaction.
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()>;
    /// Reads the values of some keys and writes them changed, as one step.
    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()>;
    /// Reads one key outside of a transaction.
    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool>;
}

/// The event that an acknowledged write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// The death of the process.
    Kill,
    /// A power cut.
    PowerCut,
}

/// A store that takes part, seen as an `E`.
pub(crate) struct Contender<E: ?Sized = dyn Engine> {
    pub(crate) name: &'static str,
    /// The package that it comes from. Its version is in Cargo.toml. Empty for maps in memory.
    package: &'static str,
    /// The mode in which its writes survive a kill, as far as it has one, and a power cut.
    pub(crate) modes: [&'static str; 2],
    open: fn(&Path, Survives) -> Result<Box<E>>,
}

impl<E: ?Sized> Contender<E> {
    /// Opens the store in a directory, and creates it if there is none.
    pub(crate) fn open(&self, directory: &Path, survives: Survives) -> Result<Box<E>> {
        (self.open)(directory, survives).map_err(|error| format!("{}: {error}", self.name).into())
    }

    /// Returns false for a map in memory.
    pub(crate) fn is_store(&self) -> bool {
        !self.package.is_empty()
    }

    /// Returns the version of its package, as Cargo.toml pins it. `None` for the one of this
    /// repository.
    pub(crate) fn version(&self) -> Option<&'static str> {
        let package = self.package;
        let lines = include_str!("../Cargo.toml").lines();
        let mut pinned = lines.filter_map(|line| line.split_once(" = ").filter(|(name, _)| *name == package));
        let (_, rest) = pinned.find(|(_, rest)| rest.contains("\"="))?;
        rest.split("\"=").nth(1)?.split('"').next()
    }
}

/// The mode of a store without one of the two.
pub(crate) const NONE: &str = "none";

const MAPCASK_MODES: [&str; 2] = ["Os", "Disk"];
const LMDB_MODES: [&str; 2] = ["NO_SYNC", "default"];
const REDB_MODES: [&str; 2] = ["Durability::None", "Immediate"];
const FJALL_MODES: [&str; 2] = ["default", "SyncData after each write"];
const SLED_MODES: [&str; 2] = ["default", "flush after each write"];
#[cfg(feature = "rocksdb")]
const ROCKSDB_MODES: [&str; 2] = ["default", "sync"];

macro_rules! contender {
    ($name:literal, $package:literal, $modes:expr, $open:expr) => {
        Contender {
            name: $name,
            package: $package,
            modes: $modes,
            open: |directory, survives| Ok(Box::new($open(directory, survives)?)),
        }
    };
}

/// Returns everything that takes part. Ratios are to the first one.
pub(crate) fn contenders() -> Vec<Contender> {
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_mut, reason = "the feature adds one"))]
    let mut all: Vec<Contender> = vec![
        contender!("std HashMap", "", [NONE; 2], engines::maps::StdMap::open),
        contender!("hashbrown, foldhash", "", [NONE; 2], engines::maps::FastMap::open),
        contender!("mapcask", "mapcask", MAPCASK_MODES, engines::mapcask::Mapcask::open),
        contender!("LMDB", "heed", LMDB_MODES, engines::lmdb::Lmdb::open),
        contender!("redb", "redb", REDB_MODES, engines::redb::Redb::open),
        contender!("fjall", "fjall", FJALL_MODES, engines::fjall::Fjall::open),
        contender!("sled", "sled", SLED_MODES, engines::sled::Sled::open),
        contender!(
            "candystore",
            "candystore",
            ["default", "flush after each write"],
            engines::candystore::Candy::open
        ),
        contender!("emdb", "emdb", ["default", "WriteThrough"], engines::emdb::EmDb::open),
        contender!("parity-db", "parity-db", ["default", NONE], engines::parity_db::ParityDb::open),
        contender!("surrealkv", "surrealkv", ["Eventual", "Immediate"], engines::surrealkv::SurrealKv::open),
    ];
    #[cfg(feature = "rocksdb")]
    all.push(contender!("RocksDB", "rocksdb", ROCKSDB_MODES, engines::rocksdb::RocksDb::open));
    all
}

/// Returns everything that has its keys in order.
pub(crate) fn ordered_contenders() -> Vec<Contender<dyn OrderedEngine>> {
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_mut, reason = "the feature adds one"))]
    let mut all: Vec<Contender<dyn OrderedEngine>> = vec![
        contender!("std BTreeMap", "", [NONE; 2], engines::maps::StdTree::open),
        contender!("mapcask", "mapcask", MAPCASK_MODES, engines::mapcask::Mapcask::open_ordered),
        contender!("LMDB", "heed", LMDB_MODES, engines::lmdb::Lmdb::open),
        contender!("redb", "redb", REDB_MODES, engines::redb::Redb::open),
        contender!("fjall", "fjall", FJALL_MODES, engines::fjall::Fjall::open),
        contender!("sled", "sled", SLED_MODES, engines::sled::Sled::open),
    ];
    #[cfg(feature = "rocksdb")]
    all.push(contender!("RocksDB", "rocksdb", ROCKSDB_MODES, engines::rocksdb::RocksDb::open));
    all
}

/// Returns everything that has transactions.
pub(crate) fn transaction_contenders() -> Vec<Contender<dyn TransactionEngine>> {
    #[cfg_attr(not(feature = "rocksdb"), expect(unused_mut, reason = "the feature adds one"))]
    let mut all: Vec<Contender<dyn TransactionEngine>> = vec![
        contender!("mapcask", "mapcask", MAPCASK_MODES, engines::mapcask::Mapcask::open),
        contender!("LMDB", "heed", LMDB_MODES, engines::lmdb::Lmdb::open),
        contender!("redb", "redb", REDB_MODES, engines::redb::Redb::open),
        contender!("fjall", "fjall", FJALL_MODES, engines::fjall::FjallTransactions::open),
        contender!("sled", "sled", SLED_MODES, engines::sled::Sled::open),
    ];
    #[cfg(feature = "rocksdb")]
    all.push(contender!("RocksDB", "rocksdb", ROCKSDB_MODES, engines::rocksdb::RocksTransactions::open));
    all
}
