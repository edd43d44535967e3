//! Tests that an interrupted write of a large value leaves nothing of it, and the store continues.
//!
//! One call writes a large value to its place before its record exists. That call may fail or end
//! in the middle.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use mapcask::sim::{Fault, Operation, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Result, Store};

/// The size of a value that is written by a call of its own.
const LARGE: usize = 70_000;

fn open(disk: &SimDisk, durability: Durability) -> Result<Store> {
    Options::new().durability(durability).background(false).segment_bytes(256 << 10).open_on(disk)
}

fn count(disk: &SimDisk, operation: Operation) -> u64 {
    disk.operations().get(&operation).copied().unwrap_or(0)
}

/// The content of a store: a key, a byte, and its number of repetitions in the value.
type Content = [(&'static str, u8, usize)];

fn check(store: &Store, content: &Content, place: &str) {
    assert_eq!(store.len(), content.len(), "{place}: number of keys");
    for (key, byte, len) in content {
        let found = store.get(key).unwrap();
        let found = found.as_deref().unwrap_or_else(|| panic!("{place}: {key} is missing"));
        assert!(found.len() == *len && found.iter().all(|other| other == byte), "{place}: {key}");
    }
    store.verify().unwrap();
}

/// Lets one operation fail once while a large value is stored. Returns true if the fault fired.
fn fails_once(durability: Durability, operation: Operation, nth: u64, fault: Fault) -> bool {
    let place = format!("{durability:?}, {operation:?} {nth}, {fault:?}");
    let disk = SimDisk::new();
    let store = open(&disk, durability).unwrap();
    store.insert("small", [1; 100]).unwrap();
    disk.fail_nth(Some(operation), nth, fault, false);
    let result = store.insert("large", vec![2; LARGE]);
    let met = disk.faults_fired() > 0;
    disk.clear_faults();
    if matches!(result, Err(Error::Poisoned { .. })) {
        // A failed sync ends writing, as ever; the acknowledged key stays.
        check(&open(&disk.kill(), durability).unwrap(), &[("small", 1, 100)], &place);
        return met;
    }
    if result.is_err() {
        check(&store, &[("small", 1, 100)], &place);
    }
    // A shorter value ends before the bytes that the failed call may have left.
    store.insert("large", vec![3; LARGE - 5000]).unwrap();
    store.insert("after", [4; 10]).unwrap();
    let content: &Content = &[("small", 1, 100), ("large", 3, LARGE - 5000), ("after", 4, 10)];
    check(&store, content, &place);
    let killed = open(&disk.kill(), durability).unwrap();
    check(&killed, content, &place);
    assert_eq!(killed.recovery_report().quarantined_records, 0, "{place}");
    store.flush().unwrap();
    let cut = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(nth));
    check(&open(&cut, durability).unwrap(), content, &place);
    met
}

#[test]
fn a_failed_write_of_a_large_value_leaves_nothing() {
    let mut met = 0;
    for durability in [Durability::Os, Durability::Disk] {
        for operation in [Operation::Write, Operation::Allocate, Operation::Populate] {
            for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
                let mut nth = 1;
                while fails_once(durability, operation, nth, fault) {
                    nth += 1;
                }
                met += nth - 1;
            }
        }
    }
    assert!(met > 20, "only {met} failures were met");
}

/// The bytes that a failed call left must not follow the next record: a kill would show a torn
/// write there.
#[test]
fn small_record_does_not_precede_a_part_of_a_large_value() {
    let mut met = 0;
    for nth in 1.. {
        let disk = SimDisk::new();
        let store = open(&disk, Durability::Os).unwrap();
        store.insert("small", [1; 100]).unwrap();
        store.insert("large", vec![2; LARGE]).unwrap();
        disk.fail_nth(Some(Operation::Write), nth, Fault::Short, false);
        let result = store.insert("other", vec![3; LARGE]);
        if disk.faults_fired() == 0 {
            break;
        }
        met += u32::from(result.is_err());
        disk.clear_faults();
        store.insert("after", [4; 10]).unwrap();
        let store = open(&disk.kill(), Durability::Os).unwrap();
        let report = store.recovery_report();
        assert_eq!(report.torn_bytes, 0, "write {nth}: {result:?}");
        assert!(store.contains_key("after").unwrap());
    }
    assert!(met > 0, "no write failed");
}

