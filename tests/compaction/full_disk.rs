//! Tests of a full disk, and of a store with a limit on its size. A working set that fits can be
//! overwritten for ever, and removals always free space.

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Durability, Error, Options, Store};

const PAGE: u64 = 4096;
/// The bytes of one key's record.
const RECORD: u64 = 128;

fn options() -> Options {
    Options::new().segment_bytes(PAGE).background(false)
}

fn value(key: u32, round: u32) -> Vec<u8> {
    [key, round].map(u32::to_le_bytes).concat().repeat(11)
}

fn used(disk: &SimDisk) -> u64 {
    let segments = disk.files().into_iter().filter(|name| name.contains(".seg"));
    segments.map(|name| disk.read_file(&name).unwrap().len() as u64).sum()
}

/// Overwrites the keys ten times. Returns the number of each key's last write.
fn overwrite(
    disk: &SimDisk,
    store: &Store,
    keys: u32,
    limit: u64,
    order: &mut dyn FnMut() -> u32,
) -> Vec<u32> {
    let mut last = vec![0; usize::try_from(keys).unwrap()];
    for n in 0..10 * keys {
        let key = if n < keys { n } else { order() };
        let written = store.insert(key.to_le_bytes(), value(key, n));
        written.unwrap_or_else(|error| panic!("write {n} of {keys} keys: {error}, {:?}", store.stats()));
        last[usize::try_from(key).unwrap()] = n;
        assert!(store.stats().segment_bytes <= limit);
        if n.is_multiple_of(500) {
            assert!(used(disk) <= limit);
            disk.forget_history();
        }
    }
    assert!(store.stats().compaction.passes > 0);
    last
}

fn check(store: &Store, last: &[u32]) {
    for (key, n) in (0_u32..).zip(last) {
        assert_eq!(store.get(key.to_le_bytes()).unwrap().as_deref(), Some(&*value(key, *n)), "{key}");
    }
}

#[test]
fn store_with_limit_accepts_endless_overwrites() {
    for (keys, pages) in [(300_u32, 4), (1200, 4), (300, 1)] {
        for random in [false, true] {
            let segment = pages * PAGE;
            // One and a half times the live bytes, and some segments. Only the writer compacts.
            let limit = u64::from(keys) * RECORD * 3 / 2 + 6 * segment.max(2 * PAGE);
            let disk = SimDisk::new();
            let options = options().segment_bytes(segment).max_disk_bytes(limit);
            let store = options.clone().open_on(&disk).unwrap();
            let mut order = order(keys, random);
            let last = overwrite(&disk, &store, keys, limit, &mut order);
            check(&store, &last);
            let killed = disk.kill();
            check(&options.clone().open_on(&killed).unwrap(), &last);
            store.close().unwrap();
            check(&options.open_on(&disk).unwrap(), &last);
        }
    }
}

/// Returns a function that chooses keys, in order or at random.
fn order(keys: u32, random: bool) -> impl FnMut() -> u32 {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut next = 0;
    move || {
        next += 1;
        if random { rng.u32(0..keys) } else { next % keys }
    }
}

#[test]
fn full_disk_accepts_insertions_again_after_removals() {
    for (durability, is_told) in
        [(Durability::Os, true), (Durability::Disk, true), (Durability::Os, false), (Durability::Disk, false)]
    {
        let limit =
            |disk: &SimDisk, bytes| if is_told { disk.set_capacity(bytes) } else { disk.set_quota(bytes) };
        // A sixteenth of each segment is reserved for removals, which suffices for a segment of
        // such values.
        let capacity = 10 * 16 * PAGE;
        let disk = SimDisk::new();
        let options = options().segment_bytes(16 * PAGE).durability(durability);
        let store = options.clone().open_on(&disk).unwrap();
        limit(&disk, Some(capacity));
        let mut expected = BTreeMap::new();
        for round in 0..4 {
            // Inserts until nothing fits, then again with a smaller size.
            let mut key = round * 10_000;
            for len in [900_usize, 800] {
                loop {
                    key += 1;
                    match store.insert(u32::to_le_bytes(key), vec![7; len]) {
                        Ok(_) => drop(expected.insert(key, len)),
                        Err(Error::NoSpace { .. }) => break,
                        Err(other) => panic!("{other:?}"),
                    }
                    assert!(key < round * 10_000 + 5000, "the disk is never full");
                }
            }
            assert!(expected.len() > 20, "round {round}: {}", expected.len());
            // The oldest keys, so that some segments have no live records. Those need no space to
            // be removed.
            let count = expected.len() * 3 / 4;
            let removed: Vec<_> = expected.keys().copied().take(count).collect();
            for key in removed {
                let removed = store.remove(key.to_le_bytes());
                assert!(removed.unwrap_or_else(|error| panic!("round {round}, {key}: {error}")));
                expected.remove(&key);
            }
            check_lengths(&store, &expected);
        }
        disk.forget_history();
        // An open makes a segment for the next writes.
        limit(&disk, None);
        check_lengths(&options.clone().open_on(&disk.kill()).unwrap(), &expected);
        store.close().unwrap();
        let store = options.open_on(&disk).unwrap();
        check_lengths(&store, &expected);
        store.verify().unwrap();
    }
}

fn check_lengths(store: &Store, expected: &BTreeMap<u32, usize>) {
    assert_eq!(store.len(), expected.len());
    for (key, len) in expected {
        let found = store.get(key.to_le_bytes()).unwrap();
        assert_eq!(found.as_deref(), Some(&*vec![7; *len]), "{key}");
    }
}
