//! Tests that an open from a checkpoint reads little, and finds all data.

use std::sync::{Arc, Mutex};

use mapcask::sim::{Operation, Script, SimDisk, Tears};
use mapcask::{Error, Options, Store};

use super::{
    check, contents, directory, filled, image_in, image_of, insert, key, open, options, remove, rest, value,
};

#[test]
fn open_after_clean_close_reads_no_log() {
    let directory = directory();
    let path = directory.path();
    // More than a megabyte, so that the close takes a checkpoint.
    let big = || Options::new().background(false).segment_bytes(256 << 10);
    let store = big().open(path).unwrap();
    for number in 0..12_000 {
        store.insert(key(number), [value(number, 0), vec![7; 60]].concat()).unwrap();
    }
    let last = store.last_seq();
    store.flush().unwrap();
    let before = store.stats();
    store.close().unwrap();
    assert!(image_in(path).is_some());
    let store = big().open(path).unwrap();
    let report = store.recovery_report();
    assert!(report.clean);
    assert_eq!((report.records, report.bytes_read, report.keys), (0, 0, 12_000), "{report:?}");
    assert!(report.checkpoint_seq >= Some(last.0) && report.checkpoint_damage.is_none(), "{report:?}");
    // A header of 128 bytes, 64 bytes for each segment and keyspace, 16 for each pair of both, and
    // two blocks.
    let most = 128 + 64 * (report.segments as u64 + 1) + 16 * report.segments as u64;
    let blocks = report.checkpoint_bytes_read / 4100;
    assert!(blocks <= 2 && report.checkpoint_bytes_read - 4100 * blocks <= most, "{report:?}");
    let stats = store.stats();
    assert_eq!(
        (stats.keys, stats.live_bytes, stats.dead_bytes),
        (before.keys, before.live_bytes, before.dead_bytes)
    );
    assert_eq!((stats.checkpoint_bytes > 0, stats.checkpoints, stats.index_rebuilds), (true, 0, 0));
    for number in (0..12_000).rev() {
        assert_eq!(store.get(key(number)).unwrap().unwrap(), [value(number, 0), vec![7; 60]].concat());
    }
    store.verify().unwrap();
    // A short log to replay does not justify another checkpoint.
    store.insert("one", "more").unwrap();
    let image = image_in(path);
    store.close().unwrap();
    assert_eq!(image_in(path), image);
    let store = big().open(path).unwrap();
    let report = store.recovery_report();
    assert!(report.records > 0 && report.records < 8, "{report:?}");
    assert_eq!(store.get("one").unwrap().unwrap(), "more");
    assert_eq!(store.len(), 12_001);
}

#[test]
fn open_after_kill_reads_only_the_log_after_the_checkpoint() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new();
        let (store, mut map) = filled(&disk, 400);
        for _ in 0..random.usize(0..200) {
            insert(&store, &mut map, random.u32(0..400), 1);
        }
        rest(&store);
        assert!(store.take_checkpoint().unwrap());
        let mut written = 0;
        for _ in 0..random.usize(0..150) {
            let number = random.u32(0..500);
            match random.u8(0..10) {
                0..3 => remove(&store, &mut map, number),
                _ => insert(&store, &mut map, number, 2),
            }
            written += 1;
            if random.u8(0..60) == 0 {
                store.compact().unwrap();
            }
        }
        let moved = store.stats().compaction.bytes_moved;
        let before = store.stats();
        let disk = if random.bool() {
            disk.kill()
        } else {
            store.flush().unwrap();
            disk.crash_at(disk.position(), Tears::None, &mut Script::new([]))
        };
        let again = open(&disk);
        let report = again.recovery_report();
        assert!(report.checkpoint_seq.is_some(), "{report:?}");
        // Each segment has a few internal records.
        let least_size = 32 + 8;
        let most = written + moved / least_size + 3 * report.segments as u64 + 3 * before.syncs;
        assert!(report.records <= most, "{} > {most}: {report:?}", report.records);
        check(&again, &map);
        again.verify().unwrap();
        assert_eq!(again.stats().live_bytes, before.live_bytes);
        // Compares with an open that reads the whole log.
        let other = disk.kill();
        other.remove_file(&image_of(&other).unwrap()).unwrap();
        let other = open(&other);
        assert!(other.recovery_report().checkpoint_damage.is_some());
        check(&other, &map);
        // Both begin an incarnation, with one start record each.
        again.flush().unwrap();
        other.flush().unwrap();
        assert_eq!(again.stats().dead_bytes, other.stats().dead_bytes, "seed {seed}");
        drop(store);
    }
}

