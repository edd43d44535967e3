//! mapcask.

use std::path::Path;

use mapcask::{Durability, Options, Store, WriteBatch};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct Mapcask(Store);

impl Mapcask {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let durability = match survives {
            Survives::Kill => Durability::Os,
            Survives::PowerCut => Durability::Disk,
        };
        Ok(Self(Options::new().durability(durability).open(directory)?))
    }
}

impl Engine for Mapcask {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.insert(key, value)?;
        Ok(())
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in items {
            batch.insert(key, value);
        }
        self.0.write(&batch)?;
        Ok(())
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.0.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.0.remove(key)?;
        Ok(())
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for item in &self.0.view() {
            let (key, value) = item?;
            touch(key);
            touch(value);
            count += 1;
        }
        Ok(Some(count))
    }

    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let view = self.0.view();
        let mut found = 0;
        for key in keys {
            found += usize::from(view.get(key)?.map(&mut *touch).is_some());
        }
        Ok(found)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.0.close()?;
        Ok(())
    }
}
