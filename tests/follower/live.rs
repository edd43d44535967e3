//! A follower beside a live writer, one feature at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Error, Options, WriteBatch, WriterStatus};

use super::contents::{held, map_of, shown};
use super::{assert_same, brief, follow, open, options};

#[test]
fn follower_shows_each_write_after_a_refresh_and_none_before() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    assert_eq!(follower.get("a").unwrap().as_deref(), Some(b"1".as_slice()));
    store.insert("a", "2").unwrap();
    store.insert("b", "3").unwrap();
    assert_eq!(follower.get("a").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(follower.len(), 1);
    assert_same(&follower, &store);
    store.remove("a").unwrap();
    assert_same(&follower, &store);
    let refreshed = follower.refresh().unwrap();
    assert_eq!((refreshed.records, refreshed.jumped), (0, false));
}

#[test]
fn follower_shows_batches_and_keyspace_changes() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    let users = store.keyspace("users").unwrap();
    let mut batch = WriteBatch::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        batch.insert(key, value);
    }
    batch.remove("b");
    batch.remove("none");
    batch.on(&users).insert("anna", "admin");
    store.write(&batch).unwrap();
    assert_same(&follower, &store);
    let read = follower.keyspace("users").unwrap();
    assert!(read.contains_key("anna").unwrap());
    users.clear().unwrap();
    assert_same(&follower, &store);
    assert!(read.is_empty());
    users.insert("bert", "guest").unwrap();
    store.rename_keyspace("users", "people").unwrap();
    assert_same(&follower, &store);
    assert_eq!((read.name().as_str(), read.len()), ("people", 1));
    store.drop_keyspace("people").unwrap();
    assert_same(&follower, &store);
    assert!(matches!(read.get("bert"), Err(Error::KeyspaceDropped { .. })));
    assert!(matches!(follower.keyspace("people"), Err(Error::KeyspaceNotFound { .. })));
}

#[test]
fn follower_goes_through_rolls_and_passes() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    for round in 0..20 {
        for key in 0..40 {
            store.insert(format!("{key}"), format!("{round} {}", "x".repeat(key))).unwrap();
        }
        store.remove(format!("{}", round * 2)).unwrap();
        assert_same(&follower, &store);
        store.compact().unwrap();
        assert!(!follower.refresh().unwrap().jumped);
        assert_same(&follower, &store);
    }
    let (theirs, ours) = (store.stats(), follower.stats());
    assert_eq!(ours.segments, theirs.segments, "it lets go of what compaction has replaced");
    assert_eq!(ours.keys, theirs.keys);
    follower.verify().unwrap();
}

/// Cause: only a writer's passes counted the segment files. Symptom: `Stats::segment_bytes` of a
/// follower was that of its open. Fix: a refresh that reads the manifest counts them.
#[test]
fn follower_counts_the_bytes_that_the_writer_counts() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    let of = |stats: mapcask::Stats| (stats.segment_bytes, stats.live_bytes, stats.dead_bytes);
    for round in 0..10 {
        for key in 0..40 {
            store.insert(format!("{key}"), format!("{round} {}", "x".repeat(key))).unwrap();
        }
        follower.refresh().unwrap();
        assert_eq!(of(follower.stats()), of(store.stats()), "round {round}, before the pass");
        store.compact().unwrap();
        follower.refresh().unwrap();
        assert_eq!(of(follower.stats()), of(store.stats()), "round {round}, after the pass");
    }
}

#[test]
fn refresh_tells_the_writes_and_bytes_that_it_applied() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    let log_bytes = || follower.stats().live_bytes + follower.stats().dead_bytes;
    let before = log_bytes();
    let mut batch = WriteBatch::new();
    batch.insert("a", "2");
    batch.remove("b");
    store.write(&batch).unwrap();
    let last = store.remove("a").unwrap().then(|| store.last_seq());
    let refreshed = follower.refresh().unwrap();
    assert_eq!((refreshed.records, refreshed.writes), (4, 3), "one is the header of the batch");
    assert_eq!((refreshed.bytes, refreshed.last_write), (log_bytes() - before, last));
    store.flush().unwrap();
    let refreshed = follower.refresh().unwrap();
    assert_eq!((refreshed.records, refreshed.writes, refreshed.last_write), (1, 0, None), "a watermark");
    store.keyspace("users").unwrap().insert("anna", "admin").unwrap();
    store.keyspace("users").unwrap().clear().unwrap();
    store.drop_keyspace("users").unwrap();
    let refreshed = follower.refresh().unwrap();
    assert_eq!((refreshed.writes, refreshed.last_write), (1, Some(store.last_seq())));
    assert_eq!(store.stats().live_bytes + store.stats().dead_bytes, log_bytes());
}

