//! Tests of compaction. Nothing is lost, nothing removed comes back, and the space is freed.

#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[cfg(feature = "sim")]
mod concurrent;
#[cfg(feature = "sim")]
mod damage;
#[cfg(feature = "sim")]
mod full_disk;
#[cfg(feature = "sim")]
mod full_disk_deletes;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(feature = "sim")]
mod leftovers;
#[cfg(feature = "sim")]
#[path = "../model_support/mod.rs"]
#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;
mod pinned_values;
#[cfg(feature = "sim")]
mod short_lived_stores;
#[cfg(feature = "sim")]
mod space_amplification;
#[cfg(feature = "sim")]
mod step_latency;
#[cfg(feature = "sim")]
mod tombstone_rule;

use std::collections::BTreeMap;

use mapcask::{Durability, Options, Stats, Store};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn contents(store: &Store) -> Map {
    let items = store.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    items.collect::<Result<_, _>>().expect("every record is intact")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Returns the statistics once the background has nothing to do.
fn rested(store: &Store) -> Stats {
    loop {
        let stats = store.stats();
        if !stats.compaction.running && stats.compaction.next_reason.is_none() {
            return stats;
        }
        std::thread::yield_now();
    }
}

#[test]
fn compaction_loses_nothing_and_restores_nothing_removed() {
    let directory = directory();
    let path = directory.path().join("store");
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected = Map::new();
    for round in 0..30 {
        let store = options().open(&path).expect("opens");
        assert_eq!(contents(&store), expected, "round {round}");
        for _ in 0..random.usize(0..400) {
            let key = vec![random.u8(0..50)];
            if random.u8(0..3) == 0 {
                store.remove(&key).expect("room");
                expected.remove(&key);
            } else {
                let value = vec![random.u8(..); random.usize(0..300)];
                store.insert(&key, &value).expect("room");
                expected.insert(key, value);
            }
            if random.u8(0..100) == 0 {
                store.compact().expect("compacts");
                assert_eq!(contents(&store), expected, "round {round}");
                store.verify().expect("intact");
            }
        }
        let report = store.compact().expect("compacts");
        let again = store.compact().expect("compacts");
        assert_eq!(again.passes, 0, "round {round}: {report:?}, then {again:?}");
        let stats = store.stats();
        assert_eq!(stats.compaction.retained_tombstone_bytes, 0);
        assert_eq!(contents(&store), expected, "round {round}");
        store.verify().expect("intact");
        if random.bool() {
            store.close().expect("closes");
        }
    }
    let store = options().open(&path).expect("opens");
    for key in expected.keys() {
        store.remove(key).expect("room");
    }
    store.compact().expect("compacts");
    let stats = store.stats();
    assert_eq!((stats.keys, stats.live_bytes), (0, 0));
    assert_eq!(stats.segments, 1, "{stats:?}");
}

#[test]
fn overwritten_store_stays_within_its_space_bound() {
    let directory = directory();
    let options = Options::new().segment_bytes(64 << 10).durability(Durability::Os);
    let store = options.open(directory.path().join("store")).expect("opens");
    for round in 0..100_u32 {
        for key in 0..2_000_u32 {
            store.insert(key.to_le_bytes(), [round.to_le_bytes(); 25].concat()).expect("room");
        }
    }
    let stats = rested(&store);
    assert_eq!(stats.keys, 2_000);
    assert!(stats.compaction.passes > 0, "{stats:?}");
    assert!(stats.segment_bytes < stats.live_bytes * 3 / 2 + (8 << 16), "{stats:?}");
    for (key, value) in contents(&store) {
        assert_eq!(value, [99_u32.to_le_bytes(); 25].concat(), "{key:?}");
    }
    store.verify().expect("intact");
}

/// Checks that writers at full speed are slowed until the files stay within their bound
/// (docs/design/compaction.md, "Pace").
///
/// The bound is twice the live bytes, a megabyte, and eight segments. Four more segments may come
/// before writers stop. The copies of a pass and the preallocated segments come on top.
#[test]
fn files_stay_within_their_bound_under_load() {
    const SEGMENT: u64 = 1 << 20;
    const KEYS: u32 = 20_000;
    let directory = directory();
    let store = Options::new().segment_bytes(SEGMENT).open(directory.path()).expect("opens");
    let write = |store: &Store, number: u32, round: u32| {
        store.insert(number.to_le_bytes(), [round.to_le_bytes(); 30].concat()).expect("room");
    };
    for number in 0..KEYS {
        write(&store, number, 0);
    }
    let live = store.stats().live_bytes;
    let bound = 2 * live + (1 << 20) + (8 + 4 + 2) * SEGMENT;
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let store = store.clone();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(writer);
                for count in 0..20 * KEYS {
                    write(&store, random.u32(0..KEYS), count);
                    if count % 128 == 0 {
                        let used = store.stats().segment_bytes;
                        assert!(used <= bound, "{used} of {bound} bytes after {count} writes");
                    }
                }
            });
        }
    });
    let stats = rested(&store);
    assert_eq!(stats.live_bytes, live);
    assert!(stats.segment_bytes <= live / 2 * 3 + 3 * SEGMENT, "{stats:?}");
    assert!(stats.compaction.passes > 10, "{stats:?}");
}
