//! Feeds whose files changed behind their back: cut segments that are gone, files put back, damage.

use std::sync::Arc;
use std::time::Duration;

use mapcask::sim::SimDisk;
use mapcask::{Changes, Error, Options, Seq, Since, Store};
use parking_lot::Mutex;

use crate::borders::{keys, put};
use crate::{feed, kill, open, options, read};

const FIRST: &str = "0000000001.seg";

/// Returns the end of the records of a segment that nothing lies behind.
fn end_of(disk: &SimDisk, name: &str) -> usize {
    let bytes = disk.read_file(name).unwrap();
    (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(8)
}

/// Damages the bytes behind an offset, as a page that was lost.
fn tear(disk: &SimDisk, name: &str, from: usize) {
    let mut bytes = disk.read_file(name).unwrap();
    bytes[from..from + 64].fill(0xaa);
    disk.put_file(name, &bytes);
}

/// Writes two keys, and lets a feed read them. Kills the writer, cuts the first segment so many
/// bytes before its end, and removes it after more keys.
fn remove_cut_segment(back: usize, more: u8) -> (SimDisk, Store, Changes) {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Now).unwrap();
    put(&store, 1);
    let between = end_of(&disk, FIRST);
    put(&store, 2);
    assert_eq!(keys(&read(&mut changes).unwrap()), [1, 2]);
    let end = end_of(&disk, FIRST);
    kill(&disk, store);
    tear(&disk, FIRST, if back == 0 { end } else { between });
    tear(&disk, FIRST, end);
    let store = open(&disk);
    for key in 3..3 + more {
        put(&store, key);
    }
    store.flush().unwrap();
    while store.step().unwrap() {}
    store.compact_segments(&[1], |_| true).unwrap();
    assert!(!disk.files().contains(&FIRST.to_owned()), "{:?}", disk.files());
    (disk, store, changes)
}

/// Regression. Cause: the feed knew the end of a segment only from the manifest that named it.
/// Symptom: `Corrupt` for ever, from the torn bytes behind a cut. Fix: damage ends a segment that is
/// no longer named.
#[test]
fn feed_at_a_cut_goes_on_once_the_segment_is_gone() {
    for more in [1, 2, 60] {
        let (_disk, _store, mut changes) = remove_cut_segment(0, more);
        assert_eq!(keys(&read(&mut changes).unwrap()), (3..3 + more).collect::<Vec<_>>(), "{more}");
    }
}

#[test]
fn feed_behind_a_cut_is_rewound_once_the_segment_is_gone() {
    for more in [1, 2, 60] {
        let (_disk, store, mut changes) = remove_cut_segment(1, more);
        let position = changes.position();
        let rewound = changes.next().unwrap_err();
        assert!(matches!(rewound, Error::Rewound { read, .. } if read == position.seq().0), "{rewound}");
        assert_eq!(keys(&read(&mut changes).unwrap()), (3..3 + more).collect::<Vec<_>>(), "{more}");
        put(&store, 99);
        assert_eq!(keys(&read(&mut changes).unwrap()), [99]);
    }
}

#[test]
fn rewound_feed_knows_the_keyspaces_before_the_cut() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Now).unwrap();
    // No manifest has it: nothing is synced.
    store.keyspace("users").unwrap();
    let cut = end_of(&disk, FIRST);
    put(&store, 1);
    read(&mut changes).unwrap();
    kill(&disk, store);
    tear(&disk, FIRST, cut);
    let store = open(&disk);
    store.open_keyspace("users").unwrap().insert("anna", "1").unwrap();
    assert!(matches!(changes.next(), Err(Error::Rewound { .. })));
    let change = changes.next().unwrap().unwrap();
    assert_eq!((change.keyspace.name, change.more), (Some("users"), false));
}