#[test]
fn follower_jumps_over_a_gap_and_keeps_its_readers() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let (kept, gone) = (store.keyspace("kept").unwrap(), store.keyspace("gone").unwrap());
    kept.insert("a", "1").unwrap();
    gone.insert("a", "1").unwrap();
    let follower = follow(&disk);
    let (read_kept, read_gone) = (follower.keyspace("kept").unwrap(), follower.keyspace("gone").unwrap());
    let snapshot = follower.snapshot();
    store.drop_keyspace("gone").unwrap();
    kept.clear().unwrap();
    let new = store.keyspace("new").unwrap();
    for round in 0..200 {
        kept.insert("b", format!("{round}")).unwrap();
        new.insert(format!("{}", round % 7), "x".repeat(100)).unwrap();
    }
    store.compact().unwrap();
    store.compact().unwrap();
    assert!(follower.refresh().unwrap().jumped);
    assert_same(&follower, &store);
    assert_eq!(map_of(&read_kept).len(), 1);
    assert!(matches!(read_gone.get("a"), Err(Error::KeyspaceDropped { .. })));
    let seen = snapshot.keyspace("kept").unwrap().get("a").unwrap();
    assert_eq!(seen.as_deref(), Some(b"1".as_slice()), "a snapshot is not changed by a jump");
    store.insert("z", "1").unwrap();
    assert!(!follower.refresh().unwrap().jumped);
    assert_same(&follower, &store);
}

#[test]
fn follower_goes_through_a_close_and_a_kill_of_the_writer() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Open);
    store.insert("a", "1").unwrap();
    store.close().unwrap();
    assert_eq!(follower.writer_status().unwrap(), WriterStatus::Closed);
    follower.refresh().unwrap();
    assert_eq!(follower.len(), 1);
    for round in 0..6 {
        let store = open(&disk);
        assert_same(&follower, &store);
        store.insert(format!("{round}"), "x").unwrap();
        assert_same(&follower, &store);
        if round % 2 == 0 {
            store.close().unwrap();
        } else {
            std::mem::forget(store);
            disk.free_locks();
        }
        assert_eq!(shown(&follower), shown(&follow(&disk)));
    }
}

#[test]
fn follower_of_an_open_that_only_reads_finds_the_first_write() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    store.close().unwrap();
    let follower = follow(&disk);
    let store = open(&disk);
    assert_same(&follower, &store);
    store.insert("b", "2").unwrap();
    assert_same(&follower, &store);
}

#[test]
fn follower_knows_a_durable_number_of_the_writer() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    let seq = store.insert("a", "1").unwrap();
    assert!(follower.durable_seq().unwrap() < seq);
    store.flush().unwrap();
    assert!(follower.durable_seq().unwrap() >= seq);
}

#[test]
fn follower_refuses_another_store_in_its_directory() {
    let disk = SimDisk::new();
    open(&disk).insert("a", "1").unwrap();
    let follower = follow(&disk);
    mapcask::destroy_on(&disk).unwrap();
    let store = open(&disk);
    store.insert("b", "2").unwrap();
    assert!(matches!(follower.refresh(), Err(Error::Replaced { .. })), "{:?}", follower.refresh());
    assert_eq!(follower.len(), 1, "it keeps what it has");
    assert!(matches!(Options::new().follow_on(&SimDisk::new()), Err(Error::NotFound { .. })));
}

/// Regression. Cause: a follower knew a segment again by number and nonce, which the copy of a store
/// shares. Symptom: it stayed at the old files for ever. Fix: it reads new files as a whole.
#[test]
fn follower_shows_an_earlier_state_that_is_put_back() {
    for opens in [0, 9] {
        let disk = SimDisk::new();
        open(&disk).insert("a", "1").unwrap();
        let copy: Vec<_> =
            disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect();
        let store = open(&disk);
        store.insert("b", "2").unwrap();
        let follower = follow(&disk);
        assert_same(&follower, &store);
        drop(store);
        disk.files().iter().for_each(|name| disk.remove_file(name).unwrap());
        copy.iter().for_each(|(name, bytes)| disk.put_file(name, bytes));
        // Each raises the generation of the manifest.
        (0..opens).for_each(|n| assert!(open(&disk).insert("c", [n]).unwrap() > mapcask::Seq(0)));
        assert!(follower.refresh().unwrap().jumped);
        assert_same(&follower, &open(&disk));
    }
}

