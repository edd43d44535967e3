//! Tests of taking a checkpoint: the time, the operations beside it, and the failures.

use std::path::Path;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Options, Resource, Store};

use super::{
    Map, check, copied, directory, filled, image_in, image_of, insert, key, open, remove, rest, value,
};

/// Opens a store that takes a checkpoint as soon as it is worthwhile.
fn eager(path: &Path) -> Store {
    Options::new().background(false).segment_bytes(256 << 10).checkpoint_bytes(0).open(path).unwrap()
}

/// Returns a value whose record takes about 400 bytes.
fn large(number: u32, round: u32) -> Vec<u8> {
    [number, round].map(u32::to_le_bytes).concat().repeat(45)
}

#[test]
fn background_takes_checkpoints_and_removes_the_previous_one() {
    let directory = directory();
    let store = eager(directory.path());
    let mut images = Vec::new();
    for round in 0..8 {
        for number in 0..8_000 {
            store.insert(key(number), large(number, round)).unwrap();
            if number % 256 == 0 {
                while store.step().unwrap() {}
                images.extend(image_in(directory.path()));
            }
        }
    }
    while store.step().unwrap() {}
    images.dedup();
    let stats = store.stats();
    assert!(images.len() > 2 && stats.checkpoints == images.len() as u64, "{images:?}, {stats:?}");
    let size = std::fs::metadata(image_in(directory.path()).unwrap()).unwrap().len();
    assert_eq!(stats.checkpoint_bytes, size);
    let copy = copied(directory.path());
    let store = eager(copy.path());
    let report = store.recovery_report();
    assert!(report.checkpoint_seq.is_some());
    // Four times the checkpoint, a segment, and the output of a pass.
    assert!(report.bytes_read < 4 * size + (1 << 20), "{report:?}, {size}");
    for number in 0..8_000 {
        assert_eq!(store.get(key(number)).unwrap().unwrap(), large(number, 7));
    }
}

#[test]
fn checkpoint_is_refused_within_a_pass() {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 300);
    for number in 0..300 {
        insert(&store, &mut map, number, 1);
    }
    let mut asked = 0;
    store
        .compact_with(|_| {
            assert!(!store.take_checkpoint().unwrap());
            asked += 1;
            true
        })
        .unwrap();
    assert!(asked > 5);
    assert!(store.take_checkpoint().unwrap());
    check(&store, &map);
}

/// Compaction may begin while a checkpoint is being written, and writers continue.
#[test]
fn checkpoint_and_log_restore_writes_made_beside_it() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let directory = directory();
        let store = eager(directory.path());
        let mut map = Map::new();
        let mut write = |store: &Store, count: usize| {
            for _ in 0..count {
                let number = random.u32(0..9_000);
                if random.u8(0..8) == 0 {
                    remove(store, &mut map, number);
                } else {
                    let value = large(number, random.u32(..));
                    store.insert(key(number), &value).unwrap();
                    map.insert(key(number).to_vec(), value);
                }
            }
        };
        write(&store, 10_000);
        let before = store.stats().checkpoints;
        while store.stats().checkpoints == before {
            write(&store, 200);
            store.step().unwrap();
        }
        write(&store, 300);
        let copy = copied(directory.path());
        let again = eager(copy.path());
        assert!(again.recovery_report().checkpoint_seq.is_some());
        check(&again, &map);
        again.verify().unwrap();
    }
}

#[test]
fn checkpoint_completes_in_the_end_beside_a_fast_writer() {
    const KEYS: u32 = 150_000;
    let directory = directory();
    let store = eager(directory.path());
    for number in 0..KEYS {
        store.insert(key(number), value(number, 0)).unwrap();
    }
    let mut random = fastrand::Rng::with_seed(1);
    let mut steps = 0;
    while store.stats().checkpoints == 0 {
        store.step().unwrap();
        for _ in 0..2_000 {
            let number = random.u32(0..KEYS);
            store.insert(key(number), value(number, 1)).unwrap();
        }
        steps += 1;
        assert!(steps < 2_000);
    }
    let copy = copied(directory.path());
    let store = eager(copy.path());
    assert!(store.recovery_report().checkpoint_seq.is_some());
    assert_eq!(store.len(), KEYS as usize);
    store.verify().unwrap();
}

#[test]
fn failed_checkpoint_leaves_the_store_usable() {
    for operation in
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::Unlink]
    {
        for fault in [Fault::Io, Fault::NoSpace] {
            let disk = SimDisk::new();
            let (store, mut map) = filled(&disk, 200);
            store.flush().unwrap();
            rest(&store);
            // Takes two checkpoints, so that the second one replaces the first.
            assert!(store.take_checkpoint().unwrap());
            insert(&store, &mut map, 7, 1);
            store.flush().unwrap();
            let already = disk.operations();
            let count = already.get(&operation).copied().unwrap_or(0);
            disk.fail_nth(Some(operation), 1, fault, false);
            let made = store.take_checkpoint();
            let case = format!("{operation:?} {fault:?} after {count}");
            disk.clear_faults();
            match made {
                Ok(_) => {
                    insert(&store, &mut map, 8, 1);
                    assert!(store.take_checkpoint().unwrap(), "{case}");
                }
                // The first sync may be the log's.
                Err(error) => assert!(operation == Operation::Sync, "{case}: {error}"),
            }
            let temporaries = disk.files().into_iter().filter(|name| name.ends_with(".tmp")).count();
            assert_eq!(temporaries, 0, "{case}");
            drop(store);
            let disk = disk.kill();
            let store = open(&disk);
            check(&store, &map);
            assert!(image_of(&disk).is_some(), "{case}");
        }
    }
}

