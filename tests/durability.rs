//! Tests when writes become durable: by level, handle, number and interval.
//!
//! The tests count syncs.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use mapcask::sim::{Fault, Operation, Script, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Seq, Store, WriteBatch};

fn options(durability: Durability) -> Options {
    Options::new().durability(durability).segment_bytes(4096).background(false)
}

/// Returns the store after a power cut now that loses everything it may.
fn after_a_cut(disk: &SimDisk) -> Store {
    let disk = disk.crash_at(disk.position(), Tears::Any, &mut Seeded::new(7));
    options(Durability::Os).open_on(&disk).unwrap()
}

#[test]
fn handle_raises_the_durability_of_its_writes_never_lowers_it() {
    let disk = SimDisk::new();
    let store = options(Durability::Os).open_on(&disk).unwrap();
    let durable = store.with_durability(Durability::Disk);
    let first = store.insert("a", "1").unwrap();
    assert!(store.durable_seq() < first);
    let syncs = store.stats().syncs;
    let second = durable.insert("b", "2").unwrap();
    assert!(store.durable_seq() >= second && second > first);
    assert_eq!(store.stats().syncs, syncs + 1);
    assert!(durable.with_durability(Durability::Os).remove("a").unwrap());
    assert_eq!(store.durable_seq(), store.last_seq());
    let found = after_a_cut(&disk);
    assert_eq!((found.len(), found.get("b").unwrap().as_deref()), (1, Some(b"2".as_slice())));
}

