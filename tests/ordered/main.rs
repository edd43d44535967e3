//! Tests ordered keyspaces: ranges, one-moment reads and pops, beside writers, through crashes, and
//! by every way into a store.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(clippy::big_endian_bytes, reason = "such keys ascend with their numbers")]

mod beside;
mod checkpoints;
mod crashes;
mod layout;
mod lives;

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Error, Keyspace, MAX_ORDERED_KEY_LEN, Options, Result, Store, Value, WriteBatch};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Item = (Vec<u8>, Vec<u8>);

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

fn settle(store: &Store) {
    while store.step().unwrap() {}
}

fn owned((key, value): (Value, Value)) -> Item {
    (key.to_vec(), value.to_vec())
}

fn copied((key, value): (&[u8], &[u8])) -> Item {
    (key.to_vec(), value.to_vec())
}

fn items(found: impl Iterator<Item = Result<(Value, Value)>>) -> Vec<Item> {
    found.map(|item| owned(item.unwrap())).collect()
}

fn keys(found: impl Iterator<Item = Result<(Value, Value)>>) -> Vec<Vec<u8>> {
    items(found).into_iter().map(|(key, _)| key).collect()
}

/// Returns distinct keys of several shapes: short ones, long common beginnings, zeros, one the
/// beginning of another.
fn shapes(count: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut found = std::collections::BTreeSet::new();
    while found.len() < count {
        let key = match random.u8(..5) {
            0 => random.u32(..).to_be_bytes().to_vec(),
            1 => format!("tenant-{:03}/objects/{:06}/file", random.u8(..4), random.u32(..)).into_bytes(),
            2 => vec![0; random.usize(..200)],
            3 => [vec![b'p'; random.usize(..8)], vec![random.u8(..)]].concat(),
            _ => vec![random.u8(..); random.usize(..MAX_ORDERED_KEY_LEN + 1)],
        };
        found.insert(key);
    }
    let mut found: Vec<_> = found.into_iter().collect();
    random.shuffle(&mut found);
    found
}

/// Compares every ordered read with a map.
fn check(keyspace: &Keyspace, map: &Map) {
    let all: Vec<Item> = map.clone().into_iter().collect();
    assert_eq!(keyspace.len(), all.len());
    assert_eq!(items(keyspace.iter()), all);
    assert_eq!(items(keyspace.range::<&[u8]>(..)), all);
    let view = keyspace.view();
    let borrowed = view.range::<&[u8]>(..).rev().map(|item| {
        let (key, value) = item.unwrap();
        (key.to_vec(), value.to_vec())
    });
    let mut borrowed: Vec<Item> = borrowed.collect();
    borrowed.reverse();
    assert_eq!(borrowed, all);
    for (key, value) in map {
        assert_eq!(keyspace.get(key).unwrap().as_deref(), Some(&**value));
    }
    assert_eq!(keyspace.first_key_value().unwrap().map(owned), all.first().cloned());
    assert_eq!(keyspace.last_key_value().unwrap().map(owned), all.last().cloned());
    let view = keyspace.view();
    assert_eq!(view.first_key_value().unwrap().map(copied), all.first().cloned());
    assert_eq!(view.last_key_value().unwrap().map(copied), all.last().cloned());
    assert_eq!(view.count_range::<&[u8]>(..).unwrap(), all.len() as u64);
}

/// Compares the reads of a range between two keys with a map.
fn check_range(keyspace: &Keyspace, map: &Map, key: &[u8], other: &[u8]) {
    let (from, to) = (key.min(other), key.max(other));
    let range = map.range(from.to_vec()..to.to_vec());
    let expected: Vec<Item> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(items(keyspace.range(from..to)), expected);
    assert_eq!(keyspace.count_range(from..to).unwrap(), expected.len() as u64);
    if from < to {
        assert!(keyspace.range(to..from).next().is_none(), "an inverted range is empty");
    }
    let page = keyspace.get_range(from..to, 7).unwrap();
    assert_eq!(page.into_iter().map(owned).collect::<Vec<_>>(), expected[..expected.len().min(7)]);
    let view = keyspace.view();
    let page = view.get_range(from..to, 7).unwrap();
    assert_eq!(page.into_iter().map(copied).collect::<Vec<_>>(), expected[..expected.len().min(7)]);
    let mut back = items(keyspace.range(from..to).rev());
    back.reverse();
    assert_eq!(back, expected);
}

