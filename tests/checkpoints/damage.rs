//! Tests of damaged and missing index checkpoints, which a store tolerates.

use std::path::Path;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Options, Store};

use super::{Map, contents, copied, directory, filled, image_in, image_of, insert, key, open, remove, value};

/// Returns a store that was closed after a checkpoint and some later writes.
fn closed() -> (SimDisk, Map, String) {
    let disk = SimDisk::new();
    let (store, mut map) = filled(&disk, 400);
    store.keyspace("other").unwrap().insert("a", "b").unwrap();
    assert!(store.take_checkpoint().unwrap());
    for number in 390..420 {
        insert(&store, &mut map, number, 1);
    }
    remove(&store, &mut map, 5);
    store.close().unwrap();
    let image = image_of(&disk).unwrap();
    (disk, map, image)
}

/// Returns the length of the header, which the file states itself.
fn front_len(disk: &SimDisk, image: &str) -> u64 {
    let bytes = disk.read_file(image).unwrap();
    u64::from_le_bytes(bytes[16..24].try_into().unwrap())
}

#[test]
fn open_checks_every_byte_of_a_checkpoint_header() {
    let (disk, map, image) = closed();
    for at in 0..front_len(&disk, &image) {
        let disk = disk.kill();
        disk.rot_bit(&image, at, (at % 8) as u8).unwrap();
        let store = open(&disk);
        let report = store.recovery_report();
        assert!(
            report.checkpoint_damage.is_some() && report.checkpoint_seq.is_none(),
            "byte {at}: {report:?}"
        );
        assert_eq!(image_of(&disk), None, "it is of no use");
        check_main(&store, &map);
    }
}

#[test]
fn open_ignores_cut_missing_or_foreign_checkpoint() {
    let (disk, map, image) = closed();
    let size = disk.read_file(&image).unwrap().len() as u64;
    let strange = {
        let disk = SimDisk::with_seed(77);
        assert!(filled(&disk, 400).0.take_checkpoint().unwrap());
        disk.read_file(&image_of(&disk).unwrap()).unwrap()
    };
    for n in 0..7 {
        let disk = disk.kill();
        match n {
            0 => disk.remove_file(&image).unwrap(),
            1 => disk.put_file(&image, &[]),
            2 => disk.put_file(&image, &[0; 8192]),
            3 => disk.put_file(&image, &strange),
            4 => disk.truncate(&image, size - 1).unwrap(),
            5 => disk.truncate(&image, size + 1).unwrap(),
            _ => disk.truncate(&image, 100).unwrap(),
        }
        let store = open(&disk);
        let report = store.recovery_report();
        assert!(report.checkpoint_damage.is_some() && report.checkpoint_seq.is_none(), "{n}: {report:?}");
        check_main(&store, &map);
        store.close().unwrap();
        let store = open(&disk);
        assert!(store.recovery_report().checkpoint_damage.is_none(), "{n}: it is not named any more");
        check_main(&store, &map);
    }
}

#[test]
fn open_ignores_unreadable_checkpoint() {
    let (disk, map, _) = closed();
    let reads = {
        let disk = disk.kill();
        drop(open(&disk));
        disk.operations()[&Operation::Read]
    };
    let mut refused = 0;
    for nth in 1..=reads {
        let disk = disk.kill();
        disk.fail_nth(Some(Operation::Read), nth, Fault::Io, false);
        // If another read fails, the open is refused.
        let Ok(store) = super::options().open_on(&disk) else { continue };
        refused += u64::from(store.recovery_report().checkpoint_damage.is_some());
        check_main(&store, &map);
    }
    assert!(refused > 0, "of {reads}");
}

fn check_main(store: &Store, map: &Map) {
    for (key, value) in map {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_slice()), "{key:?}");
    }
    assert_eq!(contents(store), *map);
    assert_eq!(store.keyspace("other").unwrap().get("a").unwrap().unwrap(), "b");
    store.verify().unwrap();
}