/// Until a store that was closed says that it is open, it may hold no new record.
#[test]
fn first_large_value_after_a_clean_open_survives_a_kill() {
    for before in 0..8 {
        let disk = SimDisk::new();
        let store = open(&disk, Durability::Os).unwrap();
        for number in 0..before {
            store.insert([number], vec![number; 40_000]).unwrap();
        }
        store.close().unwrap();
        let store = open(&disk, Durability::Os).unwrap();
        store.insert("large", vec![2; LARGE]).unwrap();
        let killed = open(&disk.kill(), Durability::Os);
        let killed = killed.unwrap_or_else(|error| panic!("behind {before} values: {error}"));
        assert_eq!(killed.get("large").unwrap().unwrap(), vec![2; LARGE]);
    }
}

#[test]
fn a_large_value_is_there_as_a_whole_or_not_at_all() {
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Os).unwrap();
    store.insert("small", [1; 100]).unwrap();
    store.flush().unwrap();
    let before = disk.position();
    store.insert("large", vec![2; LARGE]).unwrap();
    store.flush().unwrap();
    let (mut without, mut with) = (0, 0);
    for position in disk.positions().into_iter().filter(|position| *position >= before) {
        for seed in 0..2 {
            let cut = disk.crash_at(position, Tears::Any, &mut Seeded::new(seed));
            let store = open(&cut, Durability::Os).unwrap();
            let place = format!("{position:?}, seed {seed}");
            if store.contains_key("large").unwrap() {
                with += 1;
                check(&store, &[("small", 1, 100), ("large", 2, LARGE)], &place);
            } else {
                without += 1;
                check(&store, &[("small", 1, 100)], &place);
            }
        }
    }
    assert!(without > 0 && with > 0, "{without} without the value, {with} with it");
}

#[test]
fn the_pages_of_large_values_are_written_once() {
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Os).unwrap();
    let (mut writes, mut second) = (0, 0);
    let before = disk.history().iter().filter(|event| event.starts_with("Page(")).count();
    for number in 0..40_u32 {
        let (before, segments) = (count(&disk, Operation::Write), store.stats().segments);
        store.insert(number.to_le_bytes(), vec![5; LARGE]).unwrap();
        if store.stats().segments == segments {
            // A second call makes the next page, if the value ends just before it.
            let calls = count(&disk, Operation::Write) - before;
            second += calls - 1;
            writes += 1;
        }
    }
    assert!(writes >= 20, "most values need no new segment: {writes}");
    assert!(second <= writes / 8, "{second} of {writes} values took a second call");
    let pages = disk.history().iter().filter(|event| event.starts_with("Page(")).count() - before;
    // Beside the value: its first and its last page, a header twice, and a share of a new segment.
    let most = 40 * (LARGE.div_ceil(4096) + 6);
    assert!(pages < most, "{pages} pages were written for 40 values, and {most} are too many");
}

/// A writer of large values fills a segment faster than one is made.
#[test]
fn next_segment_is_made_at_once_for_large_values() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    store.insert("small", [1; 1000]).unwrap();
    while store.step().unwrap() {}
    assert_eq!(store.stats().ready_segments, 0);
    store.insert("large", vec![2; LARGE]).unwrap();
    while store.step().unwrap() {}
    assert_eq!(store.stats().ready_segments, 1);
}

#[test]
fn large_values_need_few_segments_from_the_start() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    let syncs = || count(&disk, Operation::Sync) + count(&disk, Operation::SyncDir);
    let before = syncs();
    for number in 0..100_u32 {
        store.insert(number.to_le_bytes(), vec![5; 300 << 10]).unwrap();
    }
    // The first has 16 KiB, the others 4.7 MiB, 19 MiB and 64 MiB.
    assert_eq!(store.stats().segments, 4);
    assert!(syncs() - before <= 20, "{} syncs", syncs() - before);
}

/// Cause: space for several more such values was requested, whatever was free. Symptom: on a small
/// disk the first large value found no space.
#[test]
fn large_value_needs_no_more_than_its_own_space() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(3 << 20));
    let store = Options::new().background(false).open_on(&disk).unwrap();
    for number in 0..4_u32 {
        store.insert(number.to_le_bytes(), vec![5; 300 << 10]).unwrap();
    }
    assert_eq!(store.len(), 4);
}

/// A segment for smaller values is preallocated already, and stays first in the queue.
#[test]
fn next_large_value_finds_a_segment_made_ahead() {
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Os).unwrap();
    while store.stats().ready_segments == 0 {
        store.insert("small", [1; 1000]).unwrap();
        while store.step().unwrap() {}
    }
    // It fits into no segment that the size schedule makes.
    store.insert("large", vec![2; 300 << 10]).unwrap();
    while store.step().unwrap() {}
    let before = store.stats();
    store.insert("larger", vec![3; 300 << 10]).unwrap();
    let after = store.stats();
    assert_eq!((after.segments, after.stalls), (before.segments, before.stalls), "{after:?}");
}
