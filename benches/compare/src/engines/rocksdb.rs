//! `RocksDB`.

use std::cell::RefCell;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBRawIterator, ErrorKind, OptimisticTransactionDB, Options, WriteBatch,
    WriteOptions,
};

use crate::Result;
use crate::engine::{Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine};
use crate::workload::Key;

/// Bytes of the cache of blocks: all stores here fit into it.
const CACHE_BYTES: usize = 1 << 30;

pub(crate) struct RocksDb {
    database: DB,
    writes: WriteOptions,
}

impl RocksDb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let mut writes = WriteOptions::default();
        writes.set_sync(survives == Survives::PowerCut);
        Ok(Self { database: DB::open(&options()?, directory)?, writes })
    }
}

fn options() -> Result<Options> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    // Without it a miss searches a block of each level.
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.increase_parallelism(i32::try_from(std::thread::available_parallelism()?.get())?);
    options.set_block_based_table_factory(&blocks);
    Ok(options)
}

impl Engine for RocksDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.writes)?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in items {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(batch, &self.writes)?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.database.get_pinned(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        Ok(self.database.delete_opt(key, &self.writes)?)
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        let mut items = self.database.raw_iterator();
        items.seek_to_first();
        while let Some((key, value)) = items.item() {
            touch(key);
            touch(value);
            count += 1;
            items.next();
        }
        items.status()?;
        Ok(Some(count))
    }
}

impl OrderedEngine for RocksDb {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&Reads(RefCell::new(self.database.raw_iterator())))
    }

    /// It has no such method; these are two calls, which is right for one consumer.
    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let mut items = self.database.raw_iterator();
        items.seek_to_first();
        let Some((key, value)) = items.item() else {
            items.status()?;
            return Ok(false);
        };
        touch(key);
        touch(value);
        self.database.delete_opt(key, &self.writes)?;
        Ok(true)
    }
}

/// The reads of one iterator, which each read places anew.
struct Reads<'d>(RefCell<DBRawIterator<'d>>);

impl Reads<'_> {
    /// Visits keys and values from a key on, until `visit` returns false.
    fn visit(&self, from: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let mut items = self.0.borrow_mut();
        items.seek(from);
        while let Some((key, value)) = items.item() {
            if !visit(key, value) {
                return Ok(());
            }
            items.next();
        }
        Ok(items.status()?)
    }
}

impl OrderedReads for Reads<'_> {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        let mut count = 0;
        self.visit(from, |key, value| {
            touch(key);
            touch(value);
            count += 1;
            count < limit
        })?;
        Ok(count)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        let mut count = 0;
        self.visit(prefix, |key, value| {
            if !key.starts_with(prefix) {
                return false;
            }
            touch(key);
            touch(value);
            count += 1;
            true
        })?;
        Ok(count)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let mut count = 0;
        self.visit(from, |key, _| {
            let is_less = key < to;
            count += usize::from(is_less);
            is_less
        })?;
        Ok(count)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(self.range(&[], 1, touch)? == 1)
    }
}

/// The database with optimistic transactions.
pub(crate) struct RocksTransactions(OptimisticTransactionDB);

impl RocksTransactions {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        if survives == Survives::PowerCut {
            return Err("no row needs durable transactions".into());
        }
        Ok(Self(OptimisticTransactionDB::open(&options()?, directory)?))
    }
}

impl TransactionEngine for RocksTransactions {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        for (key, value) in items {
            self.0.put(key, value)?;
        }
        Ok(())
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        loop {
            let txn = self.0.transaction();
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                // The commit checks only reads of this kind.
                values.push(txn.get_for_update(key, true)?.unwrap_or_default());
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(&values) {
                txn.put(key, value)?;
            }
            match txn.commit() {
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::TryAgain) => {}
                committed => return Ok(committed?),
            }
        }
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.0.get_pinned(key)?.map(|value| touch(&value)).is_some())
    }
}
