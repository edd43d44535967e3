//! sled.

use std::path::Path;

use sled::transaction::TransactionError;

use crate::Result;
use crate::engine::{
    Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine, touch_all,
};
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

impl OrderedEngine for Sled {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&self.database)
    }

    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let is_there = touch_all(self.database.pop_min().transpose().into_iter(), touch)? == 1;
        self.written()?;
        Ok(is_there)
    }
}

impl OrderedReads for sled::Db {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        touch_all(sled::Tree::range(self, from..).take(limit), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        touch_all(self.scan_prefix(prefix), touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let mut count = 0;
        for key in sled::Tree::range(self, from..to).keys() {
            key?;
            count += 1;
        }
        Ok(count)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(sled::Tree::first(self).transpose().into_iter(), touch)? == 1)
    }
}

impl TransactionEngine for Sled {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        self.put_batch(items)
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        let done = self.database.transaction(|tree| {
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(tree.get(key)?.map(|value| value.to_vec()).unwrap_or_default());
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(&values) {
                tree.insert(key.as_slice(), value.as_slice())?;
            }
            Ok(())
        });
        Ok(done.map_err(|error: TransactionError<std::convert::Infallible>| error.to_string())?)
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        self.get(key, touch)
    }
}
