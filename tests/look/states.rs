//! Tests of read-only opens in every state that a process, a power cut or damage can leave on a
//! simulated disk.

use mapcask::sim::{Fault, Operation, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Store};

use super::contents::{Contents, held};

/// The contents, statistics and recovery report of a store.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    keyspaces: Contents,
    last_seq: u64,
    durable_seq: u64,
    keys: u64,
    live_bytes: u64,
    checkpoint_bytes: u64,
    clean: bool,
    incarnation: u64,
    records: u64,
    torn_bytes: u64,
    quarantined_records: u64,
}

pub(crate) fn options() -> Options {
    Options::new().background(false).segment_bytes(8192)
}

pub(crate) fn read_only() -> Options {
    options().read_only(true)
}

pub(crate) fn fill(store: &Store, keys: u8, len: usize) {
    for n in 0..keys {
        store.insert([n], vec![n; len]).unwrap();
    }
}

/// Reads everything in every way.
fn shown(store: &Store) -> Shown {
    let (keyspaces, stats, report) = (held(store), store.stats(), store.recovery_report());
    let snapshot = store.snapshot();
    assert_eq!(snapshot.iter().count(), keyspaces[""].len());
    let verified = store.verify().unwrap();
    assert!(verified.keys >= stats.keys, "{verified:?}");
    store.size_on_disk().unwrap();
    Shown {
        keyspaces,
        last_seq: stats.last_seq,
        durable_seq: stats.durable_seq,
        keys: stats.keys,
        live_bytes: stats.live_bytes,
        checkpoint_bytes: stats.checkpoint_bytes,
        clean: report.clean,
        incarnation: report.incarnation,
        records: report.records,
        torn_bytes: report.torn_bytes,
        quarantined_records: report.quarantined_records,
    }
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Opens a disk read-only, twice at once, and then for writing. Checks that all opens show the
/// same, and that the read-only opens changed nothing.
fn look_and_open(disk: &SimDisk, state: &str) -> Shown {
    let (position, before) = (disk.position(), files(disk));
    let operations = disk.operations();
    let looked = {
        let one = read_only().open_on(disk).unwrap_or_else(|error| panic!("{state}: {error}"));
        let other = read_only().open_on(disk).unwrap();
        assert!(matches!(options().open_on(disk), Err(Error::Locked { pid: None, .. })), "{state}");
        let looked = shown(&one);
        assert_eq!(looked, shown(&other), "{state}");
        one.close().unwrap();
        looked
    };
    assert!(disk.position() == position, "{state}: something happened on the disk");
    assert!(files(disk) == before, "{state}: files have changed");
    let reads = [Operation::Open, Operation::Read, Operation::Map, Operation::List, Operation::Lock];
    for (operation, count) in disk.operations() {
        let was = operations.get(&operation).copied().unwrap_or(0);
        assert!(reads.contains(&operation) || count == was, "{state}: {operation:?}");
    }
    assert_eq!(disk.open_files(), 0, "{state}");
    let store = options().open_on(disk).unwrap_or_else(|error| panic!("{state}: {error}"));
    assert_eq!(looked, shown(&store), "{state}");
    looked
}

/// Runs a store through rolls, batches, keyspaces, removals, compaction, checkpoints and closes.
pub(crate) fn live(disk: &SimDisk, durability: Durability) {
    for round in 0..3_u8 {
        let store = options().durability(durability).open_on(disk).unwrap();
        let other = store.keyspace("other").unwrap();
        for n in 0..12_u8 {
            store.insert([n], [n ^ round; 900]).unwrap();
            other.insert([n], [round; 20]).unwrap();
        }
        let mut batch = mapcask::WriteBatch::new();
        batch.insert("batch", [round]);
        batch.remove([3]);
        batch.on(&other).insert("batch", [round]);
        store.write(&batch).unwrap();
        store.keyspace("gone").unwrap().insert("a", "1").unwrap();
        match round {
            0 => {
                store.flush().unwrap();
                store.drop_keyspace("gone").unwrap();
                assert!(store.take_checkpoint().unwrap());
            }
            1 => {
                store.compact().unwrap();
                other.clear().unwrap();
            }
            _ => while store.step().unwrap() {},
        }
        store.close().unwrap();
    }
}

/// Checks every `share`th moment of that run, after a kill and after two power cuts.
fn every_moment(durability: Durability, share: usize) {
    let disk = SimDisk::new();
    live(&disk, durability);
    let positions = disk.positions();
    let mut empty = 0;
    for (at, position) in positions.iter().enumerate().step_by(share) {
        let point = disk.crash_point(*position, Tears::Any);
        let cut = |seed| point.cut_power(&mut Seeded::new(seed));
        for (how, left) in [("killed", point.kill()), ("cut", cut(1)), ("cut otherwise", cut(2))] {
            let state = format!("{durability:?}, moment {at} of {}, {how}", positions.len());
            if !matches!(read_only().open_on(&left), Err(Error::NotFound { .. })) {
                look_and_open(&left, &state);
                continue;
            }
            // At this moment the store did not exist yet, and a read-only open does not create it.
            empty += 1;
            assert!(options().open_on(&left).unwrap().is_empty(), "{state}");
        }
    }
    assert!(empty > 0 && empty < positions.len(), "{empty} of {}", positions.len());
}

#[test]
fn read_only_open_shows_the_same_as_open_at_every_moment() {
    let share = std::env::var("MAPCASK_LOOKS").map_or(97, |share| share.parse().unwrap());
    every_moment(Durability::Os, share);
    every_moment(Durability::Disk, share);
}

#[test]
fn read_only_open_shows_the_same_as_open_after_crashed_open() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, 20, 900);
    let killed = disk.kill();
    let before = killed.positions().len();
    let store = options().open_on(&killed).unwrap();
    store.insert("after", "it").unwrap();
    store.flush().unwrap();
    let positions = killed.positions();
    assert!(positions.len() > before + 10);
    for (at, position) in positions.iter().enumerate().step_by(2) {
        let left = killed.crash_at(*position, Tears::None, &mut Seeded::new(at as u64));
        look_and_open(&left, &format!("moment {at} of an open"));
        look_and_open(&killed.crash_point(*position, Tears::None).kill(), &format!("moment {at}, killed"));
    }
}