#[test]
fn follower_changes_nothing_on_the_disk() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let keyspace = store.keyspace("users").unwrap();
    for round in 0..100 {
        keyspace.insert(format!("{}", round % 10), "x".repeat(50)).unwrap();
    }
    let before = disk.position();
    let follower = follow(&disk);
    let taken = follower.snapshot();
    assert_same(&follower, &store);
    follower.verify().unwrap();
    drop((taken, follower));
    assert_eq!(disk.position(), before, "{:?}", disk.history());
}

#[test]
fn follower_goes_on_where_a_recovery_dropped_a_segment() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    for _ in 0..3 {
        // Each recovery begins a segment, and drops the one that the recovery before began.
        std::mem::forget(open_after_kill(&disk));
        assert!(!follower.refresh().unwrap().jumped);
    }
    let store = open_after_kill(&disk);
    store.insert("b", "2").unwrap();
    assert!(!follower.refresh().unwrap().jumped);
    assert_same(&follower, &store);
}

fn open_after_kill(disk: &SimDisk) -> mapcask::Store {
    disk.free_locks();
    open(disk)
}

#[test]
fn follower_judges_damage_as_a_read_only_open_does() {
    let filled = |is_closed: bool| {
        let disk = SimDisk::new();
        let store = open(&disk);
        for round in 0..30 {
            store.insert(format!("{}", round % 12), "x".repeat(100)).unwrap();
            if round % 10 == 9 {
                store.flush().unwrap();
            }
        }
        if is_closed {
            store.close().unwrap()
        } else {
            std::mem::forget(store)
        }
        disk.free_locks();
        disk
    };
    let (mut same, mut refused, mut cut) = (0, 0, 0);
    for is_closed in [true, false] {
        let names = filled(is_closed).files();
        for name in names.iter().filter(|name| name.ends_with(".seg")) {
            for offset in (0..4096).step_by(61) {
                let disk = filled(is_closed);
                disk.rot_bit(name, offset, 3).unwrap();
                let opened = options().read_only(true).open_on(&disk);
                let opened = opened.map(|store| brief(&held(&store)));
                let followed = Options::new().follow_on(&disk).map(|follower| brief(&shown(&follower)));
                match (opened, followed) {
                    (Ok(opened), Ok(followed)) => {
                        assert_eq!(opened, followed, "{name} at {offset}, closed: {is_closed}");
                        same += 1;
                    }
                    (Err(_), Err(Error::Corrupt { .. })) => refused += 1,
                    // A killed writer and a live one look the same, and a live log has no damage.
                    (Ok(_), Err(Error::Corrupt { .. })) if !is_closed => cut += 1,
                    (opened, followed) => {
                        panic!("{name} at {offset}, closed: {is_closed}: {opened:?} and {followed:?}")
                    }
                }
            }
        }
    }
    assert!(same > 0 && refused > 100 && cut < 20, "{same} the same, {refused} refused, {cut} cut");
}

