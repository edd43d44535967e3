//! Tests that a snapshot shows all keyspaces at one sequence number, whatever follows, and leaves
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use mapcask::{Error, Keyspace, KeyspaceSnapshot, Options, Result, Snapshot, Store, Value, WriteBatch};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(directory: &tempfile::TempDir) -> Store {
    Options::new().segment_bytes(64 << 10).open(directory.path().join("store")).unwrap()
}

/// Returns everything that an iterator yields; each key must come once.
fn gathered(items: impl Iterator<Item = Result<(Value, Value)>>) -> Map {
    let mut map = Map::new();
    for item in items {
        let (key, value) = item.unwrap();
        assert!(map.insert(key.to_vec(), value.to_vec()).is_none(), "{key:?} came twice");
    }
    map
}

/// Checks a snapshot by iteration, by single gets and by many gets at once.
fn check(snapshot: &KeyspaceSnapshot, expected: &Map, absent: &[&[u8]]) {
    assert!(gathered(snapshot.iter()) == *expected);
    let keys: Vec<&[u8]> = expected.keys().map(Vec::as_slice).chain(absent.iter().copied()).collect();
    let values = snapshot.multi_get(&keys).unwrap();
    for (key, value) in keys.iter().zip(&values) {
        assert_eq!(value.as_deref(), expected.get(*key).map(Vec::as_slice));
        assert_eq!(snapshot.get(key).unwrap(), *value);
        assert_eq!(snapshot.contains_key(key).unwrap(), value.is_some());
    }
}

fn nothing_is_held(store: &Store) {
    let stats = store.stats();
    assert_eq!((stats.snapshots, stats.snapshot_versions, stats.snapshot_bytes), (0, 0, 0));
    assert_eq!(stats.oldest_snapshot_age, None);
}

/// Inserts 500 equal pairs into each keyspace.
fn fill(keyspaces: &[&Keyspace]) -> Map {
    let items = (0..500_u32).map(|n| (n.to_le_bytes().to_vec(), vec![1; n as usize % 300]));
    let expected: Map = items.collect();
    for (key, value) in &expected {
        for keyspace in keyspaces {
            keyspace.insert(key, value).unwrap();
        }
    }
    expected
}

#[test]
fn a_snapshot_sees_its_moment_through_every_change() {
    let directory = directory();
    let store = open(&directory);
    let users = store.keyspace("users").unwrap();
    let doomed = store.keyspace("doomed").unwrap();
    let expected = fill(&[&store, &users, &doomed]);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.seq(), store.last_seq());
    let before = store.snapshot();
    for n in 0..500_u32 {
        match n % 4 {
            0 => assert!(store.insert(n.to_le_bytes(), "other").is_ok()),
            1 => assert!(store.remove(n.to_le_bytes()).unwrap()),
            2 => {
                // The key is removed and inserted again.
                store.remove(n.to_le_bytes()).unwrap();
                store.insert(n.to_le_bytes(), "back").unwrap();
            }
            _ => {}
        }
        store.insert((n + 1000).to_le_bytes(), "new").unwrap();
    }
    let mut batch = WriteBatch::new();
    for n in 0..100_u32 {
        batch.on(&users).insert(n.to_le_bytes(), "batch");
        batch.on(&users).remove((n + 100).to_le_bytes());
        batch.on(&users).insert((n + 2000).to_le_bytes(), "batch");
    }
    store.write(&batch).unwrap();
    let between = store.snapshot();
    users.clear().unwrap();
    users.insert("after", "the clear").unwrap();
    store.rename_keyspace("users", "people").unwrap();
    store.drop_keyspace("doomed").unwrap();
    store.keyspace("doomed").unwrap().insert("another", "one").unwrap();
    store.keyspace("late").unwrap();
    for _ in 0..3 {
        store.compact().unwrap();
        let absent = [1000_u32.to_le_bytes(), 2000_u32.to_le_bytes()];
        let absent = [absent[0].as_slice(), absent[1].as_slice(), b"after", b"another"];
        check(&snapshot, &expected, &absent);
        check(&snapshot.keyspace("users").unwrap(), &expected, &absent);
        check(&snapshot.keyspace("doomed").unwrap(), &expected, &absent);
        assert_eq!(snapshot.keyspace_names(), ["doomed", "users"]);
        for missing in ["late", "people"] {
            assert!(matches!(snapshot.keyspace(missing), Err(Error::KeyspaceNotFound { .. })));
        }
    }
    assert_eq!(gathered(between.keyspace("users").unwrap().iter()).len(), 500);
    assert_eq!(between.get(4_u32.to_le_bytes()).unwrap().as_deref(), Some(b"other".as_slice()));
    let stats = store.stats();
    assert_eq!(stats.snapshots, 3);
    assert!(stats.snapshot_versions > 500 && stats.snapshot_bytes > 0, "{stats:?}");
    assert!(stats.removed_bytes_in_use > 0, "compaction has removed what the snapshots hold: {stats:?}");
    // A snapshot is dropped from the middle, then the newest, then the oldest.
    drop(before);
    check(&snapshot, &expected, &[]);
    drop(between);
    check(&snapshot, &expected, &[]);
    let users = snapshot.keyspace("users").unwrap();
    drop(snapshot);
    check(&users, &expected, &[b"after"]);
    drop(users);
    nothing_is_held(&store);
    store.verify().unwrap();
    while store.stats().removed_bytes_in_use > 0 {
        // Other threads of this process hold pins at times.
        store.compact().unwrap();
    }
}

