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

#[test]
fn full_disk_after_a_close_is_led_out_by_removals() {
    let options = || Options::new().segment_bytes(1 << 20).background(false);
    let first = SimDisk::new();
    let store = options().open_on(&first).expect("an empty disk");
    store.insert("a large value", vec![7; 64 << 10]).expect("space");
    for key in 0..300_u32 {
        store.insert(key.to_le_bytes(), [7; 1000]).expect("space");
    }
    store.close().expect("sound");
    for spare in [0, 16 << 10, 128 << 10, 400 << 10, 1 << 20, 4 << 20] {
        let disk = first.kill();
        disk.set_capacity(Some(allocated(&disk) + spare));
        let store = options().open_on(&disk).expect("whole");
        let refused = (1000..20_000_u32).find(|key| {
            while store.step().is_ok_and(|more| more) {}
            store.insert(key.to_le_bytes(), [8; 1000]).is_err()
        });
        let refused = refused.expect("the disk gets full");
        for key in (0..300).chain(1000..refused) {
            let removed = store.remove(key.to_le_bytes());
            assert!(removed.as_ref().is_ok_and(|was_there| *was_there), "{spare} bytes: {removed:?}");
            while store.step().is_ok_and(|more| more) {}
        }
        store.remove("a large value").expect("space");
        assert_eq!(store.len(), 0);
    }
}