#[test]
fn follower_of_a_torn_store_goes_on_with_the_next_writer() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for round in 0..40 {
        store.insert(format!("{}", round % 9), "x".repeat(300)).unwrap();
        if round % 16 == 15 {
            store.flush().unwrap();
            store.compact().unwrap();
        }
    }
    let mut compared = 0;
    for (at, position) in disk.positions().iter().enumerate().step_by(7) {
        for seed in 0..3 {
            let left = disk.crash_point(*position, Tears::Any).cut_power(&mut Seeded::new(seed));
            let Ok(follower) = Options::new().follow_on(&left) else { continue };
            let store = options().open_on(&left).unwrap_or_else(|error| panic!("moment {at}: {error}"));
            assert_same(&follower, &store);
            store.insert("new", "1").unwrap();
            assert_same(&follower, &store);
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

/// Writes, and checks that a follower goes on, with a control page that does not help.
fn assert_follows_after(spoil: impl Fn(&SimDisk)) {
    let disk = SimDisk::new();
    let store = open(&disk);
    let follower = follow(&disk);
    store.insert("a", "1").unwrap();
    assert_same(&follower, &store);
    spoil(&disk);
    for round in 0..60 {
        store.insert(format!("{}", round % 7), "x".repeat(300)).unwrap();
        if round % 20 == 19 {
            store.compact().unwrap();
            assert_same(&follower, &store);
        }
    }
    for round in 0..100 {
        store.insert(format!("{}", round % 7), "y".repeat(300)).unwrap();
    }
    store.compact().unwrap();
    assert_same(&follower, &store);
    assert_same(&follow(&disk), &store);
}

#[test]
fn follower_goes_on_without_a_control_page() {
    assert_follows_after(|disk| disk.remove_file("CONTROL").unwrap());
}

#[test]
fn follower_goes_on_with_a_damaged_control_page() {
    // The magic, the nonce, the generation in its highest byte, and the state.
    for offset in [0, 56, 135, 192, 199] {
        assert_follows_after(|disk| disk.rot_bit("CONTROL", offset, 1).unwrap());
    }
}

#[test]
fn follower_sees_a_gap_that_a_recovery_did_not_know_of() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    std::mem::forget(store);
    let store = open_after_kill(&disk);
    for round in 0..20 {
        store.insert(format!("b{}", round % 4), "x".repeat(150)).unwrap();
    }
    // It moves all of this, and leaves the first segment, in which nothing is dead.
    store.compact().unwrap();
    store.flush().unwrap();
    assert!(disk.files().contains(&"0000000001.seg".to_owned()));
    std::mem::forget(store);
    // The recovery names the first segment as the one before the next.
    let store = open_after_kill(&disk);
    assert_same(&follower, &store);
    store.insert("c", "1").unwrap();
    assert_same(&follower, &store);
}

/// Regression. Cause: a segment whose start record is not valid counted as not written to. Symptom:
/// the follower showed nothing more, and no error. Fix: it is damage while a writer has the store
/// open.
#[test]
fn follower_refuses_a_damaged_start_record_beside_a_writer() {
    const IN_START_RECORD: u64 = 168;
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    let name = "0000000002.seg";
    while disk.read_file(name).map_or(true, |bytes| bytes[128..136] == [0; 8]) {
        store.insert("b", "x".repeat(500)).unwrap();
    }
    disk.rot_bit(name, IN_START_RECORD, 3).unwrap();
    for _ in 0..2 {
        let refused = follower.refresh();
        assert!(matches!(refused, Err(Error::Corrupt { offset: 128, .. })), "{refused:?}");
    }
    // The next open cuts the log there.
    std::mem::forget(store);
    disk.set_boot_id(Some([9; 16]));
    follower.refresh().unwrap();
    let store = open_after_kill(&disk);
    assert_same(&follower, &store);
}

#[test]
fn follower_refuses_damage_before_the_end_that_a_close_wrote() {
    let disk = SimDisk::new();
    let store = open(&disk);
    store.insert("a", "1").unwrap();
    let follower = follow(&disk);
    store.insert("b", "x".repeat(500)).unwrap();
    store.close().unwrap();
    let name = "0000000001.seg";
    let at = disk.read_file(name).unwrap().windows(100).position(|bytes| bytes == [b'x'; 100]).unwrap();
    disk.rot_bit(name, at as u64, 0).unwrap();
    assert!(matches!(follower.refresh(), Err(Error::Corrupt { .. })), "{:?}", follower.refresh());
    assert_eq!(follower.len(), 1);
}

#[test]
fn attach_reads_what_compaction_removes_meanwhile() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for round in 0..60 {
        store.insert(format!("{}", round % 7), "x".repeat(300)).unwrap();
    }
    let store = Arc::new(store);
    let attempts = Arc::new(AtomicUsize::new(0));
    let (writer, counted) = (Arc::clone(&store), Arc::clone(&attempts));
    disk.on_crash_point(move |point| match point {
        "attach-manifest" => drop(counted.fetch_add(1, Ordering::Relaxed)),
        "attach-mapped" => assert!(writer.compact().unwrap().segments_removed > 0),
        _ => {}
    });
    let follower = follow(&disk);
    disk.forget_hook();
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert_same(&follower, &store);
}
