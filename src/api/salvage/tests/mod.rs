//! Tests that compare a salvage with an open, and with the contents before the damage.

mod accounts;
mod damages;
mod history;
mod truth;

use self::history::{Contents, History, contents, disk_of, files_of, options};
use super::report::{Damage, DamageCause, SalvageReport};
use super::{SALVAGE_UNFINISHED, salvage_on};
use crate::error::Error;
use crate::fs::sim::{Fault, Seeded, SimDisk, Tears};

/// Salvages a disk, and returns the report and the copied contents.
fn rescue(damaged: &SimDisk) -> Result<(SalvageReport, Contents), Error> {
    let into = options().segment_bytes(1 << 16).open_on(&SimDisk::with_seed(5))?;
    let report = salvage_on(damaged, &into)?;
    let found = contents(&into);
    let keys: usize = found.values().map(|content| content.len()).sum();
    assert_eq!(report.keys, keys as u64, "the report counts the keys");
    assert_eq!(report.keyspaces, found.keys().cloned().collect::<Vec<_>>());
    Ok((report, found))
}

/// Compares the copied contents with those that an open of the same files shows.
fn compare(one: &SimDisk, same: &SimDisk, what: &str) {
    let opened = options().open_on(one).map(|store| contents(&store));
    let rescued = rescue(same);
    match (opened, rescued) {
        (Ok(expected), Ok((report, found))) => {
            assert_eq!(found, expected, "{what}: {report:?}");
            // A kill may leave one copy of the manifest missing or half written.
            let is_torn = |damage: &Damage| damage.path.to_string_lossy().contains("MANIFEST");
            assert!(report.intact && report.damage.iter().all(is_torn), "{what}: {report:?}");
            assert_eq!(report.doubtful_keys, 0, "{what}");
        }
        // Nothing was ever stored.
        (Ok(expected), Err(Error::NotFound { .. })) => assert_eq!(expected, Contents::new(), "{what}"),
        (opened, rescued) => panic!("{what}: {:?} {:?}", opened.err(), rescued.err()),
    }
}

fn cases(small: u64, name: &str) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(small)
}

#[test]
fn salvage_of_a_killed_store_equals_its_open() {
    // Retired segments of an interrupted pass once returned removed keys.
    for seed in 0..cases(600, "MAPCASK_DAMAGES").div_ceil(100) {
        let mut history = History::new(seed);
        for _ in 0..150 {
            history.step();
        }
        let disk = history.disk.clone();
        let points: Vec<_> = disk.points().into_iter().map(|(position, _)| position).collect();
        let positions = disk.positions();
        for n in 0..12 {
            let all = if n % 2 == 0 { &points } else { &positions };
            let at = all[history.rng.usize(0..all.len())];
            let point = disk.crash_point(at, Tears::Any);
            compare(&point.kill(), &point.kill(), &format!("seed {seed}, killed at {at:?}"));
            let cut = |seed| point.cut_power(&mut Seeded::new(seed));
            compare(&cut(n), &cut(n), &format!("seed {seed}, power cut at {at:?}, {n}"));
        }
    }
}

#[test]
fn salvage_after_failed_operations_equals_an_open() {
    for seed in 0..cases(1000, "MAPCASK_DAMAGES").div_ceil(50) {
        let mut history = History::new(1000 + seed);
        for _ in 0..60 {
            history.step();
        }
        let nth = history.rng.u64(1..150);
        let fault = [Fault::Io, Fault::NoSpace, Fault::Short][history.rng.usize(0..3)];
        history.disk.fail_nth(None, nth, fault, history.rng.bool());
        for _ in 0..60 {
            history.step();
        }
        let [one, same] = [history.disk.kill(), history.disk.kill()];
        compare(&one, &same, &format!("seed {seed}, {fault:?} at operation {nth}"));
    }
}

#[test]
fn interrupted_salvage_is_recognised_and_repeated() {
    let mut history = History::new(7);
    for _ in 0..150 {
        history.step();
    }
    let store = history.store.take().or_else(|| options().open_on(&history.disk).ok()).expect("whole");
    let expected = contents(&store);
    store.close().expect("nothing is wrong");
    let files = files_of(&history.disk);
    let into = SimDisk::with_seed(5);
    let rescued = options().open_on(&into).expect("a new store");
    let first = salvage_on(&disk_of(&files, None), &rescued).expect("nothing is wrong");
    assert_eq!(contents(&rescued), expected);
    drop(rescued);
    let mut unfinished = 0;
    for at in into.positions().into_iter().step_by(7) {
        let killed = into.crash_point(at, Tears::None).kill();
        let rescued = options().open_on(&killed).expect("a kill leaves a store that opens");
        let is_marked = rescued.keyspace_names().contains(&SALVAGE_UNFINISHED.to_owned());
        let found = contents(&rescued);
        let has_data = found.keys().any(|name| name != SALVAGE_UNFINISHED);
        // A store with any salvaged data has the mark as well, or everything.
        assert!(is_marked || !has_data || found == expected, "{at:?}");
        unfinished += u64::from(is_marked);
        let again = salvage_on(&disk_of(&files, None), &rescued).expect("it is done again");
        assert_eq!(again, first, "{at:?}");
        assert_eq!(contents(&rescued), expected, "{at:?}");
    }
    assert!(unfinished > 5, "{unfinished}");
}

#[test]
fn salvage_loses_only_the_records_of_an_unreadable_page() {
    let disk = SimDisk::with_seed(1);
    let store =
        options().segment_bytes(64 << 10).checkpoint_bytes(u64::MAX).open_on(&disk).expect("a new store");
    for n in 0..200u32 {
        store.insert(n.to_le_bytes(), [7; 500]).expect("there is room");
    }
    store.close().expect("nothing is wrong");
    let files = files_of(&disk);
    for (name, bytes) in &files {
        for page in 0..bytes.len().div_ceil(4096) as u64 {
            let damaged = disk_of(&files, None);
            damaged.make_unreadable(name, page * 4096, 1).expect("it is there");
            let (report, found) = rescue(&damaged).expect("the rest can be read");
            let keys = found[""].len();
            // A page holds at most nine records of 536 bytes, or parts of them.
            assert!(keys >= 191, "{name} {page}: {keys} keys, {report:?}");
            let is_unreadable = |cause: &DamageCause| matches!(cause, DamageCause::Unreadable(_));
            let line = report.damage.iter().find(|damage| is_unreadable(&damage.cause));
            assert!(keys == 200 || line.is_some_and(|line| line.path.ends_with(name)), "{name} {page}");
            let missing = report.damage.iter().filter_map(|damage| damage.missing);
            let missing: u64 = missing.map(|(first, last)| last - first + 1).sum();
            if keys < 200 && page > 0 {
                // The log's own records have sequence numbers as well.
                let lost = 200 - keys as u64;
                assert!((lost..=lost + 3).contains(&missing), "{name} {page}: {missing}, {report:?}");
            }
        }
    }
}
