//! Tests for failures that reviews found, each with its cause.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::time::Duration;

use mapcask::sim::{Fault, Operation, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Store};

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn fill(store: &Store, keys: std::ops::Range<u32>) {
    for n in keys {
        store.insert(format!("key {n}"), [7; 1000]).unwrap();
    }
}

/// A killed process can leave a manifest copy in the page cache only. The next open took both
/// copies for whole and overwrote the one on the disk. A power cut then left neither. It shows once
/// a manifest is longer than a sector.
#[test]
fn a_power_cut_after_a_kill_leaves_one_copy_of_the_manifest() {
    let disk = SimDisk::with_seed(5);
    let store = options().durability(Durability::Disk).open_on(&disk).unwrap();
    fill(&store, 0..60);
    let points = disk.points();
    let kills =
        points.iter().filter(|(_, name)| name.starts_with("manifest-")).map(|(position, _)| *position);
    for kill in kills.collect::<Vec<_>>().into_iter().rev().take(4) {
        let killed = disk.crash_point(kill, Tears::None).kill();
        drop(options().open_on(&killed).unwrap());
        let during = killed.points();
        for (cut, name) in during.iter().filter(|(_, name)| name.starts_with("manifest-")).take(4) {
            let point = killed.crash_point(*cut, Tears::Any);
            for seed in 0..50 {
                let after = point.cut_power(&mut Seeded::new(seed));
                let store =
                    options().open_on(&after).unwrap_or_else(|error| panic!("{name}, {seed}: {error}"));
                assert!(store.len() >= 50, "{name}, {seed}: {} keys", store.len());
                store.verify().unwrap();
            }
        }
    }
}

/// A full disk made every step of the worker end before the sync that was due.
#[test]
fn full_disk_does_not_delay_the_interval_sync() {
    let disk = SimDisk::with_seed(1);
    let store = options().segment_bytes(64 << 10).durability(Durability::Interval).open_on(&disk).unwrap();
    fill(&store, 0..40);
    disk.set_capacity(Some(0));
    let mut synced = 0;
    for _ in 0..10 {
        disk.advance_clock(Duration::from_secs(1));
        // The next writer reports the full disk.
        drop(store.step());
        synced = store.stats().durable_seq;
    }
    assert!(synced >= store.stats().last_seq, "{synced} of {}", store.stats().last_seq);
}

/// A segment whose name could not be recorded was later given to a record that did not fit into it.
#[test]
fn unnamed_segment_is_not_given_to_a_larger_record() {
    for nth in 1..40 {
        let disk = SimDisk::with_seed(2);
        let store = Options::new().segment_bytes(1 << 20).background(false).open_on(&disk).unwrap();
        fill(&store, 0..200);
        disk.fail_nth(Some(Operation::Write), nth, Fault::Io, false);
        while matches!(store.step(), Ok(true)) {}
        disk.clear_faults();
        store.insert("large", vec![1; 900 << 10]).unwrap();
        fill(&store, 200..300);
        store.insert("larger", vec![2; 2 << 20]).unwrap();
        assert_eq!(store.len(), 302);
        store.verify().unwrap();
    }
}

#[test]
fn unnamed_segment_is_the_next_to_be_written_to() {
    let mut unnamed = 0;
    for nth in 1..40 {
        let disk = SimDisk::with_seed(2);
        let store = options().open_on(&disk).unwrap();
        disk.fail_nth(Some(Operation::Write), nth, Fault::Io, false);
        let refused = (0..20).any(|n| store.insert(format!("key {n}"), [7; 900]).is_err());
        disk.clear_faults();
        unnamed += u32::from(refused);
        for n in 0..20 {
            store.insert(format!("key {n}"), [7; 900]).unwrap();
        }
        // Every segment but the last has a record behind its header of 128 bytes.
        let mut names: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        names.pop();
        for name in names {
            let bytes = disk.read_file(&name).unwrap();
            assert!(bytes[128..].iter().any(|byte| *byte != 0), "{name} was made and not used, write {nth}");
        }
    }
    assert!(unnamed > 1, "{unnamed}");
}

/// The mapping of a new segment failed after the file had its final name, and each attempt left a
/// file.
#[test]
fn a_segment_that_cannot_be_mapped_leaves_no_file() {
    let disk = SimDisk::with_seed(3);
    let store = options().open_on(&disk).unwrap();
    fill(&store, 0..3);
    let files = disk.files().len();
    disk.fail_nth(Some(Operation::Map), 1, Fault::NoSpace, true);
    for n in 0..5_u32 {
        assert!(store.insert(format!("more {n}"), [7; 3000]).is_err());
    }
    assert_eq!(disk.files().len(), files);
    disk.clear_faults();
    store.insert("more", [7; 3000]).unwrap();
}

