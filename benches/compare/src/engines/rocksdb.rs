//! `RocksDB`.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DB, Options, WriteBatch, WriteOptions};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

/// Bytes of the cache of blocks: all stores here fit into it.
const CACHE_BYTES: usize = 1 << 30;

pub(crate) struct RocksDb {
    database: DB,
    writes: WriteOptions,
}

impl RocksDb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        // Without it a miss searches a block of each level.
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(i32::try_from(std::thread::available_parallelism()?.get())?);
        options.set_block_based_table_factory(&blocks);
        let mut writes = WriteOptions::default();
        writes.set_sync(survives == Survives::PowerCut);
        Ok(Self { database: DB::open(&options, directory)?, writes })
    }
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
