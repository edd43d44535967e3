//! Tests of the space that a closed store takes.

use super::options::Options;
use crate::config::Durability;
use crate::fs::Access;
use crate::fs::sim::SimDisk;

/// Returns the bytes that all files take on a disk.
fn allocated(disk: &SimDisk) -> u64 {
    let dir = disk.dir();
    let of =
        |name: &String| dir.open(name, Access::Read).expect("it is listed").allocated().expect("it is open");
    disk.files().iter().map(of).sum()
}

#[test]
fn close_frees_the_end_of_the_active_segment() {
    let disk = SimDisk::new();
    let options = || Options::new().segment_bytes(1 << 20).background(false);
    let store = options().open_on(&disk).expect("an empty disk");
    store.insert("a large value", vec![7; 300 << 10]).expect("space");
    assert!(allocated(&disk) > 1 << 20, "the segment is larger than the record");
    store.close().expect("sound");
    // The record, an eighth of it, and 64 KiB for all else.
    let closed = allocated(&disk);
    assert!(closed < (300 << 10) * 9 / 8 + (64 << 10), "{closed} bytes");
    // An open without a write makes no pages.
    let store = options().open_on(&disk).expect("whole");
    while store.step().expect("space") {}
    store.close().expect("sound");
    assert_eq!(allocated(&disk), closed);
    // The space can be written to again.
    let store = options().open_on(&disk).expect("whole");
    store.insert("another large value", vec![8; 600 << 10]).expect("space");
    assert_eq!(store.stats().segments, 2);
    store.close().expect("sound");
    let store = options().open_on(&disk).expect("whole");
    assert!(store.recovery_report().clean);
    assert_eq!(store.get("another large value").expect("whole").expect("it is there").len(), 600 << 10);
}

#[test]
fn close_of_a_store_of_durable_puts_keeps_its_blocks() {
    let disk = SimDisk::new();
    let options = Options::new().segment_bytes(1 << 20).background(false).durability(Durability::Disk);
    let store = options.open_on(&disk).expect("an empty disk");
    store.insert("a large value", vec![7; 300 << 10]).expect("space");
    store.close().expect("sound");
    assert!(allocated(&disk) > 1 << 20);
}
