//! surrealkv.

use std::path::Path;

use surrealkv::{Durability, Error, LSMIterator as _, Transaction, Tree, TreeBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct SurrealKv {
    tree: Tree,
    runtime: Runtime,
    durability: Durability,
}

impl SurrealKv {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let guard = runtime.enter();
        let tree = TreeBuilder::new().with_path(directory.to_owned()).build()?;
        drop(guard);
        let durability = match survives {
            Survives::Kill => Durability::Eventual,
            Survives::PowerCut => Durability::Immediate,
        };
        Ok(Self { tree, runtime, durability })
    }

    /// Commits what is set in a transaction. Of two that write one key at a time, one must try again.
    fn commit(&self, fill: impl Fn(&mut Transaction) -> surrealkv::Result<()>) -> Result<()> {
        loop {
            let mut txn = self.tree.begin()?.with_durability(self.durability);
            fill(&mut txn)?;
            match self.runtime.block_on(txn.commit()) {
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                committed => return Ok(committed?),
            }
        }
    }
}

impl Engine for SurrealKv {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.commit(|txn| txn.set(key, value))
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        self.commit(|txn| items.iter().try_for_each(|(key, value)| txn.set(key.as_slice(), *value)))
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.tree.begin()?.get(key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        self.commit(|txn| txn.delete(key))
    }

    fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
        let mut count = 0;
        let txn = self.tree.begin()?;
        let mut iterator = txn.iter()?;
        iterator.seek_first()?;
        while iterator.valid() {
            touch(iterator.key().user_key());
            touch(&iterator.value()?);
            count += 1;
            iterator.next()?;
        }
        Ok(Some(count))
    }

    fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
        let txn = self.tree.begin()?;
        let mut found = 0;
        for key in keys {
            found += usize::from(txn.get(key.as_slice())?.map(|value| touch(&value)).is_some());
        }
        Ok(found)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.runtime.block_on(self.tree.close())?)
    }
}
