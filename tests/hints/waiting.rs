//! Opens after a kill that write what they have found later.

use std::collections::BTreeMap;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{DamageCause, Defect, Error, Store, salvage_on};

use super::{check, disk, hint_files, killed, options, settle};

const COUNT: u32 = 2000;
/// The size of a record's header, in bytes.
const HEADER_SIZE: usize = 32;

/// Returns every file, except those that are of no use after the process.
fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let is_kept = |name: &String| !["CONTROL", "LOCK", "WAITERS"].contains(&name.as_str());
    let names = disk.files().into_iter().filter(is_kept);
    names.map(|name| (name.clone(), disk.read_file(&name).expect("it was just listed"))).collect()
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).expect("it opens")
}

fn incarnation(store: &Store) -> u64 {
    store.recovery_report().incarnation
}

fn syncs(disk: &SimDisk) -> u64 {
    let operations = disk.operations();
    [Operation::Sync, Operation::SyncDir].iter().filter_map(|operation| operations.get(operation)).sum()
}

#[test]
fn open_after_a_kill_syncs_nothing_and_keeps_the_files() {
    // With some of these a segment was made ahead.
    for count in [100].into_iter().chain((1200..6000).step_by(300)) {
        let disk = killed(&disk(), count);
        let (before, synced) = (files(&disk), syncs(&disk));
        let store = open(&disk);
        check(&store, count);
        assert!(files(&disk) == before, "{count}");
        assert_eq!(syncs(&disk), synced, "{count}");
        // Another kill leaves the next open with the same work.
        let again = open(&disk.kill());
        assert_eq!(incarnation(&again), incarnation(&store));
        check(&again, count);
    }
}

/// Each of these writes what the open has found, before its own effect.
#[test]
fn first_change_of_any_kind_completes_the_open() {
    type Change = fn(&Store) -> Result<(), Error>;
    let changes: [(&str, Change); 6] = [
        ("write", |store| store.insert("new", "value").map(drop)),
        ("keyspace", |store| store.keyspace("new").map(drop)),
        ("flush", Store::flush),
        ("step", |store| store.step().map(drop)),
        ("compaction", |store| store.compact().map(drop)),
        ("checkpoint", |store| store.take_checkpoint().map(drop)),
    ];
    for (name, change) in changes {
        let disk = killed(&disk(), COUNT);
        let store = open(&disk);
        change(&store).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = open(&disk.kill());
        assert_eq!(incarnation(&again), incarnation(&store) + 1, "{name}");
        again.remove("new").expect("there is room");
        check(&again, COUNT);
    }
}

#[test]
fn close_after_reads_alone_leaves_a_closed_store() {
    let disk = killed(&disk(), COUNT);
    let store = open(&disk);
    let before = incarnation(&store);
    store.close().expect("nothing fails here");
    let again = open(&disk);
    assert!(again.recovery_report().clean);
    assert_eq!(incarnation(&again), before + 1);
    let synced = syncs(&disk);
    check(&again, COUNT);
    assert_eq!(syncs(&disk), synced);
}

/// Returns a store that was killed after a flush, and whose last durable record was lost. It was opened
/// `opens` times, and killed before the open was completed. The control page alone tells that the record
/// was durable: the watermark behind it is lost, too.
fn without_the_last_record(opens: u32) -> SimDisk {
    const LAST: &[u8] = b"the last key";
    let disk = disk();
    let store = open(&disk);
    for number in 0_u32..100 {
        store.insert(number.to_le_bytes(), "value").expect("there is room");
    }
    store.insert(LAST, "value").expect("there is room");
    store.flush().expect("nothing fails here");
    let mut disk = disk.kill();
    for _ in 0..opens {
        let store = open(&disk);
        assert!(store.contains_key(LAST).expect("it is readable"));
        // A dropped store is closed, and the disk of the next open is one without that.
        disk = disk.kill();
    }
    let cut = files(&disk).into_iter().find_map(|(name, bytes)| {
        let at = bytes.windows(LAST.len()).position(|window| window == LAST)?;
        Some((name, bytes, at - HEADER_SIZE))
    });
    let (name, mut bytes, at) = cut.expect("the record is in a file");
    bytes[at..].fill(0);
    disk.put_file(&name, &bytes);
    disk
}