type Way = (&'static str, fn(&Store, u32) -> mapcask::Result<()>);

/// All operations that can be the first to look up a key.
const WAYS: [Way; 14] = [
    ("get", |store, number| store.get(key(number)).map(drop)),
    ("view", |store, number| store.view().get(key(number)).map(drop)),
    ("contains_key", |store, number| store.contains_key(key(number)).map(drop)),
    ("get_into", |store, number| store.get_into(key(number), &mut Vec::new()).map(drop)),
    ("try_get", |store, number| store.try_get(key(number)).map(drop)),
    ("multi_get", |store, number| store.multi_get(&[key(number), key(number + 1)]).map(drop)),
    ("insert", |store, number| store.insert(key(number), value(number, 0)).map(drop)),
    ("compare_and_swap", |store, number| {
        let value = value(number, 0);
        store.compare_and_swap(key(number), Some(&value), Some(&value)).map(drop)
    }),
    ("a batch", |store, number| {
        let mut batch = mapcask::WriteBatch::new();
        batch.insert(key(number), value(number, 0));
        store.write(batch).map(drop)
    }),
    ("iter", |store, _| store.iter().try_for_each(|item| item.map(drop))),
    ("snapshot", |store, number| store.snapshot().get(key(number)).map(drop)),
    ("snapshot iter", |store, _| store.snapshot().iter().try_for_each(|item| item.map(drop))),
    ("compact", |store, _| store.compact().map(drop)),
    ("the background", |store, _| {
        while store.step()? {}
        Ok(())
    }),
];

/// A damaged block is found by the first operation that needs it. The index is rebuilt, and only
/// the statistics show it.
#[test]
fn damaged_block_is_rebuilt_on_first_use_without_error() {
    let (disk, map, image) = closed();
    let front = front_len(&disk, &image);
    let frames = (disk.read_file(&image).unwrap().len() as u64 - front) / 4100;
    assert!(frames >= 128, "two keyspaces");
    for (name, way) in WAYS {
        // Counts the frames of the first keyspace whose damage was found. The open itself reads the
        // last one.
        let mut mended = 0;
        for frame in [0, 1, 17, 40, 63] {
            let disk = disk.kill();
            disk.rot_bit(&image, front + frame * 4100 + 99, 3).unwrap();
            let store = open(&disk);
            let place = format!("{name}, frame {frame}");
            for number in (6..380).step_by(2) {
                way(&store, number).unwrap_or_else(|error| panic!("{place}: {error}"));
                if store.stats().index_rebuilds > 0 {
                    break;
                }
            }
            mended += store.stats().index_rebuilds;
            assert!(store.stats().index_rebuilds <= 1, "{place}");
            check_main(&store, &map);
            store.remove(key(6)).unwrap();
            store.insert(key(1000), "new").unwrap();
            drop(store);
            let store = open(&disk.kill());
            assert_eq!(store.len(), map.len(), "{place}");
            assert_eq!(store.get(key(1000)).unwrap().unwrap(), "new", "{place}");
            store.verify().unwrap();
        }
        assert!(mended >= 3, "{name} found {mended} of five");
    }
}

/// A rebuild reads superseded records and tombstones again. They were counted as dead before.
#[test]
fn index_rebuild_leaves_counts_unchanged() {
    let (disk, map, image) = closed();
    let front = front_len(&disk, &image);
    disk.rot_bit(&image, front + 20 * 4100 + 99, 3).unwrap();
    let store = open(&disk);
    let before = store.stats();
    assert!(before.dead_bytes > 0, "keys were overwritten and removed");
    check_main(&store, &map);
    let after = store.stats();
    assert_eq!(after.index_rebuilds, 1);
    assert_eq!(
        (after.dead_bytes, after.live_bytes, after.keys),
        (before.dead_bytes, before.live_bytes, before.keys)
    );
}

#[test]
fn snapshots_and_iterators_continue_after_index_rebuild() {
    let (disk, map, image) = closed();
    let front = front_len(&disk, &image);
    disk.rot_bit(&image, front + 20 * 4100 + 99, 3).unwrap();
    let store = open(&disk);
    let snapshot = store.snapshot();
    let mut iter = store.iter();
    let walked = store.view();
    let mut borrowed = walked.iter();
    let mut found = Map::new();
    let mut lent = Map::new();
    for item in borrowed.by_ref().take(10) {
        let (key, value) = item.unwrap();
        lent.insert(key.into(), value.into());
    }
    for item in iter.by_ref().take(10) {
        let (key, value) = item.unwrap();
        found.insert(key.into(), value.into());
    }
    let view = store.view();
    for number in 0..420 {
        assert_eq!(view.get(key(number)).unwrap().is_some(), map.contains_key(key(number).as_slice()));
    }
    assert_eq!(store.stats().index_rebuilds, 1);
    for number in 0..200 {
        store.insert(key(number), value(number, 7)).unwrap();
    }
    for number in 200..250 {
        store.remove(key(number)).unwrap();
    }
    drop(view);
    for item in borrowed {
        let (key, value) = item.unwrap();
        assert!(lent.insert(key.into(), value.into()).is_none(), "each key comes once");
    }
    drop(walked);
    // The compaction makes the snapshot read from the rebuilt index.
    store.compact().unwrap();
    for item in iter {
        let (key, value) = item.unwrap();
        assert!(found.insert(key.into(), value.into()).is_none(), "each key comes once");
    }
    for found in [found, lent] {
        assert!(
            (251..=500).all(|number| found.contains_key(key(number).as_slice())
                == map.contains_key(key(number).as_slice()))
        );
    }
    let seen = snapshot.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    assert_eq!(seen.collect::<Result<Map, Error>>().unwrap(), map);
    for (key, value) in &map {
        assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(value.as_slice()));
    }
}

