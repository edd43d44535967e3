//! Tests that no thread acknowledges a write whose loss was reported to another thread.
//!
//! The kernel reports a lost write once per open file, to the thread that syncs first. These tests
//! hold that thread while it alone knows, and make every call that acknowledges meanwhile.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::sync::mpsc;
use std::time::Duration;

use mapcask::sim::{Fault, Gate, Operation, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Options, Result, Store};

/// The time in which a call that must wait for the gate could return early. A slower call is not
/// caught, and a correct call costs the test this time.
const EARLY: Duration = Duration::from_millis(150);
/// The number of full segments from which the worker writes back ahead of a sync.
const FULL: u64 = 16;

fn options() -> Options {
    Options::new().background(false).segment_bytes(4096).compaction(false)
}

/// Makes a store with so many full segments that its next steps write them back, one after the
/// other.
fn written(disk: &SimDisk) -> Store {
    let store = options().open_on(disk).unwrap();
    store.insert("first", "1").unwrap();
    store.flush().unwrap();
    for n in 0..=FULL {
        store.insert(n.to_le_bytes(), [7; 3000]).unwrap();
    }
    store
}

/// Carries out all steps, or returns the first error.
fn all_steps(store: &Store) -> Result<()> {
    while store.step()? {}
    Ok(())
}

/// Runs `acknowledge` while the thread that was told of a lost write is held.
fn while_told(disk: &SimDisk, store: &Store, gate: &Gate, acknowledge: impl FnOnce() -> Result<()> + Send) {
    let durable = store.durable_seq();
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| all_steps(store));
        gate.wait();
        let (said, hears) = mpsc::channel();
        scope.spawn(move || said.send(acknowledge()));
        let early = hears.recv_timeout(EARLY);
        gate.open();
        let result = early.unwrap_or_else(|_| hears.recv().unwrap());
        assert!(matches!(result, Err(Error::Poisoned { .. })), "acknowledged what is lost: {result:?}");
        assert!(matches!(helper.join().unwrap(), Err(Error::Poisoned { .. })));
    });
    assert_eq!(store.durable_seq(), durable, "nothing became durable");
    // No watermark covers a lost record: an open that found the one without the other would report
    // damage.
    for seed in 0..16 {
        let cut = disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(seed));
        let store = options().open_on(&cut).unwrap_or_else(|error| panic!("power cut {seed}: {error}"));
        assert_eq!(store.get("first").unwrap().as_deref(), Some(b"1".as_slice()));
    }
}

/// Cause: threads that make and remove files each sync the directory. Symptom: one was told that a
/// rename was lost, and another still let the manifest name its file. Fix: the syncs of the
/// directory take turns, too.
#[test]
fn no_file_is_named_during_a_failed_sync_of_the_directory() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    for n in 0..8_u8 {
        store.insert([n % 2], [n; 3000]).unwrap();
    }
    store.flush().unwrap();
    while store.step().unwrap() {}
    // The insertion takes the preallocated segment, so that the next step makes one.
    store.insert("next", [7; 3000]).unwrap();
    disk.fail_nth(Some(Operation::SyncDir), 1, Fault::Io, false);
    let gate = disk.hold_nth(Operation::SyncDir, 1);
    let all: Vec<u64> = (1..20).collect();
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| all_steps(&store));
        gate.wait();
        let (said, hears) = mpsc::channel();
        let (store, all) = (&store, &all);
        scope.spawn(move || said.send(store.compact_segments(all, |_| true)).unwrap());
        let early = hears.recv_timeout(EARLY);
        gate.open();
        let result = early.unwrap_or_else(|_| hears.recv().unwrap());
        assert!(matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
        assert!(matches!(helper.join().unwrap(), Err(Error::Poisoned { .. })));
    });
}

/// A sync does not make a record durable that was appended during it.
#[test]
fn records_that_come_during_a_sync_are_not_called_durable() {
    let disk = SimDisk::new();
    let store = Options::new().background(false).segment_bytes(64 << 10).open_on(&disk).unwrap();
    store.insert("first", "1").unwrap();
    let gate = disk.hold_nth(Operation::SyncRange, 1);
    let second = std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush());
        gate.wait();
        // The value covers several pages. Each may reach the disk or not, and so may the page of
        // the watermark.
        let second = store.insert("second", [7; 12_000]).unwrap();
        gate.open();
        flush.join().unwrap().unwrap();
        second
    });
    assert!(store.durable_seq() < second, "no sync covered it");
    // The numbers and the watermark allow the second record to be lost, but not the records that
    // the first sync covered.
    for seed in 0..64 {
        let cut = disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(seed));
        let store = options().open_on(&cut).unwrap_or_else(|error| panic!("power cut {seed}: {error}"));
        assert!(store.contains_key("first").unwrap());
    }
}

