//! sled.

use std::path::Path;

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct Sled {
    database: sled::Db,
    survives: Survives,
}

impl Sled {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        Ok(Self { database: sled::open(directory)?, survives })
    }

    fn written(&self) -> Result<()> {
        if self.survives == Survives::PowerCut {
            self.database.flush()?;
        }
        Ok(())
    }
}

impl Engine for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.database.insert(key, value)?;
        self.written()
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in items {
            batch.insert(key.as_slice(), *value);
        }
        self.database.apply_batch(batch)?;
        self.written()
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.database.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.database.remove(key)?;
        self.written()
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for item in self.database.iter() {
            let (key, value) = item?;
            touch(&key);
            touch(&value);
            count += 1;
        }
        Ok(Some(count))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.flush()?;
        Ok(())
    }
}
