//! Measures an ordered keyspace beside `std::collections::BTreeMap` and a keyspace without order.

use std::collections::BTreeMap;

use mapcask::{Keyspace, Options, Store};
use tempfile::TempDir;

use crate::rounds::{Measured, Race, Table};
use crate::workload::{Key, whole};
use crate::{Lab, Result};

type StdTree = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys in a range that is read at once.
const RANGE: usize = 100;

/// Fills a keyspace with all keys.
fn fill(lab: &Lab, keyspace: &Keyspace) -> Result<()> {
    for (at, key) in lab.workload.keys.iter().enumerate() {
        keyspace.insert(key, lab.workload.value(at, 0))?;
    }
    Ok(())
}

fn get(lab: &Lab, keyspace: &Keyspace) -> Result<u64> {
    let view = keyspace.view();
    let mut sum = 0_u64;
    for key in &lab.workload.probes {
        sum = sum.wrapping_add(view.get(key)?.map_or(0, whole));
    }
    Ok(sum)
}

/// Reads the keys of a keyspace and their values, in order if it has one.
fn scan(keyspace: &Keyspace) -> Result<u64> {
    let view = keyspace.view();
    let mut sum = 0_u64;
    for item in view.iter() {
        sum = sum.wrapping_add(whole(item?.1));
    }
    Ok(sum)
}

/// Reads short ranges of a keyspace, from some of the keys on.
fn ranges(keyspace: &Keyspace, starts: &[Key]) -> Result<u64> {
    let view = keyspace.view();
    let mut sum = 0_u64;
    for start in starts {
        for item in view.range(&start[..]..).take(RANGE) {
            sum = sum.wrapping_add(whole(item?.1));
        }
    }
    Ok(sum)
}

fn open(lab: &Lab) -> Result<(Store, TempDir)> {
    let directory = lab.directory()?;
    let store = Options::new().open(directory.path().join("store"))?;
    Ok((store, directory))
}

/// Measures puts of new keys, gets, scans and short ranges.
pub(crate) fn ordered(lab: &Lab) -> Result<Vec<Table>> {
    let count = lab.keys;
    let mut put = Race::new("ordered: put of new keys");
    put.add("std BTreeMap", |_| {
        Measured::time(count, || {
            let map: StdTree = lab.workload.owned().collect();
            Ok(map.len() as u64)
        })
    });
    for (name, is_ordered) in [("mapcask, without order", false), ("mapcask, ordered", true)] {
        put.add(name, move |_| {
            let (store, _directory) = open(lab)?;
            let keyspace =
                if is_ordered { store.ordered_keyspace("keys")? } else { store.keyspace("keys")? };
            Measured::time(count, || {
                fill(lab, &keyspace)?;
                Ok(keyspace.len() as u64)
            })
        });
    }
    let put = put.run(lab.rounds)?;
    let map: StdTree = lab.workload.owned().collect();
    let (store, _directory) = open(lab)?;
    let (plain, ordered) = (store.keyspace("plain")?, store.ordered_keyspace("ordered")?);
    fill(lab, &plain)?;
    fill(lab, &ordered)?;
    println!("{} bytes of index for each key\n", ordered.keyspace_stats()?.index_bytes as f64 / count as f64);
    let mut gets = Race::new("ordered: get");
    let probes = &lab.workload.probes;
    gets.add("std BTreeMap", |_| {
        Measured::time(probes.len(), || {
            let values = probes.iter().filter_map(|key| map.get(&key[..]));
            Ok(values.fold(0_u64, |sum, value| sum.wrapping_add(whole(value))))
        })
    });
    gets.add("mapcask, without order", |_| Measured::time(probes.len(), || get(lab, &plain)));
    gets.add("mapcask, ordered", |_| Measured::time(probes.len(), || get(lab, &ordered)));
    let mut scans = Race::new("ordered: scan of all keys and values");
    scans.add("std BTreeMap", |_| {
        Measured::time(count, || Ok(map.values().fold(0_u64, |sum, value| sum.wrapping_add(whole(value)))))
    });
    scans.add("mapcask, without order", |_| Measured::time(count, || scan(&plain)));
    scans.add("mapcask, ordered", |_| Measured::time(count, || scan(&ordered)));
    let starts = &probes[..probes.len() / RANGE];
    let mut short = Race::new("ordered: ranges of 100 keys and values");
    short.add("std BTreeMap", |_| {
        Measured::time(starts.len(), || {
            let values = starts.iter().flat_map(|start| map.range(start.to_vec()..).take(RANGE));
            Ok(values.fold(0_u64, |sum, (_, value)| sum.wrapping_add(whole(value))))
        })
    });
    short.add("mapcask, ordered", |_| Measured::time(starts.len(), || ranges(&ordered, starts)));
    Ok(vec![put, gets.run(lab.rounds)?, scans.run(lab.rounds)?, short.run(lab.rounds)?])
}
