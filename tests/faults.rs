//! Tests that a store stays correct when any operation of the operating system fails.
//!
//! One workload uses all functions of a store. It runs with the first, second, third ... operation
//! of a kind failing, until no operation fails. An operation fails once, or from that number on.
//!
//! No call may panic or claim a false success. A store continues once a full disk has space again.
//! A failed sync ends writing until the store is reopened. No acknowledged write may be missing
//! afterwards.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;

use mapcask::sim::{Fault, Operation, Script, Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Resource, Result, Store};

use model_support::write::{Change, Expected, Step};
use model_support::{Bytes, History, Write, content, content_under, open};

/// Every key of the workload.
const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "large", "never"];

/// One piece of the workload.
#[derive(Debug, Clone)]
enum Piece {
    Open,
    Write(Write),
    Flush,
    /// The worker's steps, until none is left.
    Background,
    Compact,
    Image,
    Close,
    Kill,
}

fn insert(key: &str, len: usize) -> Piece {
    Piece::Write(Write::insert("", key, vec![b'v'; len]))
}

fn name(name: &str) -> String {
    name.to_owned()
}

/// Makes a batch over two keyspaces with a condition; it writes the value `mark`.
fn across(keyspace: &str, mark: &str) -> Piece {
    let item = |keyspace: &str, key: &str, step| (name(keyspace), Bytes::from(key), step);
    let value = Bytes::from(mark);
    Piece::Write(Write::Batch(
        String::new(),
        vec![
            item(keyspace, "never", Step::Require(Expected::Absent)),
            item(keyspace, "b", Step::Insert(value.clone())),
            item("", "b", Step::Remove),
            item(keyspace, "b", Step::Insert(value.clone())),
            item("", "e", Step::Insert(value)),
        ],
    ))
}

fn swap(keyspace: &str, key: &str, old: &str, new: &str) -> Piece {
    let change = Change::CompareAndSwap(Expected::Value(Bytes::from(old)), Some(Bytes::from(new)));
    Piece::Write(Write::Key(name(keyspace), Bytes::from(key), change))
}

/// Returns a workload that does all that a store does.
///
/// It creates a store, rolls segments, writes values with their own segment, batches and keyspaces,
/// and ends and opens the store in both ways.
fn workload() -> Vec<Piece> {
    let batch = |mark: &str| {
        let item = |key: &str, step| (String::new(), Bytes::from(key), step);
        let put = |key: &str| item(key, Step::Insert(Bytes::from(mark)));
        Piece::Write(Write::Batch(String::new(), vec![put("a"), item("b", Step::Remove), put("e")]))
    };
    vec![
        Piece::Open,
        insert("a", 5),
        insert("b", 1500),
        insert("c", 1500),
        insert("d", 1500),
        batch("first"),
        Piece::Write(Write::Create(name("k"))),
        across("k", "across"),
        swap("k", "b", "across", "swapped"),
        Piece::Flush,
        Piece::Background,
        Piece::Write(Write::Clear(name("k"))),
        insert("large", 9000),
        Piece::Write(Write::remove("", "a")),
        Piece::Compact,
        Piece::Image,
        insert("c", 700),
        Piece::Close,
        Piece::Open,
        insert("f", 2000),
        insert("g", 2000),
        across("k", "again"),
        Piece::Write(Write::Rename(name("k"), name("renamed"))),
        Piece::Write(Write::Create(name("k"))),
        Piece::Kill,
        Piece::Open,
        batch("second"),
        Piece::Write(Write::Drop(name("renamed"))),
        across("k", "last"),
        Piece::Background,
        insert("h", 3000),
        Piece::Flush,
        Piece::Close,
    ]
}

/// The running workload.
struct Machine {
    disk: SimDisk,
    durability: Durability,
    store: Option<Store>,
    history: History,
    /// A write whose sync failed, which may or may not be there.
    pending: Option<Write>,
    /// The fault that is planned, as text.
    place: String,
    /// The number of power cuts, which is the seed of the next one.
    cuts: u64,
    /// The number of pieces that have failed.
    failures: u64,
}

