//! Tests that the library survives a refusal of any of its large allocations.
//!
//! One workload uses all functions of a store. It runs with the first, second, third ... large
//! allocation refused, until none is. A variant also refuses all later ones. The refused call fails
//! with advice or does without, but never ends the process. Reads continue, the same call works
//! once there is memory, and no acknowledged write is missing. A small allocation may end the
//! process, as in std.
#![cfg(feature = "sim")]
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use mapcask::{Error, Options, Resource, Result, Store, WriteBatch};

/// The size from which an allocation is large, in bytes.
const LARGE: usize = 64 << 10;

/// An allocator that refuses the chosen allocations.
struct Scarce;

/// True while the library is called.
static ARMED: AtomicBool = AtomicBool::new(false);
/// The large allocations left, including the one that is refused.
static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);
/// True if the later ones are refused as well.
static STICKY: AtomicBool = AtomicBool::new(false);
static REFUSED: AtomicU64 = AtomicU64::new(0);

fn refuses(size: usize) -> bool {
    if size < LARGE || !ARMED.load(SeqCst) {
        return false;
    }
    let before = LEFT.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))).unwrap();
    let refuses = before == 1 || (before == 0 && STICKY.load(SeqCst));
    REFUSED.fetch_add(u64::from(refuses), SeqCst);
    refuses
}

// SAFETY: every call is passed on to the system's allocator as it came, or refused.
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are the callee's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Scarce = Scarce;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The running workload.
struct Machine {
    place: String,
    /// The number of calls that have failed.
    failures: u64,
    map: Map,
}

impl Machine {
    /// Calls the library; a call without memory is repeated with all there is.
    fn call<T>(&mut self, what: &str, work: impl Fn() -> Result<T>) -> T {
        ARMED.store(true, SeqCst);
        let done = work();
        ARMED.store(false, SeqCst);
        done.unwrap_or_else(|error| {
            let place = format!("{}, {what}", self.place);
            assert!(
                matches!(error, Error::Exhausted { resource: Resource::Memory, .. }),
                "{place}: {error:?}"
            );
            assert!(error.to_string().contains("ulimit -v"), "{place}: {error}");
            self.failures += 1;
            LEFT.store(u64::MAX, SeqCst);
            work().unwrap_or_else(|error| panic!("{place}: not again either: {error:?}"))
        })
    }

    fn insert(&mut self, store: &Store, key: &str, value: Vec<u8>) {
        self.call("insert", || store.insert(key, &value));
        self.map.insert(key.into(), value);
    }

    fn open(&mut self, path: &Path) -> Store {
        let options = Options::new().background(false).segment_bytes(4 << 20).checkpoint_bytes(0);
        self.call("open", || options.clone().open(path))
    }

    fn background(&mut self, store: &Store) {
        while self.call("step", || store.step()) || self.call("rest", || store.rest_step()) {}
    }

    /// Checks that the store holds exactly the acknowledged keys, by every way to read it.
    fn check(&mut self, store: &Store) {
        let keys: Vec<_> = self.map.keys().cloned().collect();
        let found = self.call("multi_get", || store.multi_get(&keys));
        for ((key, value), found) in self.map.iter().zip(found) {
            assert_eq!(found.as_deref(), Some(value.as_slice()), "{}: {key:?}", self.place);
        }
        assert_eq!(store.len(), self.map.len(), "{}", self.place);
        let mut copy = Vec::new();
        let large = self.map.get(b"large".as_slice()).cloned();
        for _ in 0..2 {
            ARMED.store(true, SeqCst);
            let copied = store.get_into("large", &mut copy);
            ARMED.store(false, SeqCst);
            match copied {
                Ok(there) => assert_eq!(there.then_some(&copy), large.as_ref(), "{}", self.place),
                Err(error) => assert!(matches!(error, Error::Exhausted { .. }), "{error:?}"),
            }
        }
    }

    fn write(&mut self, store: &Store, batch: &WriteBatch, change: impl FnOnce(&mut Map)) {
        self.call("batch", || store.write(batch));
        change(&mut self.map);
    }
}

