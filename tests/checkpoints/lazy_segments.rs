//! Tests of segments that a checkpoint covers, which are mapped on first use. An open does little
//! work, and a segment that cannot be mapped later is an error.

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Store};

use super::{Map, check, filled, insert, key, open, rest, value};

/// Returns a store that was closed with a checkpoint of all data, its contents, and the number of
/// its segments.
fn closed(keys: u32) -> (SimDisk, Map, usize) {
    let disk = SimDisk::new();
    let (store, map) = filled(&disk, keys);
    store.flush().unwrap();
    rest(&store);
    assert!(store.take_checkpoint().unwrap());
    let segments = store.stats().segments;
    store.close().unwrap();
    (disk, map, segments)
}

fn maps(disk: &SimDisk) -> u64 {
    disk.operations().get(&Operation::Map).copied().unwrap_or(0)
}

/// The file of the first segment. Keys 0 to 39 lie in it and keys from 60 on do not, because each
/// takes 80 of its 4,096 bytes.
const FIRST: &str = "0000000001.seg";
const IN_FIRST: std::ops::Range<u32> = 0..40;
const ELSEWHERE: std::ops::Range<u32> = 60..400;

#[test]
fn open_does_equal_work_for_any_number_of_segments() {
    let counts = [200, 2000].map(|keys| {
        let (disk, map, segments) = closed(keys);
        let before = disk.operations();
        let store = open(&disk);
        assert!(store.recovery_report().checkpoint_seq.is_some());
        let done: u64 = disk.operations().values().sum::<u64>() - before.values().sum::<u64>();
        // The control page, and the last segment with the preallocated ones.
        let opened = maps(&disk);
        store.get(key(0)).unwrap().unwrap();
        assert_eq!(maps(&disk), opened + 1, "mapped by the first read");
        store.get(key(1)).unwrap().unwrap();
        assert_eq!(maps(&disk), opened + 1, "and only by that");
        rest(&store);
        let all = maps(&disk);
        assert!(all > opened + 1 && all - opened <= segments as u64, "{segments} segments: {opened}, {all}");
        check(&store, &map);
        assert_eq!(maps(&disk), all, "the background had mapped them all");
        (done, segments)
    });
    let [(few, of_few), (many, of_many)] = counts;
    assert!(of_many > 8 * of_few / 2, "{of_few} and {of_many}");
    // A preallocated segment is opened, read and mapped.
    assert!(few.abs_diff(many) <= 3, "{few} operations for {of_few} segments, {many} for {of_many}");
}

#[test]
fn every_kind_of_read_maps_the_segment_it_needs() {
    let (disk, map, _) = closed(400);
    let ways: [fn(&Store); 9] = [
        |store| assert!(store.contains_key(key(0)).unwrap()),
        |store| assert_eq!(store.get(key(0)).unwrap().unwrap(), value(0, 0)),
        |store| assert_eq!(store.multi_get(&[key(0), key(399)]).unwrap()[0].as_deref(), Some(&*value(0, 0))),
        |store| assert_eq!(store.iter().count(), 400),
        |store| assert_eq!(store.snapshot().get(key(0)).unwrap().unwrap(), value(0, 0)),
        |store| assert!(!store.insert_if_absent(key(0), "other").unwrap()),
        |store| {
            assert!(store.compare_and_swap(key(0), Some(&value(0, 0)), Some(&value(0, 0))).unwrap().is_ok())
        },
        |store| store.prefetch(&[key(0)]),
        |store| drop(store.try_get(key(0)).unwrap()),
    ];
    for (number, way) in ways.iter().enumerate() {
        let disk = disk.kill();
        let store = open(&disk);
        let opened = maps(&disk);
        way(&store);
        // A prefetch need not map the segment.
        assert!(maps(&disk) > opened || number == 7, "way {number}");
        check(&store, &map);
    }
}

#[test]
fn unmappable_segment_fails_only_the_reads_that_need_it() {
    let (disk, mut map, _) = closed(400);
    for operation in [Operation::Open, Operation::Read, Operation::Map] {
        let disk = disk.kill();
        let store = open(&disk);
        disk.fail_nth(Some(operation), 1, Fault::Io, true);
        for _ in 0..2 {
            let error = store.get(key(0)).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{operation:?}: {error}");
        }
        assert!(store.iter().any(|item| item.is_err()), "{operation:?}");
        assert!(store.snapshot().get(key(0)).is_err(), "{operation:?}");
        assert!(store.insert(key(0), "not known to be new").is_err(), "{operation:?}");
        assert!(store.remove(key(0)).is_err(), "{operation:?}");
        disk.clear_faults();
        // The next read tries again.
        check(&store, &map);
    }
    // The background skips a segment that it cannot map, and does not try for ever.
    let store = open(&disk);
    disk.fail_nth(Some(Operation::Map), 1, Fault::Io, false);
    rest(&store);
    assert_eq!(disk.faults_fired(), 1);
    insert(&store, &mut map, 0, 1);
    check(&store, &map);
}

