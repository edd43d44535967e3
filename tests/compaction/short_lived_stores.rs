//! Tests that neither short-lived stores nor stores that become empty grow.

#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use mapcask::sim::{Fault, Operation, Script, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Store};

const SEGMENT: u64 = 4096;
const MOST_FILES: usize = 24;
const MOST_BYTES: u64 = 100_000;

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT).background(false)
}

/// Returns the number of files, and their total length.
fn holdings(disk: &SimDisk) -> (usize, u64) {
    let files = disk.files();
    let bytes = files.iter().map(|name| disk.read_file(name).unwrap().len() as u64).sum();
    (files.len(), bytes)
}

fn rest(disk: &SimDisk, store: &Store) {
    loop {
        disk.advance_clock(Duration::from_millis(10));
        if !store.step().unwrap() && !store.rest_step().unwrap() {
            return;
        }
    }
}

#[test]
fn store_does_not_grow_if_opened_and_killed_often() {
    for writes in [false, true] {
        let mut disk = SimDisk::new();
        let mut most = (0, 0);
        for n in 0..1000_u32 {
            let store = options().open_on(&disk).unwrap();
            if let Some(before) = n.checked_sub(1).filter(|_| writes) {
                let found = store.get("key").unwrap();
                assert_eq!(found.as_deref(), Some(&before.to_le_bytes()[..]));
            }
            if writes {
                store.insert("key", n.to_le_bytes()).unwrap();
            }
            disk = disk.kill();
            let (files, bytes) = holdings(&disk);
            most = (most.0.max(files), most.1.max(bytes));
        }
        println!("with writes: {writes}, at most {most:?}");
        // The lock, the control page and two manifests. Also the segments that wait for
        // maintenance, those that an open has just merged or removed, the active one, and a
        // preallocated one.
        assert!(most.0 <= MOST_FILES && most.1 <= MOST_BYTES, "{most:?}");
    }
}

#[cfg(unix)]
#[test]
fn empty_store_and_one_key_store_take_exactly_32_kib() {
    for durability in [Durability::Os, Durability::Disk] {
        let (simulated, directory) = (SimDisk::new(), super::directory());
        let options = Options::new().background(false).durability(durability);
        let stores =
            [options.clone().open_on(&simulated).unwrap(), options.clone().open(directory.path()).unwrap()];
        let check = |what: &str| {
            for store in &stores {
                while store.step().unwrap() || store.rest_step().unwrap() {}
                assert_eq!(store.stats().segment_bytes, 16 << 10, "{what}");
            }
            // The lock, the control and waiters pages, two manifests and the segment.
            assert_eq!(holdings(&simulated).0, 6, "{what}: {:?}", simulated.files());
            assert_eq!(stores[0].size_on_disk().unwrap(), 32 << 10, "{what}");
            // A file system may store short files elsewhere or use larger blocks, so each is
            // compared with its own figures.
            let entries = std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap);
            let files = entries.map(|entry| (entry.file_name(), entry.metadata().unwrap()));
            let (waiters, files): (Vec<_>, Vec<_>) = files.partition(|(name, _)| name == "WAITERS");
            // No follower waits, so the page is a hole.
            assert_eq!((waiters.len(), waiters[0].1.blocks()), (1, 0), "{what}");
            let blocks: u64 = files.iter().map(|(_, file)| file.blocks() * 512).sum();
            let sizes: u64 = files.iter().map(|(_, file)| file.len().next_multiple_of(4096)).sum();
            assert_eq!((files.len(), sizes), (5, 32 << 10), "{what}");
            assert_eq!(stores[1].size_on_disk().unwrap(), blocks, "{what}");
        };
        check("empty");
        for store in &stores {
            store.insert("key", "value").unwrap();
        }
        check("a key");
        stores.iter().for_each(|store| store.flush().unwrap());
        check("a key on the disk");
        for store in &stores {
            assert!(store.remove("key").unwrap());
            assert_eq!(store.len(), 0);
        }
        check("empty again");
        for store in stores {
            store.close().unwrap();
        }
        let stores = [options.clone().open_on(&simulated).unwrap(), options.open(directory.path()).unwrap()];
        for store in stores {
            assert_eq!(store.stats().segment_bytes, 16 << 10, "after an open");
        }
    }
}

