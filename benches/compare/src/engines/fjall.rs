//! fjall.

use std::path::Path;

use fjall::{
    Database, Guard, Keyspace, KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace,
    PersistMode, Readable as _,
};

use crate::Result;
use crate::engine::{
    Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine, touch_all,
};
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

impl OrderedEngine for Fjall {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&self.keyspace)
    }

    /// It has no such method; these are two calls, which is right for one consumer.
    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let Some(first) = self.keyspace.first_key_value() else { return Ok(false) };
        let (key, value) = first.into_inner()?;
        touch(&key);
        touch(&value);
        self.keyspace.remove(key)?;
        self.written()?;
        Ok(true)
    }
}

impl OrderedReads for Keyspace {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        touch_all(Keyspace::range(self, from..).take(limit).map(Guard::into_inner), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        touch_all(Keyspace::prefix(self, prefix).map(Guard::into_inner), touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let mut count = 0;
        for item in Keyspace::range(self, from..to) {
            item.key()?;
            count += 1;
        }
        Ok(count)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(self.first_key_value().map(Guard::into_inner).into_iter(), touch)? == 1)
    }
}

/// The database with optimistic transactions.
pub(crate) struct FjallTransactions {
    database: OptimisticTxDatabase,
    keyspace: OptimisticTxKeyspace,
}

impl FjallTransactions {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        if survives == Survives::PowerCut {
            return Err("no row needs durable transactions".into());
        }
        let database = OptimisticTxDatabase::builder(directory).open()?;
        let keyspace = database.keyspace("table", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keyspace })
    }
}

impl TransactionEngine for FjallTransactions {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        for (key, value) in items {
            self.keyspace.inner().insert(key.as_slice(), *value)?;
        }
        Ok(())
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        loop {
            let mut txn = self.database.write_tx()?;
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(txn.get(&self.keyspace, key)?.map(|value| value.to_vec()).unwrap_or_default());
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(&values) {
                txn.insert(&self.keyspace, key.as_slice(), value.as_slice());
            }
            if txn.commit()?.is_ok() {
                return Ok(());
            }
        }
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.keyspace.get(key)?.map(|value| touch(&value)).is_some())
    }
}