#[test]
fn missing_segment_fails_open_and_wrong_one_fails_its_reads() {
    let (disk, map, _) = closed(400);
    let first = FIRST;
    let gone = disk.kill();
    gone.remove_file(first).unwrap();
    let refused = super::options().open_on(&gone);
    assert!(matches!(refused, Err(Error::MissingSegment { .. })), "{refused:?}");
    // A cut segment, one with a damaged header, another segment under its name, and the same
    // segment of another store.
    let (other, ..) = closed(400);
    let harms: [&dyn Fn(&SimDisk); 4] = [
        &|disk| disk.truncate(first, 100).unwrap(),
        &|disk| disk.rot_bit(first, 40, 3).unwrap(),
        &|disk| disk.put_file(first, &disk.read_file("0000000002.seg").unwrap()),
        &|disk| {
            let mut bytes = other.read_file(first).unwrap();
            bytes[20] ^= 1;
            disk.put_file(first, &bytes);
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        let disk = disk.kill();
        harm(&disk);
        let store = open(&disk);
        assert!(store.recovery_report().checkpoint_seq.is_some());
        rest(&store);
        for key_number in IN_FIRST {
            let error = store.get(key(key_number)).unwrap_err().to_string();
            assert!(error.contains(first), "harm {number}: {error}");
        }
        for key_number in ELSEWHERE {
            let there = map.get(key(key_number).as_slice());
            assert_eq!(store.get(key(key_number)).unwrap().as_deref(), there.map(Vec::as_slice));
        }
        assert!(store.verify().is_err(), "harm {number}");
        assert!(store.insert(key(0), "x").is_err(), "harm {number}: what is there is not known");
    }
}

#[test]
fn snapshot_reads_removed_segments_never_mapped_before() {
    let (disk, map, segments) = closed(400);
    let store = open(&disk);
    let opened = maps(&disk);
    let snapshot = store.snapshot();
    // A clear reads none of the records that it makes dead.
    store.clear().unwrap();
    assert_eq!(maps(&disk), opened);
    store.flush().unwrap();
    let report = store.compact().unwrap();
    assert!(report.segments_removed > segments as u64 / 2, "{report:?}");
    let files = disk.files();
    assert!(!files.contains(&FIRST.to_owned()), "{files:?}");
    for (key, value) in &map {
        assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(value.as_slice()));
    }
    assert_eq!(snapshot.iter().count(), map.len());
    assert!(store.is_empty());
    drop(snapshot);
    drop(store);
    assert!(open(&disk).is_empty());
}

#[test]
fn pass_loses_nothing_if_it_cannot_map_a_victim() {
    let (disk, map, _) = closed(400);
    let store = open(&disk);
    let snapshot = store.snapshot();
    store.clear().unwrap();
    store.flush().unwrap();
    disk.fail_nth(Some(Operation::Map), 1, Fault::Io, true);
    assert!(store.compact().is_err());
    disk.clear_faults();
    assert_eq!(snapshot.iter().count(), map.len());
    store.compact().unwrap();
    assert_eq!(snapshot.iter().count(), map.len());
    drop(snapshot);
    store.close().unwrap();
    assert!(open(&disk).is_empty());
}

/// The next owner of the store may remove segments that no read has mapped yet.
#[test]
fn snapshot_outlives_its_store_while_the_next_one_compacts() {
    let (disk, map, _) = closed(400);
    let store = open(&disk);
    let snapshot = store.snapshot();
    store.close().unwrap();
    let second = open(&disk);
    second.clear().unwrap();
    second.flush().unwrap();
    assert!(second.compact().unwrap().segments_removed > 0);
    assert!(!disk.files().contains(&FIRST.to_owned()));
    for (key, value) in &map {
        assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(value.as_slice()));
    }
    assert_eq!(snapshot.iter().count(), map.len());
}

/// A victim that belongs to another store stays. A missing one delays nothing.
#[test]
fn compaction_skips_a_victim_that_cannot_be_mapped() {
    let (clean, _, segments) = closed(400);
    let other = SimDisk::with_seed(77);
    let (store, _) = filled(&other, 400);
    store.close().unwrap();
    let foreign = clean.kill();
    foreign.put_file(FIRST, &other.read_file(FIRST).unwrap());
    let missing = clean.kill();
    for (disk, is_foreign) in [(foreign, true), (missing, false)] {
        let store = open(&disk);
        if !is_foreign {
            disk.remove_file(FIRST).unwrap();
        }
        store.clear().unwrap();
        store.flush().unwrap();
        // The failure is reported once.
        let failed = (0..3).filter(|_| store.compact().is_err()).count();
        assert_eq!(failed, usize::from(is_foreign));
        let stats = store.stats();
        assert_eq!(stats.compaction.damaged_segments, usize::from(is_foreign), "{stats:?}");
        assert!(stats.segments < segments / 2, "{stats:?}");
        assert_eq!(disk.files().contains(&FIRST.to_owned()), is_foreign);
        store.insert("a", "b").unwrap();
        store.close().unwrap();
    }
}
