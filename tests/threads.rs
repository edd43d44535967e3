//! Tests many threads on one store: the writes that readers may see, and that acknowledged writes
//! are kept.
//!
//! Every number of operations is fixed, and no thread waits for time to pass. The order of the
//! threads differs from run to run; the assertions hold for each order.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};
use std::thread;

use mapcask::{Durability, Error, Options, Store, WriteBatch};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(directory: &tempfile::TempDir, options: Options) -> Store {
    options.open(directory.path().join("data")).unwrap()
}

/// Returns a value whose length and content follow from its number.
fn value(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take((number % 97) as usize));
    bytes
}

/// Returns the number of a value, which must be whole.
fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*bytes.first_chunk().expect("a whole value"));
    assert_eq!(bytes, value(number), "a torn value");
    number
}

// ---- Batches ------------------------------------------------------------------------------------

const KEYS: u64 = 6;
const BATCHES: u64 = 6000;

/// Returns true if batch `n` removes a key: every third one. It gives all others the number `n`.
fn removes(n: u64, key: u64) -> bool {
    (n + key).is_multiple_of(3)
}

fn batch(n: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for key in 0..KEYS {
        // A reader must never see a record that a later one of the same batch replaces.
        if n.is_multiple_of(5) {
            batch.insert(key.to_le_bytes(), "hidden by the same batch");
        }
        if removes(n, key) {
            batch.remove(key.to_le_bytes());
        } else {
            if n.is_multiple_of(7) {
                batch.remove(key.to_le_bytes());
            }
            batch.insert(key.to_le_bytes(), value(n));
        }
    }
    batch
}

/// The state of the batches that all threads share.
struct Batches {
    /// The last batch that a writer began.
    begun: AtomicU64,
    /// The last batch that a reader saw.
    seen: AtomicU64,
    next: Mutex<u64>,
    done: AtomicBool,
}

impl Batches {
    /// Checks one read of one key: its batch is at least as new as any that was seen before the
    /// read began.
    fn read(&self, key: u64, get: impl FnOnce(&[u8]) -> Option<u64>) {
        let least = self.seen.load(SeqCst);
        let seen = match get(&key.to_le_bytes()) {
            Some(n) => {
                assert!(!removes(n, key));
                n
            }
            None => (least..).find(|n| *n == 0 || removes(*n, key)).unwrap(),
        };
        assert!(seen >= least, "key {key}: batch {least} was seen, and then {seen}");
        assert!(
            seen <= self.begun.load(SeqCst),
            "key {key} is absent, which no batch that was begun explains"
        );
        self.seen.fetch_max(seen, SeqCst);
    }
}

fn read_batches(store: &Store, batches: &Batches, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut copy = Vec::new();
    while !batches.done.load(SeqCst) {
        for _ in 0..8 {
            batches.read(random.u64(..KEYS), |key| store.get(key).unwrap().map(|value| number(&value)));
            let copied = |key: &[u8]| store.get_into(key, &mut copy).unwrap().then(|| number(&copy));
            batches.read(random.u64(..KEYS), copied);
        }
        let view = store.view();
        for _ in 0..8 {
            batches.read(random.u64(..KEYS), |key| view.get(key).unwrap().map(number));
        }
    }
}

