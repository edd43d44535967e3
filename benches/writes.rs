//! Measures writes at the default durability: an acknowledged write survives the death of the
//! process.
//!
//! Each round reads its result back outside of the measured time, and the contenders' results are
//! compared.

use mapcask::{Options, Store, WriteBatch};
use tempfile::TempDir;

use crate::reads::{FastMap, StdMap, ask, ask_std, ask_view};
use crate::rounds::{Measured, Race, Table};
use crate::workload::whole;
use crate::{Lab, Result};

/// The writes in one batch.
const BATCH: usize = 1000;

impl Lab {
    /// Makes a new, empty store.
    fn empty(&self) -> Result<(Store, TempDir)> {
        let directory = self.directory()?;
        let store = Options::new().open(directory.path())?;
        Ok((store, directory))
    }

    /// Measures some writes to a store, and reads the result.
    fn write_store(&self, store: &Store, work: impl FnOnce(&Store) -> Result<()>) -> Result<Measured> {
        let mut measured = Measured::time(self.keys, || work(store).map(|()| 0))?;
        measured.sum = Some(ask_view(store, &self.workload.probes, whole)?);
        Ok(measured)
    }

    fn write_std(&self, map: &mut StdMap, work: impl FnOnce(&mut StdMap)) -> Result<Measured> {
        let mut measured = Measured::time(self.keys, || {
            work(map);
            Ok(0)
        })?;
        measured.sum = Some(ask_std(map, &self.workload.probes, whole));
        Ok(measured)
    }

    fn write_fast(&self, map: &mut FastMap, work: impl FnOnce(&mut FastMap)) -> Result<Measured> {
        let mut measured = Measured::time(self.keys, || {
            work(map);
            Ok(0)
        })?;
        measured.sum = Some(ask(map, &self.workload.probes, whole));
        Ok(measured)
    }

    /// Returns the keys in the order of insertion, with their first values.
    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.workload.keys.iter().enumerate().map(|(at, key)| (key.as_slice(), self.workload.value(at, 0)))
    }

    /// Returns the keys in another order, with later values.
    fn updates(&self, version: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let order = self.workload.order.iter();
        order.map(move |at| (self.workload.keys[*at].as_slice(), self.workload.value(*at, version)))
    }

    fn maps<'l>(&'l self, race: &mut Race<'l>) {
        let count = self.keys;
        race.add("std HashMap, growing", |_| {
            self.write_std(&mut StdMap::new(), |map| insert_std(map, self.entries()))
        });
        race.add("std HashMap, made large enough", move |_| {
            self.write_std(&mut StdMap::with_capacity(count), |map| insert_std(map, self.entries()))
        });
        race.add("hashbrown, foldhash, growing", |_| {
            self.write_fast(&mut FastMap::default(), |map| insert_fast(map, self.entries()))
        });
    }
}

fn insert_std<'e>(map: &mut StdMap, entries: impl Iterator<Item = (&'e [u8], &'e [u8])>) {
    for (key, value) in entries {
        map.insert(key.to_vec(), value.to_vec());
    }
}

fn insert_fast<'e>(map: &mut FastMap, entries: impl Iterator<Item = (&'e [u8], &'e [u8])>) {
    for (key, value) in entries {
        map.insert(key.to_vec(), value.to_vec());
    }
}

fn insert_store<'e>(store: &Store, entries: impl Iterator<Item = (&'e [u8], &'e [u8])>) -> Result<()> {
    for (key, value) in entries {
        store.insert(key, value)?;
    }
    Ok(())
}

/// Measures insertions of new keys, one by one, into a new store.
pub(crate) fn put(lab: &Lab) -> Result<Vec<Table>> {
    let mut stalls = Vec::new();
    let mut race = Race::new("put of new keys, Os");
    lab.maps(&mut race);
    race.add("mapcask, insert", |_| {
        let (store, _directory) = lab.empty()?;
        let measured = lab.write_store(&store, |store| insert_store(store, lab.entries()))?;
        let stats = store.stats();
        stalls.push(format!("{} and {}", stats.stalls, stats.worker_wakes));
        Ok(measured)
    });
    let table = race.run(lab.rounds)?;
    Ok(vec![table.note(format!("Stalls and wakes of the helper per round: {}.", stalls.join(", ")))])
}

/// Measures insertions of new keys in batches.
pub(crate) fn put_batch(lab: &Lab) -> Result<Vec<Table>> {
    let mut race = Race::new(format!("put of new keys in batches of {BATCH}, Os"));
    lab.maps(&mut race);
    race.add("mapcask, single puts", |_| {
        let (store, _directory) = lab.empty()?;
        lab.write_store(&store, |store| insert_store(store, lab.entries()))
    });
    race.add("mapcask, batches", |_| {
        let (store, _directory) = lab.empty()?;
        let mut batch = WriteBatch::new();
        lab.write_store(&store, |store| {
            for (key, value) in lab.entries() {
                batch.insert(key, value);
                if batch.len() == BATCH {
                    store.write(&batch)?;
                    batch.clear();
                }
            }
            Ok(store.write(&batch).map(drop)?)
        })
    });
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures new values for present keys.
pub(crate) fn overwrite(lab: &Lab) -> Result<Vec<Table>> {
    let mut std_map: StdMap = lab.workload.owned().collect();
    let mut fast_map: FastMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let mut race = Race::new("overwrite in random order, Os");
    race.add("std HashMap", |round| {
        lab.write_std(&mut std_map, |map| insert_std(map, lab.updates(round + 1)))
    });
    race.add("hashbrown, foldhash", |round| {
        lab.write_fast(&mut fast_map, |map| insert_fast(map, lab.updates(round + 1)))
    });
    race.add("mapcask", |round| lab.write_store(&store, |store| insert_store(store, lab.updates(round + 1))));
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures the removal of every key in random order. The keys are put back outside of the measured
/// time.
pub(crate) fn remove(lab: &Lab) -> Result<Vec<Table>> {
    let probes = &lab.workload.probes;
    let mut std_map: StdMap = lab.workload.owned().collect();
    let mut fast_map: FastMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let mut race = Race::new("remove in random order, Os");
    race.add("std HashMap", |_| {
        let removed = Measured::time(probes.len(), || {
            Ok(probes.iter().fold(0, |sum, key| sum + u64::from(std_map.remove(key.as_slice()).is_some())))
        });
        insert_std(&mut std_map, lab.entries());
        removed
    });
    race.add("hashbrown, foldhash", |_| {
        let removed = Measured::time(probes.len(), || {
            Ok(probes.iter().fold(0, |sum, key| sum + u64::from(fast_map.remove(key.as_slice()).is_some())))
        });
        insert_fast(&mut fast_map, lab.entries());
        removed
    });
    race.add("mapcask", |_| {
        let removed = Measured::time(probes.len(), || {
            let mut sum = 0;
            for key in probes {
                sum += u64::from(store.remove(key)?);
            }
            Ok(sum)
        });
        insert_store(&store, lab.entries())?;
        removed
    });
    Ok(vec![race.run(lab.rounds)?])
}
