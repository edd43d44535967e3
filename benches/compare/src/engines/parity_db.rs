//! parity-db.

use std::path::Path;

use parity_db::{Db, Options};

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

pub(crate) struct ParityDb(Db);

impl ParityDb {
    pub(crate) fn open(directory: &Path, survives: Survives) -> Result<Self> {
        if survives == Survives::PowerCut {
            return Err("no commit waits for the disk".into());
        }
        Ok(Self(Db::open_or_create(&Options::with_columns(directory, 1))?))
    }
}

impl Engine for ParityDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.0.commit([(0, key, Some(value.to_vec()))])?)
    }

    fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
        Ok(self.0.commit(items.iter().map(|(key, value)| (0, key, Some(value.to_vec()))))?)
    }

    fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
        Ok(self.0.get(0, key)?.map(|value| touch(&value)).is_some())
    }

    fn remove(&self, key: &[u8]) -> Result<()> {
        Ok(self.0.commit([(0, key, None)])?)
    }

    /// A hash column keeps no keys.
    fn iterate(&self, _: Touch<'_>) -> Result<Option<usize>> {
        Ok(None)
    }
}