#[test]
fn readers_see_whole_batches_and_never_an_older_one_later() {
    let directory = directory();
    let store = open(&directory, Options::new().segment_bytes(64 << 10));
    let batches = Batches {
        begun: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        next: Mutex::new(1),
        done: AtomicBool::new(false),
    };
    let write = || {
        loop {
            // The writers keep one order, so that a greater number is a newer batch.
            let mut next = batches.next.lock().unwrap();
            let n = *next;
            if n > BATCHES {
                return;
            }
            *next += 1;
            batches.begun.store(n, SeqCst);
            store.write(batch(n)).unwrap();
            // The batch is acknowledged: from here on every reader must see it.
            batches.seen.fetch_max(n, SeqCst);
        }
    };
    let grow = || {
        (0..20_000_u64).for_each(|n| {
            store.insert(format!("other {n}"), value(n)).unwrap();
        })
    };
    thread::scope(|scope| {
        for seed in 0..3 {
            let (store, batches) = (&store, &batches);
            scope.spawn(move || read_batches(store, batches, seed));
        }
        let writers = [scope.spawn(write), scope.spawn(write), scope.spawn(grow)];
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        batches.done.store(true, SeqCst);
    });
    let present = (0..KEYS).filter(|key| !removes(BATCHES, *key)).count();
    assert_eq!(store.len(), 20_000 + present);
    store.verify().unwrap();
}

// ---- Growth and iteration -----------------------------------------------------------------------

#[test]
fn growing_store_finds_exactly_the_acknowledged_keys() {
    const COUNT: u64 = 200_000;
    let directory = directory();
    let store = open(&directory, Options::new());
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (store, written) = (&store, &written);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                loop {
                    let written = written.load(SeqCst);
                    if written == COUNT {
                        return;
                    }
                    let n = random.u64(..=written);
                    let found = store.get(n.to_le_bytes()).unwrap();
                    assert!(n == written || found.is_some(), "key {n} of {written}");
                    assert!(found.is_none_or(|found| number(&found) == n));
                    assert_eq!(store.view().get((COUNT + n).to_le_bytes()).unwrap(), None);
                }
            });
        }
        for n in 0..COUNT {
            store.insert(n.to_le_bytes(), value(n)).unwrap();
            written.store(n + 1, SeqCst);
        }
    });
    assert_eq!(store.len() as u64, COUNT);
    assert_eq!(store.keys().count() as u64, COUNT);
}

#[test]
fn iteration_during_growth_yields_each_permanent_key_once() {
    const PERMANENT: u64 = 2000;
    let directory = directory();
    let store = open(&directory, Options::new().segment_bytes(1 << 20));
    let permanent = |n: u64| format!("permanent {n}");
    for n in 0..PERMANENT {
        store.insert(permanent(n), value(n)).unwrap();
    }
    let done = AtomicBool::new(false);
    let check = |items: &[(&[u8], &[u8])]| {
        let mut seen = HashSet::new();
        for (key, value) in items.iter().filter(|(key, _)| key.starts_with(b"permanent")) {
            number(value);
            assert!(seen.insert(key.to_vec()), "{key:?} came twice");
        }
        assert_eq!(seen.len() as u64, PERMANENT);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rounds = 0;
            while rounds < 3 || !done.load(SeqCst) {
                rounds += 1;
                let items: Vec<_> = store.iter().map(|item| item.unwrap()).collect();
                check(&items.iter().map(|(key, value)| (&key[..], &value[..])).collect::<Vec<_>>());
            }
        });
        scope.spawn(|| {
            let mut rounds = 0;
            while rounds < 3 || !done.load(SeqCst) {
                rounds += 1;
                let view = store.view();
                check(&view.iter().map(|item| item.unwrap()).collect::<Vec<_>>());
            }
        });
        let grow = scope.spawn(|| {
            for n in 0..60_000_u64 {
                store.insert(format!("passing {n}"), value(n)).unwrap();
                if n % 3 == 0 {
                    store.remove(format!("passing {}", n / 2)).unwrap();
                }
            }
        });
        // A key that one batch removes and inserts again was never absent.
        let replace = scope.spawn(|| {
            for n in 0..10_000 {
                let mut batch = WriteBatch::new();
                for key in [n % PERMANENT, n * 7 % PERMANENT] {
                    batch.remove(permanent(key));
                    batch.insert(permanent(key), value(n));
                }
                store.write(batch).unwrap();
            }
        });
        grow.join().unwrap();
        replace.join().unwrap();
        done.store(true, SeqCst);
    });
}

// ---- Durability ---------------------------------------------------------------------------------

