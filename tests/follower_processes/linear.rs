//! Writes in one process, and refreshes and reads in others, are linearizable together.
//!
//! The system's monotonic clock is the same in all processes, so the calls of all of them have one
//! order. Only the followers read: a follower may show a write for an instant before the writer's
//! own process does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use mapcask::{Follower, Keyspace, Options, Seq, Store, WriteBatch};
use rustix::time::{ClockId, clock_gettime};

use crate::child::{Child, tell};
use crate::linearize::{Completed, History, Model, check};
use crate::scratch;

/// The threads that write, and the processes that read.
const WRITERS: usize = 2;
const READERS: usize = 2;
const ROUNDS: u64 = 6;
/// The states that each follower sees in a round. The writers write until then.
const STATES: usize = 60;
/// Reads that show the same state again are recorded up to this number.
const READS: usize = 1000;

const NAMES: [&str; 2] = ["left", "right"];
const KEYS: usize = 3;
const CELLS: usize = NAMES.len() * KEYS;

/// The number in each key of each keyspace.
type Cells = [Option<u64>; CELLS];

/// The model of the store. A number is not greater than that of any later write.
#[derive(Debug)]
struct Whole;

#[derive(Debug)]
enum Deed {
    /// A refresh, and reads of all keys.
    Read,
    Insert(usize, u64),
    Remove(usize),
    Batch(Vec<(usize, Option<u64>)>),
    Clear(usize),
}

#[derive(Debug)]
enum Effect {
    Shown(Cells, Seq),
    Written(Seq),
    Removed(bool),
}

impl Model for Whole {
    type State = (Cells, Seq);
    type Operation = Deed;
    type Outcome = Effect;

    fn step((cells, seq): &(Cells, Seq), deed: &Deed, effect: &Effect) -> Option<(Cells, Seq)> {
        let mut after = *cells;
        match (deed, effect) {
            (Deed::Read, Effect::Shown(shown, at)) => {
                return (shown == cells && at >= seq).then_some((after, *at));
            }
            (Deed::Remove(cell), Effect::Removed(is_removed)) => {
                let was_there = after[*cell].take().is_some();
                return (was_there == *is_removed).then_some((after, *seq));
            }
            (Deed::Insert(cell, number), _) => after[*cell] = Some(*number),
            (Deed::Batch(writes), _) => writes.iter().for_each(|(cell, number)| after[*cell] = *number),
            (Deed::Clear(keyspace), _) => after[keyspace * KEYS..][..KEYS].fill(None),
            (Deed::Read | Deed::Remove(_), _) => return None,
        }
        let Effect::Written(written) = effect else { return None };
        // A clear of an empty keyspace returns the number of the last write.
        let in_order = if matches!(deed, Deed::Clear(_)) { written >= seq } else { written > seq };
        in_order.then_some((after, *written))
    }
}

/// Returns the time of the clock that all processes share. Of equal times, calls come first.
fn time(thread: usize, is_return: bool) -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    (u64::try_from(nanoseconds).unwrap() << 4) + (u64::from(is_return) << 3) + thread as u64
}

fn key(cell: usize) -> [u8; 1] {
    [u8::try_from(cell % KEYS).unwrap()]
}

fn draw(random: &mut fastrand::Rng) -> Deed {
    let number = random.u64(..);
    match random.u8(..20) {
        0..=9 => Deed::Insert(random.usize(..CELLS), number),
        10..=13 => Deed::Remove(random.usize(..CELLS)),
        14..=18 => {
            let write = |_| (random.usize(..CELLS), random.bool().then_some(number));
            Deed::Batch((0..4).map(write).collect())
        }
        _ => Deed::Clear(random.usize(..NAMES.len())),
    }
}

fn perform(store: &Store, keyspaces: &[Keyspace; 2], deed: &Deed) -> Effect {
    match deed {
        Deed::Insert(cell, number) => {
            Effect::Written(keyspaces[cell / KEYS].insert(key(*cell), number.to_le_bytes()).unwrap())
        }
        Deed::Remove(cell) => Effect::Removed(keyspaces[cell / KEYS].remove(key(*cell)).unwrap()),
        Deed::Batch(writes) => {
            let mut batch = WriteBatch::new();
            for (cell, number) in writes {
                let mut on = batch.on(&keyspaces[cell / KEYS]);
                match number {
                    Some(number) => on.insert(key(*cell), number.to_le_bytes()),
                    None => on.remove(key(*cell)),
                };
            }
            Effect::Written(store.write(&batch).unwrap())
        }
        Deed::Clear(keyspace) => Effect::Written(keyspaces[*keyspace].clear().unwrap()),
        Deed::Read => unreachable!("the followers read"),
    }
}