/// Compares the reads of the neighbours of a key with a map.
fn check_neighbours(keyspace: &Keyspace, map: &Map, key: &[u8]) {
    let key = key.to_vec();
    let at = |found: Option<(&Vec<u8>, &Vec<u8>)>| found.map(|(key, value)| (key.clone(), value.clone()));
    let after = (std::ops::Bound::Excluded(key.clone()), std::ops::Bound::Unbounded);
    let expected = [
        at(map.range(key.clone()..).next()),
        at(map.range(after).next()),
        at(map.range(..=key.clone()).next_back()),
        at(map.range(..key.clone()).next_back()),
    ];
    let neighbours =
        [keyspace.get_ge(&key), keyspace.get_gt(&key), keyspace.get_le(&key), keyspace.get_lt(&key)];
    assert_eq!(neighbours.map(|found| found.unwrap().map(owned)), expected);
    let view = keyspace.view();
    let neighbours = [view.get_ge(&key), view.get_gt(&key), view.get_le(&key), view.get_lt(&key)];
    assert_eq!(neighbours.map(|found| found.unwrap().map(copied)), expected);
}

#[test]
fn ordered_keyspace_equals_a_btreemap() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    let pool = shapes(600);
    let mut sorted = pool.clone();
    sorted.sort_unstable();
    let mut map = Map::new();
    let mut random = fastrand::Rng::with_seed(4);
    for step in 0..6000 {
        let keyspace = store.ordered_keyspace("ordered").unwrap();
        let key = &pool[random.usize(..pool.len())];
        // The keyspace grows, shrinks to little, and grows again.
        let grows = !(2000..4000).contains(&step);
        match random.u8(..20) {
            0..10 if grows => {
                let value = vec![random.u8(..); random.usize(..60)];
                keyspace.insert(key, &value).unwrap();
                map.insert(key.clone(), value);
            }
            0..12 => assert_eq!(keyspace.remove(key).unwrap(), map.remove(key).is_some()),
            12 => assert_eq!(keyspace.pop_first().unwrap().map(owned), map.pop_first()),
            13 => assert_eq!(keyspace.pop_last().unwrap().map(owned), map.pop_last()),
            14 => {
                // Ranges of few keys, so that many are empty.
                let mut bounds = [random.usize(..pool.len() - 4); 2];
                bounds[1] += random.usize(..4);
                let [from, to] = bounds.map(|at| &sorted[at]);
                let (range, is_first) = (from.clone()..to.clone(), random.bool());
                let mut expected = map.range(range.clone()).map(|(key, value)| (key.clone(), value.clone()));
                let expected = if is_first { expected.next() } else { expected.next_back() };
                expected.iter().for_each(|(key, _)| drop(map.remove(key)));
                let popped =
                    if is_first { keyspace.pop_first_in(range) } else { keyspace.pop_last_in(range) };
                assert_eq!(popped.unwrap().map(owned), expected);
            }
            15 => {
                let mut batch = WriteBatch::new();
                for _ in 0..random.usize(..40) {
                    let key = &pool[random.usize(..pool.len())];
                    if random.bool() {
                        batch.insert(key, b"batch");
                        map.insert(key.clone(), b"batch".to_vec());
                    } else {
                        batch.remove(key);
                        map.remove(key);
                    }
                }
                keyspace.write(batch).unwrap();
            }
            16 => check_range(&keyspace, &map, key, &pool[random.usize(..pool.len())]),
            17 => check_neighbours(&keyspace, &map, key),
            18 => settle(&store),
            _ => assert_eq!(keyspace.get(key).unwrap().as_deref(), map.get(key).map(|value| &**value)),
        }
        if step % 500 == 499 {
            check(&keyspace, &map);
            assert_eq!(store.verify().unwrap().keys, map.len() as u64);
            drop(keyspace);
            if step % 1000 == 999 {
                store.compact().unwrap();
                store.close().unwrap();
            } else {
                drop(store);
            }
            store = open(&disk);
            check(&store.ordered_keyspace("ordered").unwrap(), &map);
        }
    }
}