/// Every handle printed the hash secret.
#[test]
fn a_handle_prints_shortly_and_keeps_the_secret() {
    let disk = SimDisk::with_seed(4);
    let store = options().open_on(&disk).unwrap();
    fill(&store, 0..20);
    for text in [format!("{store:?}"), format!("{:?}", store.iter()), format!("{:?}", store.view())] {
        assert!(text.len() < 300 && !text.contains("secret"), "{text}");
    }
}

/// An infinite interval made the worker overflow when it computed its next wake-up.
#[test]
fn an_endless_interval_is_no_panic() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = Options::new().durability(Durability::Interval).sync_interval(Duration::MAX);
    let store = options.open(directory.path().join("data")).unwrap();
    store.insert("a", "1").unwrap();
    store.close().unwrap();
}

/// Every segment of a reopened store kept its descriptor open.
#[test]
#[cfg(target_os = "linux")]
fn many_segments_need_few_descriptors_after_a_reopening() {
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("data");
    let store = options().open(&path).unwrap();
    fill(&store, 0..300);
    store.close().unwrap();
    let before = open_files();
    let store = options().open(&path).unwrap();
    assert!(store.stats().segments >= 100);
    // Other tests of this process open and close a few files each.
    assert!(open_files() < before + 60, "{} files", open_files() - before);
    assert!(matches!(options().open(&path), Err(Error::Locked { .. })));
}

/// A running store did not count its own records, watermarks and segment starts as dead bytes, and
/// the next open did. So the number rose by the bytes that syncs and rolls had written. Now the log
/// counts these records as it appends them.
#[test]
fn dead_bytes_are_the_same_before_a_clean_end_and_after_it() {
    let disk = SimDisk::with_seed(5);
    let store = options().open_on(&disk).unwrap();
    for round in 0..20 {
        fill(&store, round % 3..8);
        store.flush().unwrap();
    }
    let before = store.stats();
    store.close().unwrap();
    let after = options().open_on(&disk).unwrap().stats();
    assert_eq!((after.live_bytes, after.dead_bytes), (before.live_bytes, before.dead_bytes));
}

/// Cause: recovery kept the index of every past keyspace number until it had read everything.
/// Symptom: after a kill, the open needed 256 KiB of address space for each clear of a keyspace,
/// and failed where that is limited. Fix: an index is freed with the record that drops or clears
/// it.
#[cfg(target_os = "linux")]
#[test]
fn opening_after_many_clears_needs_no_memory_for_old_indexes() {
    const CLEARS: u32 = 60_000;
    let peak = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (made, killed) = (directory.path().join("made"), directory.path().join("killed"));
    let store = Options::new().background(false).open(&made).unwrap();
    let cache = store.keyspace("cache").unwrap();
    for n in 0..CLEARS {
        cache.insert("key", n.to_le_bytes()).unwrap();
        cache.clear().unwrap();
    }
    cache.insert("last", "1").unwrap();
    // The copy is what a killed process leaves.
    std::fs::create_dir(&killed).unwrap();
    for entry in std::fs::read_dir(&made).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), killed.join(entry.file_name())).unwrap();
    }
    let before = peak();
    let store = Options::new().background(false).open(&killed).unwrap();
    // Other tests of this file run beside; each needs some 256 MiB of address space.
    assert!(peak() < before + (6 << 30), "15 GiB for {CLEARS} indexes");
    let cache = store.keyspace("cache").unwrap();
    assert_eq!((cache.len(), store.stats().keys), (1, 1));
}

/// The first write after an open made the original directory again. So a store that was moved while
/// it was open continued in two places, and neither held the acknowledged writes.
#[test]
fn moved_open_store_is_not_made_again_at_its_old_path() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [before, after] = ["before", "after"].map(|name| directory.path().join(name));
    options().open(&before).unwrap().close().unwrap();
    let store = options().open(&before).unwrap();
    std::fs::rename(&before, &after).unwrap();
    // The keys need several segments. Each is made in the directory, wherever that is now.
    for n in 0..200_u32 {
        store.insert(n.to_le_bytes(), [1; 1000]).unwrap();
    }
    drop(store);
    assert!(!before.exists());
    let store = options().create(false).open(&after).unwrap();
    assert_eq!(store.len(), 200);
}
