//! fjall.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct Fjall {
    database: Database,
    keyspace: Keyspace,
    survives: Survives,
}

impl Fjall {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let database = Database::builder(directory).open()?;
        let keyspace = database.keyspace("table", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keyspace, survives })
    }

    fn written(&self) -> Result<()> {
        match self.survives {
            Survives::Kill => Ok(()),
            Survives::PowerCut => Ok(self.database.persist(PersistMode::SyncData)?),
        }
    }
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        self.written()
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = self.database.batch();
        for (key, value) in items {
            batch.insert(&self.keyspace, key.as_slice(), *value);
        }
        batch.commit()?;
        self.written()
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.keyspace.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key)?;
        self.written()
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for item in self.keyspace.iter() {
            let (key, value) = item.into_inner()?;
            touch(&key);
            touch(&value);
            count += 1;
        }
        Ok(Some(count))
    }
}