#[test]
fn durable_writers_share_syncs_and_flushes_cover_their_writes() {
    const WRITERS: usize = 8;
    const WRITES: usize = 40;
    let directory = directory();
    let store = open(&directory, Options::new().durability(Durability::Disk));
    let before = store.stats().syncs;
    let barrier = Barrier::new(WRITERS);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..WRITES {
                    store.insert(format!("{writer} {n}"), "value").unwrap();
                    assert!(store.stats().durable_seq > n as u64);
                }
            });
        }
    });
    let syncs = store.stats().syncs - before;
    assert!(syncs < (WRITERS * WRITES) as u64, "{syncs} syncs for {} writes", WRITERS * WRITES);

    let directory = self::directory();
    let store = open(&directory, Options::new().segment_bytes(64 << 10));
    thread::scope(|scope| {
        for writer in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..100 {
                    store.insert((writer * 100 + n).to_le_bytes(), value(n)).unwrap();
                    let written = store.stats().last_seq;
                    store.flush().unwrap();
                    assert!(store.stats().durable_seq >= written);
                }
            });
        }
    });
    store.verify().unwrap();
}

// ---- Closing ------------------------------------------------------------------------------------

#[test]
fn values_outlive_the_store_in_other_threads() {
    let directory = directory();
    let store = open(&directory, Options::new().segment_bytes(4096));
    (0..1000_u64).for_each(|n| {
        store.insert(n.to_le_bytes(), value(n)).unwrap();
    });
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..3 {
            let (clone, barrier) = (store.clone(), &barrier);
            scope.spawn(move || {
                let values: Vec<_> = (0..1000_u64).map(|n| clone.get(n.to_le_bytes()).unwrap()).collect();
                barrier.wait();
                barrier.wait();
                assert!(matches!(clone.get(0_u64.to_le_bytes()), Err(Error::Closed)));
                drop(clone);
                assert!(values.into_iter().zip(0..).all(|(value, n)| number(&value.unwrap()) == n));
            });
        }
        barrier.wait();
        store.close().unwrap();
        barrier.wait();
    });
}

