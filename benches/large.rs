//! Measures large values: storing against copying into a mapped file, and reading without a copy.

#![expect(unsafe_code, reason = "the contender is a mapped file, and making one is unsafe")]

use std::fs::File;

use mapcask::{Options, Store};
use memmap2::MmapMut;

use crate::rounds::{Measured, Race, Table};
use crate::workload::{key, one_byte, pool, whole};
use crate::{Lab, Result};

/// The bytes written per round.
const TOTAL: usize = 256 << 20;

/// Measures values of 4 KiB, 64 KiB and 1 MiB.
pub(crate) fn large(lab: &Lab) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (name, len) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        tables.push(put(lab, name, len)?);
        tables.push(get(lab, name, len)?);
    }
    Ok(tables)
}

/// Returns a value that differs from place to place, cut from a pool larger than the second-level
/// cache.
fn value(pool: &[u8], at: usize, len: usize) -> &[u8] {
    &pool[at * 4096 % (pool.len() - len)..][..len]
}

fn put(lab: &Lab, name: &str, len: usize) -> Result<Table> {
    let count = TOTAL / len;
    let pool = pool(8 << 20);
    let mut race = Race::new(format!("put of values of {name}, Os")).unit("MB/s", 1e6);
    race.add("copy into a mapped file, touched before", |_| {
        let (mut map, _directory) = mapped(lab)?;
        map.chunks_mut(4096).for_each(|page| page[0] = 1);
        copy_into(&mut map, &pool, len)
    });
    race.add("copy into a mapped file, new", |_| copy_into(&mut mapped(lab)?.0, &pool, len));
    race.add("mapcask, insert", |_| {
        let directory = lab.directory()?;
        let store = Store::open(directory.path())?;
        let measured = Measured::time(TOTAL, || {
            for at in 0..count {
                store.insert(key(at as u64), value(&pool, at, len))?;
            }
            Ok(0)
        })?;
        for at in [0, count / 2, count - 1] {
            if store.get(key(at as u64))?.as_deref() != Some(value(&pool, at, len)) {
                return Err(format!("value {at} is another").into());
            }
        }
        Ok(measured)
    });
    race.run(lab.rounds)
}

fn mapped(lab: &Lab) -> Result<(MmapMut, tempfile::TempDir)> {
    let directory = lab.directory()?;
    let file = File::options().read(true).write(true).create_new(true).open(directory.path().join("file"))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, TOTAL as u64)?;
    // SAFETY: the file was just made in a directory of our own; no other process changes or
    // truncates it.
    let map = unsafe { MmapMut::map_mut(&file) }?;
    Ok((map, directory))
}

fn copy_into(map: &mut MmapMut, pool: &[u8], len: usize) -> Result<Measured> {
    Measured::time(TOTAL, || {
        for (at, place) in map.chunks_exact_mut(len).enumerate() {
            place.copy_from_slice(value(pool, at, len));
        }
        Ok(0)
    })
}

fn get(lab: &Lab, name: &str, len: usize) -> Result<Table> {
    let count = TOTAL / len;
    let pool = pool(8 << 20);
    let directory = lab.directory()?;
    let store = Options::new().open(directory.path())?;
    for at in 0..count {
        store.insert(key(at as u64), value(&pool, at, len))?;
    }
    // There are many more reads than values: a few hundred would end before the clock moves.
    let reads = count.max(100_000);
    let mut race = Race::new(format!("get of values of {name}, without a copy"));
    race.add("mapcask, view, one byte touched", |_| {
        let view = store.view();
        Measured::time(reads, || {
            let mut sum = 0_u64;
            for at in 0..reads {
                let found = view.get(key((at * 7919 % count) as u64))?;
                sum = sum.wrapping_add(found.map_or(0, one_byte));
            }
            Ok(sum)
        })
    });
    race.add("mapcask, view, all bytes touched", |_| {
        let view = store.view();
        let mut measured = Measured::time(count, || {
            let mut sum = 0_u64;
            for at in 0..count {
                sum = sum.wrapping_add(view.get(key(at as u64))?.map_or(0, whole));
            }
            Ok(sum)
        })?;
        measured.sum = None;
        Ok(measured)
    });
    race.run(lab.rounds)
}
