//! Followers that become the writer of their store, on a simulated disk.

use std::time::Duration;

use mapcask::sim::SimDisk;
use mapcask::{Error, Options, Wait, WriterStatus};

use super::{assert_same, follow, held, open, options};

#[test]
fn standby_takes_over_a_closed_store() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for n in 0..50_u32 {
        store.insert(n.to_le_bytes(), [7; 100]).unwrap();
    }
    store.keyspace("users").unwrap().insert("anna", "admin").unwrap();
    let standby = follow(&disk);
    let other = follow(&disk);
    let before = held(&store);
    store.close().unwrap();
    let store = standby.take_over(options(), None).unwrap();
    assert!(store.recovery_report().clean);
    assert_eq!(held(&store), before);
    assert_eq!(other.writer_status().unwrap(), WriterStatus::Open);
    store.insert("late", "1").unwrap();
    store.compact().unwrap();
    assert_same(&standby, &store);
    assert_same(&other, &store);
}

#[test]
fn standby_is_refused_while_there_is_a_writer_and_goes_on() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let standby = follow(&disk);
    store.insert("a", "1").unwrap();
    let refused = standby.take_over(options(), Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
    assert_same(&standby, &store);
    store.close().unwrap();
    let store = standby.take_over(options(), Some(Duration::ZERO)).unwrap();
    let refused = standby.take_over(options(), Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "one writer, also in one process: {refused:?}");
    let refused = standby.take_over(options().read_only(true), None).unwrap_err();
    assert!(matches!(refused, Error::InvalidOption { option: "read_only", .. }), "{refused:?}");
    store.insert("a", "2").unwrap();
    assert_same(&standby, &store);
}

/// Kills the writer at each of its crash points, and lets a standby take over.
#[test]
fn standby_takes_over_after_a_kill_at_each_point() {
    let history = |disk: &SimDisk| {
        let store = open(disk);
        for n in 0..30_u8 {
            store.insert([n % 5], vec![n; 300]).unwrap();
            if n % 10 == 9 {
                store.compact().unwrap();
                store.flush().unwrap();
            }
        }
        store
    };
    let disk = SimDisk::new();
    drop(history(&disk));
    let mut taken = 0;
    for at in disk.positions().into_iter().step_by(3) {
        let killed = disk.crash_point(at, mapcask::sim::Tears::None).kill();
        // Before the first manifest there is no store to follow.
        let Ok(standby) = options().follow_on(&killed) else { continue };
        let shown: Vec<_> = standby.iter().map(Result::unwrap).map(|(key, _)| key.to_vec()).collect();
        let store = standby.take_over(options(), None).unwrap_or_else(|error| panic!("{at:?}: {error}"));
        for key in shown {
            assert!(store.contains_key(&key).unwrap(), "{at:?}: a key that was shown is there");
        }
        let seq = store.insert("after", "1").unwrap();
        assert!(seq > standby.last_seq() || standby.refresh().unwrap().seq >= seq, "{at:?}: numbers rise");
        assert_same(&standby, &store);
        taken += 1;
    }
    assert!(taken > 30, "{taken} take-overs");
}

#[test]
fn store_that_was_replaced_is_not_taken_over() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let standby = follow(&disk);
    store.close().unwrap();
    mapcask::destroy_on(&disk).unwrap();
    let error = standby.take_over(Options::new(), None).unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error:?}");
    let other = open(&disk);
    other.insert("a", "1").unwrap();
    std::mem::forget(other);
    let before = disk.position();
    // It waits for no writer of another store, and recovers none.
    let error = standby.take_over(Options::new(), None).unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error:?}");
    assert!(disk.position() == before);
}

#[test]
fn standby_that_refreshes_by_itself_follows_its_own_writer() {
    let disk = SimDisk::new();
    open(&disk).close().unwrap();
    let standby = follow(&disk);
    let refreshing = standby.auto_refresh(Wait::Sleep).unwrap();
    let store = standby.take_over(options(), None).unwrap();
    for n in 0..100_u32 {
        store.insert("a", n.to_le_bytes()).unwrap();
        assert!(standby.wait(mapcask::Seq(store.last_seq().0 - 1), Duration::from_secs(60)).unwrap());
        assert_eq!(standby.get("a").unwrap().as_deref(), Some(&n.to_le_bytes()[..]));
    }
    assert_eq!(refreshing.error().map(|error| error.to_string()), None);
}
