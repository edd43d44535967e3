//! mapcask.

use std::path::Path;

use mapcask::{Durability, Error, Keyspace, Options, Reader, Store, View, WriteBatch};

use crate::Result;
use crate::engine::{
    Change, Engine, OrderedEngine, OrderedReads, Survives, Touch, TransactionEngine, touch_all,
};
use crate::workload::Key;

/// A keyspace, and its store.
pub(crate) struct Mapcask {
    store: Store,
    keyspace: Keyspace,
}

impl Mapcask {
    /// Opens the default keyspace.
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let store = open_store(directory, survives)?;
        Ok(Self { keyspace: Keyspace::clone(&store), store })
    }

    /// Opens an ordered keyspace.
    pub(crate) fn open_ordered(directory: &Path, survives: Survives) -> Result<Self> {
        let store = open_store(directory, survives)?;
        Ok(Self { keyspace: store.ordered_keyspace("ordered")?, store })
    }
}

fn open_store(directory: &Path, survives: Survives) -> Result<Store> {
    let durability = match survives {
        Survives::Kill => Durability::Os,
        Survives::PowerCut => Durability::Disk,
    };
    Ok(Options::new().durability(durability).open(directory)?)
}

impl Engine for Mapcask {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        Ok(())
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in items {
            batch.insert(key, value);
        }
        self.keyspace.write(&batch)?;
        Ok(())
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.keyspace.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.keyspace.remove(key)?;
        Ok(())
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        for item in &self.keyspace.view() {
            let (key, value) = item?;
            touch(key);
            touch(value);
            count += 1;
        }
        Ok(Some(count))
    }

    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let view = self.keyspace.view();
        let mut found = 0;
        for key in keys {
            found += usize::from(view.get(key)?.map(&mut *touch).is_some());
        }
        Ok(found)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.store.close()?;
        Ok(())
    }
}

impl OrderedEngine for Mapcask {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&Borrowed { view: self.keyspace.view(), keyspace: &self.keyspace })
    }

    fn owned(&self) -> Option<&dyn OrderedReads> {
        Some(&self.keyspace)
    }

    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(self.keyspace.pop_first().transpose().into_iter(), touch)? == 1)
    }
}

/// Reads that borrow from a view where it has them.
struct Borrowed<'k> {
    view: View<'k>,
    keyspace: &'k Keyspace,
}

impl OrderedReads for Borrowed<'_> {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        touch_all(self.view.range(from..).take(limit), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        touch_all(self.view.prefix(prefix), touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        self.keyspace.count(from, to)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(self.view.first_key_value().transpose().into_iter(), touch)? == 1)
    }
}

impl OrderedReads for Keyspace {
    fn range(&self, from: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        touch_all(Reader::range(self, from..).take(limit), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        touch_all(Reader::prefix(self, prefix), touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        Ok(usize::try_from(self.count_range(from..to)?)?)
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(self.first_key_value().transpose().into_iter(), touch)? == 1)
    }
}

impl TransactionEngine for Mapcask {
    fn fill(&self, items: &[(Key, &[u8])]) -> Result<()> {
        self.put_batch(items)
    }

    fn transact(&self, keys: &[Key], change: Change<'_>) -> Result<()> {
        self.store.transact(|transaction| {
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                let value = transaction.get(&self.keyspace, key)?;
                values.push(value.map(|value| value.to_vec()).unwrap_or_default());
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(&values) {
                transaction.insert(&self.keyspace, key, value)?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(())
    }

    fn read_one(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        self.get(key, touch)
    }
}