/// Writes until the store is closed, and returns the number of acknowledged writes.
fn write_until_closed(store: &Store, writer: u64, total: &AtomicU64) -> u64 {
    for n in 0.. {
        match store.insert(format!("{writer} {n}"), value(n)) {
            Ok(_) => total.fetch_add(1, SeqCst),
            Err(Error::Closed) => return n,
            Err(error) => panic!("{error}"),
        };
        match store.get(format!("{writer} {n}")) {
            Ok(found) => assert_eq!(number(&found.unwrap()), n),
            Err(Error::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the store is closed some time")
}

#[test]
fn close_keeps_exactly_the_acknowledged_writes() {
    for round in 0..40_u64 {
        let durability = if round.is_multiple_of(4) { Durability::Disk } else { Durability::Os };
        let directory = directory();
        let options = Options::new().segment_bytes(16 << 10).durability(durability);
        let store = open(&directory, options.clone());
        let total = AtomicU64::new(0);
        let acknowledged = thread::scope(|scope| {
            let (store, total) = (&store, &total);
            let writers: Vec<_> =
                (0..3).map(|writer| scope.spawn(move || write_until_closed(store, writer, total))).collect();
            while total.load(SeqCst) < round * 20 {
                thread::yield_now();
            }
            store.clone().close().unwrap();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        drop(store);
        let store = open(&directory, options);
        assert!(store.recovery_report().clean);
        for (writer, count) in acknowledged.iter().enumerate() {
            for n in 0..*count {
                assert_eq!(number(&store.get(format!("{writer} {n}")).unwrap().unwrap()), n);
            }
        }
        assert_eq!(store.len() as u64, acknowledged.iter().sum::<u64>());
    }
}

// ---- Linearizability ----------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Insert(u64),
    Remove { was_there: bool },
    Get(Option<u64>),
}

/// One operation on the key, with the times between which it took effect.
#[derive(Debug, Clone, Copy)]
struct Operation {
    begun: u64,
    ended: u64,
    action: Action,
}

/// Returns true if some order explains all answers, with each operation between its begin and its
/// end.
fn is_linearizable(history: &[Operation]) -> bool {
    let mut known = BTreeMap::new();
    explains(history, 0, None, &mut known)
}

fn explains(
    history: &[Operation],
    done: u32,
    value: Option<u64>,
    known: &mut BTreeMap<(u32, Option<u64>), ()>,
) -> bool {
    if done.count_ones() as usize == history.len() {
        return true;
    }
    // A state that was reached before explained nothing, or the search would have ended.
    if known.insert((done, value), ()).is_some() {
        return false;
    }
    let open = || history.iter().enumerate().filter(|(n, _)| done & 1 << n == 0);
    let first_end = open().map(|(_, operation)| operation.ended).min().expect("not all are done");
    open().filter(|(_, operation)| operation.begun < first_end).any(|(n, operation)| {
        let next = match operation.action {
            Action::Insert(new) => Some(new),
            Action::Remove { was_there } if was_there == value.is_some() => None,
            Action::Get(found) if found == value => value,
            _ => return false,
        };
        explains(history, done | 1 << n, next, known)
    })
}

fn act(store: &Store, clock: &AtomicU64, random: &mut fastrand::Rng, fresh: u64) -> Operation {
    let begun = clock.fetch_add(1, SeqCst);
    let action = match random.u8(..5) {
        0 => {
            store.insert("key", value(fresh)).unwrap();
            Action::Insert(fresh)
        }
        1 => Action::Remove { was_there: store.remove("key").unwrap() },
        2 => {
            let mut batch = WriteBatch::new();
            batch.remove("key");
            batch.insert("key", value(fresh));
            store.write(batch).unwrap();
            Action::Insert(fresh)
        }
        3 => Action::Get(store.get("key").unwrap().map(|value| number(&value))),
        _ => Action::Get(store.view().get("key").unwrap().map(number)),
    };
    Operation { begun, ended: clock.fetch_add(1, SeqCst), action }
}

#[test]
fn the_operations_on_one_key_are_linearizable() {
    const THREADS: usize = 4;
    const OPERATIONS: u64 = 5;
    const ROUNDS: u64 = 3000;
    let directory = directory();
    let store = open(&directory, Options::new().segment_bytes(64 << 10));
    let (clock, barrier) = (AtomicU64::new(0), Barrier::new(THREADS));
    let history = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, clock, barrier, history) = (&store, &clock, &barrier, &history);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                for round in 0..ROUNDS {
                    barrier.wait();
                    let fresh = |n| (round * THREADS as u64 + thread as u64) * OPERATIONS + n;
                    let mine: Vec<_> =
                        (0..OPERATIONS).map(|n| act(store, clock, &mut random, fresh(n))).collect();
                    history.lock().unwrap().extend(mine);
                    if barrier.wait().is_leader() {
                        let history = std::mem::take(&mut *history.lock().unwrap());
                        assert!(is_linearizable(&history), "{history:#?}");
                        store.remove("key").unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn the_checker_of_histories_finds_a_stale_read() {
    let at = |begun, ended, action| Operation { begun, ended, action };
    let insert = at(0, 1, Action::Insert(7));
    assert!(is_linearizable(&[insert, at(2, 3, Action::Get(Some(7)))]));
    assert!(!is_linearizable(&[insert, at(2, 3, Action::Get(None))]));
    assert!(is_linearizable(&[at(0, 3, Action::Insert(7)), at(1, 2, Action::Get(None))]));
    let newer = at(0, 9, Action::Insert(7));
    assert!(!is_linearizable(&[newer, at(1, 2, Action::Get(Some(7))), at(3, 4, Action::Get(None))]));
}
