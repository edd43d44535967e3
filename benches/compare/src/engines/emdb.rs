//! emdb.

use std::path::Path;

use emdb::{Emdb, FlushPolicy};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct EmDb(Emdb);

impl EmDb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let policy = match survives {
            Survives::Kill => FlushPolicy::OnEachFlush,
            Survives::PowerCut => FlushPolicy::WriteThrough,
        };
        Ok(Self(Emdb::builder().path(directory.join("database")).flush_policy(policy).build()?))
    }
}

impl Engine for EmDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.0.insert(key, value)?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        Ok(self.0.insert_many(items.iter().map(|(key, value)| (key.as_slice(), *value)))?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.0.get_zerocopy(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.0.remove(key)?;
        Ok(())
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for (key, value) in self.0.iter()? {
            touch(&key);
            touch(&value);
            count += 1;
        }
        Ok(Some(count))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.0.flush()?)
    }
}
