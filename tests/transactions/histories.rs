//! Histories of many threads: replayed in the order of their numbers, the committed transactions must
//! have read what a map holds at their place.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use mapcask::WriteBatch;

use super::*;

type Bytes = Vec<u8>;
type Map = BTreeMap<Bytes, Bytes>;

/// The number of keyspaces. The last one is ordered.
const KEYSPACES: usize = 2;
const KEYS: u16 = 24;

/// A read of a transaction, with its answer.
#[derive(Debug)]
enum Read {
    Key {
        of: usize,
        key: Bytes,
        found: Option<Bytes>,
    },
    /// The first or last keys of a range of the ordered keyspace, in the order in which they came.
    Range {
        from: Bytes,
        to: Bytes,
        is_back: bool,
        limit: usize,
        found: Vec<(Bytes, Bytes)>,
    },
    Count {
        from: Bytes,
        to: Bytes,
        found: u64,
    },
}

/// A write; `None` clears the keyspace.
type Write = (usize, Option<(Bytes, Option<Bytes>)>);

/// Reads and writes that took effect as one step.
#[derive(Debug)]
struct Step {
    seq: Seq,
    reads: Vec<Read>,
    writes: Vec<Write>,
}

struct Worker<'s> {
    store: &'s Store,
    keyspaces: &'s [Keyspace; KEYSPACES],
    random: fastrand::Rng,
    /// Makes each value another one.
    serial: u64,
    steps: Vec<Step>,
    conflicts: u64,
}

impl Worker<'_> {
    fn key(&mut self) -> Bytes {
        self.random.u16(..KEYS).to_be_bytes().to_vec()
    }

    fn value(&mut self) -> Bytes {
        self.serial += 1;
        self.serial.to_le_bytes().to_vec()
    }

    /// Draws a write that is no clear.
    fn write(&mut self) -> Write {
        let of = self.random.usize(..KEYSPACES);
        let value = if self.random.u8(..3) == 0 { None } else { Some(self.value()) };
        (of, Some((self.key(), value)))
    }

    fn read(&mut self, transaction: &mut mapcask::Transaction) -> Read {
        let ordered = &self.keyspaces[KEYSPACES - 1];
        let (one, other) = (self.key(), self.key());
        let (from, to) = if one < other { (one, other) } else { (other, one) };
        match self.random.u8(..6) {
            0..3 => {
                let of = self.random.usize(..KEYSPACES);
                let found = transaction.get(&self.keyspaces[of], &from).unwrap();
                Read::Key { of, key: from, found: found.map(Into::into) }
            }
            3 => {
                let found = transaction.count_range(ordered, &from[..]..&to[..]).unwrap();
                Read::Count { from, to, found }
            }
            way => {
                let (is_back, limit) = (way == 4, self.random.usize(1..8));
                let range = transaction.range(ordered, &from[..]..&to[..]);
                let items = |range: &mut dyn Iterator<Item = Result<(TxValue, TxValue)>>| {
                    range.take(limit).map(|item| owned(item.unwrap())).collect()
                };
                let found = if is_back { items(&mut range.rev()) } else { items(&mut { range }) };
                Read::Range { from, to, is_back, limit, found }
            }
        }
    }

    /// Runs a transaction whose reads all come before its writes, so that none sees an own write.
    fn transact(&mut self) {
        let mut transaction = self.store.begin();
        let reads: Vec<Read> = (0..self.random.usize(1..5)).map(|_| self.read(&mut transaction)).collect();
        if self.random.bool() {
            // Others get between the reads and the commit, however few cores there are.
            thread::yield_now();
        }
        let mut writes: Vec<Write> = Vec::new();
        for _ in 0..self.random.usize(..4) {
            let (of, write) = self.write();
            let Some((key, value)) = &write else { continue };
            match value {
                Some(value) => transaction.insert(&self.keyspaces[of], key, value).unwrap(),
                None => transaction.remove(&self.keyspaces[of], key).unwrap(),
            }
            writes.push((of, write));
        }
        match transaction.commit() {
            Ok(seq) => self.steps.push(Step { seq, reads, writes }),
            Err(Error::Conflict { .. }) if !writes.is_empty() => self.conflicts += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes without a transaction.
    fn write_plainly(&mut self) {
        if self.random.u8(..100) == 0 {
            let of = self.random.usize(..KEYSPACES);
            let seq = self.keyspaces[of].clear().unwrap();
            self.steps.push(Step { seq, reads: Vec::new(), writes: vec![(of, None)] });
            return;
        }
        let writes: Vec<Write> = (0..self.random.usize(1..4)).map(|_| self.write()).collect();
        let mut batch = WriteBatch::new();
        for (of, write) in &writes {
            let Some((key, value)) = write else { continue };
            match value {
                Some(value) => drop(batch.on(&self.keyspaces[*of]).insert(key, value)),
                None => drop(batch.on(&self.keyspaces[*of]).remove(key)),
            }
        }
        let seq = self.store.write(&batch).unwrap();
        self.steps.push(Step { seq, reads: Vec::new(), writes });
    }
}

/// Complains about a read that a state does not give.
fn check_read(read: &Read, state: &[Map; KEYSPACES]) -> std::result::Result<(), String> {
    let ordered = &state[KEYSPACES - 1];
    let within = |from: &Bytes, to: &Bytes| {
        let range = if from < to { from.clone()..to.clone() } else { from.clone()..from.clone() };
        ordered.range(range).map(|(key, value)| (key.clone(), value.clone()))
    };
    let is_right = match read {
        Read::Key { of, key, found } => state[*of].get(key) == found.as_ref(),
        Read::Count { from, to, found } => within(from, to).count() as u64 == *found,
        Read::Range { from, to, is_back: false, limit, found } => {
            within(from, to).take(*limit).eq(found.iter().cloned())
        }
        Read::Range { from, to, is_back: true, limit, found } => {
            within(from, to).rev().take(*limit).eq(found.iter().cloned())
        }
    };
    if is_right { Ok(()) } else { Err(format!("{read:?} of {state:?}")) }
}

/// Replays steps in the order of their numbers. Steps that only read come after the one whose number
/// they have.
fn replay(mut steps: Vec<Step>) -> std::result::Result<[Map; KEYSPACES], String> {
    steps.sort_by_key(|step| (step.seq, step.writes.is_empty()));
    let mut state = [Map::new(), Map::new()];
    for step in &steps {
        for read in &step.reads {
            check_read(read, &state).map_err(|wrong| format!("at {}: {wrong}", step.seq.0))?;
        }
        for (of, write) in &step.writes {
            match write {
                None => state[*of].clear(),
                Some((key, Some(value))) => drop(state[*of].insert(key.clone(), value.clone())),
                Some((key, None)) => drop(state[*of].remove(key)),
            }
        }
    }
    Ok(state)
}

fn rounds() -> u64 {
    std::env::var("MAPCASK_TRANSACTIONS").map_or(4000, |text| text.parse().unwrap())
}

/// Runs four threads of transactions beside `writers` of plain writes, and tells of it.
fn run(seed: u64, writers: u64) -> String {
    let store = Options::new().segment_bytes(64 << 10).open_on(&SimDisk::new()).unwrap();
    let keyspaces = [store.keyspace("plain").unwrap(), store.ordered_keyspace("ordered").unwrap()];
    let threads = 4 + writers;
    let (start, rounds) = (Barrier::new(usize::try_from(threads).unwrap()), rounds());
    let mut steps = Vec::new();
    let mut conflicts = 0;
    let work = |thread: u64| {
        let (store, keyspaces) = (&store, &keyspaces);
        let random = fastrand::Rng::with_seed(seed * 100 + thread);
        let serial = (thread + 1) << 40;
        let mut worker = Worker { store, keyspaces, random, serial, steps: Vec::new(), conflicts: 0 };
        start.wait();
        for _ in 0..rounds {
            if thread < 4 { worker.transact() } else { worker.write_plainly() }
        }
        (worker.steps, worker.conflicts)
    };
    let work = &work;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        for worker in workers {
            let (made, failed) = worker.join().unwrap();
            steps.extend(made);
            conflicts += failed;
        }
    });
    let summary = format!("{} steps, {conflicts} conflicts, seed {seed}", steps.len());
    let state = replay(steps).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    for (keyspace, map) in keyspaces.iter().zip(&state) {
        let item = |item: Result<(mapcask::Value, mapcask::Value)>| {
            item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()
        };
        assert_eq!(keyspace.iter().map(item).collect::<Map>(), *map, "seed {seed}");
    }
    assert_eq!((store.stats().snapshots, store.stats().snapshot_bytes), (0, 0));
    summary
}