#[test]
fn open_from_checkpoint_drops_entries_of_removed_segments() {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 600);
    assert!(store.take_checkpoint().unwrap());
    // Every record of the checkpoint moves, and many move more than once.
    for round in 1..4 {
        for number in (0..600).step_by(3) {
            insert(&store, &mut map, number, round);
        }
        store.compact().unwrap();
    }
    for number in 0..100 {
        remove(&store, &mut map, number);
    }
    store.compact().unwrap();
    let disk = disk.kill();
    let again = open(&disk);
    assert!(again.recovery_report().checkpoint_seq.is_some());
    check(&again, &map);
    again.verify().unwrap();
    // A checkpoint of that state works as well.
    assert!(again.take_checkpoint().unwrap());
    again.close().unwrap();
    let again = open(&disk);
    assert!(again.recovery_report().checkpoint_seq.is_some());
    check(&again, &map);
}

#[test]
fn open_replays_keyspace_changes_after_the_checkpoint() {
    let disk = SimDisk::new();
    let (store, map) = filled(&disk, 50);
    for name in ["stays", "cleared", "dropped", "renamed", "replaced"] {
        let keyspace = store.keyspace(name).unwrap();
        for number in 0..20 {
            keyspace.insert(key(number), name).unwrap();
        }
    }
    assert!(store.take_checkpoint().unwrap());
    store.keyspace("cleared").unwrap().clear().unwrap();
    store.keyspace("cleared").unwrap().insert("new", "1").unwrap();
    store.drop_keyspace("dropped").unwrap();
    store.drop_keyspace("replaced").unwrap();
    store.rename_keyspace("renamed", "replaced").unwrap();
    store.keyspace("made").unwrap().insert("made", "later").unwrap();
    for durable in [false, true] {
        if durable {
            store.flush().unwrap();
            rest(&store);
        }
        let again = open(&disk.kill());
        assert!(again.recovery_report().checkpoint_seq.is_some());
        assert_eq!(again.keyspace_names(), ["cleared", "made", "replaced", "stays"]);
        let lens = ["cleared", "made", "replaced", "stays"].map(|name| again.keyspace(name).unwrap().len());
        assert_eq!(lens, [1, 1, 20, 20]);
        assert_eq!(again.keyspace("replaced").unwrap().get(key(3)).unwrap().unwrap(), "renamed");
        assert_eq!(again.keyspace("cleared").unwrap().get(key(3)).unwrap(), None);
        assert_eq!(contents(&again), map);
        again.verify().unwrap();
        assert_eq!(again.stats().live_bytes, store.stats().live_bytes);
    }
}

/// The first read of a record after an open verifies it.
#[test]
fn damaged_record_fails_reads_and_can_be_overwritten() {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 300);
    assert!(store.take_checkpoint().unwrap());
    store.close().unwrap();
    let needle = value(77, 0);
    let found = disk.files().into_iter().find_map(|name| {
        let bytes = disk.read_file(&name).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        name.ends_with(".seg").then_some((name, at as u64))
    });
    let (name, at) = found.unwrap();
    // In the value, the key, and the header's value length, checksum and sequence number.
    for offset in [at + 3, at - 2, at - 4 - 32 + 8, at - 4 - 32, at - 4 - 32 + 16] {
        let disk = disk.kill();
        disk.rot_bit(&name, offset, 1).unwrap();
        let place = format!("{} bytes from the value", i128::from(offset) - i128::from(at));
        let store = open(&disk);
        assert!(store.recovery_report().checkpoint_seq.is_some());
        let is_corrupt = |error: &Error| matches!(error, Error::Corrupt { .. });
        assert!(store.get(key(77)).is_err_and(|error| is_corrupt(&error)), "{place}");
        assert!(store.get(key(77)).is_err_and(|error| is_corrupt(&error)), "{place}: not only once");
        assert!(store.iter().any(|item| item.is_err()), "{place}");
        assert!(store.multi_get(&[key(1), key(77)]).is_err(), "{place}");
        assert!(store.snapshot().get(key(77)).is_err(), "{place}");
        assert!(store.verify().is_err(), "{place}");
        for number in (0..300).filter(|number| *number != 77) {
            assert_eq!(store.get(key(number)).unwrap().as_deref(), Some(value(number, 0).as_slice()));
        }
        assert!(store.compare_and_swap(key(77), Some(&value(77, 0)), Some("x")).is_err(), "{place}");
    }
    let disk = disk.kill();
    disk.rot_bit(&name, at + 3, 1).unwrap();
    let store = open(&disk);
    insert(&store, &mut map, 77, 9);
    check(&store, &map);
    drop(store);
    let disk = disk.kill();
    disk.rot_bit(&name, at + 3, 0).unwrap();
    drop(options().open_on(&disk).unwrap());
}

