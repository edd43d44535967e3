//! Tests the limit on the size of the segment files.
//!
//! Insertions stop at it exactly and change nothing; removals continue beyond it.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::path::Path;
use std::thread;

use mapcask::sim::SimDisk;
use mapcask::{Durability, Error, Options, Store, WriteBatch};

const PAGE: u64 = 4096;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options(limit: u64) -> Options {
    Options::new().background(false).compaction(false).segment_bytes(PAGE).max_disk_bytes(limit)
}

/// The storage under a store. Both kinds answer the same questions.
enum Disk {
    Real(tempfile::TempDir),
    Simulated(SimDisk),
}

impl Disk {
    fn both() -> [Self; 2] {
        [Self::Real(directory()), Self::Simulated(SimDisk::new())]
    }

    fn open(&self, options: Options) -> Store {
        match self {
            Self::Real(directory) => options.open(directory.path()).unwrap(),
            Self::Simulated(disk) => options.open_on(disk).unwrap(),
        }
    }

    /// Returns the bytes of the segment files, including those that are being made.
    fn used(&self) -> u64 {
        match self {
            Self::Real(directory) => used(directory.path()),
            Self::Simulated(disk) => {
                let names = disk.files().into_iter().filter(|name| name.contains(".seg"));
                names.map(|name| disk.read_file(&name).unwrap().len() as u64).sum()
            }
        }
    }
}

fn used(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let segments = files.filter(|file| file.file_name().to_string_lossy().contains(".seg"));
    segments.map(|file| file.metadata().unwrap().len()).sum()
}

type Items = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns everything that a refused write must leave unchanged.
fn state(store: &Store) -> (Items, usize, u64, u64) {
    let items = store.iter().map(Result::unwrap);
    let mut items: Items = items.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    items.sort();
    (items, store.len(), store.stats().last_seq, store.stats().segment_bytes)
}

/// Inserts until the limit refuses, and returns the number of keys then.
fn fill(store: &Store, len: usize) -> u32 {
    for n in 0_u32.. {
        if store.insert(n.to_le_bytes(), vec![7; len]).is_err() {
            return n;
        }
    }
    unreachable!("numbers end after the disk does")
}

