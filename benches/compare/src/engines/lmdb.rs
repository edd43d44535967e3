//! LMDB, through heed.

use std::ops::Bound;
use std::path::Path;

use heed::types::{Bytes, DecodeIgnore};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithTls};

use crate::Result;
use crate::engine::{
    Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine, touch_all,
};
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

impl OrderedEngine for Lmdb {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&Reads { txn: &self.env.read_txn()?, database: self.database })
    }

    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let mut txn = self.env.write_txn()?;
        let Some((key, value)) = self.database.first(&txn)? else { return Ok(false) };
        touch(key);
        touch(value);
        // A write may move the page that the key is in.
        let key = key.to_vec();
        self.database.delete(&mut txn, &key)?;
        txn.commit()?;
        Ok(true)
    }
}

/// The reads of one read transaction.
struct Reads<'t> {
    txn: &'t RoTxn<'t, WithTls>,
    database: Database<'static, Bytes, Bytes>,
}

impl OrderedReads for Reads<'_> {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        // It has no empty key, and refuses one.
        let start = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
        let bounds = (start, Bound::Unbounded);
        touch_all(self.database.range(self.txn, &bounds)?.take(limit), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        touch_all(self.database.prefix_iter(self.txn, prefix)?, touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let keys = self.database.remap_data_type::<DecodeIgnore>();
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut count = 0;
        for item in keys.range(self.txn, &bounds)? {
            item?;
            count += 1;
        }
        Ok(count)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        let first = self.database.first(self.txn)?;
        Ok(touch_all(first.map(Ok::<_, heed::Error>).into_iter(), touch)? == 1)
    }
}

impl TransactionEngine for Lmdb {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        self.put_batch(items)
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.database.get(&txn, key)?.unwrap_or_default().to_vec());
        }
        change(&mut values);
        for (key, value) in keys.iter().zip(&values) {
            self.database.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        self.get(key, touch)
    }
}