#[test]
fn every_write_through_a_durable_handle_survives_a_power_cut() {
    type Write = fn(&Store) -> mapcask::Result<()>;
    let kinds: [(&str, Write); 10] = [
        ("insert", |store| store.insert("key", "1").map(drop_seq)),
        ("remove", |store| store.remove("old").map(drop)),
        ("take", |store| store.take("old").map(drop)),
        ("replace", |store| store.replace("old", "2").map(drop)),
        ("insert_if_absent", |store| store.insert_if_absent("key", "1").map(drop)),
        ("compare_and_swap", |store| store.compare_and_swap("old", Some("0"), Some("1")).map(drop)),
        ("fetch_and_update", |store| store.fetch_and_update("old", |_| Some("2")).map(drop)),
        ("clear", |store| store.clear().map(drop_seq)),
        ("keyspace", |store| store.keyspace("a").map(drop)),
        ("batch", |store| {
            let mut batch = WriteBatch::new();
            batch.insert("key", "1");
            store.write(batch).map(drop_seq)
        }),
    ];
    for (name, write) in kinds {
        let disk = SimDisk::new();
        let store = options(Durability::Os).open_on(&disk).unwrap();
        store.insert("old", "0").unwrap();
        write(&store.with_durability(Durability::Disk)).unwrap();
        let content = |store: &Store| {
            let mut items: Vec<_> =
                store.iter().map(|item| item.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
            items.sort();
            (items, store.keyspace_names())
        };
        assert_eq!(content(&after_a_cut(&disk)), content(&store), "{name}");
    }
}

fn drop_seq(_: Seq) {}

/// Cause: a snapshot took the number of the log's last record, which after a flush is not a
/// write's. Symptom: `wait_durable(snapshot.seq())` was refused. Fix: every public number is that
/// of a write.
#[test]
fn every_number_that_is_given_out_can_be_waited_for() {
    type Write = fn(&Store) -> mapcask::Result<Option<Seq>>;
    // Watermarks and the first records of new segments lie between the writes.
    let writes: [(&str, Write); 9] = [
        ("nothing", |_| Ok(None)),
        ("insert", |store| store.insert("key", "1").map(Some)),
        ("a large value", |store| store.insert("large", [7; 6000]).map(Some)),
        ("write", |store| {
            let mut batch = WriteBatch::new();
            batch.insert("a", "1");
            batch.remove("key");
            store.write(batch).map(Some)
        }),
        ("an empty batch", |store| store.write(WriteBatch::new()).map(Some)),
        ("compare_and_swap", |store| Ok(store.compare_and_swap("a", Some("1"), Some("2"))?.ok())),
        ("keyspace", |store| store.keyspace("other").map(|_| None)),
        ("clear", |store| store.clear().map(Some)),
        ("clear of nothing", |store| store.clear().map(Some)),
    ];
    for reopened in [false, true] {
        let disk = SimDisk::new();
        let mut store = options(Durability::Os).open_on(&disk).unwrap();
        for (name, write) in writes {
            let written = write(&store).unwrap();
            for flushed in [false, true] {
                let snapshot = store.snapshot().seq();
                assert_eq!(snapshot, store.last_seq(), "{name}, flushed: {flushed}");
                assert!(written.is_none_or(|seq| seq <= snapshot), "{name}");
                let stats = store.stats();
                assert_eq!((Seq(stats.last_seq), Seq(stats.durable_seq)), (snapshot, store.durable_seq()));
                assert!(store.durable_seq() <= snapshot, "{name}, flushed: {flushed}");
                assert!(!flushed || store.durable_seq() == snapshot, "{name}");
                let unknown = store.wait_durable(Seq(snapshot.0 + 1));
                let report = store.recovery_report().durable_seq;
                assert!(
                    matches!(unknown, Err(Error::UnknownSeq { .. })) || report > snapshot.0,
                    "{name}, flushed: {flushed}: {unknown:?}"
                );
                for seq in written.into_iter().chain([snapshot, store.durable_seq(), Seq(report)]) {
                    store.wait_durable(seq).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                store.flush().unwrap();
            }
            if reopened {
                store.close().unwrap();
                store = options(Durability::Os).open_on(&disk).unwrap();
                store.wait_durable(store.last_seq()).unwrap();
            }
        }
    }
}

#[test]
fn a_flush_covers_the_page_that_it_begins_in() {
    let disk = SimDisk::new();
    let store = options(Durability::Os).segment_bytes(64 << 10).open_on(&disk).unwrap();
    // Each write begins where the last flush ended, in the middle of a page, and ends in another
    // page.
    for n in 0..12_u8 {
        store.insert([n], [n; 3000]).unwrap();
        store.flush().unwrap();
        let cut = disk.crash_at(disk.position(), Tears::None, &mut Script::new([]));
        let found = options(Durability::Os).segment_bytes(64 << 10).open_on(&cut).unwrap();
        assert_eq!(found.len(), usize::from(n) + 1);
        found.verify().unwrap();
    }
}

/// The sync of an unlinked file succeeds, and so does that of a file that lost its pages.
#[test]
fn flush_fails_if_its_file_was_removed_or_truncated() {
    type Harm = fn(&SimDisk, &str) -> std::io::Result<()>;
    let harms: [(&str, Harm); 2] =
        [("removed", |disk, name| disk.remove_file(name)), ("cut", |disk, name| disk.truncate(name, 4096))];
    for (what, harm) in harms {
        let disk = SimDisk::new();
        let store = options(Durability::Os).segment_bytes(64 << 10).open_on(&disk).unwrap();
        store.insert("a", "1").unwrap();
        store.flush().unwrap();
        store.insert("b", "2").unwrap();
        harm(&disk, "0000000001.seg").unwrap();
        let durable = store.durable_seq();
        let error = store.flush().expect_err(what);
        assert!(matches!(&error, Error::Poisoned { cause } if cause.is_corruption()), "{what}: {error}");
        assert_eq!(store.durable_seq(), durable, "{what}");
    }
}

/// After a plain error of a lost manifest write, a caller would try again and be believed.
#[test]
fn a_failed_sync_of_the_manifest_ends_all_writing() {
    let mut met = 0;
    for nth in 1.. {
        let disk = SimDisk::new();
        options(Durability::Os).open_on(&disk).unwrap().close().unwrap();
        let store = options(Durability::Os).open_on(&disk).unwrap();
        disk.fail_nth(Some(Operation::Sync), nth, Fault::Io, false);
        // The first change makes the recovered data durable, then marks the store open in both
        // copies.
        let first = store.insert("a", "1");
        if disk.faults_fired() == 0 {
            break;
        }
        if let Err(error) = first {
            assert!(matches!(error, Error::Poisoned { .. }), "sync {nth}: {error}");
            let again = store.insert("b", "2");
            assert!(matches!(again, Err(Error::Poisoned { .. })), "sync {nth}: {again:?}");
            met += 1;
        }
    }
    assert!(met >= 2, "{met}");
}

#[test]
fn waiting_for_a_number_makes_it_durable_with_one_sync_or_none() {
    let disk = SimDisk::new();
    let store = options(Durability::Os).open_on(&disk).unwrap();
    let numbers: Vec<Seq> = (0..5_u8).map(|n| store.insert([n], [n]).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(store.last_seq(), numbers[4]);
    let syncs = store.stats().syncs;
    store.wait_durable(numbers[2]).unwrap();
    assert!(store.durable_seq() >= numbers[2]);
    // A sync covers every record that exists when it begins.
    for number in numbers {
        store.wait_durable(number).unwrap();
    }
    assert_eq!(store.stats().syncs, syncs + 1);
    let next = Seq(store.last_seq().0 + 9);
    let unknown = store.wait_durable(next);
    assert!(matches!(unknown, Err(Error::UnknownSeq { .. })), "{unknown:?}");
    assert_eq!(store.stats().syncs, syncs + 1, "and nothing waits for it");
    let mut batch = WriteBatch::new();
    batch.insert("a", "1");
    batch.insert("b", "2");
    let last = store.write(&batch).unwrap();
    assert_eq!(last, store.last_seq());
    store.wait_durable(last).unwrap();
    assert_eq!(after_a_cut(&disk).len(), 7);
}

#[test]
fn write_is_synced_one_interval_after_a_step_notices_it() {
    let disk = SimDisk::new();
    let interval = Duration::from_millis(250);
    let store = options(Durability::Interval).sync_interval(interval).open_on(&disk).unwrap();
    while store.step().unwrap() {}
    let syncs = store.stats().syncs;
    let first = store.insert("a", "1").unwrap();
    // The step notices the write, and the interval begins.
    while store.step().unwrap() {}
    disk.advance_clock(interval - Duration::from_nanos(1));
    let second = store.insert("b", "2").unwrap();
    while store.step().unwrap() {}
    assert_eq!(store.stats().syncs, syncs);
    disk.advance_clock(Duration::from_nanos(1));
    while store.step().unwrap() {}
    assert_eq!(store.stats().syncs, syncs + 1);
    assert!(store.durable_seq() >= second && second > first);
    assert_eq!(after_a_cut(&disk).len(), 2);
    // Without a write there is nothing to sync, however long the clock runs.
    disk.advance_clock(interval * 100);
    while store.step().unwrap() {}
    assert_eq!(store.stats().syncs, syncs + 1);
}

#[test]
fn flushes_from_several_threads_share_syncs() {
    const THREADS: usize = 8;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Options::new().background(false).open(directory.path()).unwrap();
    let syncs = store.stats().syncs;
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                for round in 0..20_u32 {
                    let seq = store.insert(n.to_le_bytes(), round.to_le_bytes()).unwrap();
                    barrier.wait();
                    store.flush().unwrap();
                    assert!(store.durable_seq() >= seq);
                    barrier.wait();
                }
            });
        }
    });
    let syncs = store.stats().syncs - syncs;
    // All eight threads wrote before the first flush, so one sync serves a round.
    assert_eq!(syncs, 20);
}
