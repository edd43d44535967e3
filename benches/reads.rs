//! Measures reads: hits, misses, several threads, verified reads, and iteration.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::thread;

use foldhash::fast::FixedState;
use mapcask::{Options, Store};

use crate::rounds::{Measured, Race, Table};
use crate::workload::{Key, Workload, one_byte, whole};
use crate::{Lab, Result};

/// The map of the standard library, with its default hasher.
pub(crate) type StdMap = HashMap<Vec<u8>, Vec<u8>>;
/// The same table with a fast hash that does not resist crafted keys.
pub(crate) type FastMap = hashbrown::HashMap<Vec<u8>, Vec<u8>, FixedState>;

/// The use of a value that was read.
type Touch = fn(&[u8]) -> u64;

const TOUCHES: [(&str, Touch); 2] = [("the whole value touched", whole), ("one byte touched", one_byte)];

impl Workload {
    /// Returns every key and its first value, owned.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.keys.iter().enumerate().map(|(at, key)| (key.to_vec(), self.value(at, 0).to_vec()))
    }
}

/// Reads keys from a map.
pub(crate) fn ask<S: BuildHasher>(
    map: &hashbrown::HashMap<Vec<u8>, Vec<u8>, S>,
    keys: &[Key],
    touch: Touch,
) -> u64 {
    keys.iter().fold(0, |sum, key| sum.wrapping_add(map.get(key.as_slice()).map_or(0, |value| touch(value))))
}

/// Reads keys from the standard map.
pub(crate) fn ask_std(map: &StdMap, keys: &[Key], touch: Touch) -> u64 {
    keys.iter().fold(0, |sum, key| sum.wrapping_add(map.get(key.as_slice()).map_or(0, |value| touch(value))))
}

/// Reads keys from a store, through one view.
pub(crate) fn ask_view(store: &Store, keys: &[Key], touch: Touch) -> Result<u64> {
    let view = store.view();
    let mut sum = 0_u64;
    for key in keys {
        sum = sum.wrapping_add(view.get(key)?.map_or(0, touch));
    }
    Ok(sum)
}

/// Reads keys from a store, as owned values.
fn ask_owned(store: &Store, keys: &[Key], touch: Touch) -> Result<u64> {
    let mut sum = 0_u64;
    for key in keys {
        sum = sum.wrapping_add(store.get(key)?.map_or(0, |value| touch(&value)));
    }
    Ok(sum)
}

fn race_reads(lab: &Lab, title: &str, keys: &[Key], touch: Touch) -> Result<Table> {
    let count = keys.len();
    let std_map: StdMap = lab.workload.owned().collect();
    let fast_map: FastMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let mut race = Race::new(title);
    race.add("std HashMap", |_| Measured::time(count, || Ok(ask_std(&std_map, keys, touch))));
    race.add("hashbrown, foldhash", |_| Measured::time(count, || Ok(ask(&fast_map, keys, touch))));
    race.add("mapcask, view", |_| Measured::time(count, || ask_view(&store, keys, touch)));
    race.add("mapcask, owned value", |_| Measured::time(count, || ask_owned(&store, keys, touch)));
    race.run(lab.rounds)
}

/// Measures reads of present keys.
pub(crate) fn get(lab: &Lab) -> Result<Vec<Table>> {
    TOUCHES
        .iter()
        .map(|(name, touch)| race_reads(lab, &format!("get hit, {name}"), &lab.workload.probes, *touch))
        .collect()
}

/// Measures reads of absent keys.
pub(crate) fn get_miss(lab: &Lab) -> Result<Vec<Table>> {
    Ok(vec![race_reads(lab, "get miss", &lab.workload.absent, whole)?])
}

/// The number of keys that are read at once.
const AT_ONCE: usize = 16;

/// Reads keys from a store, several at once, through one view.
fn ask_many(store: &Store, keys: &[Key], touch: Touch) -> Result<u64> {
    let view = store.view();
    let mut sum = 0_u64;
    let mut values = Vec::with_capacity(AT_ONCE);
    for keys in keys.chunks(AT_ONCE) {
        values.clear();
        view.get_many_into(keys, &mut values)?;
        sum = values.iter().flatten().fold(sum, |sum, value| sum.wrapping_add(touch(value)));
    }
    Ok(sum)
}

/// Reads keys from a store, several at once, as owned values.
fn ask_many_owned(store: &Store, keys: &[Key], touch: Touch) -> Result<u64> {
    let mut sum = 0_u64;
    let mut values = Vec::with_capacity(AT_ONCE);
    for keys in keys.chunks(AT_ONCE) {
        values.clear();
        store.get_many_into(keys, &mut values)?;
        sum = values.iter().flatten().fold(sum, |sum, value| sum.wrapping_add(touch(value)));
    }
    Ok(sum)
}