#[test]
fn feed_at_a_cut_lags_if_the_next_segments_are_gone_too() {
    let (disk, store, mut changes) = remove_cut_segment(0, 20);
    for key in 1..23 {
        put(&store, key);
    }
    store.compact().unwrap();
    // It had mapped the segment that was ready when it was called last.
    let mut count = 0;
    let lagged = loop {
        match changes.next().map(|change| change.is_some()) {
            Ok(true) => count += 1,
            Ok(false) => panic!("no loss behind {count} changes"),
            Err(error) => break error,
        }
    };
    let oldest = feed(&disk, Since::Oldest).position().seq().0;
    assert!(matches!(lagged, Error::Lagged { to, .. } if to == oldest), "{lagged}");
    assert!(count < 20, "{count}");
    assert_eq!(read(&mut changes).unwrap(), read(&mut feed(&disk, Since::Oldest)).unwrap());
}

/// Regression. Cause: without a written segment of the log, a feed took zero for the last number.
/// Symptom: `Lagged` with the first new change, though none is missing. Fix: the manifest has the
/// greatest number of the segments that are gone.
#[test]
fn feed_of_a_log_without_a_segment_misses_no_change() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, 1);
    kill(&disk, store);
    // The log goes on behind the removed segment, and that part is lost.
    let store = open(&disk);
    store.flush().unwrap();
    while store.step().unwrap() {}
    store.compact_segments(&[1], |_| true).unwrap();
    kill(&disk, store);
    let feeds: Arc<Mutex<Vec<Changes>>> = Arc::default();
    {
        let (feeds, disk_too) = (Arc::clone(&feeds), disk.clone());
        disk.on_crash_point(move |point| {
            if point == "recovery-renamed" {
                let opened = [Since::Now, Since::Oldest, Since::State].map(|since| feed(&disk_too, since));
                feeds.lock().extend(opened);
            }
        });
    }
    let store = open(&disk);
    disk.forget_hook();
    let mut feeds = Arc::into_inner(feeds).expect("the hook is gone").into_inner();
    let positions: Vec<_> = feeds.iter().map(Changes::position).collect();
    put(&store, 7);
    let expected = [vec![7], vec![7], vec![1, 7]];
    let found: Vec<_> = feeds.iter_mut().map(|changes| keys(&read(changes).unwrap())).collect();
    assert_eq!(found, expected);
    for position in &positions[..2] {
        assert_eq!(keys(&read(&mut feed(&disk, *position)).unwrap()), [7]);
    }
}

/// Writes two keys to the first segment, which a feed reads, and `more` behind it. Damages the start
/// record of the second segment.
fn damage_start(disk: &SimDisk, more: u8) -> (Store, Changes) {
    const IN_START_RECORD: u64 = 168;
    let store = open(disk);
    let mut changes = store.changes(Since::Now).unwrap();
    put(&store, 1);
    put(&store, 2);
    assert_eq!(keys(&read(&mut changes).unwrap()), [1, 2]);
    for key in 3..3 + more {
        put(&store, key);
    }
    disk.rot_bit("0000000002.seg", IN_START_RECORD, 3).unwrap();
    (store, changes)
}

/// Regression. Cause: a segment whose start record is not valid counted as not written to. Symptom:
/// the feed returned nothing more, and no error. Fix: it is damage while a writer has the store open.
#[test]
fn damaged_start_record_beside_a_writer_is_corruption() {
    for more in [1, 9] {
        let disk = SimDisk::new();
        let (_store, mut changes) = damage_start(&disk, more);
        for _ in 0..2 {
            let error = changes.next().unwrap_err();
            assert!(matches!(error, Error::Corrupt { offset: 128, .. }), "{more}: {error}");
        }
        let refused = Options::new().changes_on(&disk, Since::Now).unwrap_err();
        assert!(refused.is_corruption(), "{more}: {refused}");
    }
}

