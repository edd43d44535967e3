//! Tests that a store opened by a relative path stays in place when the process changes its working
//! directory, as daemons do.
//!
//! The file holds one test: the working directory belongs to the whole process.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::path::Path;

use mapcask::{Options, Store};

fn open(path: impl AsRef<Path>) -> Store {
    Options::new().segment_bytes(64 << 10).background(false).open(path).unwrap()
}

fn check(store: &Store, round: u32) {
    for number in 0..12_000_u32 {
        let value = store.get(number.to_le_bytes()).unwrap().unwrap();
        assert_eq!(&value[..], [number, round].map(u32::to_le_bytes).concat().repeat(10));
    }
}

#[test]
fn a_store_stays_where_it_was_opened() {
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let there = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::env::set_current_dir(here.path()).unwrap();
    let store = open("store");
    let write = |store: &Store, round: u32| {
        for number in 0..12_000_u32 {
            let value = [number, round].map(u32::to_le_bytes).concat().repeat(10);
            store.insert(number.to_le_bytes(), value).unwrap();
        }
    };
    write(&store, 0);
    std::env::set_current_dir(there.path()).unwrap();
    // These make segments, remove files after passes, take a checkpoint, and close.
    write(&store, 1);
    store.flush().unwrap();
    assert!(store.compact().unwrap().segments_removed > 0);
    store.verify().unwrap();
    write(&store, 2);
    store.close().unwrap();
    std::env::set_current_dir(here.path()).unwrap();
    let store = open("./store/../store");
    assert!(store.recovery_report().checkpoint_seq.is_some());
    std::env::set_current_dir(there.path()).unwrap();
    // Segments that recovery has not opened are opened now.
    check(&store, 2);
    store.close().unwrap();
    check(&open(here.path().join("store")), 2);
    assert_eq!(std::fs::read_dir(there.path()).unwrap().count(), 0);
}