/// Measures reads of sixteen present keys at once.
pub(crate) fn multi_get(lab: &Lab) -> Result<Vec<Table>> {
    let keys = &lab.workload.probes;
    let std_map: StdMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let tables = TOUCHES.iter().map(|(name, touch)| {
        let mut race = Race::new(format!("multi_get of {AT_ONCE}, per key, {name}"));
        race.add("std HashMap", |_| Measured::time(keys.len(), || Ok(ask_std(&std_map, keys, *touch))));
        race.add("mapcask, one by one", |_| Measured::time(keys.len(), || ask_view(&store, keys, *touch)));
        race.add("mapcask, view", |_| Measured::time(keys.len(), || ask_many(&store, keys, *touch)));
        race.add("mapcask, owned values", |_| {
            Measured::time(keys.len(), || ask_many_owned(&store, keys, *touch))
        });
        race.run(lab.rounds)
    });
    tables.collect()
}

/// Measures one thread, two, four and so on up to the processors, each with its share of the keys.
pub(crate) fn get_threads(lab: &Lab) -> Result<Vec<Table>> {
    let probes = &lab.workload.probes;
    let std_map: StdMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let tables = (0..).map(|doubled| 1 << doubled).take_while(|threads| *threads <= processors.max(2)).map(
        |threads| {
            let mut race = Race::new(format!("get hit, threads: {threads}, the whole value touched"));
            race.add("std HashMap", |_| {
                Measured::time(probes.len(), || {
                    shared(threads, probes, |keys| Ok(ask_std(&std_map, keys, whole)))
                })
            });
            race.add("mapcask, view", |_| {
                Measured::time(probes.len(), || {
                    shared(threads, probes, |keys| {
                        ask_view(&store, keys, whole).map_err(|error| error.to_string())
                    })
                })
            });
            race.add("mapcask, owned value", |_| {
                Measured::time(probes.len(), || {
                    shared(threads, probes, |keys| {
                        ask_owned(&store, keys, whole).map_err(|error| error.to_string())
                    })
                })
            });
            race.run(lab.rounds)
        },
    );
    tables.collect()
}

/// Divides keys between threads and adds up their sums.
fn shared(
    threads: usize,
    keys: &[Key],
    work: impl Fn(&[Key]) -> std::result::Result<u64, String> + Sync,
) -> Result<u64> {
    let work = &work;
    thread::scope(|scope| {
        let parts = keys.chunks(keys.len().div_ceil(threads));
        let running: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut sum = 0_u64;
        for thread in running {
            sum = sum.wrapping_add(thread.join().map_err(|_| "a reading thread panicked")??);
        }
        Ok(sum)
    })
}

/// Measures reads that verify each checksum.
pub(crate) fn get_verified(lab: &Lab) -> Result<Vec<Table>> {
    let keys = &lab.workload.probes;
    let std_map: StdMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let (verifying, _other_directory) = lab.loaded(Options::new().verify_reads(true))?;
    let mut buffer = Vec::new();
    let mut race = Race::new("get hit, every read verified, the whole value touched");
    race.add("std HashMap", |_| Measured::time(keys.len(), || Ok(ask_std(&std_map, keys, whole))));
    race.add("mapcask, view, not verified", |_| Measured::time(keys.len(), || ask_view(&store, keys, whole)));
    race.add("mapcask, view, verified", |_| Measured::time(keys.len(), || ask_view(&verifying, keys, whole)));
    race.add("mapcask, get_into, verified copy", |_| {
        Measured::time(keys.len(), || {
            let mut sum = 0_u64;
            for key in keys {
                if store.get_into(key, &mut buffer)? {
                    sum = sum.wrapping_add(whole(&buffer));
                }
            }
            Ok(sum)
        })
    });
    Ok(vec![race.run(lab.rounds)?])
}

/// Measures iteration over everything, in any order.
pub(crate) fn iterate(lab: &Lab) -> Result<Vec<Table>> {
    let count = lab.workload.keys.len();
    let std_map: StdMap = lab.workload.owned().collect();
    let fast_map: FastMap = lab.workload.owned().collect();
    let (store, _directory) = lab.loaded(Options::new())?;
    let flat: Vec<u8> = lab.workload.owned().flat_map(|(key, value)| [key, value].concat()).collect();
    let touch = |key: &[u8], value: &[u8]| whole(key) ^ whole(value);
    let mut race = Race::new("iterate everything, keys and values touched");
    race.add("std HashMap", |_| {
        Measured::time(count, || {
            Ok(std_map.iter().fold(0, |sum, (key, value)| sum.wrapping_add(touch(key, value))))
        })
    });
    race.add("hashbrown, foldhash", |_| {
        Measured::time(count, || {
            Ok(fast_map.iter().fold(0, |sum, (key, value)| sum.wrapping_add(touch(key, value))))
        })
    });
    race.add("mapcask, iter", |_| {
        Measured::time(count, || {
            let mut sum = 0_u64;
            for entry in store.iter() {
                let (key, value) = entry?;
                sum = sum.wrapping_add(touch(&key, &value));
            }
            Ok(sum)
        })
    });
    race.add("mapcask, view", |_| {
        Measured::time(count, || {
            let mut sum = 0_u64;
            for entry in &store.view() {
                let (key, value) = entry?;
                sum = sum.wrapping_add(touch(key, value));
            }
            Ok(sum)
        })
    });
    race.add("memory, one after the other", |_| {
        let mut measured = Measured::time(count, || Ok(whole(&flat)))?;
        measured.sum = None;
        Ok(measured)
    });
    Ok(vec![race.run(lab.rounds)?])
}