#[test]
fn damage_right_behind_the_last_close_ends_the_log() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, 1);
    store.close().unwrap();
    let end = end_of(&disk, FIRST);
    let store = open(&disk);
    put(&store, 2);
    kill(&disk, store);
    tear(&disk, FIRST, end);
    let found = read(&mut feed(&disk, Since::Oldest));
    assert!(matches!(found, Err(Error::Corrupt { .. })), "the writer may live: {found:?}");
    disk.set_boot_id(Some([9; 16]));
    let mut changes = feed(&disk, Since::Oldest);
    assert_eq!(keys(&read(&mut changes).unwrap()), [1]);
    put(&open(&disk), 3);
    assert_eq!(keys(&read(&mut changes).unwrap()), [3]);
}

#[test]
fn damaged_start_record_after_a_power_cut_ends_the_log() {
    let disk = SimDisk::new();
    let (store, mut changes) = damage_start(&disk, 1);
    kill(&disk, store);
    disk.set_boot_id(Some([9; 16]));
    assert_eq!(read(&mut changes).unwrap(), []);
    let store = open(&disk);
    put(&store, 7);
    assert_eq!(keys(&read(&mut changes).unwrap()), [7]);
    assert_eq!(keys(&read(&mut feed(&disk, Since::Oldest)).unwrap()), [1, 2, 7]);
}

/// Returns the contents of all files.
fn copy_of(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Puts files in place of those that are there, as new files.
fn put_back(disk: &SimDisk, copy: &[(String, Vec<u8>)]) {
    for name in disk.files() {
        disk.remove_file(&name).unwrap();
    }
    for (name, bytes) in copy {
        disk.put_file(name, bytes);
    }
    // A feed looks once a second while a writer seems to have the store open.
    disk.advance_clock(Duration::from_secs(1));
}

/// Makes a store of one key, copies it, adds a key for the feed to read, and puts the copy back.
/// Returns the disk and the feed.
fn rewind(closes: bool) -> (SimDisk, Changes) {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, 1);
    store.close().unwrap();
    let copy = copy_of(&disk);
    let store = open(&disk);
    let mut changes = feed(&disk, Since::Oldest);
    put(&store, 2);
    assert_eq!(keys(&read(&mut changes).unwrap()), [1, 2]);
    if closes {
        store.close().unwrap();
    } else {
        kill(&disk, store);
    }
    assert_eq!(read(&mut changes).unwrap(), []);
    put_back(&disk, &copy);
    (disk, changes)
}

/// Regression. Cause: a feed knew a segment again by number and nonce, which the copy of a store
/// shares. Symptom: it stayed at the old files for ever. Fix: it finds its place anew in new files.
/// Checks that a feed says once that it is rewound, and then returns the insertion of a key.
#[track_caller]
fn assert_rewound_once(disk: &SimDisk, changes: &mut Changes, key: u8) {
    assert!(matches!(changes.next(), Err(Error::Rewound { .. })));
    store_of(disk, key).close().unwrap();
    assert_eq!(keys(&read(changes).unwrap()), [key]);
}

#[test]
fn feed_is_rewound_if_an_earlier_state_is_put_back() {
    for (closes, opens) in [(false, 0), (true, 0), (false, 1), (true, 1), (false, 9), (true, 9)] {
        let (disk, mut changes) = rewind(closes);
        // Each raises the generation of the manifest.
        for _ in 0..opens {
            kill(&disk, open(&disk));
        }
        let position = changes.position();
        let rewound = changes.next().unwrap_err();
        assert!(matches!(rewound, Error::Rewound { read, .. } if read == position.seq().0), "{rewound}");
        assert_eq!(changes.next().unwrap(), None, "{closes}, {opens}");
        put(&open(&disk), 7);
        assert_eq!(keys(&read(&mut changes).unwrap()), [7], "{closes}, {opens}");
    }
}