/// A dropped index cannot be rebuilt for a snapshot, so it is loaded completely before the drop.
#[test]
fn snapshot_of_damaged_index_outlives_its_keyspace() {
    let (clean, map, image) = closed();
    let front = front_len(&clean, &image);
    // One frame in the default keyspace's index, and one in the other's. Each has 64 blocks of
    // buckets, and overflow blocks.
    let frames = (clean.read_file(&image).unwrap().len() as u64 - front) / 4100;
    for frame in [20, frames - 30] {
        for clears in [true, false] {
            let disk = clean.kill();
            disk.rot_bit(&image, front + frame * 4100 + 99, 3).unwrap();
            let store = open(&disk);
            let snapshot = store.snapshot();
            if clears {
                store.clear().unwrap();
                store.keyspace("other").unwrap().clear().unwrap();
            } else {
                assert!(store.drop_keyspace("other").unwrap());
                store.clear().unwrap();
            }
            assert_eq!(store.stats().index_rebuilds, 1, "frame {frame}");
            store.compact().unwrap();
            for (key, value) in &map {
                assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(value.as_slice()), "frame {frame}");
            }
            assert_eq!(snapshot.iter().count(), map.len());
            assert_eq!(snapshot.keyspace("other").unwrap().get("a").unwrap().unwrap(), "b");
            assert!(store.is_empty());
        }
    }
    // Without a snapshot no operation needs the index.
    let disk = clean.kill();
    disk.rot_bit(&image, front + 20 * 4100 + 99, 3).unwrap();
    let store = open(&disk);
    store.clear().unwrap();
    assert_eq!(store.stats().index_rebuilds, 0);
}