#[test]
fn open_followed_by_reads_alone_changes_no_file() {
    let disk = SimDisk::new();
    let (store, map) = filled(&disk, 100);
    store.close().unwrap();
    let files = |disk: &SimDisk| -> Vec<_> {
        let names = disk.files().into_iter().filter(|name| name != "CONTROL");
        names.map(|name| (disk.read_file(&name).unwrap(), name)).collect()
    };
    let before = files(&disk);
    let counted = disk.operations();
    let store = open(&disk);
    assert!(store.recovery_report().clean);
    check(&store, &map);
    rest(&store);
    drop(store.snapshot());
    store.close().unwrap();
    assert!(files(&disk) == before);
    let count = |operation: Operation| disk.operations().get(&operation).copied().unwrap_or(0);
    let more = |operation: Operation| count(operation) - counted.get(&operation).copied().unwrap_or(0);
    let changes = [Operation::Sync, Operation::SyncDir, Operation::SyncRange, Operation::SyncParent];
    assert_eq!(changes.map(more), [0; 4]);
    // The first write prepares the disk. It syncs the directory's own name, and it syncs, writes
    // and syncs both copies of the manifest.
    let store = open(&disk);
    let [counted, named] = [Operation::Sync, Operation::SyncParent].map(count);
    store.insert("one", "more").unwrap();
    assert_eq!((count(Operation::Sync) - counted, count(Operation::SyncParent) - named), (4, 1));
    store.insert("and", "another").unwrap();
    assert_eq!(count(Operation::Sync) - counted, 4);
    let store = open(&disk.kill());
    assert!(!store.recovery_report().clean);
    assert_eq!(store.len(), 102);
}

#[test]
fn open_reports_progress_only_for_the_log_it_reads() {
    let directory = directory();
    let store = Options::new().background(false).open(directory.path()).unwrap();
    for number in 0..30_000 {
        store.insert(key(number), vec![7; 200]).unwrap();
    }
    store.close().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let options = || {
        let told = Arc::clone(&told);
        let options = Options::new().background(false);
        options.recovery_progress(move |progress| told.lock().unwrap().push(progress))
    };
    options().open(directory.path()).unwrap().close().unwrap();
    assert!(told.lock().unwrap().is_empty(), "the image holds everything");
    std::fs::remove_file(image_in(directory.path()).unwrap()).unwrap();
    let store = options().open(directory.path()).unwrap();
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert!(told.len() >= 5, "{told:?}");
    assert!(told.is_sorted_by(|one, next| one.bytes_read + (1 << 20) <= next.bytes_read));
    let last = told.last().unwrap();
    let read = store.recovery_report().bytes_read;
    assert!(last.bytes_read <= read && read <= last.bytes_total, "{last:?}, {read}");
    assert!(read - last.bytes_read < 2 << 20 && last.bytes_total < read + (256 << 10), "{last:?}, {read}");
}

/// Another process may own a store that was closed here.
#[test]
fn handle_of_a_closed_store_writes_nothing() {
    let disk = SimDisk::new();
    let (store, map) = filled(&disk, 100);
    store.close().unwrap();
    let store = open(&disk);
    let stale = store.clone();
    store.close().unwrap();
    let other = open(&disk);
    let mut map = map;
    for number in 100..300 {
        insert(&other, &mut map, number, 0);
    }
    other.flush().unwrap();
    rest(&other);
    let files = |disk: &SimDisk| -> Vec<_> {
        disk.files().into_iter().map(|name| (disk.read_file(&name).unwrap(), name)).collect()
    };
    let before = files(&disk);
    assert!(matches!(stale.compact(), Err(Error::Closed)));
    assert!(matches!(stale.compact_segments(&[1, 2], |_| true), Err(Error::Closed)));
    assert!(matches!(stale.take_checkpoint(), Err(Error::Closed)));
    assert!(matches!(stale.insert("a", "b"), Err(Error::Closed)));
    assert!(stale.step().is_err() && stale.rest_step().is_err());
    assert!(files(&disk) == before);
    check(&open(&disk.kill()), &map);
}