/// Makes a store of one key, copies it, and adds small keys for the feed to read, all in one segment.
fn read_more_than_a_copy() -> (SimDisk, Changes, Vec<(String, Vec<u8>)>) {
    let disk = SimDisk::new();
    store_of(&disk, 0).close().unwrap();
    let copy = copy_of(&disk);
    let store = open(&disk);
    let mut changes = feed(&disk, Since::Oldest);
    (1..40).for_each(|key| assert!(store.insert([key], "2").unwrap() > Seq(0)));
    store.close().unwrap();
    assert_eq!(read(&mut changes).unwrap().len(), 40);
    (disk, changes, copy)
}

fn store_of(disk: &SimDisk, key: u8) -> Store {
    let store = open(disk);
    store.insert([key], "1").unwrap();
    store
}

#[test]
fn feed_is_rewound_if_a_later_manifest_names_other_files() {
    let (disk, mut changes, copy) = read_more_than_a_copy();
    put_back(&disk, &copy);
    // The log goes on in the same segment, and the manifest gets later than the one that was read.
    (50..60).for_each(|key| store_of(&disk, key).close().unwrap());
    assert_rewound_once(&disk, &mut changes, 60);
}

#[test]
fn feed_is_rewound_if_an_earlier_state_is_copied_over_its_files() {
    let (disk, mut changes, copy) = read_more_than_a_copy();
    copy.iter().for_each(|(name, bytes)| disk.put_file(name, bytes));
    disk.advance_clock(Duration::from_secs(1));
    assert_rewound_once(&disk, &mut changes, 60);
}

#[test]
fn feed_is_rewound_if_a_number_has_another_segment() {
    const SECOND: &str = "0000000002.seg";
    let disk = SimDisk::new();
    store_of(&disk, 0).close().unwrap();
    let copy = copy_of(&disk);
    kill(&disk, store_of(&disk, 1));
    let mut changes = feed(&disk, Since::Oldest);
    let store = open(&disk);
    (2..80).for_each(|key| assert!(store.insert([key], "2").unwrap() > Seq(0)));
    store.close().unwrap();
    assert_eq!(read(&mut changes).unwrap().len(), 80);
    copy.iter().for_each(|(name, bytes)| disk.put_file(name, bytes));
    disk.remove_file(SECOND).unwrap();
    kill(&disk, store_of(&disk, 50));
    // The manifest gets later than the one that was read.
    (51..60).for_each(|key| store_of(&disk, key).close().unwrap());
    assert!(disk.files().contains(&SECOND.to_owned()));
    disk.advance_clock(Duration::from_secs(1));
    assert_rewound_once(&disk, &mut changes, 80);
}

#[test]
fn feed_is_rewound_into_a_segment_that_it_had_left_behind() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, 1);
    store.close().unwrap();
    let copy = copy_of(&disk);
    let store = open(&disk);
    let mut changes = feed(&disk, Since::Oldest);
    (2..9).for_each(|key| assert!(put(&store, key) > Seq(0)));
    assert_eq!(read(&mut changes).unwrap().len(), 8);
    store.close().unwrap();
    put_back(&disk, &copy);
    assert!(matches!(changes.next(), Err(Error::Rewound { .. })));
    put(&open(&disk), 9);
    assert_eq!(keys(&read(&mut changes).unwrap()), [9]);
}

#[test]
fn feed_goes_on_if_its_own_files_are_put_back() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = feed(&disk, Since::Oldest);
    (1..5).for_each(|key| assert!(put(&store, key) > Seq(0)));
    assert_eq!(changes.next().unwrap().map(|change| change.more), Some(false));
    store.close().unwrap();
    put_back(&disk, &copy_of(&disk));
    put(&open(&disk), 5);
    assert_eq!(keys(&read(&mut changes).unwrap()), [2, 3, 4, 5]);
}

#[test]
fn feed_of_files_of_another_store_says_replaced() {
    let disk = SimDisk::new();
    let other = SimDisk::with_seed(2);
    put(&open(&other), 1);
    let mut changes = open(&disk).changes(Since::Now).unwrap();
    assert_eq!(changes.next().unwrap(), None);
    put_back(&disk, &copy_of(&other));
    for _ in 0..2 {
        let replaced = changes.next().unwrap_err();
        assert!(matches!(replaced, Error::Replaced { .. }), "{replaced}");
    }
}

