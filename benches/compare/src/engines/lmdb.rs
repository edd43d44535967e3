//! LMDB, through heed.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

/// The address space that it may use, in bytes.
const MAP: usize = 64 << 30;

pub(crate) struct Lmdb {
    env: Env,
    database: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let flags = if survives == Survives::Kill { EnvFlags::NO_SYNC } else { EnvFlags::empty() };
        Self::open_with(directory, flags)
    }

    /// Opens it for reads of data larger than memory.
    pub(crate) fn open_for_single_reads(directory: &Path) -> Result<Self> {
        Self::open_with(directory, EnvFlags::NO_SYNC | EnvFlags::NO_READ_AHEAD)
    }

    fn open_with(directory: &Path, flags: EnvFlags) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP);
        // SAFETY: the flags only drop durability at a power cut, and change what the kernel reads.
        unsafe { options.flags(flags) };
        std::fs::create_dir_all(directory)?;
        // SAFETY: the directory belongs to this program; no other process changes its files.
        let env = unsafe { options.open(directory) }?;
        let made = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
            opener.create_database::<Bytes, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        });
        Ok(Self { database: made?.unwrap_commit(), env })
    }
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.database.put(&mut txn, key, value)?;
        Ok(txn.commit()?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in items {
            self.database.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        let txn = self.env.read_txn()?;
        Ok(self.database.get(&txn, key)?.map(touch).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.database.delete(&mut txn, key)?;
        Ok(txn.commit()?)
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        let txn = self.env.read_txn()?;
        for item in self.database.iter(&txn)? {
            let (key, value) = item?;
            touch(key);
            touch(value);
            count += 1;
        }
        Ok(Some(count))
    }

    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let txn = self.env.read_txn()?;
        let mut found = 0;
        for key in keys {
            found += usize::from(self.database.get(&txn, key)?.map(&mut *touch).is_some());
        }
        Ok(found)
    }
}
