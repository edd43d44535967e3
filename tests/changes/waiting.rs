//! A feed that waits for the next change.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use mapcask::sim::{Fault, SimDisk};
use mapcask::{ChangeKind, Options, Since, WriteBatch};

/// The time after which a wait that should have ended has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(disk: &SimDisk) -> mapcask::Store {
    Options::new().segment_bytes(4096).background(false).open_on(disk).unwrap()
}

#[test]
fn feed_waits_for_each_change_across_segments() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Now).unwrap();
    assert!(changes.next_within(Duration::from_millis(2)).unwrap().is_none(), "nothing is written");
    thread::scope(|scope| {
        let (send, seen) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for _ in 0..300_u32 {
                let change = changes.next_within(PATIENCE).unwrap().expect("it comes");
                let ChangeKind::Insert { key, .. } = change.kind else { panic!("{change:?}") };
                send.send(u32::from_le_bytes(key.try_into().unwrap())).unwrap();
            }
        });
        for n in 0..300_u32 {
            store.insert(n.to_le_bytes(), [7; 100]).unwrap();
            if n % 3 == 0 {
                // The feed has read everything, and is about to wait.
                assert_eq!(seen.recv_timeout(PATIENCE), Ok(n));
            } else if n % 3 == 2 {
                let both = [0; 2].map(|_| seen.recv_timeout(PATIENCE));
                assert_eq!(both, [Ok(n - 1), Ok(n)]);
            }
        }
    });
    assert!(store.stats().segments > 5);
}

#[test]
fn feed_of_some_keyspaces_waits_over_changes_of_others() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let users = store.keyspace("users").unwrap();
    let mut changes = store.changes(Since::Now).unwrap().only(["users"]);
    for n in 0..50 {
        store.insert("other", "1").unwrap();
        let waits = changes.next_within(Duration::from_micros(100)).unwrap();
        assert_eq!(waits, None, "round {n}");
        let seq = users.insert("anna", "admin").unwrap();
        assert_eq!(changes.next_within(PATIENCE).unwrap().map(|change| change.seq), Some(seq));
    }
}

#[test]
fn feed_of_durable_changes_waits_for_the_sync() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::Now).unwrap().durable();
    for n in 0..20_u32 {
        let seq = store.insert("a", n.to_le_bytes()).unwrap();
        assert_eq!(changes.next_within(Duration::from_millis(1)).unwrap(), None, "it is not durable");
        thread::scope(|scope| {
            let waits = scope.spawn(|| changes.next_within(PATIENCE).unwrap().map(|change| change.seq));
            store.flush().unwrap();
            assert_eq!(waits.join().unwrap(), Some(seq));
        });
    }
}

#[test]
fn wait_returns_the_parts_of_a_batch_and_of_a_state_at_once() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let mut changes = store.changes(Since::State).unwrap();
    let kinds = |changes: &mut mapcask::Changes, count: usize| -> Vec<(bool, bool)> {
        let mut next = || {
            let change = changes.next_within(PATIENCE).unwrap().expect("it is there");
            (matches!(change.kind, ChangeKind::StateEnd), change.more)
        };
        (0..count).map(|_| next()).collect()
    };
    assert_eq!(kinds(&mut changes, 1), [(true, false)]);
    let mut batch = WriteBatch::new();
    for key in ["a", "b", "c"] {
        batch.insert(key, "1");
    }
    store.write(&batch).unwrap();
    assert_eq!(kinds(&mut changes, 3), [(false, true), (false, true), (false, false)]);
    assert_eq!(changes.next_within(Duration::ZERO).unwrap(), None);
}

#[test]
fn state_is_whole_after_an_error_in_the_middle() {
    let keys: BTreeSet<u32> = (0..3000).collect();
    let mut errors = 0;
    for nth in 1..40 {
        let disk = SimDisk::new();
        let store = open(&disk);
        for key in &keys {
            store.insert(key.to_le_bytes(), [7; 20]).unwrap();
        }
        let mut changes = store.changes(Since::State).unwrap();
        // New segments, which the feed maps while it reads the state.
        for n in 0..40_u32 {
            store.insert("new", vec![7; 500 + n as usize]).unwrap();
        }
        disk.fail_nth(None, nth, Fault::Io, false);
        let mut found = BTreeSet::new();
        loop {
            match changes.next() {
                Ok(Some(change)) => match change.kind {
                    ChangeKind::State { key, .. } => drop(found.insert(key.to_vec())),
                    ChangeKind::StateEnd => break,
                    other => panic!("{other:?}"),
                },
                Ok(None) => panic!("the state has an end"),
                Err(_) => errors += 1,
            }
        }
        let expected: BTreeSet<_> = keys.iter().map(|key| key.to_le_bytes().to_vec()).collect();
        assert!(found == expected, "{nth}: {} of {} keys", found.len(), expected.len());
    }
    assert!(errors > 5, "{errors} errors");
}
