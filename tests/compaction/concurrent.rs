//! Tests of compaction beside writers and other compactions, in closed and poisoned stores, and
//! with callers that cancel it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Error, Options, Store};

use super::{contents, directory};

const WRITERS: u32 = 4;
const KEYS: u32 = 100;

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

fn key(writer: u32, n: u32) -> Vec<u8> {
    [writer, n].map(u32::to_le_bytes).concat()
}

fn value(round: u32) -> Vec<u8> {
    round.to_le_bytes().repeat(20)
}

/// Writes every key of a writer in each round, and removes some.
fn write(store: &Store, writer: u32, rounds: u32) {
    for round in 0..rounds {
        for n in 0..KEYS {
            store.insert(key(writer, n), value(round)).unwrap();
        }
        for n in (0..KEYS).filter(|n| n % 7 == round % 7) {
            assert!(store.remove(key(writer, n)).unwrap());
        }
    }
}

fn expected(rounds: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let round = rounds - 1;
    let of =
        |writer| (0..KEYS).filter(move |n| n % 7 != round % 7).map(move |n| (key(writer, n), value(round)));
    (0..WRITERS).flat_map(of).collect()
}

#[test]
fn concurrent_compactions_and_writers_lose_nothing() {
    for background in [false, true] {
        let directory = directory();
        let store = options().background(background).open(directory.path().join("store")).unwrap();
        let done = AtomicBool::new(false);
        let passes = thread::scope(|scope| {
            let compactions: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut passes = 0;
                        while !done.load(SeqCst) {
                            passes += store.compact().unwrap().passes;
                        }
                        passes
                    })
                })
                .collect();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn({
                        let store = store.clone();
                        move || write(&store, writer, 40)
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, SeqCst);
            compactions.into_iter().map(|compaction| compaction.join().unwrap()).sum::<u64>()
        });
        assert!(passes > 0);
        assert_eq!(contents(&store), expected(40));
        store.compact().unwrap();
        assert_eq!(store.compact().unwrap().passes, 0);
        assert_eq!(contents(&store), expected(40));
        store.verify().unwrap();
        store.clone().close().unwrap();
        assert!(matches!(store.compact(), Err(Error::Closed)));
        let store = options().open(directory.path().join("store")).unwrap();
        assert_eq!(contents(&store), expected(40));
    }
}

#[test]
fn a_poisoned_store_refuses_to_compact_and_keeps_what_it_has() {
    let disk = SimDisk::new();
    let store = options().background(false).open_on(&disk).unwrap();
    (0..WRITERS).for_each(|writer| write(&store, writer, 5));
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    let first = store.compact().unwrap_err();
    assert!(matches!(first, Error::Poisoned { .. }), "{first:?}");
    disk.clear_faults();
    let again = store.compact().unwrap_err();
    assert_eq!(again.to_string(), first.to_string());
    assert_eq!(contents(&store), expected(5));
    drop(store);
    let store = options().background(false).open_on(&disk).unwrap();
    assert_eq!(contents(&store), expected(5));
    store.compact().unwrap();
    assert_eq!(contents(&store), expected(5));
}

#[test]
fn cancelled_compaction_leaves_no_unnamed_files() {
    for limit in 1.. {
        let disk = SimDisk::new();
        let store = options().background(false).open_on(&disk).unwrap();
        (0..WRITERS).for_each(|writer| write(&store, writer, 5));
        let mut calls = 0;
        let report = store.compact_with(|_| {
            calls += 1;
            calls != limit
        });
        let report = report.unwrap();
        assert!(!store.stats().compaction.running);
        let named = store.stats().segments;
        let files = disk.files();
        assert_eq!(
            files.iter().filter(|name| name.ends_with(".seg")).count(),
            named,
            "call {limit}: {files:?}"
        );
        assert!(!files.iter().any(|name| name.ends_with(".tmp")), "call {limit}: {files:?}");
        assert_eq!(contents(&store), expected(5), "call {limit}");
        let killed = options().background(false).open_on(&disk.kill()).unwrap();
        assert_eq!(contents(&killed), expected(5), "call {limit}");
        let rest = store.compact().unwrap();
        assert_eq!(contents(&store), expected(5), "call {limit}");
        assert_eq!(store.compact().unwrap().passes, 0);
        assert!(report.passes + rest.passes > 0);
        if calls < limit {
            assert!(limit > 5, "it was asked {calls} times");
            break;
        }
    }
}

/// Cause: the second half of a compaction drops tombstones that are no longer needed, and also took
/// segments made meanwhile. Symptom: `compact` did not return beside a writer that removes, such as
/// a queue. Fix: the second half takes only the segments that exist when it begins.
#[test]
fn compact_returns_beside_a_writer_that_removes() {
    /// Far more writes than happen during a compaction that ends.
    const WRITES: u32 = 400_000;
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    write(&store, 0, 5);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..WRITES).find(|n| {
                store.insert(key(9, *n), "").unwrap();
                store.remove(key(9, *n)).unwrap();
                ended.load(SeqCst)
            })
        });
        assert!(store.compact().unwrap().passes > 0);
        ended.store(true, SeqCst);
        assert!(writer.join().unwrap().is_some(), "it went on for as long as the writer removed");
    });
}

/// Returns a store with dead records in several segments.
fn with_dead_records() -> Store {
    let store = options().background(false).open_on(&SimDisk::new()).unwrap();
    write(&store, 0, 20);
    store
}

#[test]
fn worker_stands_aside_while_a_callback_runs() {
    let store = with_dead_records();
    let report = store.compact_with(|_| {
        let before = store.stats().compaction.passes;
        while store.step().unwrap() {}
        assert_eq!(store.stats().compaction.passes, before, "a pass ended within the callback");
        true
    });
    assert!(report.unwrap().passes > 0);
}

/// The worker stands aside for the compaction, so no other thread would finish the pass.
#[test]
fn compaction_finishes_a_pass_that_a_writer_began_within_it() {
    let store = options().open_on(&SimDisk::new()).unwrap();
    write(&store, 0, 20);
    let (mut has_begun, mut passes) = (false, 0);
    let report = store.compact_with(|_| {
        let before = store.stats().compaction.passes;
        // Writes beyond the bound of the log end the pass under way, and begin another one.
        while !has_begun {
            store.insert("often", [7; 2000]).unwrap();
            let now = store.stats().compaction;
            has_begun = now.passes > before && now.running;
        }
        passes = store.stats().compaction.passes;
        true
    });
    assert!(report.unwrap().passes > 0 && has_begun);
    assert!(store.stats().compaction.passes > passes, "it ended with a pass under way");
}

#[test]
fn report_counts_a_pass_that_ended_within_the_callback() {
    let store = with_dead_records();
    let before = store.stats().compaction.passes;
    let mut inner = None;
    let outer = store.compact_with(|_| {
        if inner.is_none() {
            inner = Some(store.compact().unwrap().passes);
        }
        true
    });
    let passes = outer.unwrap().passes + inner.expect("the callback ran");
    assert!(passes > 0);
    assert_eq!(store.stats().compaction.passes - before, passes);
}

#[test]
fn compaction_fails_if_its_callback_closes_the_store() {
    let store = with_dead_records();
    let refused = store.compact_with(|_| {
        store.clone().close().unwrap();
        false
    });
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
}
