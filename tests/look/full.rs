//! Tests of a killed store on a disk that other files have filled. It opens and can be read, and it
//! accepts writes once there is space.
//!
//! Cause: an open after a kill made a segment for the next writes, and failed if that was
//! impossible. Symptom: a service that was restarted on a full disk could not even read. Fix: the
//! log has no active segment until one can be made.

use std::collections::BTreeMap;

use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Resource, Store};

/// The number of small values, which exist to be removed.
const SMALL: u16 = 1000;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk) -> mapcask::Result<Store> {
    Options::new().background(false).segment_bytes(8192).open_on(disk)
}

fn content(store: &Store) -> Content {
    let pairs = store.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
    pairs.collect()
}

/// Returns a store with some segments and dead values, after a kill, and its contents.
fn killed() -> (SimDisk, Content) {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    for n in 0..30_u8 {
        store.insert([n % 10], [n; 1500]).unwrap();
    }
    for n in 0..SMALL {
        store.insert(n.to_le_bytes(), "small").unwrap();
    }
    store.flush().unwrap();
    store.insert("last", "1").unwrap();
    let content = content(&store);
    (disk.kill(), content)
}

/// Removes keys until no preallocated space is left, and kills the process again.
fn without_room(disk: &SimDisk) -> (SimDisk, Content) {
    let store = open(disk).unwrap();
    let refused = (0..SMALL).find(|n| is_refused(store.remove(n.to_le_bytes())));
    assert!(refused.is_some(), "there is room for every removal");
    store.flush().unwrap();
    let content = content(&store);
    (disk.kill(), content)
}

/// Returns true if a write is refused because space or a file is missing.
fn is_refused<T>(result: mapcask::Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(Error::NoSpace { .. } | Error::Exhausted { resource: Resource::Files, .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

/// The name of a shortage, and functions that begin and end it.
type Want = (&'static str, fn(&SimDisk), fn(&SimDisk));

/// The shortages of blocks and of files.
const WANTS: [Want; 2] = [
    ("blocks", |disk| disk.set_capacity(Some(0)), |disk| disk.set_capacity(None)),
    ("files", |disk| disk.set_limit(Resource::Files, Some(0)), |disk| disk.set_limit(Resource::Files, None)),
];

#[test]
fn killed_store_opens_and_reads_on_a_full_disk() {
    for (want, take, give) in WANTS {
        let (disk, _) = killed();
        take(&disk);
        let (mut disk, expected) = without_room(&disk);
        for round in 0..3 {
            take(&disk);
            let store = open(&disk).unwrap_or_else(|error| panic!("{want}, round {round}: {error}"));
            assert_eq!(content(&store), expected, "{want}");
            store.verify().unwrap();
            assert!(is_refused(store.insert("new", "1")), "{want}");
            assert!(is_refused(store.remove("last")), "{want}");
            store.flush().unwrap();
            assert_eq!(store.durable_seq(), store.last_seq());
            assert!(store.stats().segments > 1 && store.size_on_disk().unwrap() > 0);
            while store.step().is_ok_and(|more| more) {}
            assert_eq!(content(&store), expected, "{want}");
            match round {
                0 => disk = disk.kill(),
                1 => store.close().unwrap(),
                // Space becomes free while the store is open.
                _ => {
                    give(&disk);
                    store.insert("new", "1").unwrap();
                    store.flush().unwrap();
                    let mut expected = expected.clone();
                    expected.insert(b"new".to_vec(), b"1".to_vec());
                    let cut = disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(1));
                    assert_eq!(content(&open(&cut).unwrap()), expected, "{want}: what was flushed");
                    store.remove("last").unwrap();
                    expected.remove(b"last".as_slice());
                    let store = open(&disk.kill()).unwrap();
                    assert_eq!(content(&store), expected, "{want}: everything");
                    store.compact().unwrap();
                    store.verify().unwrap();
                }
            }
        }
    }
}

#[test]
fn killed_store_recovers_every_crash_after_a_full_disk() {
    let (disk, _) = killed();
    disk.set_capacity(Some(0));
    let (disk, expected) = without_room(&disk);
    let before = disk.positions().len();
    disk.set_capacity(Some(0));
    let store =
        Options::new().background(false).segment_bytes(8192).durability(Durability::Disk).open_on(&disk);
    let store = store.unwrap();
    assert!(is_refused(store.insert("new", "1")));
    disk.set_capacity(None);
    for n in 0..8_u8 {
        store.insert([b'n', b'-', n], [n; 1500]).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    let complete = content(&open(&disk.kill()).unwrap());
    let (mut least, mut most) = (usize::MAX, 0);
    for position in disk.positions().into_iter().skip(before).step_by(3) {
        let point = disk.crash_point(position, Tears::Any);
        for left in [point.kill(), point.cut_power(&mut Seeded::new(7))] {
            left.set_capacity(None);
            let store = open(&left).unwrap();
            let found = content(&store);
            store.verify().unwrap();
            // The state is a prefix of the new writes, on top of all earlier data.
            let new = (0..8_u8).take_while(|n| found.contains_key([b'n', b'-', *n].as_slice())).count();
            assert!(found.iter().all(|(key, value)| complete.get(key) == Some(value)));
            assert_eq!(found.len(), expected.len() + new);
            (least, most) = (least.min(new), most.max(new));
        }
    }
    assert_eq!((least, most), (0, 8));
}

#[test]
fn a_new_store_on_a_full_disk_is_refused() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(0));
    assert!(is_refused(open(&disk)));
}