/// The next sync begins where the previous one ended, not at the end of the log after it.
#[test]
fn records_during_a_sync_become_durable_with_the_next_one() {
    // The records fill the page, the next pages, and the space beyond the segment.
    for (first, count, size, segment) in [
        (1, 1, 100, 4096),
        (1, 6, 3000, 4096),
        (1, 20, 3000, 4096),
        (1, 4, 9000, 64 << 10),
        (20_000, 1, 100, 64 << 10),
        (20_000, 3, 9000, 64 << 10),
    ] {
        let disk = SimDisk::new();
        let options = || options().segment_bytes(segment);
        let store = options().open_on(&disk).unwrap();
        store.insert("first", vec![1; first]).unwrap();
        let gate = disk.hold_nth(Operation::SyncRange, 1);
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| store.flush());
            gate.wait();
            for n in 0..count {
                store.insert([n], vec![n; size]).unwrap();
            }
            gate.open();
            flush.join().unwrap().unwrap();
        });
        // The worker may seal a durable segment and close its file.
        all_steps(&store).unwrap();
        store.flush().unwrap();
        assert_eq!(store.durable_seq(), store.last_seq());
        for seed in 0..16 {
            let cut = disk.crash_at(disk.position(), Tears::None, &mut Seeded::new(seed));
            let found = options().open_on(&cut).unwrap_or_else(|error| panic!("power cut {seed}: {error}"));
            assert_eq!(found.len(), usize::from(count) + 1, "{count} of {size} bytes, power cut {seed}");
        }
    }
}

/// After a kill the control page tells the durable part, and a flush makes the rest durable again.
#[test]
fn records_during_a_sync_become_durable_after_a_kill() {
    let disk = SimDisk::new();
    let open =
        |disk: &SimDisk| Options::new().background(false).segment_bytes(64 << 10).open_on(disk).unwrap();
    let store = open(&disk);
    // One segment holds both records.
    store.insert("first", [1; 20_000]).unwrap();
    let gate = disk.hold_nth(Operation::SyncRange, 1);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.flush());
        gate.wait();
        store.insert("second", [7; 12_000]).unwrap();
        gate.open();
        flush.join().unwrap().unwrap();
    });
    let (durable, last) = (store.durable_seq(), store.last_seq());
    assert!(durable < last);
    let killed = disk.kill();
    let store = open(&killed);
    let believed = store.recovery_report().durable_seq;
    assert!(believed < last.0, "record {last} was not synced, and {believed} counts as durable");
    store.flush().unwrap();
    for seed in 0..16 {
        let cut = killed.crash_at(killed.position(), Tears::None, &mut Seeded::new(seed));
        assert!(open(&cut).contains_key("second").unwrap(), "power cut {seed}");
    }
}

/// A call that returns only when something is durable.
type Acknowledges = fn(&Store) -> Result<()>;

const ACKNOWLEDGES: [(&str, Acknowledges); 8] = [
    ("flush", |store| store.flush()),
    ("a write", |store| store.with_durability(Durability::Disk).insert("paid", "1").map(drop)),
    ("a removal of nothing", |store| store.with_durability(Durability::Disk).remove("never").map(drop)),
    ("wait_durable", |store| store.wait_durable(store.last_seq())),
    ("a new keyspace", |store| store.with_durability(Durability::Disk).keyspace("paid").map(drop)),
    ("take_checkpoint", |store| store.take_checkpoint().map(drop)),
    ("compact", |store| store.compact().map(drop)),
    ("close", |store| store.clone().close()),
];

#[test]
fn no_acknowledgement_passes_a_write_back_that_was_told() {
    for (name, acknowledge) in ACKNOWLEDGES {
        // The first piece, and one in the middle of the log.
        for piece in [1, 9] {
            let disk = SimDisk::new();
            let store = written(&disk);
            // The pieces come in the order of the log, one for each segment.
            let mut segments = disk.files().into_iter().filter(|name| name.ends_with(".seg"));
            disk.fail_writeback(&segments.nth(piece - 1).unwrap()).unwrap();
            let gate = disk.hold_nth(Operation::SyncRange, piece as u64);
            println!("{name} while piece {piece} is written back");
            while_told(&disk, &store, &gate, || acknowledge(&store));
        }
    }
}