/// Writes from one thread until the followers have seen enough.
fn write(
    store: &Store,
    keyspaces: &[Keyspace; 2],
    thread: usize,
    mut random: fastrand::Rng,
    is_over: &AtomicBool,
) -> History<Whole> {
    let mut history = Vec::new();
    while !is_over.load(SeqCst) {
        let operation = draw(&mut random);
        let call = time(thread, false);
        let outcome = perform(store, keyspaces, &operation);
        history.push(Completed { thread, call, ret: time(thread, true), operation, outcome });
        // The followers may share the processor.
        thread::yield_now();
    }
    history
}

/// Refreshes and reads by orders, each time until it has seen enough states. A part of a child.
pub(crate) fn read(path: &Path) {
    let follower = Follower::open(path).unwrap();
    let readers = NAMES.map(|name| follower.keyspace(name).unwrap());
    for order in std::io::stdin().lines().map(Result::unwrap) {
        assert_eq!(order, "read");
        tell("reading");
        let (mut lines, mut states, mut last) = (Vec::new(), 0, Seq(0));
        while states < STATES {
            let call = time(0, false);
            let seq = follower.refresh().unwrap().seq;
            let read = |cell: usize| readers[cell / KEYS].get(key(cell)).unwrap();
            let cells: [_; CELLS] = std::array::from_fn(read);
            let ret = time(0, true);
            if seq != last || lines.len() < READS {
                let numbers = cells.iter().map(|value| match value {
                    Some(value) => format!(" {}", u64::from_le_bytes((**value).try_into().unwrap())),
                    None => " -".to_owned(),
                });
                lines.push(format!("{call} {ret} {}{}", seq.0, numbers.collect::<String>()));
            }
            states += usize::from(seq != last);
            last = seq;
        }
        tell("end");
        lines.iter().for_each(|line| tell(line));
        tell("end");
    }
}

/// Returns the read that a follower reports.
fn read_in(report: &str, thread: usize) -> Completed<Deed, Effect> {
    let mut words = report.split(' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (call, ret, seq) = (number() + thread as u64, number() + thread as u64, Seq(number()));
    let cells: Vec<_> = words.map(|word| (word != "-").then(|| word.parse().unwrap())).collect();
    let outcome = Effect::Shown(cells.try_into().unwrap(), seq);
    Completed { thread, call, ret, operation: Deed::Read, outcome }
}

#[test]
fn writes_and_refreshed_reads_elsewhere_are_linearizable() {
    let scratch = scratch();
    let path = scratch.path().join("store");
    // The log rolls often, and compaction removes what a slow follower has not read.
    let store = Options::new().segment_bytes(16 << 10).open(&path).unwrap();
    let keyspaces = NAMES.map(|name| store.keyspace(name).unwrap());
    let mut readers: Vec<_> = (0..READERS).map(|_| Child::start("read", &path)).collect();
    let seed = fastrand::u64(..);
    for round in 0..ROUNDS {
        for keyspace in &keyspaces {
            keyspace.clear().unwrap();
        }
        let initial = ([None; CELLS], store.last_seq());
        readers.iter_mut().for_each(|reader| assert_eq!(reader.ask("read"), "reading"));
        let is_over = AtomicBool::new(false);
        let mut history = thread::scope(|scope| {
            let start = |thread: usize| {
                let random = fastrand::Rng::with_seed(seed ^ (round << 8 | thread as u64));
                let (store, keyspaces, is_over) = (&store, &keyspaces, &is_over);
                scope.spawn(move || write(store, keyspaces, thread, random, is_over))
            };
            let threads: Vec<_> = (0..WRITERS).map(start).collect();
            let reports: Vec<_> = readers.iter_mut().map(Child::report).collect();
            is_over.store(true, SeqCst);
            reports.iter().for_each(|report| assert_eq!(report.as_deref(), Some("end")));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<History<Whole>>()
        });
        for (nth, reader) in readers.iter_mut().enumerate() {
            let reports = std::iter::from_fn(|| reader.report().filter(|report| report != "end"));
            history.extend(reports.map(|report| read_in(&report, WRITERS + nth)));
        }
        check::<Whole>(initial, &history).unwrap_or_else(|account| panic!("seed {seed}: {account}"));
    }
    readers.into_iter().for_each(|reader| assert!(reader.end().success()));
}
