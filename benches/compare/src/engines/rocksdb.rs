//! RocksDB.

use std::path::Path;

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct RocksDb {
    database: DB,
    survives: Survives,
}

impl RocksDb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(i32::try_from(std::thread::available_parallelism()?.get())?);
        Ok(Self { database: DB::open(&options, directory)?, survives })
    }

    fn options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.survives == Survives::PowerCut);
        options
    }
}

impl Engine for RocksDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.options())?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in items {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(&batch, &self.options())?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.database.get_pinned(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        Ok(self.database.delete_opt(key, &self.options())?)
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        let mut iterator = self.database.raw_iterator();
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            touch(key);
            touch(value);
            count += 1;
            iterator.next();
        }
        iterator.status()?;
        Ok(Some(count))
    }
}