impl Machine {
    fn new(durability: Durability, place: String) -> Self {
        let disk = SimDisk::new();
        Self {
            disk,
            durability,
            store: None,
            history: History::new(),
            pending: None,
            place,
            cuts: 0,
            failures: 0,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the workload opens it first")
    }

    /// Carries out a piece, and after a failure continues as a sensible program would.
    fn piece(&mut self, piece: &Piece) {
        let Err(error) = self.attempt(piece) else { return };
        // Values of thousands of bytes would hide the failure.
        let place = format!("{} at {:.60}", self.place, format!("{piece:?}"));
        assert!(is_clear(&error), "{place}: {error:?}");
        self.failures += 1;
        self.disk.clear_faults();
        match (piece, &error) {
            // The store is closed in spite of the failure; the next piece opens it again.
            (Piece::Close, _) => {}
            (_, Error::Poisoned { .. }) => {
                if let (Piece::Write(write), Durability::Disk) = (piece, self.durability) {
                    self.pending = Some(write.clone());
                }
                self.check_reads(&place);
                self.check_poisoned(&error, &place);
                drop(self.store.take());
                self.reopen(&place);
                self.again(piece, &place);
            }
            _ => {
                if self.store.is_some() {
                    self.check_reads(&place);
                }
                self.again(piece, &place);
            }
        }
    }

    fn attempt(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Open => {
                self.store = Some(open(&self.disk, self.durability)?);
            }
            Piece::Write(write) => {
                let said = write.run(self.store())?;
                let before = self.history.now().clone();
                assert_eq!(said, self.history.write(write), "{}: what {write:?} says", self.place);
                // A removal of an absent key writes nothing, so it makes nothing durable either.
                if self.durability == Durability::Disk && *self.history.now() != before {
                    self.history.make_durable();
                }
            }
            Piece::Flush => {
                self.store().flush()?;
                self.history.make_durable();
            }
            Piece::Background => while self.store().step()? || self.store().rest_step()? {},
            Piece::Compact => {
                self.store().compact()?;
                self.history.make_durable();
            }
            Piece::Image => {
                // A failed checkpoint loses nothing and promises nothing; a failed sync of the log
                // is an error.
                if self.store().take_checkpoint()? {
                    self.history.make_durable();
                }
            }
            Piece::Close => {
                self.store.take().expect("the workload opened it").close()?;
                self.history.make_durable();
            }
            Piece::Kill => {
                self.disk = self.disk.kill();
                self.store = None;
            }
        }
        Ok(())
    }

    /// Repeats a piece without faults, on the same handle if there is one. It must succeed.
    fn again(&mut self, piece: &Piece, place: &str) {
        self.attempt(piece).unwrap_or_else(|error| panic!("{place}: not again either: {error:?}"));
    }

    /// Checks that reads work after any failure, and show the acknowledged writes.
    fn check_reads(&self, place: &str) {
        let found = content_under(self.store(), &KEYS);
        let pending = self.history.with_pending(self.pending.as_slice());
        let expected = [self.history.now(), pending.now()];
        assert!(expected.contains(&&found), "{place}: found {found:?}, expected {:?}", expected[0]);
    }

    /// Checks that a poisoned store stays so, whatever the disk does now, and reports the cause.
    fn check_poisoned(&self, error: &Error, place: &str) {
        let syncs = self.syncs();
        for _ in 0..2 {
            let write = |write: Write| write.run(self.store()).map(drop);
            let results = [
                write(Write::insert("", "never", "written")),
                write(Write::Create(name("never"))),
                write(Write::Clear(String::new())),
                self.store().flush(),
                self.store().step().map(drop),
                self.store().compact().map(drop),
            ];
            for result in results {
                let later = result.expect_err("a failed sync is never forgotten");
                assert_eq!(later.to_string(), error.to_string(), "{place}: the first cause is kept");
            }
        }
        assert_eq!(self.syncs(), syncs, "{place}: a failed sync is not tried again");
    }

    fn count(&self, operation: Operation) -> u64 {
        self.disk.operations().get(&operation).copied().unwrap_or(0)
    }

    fn syncs(&self) -> u64 {
        self.count(Operation::Sync) + self.count(Operation::SyncRange)
    }

    /// Opens the store after a bad end. No acknowledged write may be missing.
    fn reopen(&mut self, place: &str) {
        let store = open(&self.disk, self.durability)
            .unwrap_or_else(|error| panic!("{place}: cannot be opened again: {error:?}"));
        let found = content(&store);
        store.verify().unwrap();
        let pending = self.pending.take();
        let history = self.history.with_pending(pending.as_slice());
        self.history = history
            .check_kill(&found, usize::from(pending.is_some()))
            .unwrap_or_else(|complaint| panic!("{place}: {complaint}"));
        self.store = Some(store);
    }

    /// Cuts the power in the worst way, and in another random one each time. The store must hold a
    /// prefix.
    fn check_cuts(&mut self) {
        self.cuts += 1;
        for seed in [0, self.cuts] {
            let at = self.disk.position();
            let disk = match seed {
                0 => self.disk.crash_at(at, Tears::None, &mut Script::new([])),
                _ => self.disk.crash_at(at, Tears::Any, &mut Seeded::new(seed)),
            };
            let store =
                open(&disk, self.durability).unwrap_or_else(|error| panic!("{}: {error:?}", self.place));
            let found = content_under(&store, &KEYS);
            self.history
                .with_pending(self.pending.as_slice())
                .check_cut(&found)
                .unwrap_or_else(|complaint| panic!("{}, power cut {seed}: {complaint}", self.place));
        }
    }
}

