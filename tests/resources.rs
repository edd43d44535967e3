//! Tests resources that run out while segments are made, and the sizes of segments.
//!
//! A failure leaves no file behind, and files stay few.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::path::Path;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Options, Resource, Store};

const PAGE: u64 = 4096;

fn open(disk: &SimDisk) -> Store {
    Options::new().background(false).segment_bytes(4 * PAGE).open_on(disk).unwrap()
}

/// Returns the number of segment files, finished or not, and their total size.
fn segments(disk: &SimDisk) -> (usize, u64) {
    let names: Vec<_> = disk.files().into_iter().filter(|name| name.contains(".seg")).collect();
    (names.len(), names.iter().map(|name| disk.read_file(name).unwrap().len() as u64).sum())
}

/// Inserts until it fails, and returns the refused key and the error.
fn fill(store: &Store, from: u32) -> (u32, Error) {
    for key in from..from + 1000 {
        if let Err(error) = store.insert(key.to_le_bytes(), [7; 1000]) {
            return (key, error);
        }
    }
    panic!("nothing failed")
}

/// Cause: a segment's file kept its name when something failed after the naming, and each new
/// attempt made another file. Symptom: gigabytes that no limit counted, and a store that lacked the
/// descriptors to open. Fix: the file is removed. Where that fails too, it is counted, and removed
/// before another one is made.
#[test]
fn a_segment_that_cannot_be_made_leaves_no_file_however_often() {
    for (operation, with_unlink) in
        [Operation::Map, Operation::Rename, Operation::Allocate, Operation::Create]
            .into_iter()
            .flat_map(|operation| [(operation, false), (operation, true)])
    {
        let place = format!("{operation:?}, removal fails: {with_unlink}");
        let disk = SimDisk::new();
        let store = open(&disk);
        store.insert(0_u32.to_le_bytes(), [7; 1000]).unwrap();
        let before = segments(&disk);
        disk.fail_nth(Some(operation), 1, Fault::Io, true);
        if with_unlink {
            disk.fail_nth(Some(Operation::Unlink), 1, Fault::Io, true);
        }
        let (mut next, mut tries) = (1, 0);
        while tries < 50 {
            let (refused, error) = fill(&store, next);
            assert!(matches!(error, Error::Io { .. }), "{place}: {error:?}");
            (next, tries) = (refused, tries + 1);
        }
        let (count, size) = segments(&disk);
        assert!(count <= before.0 + usize::from(with_unlink), "{place}: {:?}", disk.files());
        // A file that cannot be removed counts with its intended size.
        let most = size + u64::from(with_unlink) * 4 * PAGE;
        assert!((size..=most).contains(&store.stats().segment_bytes), "{place}: {size}");
        disk.clear_faults();
        for key in next..next + 50 {
            store.insert(key.to_le_bytes(), [7; 1000]).unwrap();
        }
        assert_eq!(store.stats().segment_bytes, segments(&disk).1, "{place}");
        store.close().unwrap();
        let store = open(&disk);
        assert_eq!(store.len(), next as usize + 50, "{place}");
        assert_eq!(store.stats().segment_bytes, segments(&disk).1, "{place}");
    }
}