#[test]
fn order_is_a_property_of_a_keyspace_for_ever() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let plain = store.keyspace("plain").unwrap();
    assert!(ordered.is_ordered() && !plain.is_ordered() && !store.is_ordered());
    let refused =
        |found: Result<()>| matches!(found, Err(Error::KeyspaceNotOrdered { name }) if name == "plain");
    assert!(refused(store.ordered_keyspace("plain").map(drop)));
    assert!(matches!(store.ordered_keyspace(""), Err(Error::KeyspaceNotOrdered { .. })));
    plain.insert("a", "1").unwrap();
    let last = store.last_seq();
    for answer in [
        plain.first_key_value().map(drop),
        plain.get_le("a").map(drop),
        plain.get_range("a".., 2).map(drop),
        plain.count_range("a"..).map(drop),
        plain.pop_first().map(drop),
        plain.range("a"..).next().unwrap().map(drop),
        plain.view().prefix("a").next_back().unwrap().map(drop),
        store.snapshot().keyspace("plain").unwrap().range("a"..).next().unwrap().map(drop),
    ] {
        assert!(refused(answer));
    }
    assert_eq!((plain.range("a"..).count(), store.last_seq(), plain.len()), (1, last, 1));
    // A clear, a rename, a close and a kill leave it as it is.
    assert!(store.keyspace("ordered").unwrap().is_ordered());
    ordered.insert("b", "2").unwrap();
    ordered.clear().unwrap();
    store.rename_keyspace("ordered", "renamed").unwrap();
    ordered.insert("b", "2").unwrap();
    drop((ordered, plain));
    store.close().unwrap();
    let store = open(&disk);
    let ordered = store.ordered_keyspace("renamed").unwrap();
    assert_eq!(keys(ordered.range("a"..)), [b"b"]);
    let disk = disk.kill();
    let store = open(&disk);
    assert_eq!(keys(store.ordered_keyspace("renamed").unwrap().range("a"..)), [b"b"]);
    // A name is free for another kind after a drop.
    assert!(store.drop_keyspace("renamed").unwrap());
    assert!(!store.keyspace("renamed").unwrap().is_ordered());
}

#[test]
fn keys_of_an_ordered_keyspace_are_bounded() {
    let store = open(&SimDisk::new());
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let longest = vec![7; MAX_ORDERED_KEY_LEN];
    let too_long = vec![7; MAX_ORDERED_KEY_LEN + 1];
    ordered.insert(&longest, "1").unwrap();
    ordered.insert(&longest[1..], "2").unwrap();
    ordered.insert([], "3").unwrap();
    let last = store.last_seq();
    fn refused<T>(found: Result<T>) -> bool {
        let limit = MAX_ORDERED_KEY_LEN;
        matches!(found, Err(Error::KeyTooLarge { len, max }) if (len, max) == (limit + 1, limit))
    }
    assert!(refused(ordered.insert(&too_long, "")) && refused(ordered.remove(&too_long)));
    for removes in [false, true] {
        let mut batch = WriteBatch::new();
        batch.insert("a", "1");
        if removes {
            batch.remove(&too_long);
        } else {
            batch.insert(&too_long, "1");
        }
        assert!(refused(ordered.write(&batch)));
    }
    assert_eq!(store.last_seq(), last);
    assert_eq!(ordered.get(&too_long).unwrap(), None);
    assert_eq!(keys(ordered.range(..=too_long)), [Vec::new(), longest[1..].to_vec(), longest.clone()]);
    // A keyspace without order takes it.
    store.insert(vec![7; MAX_ORDERED_KEY_LEN + 1], "").unwrap();
}

#[test]
fn one_moment_range_has_a_limit() {
    let store = open(&SimDisk::new());
    let ordered = store.ordered_keyspace("ordered").unwrap();
    for n in 0..5000_u32 {
        ordered.insert(n.to_be_bytes(), "").unwrap();
    }
    assert!(matches!(ordered.get_range::<&[u8]>(.., 4097), Err(Error::Limit { .. })));
    assert_eq!(ordered.get_range::<&[u8]>(.., 4096).unwrap().len(), 4096);
    assert_eq!(ordered.get_range::<&[u8]>(.., 0).unwrap().len(), 0);
    assert_eq!(ordered.count_range::<&[u8]>(..).unwrap(), 5000);
}
