//! redb.

use std::path::Path;

use redb::{
    AccessGuard, Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, WriteTransaction,
};

use crate::Result;
use crate::engine::{Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine};
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

impl OrderedEngine for Redb {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&self.database.begin_read()?.open_table(TABLE)?)
    }

    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let txn = self.begin()?;
        let mut table = txn.open_table(TABLE)?;
        let is_there = table.pop_first()?.map(|item| touch_item(&item, touch)).is_some();
        drop(table);
        txn.commit()?;
        Ok(is_there)
    }
}

type Guards<'t> = (AccessGuard<'t, &'static [u8]>, AccessGuard<'t, &'static [u8]>);

fn touch_item((key, value): &Guards<'_>, touch: Touch<'_>) {
    touch(key.value());
    touch(value.value());
}

impl OrderedReads for ReadOnlyTable<&'static [u8], &'static [u8]> {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        let mut count = 0;
        for item in ReadOnlyTable::range::<&[u8]>(self, from..)?.take(limit) {
            touch_item(&item?, touch);
            count += 1;
        }
        Ok(count)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        let mut count = 0;
        for item in ReadOnlyTable::range::<&[u8]>(self, prefix..)? {
            let item = item?;
            if !item.0.value().starts_with(prefix) {
                break;
            }
            touch_item(&item, touch);
            count += 1;
        }
        Ok(count)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let mut count = 0;
        for item in ReadOnlyTable::range::<&[u8]>(self, from..to)? {
            item?;
            count += 1;
        }
        Ok(count)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(redb::ReadableTable::first(self)?.map(|item| touch_item(&item, touch)).is_some())
    }
}

impl TransactionEngine for Redb {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        self.put_batch(items)
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        let txn = self.begin()?;
        let mut table = txn.open_table(TABLE)?;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = table.get(key.as_slice())?;
            values.push(value.map(|value| value.value().to_vec()).unwrap_or_default());
        }
        change(&mut values);
        for (key, value) in keys.iter().zip(&values) {
            table.insert(key.as_slice(), value.as_slice())?;
        }
        drop(table);
        Ok(txn.commit()?)
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        self.get(key, touch)
    }
}
