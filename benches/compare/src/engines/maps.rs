//! Maps in memory, behind a lock: what a program has that stores nothing.

use std::collections::HashMap;
use std::path::Path;

use foldhash::fast::FixedState;
use parking_lot::RwLock;

use crate::Result;
use crate::engine::{Engine, Survives, Touch};
use crate::workload::Key;

/// The standard map with its default hasher.
pub(crate) struct StdMap(RwLock<HashMap<Vec<u8>, Vec<u8>>>);

/// The same table with a fast hash that does not resist crafted keys.
pub(crate) struct FastMap(RwLock<hashbrown::HashMap<Vec<u8>, Vec<u8>, FixedState>>);

macro_rules! engine {
    ($map:ident) => {
        impl $map {
            pub(crate) fn open(_: &Path, _: Survives) -> Result<Self> {
                Ok(Self(RwLock::default()))
            }
        }

        impl Engine for $map {
            fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
                self.0.write().insert(key.to_vec(), value.to_vec());
                Ok(())
            }

            fn put_batch(&self, items: &[(Key, &[u8])]) -> Result<()> {
                let mut map = self.0.write();
                for (key, value) in items {
                    map.insert(key.to_vec(), value.to_vec());
                }
                Ok(())
            }

            fn get(&self, key: &[u8], touch: Touch<'_>) -> Result<bool> {
                Ok(self.0.read().get(key).map(|value| touch(value)).is_some())
            }

            fn remove(&self, key: &[u8]) -> Result<()> {
                self.0.write().remove(key);
                Ok(())
            }

            fn iterate(&self, touch: Touch<'_>) -> Result<Option<usize>> {
                let mut count = 0;
                for (key, value) in self.0.read().iter() {
                    touch(key);
                    touch(value);
                    count += 1;
                }
                Ok(Some(count))
            }

            fn get_all(&self, keys: &[Key], touch: Touch<'_>) -> Result<usize> {
                let map = self.0.read();
                let found = keys.iter().filter_map(|key| map.get(key.as_slice()));
                Ok(found.map(|value| touch(value)).count())
            }
        }
    };
}

engine!(StdMap);
engine!(FastMap);
