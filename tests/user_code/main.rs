//! Tests that a store holds no lock while it runs code of its caller, so that every call from there
//! returns.
//!
//! There is a row for every public function that runs such code: closures, `AsRef`, iterators,
//! codecs, subscribers. From each row the tests make the calls that such code may make, in a store
//! with space and in a full one, and to a follower. A test compares the rows with the source.
#![cfg(all(feature = "sim", feature = "serde", feature = "postcard", feature = "tracing"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/api.rs"]
mod api;
mod typed;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{
    Durability, Follower, Options, Postcard, Result, Since, Store, TypedKeyspace, Wait, WriteBatch,
};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Metadata, Subscriber};

/// The time after which a call counts as one that never returns.
const PATIENCE: Duration = Duration::from_secs(30);

/// A call that the caller's code makes. Its result does not matter, only that it returns.
type Call = (&'static str, fn(&Store));

const CALLS: &[Call] = &[
    ("get", |store| drop(store.get([1]))),
    ("get_into", |store| drop(store.get_into([1], &mut Vec::new()))),
    ("multi_get", |store| drop(store.multi_get(&[[1], [2]]))),
    ("try_get", |store| drop(store.try_get([1]))),
    ("view", |store| drop(store.view().get([1]).map(|_| ()))),
    ("iter", |store| store.iter().for_each(drop)),
    ("len", |store| assert!(store.len() < 1000)),
    ("insert", |store| drop(store.insert("new", "1"))),
    ("insert of much", |store| (0..20_u8).for_each(|n| drop(store.insert([9, n], [n; 3000])))),
    ("remove", |store| drop(store.remove([2]))),
    ("a durable write", |store| drop(store.with_durability(Durability::Disk).insert("new", "2"))),
    ("write", |store| {
        let mut batch = WriteBatch::new();
        batch.insert("new", [7; 3000]);
        batch.remove([3]);
        drop(store.write(&batch));
    }),
    ("compare_and_swap", |store| drop(store.compare_and_swap("new", None::<&str>, Some("1")))),
    ("fetch_and_update", |store| drop(store.fetch_and_update("new", |_| Some([7; 3000])))),
    ("clear", |store| drop(store.clear())),
    ("keyspace", |store| drop(store.keyspace("made"))),
    ("rename_keyspace", |store| drop(store.rename_keyspace("other", "renamed"))),
    ("drop_keyspace", |store| drop(store.drop_keyspace("other"))),
    ("flush", |store| drop(store.flush())),
    ("wait_durable", |store| drop(store.wait_durable(store.last_seq()))),
    ("compact", |store| drop(store.compact())),
    ("compact_with", |store| drop(store.compact_with(|_| true))),
    ("take_checkpoint", |store| drop(store.take_checkpoint())),
    ("step", |store| drop(store.step())),
    ("snapshot", |store| drop(store.snapshot().get([1]))),
    ("transact", |store| {
        drop(store.transact(|transaction| {
            transaction.get(store, [1])?;
            transaction.insert(store, "new", "1")
        }));
    }),
    ("stats", |store| assert!(store.stats().keyspaces > 0)),
    ("size_on_disk", |store| drop(store.size_on_disk())),
    ("verify", |store| drop(store.verify())),
    ("backup", |store| drop(store.backup_on(&SimDisk::new()))),
    ("debug", |store| assert!(!format!("{store:?} {:?}", store.iter()).is_empty())),
    ("close", |store| drop(store.clone().close())),
    ("another store", |_| {
        let store = Options::new().background(false).open_on(&SimDisk::new()).unwrap();
        store.insert("a", "1").unwrap();
    }),
];

/// The caller's code: runs once, at the `nth` time that it is called.
struct Code {
    store: Store,
    call: fn(&Store),
    left: Cell<u32>,
}

impl Code {
    fn new(store: &Store, call: fn(&Store), nth: u32) -> Rc<Self> {
        Rc::new(Self { store: store.clone(), call, left: Cell::new(nth) })
    }

    fn run(&self) {
        // The number is zero while the code runs, and afterwards.
        match self.left.get() {
            0 => {}
            1 => {
                self.left.set(0);
                (self.call)(&self.store);
            }
            left => self.left.set(left - 1),
        }
    }

    fn has_run(&self) -> bool {
        self.left.get() == 0
    }
}

/// A key or a value that runs the caller's code when its bytes are requested.
struct Bytes(Rc<Code>, [u8; 1]);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.0.run();
        &self.1
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.0.run();
    }
}

