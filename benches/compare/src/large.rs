//! Measures large values: one put after the other, each in its own transaction where the store has
//! them.

use std::fs::File;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions};
use mapcask::Store;
use memmap2::MmapMut;

use crate::rounds::{Measured, Race, Table};
use crate::{Lab, Result};

/// The bytes written per round.
const TOTAL: usize = 256 << 20;
/// The bytes of the pool that values are cut from: larger than the second-level cache, and than the
/// largest value.
const POOL: usize = 24 << 20;
/// The address space that LMDB may use, in bytes.
const LMDB_MAP: usize = 2 << 30;

/// Measures values of 64 KiB to 16 MiB.
pub(crate) fn put(lab: &Lab) -> Result<Vec<Table>> {
    let sizes = [("64 KiB", 64 << 10), ("300 KiB", 300 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)];
    sizes.into_iter().map(|(name, len)| put_of(lab, name, len)).collect()
}

fn put_of(lab: &Lab, name: &str, len: usize) -> Result<Table> {
    let mut pool = vec![0; POOL];
    fastrand::Rng::with_seed(1).fill(&mut pool);
    let count = TOTAL / len;
    let bytes = count * len;
    let mut race = Race::new(format!("put of values of {name}")).unit("MB/s", 1e6);
    race.add("LMDB, NO_SYNC", |_| {
        let directory = lab.directory()?;
        lmdb(directory.path(), EnvFlags::NO_SYNC, &pool, len, bytes)
    });
    race.add("LMDB, NO_SYNC and WRITE_MAP", |_| {
        let directory = lab.directory()?;
        lmdb(directory.path(), EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP, &pool, len, bytes)
    });
    race.add("copy into a mapped file", |_| {
        let (mut map, _directory) = mapped(lab, bytes)?;
        Measured::time(bytes, || {
            for (at, place) in map.chunks_exact_mut(len).enumerate() {
                place.copy_from_slice(value(&pool, at, len));
            }
            Ok(0)
        })
    });
    race.add("mapcask", |_| {
        let directory = lab.directory()?;
        let store = Store::open(directory.path())?;
        let measured = Measured::time(bytes, || {
            for at in 0..count {
                store.insert(key(at), value(&pool, at, len))?;
            }
            Ok(0)
        })?;
        for at in [0, count / 2, count - 1] {
            if store.get(key(at))?.as_deref() != Some(value(&pool, at, len)) {
                return Err(format!("mapcask: value {at} is another").into());
            }
        }
        Ok(measured)
    });
    race.run(lab.rounds)
}

fn key(at: usize) -> [u8; 8] {
    (at as u64).to_be_bytes()
}

/// Returns a value that differs from place to place.
fn value(pool: &[u8], at: usize, len: usize) -> &[u8] {
    &pool[at * 4096 % (pool.len() - len)..][..len]
}

fn lmdb(directory: &Path, flags: EnvFlags, pool: &[u8], len: usize, bytes: usize) -> Result<Measured> {
    let mut options = EnvOpenOptions::new();
    options.map_size(LMDB_MAP);
    // SAFETY: the flags only drop durability at a power cut, and one thread of one process uses the
    // environment.
    unsafe { options.flags(flags) };
    // SAFETY: the directory was just made for this; no other process changes its files.
    let env = unsafe { options.open(directory) }?;
    let made = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
        opener.create_database::<Bytes, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
    });
    let database = made?.unwrap_commit();
    let count = bytes / len;
    let measured = Measured::time(bytes, || {
        for at in 0..count {
            let mut txn = env.write_txn()?;
            database.put(&mut txn, &key(at), value(pool, at, len))?;
            txn.commit()?;
        }
        Ok(0)
    })?;
    let txn = env.read_txn()?;
    for at in [0, count / 2, count - 1] {
        if database.get(&txn, &key(at))? != Some(value(pool, at, len)) {
            return Err(format!("LMDB: value {at} is another").into());
        }
    }
    Ok(measured)
}

fn mapped(lab: &Lab, bytes: usize) -> Result<(MmapMut, tempfile::TempDir)> {
    let directory = lab.directory()?;
    let file = File::options().read(true).write(true).create_new(true).open(directory.path().join("file"))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64)?;
    // SAFETY: the file was just made in a directory of our own; no other process changes or
    // truncates it.
    let map = unsafe { MmapMut::map_mut(&file) }?;
    Ok((map, directory))
}