#[test]
fn a_snapshot_outlives_the_store() {
    let directory = directory();
    let store = open(&directory);
    let mut expected = Map::new();
    for n in 0..300_u32 {
        store.insert(n.to_le_bytes(), n.to_le_bytes()).unwrap();
        expected.insert(n.to_le_bytes().to_vec(), n.to_le_bytes().to_vec());
    }
    let snapshot = store.snapshot();
    for n in 0..300_u32 {
        store.insert(n.to_le_bytes(), "later").unwrap();
    }
    store.close().unwrap();
    check(&snapshot, &expected, &[]);
    let store = open(&directory);
    store.clear().unwrap();
    store.compact().unwrap();
    drop(store);
    std::fs::remove_dir_all(directory.path()).unwrap();
    check(&snapshot, &expected, &[]);
}

#[test]
fn versions_go_with_the_last_snapshot_that_sees_them() {
    let directory = directory();
    let store = open(&directory);
    let mut random = fastrand::Rng::with_seed(3);
    let mut now = Map::new();
    let mut held: Vec<(Snapshot, Map)> = Vec::new();
    for step in 0..4000 {
        let key = vec![random.u8(0..40)];
        if random.u8(0..4) == 0 {
            store.remove(&key).unwrap();
            now.remove(&key);
        } else {
            let value = vec![random.u8(..); random.usize(0..50)];
            store.insert(&key, &value).unwrap();
            now.insert(key, value);
        }
        match random.u8(0..20) {
            0 => held.push((store.snapshot(), now.clone())),
            1 | 2 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
            3 if step % 7 == 0 => {
                store.clear().unwrap();
                now.clear();
            }
            _ => {}
        }
        if step % 50 == 0 {
            for (snapshot, expected) in &held {
                check(snapshot, expected, &[&[200]]);
            }
            let stats = store.stats();
            assert_eq!(stats.snapshots, held.len());
            // Each snapshot sees at most forty keys. A version that no snapshot sees is not kept.
            assert!(stats.snapshot_versions <= 40 * held.len() as u64, "{stats:?}");
        }
    }
    held.clear();
    nothing_is_held(&store);
}

#[test]
fn snapshot_stays_consistent_during_writes_and_compaction() {
    const KEYS: u64 = 5_000;
    let directory = directory();
    let store = open(&directory);
    let write = |round: u64| {
        let mut batch = WriteBatch::new();
        for key in (0..KEYS).filter(|key| is_there(*key, round)) {
            batch.insert(key.to_le_bytes(), round.to_le_bytes());
        }
        for key in (0..KEYS).filter(|key| !is_there(*key, round)) {
            batch.remove(key.to_le_bytes());
        }
        store.write(&batch).unwrap();
    };
    write(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            (1..120).for_each(write);
            done.store(true, SeqCst);
        });
        scope.spawn(|| {
            // The index grows: buckets split while the others iterate.
            (KEYS..KEYS + 60_000).for_each(|key| {
                store.insert(key.to_le_bytes(), "grown").unwrap();
            });
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                store.compact().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let snapshot = store.snapshot();
                    let found = gathered(snapshot.iter());
                    let batch: Vec<_> = found.iter().filter(|(_, value)| value.len() == 8).collect();
                    let round = batch[0].1.clone();
                    assert!(batch.iter().all(|(_, value)| **value == round), "one moment");
                    let round = u64::from_le_bytes(round.try_into().unwrap());
                    let expected = (0..KEYS).filter(|key| is_there(*key, round));
                    assert!(batch.iter().map(|(key, _)| key.as_slice()).eq(sorted(expected).iter()));
                    let again = gathered(snapshot.iter());
                    assert!(again == found, "the same at any time");
                }
            });
        }
    });
    store.verify().unwrap();
    nothing_is_held(&store);
}

/// Returns true if the batch of a round inserts a key.
fn is_there(key: u64, round: u64) -> bool {
    !(key ^ round).is_multiple_of(3)
}

fn sorted(keys: impl Iterator<Item = u64>) -> Vec<[u8; 8]> {
    let mut keys: Vec<_> = keys.map(u64::to_le_bytes).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn without_a_snapshot_nothing_is_kept() {
    let directory = directory();
    let store = open(&directory);
    for round in 0..10_u32 {
        for key in 0..100_u32 {
            store.insert(key.to_le_bytes(), round.to_le_bytes()).unwrap();
        }
        drop(store.snapshot());
        nothing_is_held(&store);
    }
}