fn assert_refused<T: std::fmt::Debug>(result: mapcask::Result<T>, store: &Store) {
    let stats = store.stats();
    match result {
        Err(Error::DiskLimit { limit, used, needed, .. }) => {
            assert_eq!((Some(limit), used), (stats.max_disk_bytes, stats.segment_bytes));
            assert!(needed > 0 && needed.is_multiple_of(PAGE), "{needed}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn insertions_use_the_limit_up_and_stop_there_without_a_trace() {
    for disk in Disk::both() {
        for limit in [2 * PAGE, 2 * PAGE + 1000, 20_000, 16 * PAGE - 1, 16 * PAGE] {
            let store = disk.open(options(limit));
            for n in 0..100_u32 {
                let written = store.insert(n.to_le_bytes(), [7; 900]);
                assert!(disk.used() <= limit, "{} of {limit}", disk.used());
                assert_eq!(disk.used(), store.stats().segment_bytes);
                if written.is_err() {
                    assert_refused(written, &store);
                    break;
                }
                // The worker would preallocate here.
                while n.is_multiple_of(3) && store.step().unwrap() {}
                assert!(disk.used() <= limit, "{} of {limit} ahead", disk.used());
            }
            assert_eq!(disk.used(), limit / PAGE * PAGE, "the limit is used up");
            let state_before = state(&store);
            let operations = |disk: &Disk| match disk {
                Disk::Real(_) => None,
                Disk::Simulated(disk) => Some(disk.operations()),
            };
            let operations_before = operations(&disk);
            for len in [900, 3000, 10_000] {
                assert_refused(store.insert("another", vec![7; len]), &store);
            }
            assert_eq!(operations(&disk), operations_before, "a refusal asks the disk for nothing");
            while store.step().unwrap() {}
            assert!(state(&store) == state_before, "it is as it was");
            store.close().unwrap();
        }
    }
}

#[test]
fn small_insertion_uses_the_rest_of_the_last_segment() {
    let disk = SimDisk::new();
    let store = options(2 * PAGE).open_on(&disk).unwrap();
    fill(&store, 900);
    // The rest is too small for one more of those, but not lost.
    assert_refused(store.insert("large", [7; 900]), &store);
    store.insert("small", [7; 9]).unwrap();
    assert_eq!(store.stats().segment_bytes, 2 * PAGE);
}

#[test]
fn removals_continue_beyond_the_disk_limit_and_insertions_fail() {
    for disk in Disk::both() {
        let limit = 8 * PAGE;
        let store = disk.open(options(limit));
        let count = fill(&store, 20);
        assert_eq!(disk.used(), limit);
        let (batched, single) = (count / 4, count / 2);
        for n in 0..single {
            assert!(store.remove(n.to_le_bytes()).unwrap());
        }
        assert!(disk.used() > limit, "the removals needed segments");
        assert!(disk.used() <= limit + (u64::from(single) * 40).next_multiple_of(PAGE) + PAGE);
        let before = state(&store);
        // The active segment has space, but not for insertions.
        assert_refused(store.insert("k", "v"), &store);
        let mut mixed = WriteBatch::new();
        mixed.remove((count - 1).to_le_bytes());
        mixed.insert("k", "v");
        assert_refused(store.write(&mixed), &store);
        assert!(state(&store) == before, "it is as it was");
        let mut removals = WriteBatch::new();
        (single..single + batched).for_each(|n| removals.remove(n.to_le_bytes()));
        store.write(&removals).unwrap();
        assert_eq!(store.len(), (count - single - batched) as usize);
        assert!(!store.remove("never there").unwrap());
        let used = disk.used();
        while store.step().unwrap() {}
        assert_eq!(disk.used(), used, "nothing is made ahead beyond the limit");
        let before = state(&store);
        store.close().unwrap();
        let store = disk.open(options(limit));
        assert!(state(&store).0 == before.0, "what was there is there");
        assert_refused(store.insert("k", "v"), &store);
        store.verify().unwrap();
    }
}

#[test]
fn a_higher_limit_goes_on_and_a_lower_one_still_opens() {
    for disk in Disk::both() {
        let store = disk.open(options(4 * PAGE));
        fill(&store, 500);
        let before = state(&store);
        store.close().unwrap();
        for limit in [4 * PAGE, 2 * PAGE] {
            let store = disk.open(options(limit));
            assert_refused(store.insert("k", [7; 500]), &store);
            assert!(state(&store).0 == before.0, "what was there is there");
            store.close().unwrap();
        }
        let store = disk.open(options(6 * PAGE));
        assert!(fill(&store, 600) > 6);
        assert_eq!(disk.used(), 6 * PAGE);
        store.close().unwrap();
        let store = disk.open(Options::new().background(false).segment_bytes(PAGE));
        (0..100_u32).for_each(|n| {
            store.insert(n.to_le_bytes(), [7; 500]).unwrap();
        });
        assert!(disk.used() > 10 * PAGE);
        assert_eq!(store.stats().max_disk_bytes, None);
    }
}

#[test]
fn large_value_gets_its_own_segment_if_the_limit_allows_it() {
    for disk in Disk::both() {
        let store = disk.open(options(15 * PAGE + 100));
        store.insert("one", vec![7; 20_000]).unwrap();
        assert_eq!(disk.used(), PAGE + 5 * PAGE);
        store.insert("two", vec![7; 20_000]).unwrap();
        let before = state(&store);
        match store.insert("three", vec![7; 20_000]) {
            Err(Error::DiskLimit { limit, used, needed, .. }) => {
                assert_eq!((limit, used, needed), (15 * PAGE + 100, 11 * PAGE, 5 * PAGE));
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
        let mut batch = WriteBatch::new();
        (0..30_u32).for_each(|n| batch.insert(n.to_le_bytes(), [7; 900]));
        assert_refused(store.write(&batch), &store);
        assert!(state(&store) == before, "it is as it was");
        store.insert("three", vec![7; 15_000]).unwrap();
        assert_eq!(disk.used(), 15 * PAGE);
        assert_eq!(store.get("three").unwrap().unwrap().len(), 15_000);
    }
}

#[test]
fn the_last_segment_of_the_schedule_is_cut_to_the_limit() {
    let directory = directory();
    let limit = 1_000_000;
    for durability in [Durability::Os, Durability::Disk] {
        let path = directory.path().join(format!("{durability:?}"));
        let store = Options::new()
            .background(false)
            .durability(durability)
            .max_disk_bytes(limit)
            .open(&path)
            .unwrap();
        assert!(fill(&store, 10_000) > 80);
        let mut sizes: Vec<u64> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        sizes.sort_unstable();
        let whole = limit / PAGE * PAGE;
        // The largest three files are the segments.
        assert_eq!(sizes[sizes.len() - 3..], [16 << 10, 256 << 10, whole - (272 << 10)]);
        store.verify().unwrap();
    }
}

#[test]
fn writers_beside_the_background_stay_below_the_limit() {
    let directory = directory();
    let limit = 3 << 20;
    let options = Options::new().durability(Durability::Interval).segment_bytes(256 << 10);
    let store = options.max_disk_bytes(limit).open(directory.path()).unwrap();
    thread::scope(|scope| {
        for writer in 0..4_u32 {
            let store = &store;
            scope.spawn(move || {
                let write =
                    |n: u32| store.insert([writer.to_le_bytes(), n.to_le_bytes()].concat(), [7; 1000]);
                let refused = (0..).find_map(|n| write(n).err()).unwrap();
                assert!(matches!(refused, Error::DiskLimit { .. }), "{refused:?}");
            });
        }
    });
    assert_eq!((used(directory.path()), store.stats().segment_bytes), (limit, limit));
    let before = state(&store);
    store.close().unwrap();
    // No file is ever removed, so the sum at the end is the largest there was.
    let store = Options::new().background(false).open(directory.path()).unwrap();
    assert!(state(&store).0 == before.0, "what was there is there");
    assert_eq!(used(directory.path()), limit);
}

#[test]
fn store_killed_at_the_limit_opens_and_accepts_removals() {
    let limit = 4 * PAGE;
    let disk = SimDisk::new();
    let store = options(limit).open_on(&disk).unwrap();
    let count = fill(&store, 500);
    let mut killed = disk.kill();
    let mut expected = state(&store).0;
    drop(store);
    for n in 0..count {
        let store = options(limit).open_on(&killed).unwrap();
        assert!(state(&store).0 == expected, "what was there is there");
        let stats = store.stats();
        assert!(stats.segment_bytes <= limit + u64::from(n + 1) * PAGE, "{stats:?}");
        assert_refused(store.insert("k", "v"), &store);
        assert!(store.remove(n.to_le_bytes()).unwrap());
        expected = state(&store).0;
        killed = killed.kill();
    }
    assert!(expected.is_empty());
    let store = options(100 * PAGE).open_on(&killed).unwrap();
    store.insert("k", "v").unwrap();
}

#[test]
fn a_limit_that_holds_less_than_two_segments_is_refused() {
    let disk = SimDisk::new();
    let check = |options: Options| match options.background(false).open_on(&disk) {
        Ok(_) => true,
        Err(Error::InvalidOption { option, .. }) => {
            assert_eq!(option, "max_disk_bytes");
            false
        }
        Err(other) => panic!("{other:?}"),
    };
    assert!(!check(Options::new().max_disk_bytes((32 << 10) - 1)));
    assert!(!check(Options::new().max_disk_bytes(0)));
    assert!(!check(Options::new().segment_bytes(PAGE).max_disk_bytes(2 * PAGE - 1)));
    assert!(disk.files().is_empty(), "nothing was touched");
    assert!(check(Options::new().segment_bytes(PAGE).max_disk_bytes(2 * PAGE)));
    assert!(check(Options::new().max_disk_bytes(32 << 10)));
}

#[test]
fn writes_that_free_nothing_get_no_space_beyond_the_limit() {
    let disk = SimDisk::new();
    let limit = 8 * PAGE;
    let store =
        Options::new().segment_bytes(PAGE).background(false).max_disk_bytes(limit).open_on(&disk).unwrap();
    let empty = store.keyspace("empty").unwrap();
    while store.insert(store.last_seq().0.to_le_bytes(), [7; 300]).is_ok() {}
    let full = store.stats();
    let limited = |result: mapcask::Result<()>| matches!(result, Err(Error::DiskLimit { .. }));
    for n in 0..500_u32 {
        // The keyspace is empty, so clearing it writes nothing.
        empty.clear().unwrap();
        let mut batch = WriteBatch::new();
        batch.remove(format!("absent {n}"));
        batch.remove("absent");
        let result = store.write(&batch);
        assert!(result.is_ok() || limited(result.map(|_| ())), "{n}");
        let (from, to) = if n % 2 == 0 { ("empty", "other") } else { ("other", "empty") };
        let renamed = store.rename_keyspace(from, to);
        if limited(renamed.clone()) {
            break;
        }
        renamed.unwrap();
    }
    assert_eq!(store.stats().segment_bytes, full.segment_bytes);
    assert!(
        limited(store.keyspace("new").map(drop)) && limited(store.rename_keyspace(&empty.name(), "third"))
    );
    // A write that frees space is accepted.
    let dead = store.stats().dead_bytes;
    store.clear().unwrap();
    assert!(store.is_empty() && store.stats().dead_bytes > dead);
}
