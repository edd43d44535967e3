//! Tests that a pass works in short steps. A single thread that takes them can serve others in
//! between.

use std::time::Duration;

use mapcask::Store;
use mapcask::sim::{Fault, Operation, SimDisk};

use super::{contents, options};

/// Returns a store with many segments and hardly any live records.
fn overwritten(disk: &SimDisk) -> Store {
    let store = options().open_on(disk).unwrap();
    for round in 0..40_u8 {
        for number in 0..40_u8 {
            store.insert([number], [round; 60]).unwrap();
        }
    }
    store.flush().unwrap();
    store
}

fn unlinked(disk: &SimDisk) -> u64 {
    disk.operations().get(&Operation::Unlink).copied().unwrap_or(0)
}

#[test]
fn each_step_removes_at_most_one_victim_file() {
    let disk = SimDisk::new();
    let store = overwritten(&disk);
    let (mut removed, mut in_one_pass, mut passes) = (0, 0, 0);
    loop {
        let before = unlinked(&disk);
        let more = store.step().unwrap() || store.rest_step().unwrap();
        let now = unlinked(&disk) - before;
        assert!(now <= 1, "{now} files in one step");
        removed += now;
        let stats = store.stats().compaction;
        if stats.passes > passes {
            in_one_pass = in_one_pass.max(stats.segments_removed);
            passes = stats.passes;
        }
        if !more {
            break;
        }
    }
    let stats = store.stats().compaction;
    assert_eq!(stats.segments_removed, removed);
    assert!(in_one_pass > 1 && removed > passes, "{stats:?}");
    assert_eq!(contents(&store).len(), 40);
}

/// The limit applies to the disk, even while it holds files that are no longer needed.
#[test]
fn files_pending_removal_count_as_used() {
    let limit = 200 * 4096;
    let disk = SimDisk::new();
    let on_disk = || {
        let segments = disk.files().into_iter().filter(|name| name.ends_with(".seg"));
        segments.map(|name| disk.read_file(&name).unwrap().len() as u64).sum::<u64>()
    };
    let store = options().max_disk_bytes(limit).open_on(&disk).unwrap();
    let mut number = 0_u32;
    let mut overwrite = || {
        number += 1;
        store.insert((number % 50).to_le_bytes(), [7; 60])
    };
    while store.stats().segment_bytes + 4 * 4096 < limit {
        overwrite().unwrap();
    }
    store.flush().unwrap();
    let before = store.stats().segment_bytes;
    while store.stats().segment_bytes == before {
        assert!(store.step().unwrap() || store.rest_step().unwrap());
    }
    // The pass has not ended, because it removes its victims file by file.
    assert!(store.stats().compaction.running);
    for _ in 0..4000 {
        overwrite().unwrap();
        assert!(on_disk() <= limit, "{} bytes", on_disk());
        assert!(store.stats().segment_bytes >= on_disk().min(limit), "{:?}", store.stats());
    }
}

/// Each file in turn cannot be removed at first. The removal is tried again, and an open after a
/// kill in between completes it.
#[test]
fn victim_file_is_removed_later_if_unlink_fails_once() {
    let disk = SimDisk::new();
    let store = overwritten(&disk);
    let expected = contents(&store);
    drop(store);
    for nth in 1.. {
        let disk = disk.kill();
        let store = options().open_on(&disk).unwrap();
        // Before the first write, a store changes nothing.
        store.insert([0], [39; 60]).unwrap();
        store.flush().unwrap();
        disk.fail_nth(Some(Operation::Unlink), nth, Fault::Io, false);
        let mut failed = false;
        loop {
            match store.step().and_then(|more| if more { Ok(true) } else { store.rest_step() }) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    failed = true;
                    // An open can clean up after a process that dies here.
                    let left = options().open_on(&disk.kill()).unwrap();
                    assert_eq!(contents(&left), expected, "file {nth}");
                    left.verify().unwrap();
                }
            }
        }
        assert_eq!(contents(&store), expected, "file {nth}");
        let named = store.stats().segments;
        let files = disk.files().iter().filter(|name| name.ends_with(".seg")).count();
        assert_eq!(files, named, "file {nth}: none is left over");
        if !failed {
            assert!(
                nth > 5,
                "as many as there were victims: {nth}, {named} segments, {:?}",
                store.stats().compaction
            );
            break;
        }
    }
}

/// Runs by the store's clock, which the test moves. While it stands still, the pass pauses.
#[test]
fn background_compaction_keeps_its_bytes_per_second_limit() {
    const LIMIT: u64 = 50_000;
    let disk = SimDisk::new();
    let store = options().compaction_bytes_per_second(LIMIT).open_on(&disk).unwrap();
    // Something in every segment stays live.
    for number in 0..3000_u32 {
        store.insert(number.to_le_bytes(), [1; 60]).unwrap();
        store.insert("over", number.to_le_bytes().repeat(100)).unwrap();
    }
    store.flush().unwrap();
    let expected = contents(&store);
    let rest = || while store.step().unwrap() {};
    rest();
    assert!(store.stats().compaction.running, "begun, and waiting: {:?}", store.stats());
    let mut seconds = 0;
    while store.stats().compaction.passes == 0 {
        rest();
        disk.advance_clock(Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 1000, "it goes on when it may");
    }
    // The bytes of a step are charged afterwards: a victim of one page, and its copy.
    let moved = store.stats().compaction.bytes_moved;
    assert!(moved > 0 && seconds * LIMIT + 2 * 4096 >= moved, "{moved} bytes in {seconds} s");
    assert!(seconds > 1);
    assert_eq!(contents(&store), expected);
}