#[test]
fn feed_of_a_replaced_directory_goes_on_once_it_is_back() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [path, away, copy] = ["store", "away", "copy"].map(|name| scratch.path().join(name));
    put(&options().open(&path).unwrap(), 1);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    put(&options().open(&path).unwrap(), 2);
    let mut changes = Changes::open(&path, Since::Oldest).unwrap();
    assert_eq!(keys(&read(&mut changes).unwrap()), [1, 2]);
    std::fs::rename(&path, &away).unwrap();
    assert_eq!(read(&mut changes).unwrap(), [], "no other directory is in its place");
    std::fs::rename(&copy, &path).unwrap();
    let replaced = changes.next().unwrap_err();
    assert!(matches!(replaced, Error::Replaced { .. }), "{replaced}");
    let rewound = Changes::open(&path, changes.position()).unwrap().next().unwrap_err();
    assert!(matches!(rewound, Error::Rewound { .. }), "{rewound}");
    std::fs::rename(&path, &copy).unwrap();
    std::fs::rename(&away, &path).unwrap();
    put(&options().open(&path).unwrap(), 3);
    assert_eq!(keys(&read(&mut changes).unwrap()), [3]);
}

/// Returns the number of segments of a store that this process has mapped: removed ones, and others.
#[cfg(target_os = "linux")]
fn mapped(path: &std::path::Path) -> [usize; 2] {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    [".seg (deleted)", ".seg"].map(|end| {
        let is_one = |line: &&str| line.contains(path.to_str().unwrap()) && line.ends_with(end);
        maps.lines().filter(is_one).count()
    })
}

#[test]
#[cfg(target_os = "linux")]
fn feed_lets_go_of_the_segments_that_it_has_read() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let store = options().open(&path).unwrap();
    let mut changes = store.changes(Since::Now).unwrap();
    for key in 0..40 {
        put(&store, key);
        while store.step().unwrap() {}
        assert_eq!(keys(&read(&mut changes).unwrap()), [key]);
    }
    store.close().unwrap();
    let [removed, others] = mapped(&path);
    assert!(removed == 0 && (1..=3).contains(&others), "{removed}, {others}");
    assert_eq!(changes.next().unwrap(), None);
    drop(changes);
    let _begun = Changes::open(&path, Since::Now).unwrap();
    assert_eq!(mapped(&path), [0, others]);
}

#[test]
#[cfg(target_os = "linux")]
fn feed_that_lags_lets_go_of_removed_segments() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let store = options().compaction(false).open(&path).unwrap();
    for _ in 0..80 {
        put(&store, 1);
    }
    let mut changes = Changes::open(&path, Since::Oldest).unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    assert!(mapped(&path)[0] > 30);
    let lagged = (0..200).find_map(|_| changes.next().err());
    assert!(matches!(lagged, Some(Error::Lagged { from: ..50, .. })), "{lagged:?}");
    assert_eq!(mapped(&path)[0], 0);
}

#[test]
#[cfg(target_os = "linux")]
fn feed_that_has_read_everything_keeps_few_removed_files() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let store = options().open(&path).unwrap();
    let mut changes = store.changes(Since::Now).unwrap();
    let write = || {
        put(&store, 1);
        while store.step().unwrap() {}
    };
    for _ in 0..60 {
        write();
        assert_eq!(read(&mut changes).unwrap().len(), 1);
    }
    (0..60).for_each(|_| write());
    store.close().unwrap();
    // The one that it read last, and those that were ready then. The writer has none of them.
    let [kept, _] = mapped(&path);
    assert!((1..=3).contains(&kept), "{kept}");
    let lagged = (0..200).find_map(|_| changes.next().err());
    assert!(matches!(lagged, Some(Error::Lagged { .. })), "{lagged:?}");
    assert_eq!(mapped(&path)[0], 0);
}