fn name(number: u32) -> String {
    format!("key {number}")
}

fn filled(keys: std::ops::Range<u32>, len: usize, into: &mut WriteBatch) -> Map {
    let map: Map =
        keys.map(|number| (name(number).into_bytes(), vec![number.to_le_bytes()[0]; len])).collect();
    for (key, value) in &map {
        into.insert(key, value);
    }
    map
}

/// Makes the copy that a kill leaves of an open store.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs every function of a store that needs much memory.
fn workload(machine: &mut Machine) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("store");
    let store = machine.open(&path);
    machine.insert(&store, "large", vec![1; 300 << 10]);
    for round in 0..2 {
        let mut batch = WriteBatch::new();
        let some = filled(0..8_000, 100 + round, &mut batch);
        machine.write(&store, &batch, |map| map.extend(some));
    }
    for number in 0..40 {
        machine.insert(&store, &format!("medium {number}"), vec![2; 200 << 10]);
    }
    machine.background(&store);
    let snapshot = store.snapshot();
    let before = machine.map.clone();
    let mut batch = WriteBatch::new();
    let all = filled(2_000..10_000, 120, &mut batch);
    for number in 0..1_000 {
        batch.remove(name(number));
    }
    machine.write(&store, &batch, |map| {
        map.extend(all);
        (0..1_000).for_each(|number| drop(map.remove(name(number).as_bytes())));
    });
    for number in 5_000..5_400 {
        machine.insert(&store, &name(number), vec![3; 50]);
    }
    let seen = machine.call("snapshot", || snapshot.keyspace(""));
    let keys: Vec<_> = before.keys().cloned().collect();
    let found = machine.call("multi_get", || seen.multi_get(&keys));
    assert!(
        before.values().zip(&found).all(|(value, found)| found.as_deref() == Some(value)),
        "{}",
        machine.place
    );
    drop((found, seen, snapshot));
    machine.check(&store);
    machine.call("flush", || store.flush());
    // The store is killed, and another one replays the log.
    let killed = directory.path().join("killed");
    copied(&path, &killed);
    let again = machine.open(&killed);
    machine.check(&again);
    // The flush rewrites all that may not be on the disk: a failure of that would end all writing.
    machine.call("flush", || again.flush());
    drop(again);
    for number in (0..40).filter(|number| number % 3 > 0) {
        let key = format!("medium {number}");
        machine.call("remove", || store.remove(&key));
        machine.map.remove(key.as_bytes());
    }
    machine.call("compact", || store.compact());
    machine.check(&store);
    machine.call("image", || store.take_checkpoint());
    machine.background(&store);
    store.close().unwrap();
    let store = machine.open(&path);
    machine.check(&store);
    machine.call("verify", || store.verify());
}

/// Runs the workload. Returns true if an allocation was refused, and the number of failed calls.
fn run(nth: u64, sticky: bool) -> (bool, u64) {
    LEFT.store(nth, SeqCst);
    STICKY.store(sticky, SeqCst);
    REFUSED.store(0, SeqCst);
    let place = format!("large allocation number {nth}, sticky: {sticky}");
    let mut machine = Machine { place, failures: 0, map: Map::new() };
    workload(&mut machine);
    (REFUSED.load(SeqCst) > 0, machine.failures)
}

/// Cause: large buffers were allocated as std does. Symptom: without address space an insertion, a
/// compaction or an open ended the process by SIGABRT. Fix: the allocation may fail, and an error
/// advises.
#[test]
fn any_large_allocation_may_be_refused() {
    let (refused, failures) = run(u64::MAX, false);
    assert!(!refused && failures == 0);
    let all = u64::MAX - LEFT.load(SeqCst);
    assert!(all > 30, "{all}");
    for sticky in [false, true] {
        let mut failures = 0;
        for nth in 1..=all {
            failures += run(nth, sticky).1;
        }
        assert!(failures > all / 4, "{failures} of {all} were told of");
    }
}
