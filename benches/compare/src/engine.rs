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

/// The event that an acknowledged write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// The death of the process.
    Kill,
    /// A power cut.
    PowerCut,
}

/// A store that takes part.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The package that it comes from. Its version is in Cargo.toml. Empty for maps in memory.
    package: &'static str,
    /// The mode in which its writes survive a kill, as far as it has one, and a power cut.
    pub(crate) modes: [&'static str; 2],
    open: fn(&Path, Survives) -> Result<Box<dyn Engine>>,
}

impl Contender {
    /// Opens the store in a directory, and creates it if there is none.
    pub(crate) fn open(&self, directory: &Path, survives: Survives) -> Result<Box<dyn Engine>> {
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

macro_rules! contender {
    ($name:literal, $package:literal, $modes:expr, $engine:ty) => {
        Contender {
            name: $name,
            package: $package,
            modes: $modes,
            open: |directory, survives| Ok(Box::new(<$engine>::open(directory, survives)?)),
        }
    };
}

/// Returns everything that takes part. Ratios are to the first one.
pub(crate) fn contenders() -> Vec<Contender> {
    let mut all = vec![
        contender!("std HashMap", "", [NONE; 2], engines::maps::StdMap),
        contender!("hashbrown, foldhash", "", [NONE; 2], engines::maps::FastMap),
        contender!("mapcask", "mapcask", ["Os", "Disk"], engines::mapcask::Mapcask),
        contender!("LMDB", "heed", ["NO_SYNC", "default"], engines::lmdb::Lmdb),
        contender!("redb", "redb", ["Durability::None", "Immediate"], engines::redb::Redb),
        contender!("fjall", "fjall", ["default", "SyncData after each write"], engines::fjall::Fjall),
        contender!("sled", "sled", ["default", "flush after each write"], engines::sled::Sled),
        contender!(
            "candystore",
            "candystore",
            ["default", "flush after each write"],
            engines::candystore::Candy
        ),
        contender!("emdb", "emdb", ["default", "WriteThrough"], engines::emdb::EmDb),
        contender!("parity-db", "parity-db", ["default", NONE], engines::parity_db::ParityDb),
        contender!("surrealkv", "surrealkv", ["Eventual", "Immediate"], engines::surrealkv::SurrealKv),
    ];
    if cfg!(feature = "rocksdb") {
        all.extend(rocksdb());
    }
    all
}

#[cfg(feature = "rocksdb")]
fn rocksdb() -> Option<Contender> {
    let modes = ["default", "sync"];
    Some(contender!("RocksDB", "rocksdb", modes, engines::rocksdb::RocksDb))
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb() -> Option<Contender> {
    None
}
