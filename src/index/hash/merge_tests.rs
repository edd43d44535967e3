//! Tests of an index that shrinks to its first size, beside readers that miss nothing.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::scan::Cursor;
use super::tests::{Table, get, hash_of_kind, key_at, place, random_hash, scan_all};
use super::*;

/// Grows to the given keys and shrinks to none, in the order of the keys.
fn grow_and_shrink(
    writer: &mut IndexWriter,
    keys: std::ops::Range<u64>,
    hash: impl Fn(u64) -> Hash,
    check: bool,
) {
    let index = Arc::clone(writer.index());
    for key in keys.clone() {
        writer.reserve().expect("memory");
        writer.insert(hash(key), place(key, 0));
    }
    for key in keys.clone() {
        Table::remove(writer, hash(key), place(key, 0));
        if check && key.is_multiple_of(61) {
            let mut left: Vec<_> = scan_all(&index).into_iter().map(key_at).collect();
            left.sort_unstable();
            assert!(left.into_iter().eq(key + 1..keys.end));
            assert!((key + 1..keys.end).all(|key| get(&index, hash(key), key) == Some(place(key, 0))));
            assert_eq!(get(&index, hash(key), key), None);
        }
    }
}

#[test]
fn index_shrinks_to_its_first_size_and_keeps_its_keys() {
    for kind in 0..3 {
        let (index, mut writer) = Index::with_base_bits(0, 0).expect("memory");
        let keys = if kind == 1 { 200 } else { 3_000 };
        for round in 0..3 {
            grow_and_shrink(&mut writer, 0..keys, |key| hash_of_kind(kind, key), true);
            assert_eq!(index.memory_bytes(), 64, "kind {kind}, round {round}");
        }
    }
}

#[test]
fn scan_takes_few_steps_after_the_index_was_emptied() {
    let (index, mut writer) = Index::new().expect("memory");
    let first = index.memory_bytes();
    grow_and_shrink(&mut writer, 0..100_000, random_hash, false);
    assert_eq!((index.len(), index.memory_bytes()), (0, first));
    let (mut steps, mut cursor) = (0, Some(Cursor::START));
    while let Some(at) = cursor {
        cursor = index.scan(at, &mut Vec::new()).expect("it is whole");
        steps += 1;
    }
    assert_eq!(steps, 1 << BASE_BITS);
}

#[test]
fn readers_miss_nothing_while_an_index_grows_and_shrinks() {
    const STAY: u64 = 40;
    let (index, mut writer) = Index::with_base_bits(0, 0).expect("memory");
    for key in 0..STAY {
        Table::insert(&mut writer, random_hash(key), place(key, 0));
    }
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!((0..STAY).all(|key| get(&index, random_hash(key), key) == Some(place(key, 0))));
            }
        });
        let scans = scope.spawn(|| {
            let mut scans = 0;
            while !done.load(Ordering::Relaxed) {
                let mut staying: Vec<_> =
                    scan_all(&index).into_iter().map(key_at).filter(|key| *key < STAY).collect();
                staying.sort_unstable();
                assert!(staying.into_iter().eq(0..STAY), "each comes once");
                scans += 1;
            }
            scans
        });
        for _ in 0..200 {
            grow_and_shrink(&mut writer, STAY..1_000, random_hash, false);
        }
        done.store(true, Ordering::Relaxed);
        scans.join().unwrap()
    });
    assert!(rounds > 0);
}