/// Cause: an open read the whole index from the checkpoint only to remove all of its entries.
#[test]
fn open_reads_no_index_of_which_no_record_is_left() {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 400);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    for number in 0..400 {
        ordered.insert(key(number), value(number, 0)).unwrap();
    }
    // It begins with a segment of its own.
    let kept = store.keyspace("kept").unwrap();
    kept.insert(key(0), vec![0; 5000]).unwrap();
    for number in 1..400 {
        kept.insert(key(number), value(number, 0)).unwrap();
    }
    assert!(store.take_checkpoint().unwrap());
    let image = image_of(&disk).unwrap();
    for number in 0..400 {
        insert(&store, &mut map, number, 1);
        ordered.insert(key(number), value(number, 1)).unwrap();
    }
    while store.compact().unwrap().segments_removed > 0 {}
    store.flush().unwrap();
    let bytes = disk.read_file(&image).unwrap();
    let front = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    // Two hash indexes with 64 blocks and a few more, and a tree behind them.
    let frames = (bytes.len() as u64 - front) / 4100;
    assert!(frames > 130);
    let damaged = |damage: &mut dyn Iterator<Item = u64>| {
        let disk = disk.kill();
        damage.for_each(|frame| disk.rot_bit(&image, front + frame * 4100 + 99, 3).unwrap());
        open(&disk)
    };
    let check_kept = |store: &Store| {
        let kept = store.keyspace("kept").unwrap();
        for number in 1..400 {
            assert_eq!(kept.get(key(number)).unwrap().unwrap(), value(number, 0), "{number}");
        }
        assert_eq!(kept.len(), 400);
        store.stats().index_rebuilds
    };
    let store = damaged(&mut (0..64).chain([frames - 1]));
    let report = store.recovery_report();
    assert_eq!((report.checkpoint_seq.is_some(), &report.checkpoint_damage), (true, &None));
    assert_eq!(contents(&store), map);
    let ordered = store.ordered_keyspace("ordered").unwrap();
    let found = ordered.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    assert_eq!(found.collect::<Result<super::Map, _>>().unwrap(), map);
    assert_eq!(check_kept(&store), 0);
    store.verify().unwrap();
    // The index between them is read.
    assert_eq!(check_kept(&damaged(&mut (100..101))), 1);
}

/// Cause: an open that found a segment of its checkpoint gone read the whole index to remove the entries that
/// lead there.
#[test]
fn open_removes_entries_of_lost_segments_with_their_parts() {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 400);
    assert!(store.take_checkpoint().unwrap());
    let segments = |disk: &SimDisk| -> Vec<_> {
        disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect()
    };
    let before = segments(&disk);
    (100..300).for_each(|number| insert(&store, &mut map, number, 1));
    (300..320).for_each(|number| remove(&store, &mut map, number));
    store.compact().unwrap();
    store.close().unwrap();
    let left = segments(&disk).iter().filter(|name| before.contains(*name)).count();
    assert!(0 < left && left < before.len(), "{left} of {}", before.len());
    let image = disk.read_file(&image_of(&disk).unwrap()).unwrap().len() as u64;
    for was_killed in [false, true] {
        let mut map = map.clone();
        let writing = was_killed.then(|| open(&disk));
        writing.iter().for_each(|store| insert(store, &mut map, 1000, 0));
        let disk = disk.kill();
        let store = open(&disk);
        let report = store.recovery_report();
        assert!(report.clean != was_killed && report.hinted_bytes == 0, "{report:?}");
        // The front, and the last block of each row.
        assert!(report.checkpoint_bytes_read < 20_000 && image > 200_000, "{report:?} of {image}");
        let (waiting, completed) = store.index_parts();
        assert!(waiting > 0 && completed == 0);
        // New segments may get the addresses of those that are gone.
        (400..700).for_each(|number| insert(&store, &mut map, number, 2));
        assert!(store.index_parts().0 >= waiting - 300);
        check(&store, &map);
        assert_eq!(store.index_parts().0, 0, "the count needs all");
        store.verify().unwrap();
        assert!(store.take_checkpoint().unwrap());
        check(&open(&disk.kill()), &map);
    }
}