/// A batch that runs the caller's code.
struct Batch(Rc<Code>, WriteBatch);

impl AsRef<WriteBatch> for Batch {
    fn as_ref(&self) -> &WriteBatch {
        self.0.run();
        &self.1
    }
}

/// The beginning of a feed, which runs the code when it is converted.
struct Beginning(Rc<Code>);

impl From<Beginning> for Since {
    fn from(Beginning(code): Beginning) -> Self {
        code.run();
        Self::State
    }
}

fn bytes(code: &Rc<Code>) -> Bytes {
    Bytes(Rc::clone(code), [1])
}

/// A public function that runs the caller's code, by its name in the source.
type Place = (&'static str, fn(&Store, &Rc<Code>) -> Result<()>);

/// Functions that run a closure, or code between two calls: every call is made from them.
const CLOSURES: &[Place] = &[
    ("Store::compact_with", |s, c| {
        s.compact_with(|_| {
            c.run();
            true
        })
        .map(drop)
    }),
    ("Store::compact_segments", |s, c| {
        let all: Vec<u64> = (1..100).collect();
        s.compact_segments(&all, |_| {
            c.run();
            true
        })
        .map(drop)
    }),
    ("Keyspace::fetch_and_update", |s, c| s.fetch_and_update([1], |_| Some(bytes(c))).map(drop)),
    ("Keyspace::update_and_fetch", |s, c| {
        s.update_and_fetch([1], |_| {
            c.run();
            Some("2")
        })
        .map(drop)
    }),
    ("Reader::iter", |s, c| {
        s.iter().for_each(|_| c.run());
        Ok(())
    }),
    ("Reader::keys", |s, c| {
        s.keys().for_each(|_| c.run());
        Ok(())
    }),
    ("Reader::values", |s, c| {
        s.values().for_each(|_| c.run());
        Ok(())
    }),
    ("Reader::view", |s, c| {
        let view = s.view();
        let value = view.get([1])?;
        c.run();
        assert!(value.is_some_and(|value| value.len() == 3000), "what a view lent stays as it was");
        Ok(())
    }),
    ("View::iter", |s, c| {
        s.view().iter().for_each(|_| c.run());
        Ok(())
    }),
    ("Reader::get", |s, c| {
        let value = s.get(bytes(c))?;
        assert!(value.is_none_or(|value| value.len() == 3000 || value.len() == 1));
        Ok(())
    }),
    ("KeyspaceSnapshot::iter", |s, c| {
        s.snapshot().iter().for_each(|_| c.run());
        Ok(())
    }),
    ("Store::transact", |s, c| {
        s.transact(|transaction| {
            transaction.get(s, [1])?;
            c.run();
            transaction.insert(s, [1], "2")
        })
    }),
];

/// Takes the first item of a range.
fn first<T>(mut range: impl Iterator<Item = Result<T>>) -> Result<()> {
    range.next().map_or(Ok(()), |item| item.map(drop))
}

/// Functions that take the bytes of an argument or use a codec: a few calls are made from them.
const ARGUMENTS: &[Place] = &[
    ("Store::changes", |s, c| s.changes(Beginning(Rc::clone(c))).map(drop)),
    ("Changes::only", |s, c| {
        let names = std::iter::once("").inspect(|_| c.run());
        s.changes(Since::State)?.only(names).next().map(drop)
    }),
    ("Reader::get_into", |s, c| s.get_into(bytes(c), &mut Vec::new()).map(drop)),
    ("Reader::contains_key", |s, c| s.contains_key(bytes(c)).map(drop)),
    ("Reader::multi_get", |s, c| s.multi_get(&[bytes(c), bytes(c)]).map(drop)),
    ("Reader::get_many_into", |s, c| s.get_many_into(&[bytes(c)], &mut Vec::new())),
    ("Reader::prefetch", |s, c| {
        s.prefetch(&[bytes(c)]);
        Ok(())
    }),
    ("Reader::try_get", |s, c| s.try_get(bytes(c)).map(drop)),
    ("Reader::range", |s, c| first(s.range(bytes(c)..))),
    ("Reader::prefix", |s, c| first(s.prefix(bytes(c)))),
    ("Reader::get_lt", |s, c| s.get_lt(bytes(c)).map(drop)),
    ("Reader::get_le", |s, c| s.get_le(bytes(c)).map(drop)),
    ("Reader::get_ge", |s, c| s.get_ge(bytes(c)).map(drop)),
    ("Reader::get_gt", |s, c| s.get_gt(bytes(c)).map(drop)),
    ("Reader::get_range", |s, c| s.get_range(bytes(c).., 2).map(drop)),
    ("Reader::count_range", |s, c| s.count_range(bytes(c)..).map(drop)),
    ("Keyspace::pop_first_in", |s, c| s.pop_first_in(bytes(c)..).map(drop)),
    ("Keyspace::pop_last_in", |s, c| s.pop_last_in(bytes(c)..).map(drop)),
    ("View::range", |s, c| first(s.view().range(bytes(c)..))),
    ("View::prefix", |s, c| first(s.view().prefix(bytes(c)))),
    ("View::get_lt", |s, c| s.view().get_lt(bytes(c)).map(drop)),
    ("View::get_le", |s, c| s.view().get_le(bytes(c)).map(drop)),
    ("View::get_ge", |s, c| s.view().get_ge(bytes(c)).map(drop)),
    ("View::get_gt", |s, c| s.view().get_gt(bytes(c)).map(drop)),
    ("View::get_range", |s, c| s.view().get_range(bytes(c).., 2).map(drop)),
    ("View::count_range", |s, c| s.view().count_range(bytes(c)..).map(drop)),
    ("Keyspace::insert", |s, c| s.insert(bytes(c), bytes(c)).map(drop)),
    ("Keyspace::remove", |s, c| s.remove(bytes(c)).map(drop)),
    ("Keyspace::write", |s, c| s.write(Batch(Rc::clone(c), WriteBatch::new())).map(drop)),
    ("Keyspace::compare_and_swap", |s, c| s.compare_and_swap([1], Some(bytes(c)), Some(bytes(c))).map(drop)),
    ("Keyspace::insert_if_absent", |s, c| s.insert_if_absent(bytes(c), bytes(c)).map(drop)),
    ("Keyspace::replace", |s, c| s.replace(bytes(c), bytes(c)).map(drop)),
    ("Keyspace::take", |s, c| s.take(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::get", |s, c| s.snapshot().get(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::contains_key", |s, c| s.snapshot().contains_key(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::range", |s, c| first(s.snapshot().range(bytes(c)..))),
    ("KeyspaceSnapshot::prefix", |s, c| first(s.snapshot().prefix(bytes(c)))),
    ("KeyspaceSnapshot::get_lt", |s, c| s.snapshot().get_lt(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::get_le", |s, c| s.snapshot().get_le(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::get_ge", |s, c| s.snapshot().get_ge(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::get_gt", |s, c| s.snapshot().get_gt(bytes(c)).map(drop)),
    ("KeyspaceSnapshot::count_range", |s, c| s.snapshot().count_range(bytes(c)..).map(drop)),
    ("SnapshotRange::seek", |s, c| {
        let mut range = s.snapshot().range::<&str>(..);
        range.seek(bytes(c));
        first(range)
    }),
    ("SnapshotRange::seek_back", |s, c| {
        let mut range = s.snapshot().range::<&str>(..);
        range.seek_back(bytes(c));
        first(range)
    }),
    ("Range::seek", |s, c| {
        let mut range = s.range::<&str>(..);
        range.seek(bytes(c));
        first(range)
    }),
    ("Range::seek_back", |s, c| {
        let mut range = s.range::<&str>(..);
        range.seek_back(bytes(c));
        first(range)
    }),
    ("ViewRange::seek", |s, c| {
        let view = s.view();
        let mut range = view.range::<&str>(..);
        range.seek(bytes(c));
        first(range)
    }),
    ("ViewRange::seek_back", |s, c| {
        let view = s.view();
        let mut range = view.range::<&str>(..);
        range.seek_back(bytes(c));
        first(range)
    }),
    ("Transaction::get", |s, c| s.begin().get(s, bytes(c)).map(drop)),
    ("Transaction::contains_key", |s, c| s.begin().contains_key(s, bytes(c)).map(drop)),
    ("Transaction::peek", |s, c| s.begin().peek(s, bytes(c)).map(drop)),
    ("Transaction::range", |s, c| first(s.begin().range(s, bytes(c)..))),
    ("Transaction::prefix", |s, c| first(s.begin().prefix(s, bytes(c)))),
    ("Transaction::get_lt", |s, c| s.begin().get_lt(s, bytes(c)).map(drop)),
    ("Transaction::get_le", |s, c| s.begin().get_le(s, bytes(c)).map(drop)),
    ("Transaction::get_ge", |s, c| s.begin().get_ge(s, bytes(c)).map(drop)),
    ("Transaction::get_gt", |s, c| s.begin().get_gt(s, bytes(c)).map(drop)),
    ("Transaction::count_range", |s, c| s.begin().count_range(s, bytes(c)..).map(drop)),
    ("Transaction::insert", |s, c| {
        let mut transaction = s.begin();
        transaction.insert(s, bytes(c), bytes(c))?;
        transaction.commit().map(drop)
    }),
    ("Transaction::remove", |s, c| {
        let mut transaction = s.begin();
        transaction.remove(s, bytes(c))?;
        transaction.commit().map(drop)
    }),
    ("KeyspaceSnapshot::multi_get", |s, c| s.snapshot().multi_get(&[bytes(c)]).map(drop)),
    ("View::get", |s, c| s.view().get(bytes(c)).map(drop)),
    ("View::contains_key", |s, c| s.view().contains_key(bytes(c)).map(drop)),
    ("View::get_many_into", |s, c| s.view().get_many_into(&[bytes(c)], &mut Vec::new())),
];

/// Functions that run the caller's code before there is a store, or only copy a codec.
const HARMLESS: [&str; 18] = [
    "Store::open",
    "Follower::open",
    "Changes::open",
    "Options::open",
    "Options::changes",
    "Options::changes_on",
    "Options::background",
    "Options::recovery_progress",
    "salvage",
    "destroy",
    "restore",
    "Store::backup",
    "Follower::backup",
    "TypedKeyspace::raw",
    "TypedReader::raw",
    "TypedKeyspace::with_durability",
    "TypedReader::len",
    "TypedReader::is_empty",
];

fn closures() -> impl Iterator<Item = &'static Place> + Clone {
    CLOSURES.iter().chain(typed::CLOSURES)
}

fn arguments() -> impl Iterator<Item = &'static Place> + Clone {
    ARGUMENTS.iter().chain(typed::ARGUMENTS)
}

#[test]
fn every_function_that_runs_code_of_its_caller_has_a_row() {
    let follows = FOLLOWS.iter().map(|(name, _)| *name);
    let rows: BTreeSet<&str> = closures().chain(arguments()).map(|(name, _)| *name).chain(follows).collect();
    let runs = |function: &api::Function| {
        function.name.starts_with("Typed")
            || ["impl ", "IntoIterator"].iter().any(|of| function.head.contains(of))
    };
    let missing: Vec<_> = api::public_functions()
        .into_iter()
        .filter(runs)
        .filter(|function| !rows.contains(&*function.name) && !HARMLESS.contains(&&*function.name))
        .map(|function| function.name)
        .collect();
    assert!(missing.is_empty(), "no row for: {missing:?}");
}

/// Makes a store with something to compact, full or with space for more.
fn prepared(disk: &SimDisk, is_full: bool) -> Store {
    let options = Options::new().background(false).segment_bytes(8192);
    let options = if is_full { options.max_disk_bytes(96 << 10) } else { options };
    let store = options.open_on(disk).unwrap();
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    let typed: TypedKeyspace<str, u32, Postcard> = store.typed_keyspace("typed", Postcard).unwrap();
    typed.insert("a", &1).unwrap();
    let ordered: TypedKeyspace<str, u32, Postcard> =
        store.ordered_typed_keyspace("ordered", Postcard).unwrap();
    ordered.insert("a", &1).unwrap();
    let enough = if is_full { 200 } else { 8 };
    let refused = (0..enough).find(|n| store.insert([*n], [*n; 3000]).is_err());
    assert_eq!(refused.is_some(), is_full);
    for n in [2, 4, 5] {
        store.remove([n]).unwrap();
    }
    // A sealed segment with dead records is needed.
    store.flush().unwrap();
    store.step().unwrap();
    store
}

/// Runs `work` on its own thread, which reports each begin; fails if a call does not return.
fn watched(work: impl FnOnce(&dyn Fn(String)) + Send + 'static) {
    let (begins, begun) = mpsc::channel();
    let worker = thread::spawn(move || work(&|what| begins.send(what).unwrap()));
    let mut last = "nothing".to_owned();
    loop {
        match begun.recv_timeout(PATIENCE) {
            Ok(what) => last = what,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it never returned: {last}"),
        }
    }
    assert!(worker.join().is_ok(), "a panic: {last}");
}

/// Makes each call from each place.
fn every_call(places: impl Iterator<Item = &'static Place> + Clone + Send + 'static, calls: Vec<Call>) {
    watched(move |begins| {
        for is_full in [false, true] {
            for (place, run) in places.clone() {
                for (name, call) in &calls {
                    begins(format!("{name} within {place}, in a store that is full: {is_full}"));
                    let store = prepared(&SimDisk::new(), is_full);
                    let code = Code::new(&store, *call, 1);
                    // The outer call may be refused: the inner one may have closed the store or
                    // taken the space.
                    drop(run(&store, &code));
                    assert!(code.has_run(), "{place} ran no code of its caller");
                    drop(store.close());
                }
            }
        }
    });
}

#[test]
fn every_call_returns_from_within_a_closure() {
    every_call(closures(), CALLS.to_vec());
}

#[test]
fn calls_return_from_within_an_argument_or_a_codec() {
    let few = ["insert of much", "compact", "take_checkpoint", "flush", "close"];
    every_call(arguments(), CALLS.iter().copied().filter(|(name, _)| few.contains(name)).collect());
}

/// The store works after a panic of the caller's code, wherever that was.
#[test]
fn a_panic_of_the_callers_code_leaves_no_lock_behind() {
    watched(|begins| {
        for is_full in [false, true] {
            for (place, run) in closures().chain(arguments()) {
                begins(format!("a panic within {place}, in a store that is full: {is_full}"));
                let disk = SimDisk::new();
                let store = prepared(&disk, is_full);
                let code = Code::new(&store, |_| std::panic::resume_unwind(Box::new("the caller's")), 1);
                let panicked = catch_unwind(AssertUnwindSafe(|| drop(run(&store, &code)))).is_err();
                assert!(panicked && code.has_run(), "{place}");
                store.remove([1]).unwrap();
                store.compact().unwrap();
                store.insert("after", "it").unwrap();
                store.verify().unwrap();
                assert_eq!(store.snapshot().get("after").unwrap().as_deref(), Some(b"it".as_slice()));
                drop(code);
                store.close().unwrap();
            }
        }
    });
}

/// A subscriber that runs the code of its thread at every event.
struct Caller;

thread_local! {
    static HEARS: RefCell<Option<Rc<Code>>> = const { RefCell::new(None) };
}

/// Runs the code of this thread.
fn run_heard() {
    let code = HEARS.with(|hears| hears.borrow().as_ref().map(Rc::clone));
    if let Some(code) = code {
        code.run();
    }
}

/// The code that the worker's thread runs once.
static OF_THE_HELPER: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

impl Subscriber for Caller {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        run_heard();
        if thread::current().name() == Some("mapcask") {
            let once = OF_THE_HELPER.lock().unwrap().take();
            if let Some(once) = once {
                once();
            }
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Makes every kind of event, with a failed sync at the end.
fn eventful(disk: &SimDisk, store: &Store) -> Result<()> {
    store.keyspace("made")?;
    store.rename_keyspace("made", "moved")?;
    for n in 0..6_u8 {
        store.insert([n], [n; 3000])?;
    }
    store.with_durability(Durability::Disk).insert("durable", "1")?;
    store.remove([1])?;
    while store.step()? {}
    store.compact()?;
    store.take_checkpoint()?;
    store.drop_keyspace("moved")?;
    store.clear()?;
    while store.rest_step()? || store.step()? {}
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    store.insert("lost", "1")?;
    store.flush()
}

#[test]
fn every_call_returns_from_within_a_subscriber_of_any_event() {
    watched(|begins| {
        // Large insertions at every event would take long.
        let few = [
            "insert",
            "insert of much",
            "compact",
            "keyspace",
            "flush",
            "take_checkpoint",
            "step",
            "stats",
            "close",
        ];
        for (name, call) in CALLS.iter().filter(|(name, _)| few.contains(name)) {
            for nth in 1.. {
                begins(format!("{name} at event {nth}"));
                let disk = SimDisk::new();
                let store = prepared(&disk, false);
                let code = Code::new(&store, *call, nth);
                HEARS.set(Some(Rc::clone(&code)));
                tracing::subscriber::with_default(Caller, || {
                    drop(eventful(&disk, &store));
                    drop(store.close());
                });
                HEARS.set(None);
                if !code.has_run() {
                    assert!(nth > 12, "only {nth} events");
                    break;
                }
            }
        }
    });
}

#[test]
fn calls_return_from_within_a_subscriber_on_the_workers_thread() {
    tracing::subscriber::set_global_default(Caller).unwrap();
    watched(|begins| {
        for (name, call) in CALLS {
            begins(format!("{name} on the background's thread"));
            let store =
                Options::new().segment_bytes(8192).max_disk_bytes(96 << 10).open_on(&SimDisk::new()).unwrap();
            let (done, is_done) = mpsc::channel();
            let own = store.clone();
            *OF_THE_HELPER.lock().unwrap() = Some(Box::new(move || {
                call(&own);
                drop(own);
                done.send(()).unwrap();
            }));
            // The worker makes the next segment.
            for n in 0..10_u8 {
                drop(store.insert([n % 3], [n; 3000]));
            }
            is_done.recv_timeout(PATIENCE).unwrap();
            drop(store.close());
        }
        begins("the last handle dropped on the background's thread".to_owned());
        let disk = SimDisk::new();
        let store = Options::new().segment_bytes(8192).open_on(&disk).unwrap();
        let (done, is_done) = mpsc::channel();
        let (give, given) = mpsc::channel::<Store>();
        *OF_THE_HELPER.lock().unwrap() = Some(Box::new(move || {
            drop(given.recv().unwrap());
            done.send(()).unwrap();
        }));
        store.insert([1], [1; 6000]).unwrap();
        give.send(store).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
        let store = Options::new().background(false).open_on(&disk).unwrap();
        assert!(store.recovery_report().clean);
        assert_eq!(store.len(), 1);
    });
}

// ---- Followers ----------------------------------------------------------------------------------

thread_local! {
    static FOLLOWER: RefCell<Option<Follower>> = const { RefCell::new(None) };
}

/// Returns the follower that this thread's code uses.
fn follower() -> Follower {
    FOLLOWER.with(|follower| follower.borrow().clone()).unwrap()
}

/// The calls to a follower that the caller's code makes.
const FOLLOWER_CALLS: &[Call] = &[
    ("refresh", |_| drop(follower().refresh())),
    ("wait", |_| drop(follower().wait(follower().last_seq(), Duration::from_micros(200)))),
    ("wait_durable", |_| drop(follower().wait_durable(follower().last_seq(), Duration::from_micros(200)))),
    ("auto_refresh", |_| drop(follower().auto_refresh(Wait::Sleep))),
    ("keyspace", |_| drop(follower().keyspace("typed"))),
    ("typed_keyspace", |_| drop(follower().typed_keyspace::<str, u32, _>("typed", Postcard))),
    ("keyspace_names", |_| drop(follower().keyspace_names())),
    ("snapshot", |_| drop(follower().snapshot().get([1]))),
    ("last_seq", |_| assert!(follower().last_seq().0 > 0)),
    ("durable_seq", |_| drop(follower().durable_seq())),
    ("writer_status", |_| drop(follower().writer_status())),
    ("stats", |_| assert!(follower().stats().keyspaces > 0)),
    ("size_on_disk", |_| drop(follower().size_on_disk())),
    ("verify", |_| drop(follower().verify())),
    ("debug", |_| assert!(!format!("{:?}", follower()).is_empty())),
    ("get", |_| drop(follower().get([1]))),
    ("iter", |_| follower().iter().for_each(drop)),
    ("a write and a refresh", |store| {
        drop(store.insert("new", "1"));
        drop(follower().refresh());
    }),
    ("the last handle dropped", |_| drop(FOLLOWER.take())),
];

/// A function of a follower that runs the caller's code, by its name in the source.
type FollowerPlace = (&'static str, fn(&SimDisk, &Follower, &Rc<Code>) -> Result<()>);

const FOLLOWS: &[FollowerPlace] = &[
    ("Options::follow", |disk, _, c| {
        HEARS.set(Some(Rc::clone(c)));
        let options = Options::new().recovery_progress(|_| run_heard());
        let opened = tracing::subscriber::with_default(NoSubscriber::new(), || options.follow_on(disk));
        HEARS.set(None);
        opened.map(drop)
    }),
    ("Options::follow with a subscriber", |disk, _, c| {
        HEARS.set(Some(Rc::clone(c)));
        let opened = tracing::subscriber::with_default(Caller, || Options::new().follow_on(disk));
        HEARS.set(None);
        opened.map(drop)
    }),
    ("Follower::typed_keyspace", |_, f, c| {
        f.typed_keyspace::<str, u32, _>("typed", typed::Running(Rc::clone(c))).map(drop)
    }),
    ("Follower::changes", |_, f, c| f.changes(Beginning(Rc::clone(c))).map(drop)),
    ("Reader::get of a follower", |_, f, c| f.get(bytes(c)).map(drop)),
    ("Reader::iter of a follower", |_, f, c| {
        f.iter().for_each(|_| c.run());
        Ok(())
    }),
    ("Reader::view of a follower", |_, f, c| {
        let view = f.view();
        let value = view.get([1])?;
        c.run();
        assert!(value.is_some_and(|value| value.len() == 100_000), "what a view lent stays as it was");
        Ok(())
    }),
];

/// Makes a store that a follower reads with some progress.
fn to_follow(disk: &SimDisk) -> Store {
    let store = Options::new().background(false).segment_bytes(1 << 20).open_on(disk).unwrap();
    store.keyspace("other").unwrap().insert("a", "1").unwrap();
    store.typed_keyspace::<str, u32, _>("typed", Postcard).unwrap().insert("a", &1).unwrap();
    for n in 0..30_u8 {
        store.insert([n], [n; 100_000]).unwrap();
    }
    store
}

#[test]
fn every_call_returns_from_within_code_that_a_follower_runs() {
    watched(|begins| {
        for (place, run) in FOLLOWS {
            for (name, call) in CALLS.iter().chain(FOLLOWER_CALLS) {
                begins(format!("{name} within {place}"));
                let disk = SimDisk::new();
                let store = to_follow(&disk);
                let own = Options::new().follow_on(&disk).unwrap();
                FOLLOWER.set(Some(own.clone()));
                let code = Code::new(&store, *call, 1);
                // The follower may find a file removed by the call, and reads the store again.
                run(&disk, &own, &code).unwrap();
                assert!(code.has_run(), "{place} ran no code of its caller");
                drop(own);
                FOLLOWER.set(None);
                drop(store.close());
            }
        }
    });
}

/// Cause: a refresh that read the store anew reported progress under the follower's lock. Symptom:
/// a callback that used a clone of the follower never returned. Fix: only an open reports progress.
#[test]
fn refresh_that_reads_the_store_anew_runs_no_callback() {
    watched(|begins| {
        begins("a refresh within the progress of a refresh".to_owned());
        let disk = SimDisk::new();
        let store = to_follow(&disk);
        let own = Options::new().recovery_progress(|_| run_heard()).follow_on(&disk).unwrap();
        FOLLOWER.set(Some(own.clone()));
        for n in 0..30_u8 {
            store.insert([n], [n; 100_001]).unwrap();
            store.insert([n], [n; 100_002]).unwrap();
        }
        store.compact().unwrap();
        store.compact().unwrap();
        let code = Code::new(&store, |_| drop(follower().refresh()), 1);
        HEARS.set(Some(Rc::clone(&code)));
        let refreshed = tracing::subscriber::with_default(NoSubscriber::new(), || own.refresh());
        assert!(refreshed.unwrap().jumped);
        HEARS.set(None);
        assert!(!code.has_run() && own.len() == 30);
        FOLLOWER.set(None);
    });
}