/// The page is that of the open, which the manifest does not know.
#[test]
fn open_that_waits_keeps_the_proof_of_durable_records() {
    for opens in 1..4 {
        let disk = without_the_last_record(opens);
        let refused = options().open_on(&disk).map(drop);
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{opens}: {refused:?}");
    }
}

/// Cause: the page has a later incarnation than the manifest. Symptom: salvage called the manifest
/// outdated, doubted every key, and did not tell of the lost record. Fix: an open that waits has
/// written nothing.
#[test]
fn salvage_after_an_open_that_waits_tells_of_lost_records() {
    let (before, after) = (without_the_last_record(0), without_the_last_record(1));
    let [before, after] = [before, after].map(|disk| {
        let report = salvage_on(&disk, &open(&SimDisk::new())).expect("nothing fails here");
        report.damage.iter().map(|damage| damage.cause.clone()).collect::<Vec<_>>()
    });
    let is_lost = |cause: &DamageCause| matches!(cause, DamageCause::Defect(Defect::MissingRecords { .. }));
    assert!(before.iter().any(is_lost), "{before:?}");
    assert_eq!(before, after);
}

#[test]
fn open_that_refused_hints_does_not_leave_them_to_the_next() {
    let disk = killed(&disk(), COUNT);
    disk.set_mount_id(Some(99));
    let synced = syncs(&disk);
    let store = open(&disk);
    assert!(syncs(&disk) > synced, "it does not wait");
    assert_eq!(hint_files(&disk), Vec::<String>::new());
    let again = open(&disk.kill());
    assert_eq!(incarnation(&again), incarnation(&store) + 1);
    check(&again, COUNT);
}

/// Cause: a close completed an open that waits before it looked if the store was closed. Symptom: the
/// last handle to a store whose close had failed wrote to the files of the process that opened it
/// next. Fix: it looks first.
#[test]
fn handle_of_a_closed_store_does_not_complete_the_open() {
    let disk = killed(&disk(), COUNT);
    let store = open(&disk);
    let handle = (*store).clone();
    disk.fail_nth(Some(Operation::Write), 1, Fault::Io, true);
    store.close().expect_err("the manifest cannot be written");
    disk.clear_faults();
    let other = open(&disk);
    other.insert("new", "value").expect("there is room");
    let before = (files(&disk), disk.operations());
    drop(handle);
    assert!((files(&disk), disk.operations()) == before);
    other.close().expect("nothing fails here");
    let again = open(&disk);
    assert!(again.remove("new").expect("there is room"));
    check(&again, COUNT);
}

#[test]
fn completion_that_failed_is_repeated_by_the_next_step() {
    let disk = killed(&disk(), COUNT);
    let store = open(&disk);
    disk.fail_nth(Some(Operation::Write), 1, Fault::Io, true);
    store.step().expect_err("the manifest cannot be written");
    disk.clear_faults();
    settle(&store);
    let again = open(&disk.kill());
    assert_eq!(incarnation(&again), incarnation(&store) + 1);
    check(&again, COUNT);
}

/// A store that is opened and killed again and again does not grow by large segments.
#[test]
fn open_that_waits_goes_on_in_a_small_segment() {
    let disk = killed(&disk(), COUNT);
    let store = open(&disk);
    let before = files(&disk);
    store.flush().expect("nothing fails here");
    let mut made = files(&disk);
    made.retain(|name, _| name.ends_with(".seg") && !before.contains_key(name));
    assert_eq!(made.values().map(Vec::len).collect::<Vec<_>>(), [16 << 10]);
}

#[test]
fn worker_completes_the_open() {
    let disk = killed(&disk(), COUNT);
    let store = open(&disk);
    settle(&store);
    let again = open(&disk.kill());
    assert_eq!(incarnation(&again), incarnation(&store) + 1);
    assert!(again.recovery_report().durable_seq >= u64::from(COUNT), "{:?}", again.recovery_report());
    check(&again, COUNT);
}
