//! Tests of backups: each is a state that a kill at one moment could have left, and whole at every
//! moment.

#![cfg(all(unix, feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/contents.rs"]
mod contents;
mod crashes;
mod failures;
mod histories;
mod increments;
mod load;
mod refusals;
#[path = "../support/steps.rs"]
mod steps;

use mapcask::sim::SimDisk;
use mapcask::{Options, Store};

use self::contents::{Contents, held};

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

/// Writes `count` values of 300 bytes, one for each key from `first` on.
fn fill(store: &Store, first: u8, count: u8, value: u8) {
    for key in first..first + count {
        store.insert([key], [value; 300]).unwrap();
    }
}

/// Restores a backup to a new disk, opens it, and checks that it is a whole store that goes on.
fn restored(backup: &SimDisk) -> Contents {
    let disk = SimDisk::new();
    mapcask::restore_on(backup, &disk).unwrap();
    contents_of(&disk)
}

/// Opens a restored store, and checks that it is whole and goes on.
fn contents_of(disk: &SimDisk) -> Contents {
    let store = options().create(false).open_on(disk).unwrap();
    let report = store.recovery_report();
    assert_eq!((report.quarantined_records, report.torn_bytes), (0, 0), "{report:?}");
    let found = held(&store);
    store.verify().unwrap();
    store.insert("a key of the restored store", "1").unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let store = open(disk);
    assert!(store.remove("a key of the restored store").unwrap());
    assert_eq!(held(&store), found);
    found
}