#[test]
fn committed_transactions_read_what_their_place_shows() {
    println!("{}", run(1, 0));
}

#[test]
fn transactions_beside_plain_writers_are_serializable() {
    for seed in 2..4 {
        println!("{}", run(seed, 2));
    }
}

/// The check of the histories can convict.
#[test]
fn replay_convicts_a_lost_update_a_phantom_and_a_wrong_order() {
    let write = |seq, key: &str, value: &str| Step {
        seq: Seq(seq),
        reads: Vec::new(),
        writes: vec![(1, Some((key.into(), Some(value.into()))))],
    };
    let reading = |seq, read| Step { reads: vec![read], ..write(seq, "c", "2") };
    let key = |found: &str| Read::Key { of: 1, key: "a".into(), found: Some(found.into()) };
    let count = |found| Read::Count { from: "a".into(), to: "c".into(), found };
    assert!(replay(vec![write(1, "a", "1"), reading(2, key("1"))]).is_ok());
    assert!(replay(vec![write(1, "a", "1"), write(2, "a", "2"), reading(3, key("1"))]).is_err());
    assert!(replay(vec![write(1, "a", "1"), reading(2, count(1))]).is_ok());
    assert!(replay(vec![write(1, "a", "1"), write(2, "b", "2"), reading(3, count(1))]).is_err());
    let only_reading = |seq, read| Step { writes: Vec::new(), ..reading(seq, read) };
    assert!(replay(vec![only_reading(1, key("1")), write(1, "a", "1")]).is_ok());
    assert!(replay(vec![only_reading(0, key("1")), write(1, "a", "1")]).is_err());
}

/// Retries end: each thread adds to one counter, and all are counted.
#[test]
fn counters_of_many_threads_lose_no_increment() {
    let (store, both) = open_both();
    let each = rounds() / 8;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..each {
                    let add = |transaction: &mut mapcask::Transaction| {
                        for keyspace in &both {
                            let count = number(transaction.get(keyspace, "counter")?.as_deref());
                            transaction.insert(keyspace, "counter", (count + 1).to_le_bytes())?;
                        }
                        Ok::<_, Error>(())
                    };
                    store.transact(add).unwrap();
                }
            });
        }
    });
    for keyspace in &both {
        assert_eq!(number(keyspace.get("counter").unwrap().as_deref()), 4 * each);
    }
}
