//! Later backups to the same directory copy only what is new.

use std::sync::{Arc, mpsc};
use std::thread;

use mapcask::Options;
use mapcask::sim::SimDisk;
use parking_lot::Mutex;

use super::contents::held;
use super::{fill, open, options, restored};

/// Returns the names of the copies, with the lengths of the files.
fn copies(target: &SimDisk) -> Vec<(String, u64)> {
    let names = target.files().into_iter().filter(|name| name.ends_with(".copy"));
    names.map(|name| (name.clone(), target.read_file(&name).unwrap().len() as u64)).collect()
}

#[test]
fn a_second_backup_copies_new_segments_and_the_tail_alone() {
    let target = SimDisk::new();
    let store = open(&SimDisk::new());
    fill(&store, 0, 40, 1);
    let first = store.backup_on(&target).unwrap();
    let old = copies(&target);
    assert_eq!((first.files_copied, first.bytes_copied), (old.len(), old.iter().map(|(_, len)| len).sum()));
    assert_eq!((first.files, first.bytes), (first.files_copied, first.bytes_copied));
    assert_eq!((first.last_seq, first.files_removed), (store.last_seq().0, 0));

    fill(&store, 40, 40, 1);
    let second = store.backup_on(&target).unwrap();
    let new: Vec<_> = copies(&target).into_iter().filter(|copy| !old.contains(copy)).collect();
    assert_eq!((second.files_copied, second.bytes_copied), (new.len(), new.iter().map(|(_, len)| len).sum()));
    // The old tail and the old list are gone.
    assert_eq!((second.files, second.files_removed), (first.files - 1 + new.len(), 2));
    assert_eq!(restored(&target), held(&store));

    let third = store.backup_on(&target).unwrap();
    assert_eq!((third.files_copied, third.bytes_copied, third.files_removed), (0, 0, 0));
    assert_eq!((third.files, third.bytes), (second.files, second.bytes));
    assert_eq!(third.last_seq, store.last_seq().0);
}

#[test]
fn a_backup_drops_segments_that_compaction_has_replaced() {
    let target = SimDisk::new();
    let store = open(&SimDisk::new());
    fill(&store, 0, 40, 1);
    let first = store.backup_on(&target).unwrap();
    fill(&store, 0, 40, 2);
    store.compact().unwrap();
    let report = store.backup_on(&target).unwrap();
    assert_eq!(copies(&target).len(), report.files);
    assert_eq!(report.bytes, copies(&target).iter().map(|(_, len)| len).sum::<u64>());
    assert_eq!(report.files_removed, first.files + 1, "all segments, and the list");
    assert_eq!(restored(&target), held(&store));
}

#[test]
fn store_and_follower_continue_each_others_backups() {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let store = open(&disk);
    fill(&store, 0, 40, 1);
    let follower = Options::new().follow_on(&disk).unwrap();
    let first = store.backup_on(&target).unwrap();
    let by_follower = follower.backup_on(&target).unwrap();
    assert_eq!((by_follower.files_copied, by_follower.files), (0, first.files));
    fill(&store, 40, 20, 1);
    assert!(follower.backup_on(&target).unwrap().files_copied < first.files);
    assert_eq!(restored(&target), held(&store));
    store.close().unwrap();
    assert_eq!(follower.backup_on(&target).unwrap().files_copied, 1, "the close wrote to the tail");
    assert_eq!(restored(&target).len(), 1);
}

#[test]
fn a_read_only_store_is_backed_up_as_it_was_closed_or_killed() {
    for is_closed in [true, false] {
        let (disk, target) = (SimDisk::new(), SimDisk::new());
        let store = open(&disk);
        fill(&store, 0, 40, 1);
        store.keyspace("other").unwrap().insert("a", "1").unwrap();
        let expected = held(&store);
        let left = if is_closed {
            store.close().unwrap();
            disk
        } else {
            disk.kill()
        };
        let position = left.position();
        let store = Options::new().read_only(true).open_on(&left).unwrap();
        store.backup_on(&target).unwrap();
        assert_eq!(left.position(), position, "nothing is written to the store");
        assert_eq!(restored(&target), expected);
    }
}

#[test]
fn an_idle_store_and_a_follower_write_nothing_for_a_backup() {
    let disk = SimDisk::new();
    let store = open(&disk);
    fill(&store, 0, 40, 1);
    store.close().unwrap();
    let store = open(&disk);
    let position = disk.position();
    store.backup_on(&SimDisk::new()).unwrap();
    let follower = Options::new().follow_on(&disk).unwrap();
    follower.backup_on(&SimDisk::new()).unwrap();
    assert_eq!(disk.position(), position);
}

#[test]
fn a_backup_goes_on_after_a_close_and_removals() {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let open = || options().checkpoint_bytes(512).open_on(&disk).unwrap();
    let store = open();
    let other = store.keyspace("other").unwrap();
    for key in 0..60_u8 {
        other.insert([key], [1; 300]).unwrap();
    }
    assert!(store.take_checkpoint().unwrap());
    let expected = held(&store);
    drop(other);
    store.close().unwrap();
    // The checkpoint covers the segments, so this open maps none of them.
    let store = open();
    assert!(store.recovery_report().checkpoint_seq.is_some());
    let before = disk.files().len();
    let (also, disk_too) = (store.clone(), disk.clone());
    target.on_crash_point(move |point| {
        if point == "backup-begun" {
            // A pass of this handle would map the segments first.
            also.clone().close().unwrap();
            let next = super::open(&disk_too);
            next.drop_keyspace("other").unwrap();
            assert!(next.compact().unwrap().segments_removed > 3);
            assert!(disk_too.files().len() < before);
        }
    });
    store.backup_on(&target).unwrap();
    target.forget_hook();
    assert_eq!(restored(&target), expected);
}

#[test]
fn a_backup_waits_for_copies_that_a_pass_has_just_named() {
    let (disk, target) = (SimDisk::new(), SimDisk::new());
    let store = open(&disk);
    fill(&store, 0, 60, 1);
    fill(&store, 0, 30, 2);
    store.flush().unwrap();
    let (send, events) = mpsc::channel();
    let (events, backups) = (Mutex::new(events), Arc::new(Mutex::new(Vec::new())));
    let (also, target_too, backups_too) = (store.clone(), target.clone(), Arc::clone(&backups));
    disk.on_crash_point(move |point| match point {
        // The copies are named, and not a part of the store yet.
        "compaction-named" if backups_too.lock().is_empty() => {
            let (store, target, send) = (also.clone(), target_too.clone(), send.clone());
            backups_too.lock().push(thread::spawn(move || {
                let result = store.backup_on(&target);
                send.send("done").unwrap();
                result
            }));
            let events = events.lock();
            assert_eq!([(); 2].map(|()| events.recv().unwrap()), ["attempt"; 2]);
        }
        "moment-manifest" => send.send("attempt").unwrap(),
        _ => {}
    });
    store.compact().unwrap();
    let backup = backups.lock().pop().expect("a pass was made");
    backup.join().unwrap().unwrap();
    disk.forget_hook();
    assert_eq!(restored(&target), held(&store));
}