/// If the log is damaged as well, the error names the log.
#[test]
fn failed_index_rebuild_returns_error_naming_the_log() {
    let disk = SimDisk::new();
    let (store, _) = filled(&disk, 400);
    assert!(store.take_checkpoint().unwrap());
    store.close().unwrap();
    let image = image_of(&disk).unwrap();
    let front = front_len(&disk, &image);
    for frame in 0..63 {
        disk.rot_bit(&image, front + frame * 4100 + 99, 3).unwrap();
    }
    let needle = value(200, 0);
    let segment = disk.files().into_iter().find_map(|name| {
        let bytes = disk.read_file(&name).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        name.ends_with(".seg").then_some((name, at as u64))
    });
    let (name, at) = segment.unwrap();
    disk.rot_bit(&name, at, 0).unwrap();
    let store = open(&disk);
    match store.get(key(6)) {
        Err(Error::Corrupt { path, .. }) => assert!(path.to_str().unwrap().ends_with(&name), "{path:?}"),
        other => panic!("{other:?}"),
    }
    // The rebuild is not tried again, and undamaged keyspaces continue to work.
    while store.step().unwrap() {}
    let reads = disk.operations()[&Operation::Read];
    for _ in 0..3 {
        assert!(store.get(key(6)).is_err());
        assert!(store.compact().is_err());
        assert!(!store.step().unwrap());
    }
    assert!(disk.operations()[&Operation::Read] < reads + 20, "{reads}");
    assert_eq!(store.stats().index_rebuilds, 0);
    store.keyspace("new").unwrap().insert("a", "b").unwrap();
    store.close().unwrap();
}

/// The next open does not use the checkpoint that was found to be damaged.
#[test]
fn first_write_drops_a_damaged_checkpoint() {
    let (disk, map, image) = closed();
    disk.rot_bit(&image, front_len(&disk, &image) + 20 * 4100 + 99, 3).unwrap();
    let store = open(&disk);
    assert_eq!(contents(&store), map);
    assert_eq!(store.stats().index_rebuilds, 1);
    store.insert("one", "more").unwrap();
    while store.step().unwrap() {}
    assert_eq!(store.stats().checkpoint_bytes, 0);
    let store = open(&disk.kill());
    let report = store.recovery_report();
    assert!(report.checkpoint_seq.is_none() && report.checkpoint_damage.is_none(), "{report:?}");
    assert_eq!(store.len(), map.len() + 1);
}

/// The number of keys at which the next insertion splits the first bucket.
const SPLITS: u32 = 19_251;

#[test]
fn damaged_block_is_rebuilt_if_growth_needs_it() {
    let directory = directory();
    let options = || Options::new().background(false);
    let store = options().open(directory.path()).unwrap();
    for number in 0..SPLITS {
        store.insert(key(number), "").unwrap();
    }
    assert!(store.take_checkpoint().unwrap());
    let spoil = |path: &Path| {
        let image = image_in(path).unwrap();
        let mut bytes = std::fs::read(&image).unwrap();
        let front = usize::try_from(u64::from_le_bytes(bytes[16..24].try_into().unwrap())).unwrap();
        // Damages the first block, which holds the first bucket.
        bytes[front + 99] ^= 8;
        std::fs::write(image, bytes).unwrap();
    };
    for number in SPLITS..SPLITS + 4 {
        // The damage is found in an open store.
        let copy = copied(directory.path());
        spoil(copy.path());
        let again = options().open(copy.path()).unwrap();
        assert!(again.recovery_report().checkpoint_seq.is_some());
        again.insert(key(number), "new").unwrap();
        assert_eq!((again.len(), again.stats().index_rebuilds), (SPLITS as usize + 1, 1));
        drop(again);
        let copy = copied(directory.path());
        spoil(copy.path());
        let again = options().open(copy.path()).unwrap();
        let mut batch = mapcask::WriteBatch::new();
        batch.insert(key(number), "new");
        again.write(batch).unwrap();
        assert_eq!((again.len(), again.stats().index_rebuilds), (SPLITS as usize + 1, 1));
    }
    // The damage is found by the open itself.
    store.insert(key(SPLITS), "new").unwrap();
    let copy = copied(directory.path());
    spoil(copy.path());
    let again = options().open(copy.path()).unwrap();
    assert!(again.recovery_report().checkpoint_damage.is_some());
    assert_eq!(again.len(), SPLITS as usize + 1);
}