#[test]
fn close_removes_an_unfinished_checkpoint() {
    let directory = directory();
    let store = eager(directory.path());
    for number in 0..4_000 {
        store.insert(key(number), large(number, 0)).unwrap();
    }
    let is_begun = |path: &Path| image_in(path).is_some_and(|path| path.extension().is_some());
    while !is_begun(directory.path()) {
        assert!(store.step().unwrap());
    }
    let copy = copied(directory.path());
    store.close().unwrap();
    assert!(!is_begun(directory.path()));
    let store = eager(copy.path());
    assert!(!is_begun(copy.path()));
    assert_eq!(store.len(), 4_000);
}

/// The manifest names a pass that could not be ended. A checkpoint would show neither its copies
/// nor later removals.
#[test]
fn close_takes_no_checkpoint_within_a_failed_pass() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).segment_bytes(256 << 10).open_on(&disk).unwrap();
    let mut map = Map::new();
    for number in 0..8_000 {
        let value = large(number, 0)[..200].to_vec();
        store.insert(key(number), &value).unwrap();
        map.insert(key(number).to_vec(), value);
    }
    // The first segments hold dead records.
    for number in (0..3_000).step_by(2) {
        remove(&store, &mut map, number);
    }
    store.flush().unwrap();
    while store.step().unwrap() {}
    let segments: Vec<u64> = (1..100).collect();
    let mut has_removed = false;
    let failed = store.compact_segments(&segments, |progress| {
        if progress.bytes_moved > 100 << 10 && !has_removed {
            // The pass has copied these records in the order of the log, and the manifest does not
            // name the copies yet.
            for number in (1..200).step_by(2) {
                remove(&store, &mut map, number);
            }
            disk.fail_nth(Some(Operation::Map), 1, Fault::Io, true);
            has_removed = true;
        }
        true
    });
    assert!(has_removed && failed.is_err(), "{failed:?}");
    store.close().unwrap();
    disk.clear_faults();
    let store = Options::new().background(false).segment_bytes(256 << 10).open_on(&disk).unwrap();
    check(&store, &map);
    store.verify().unwrap();
}

/// Cause: the next step began a checkpoint again whose file could not be made. Symptom: each step
/// of the background captured all indexes and made a file in vain. Fix: the next attempt waits for
/// another segment.
#[test]
fn checkpoint_is_tried_once_per_segment_if_it_cannot_begin() {
    let disk = SimDisk::new();
    let options = Options::new().background(false).segment_bytes(1 << 20).checkpoint_bytes(0);
    let store = options.open_on(&disk).unwrap();
    let fill = |from: u32| {
        for number in from..from + 5_000 {
            store.insert(key(number), large(number, 0)).unwrap();
        }
    };
    fill(0);
    disk.set_limit(Resource::FileSize, Some(16 * 4096));
    let count = || disk.operations().get(&Operation::Create).copied().unwrap_or(0);
    let before = count();
    for _ in 0..200 {
        store.step().unwrap();
    }
    let tried = count() - before;
    // One file for the checkpoint, and others of decreasing size for the next segment.
    assert!((1..=8).contains(&tried), "{tried}");
    assert!(!disk.files().iter().any(|name| name.starts_with("INDEX")), "{:?}", disk.files());
    disk.clear_faults();
    fill(5_000);
    while store.step().unwrap() {}
    assert!(store.stats().checkpoints > 0);
}

/// Cause: the file of an abandoned checkpoint that could not be removed was forgotten. Symptom:
/// each abandoned checkpoint left another file. Fix: the file is removed before the next checkpoint
/// begins.
#[test]
fn abandoned_checkpoint_is_removed_before_the_next_one() {
    for operation in [Operation::Write, Operation::Sync, Operation::Rename] {
        let disk = SimDisk::new();
        let (store, mut map) = filled(&disk, 200);
        store.flush().unwrap();
        rest(&store);
        for round in 1..20 {
            insert(&store, &mut map, 7, round);
            store.flush().unwrap();
            disk.fail_nth(Some(operation), 1, Fault::Io, true);
            disk.fail_nth(Some(Operation::Unlink), 1, Fault::Io, true);
            assert!(!store.take_checkpoint().unwrap(), "{operation:?}");
            let left = disk.files().into_iter().filter(|name| name.starts_with("INDEX")).count();
            assert_eq!(left, 1, "{operation:?} in round {round}: {:?}", disk.files());
            disk.clear_faults();
        }
        assert!(store.take_checkpoint().unwrap(), "{operation:?}");
        image_of(&disk).unwrap();
        store.close().unwrap();
        check(&open(&disk), &map);
    }
}