#[test]
fn store_shrinks_to_empty_size_if_everything_is_removed() {
    let empty = SimDisk::new();
    let store = options().open_on(&empty).unwrap();
    rest(&empty, &store);
    let (empty_files, empty_bytes) = holdings(&empty);
    for way in 0..3 {
        let disk = SimDisk::new();
        let store = options().segment_bytes(16 * SEGMENT).open_on(&disk).unwrap();
        let keyspace = store.keyspace("keyspace").unwrap();
        for n in 0..4000_u32 {
            store.insert(n.to_le_bytes(), [7; 100]).unwrap();
            keyspace.insert(n.to_le_bytes(), [7; 10]).unwrap();
        }
        rest(&disk, &store);
        assert!(holdings(&disk).1 > 20 * 16 * SEGMENT / 2);
        match way {
            0 => (0..4000_u32).for_each(|n| {
                assert!(store.remove(n.to_le_bytes()).unwrap());
                assert!(keyspace.remove(n.to_le_bytes()).unwrap());
            }),
            1 => {
                store.clear().unwrap();
                keyspace.clear().unwrap();
            }
            _ => {
                store.clear().unwrap();
                assert!(store.drop_keyspace("keyspace").unwrap());
            }
        }
        rest(&disk, &store);
        let (files, bytes) = holdings(&disk);
        println!("way {way}: {files} files, {bytes} bytes; an empty store {empty_files}, {empty_bytes}");
        assert_eq!(files, empty_files, "way {way}: {:?}", disk.files());
        // The active segment has the smallest size of these options. A manifest keeps its length.
        let least = empty_bytes + 3 * SEGMENT;
        assert!((least..least + SEGMENT).contains(&bytes), "way {way}: {bytes}, empty {empty_bytes}");
        assert_eq!(store.stats().keys, 0);
    }
}

/// Returns a store that was emptied, with a segment made ahead. Its rest steps give that up.
fn outgrown() -> (SimDisk, Store) {
    let disk = SimDisk::new();
    let store = options().segment_bytes(16 * SEGMENT).open_on(&disk).unwrap();
    let mut count = 0_u32;
    // The next segment is made once the active one is half full.
    while count < 500 || store.stats().ready_segments == 0 {
        store.insert(count.to_le_bytes(), [7; 500]).unwrap();
        while store.step().unwrap() {}
        count += 1;
    }
    store.clear().unwrap();
    assert!(store.stats().ready_segments > 0);
    (disk, store)
}

#[test]
fn crash_while_segments_are_given_up_leaves_a_whole_store() {
    let (disk, store) = outgrown();
    disk.forget_history();
    rest(&disk, &store);
    assert_eq!(store.stats().ready_segments, 0);
    for at in disk.positions() {
        let point = disk.crash_point(at, Tears::None);
        for (end, after) in [
            ("a kill", point.kill()),
            ("a cut that loses all", point.cut_power(&mut Script::new([]))),
            ("a cut that keeps all", point.cut_power(&mut Script::new([1; 256]))),
        ] {
            let store = options().open_on(&after).unwrap_or_else(|error| panic!("{end} at {at:?}: {error}"));
            store.verify().unwrap();
        }
    }
}

#[test]
fn segments_that_cannot_be_given_up_stay_available() {
    let (disk, store) = outgrown();
    // The first write of a step at rest is that of the manifest, which retires them.
    while store.step().unwrap() {}
    let before = store.stats().ready_segments;
    disk.fail_nth(Some(Operation::Write), 1, Fault::NoSpace, false);
    let refused = store.rest_step().unwrap_err();
    assert!(matches!(&refused, Error::NoSpace { path, .. } if path.ends_with("MANIFEST.0")), "{refused}");
    assert!(before > 0);
    assert_eq!(store.stats().ready_segments, before);
    rest(&disk, &store);
    // The lock, the control and waiters pages, two manifests and the active segment.
    assert_eq!(holdings(&disk).0, 6, "{:?}", disk.files());
}
