//! Tests of values, views and iterators that readers hold while their records are compacted,
//! cleared, dropped and closed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use mapcask::{Durability, Options, Store};

use super::directory;

const CHILD: &str = "MAPCASK_HELD_STORE";
const KEYS: u32 = 600;

fn options() -> Options {
    Options::new().segment_bytes(16 << 10).background(false).durability(Durability::Os)
}

fn value(key: u32, round: u32) -> Vec<u8> {
    [key, round].map(u32::to_le_bytes).concat().repeat(16)
}

fn fill(store: &mapcask::Keyspace, round: u32) {
    for key in 0..KEYS {
        store.insert(key.to_le_bytes(), value(key, round)).unwrap();
    }
}

/// Returns the number of mapped segments of a store in this process, including removed files.
#[cfg(target_os = "linux")]
fn mappings(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = path.to_str().unwrap();
    maps.lines().filter(|line| line.contains(path) && line.contains(".seg")).count()
}

#[cfg(target_os = "linux")]
fn hold(path: &Path) {
    let store = options().open(path).unwrap();
    let other = store.keyspace("other").unwrap();
    fill(&store, 0);
    fill(&other, 1);
    let values: Vec<_> = (0..KEYS).map(|key| store.get(key.to_le_bytes()).unwrap().unwrap()).collect();
    let others: Vec<_> = (0..KEYS).map(|key| other.get(key.to_le_bytes()).unwrap().unwrap()).collect();
    let check = || {
        for (key, (one, other)) in (0..).zip(values.iter().zip(&others)) {
            assert!(**one == *value(key, 0) && **other == *value(key, 1), "{key}");
        }
    };
    fill(&store, 2);
    let full = mappings(path);
    assert!(full > 15, "{full}");
    assert!(store.compact().unwrap().segments_removed > 3);
    check();
    {
        // A view holds the memory and delays no writer.
        let view = store.view();
        let seen = view.get(7_u32.to_le_bytes()).unwrap().unwrap();
        let mut iter = store.iter();
        let first = iter.next().unwrap().unwrap();
        store.clear().unwrap();
        assert!(store.drop_keyspace("other").unwrap());
        fill(&store, 3);
        assert!(store.compact().unwrap().segments_removed > 3);
        assert_eq!(seen, value(7, 2));
        let key = u32::from_le_bytes(first.0[..].try_into().unwrap());
        assert_eq!(*first.1, *value(key, 2));
        assert!(iter.all(|item| item.is_ok()));
        check();
    }
    // From here on only the values hold mappings.
    let held = mappings(path);
    store.clear().unwrap();
    store.compact().unwrap();
    check();
    assert!(mappings(path) > store.stats().segments, "{held}");
    drop((store, other));
    check();
    let rest = mappings(path);
    drop(others);
    let less = mappings(path);
    assert!(less < rest && less > 0, "{rest}, then {less}");
    drop(values);
    assert_eq!(mappings(path), 0, "nothing is left of {full}");
}

/// Runs in a process of its own, because every reader of a process delays the release of memory.
#[cfg(target_os = "linux")]
#[test]
fn values_views_and_iterators_hold_memory_until_dropped() {
    if let Some(path) = std::env::var_os(CHILD) {
        return hold(Path::new(&path));
    }
    let directory = directory();
    let name = "pinned_values::values_views_and_iterators_hold_memory_until_dropped";
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, directory.path().join("store"))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn iteration_yields_each_key_once_during_compaction() {
    let directory = directory();
    let store: Store = options().open(directory.path().join("store")).unwrap();
    fill(&store, 0);
    let done = AtomicBool::new(false);
    let passes = thread::scope(|scope| {
        scope.spawn(|| {
            for round in (1..).take_while(|_| !done.load(SeqCst)) {
                fill(&store, round);
            }
        });
        let compaction = scope.spawn(|| {
            let mut passes = 0;
            while !done.load(SeqCst) {
                passes += store.compact().unwrap().passes;
            }
            passes
        });
        for round in 0..200 {
            let mut keys = BTreeSet::new();
            let mut take = |key: &[u8], found: &[u8]| {
                let key = u32::from_le_bytes(key.try_into().unwrap());
                let round = u32::from_le_bytes(found[4..8].try_into().unwrap());
                assert_eq!(*found, *value(key, round));
                assert!(keys.insert(key), "{key} came twice");
            };
            if round % 2 == 0 {
                store.iter().map(Result::unwrap).for_each(|(key, found)| take(&key, &found));
            } else {
                store.view().iter().map(Result::unwrap).for_each(|(key, found)| take(key, found));
            }
            assert!(keys.into_iter().eq(0..KEYS));
        }
        done.store(true, SeqCst);
        compaction.join().unwrap()
    });
    assert!(passes > 0);
    store.verify().unwrap();
}

