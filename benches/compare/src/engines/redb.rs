//! redb.

use std::path::Path;

use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("table");

pub(crate) struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let database = Database::create(directory.join("database"))?;
        // It has nothing in between: a commit is durable, or in its own memory.
        let durability = match survives {
            Survives::Kill => Durability::None,
            Survives::PowerCut => Durability::Immediate,
        };
        let redb = Self { database, durability };
        // A table must exist to be read.
        let txn = redb.database.begin_write()?;
        txn.open_table(TABLE)?;
        txn.commit()?;
        Ok(redb)
    }

    fn begin(&self) -> Result<WriteTransaction> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(self.durability)?;
        Ok(txn)
    }
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let txn = self.begin()?;
        txn.open_table(TABLE)?.insert(key, value)?;
        Ok(txn.commit()?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let txn = self.begin()?;
        let mut table = txn.open_table(TABLE)?;
        for (key, value) in items {
            table.insert(key.as_slice(), *value)?;
        }
        drop(table);
        Ok(txn.commit()?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| touch(value.value())).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        let txn = self.begin()?;
        txn.open_table(TABLE)?.remove(key)?;
        Ok(txn.commit()?)
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        let table = self.database.begin_read()?.open_table(TABLE)?;
        for item in table.iter()? {
            let (key, value) = item?;
            touch(key.value());
            touch(value.value());
            count += 1;
        }
        Ok(Some(count))
    }

    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut found = 0;
        for key in keys {
            found += usize::from(table.get(key.as_slice())?.map(|value| touch(value.value())).is_some());
        }
        Ok(found)
    }
}