/// Returns true if a failed operation may be reported as this error; damage is not allowed.
fn is_clear(error: &Error) -> bool {
    match error {
        Error::Io { .. } | Error::NoSpace { .. } | Error::Exhausted { .. } => true,
        Error::Poisoned { cause } => is_clear(cause),
        _ => false,
    }
}

const OPERATIONS: [Operation; 17] = [
    Operation::CreateDir,
    Operation::SyncParent,
    Operation::List,
    Operation::Create,
    Operation::Open,
    Operation::Rename,
    Operation::Unlink,
    Operation::SyncDir,
    Operation::Lock,
    Operation::Read,
    Operation::Write,
    Operation::Allocate,
    Operation::Sync,
    Operation::Punch,
    Operation::Map,
    Operation::SyncRange,
    Operation::Populate,
];

/// Runs the workload with one fault. Returns true if the fault fired.
fn run(durability: Durability, operation: Operation, nth: u64, fault: Fault, sticky: bool) -> bool {
    let place = format!("{durability:?}, {operation:?} number {nth}, {fault:?}, sticky: {sticky}");
    let mut machine = Machine::new(durability, place);
    let mut met = false;
    // The operations left until the one that fails. A kill leaves a new machine, without a planned
    // fault.
    let mut left = nth;
    machine.disk.fail_nth(Some(operation), left, fault, sticky);
    for piece in workload() {
        let before = machine.count(operation);
        machine.piece(&piece);
        met |= machine.disk.faults_fired() > 0;
        if !matches!(piece, Piece::Kill) {
            left = left.saturating_sub(machine.count(operation) - before);
        } else if !met {
            machine.disk.fail_nth(Some(operation), left, fault, sticky);
        }
        // Before the fault every run is equal.
        if met {
            machine.check_cuts();
        }
    }
    machine.disk.clear_faults();
    let place = machine.place.clone();
    machine.reopen(&place);
    machine.flush_and_cut();
    met
}

impl Machine {
    /// Checks that a successful flush makes everything durable, whatever failed before.
    fn flush_and_cut(&mut self) {
        self.store().flush().unwrap_or_else(|error| panic!("{}: {error:?}", self.place));
        self.history.make_durable();
        self.history.forget();
        self.check_cuts();
    }
}

/// Runs the workload with at most `most` of a resource; a failed piece runs again without the
/// limit. Returns true if a piece failed.
fn run_with(durability: Durability, resource: Resource, most: u64) -> bool {
    let mut machine = Machine::new(durability, format!("{durability:?}, {resource:?}: {most}"));
    for piece in workload() {
        if !matches!(piece, Piece::Kill) {
            machine.disk.set_limit(resource, Some(most));
        }
        machine.piece(&piece);
        machine.disk.clear_faults();
    }
    let place = machine.place.clone();
    machine.reopen(&place);
    machine.check_accounted();
    machine.flush_and_cut();
    machine.failures > 0
}

impl Machine {
    /// Checks that the store accounts for the file of every segment, and that no temporary file is
    /// left.
    fn check_accounted(&self) {
        let files =
            self.disk.files().into_iter().filter(|name| name.contains(".seg") || name.ends_with(".tmp"));
        let size: u64 = files.map(|name| self.disk.read_file(&name).unwrap().len() as u64).sum();
        assert_eq!(self.store().stats().segment_bytes, size, "{}: {:?}", self.place, self.disk.files());
    }
}

#[test]
fn workload_survives_every_limit_of_every_resource() {
    for durability in [Durability::Os, Durability::Disk] {
        for resource in [Resource::Descriptors, Resource::Files, Resource::Mappings] {
            let enough = (1..).find(|most| !run_with(durability, resource, *most)).unwrap();
            assert!((4..60).contains(&enough), "{resource:?}: {enough}");
        }
        let enough = (1..).find(|pages| !run_with(durability, Resource::FileSize, pages * 4096)).unwrap();
        assert!(enough > 2, "{enough}");
    }
}

fn every_number(durability: Durability, fault: Fault, sticky: bool) {
    for operation in OPERATIONS {
        let mut nth = 1;
        while run(durability, operation, nth, fault, sticky) {
            nth += 1;
        }
    }
}

#[test]
fn any_operation_may_err_once() {
    for durability in [Durability::Os, Durability::Disk] {
        every_number(durability, Fault::Io, false);
    }
}

#[test]
fn any_operation_may_err_from_some_moment_on() {
    every_number(Durability::Os, Fault::Io, true);
    every_number(Durability::Disk, Fault::Io, true);
}

#[test]
fn any_operation_may_find_the_disk_full() {
    for durability in [Durability::Os, Durability::Disk] {
        every_number(durability, Fault::NoSpace, false);
        every_number(durability, Fault::NoSpace, true);
    }
}

#[test]
fn any_write_may_be_cut_short() {
    for durability in [Durability::Os, Durability::Disk] {
        every_number(durability, Fault::Short, false);
    }
}
