//! Maps in memory, behind a lock: what a program has that stores nothing.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ops::Bound;
use std::path::Path;

use foldhash::fast::FixedState;
use parking_lot::RwLock;

use crate::Result;
use crate::engine::{Engine, OrderedEngine, OrderedReads, Survives, Touch, touch_all};
use crate::workload::Key;

/// The standard map with its default hasher.
pub(crate) struct StdMap(RwLock<HashMap<Vec<u8>, Vec<u8>>>);

/// The same table with a fast hash that does not resist crafted keys.
pub(crate) struct FastMap(RwLock<hashbrown::HashMap<Vec<u8>, Vec<u8>, FixedState>>);

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// The standard map whose keys are in order.
pub(crate) struct StdTree(RwLock<Tree>);

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
engine!(StdTree);

impl OrderedEngine for StdTree {
    fn read(&self, work: &mut dyn FnMut(&dyn OrderedReads) -> Result<()>) -> Result<()> {
        work(&*self.0.read())
    }

    fn pop_first(&self, touch: Touch<'_>) -> Result<bool> {
        let first = self.0.write().pop_first();
        Ok(touch_all(first.map(Ok::<_, Infallible>).into_iter(), touch)? == 1)
    }
}

/// Returns the keys and values from a key on.
fn from<'m>(map: &'m Tree, key: &[u8]) -> impl Iterator<Item = (&'m Vec<u8>, &'m Vec<u8>)> {
    map.range::<[u8], _>((Bound::Included(key), Bound::Unbounded))
}

impl OrderedReads for Tree {
    fn range(&self, start: &[u8], limit: usize, touch: Touch<'_>) -> Result<usize> {
        touch_all(from(self, start).take(limit).map(Ok::<_, Infallible>), touch)
    }

    fn prefix(&self, prefix: &[u8], touch: Touch<'_>) -> Result<usize> {
        let items = from(self, prefix).take_while(|(key, _)| key.starts_with(prefix));
        touch_all(items.map(Ok::<_, Infallible>), touch)
    }

    fn count(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        Ok(BTreeMap::range::<[u8], _>(self, (Bound::Included(from), Bound::Excluded(to))).count())
    }

    fn first(&self, touch: Touch<'_>) -> Result<bool> {
        Ok(touch_all(self.first_key_value().map(Ok::<_, Infallible>).into_iter(), touch)? == 1)
    }
}