/// The log has a gap with complete records after it, which an open for writing copies or renames.
#[test]
fn read_only_open_quarantines_nothing() {
    let (mut with_records, mut torn) = (0, 0);
    for seed in 0..24 {
        let disk = SimDisk::new();
        let store = options().open_on(&disk).unwrap();
        store.insert("first", "1").unwrap();
        store.flush().unwrap();
        fill(&store, 14, 1500);
        let left = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(seed));
        let shown = look_and_open(&left, &format!("cut {seed}"));
        with_records += u32::from(shown.quarantined_records > 0);
        torn += u32::from(shown.torn_bytes > 0);
    }
    assert!(with_records > 3 && torn > 3, "{with_records} with records behind a hole, {torn} torn");
}

#[test]
fn read_only_open_rebuilds_damaged_checkpoint_in_memory() {
    let disk = SimDisk::new();
    live(&disk, Durability::Os);
    let image = disk.files().into_iter().find(|name| name.starts_with("INDEX-")).unwrap();
    let len = disk.read_file(&image).unwrap().len();
    for at in (0..len).step_by(len / 20) {
        let left = disk.kill();
        let mut bytes = left.read_file(&image).unwrap();
        bytes[at] ^= 1;
        left.put_file(&image, &bytes);
        // Some damage is found by the open, and some by a later read.
        let position = left.position();
        let looked = read_only().open_on(&left).unwrap();
        assert_eq!(held(&looked)[""].len(), 12, "byte {at}");
        looked.verify().unwrap();
        drop(looked);
        assert!(left.position() == position, "byte {at}");
    }
}

#[test]
fn read_only_open_refuses_damage_as_other_opens_do() {
    let disk = SimDisk::new();
    let store = options().durability(Durability::Disk).open_on(&disk).unwrap();
    fill(&store, 20, 900);
    let name = disk.files().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    let mut refused = 0;
    for at in (0..8192).step_by(197) {
        let left = disk.kill();
        let mut bytes = left.read_file(&name).unwrap();
        bytes[at] ^= 1;
        left.put_file(&name, &bytes);
        let position = left.position();
        let looked = read_only().open_on(&left).map(|store| held(&store)).map_err(|error| error.to_string());
        assert!(left.position() == position, "byte {at}");
        let opened = options().open_on(&left).map(|store| held(&store)).map_err(|error| error.to_string());
        assert_eq!(looked, opened, "byte {at}");
        refused += u32::from(opened.is_err());
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn read_only_open_succeeds_with_one_copy_of_the_manifest() {
    for name in ["MANIFEST.0", "MANIFEST.1"] {
        for damage in [None, Some(Vec::new()), Some(vec![0; 4096])] {
            let disk = SimDisk::new();
            live(&disk, Durability::Os);
            let left = disk.kill();
            match &damage {
                None => left.remove_file(name).unwrap(),
                Some(bytes) => left.put_file(name, bytes),
            }
            look_and_open(&left, &format!("{name}, {damage:?}"));
        }
    }
}

#[test]
fn read_only_open_refuses_a_store_being_destroyed() {
    let disk = SimDisk::new();
    live(&disk, Durability::Os);
    let before = disk.positions().len();
    mapcask::destroy_on(&disk).unwrap();
    let (mut refused, mut gone) = (0, 0);
    for position in disk.positions().into_iter().skip(before) {
        let left = disk.crash_point(position, Tears::None).kill();
        let position = left.position();
        match read_only().open_on(&left) {
            Ok(store) => assert!(!held(&store).is_empty()),
            Err(Error::Destroying { .. }) => refused += 1,
            Err(Error::NotFound { .. }) => gone += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(left.position() == position);
    }
    assert!(refused > 3 && gone > 0, "{refused} refused, {gone} gone");
}

/// Other files have filled the disk.
#[test]
fn read_only_open_reads_a_killed_store_on_a_full_disk() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    fill(&store, 20, 900);
    let killed = disk.kill();
    killed.fail_nth(Some(Operation::Allocate), 1, Fault::NoSpace, true);
    killed.fail_nth(Some(Operation::Write), 1, Fault::NoSpace, true);
    killed.fail_nth(Some(Operation::Create), 1, Fault::NoSpace, true);
    let looked = read_only().open_on(&killed).unwrap();
    assert_eq!(held(&looked)[""].len(), 20);
}

#[test]
fn read_only_open_is_refused_while_a_writer_is_open() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    store.insert("a", "1").unwrap();
    let pid = std::process::id();
    match read_only().open_on(&disk) {
        Err(Error::Locked { pid: Some(found), .. }) => assert_eq!(found, pid),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    let looked = read_only().open_on(&disk).unwrap();
    assert!(matches!(mapcask::destroy_on(&disk), Err(Error::Locked { pid: None, .. })));
    drop(looked);
    mapcask::destroy_on(&disk).unwrap();
}
