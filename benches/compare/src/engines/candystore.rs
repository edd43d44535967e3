//! candystore.

use std::path::Path;

use candystore::{CandyStore, Config};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct Candy {
    store: CandyStore,
    survives: Survives,
}

impl Candy {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        Ok(Self { store: CandyStore::open(directory, Config::default())?, survives })
    }

    fn written(&self) -> Result<()> {
        match self.survives {
            Survives::Kill => Ok(()),
            Survives::PowerCut => Ok(self.store.flush()?),
        }
    }
}

impl Engine for Candy {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.store.set(key, value)?;
        self.written()
    }

    /// It has no batches.
    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        for (key, value) in items {
            self.store.set(key, value)?;
        }
        self.written()
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.store.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.store.remove(key)?;
        self.written()
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for item in self.store.iter_items() {
            let (key, value) = item?;
            touch(&key);
            touch(&value);
            count += 1;
        }
        Ok(Some(count))
    }
}
