//! Hints that are damaged, of another file, or too old: an open shows the same contents with them as
//! without.

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Options, Store};

use super::{check, disk, hint_files, killed, options, settle};

const COUNT: u32 = 1500;

/// Opens a store with changed hints, and checks its contents, with searches of single keys first.
fn check_with(killed: &SimDisk, change: impl FnOnce(&SimDisk)) -> Store {
    let disk = killed.kill();
    change(&disk);
    let store = options().open_on(&disk).expect("hints are no reason to refuse");
    check(&store, COUNT);
    store.verify().expect("it is whole");
    store
}

fn hints_of(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let files = hint_files(disk).into_iter();
    let files = files.map(|name| (name.clone(), disk.read_file(&name).expect("it is there")));
    let files: Vec<_> = files.collect();
    assert!(files.len() > 1, "several segments have hints");
    files
}

#[test]
fn every_flipped_bit_of_hints_changes_nothing() {
    let killed = killed(&disk(), COUNT);
    let mut refused = 0;
    for (name, bytes) in hints_of(&killed) {
        let stride = (bytes.len() / 40).max(1);
        let front = (0..160).step_by(9);
        for at in front.chain((160..bytes.len()).step_by(stride)).filter(|at| *at < bytes.len()) {
            let store = check_with(&killed, |disk| {
                disk.rot_bit(&name, at as u64, [0, 3, 7][at % 3]).expect("a byte")
            });
            refused += u32::from(store.stats().index_rebuilds > 0);
        }
    }
    assert!(refused > 0, "some damage was found by a search only");
}

#[test]
fn every_cut_of_hints_changes_nothing() {
    let killed = killed(&disk(), COUNT);
    for (name, bytes) in hints_of(&killed) {
        let stride = (bytes.len() / 12).max(1) as u64;
        for len in (0..bytes.len() as u64).step_by(usize::try_from(stride).expect("small")) {
            check_with(&killed, |disk| disk.truncate(&name, len).expect("it is there"));
        }
    }
}

#[test]
fn hints_of_another_segment_change_nothing() {
    let killed = killed(&disk(), COUNT);
    let hints = hints_of(&killed);
    check_with(&killed, |disk| disk.put_file(&hints[0].0, &hints[1].1));
    check_with(&killed, |disk| {
        disk.put_file(&hints[0].0, &[hints[0].1.as_slice(), &hints[1].1].concat());
    });
}

#[test]
fn hints_of_another_store_change_nothing() {
    let first = killed(&disk(), COUNT);
    let other = SimDisk::with_seed(99);
    other.set_hint_chunk(Some(super::CHUNK));
    let other = killed(&other, COUNT);
    for (name, bytes) in hints_of(&other) {
        check_with(&first, |disk| disk.put_file(&name, &bytes));
    }
}

/// Cause elsewhere: a description of records that the log lost is believed.
#[test]
fn hints_behind_the_end_of_the_log_are_not_used() {
    let whole = killed(&disk(), COUNT);
    // The process was killed earlier, and the hints are those of the later moment.
    let early = killed(&disk(), COUNT / 2);
    for (name, bytes) in hints_of(&whole) {
        early.put_file(&name, &bytes);
    }
    let store = options().open_on(&early).expect("it opens");
    check(&store, COUNT / 2);
    assert!(store.insert("more", "1").is_ok() && store.flush().is_ok());
}

#[test]
fn full_disk_stops_hints_and_no_writer_notices() {
    for (operation, nth) in [(Operation::Open, 1), (Operation::Write, 1), (Operation::Write, 2)] {
        let disk = disk();
        let store = options().segment_bytes(1 << 20).open_on(&disk).expect("a new store");
        let mut number = 0;
        let mut write = |store: &Store, count: u32| {
            for _ in 0..count {
                let value = [u32::to_le_bytes(number); 25].concat();
                store.insert(super::key(number), value).expect("there is room");
                number += 1;
            }
        };
        write(&store, 800);
        settle(&store);
        let before = hint_files(&disk).len();
        write(&store, 400);
        disk.fail_nth(Some(operation), nth, Fault::NoSpace, true);
        while store.step().is_ok_and(|more| more) {}
        assert!(disk.faults_fired() > 0, "{operation:?} {nth}");
        disk.clear_faults();
        write(&store, 800);
        settle(&store);
        assert!(hint_files(&disk).len() >= before);
        let killed = disk.kill();
        drop(store);
        let store = options().open_on(&killed).expect("it opens");
        check(&store, number);
    }
}

#[test]
fn folder_in_place_of_hints_stops_them() {
    let executable = std::env::current_exe().expect("the test itself");
    let scratch = tempfile::tempdir_in(executable.parent().expect("a folder")).expect("a folder");
    let path = scratch.path().join("data");
    let open = || Options::new().background(false).open(&path).expect("it opens");
    let store = open();
    for number in 1..20 {
        std::fs::create_dir(path.join(format!("{number:010}.hint"))).expect("a free name");
    }
    for number in 0..40_000u32 {
        store.insert(super::key(number), [number.to_le_bytes(); 25].concat()).expect("there is room");
    }
    settle(&store);
    store.close().expect("it closes");
    check(&open(), 40_000);
}

/// Cause: an entry from a hint counts as verified, though no open has read its record. Symptom: a damaged
/// value. Fix: the first read verifies the record.
#[test]
fn damaged_value_is_found_by_the_first_read_of_it() {
    let killed = killed(&disk(), COUNT);
    let number = 700u32;
    let value = [number.to_le_bytes(); 25].concat();
    for name in killed.files().into_iter().filter(|name| name.ends_with(".seg")) {
        let bytes = killed.read_file(&name).expect("it is there");
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
            killed.rot_bit(&name, at as u64 + 50, 2).expect("a byte");
        }
    }
    let store = options().open_on(&killed).expect("the record is not read");
    assert!(store.recovery_report().hinted_bytes > 0);
    let found = store.get(super::key(number));
    assert!(found.as_ref().is_err_and(mapcask::Error::is_corruption), "{found:?}");
    assert!(store.get(super::key(number + 1)).expect("it is whole").is_some());
}

/// Cause: the damage of a hint that no keyspace needed any more was mended by nothing, and counted as
/// mended. Symptom: `len` and the worker tried again without end.
#[test]
fn damaged_hints_of_a_cleared_keyspace_are_let_go() {
    let killed = killed(&disk(), 3000);
    let store = options().open_on(&killed).expect("whole");
    for (name, mut bytes) in hints_of(&killed) {
        let end = bytes.len();
        bytes[end / 2..].fill(7);
        killed.put_file(&name, &bytes);
    }
    store.clear().expect("space");
    assert!((0..10_000).any(|_| !store.step().expect("space")), "the worker comes to rest");
    assert_eq!(store.len(), 0);
}
