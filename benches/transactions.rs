//! Measures transactions beside plain writes: one key read and written, a counter of two threads, and
//! a commit that checks a range.

use std::thread;

use mapcask::{Error, Keyspace, Options, Store, Transaction};

use crate::rounds::{Measured, Race, Table};
use crate::workload::whole;
use crate::{Lab, Result};

/// The number of threads that change one counter.
const THREADS: u64 = 2;
/// The keys in a range that is read and then checked.
const RANGE: usize = 1000;

/// Reads a number, as its bytes in any form.
fn number(value: Option<impl AsRef<[u8]>>) -> u64 {
    let first = value.and_then(|value| Some(u64::from_le_bytes(*value.as_ref().first_chunk()?)));
    first.unwrap_or(0)
}

/// Reads every probe, and writes its value again.
fn change_each(lab: &Lab, store: &Store, change: impl Fn(&[u8]) -> mapcask::Result<u64>) -> Result<Measured> {
    let probes = &lab.workload.probes[..lab.workload.probes.len() / 4];
    let measured = Measured::time(probes.len(), || {
        let mut sum = 0_u64;
        for key in probes {
            sum = sum.wrapping_add(change(key)?);
        }
        Ok(sum)
    });
    assert_eq!(store.stats().snapshots, 0);
    measured
}

/// Adds to one counter from two threads.
fn count(each: u64, store: &Store, add: impl Fn() -> mapcask::Result<()> + Sync) -> Result<Measured> {
    store.insert("counter", 0_u64.to_le_bytes())?;
    let total = usize::try_from(THREADS * each)?;
    Measured::time(total, || {
        thread::scope(|scope| {
            let add = || (0..each).try_for_each(|_| add());
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(add)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        Ok(number(store.get("counter")?))
    })
}

fn increment(transaction: &mut Transaction, keyspace: &Keyspace) -> mapcask::Result<()> {
    let count = number(transaction.get(keyspace, "counter")?);
    transaction.insert(keyspace, "counter", (count + 1).to_le_bytes())
}

/// Measures ranges that are followed by a write.
fn wide(lab: &Lab, store: &Store, ordered: &Keyspace) -> Result<Table> {
    let starts = &lab.workload.probes[..lab.workload.probes.len() / RANGE];
    let mut wide = Race::new("transactions: read 1000 keys of a range, write one elsewhere");
    wide.add("range of a snapshot, insert", |_| {
        Measured::time(starts.len(), || {
            let mut sum = 0_u64;
            for start in starts {
                for item in store.snapshot().keyspace("ordered")?.range(&start[..]..).take(RANGE) {
                    sum = sum.wrapping_add(whole(&item?.1));
                }
                store.insert("sum", sum.to_le_bytes())?;
            }
            Ok(sum)
        })
    });
    wide.add("transact", |_| {
        Measured::time(starts.len(), || {
            let mut sum = 0_u64;
            for start in starts {
                sum = store.transact(|transaction| {
                    let mut sum = sum;
                    for item in transaction.range(ordered, &start[..]..).take(RANGE) {
                        sum = sum.wrapping_add(whole(&item?.1));
                    }
                    transaction.insert(store, "sum", sum.to_le_bytes())?;
                    Ok::<_, Error>(sum)
                })?;
            }
            Ok(sum)
        })
    });
    wide.run(lab.rounds)
}

/// Measures reads that are followed by a write.
pub(crate) fn transactions(lab: &Lab) -> Result<Vec<Table>> {
    let directory = lab.directory()?;
    let store = Options::new().open(directory.path().join("store"))?;
    let ordered = store.ordered_keyspace("ordered")?;
    for (at, key) in lab.workload.keys.iter().enumerate() {
        store.insert(key, lab.workload.value(at, 0))?;
        ordered.insert(key, lab.workload.value(at, 0))?;
    }
    let mut one = Race::new("transactions: read one key and write it, one thread");
    one.add("get, insert", |_| {
        change_each(lab, &store, |key| {
            let value = store.get(key)?.expect("all are there");
            store.insert(key, &value)?;
            Ok(whole(&value))
        })
    });
    one.add("fetch_and_update", |_| {
        change_each(lab, &store, |key| {
            let value = store.fetch_and_update(key, |old| old.map(<[u8]>::to_vec))?;
            Ok(value.map_or(0, |value| whole(&value)))
        })
    });
    one.add("transact", |_| {
        change_each(lab, &store, |key| {
            store.transact(|transaction| {
                let value = transaction.get(&store, key)?.expect("all are there");
                transaction.insert(&store, key, &value)?;
                Ok(whole(&value))
            })
        })
    });
    let each = (lab.keys / 10) as u64;
    let mut hot = Race::new("transactions: one counter, two threads");
    hot.add("update_and_fetch", |_| {
        count(each, &store, || {
            let add = |old: Option<&[u8]>| Some((number(old) + 1).to_le_bytes());
            store.update_and_fetch("counter", add).map(drop)
        })
    });
    hot.add("transact", |_| {
        count(each, &store, || store.transact(|transaction| increment(transaction, &store)))
    });
    Ok(vec![one.run(lab.rounds)?, hot.run(lab.rounds)?, wide(lab, &store, &ordered)?])
}