#[test]
fn a_store_without_descriptors_reads_removes_and_leaves_no_file() {
    // No descriptor is left for the file of a segment, or none for the sync of the directory after
    // it.
    for left in 0..2 {
        let disk = SimDisk::new();
        let store = open(&disk);
        store.insert(0_u32.to_le_bytes(), [7; 1000]).unwrap();
        disk.set_limit(Resource::Descriptors, Some(disk.open_files() + left));
        let (mut next, _) = fill(&store, 1);
        let before = segments(&disk).0;
        for _ in 0..50 {
            let (refused, error) = fill(&store, next);
            next = refused;
            assert!(matches!(error, Error::Exhausted { resource: Resource::Descriptors, .. }), "{error:?}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        assert_eq!(segments(&disk).0, before, "{:?}", disk.files());
        assert_eq!(store.stats().segment_bytes, segments(&disk).1);
        for key in 0..next {
            assert_eq!(store.get(key.to_le_bytes()).unwrap().as_deref(), Some(&[7; 1000][..]));
        }
        assert!(store.remove(0_u32.to_le_bytes()).unwrap(), "a removal has its room in the segment");
        disk.clear_faults();
        store.insert(next.to_le_bytes(), [7; 1000]).unwrap();
        store.close().unwrap();
        assert_eq!(open(&disk).len(), next as usize);
    }
}

/// Cause: a full segment keeps its descriptor until it is durable, and without a free descriptor
/// nothing made it durable. Fix: the refused write syncs one.
#[test]
fn full_segments_give_descriptors_back_to_a_write() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert(0_u32.to_le_bytes(), [7; 1000]).unwrap();
    disk.set_limit(Resource::Descriptors, Some(disk.open_files() + 3));
    for key in 1..300_u32 {
        store.insert(key.to_le_bytes(), [7; 1000]).unwrap();
    }
    store.close().unwrap();
    assert_eq!(open(&disk).len(), 300);
}

/// Cause: only bytes were reserved for removals and passes. Symptom: without an inode there was no
/// file for the copies of a pass, so neither removals nor a compaction freed space. Fix: insertions
/// leave files, too, and a pass turns many files into fewer.
#[test]
fn a_store_without_files_is_led_out_by_removals_and_compaction() {
    // With fewer files than are reserved, the store cannot free space.
    for more in 5..12 {
        let disk = SimDisk::new();
        let store = open(&disk);
        store.insert(0_u32.to_le_bytes(), [7; 1000]).unwrap();
        let most = disk.files().len() as u64 + more;
        disk.set_limit(Resource::Files, Some(most));
        let (mut next, mut kept) = (1, 1);
        for _ in 0..50 {
            let (refused, error) = fill(&store, next);
            (kept, next) = (kept + refused - next, refused + 1);
            assert!(matches!(error, Error::Exhausted { resource: Resource::Files, .. }), "{more}: {error:?}");
        }
        assert_eq!(store.len(), kept as usize);
        // After a kill the store opens without one more file.
        let disk = disk.kill();
        disk.set_limit(Resource::Files, Some(most));
        let store = open(&disk);
        assert_eq!(store.len(), kept as usize);
        for key in (0..next).filter(|key| !key.is_multiple_of(4)) {
            store
                .remove(key.to_le_bytes())
                .unwrap_or_else(|error| panic!("{more}: removal of {key}: {error:?}"));
        }
        store.compact().unwrap_or_else(|error| panic!("{more}: compaction: {error:?}"));
        store.insert("new", "value").unwrap_or_else(|error| panic!("{more}: {error:?}"));
        assert_eq!(store.stats().segment_bytes, segments(&disk).1, "{more}");
        store.close().unwrap();
        assert!(disk.files().len() as u64 <= most);
    }
}

#[test]
fn file_size_limit_shrinks_segments_and_refuses_larger_values() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).segment_bytes(64 * PAGE).open_on(&disk).unwrap();
    disk.set_limit(Resource::FileSize, Some(9 * PAGE));
    for key in 0..500_u32 {
        store.insert(key.to_le_bytes(), [7; 1000]).unwrap();
    }
    let error = store.insert("large", vec![7; 9 * 4096]).unwrap_err();
    assert!(matches!(error, Error::Exhausted { resource: Resource::FileSize, .. }), "{error:?}");
    assert!(error.to_string().contains("ulimit -f"), "{error}");
    store.insert("small", "enough").unwrap();
    disk.clear_faults();
    store.insert("large", vec![7; 9 * 4096]).unwrap();
    assert_eq!(store.stats().segment_bytes, segments(&disk).1);
    store.close().unwrap();
    assert_eq!(open(&disk).len(), 502);
}

/// Returns the greatest segment number that was ever used.
fn segments_made(directory: &Path) -> u64 {
    let names =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).max().unwrap()
}

/// Cause: a segment for one large value did not advance the schedule of sizes. Symptom: each value
/// larger than the second segment had its own file and ten syncs, and compaction merged all of
/// them. Fix: the schedule follows the sizes of the values.
#[test]
fn files_are_few_whatever_the_size_of_values() {
    const SEGMENT: u64 = 4 << 20;
    const K: usize = 1 << 10;
    let mixes: [(&[usize], usize); 6] = [
        (&[100], 8 << 20),
        (&[4 * K], 32 << 20),
        (&[300 * K], 96 << 20),
        (&[1 << 20], 96 << 20),
        (&[5 << 20], 96 << 20),
        (&[100, 300 * K, 4 * K, 1 << 20, 100, 2 << 20], 96 << 20),
    ];
    for (sizes, total) in mixes {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = Options::new().segment_bytes(SEGMENT).background(false);
        let store = options.open(directory.path().join("store")).unwrap();
        let (mut written, mut key) = (0, 0_u64);
        while written < total {
            let len = sizes[usize::try_from(key).unwrap() % sizes.len()];
            store.insert(key.to_le_bytes(), vec![7; len]).unwrap();
            (written, key) = (written + len, key + 1);
            if key.is_multiple_of(16) {
                while store.step().unwrap() {}
            }
        }
        while store.step().unwrap() || store.rest_step().unwrap() {}
        let stats = store.stats();
        let (made, most) = (segments_made(&directory.path().join("store")), 16 + 2 * total as u64 / SEGMENT);
        assert!(made <= most, "{sizes:?}: {made} files were made, {most} are enough");
        assert!(stats.segments as u64 <= 64 + stats.segment_bytes / SEGMENT, "{sizes:?}: {stats:?}");
        assert_eq!(stats.compaction.bytes_moved, 0, "{sizes:?}: nothing is dead");
    }
}

/// Cause: a pass made one file of `segment_bytes`. Symptom: under a limit that was lowered since,
/// each compaction failed. Fix: a pass makes smaller files, as the log does.
#[test]
fn a_compaction_makes_files_as_large_as_they_may_be() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).segment_bytes(64 * PAGE).open_on(&disk).unwrap();
    for round in 0..4_u8 {
        for key in 0..100_u32 {
            store.insert(key.to_le_bytes(), [round; 1500]).unwrap();
        }
    }
    for key in (0..100_u32).filter(|key| key % 2 == 0) {
        store.remove(key.to_le_bytes()).unwrap();
    }
    store.flush().unwrap();
    let before = store.stats().segment_bytes;
    disk.set_limit(Resource::FileSize, Some(9 * PAGE));
    store.compact().unwrap();
    assert!(store.stats().segment_bytes < before, "{} and before {before}", store.stats().segment_bytes);
    let kept = (0..100_u32).filter(|key| store.get(key.to_le_bytes()).unwrap().is_some()).count();
    assert_eq!(kept, 50);
    store.verify().unwrap();
}