#[test]
fn a_view_holds_back_its_own_stores_files_and_no_others() {
    let directory = directory();
    let [store, other] = ["store", "other"].map(|name| options().open(directory.path().join(name)).unwrap());
    fill(&store, 0);
    fill(&other, 0);
    let mut view = store.view();
    // The order in which a thread pins the stores does not matter, nor that it reads the other one.
    let second = other.view();
    let third = store.view();
    drop(second);
    assert_eq!((store.stats().pins, other.stats().pins), (2, 0));
    let seen = view.get(7_u32.to_le_bytes()).unwrap().unwrap();
    for store in [&store, &other] {
        fill(store, 1);
        assert!(store.compact().unwrap().segments_removed > 3);
        // The last pass has released its own pins by now.
        assert_eq!(store.compact().unwrap().passes, 0);
    }
    assert_eq!(seen, value(7, 0));
    let (held, free) = (store.stats(), other.stats());
    assert!(held.removed_bytes_in_use > 3 * (16 << 10) && held.oldest_pin_wait.is_some(), "{held:?}");
    assert_eq!((free.removed_bytes_in_use, free.oldest_pin_wait), (0, None));
    // A refresh ends the borrows and releases the memory, and the view continues.
    view.refresh();
    assert!(
        store.stats().oldest_pin_wait.is_some(),
        "a view that was taken while the other one was there holds, too"
    );
    drop(third);
    assert_eq!(view.get(7_u32.to_le_bytes()).unwrap(), Some(&*value(7, 1)));
    fill(&store, 2);
    let removed = store.compact().unwrap().segments_removed;
    let now = store.stats();
    assert!(now.removed_bytes_in_use <= removed * (16 << 10), "{now:?}");
    drop(view);
    fill(&store, 3);
    store.compact().unwrap();
    store.compact().unwrap();
    assert_eq!((store.stats().removed_bytes_in_use, store.stats().pins), (0, 0));
}

#[test]
fn disk_limit_counts_bytes_held_by_views_and_values() {
    let directory = directory();
    let limit = 512 << 10;
    let store = options().max_disk_bytes(limit).open(directory.path().join("store")).unwrap();
    fill(&store, 0);
    let overwrite = |round: u32| {
        (0..KEYS).try_for_each(|key| store.insert(key.to_le_bytes(), value(key, round)).map(drop))
    };
    let refused = || {
        let error = (1..1_000).find_map(|round| overwrite(round).err()).expect("the limit is reached");
        let stats = store.stats();
        // The copies of a running pass may exceed the limit for a while.
        assert!(stats.segment_bytes + stats.removed_bytes_in_use <= limit + (64 << 10), "{stats:?}");
        let mapcask::Error::DiskLimit { used, held, .. } = error else { panic!("{error}") };
        assert!(used <= limit + (64 << 10) && held > 0, "{error}");
        assert!(error.to_string().contains("a view, value, iterator or snapshot holds"), "{error}");
    };
    let mut view = store.view();
    refused();
    // A reader that releases its view after a refusal lets writes continue. A new view, taken
    // before the old one is dropped, works equally well.
    for round in 0..20 {
        for key in 0..KEYS {
            if store.insert(key.to_le_bytes(), value(key, round)).is_err() {
                if round < 10 {
                    view.refresh();
                } else {
                    view = store.view();
                }
                store.insert(key.to_le_bytes(), value(key, round)).unwrap();
            }
        }
    }
    drop(view);
    overwrite(20).unwrap();
    let values: Vec<_> = (0..KEYS).map(|key| store.get(key.to_le_bytes()).unwrap().unwrap()).collect();
    let mut held = vec![values];
    while overwrite(21).is_ok() {
        held.push((0..KEYS).map(|key| store.get(key.to_le_bytes()).unwrap().unwrap()).collect());
        assert!(held.len() < 100);
    }
    drop(held);
    overwrite(22).unwrap();
    store.verify().unwrap();
}
