//! Tests that the store's operations are linearizable: per key, as one object, and for reads of
//! many keys.
//!
//! The number of operations is fixed. The order of the threads differs from run to run, and a
//! sequential model must explain each order. Sequence numbers are part of the models: a write has a
//! greater one than every write that took effect before it.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/linearize.rs"]
mod linearize;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use linearize::{Clock, History, Model, Recorder, check, check_by_key};
use mapcask::{Error, Keyspace, Options, Seq, Store, Value, WriteBatch};

const THREADS: usize = 4;

/// Opens a new store on a real file system, with segments so small that the log rolls often.
fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Options::new().segment_bytes(16 << 10).open(directory.path().join("data")).unwrap();
    (directory, store)
}

fn number(value: impl AsRef<[u8]>) -> u64 {
    u64::from_le_bytes(value.as_ref().try_into().expect("a whole value"))
}

fn found(value: Option<Value>) -> Option<u64> {
    value.map(number)
}

/// Runs the threads and joins their records.
fn histories<O: Send, R: Send>(
    work: impl Fn(Recorder<'_, O, R>, fastrand::Rng) -> Vec<linearize::Completed<O, R>> + Sync,
    seed: u64,
) -> Vec<linearize::Completed<O, R>> {
    let clock = Clock::default();
    thread::scope(|scope| {
        let start = |thread: usize| {
            let (clock, work) = (&clock, &work);
            let random = fastrand::Rng::with_seed(seed * THREADS as u64 + thread as u64);
            scope.spawn(move || work(Recorder::new(clock, thread), random))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

// ---- One key ------------------------------------------------------------------------------------

/// The model of one key. Each written number is new, so that a stale one is noticed; an update
/// increments it.
#[derive(Debug)]
struct Key;

#[derive(Debug, Clone, Copy)]
enum Access {
    Get,
    GetInto,
    Contains,
    Insert(u64),
    Remove,
    CompareAndSwap(Option<u64>, Option<u64>),
    InsertIfAbsent(u64),
    Replace(u64),
    Take,
    FetchAndUpdate(u64),
    UpdateAndFetch(u64),
}

#[derive(Debug, PartialEq)]
enum Answer {
    Found(Option<u64>),
    Said(bool),
    Written(Seq),
    /// The outcome of a swap that did not swap.
    Has(Option<u64>),
}

/// Returns the update of a number: mostly the next one, and every fourth time nothing.
fn updated(old: Option<u64>, fresh: u64) -> Option<u64> {
    old.map_or(Some(fresh), |old| (old % 4 != 3).then_some(old + 1))
}

/// The number, and a sequence number that is not greater than that of any later write.
type KeyState = (Option<u64>, Seq);

impl Model for Key {
    type State = KeyState;
    type Operation = (u8, Access);
    type Outcome = Answer;

    fn step(&(value, seq): &KeyState, (_, access): &(u8, Access), answer: &Answer) -> Option<KeyState> {
        use Access::*;
        let (after, expected) = match *access {
            Get | GetInto => (value, Answer::Found(value)),
            Contains => (value, Answer::Said(value.is_some())),
            Remove => (None, Answer::Said(value.is_some())),
            InsertIfAbsent(new) => (value.or(Some(new)), Answer::Said(value.is_none())),
            Replace(new) => (Some(new), Answer::Found(value)),
            Take => (None, Answer::Found(value)),
            FetchAndUpdate(fresh) => (updated(value, fresh), Answer::Found(value)),
            UpdateAndFetch(fresh) => (updated(value, fresh), Answer::Found(updated(value, fresh))),
            CompareAndSwap(old, _) if value != old => (value, Answer::Has(value)),
            Insert(_) | CompareAndSwap(..) => {
                let Answer::Written(written) = *answer else { return None };
                // A swap of nothing for nothing writes nothing. It returns the number of the last
                // write to any key.
                let nothing = value.is_none() && matches!(access, CompareAndSwap(_, None));
                let after =
                    if let Insert(new) | CompareAndSwap(_, Some(new)) = *access { Some(new) } else { None };
                return (written > seq || nothing && written == seq).then_some((after, written));
            }
        };
        (expected == *answer).then_some((after, seq))
    }
}

fn carry_out(store: &Store, key: u8, access: Access) -> Answer {
    use Access::*;
    let (key, bytes) = ([key], u64::to_le_bytes);
    let update = |fresh| move |old: Option<&[u8]>| updated(old.map(number), fresh).map(bytes);
    match access {
        Get => Answer::Found(found(store.get(key).unwrap())),
        GetInto => {
            let mut value = Vec::new();
            let there = store.get_into(key, &mut value).unwrap();
            Answer::Found(there.then(|| number(value)))
        }
        Contains => Answer::Said(store.contains_key(key).unwrap()),
        Insert(new) => Answer::Written(store.insert(key, bytes(new)).unwrap()),
        Remove => Answer::Said(store.remove(key).unwrap()),
        CompareAndSwap(old, new) => {
            match store.compare_and_swap(key, old.map(bytes), new.map(bytes)).unwrap() {
                Ok(seq) => Answer::Written(seq),
                Err(error) => Answer::Has(found(error.current)),
            }
        }
        InsertIfAbsent(new) => Answer::Said(store.insert_if_absent(key, bytes(new)).unwrap()),
        Replace(new) => Answer::Found(found(store.replace(key, bytes(new)).unwrap())),
        Take => Answer::Found(found(store.take(key).unwrap())),
        FetchAndUpdate(fresh) => Answer::Found(found(store.fetch_and_update(key, update(fresh)).unwrap())),
        UpdateAndFetch(fresh) => Answer::Found(found(store.update_and_fetch(key, update(fresh)).unwrap())),
    }
}

/// Draws an access; a swap expects the value that the thread saw last, so that it often succeeds.
fn draw(random: &mut fastrand::Rng, seen: Option<u64>, fresh: u64) -> Access {
    let new = random.u8(..4).gt(&0).then_some(fresh);
    match random.u8(..16) {
        0 => Access::Insert(fresh),
        1 => Access::Remove,
        2..=5 => Access::CompareAndSwap(seen, new),
        6 | 7 => Access::InsertIfAbsent(fresh),
        8 => Access::Replace(fresh),
        9 => Access::Take,
        10 | 11 => Access::FetchAndUpdate(fresh),
        12 => Access::UpdateAndFetch(fresh),
        13 => Access::Contains,
        14 => Access::GetInto,
        _ => Access::Get,
    }
}

#[test]
fn the_operations_on_each_key_are_linearizable() {
    const OPERATIONS: u64 = 8000;
    let (_directory, store) = open();
    let history: History<Key> = histories(
        |mut recorder, mut random| {
            let mut seen = [None; 3];
            for number in 0..OPERATIONS {
                let key = random.u8(..3);
                // The number is unlike any other, also after increments.
                let fresh = ((number * 8 + u64::from(key)) << 16) + (random.u64(..) << 48);
                let access = draw(&mut random, seen[usize::from(key)], fresh);
                let mut now = seen[usize::from(key)];
                recorder.record((key, access), |_| {
                    let answer = carry_out(&store, key, access);
                    match (&answer, access) {
                        (
                            Answer::Found(value) | Answer::Has(value),
                            Access::Get | Access::CompareAndSwap(..),
                        ) => {
                            now = *value;
                        }
                        (Answer::Written(_), Access::CompareAndSwap(_, new)) => now = new,
                        _ => {}
                    }
                    answer
                });
                seen[usize::from(key)] = now;
            }
            recorder.finish()
        },
        1,
    );
    check_by_key::<Key, _>(|_| (None, Seq(0)), &history, |(key, _)| *key)
        .unwrap_or_else(|account| panic!("{account}"));
    let hits = history.iter().filter(|one| matches!(one.operation.1, Access::CompareAndSwap(..)));
    let hits = hits.filter(|one| matches!(one.outcome, Answer::Written(_))).count();
    assert!(hits > 100, "swaps must succeed at times, or they prove nothing: {hits}");
    store.verify().unwrap();
}

#[test]
fn counters_that_all_threads_count_up_lose_nothing() {
    const COUNT: u64 = 5000;
    let (_directory, store) = open();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let next = |old: Option<&[u8]>| Some((old.map_or(0, number) + 1).to_le_bytes());
                let mut last = 0;
                for n in 0..COUNT {
                    let mine = if (n + thread as u64).is_multiple_of(2) {
                        number(store.update_and_fetch("counter", next).unwrap().unwrap())
                    } else {
                        found(store.fetch_and_update("counter", next).unwrap()).unwrap_or(0) + 1
                    };
                    assert!(mine > last, "{mine} after {last}");
                    last = mine;
                }
            });
        }
    });
    assert_eq!(number(store.get("counter").unwrap().unwrap()), COUNT * THREADS as u64);
}

// ---- The whole store ----------------------------------------------------------------------------

const KEYSPACES: usize = 2;
const KEYS: usize = 3;

/// The value of each key of each keyspace.
type Cells = [[Option<u64>; KEYS]; KEYSPACES];
/// A keyspace and a key.
type Cell = (usize, usize);

/// The model of the store as one object.
#[derive(Debug)]
struct Whole;

#[derive(Debug, Clone)]
enum Deed {
    Get(Cell),
    /// Reads all keys of a keyspace.
    MultiGet(usize),
    Insert(Cell, u64),
    Remove(Cell),
    CompareAndSwap(Cell, Option<u64>, Option<u64>),
    /// A batch over all keyspaces: its conditions and its writes.
    Batch(Vec<(Cell, Demand)>, Vec<(Cell, Option<u64>)>),
    Clear(usize),
}

#[derive(Debug, Clone, Copy)]
enum Demand {
    Value(u64),
    Present,
    Absent,
}

impl Demand {
    fn holds(self, value: Option<u64>) -> bool {
        match self {
            Self::Value(expected) => value == Some(expected),
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Effect {
    Found(Option<u64>),
    All([Option<u64>; KEYS]),
    Said(bool),
    Written(Seq),
    Has(Option<u64>),
    Refused,
}

impl Model for Whole {
    type State = (Cells, Seq);
    type Operation = Deed;
    type Outcome = Effect;

    fn step((cells, seq): &(Cells, Seq), deed: &Deed, effect: &Effect) -> Option<(Cells, Seq)> {
        let at = |&(keyspace, key): &Cell| cells[keyspace][key];
        let mut after = *cells;
        let expected = match deed {
            Deed::Get(cell) => Effect::Found(at(cell)),
            Deed::MultiGet(keyspace) => Effect::All(cells[*keyspace]),
            Deed::Remove(cell) => {
                after[cell.0][cell.1] = None;
                Effect::Said(at(cell).is_some())
            }
            Deed::CompareAndSwap(cell, old, _) if at(cell) != *old => Effect::Has(at(cell)),
            Deed::Batch(demands, _) if demands.iter().any(|(cell, demand)| !demand.holds(at(cell))) => {
                Effect::Refused
            }
            Deed::Insert(..) | Deed::CompareAndSwap(..) | Deed::Batch(..) | Deed::Clear(_) => {
                let Effect::Written(written) = *effect else { return None };
                let mut wrote = true;
                match deed {
                    Deed::Insert(cell, new) => after[cell.0][cell.1] = Some(*new),
                    Deed::CompareAndSwap(cell, old, new) => {
                        after[cell.0][cell.1] = *new;
                        wrote = old.is_some() || new.is_some();
                    }
                    Deed::Batch(_, writes) => {
                        writes.iter().for_each(|((keyspace, key), new)| after[*keyspace][*key] = *new);
                        wrote = !writes.is_empty();
                    }
                    Deed::Clear(keyspace) => {
                        // An empty keyspace is not cleared again.
                        wrote = after[*keyspace] != [None; KEYS];
                        after[*keyspace] = [None; KEYS];
                    }
                    _ => unreachable!("it returns no number"),
                }
                // A call that wrote nothing returns the number of the last write. That may be a
                // removal, which returns no number.
                let in_order = if wrote { written > *seq } else { written >= *seq };
                return in_order.then_some((after, written));
            }
        };
        (expected == *effect).then_some((after, *seq))
    }
}

fn perform(keyspaces: &[Keyspace; KEYSPACES], deed: &Deed) -> Effect {
    let bytes = u64::to_le_bytes;
    match deed {
        Deed::Get((keyspace, key)) => Effect::Found(found(keyspaces[*keyspace].get(name(*key)).unwrap())),
        Deed::MultiGet(keyspace) => {
            let keys: [[u8; 1]; KEYS] = std::array::from_fn(name);
            let values = keyspaces[*keyspace].multi_get(&keys).unwrap();
            let values: Vec<_> = values.into_iter().map(found).collect();
            Effect::All(values.try_into().unwrap())
        }
        Deed::Insert((keyspace, key), new) => {
            Effect::Written(keyspaces[*keyspace].insert(name(*key), bytes(*new)).unwrap())
        }
        Deed::Remove((keyspace, key)) => Effect::Said(keyspaces[*keyspace].remove(name(*key)).unwrap()),
        Deed::CompareAndSwap((keyspace, key), old, new) => {
            let keyspace = &keyspaces[*keyspace];
            match keyspace.compare_and_swap(name(*key), old.map(bytes), new.map(bytes)).unwrap() {
                Ok(seq) => Effect::Written(seq),
                Err(error) => Effect::Has(found(error.current)),
            }
        }
        Deed::Batch(demands, writes) => {
            let mut batch = WriteBatch::new();
            for ((keyspace, key), demand) in demands {
                let mut on = batch.on(&keyspaces[*keyspace]);
                match demand {
                    Demand::Value(value) => on.require(name(*key), bytes(*value)),
                    Demand::Present => on.require_present(name(*key)),
                    Demand::Absent => on.require_absent(name(*key)),
                };
            }
            for ((keyspace, key), new) in writes {
                let mut on = batch.on(&keyspaces[*keyspace]);
                match new {
                    Some(new) => on.insert(name(*key), bytes(*new)),
                    None => on.remove(name(*key)),
                };
            }
            match keyspaces[0].write(&batch) {
                Ok(seq) => Effect::Written(seq),
                Err(Error::ConditionFailed { .. }) => Effect::Refused,
                Err(error) => panic!("{error}"),
            }
        }
        Deed::Clear(keyspace) => Effect::Written(keyspaces[*keyspace].clear().unwrap()),
    }
}

fn name(key: usize) -> [u8; 1] {
    [u8::try_from(key).unwrap()]
}

fn cell(random: &mut fastrand::Rng) -> Cell {
    (random.usize(..KEYSPACES), random.usize(..KEYS))
}

/// Draws a deed; conditions expect the values that the thread saw last.
fn draw_deed(random: &mut fastrand::Rng, seen: &Cells, fresh: u64) -> Deed {
    let mut drawn = cell(random);
    let new = |random: &mut fastrand::Rng| random.u8(..4).gt(&0).then_some(fresh);
    match random.u8(..20) {
        0..=2 => Deed::Get(drawn),
        3..=7 => Deed::MultiGet(drawn.0),
        8..=10 => Deed::Insert(drawn, fresh),
        11 => Deed::Remove(drawn),
        12..=14 => Deed::CompareAndSwap(drawn, seen[drawn.0][drawn.1], new(random)),
        15..=18 => {
            let mut demands = Vec::new();
            for _ in 0..random.usize(..3) {
                let demand = match (seen[drawn.0][drawn.1], random.bool()) {
                    (Some(value), true) => Demand::Value(value),
                    (Some(_), false) => Demand::Present,
                    (None, _) => Demand::Absent,
                };
                demands.push((drawn, demand));
                drawn = cell(random);
            }
            let writes = (0..random.usize(..5)).map(|_| (cell(random), new(random))).collect();
            Deed::Batch(demands, writes)
        }
        _ => Deed::Clear(drawn.0),
    }
}

/// Records the values that a thread has seen.
fn learn(seen: &mut Cells, deed: &Deed, effect: &Effect) {
    match (deed, effect) {
        (Deed::Get(cell) | Deed::CompareAndSwap(cell, ..), Effect::Found(value) | Effect::Has(value)) => {
            seen[cell.0][cell.1] = *value;
        }
        (Deed::MultiGet(keyspace), Effect::All(values)) => seen[*keyspace] = *values,
        (Deed::CompareAndSwap(cell, _, new), Effect::Written(_)) => seen[cell.0][cell.1] = *new,
        (Deed::Batch(_, writes), Effect::Written(_)) => {
            writes.iter().for_each(|(cell, new)| seen[cell.0][cell.1] = *new);
        }
        (Deed::Clear(keyspace), _) => seen[*keyspace] = [None; KEYS],
        _ => {}
    }
}

#[test]
fn batches_clears_and_multi_gets_are_linearizable_as_one_object() {
    const ROUNDS: u64 = 10;
    const OPERATIONS: u64 = 1000;
    let (_directory, store) = open();
    let keyspaces = [store.keyspace("left").unwrap(), store.keyspace("right").unwrap()];
    let mut outcomes = [0; 2];
    for round in 0..ROUNDS {
        for keyspace in &keyspaces {
            keyspace.clear().unwrap();
        }
        let last = store.last_seq();
        let history: History<Whole> = histories(
            |mut recorder, mut random| {
                let mut seen = Cells::default();
                for _ in 0..OPERATIONS {
                    let fresh = random.u64(..);
                    let deed = draw_deed(&mut random, &seen, fresh);
                    recorder.record(deed, |deed| {
                        let effect = perform(&keyspaces, deed);
                        learn(&mut seen, deed, &effect);
                        effect
                    });
                }
                recorder.finish()
            },
            round,
        );
        check::<Whole>((Cells::default(), last), &history).unwrap_or_else(|account| panic!("{account}"));
        let batches = history
            .iter()
            .filter(|one| matches!(&one.operation, Deed::Batch(demands, _) if !demands.is_empty()));
        batches.for_each(|one| outcomes[usize::from(one.outcome == Effect::Refused)] += 1);
    }
    assert!(
        outcomes.iter().all(|count| *count > 100),
        "conditions must hold at times and fail at times: {outcomes:?}"
    );
    store.verify().unwrap();
}

// ---- Reads of many keys -------------------------------------------------------------------------

const ACCOUNTS: usize = 40;
const TOTAL: u64 = 1000 * ACCOUNTS as u64;

fn account(n: usize) -> String {
    format!("account {n}")
}

/// Returns all accounts in a random order, some of them twice or three times.
fn with_duplicates(random: &mut fastrand::Rng) -> Vec<usize> {
    let mut keys: Vec<_> = (0..ACCOUNTS).chain((0..8).map(|_| random.usize(..ACCOUNTS))).collect();
    random.shuffle(&mut keys);
    keys
}

/// Reads all accounts with one `multi_get`; an account that is read twice must have one value.
fn moment(store: &Keyspace, random: &mut fastrand::Rng) -> [Option<u64>; ACCOUNTS] {
    let order = with_duplicates(random);
    let names: Vec<_> = order.iter().map(|n| account(*n)).collect();
    let values = store.multi_get(&names).unwrap();
    assert_eq!(values.len(), names.len());
    let mut read = [None; ACCOUNTS];
    for (n, value) in order.into_iter().zip(values) {
        let value = found(value);
        let before = read[n].replace(value);
        assert!(before.is_none_or(|before| before == value), "account {n} twice: {before:?} and {value:?}");
    }
    read.map(|value| value.expect("each was asked for"))
}

/// Runs readers until the writers are done; each writer gets its own random generator.
fn read_beside(
    store: &Keyspace,
    writers: &[&(dyn Fn(&mut fastrand::Rng) + Sync)],
    check: impl Fn([Option<u64>; ACCOUNTS]) + Sync,
) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (done, check) = (&done, &check);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut looks = 0;
                // Each reader reads once more after the end, and often enough after a slow start.
                while looks < 200 || !done.load(SeqCst) {
                    check(moment(store, &mut random));
                    looks += 1;
                }
            });
        }
        let mut threads = Vec::new();
        for (seed, write) in writers.iter().enumerate() {
            threads.push(scope.spawn(move || write(&mut fastrand::Rng::with_seed(100 + seed as u64))));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, SeqCst);
    });
}

/// Writes keys that have nothing to do with the accounts, one at a time, with pauses.
fn bystander(store: &Keyspace, random: &mut fastrand::Rng) {
    for n in 0..3000 {
        store.insert(format!("other {}", random.u8(..)), n.to_string()).unwrap();
        if n % 3 == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn a_read_of_many_keys_never_sees_half_a_batch_or_half_a_clear() {
    let (_directory, store) = open();
    let keyspace = store.keyspace("equal").unwrap();
    let equal = |random: &mut fastrand::Rng| {
        for n in 0..500_u64 {
            let mut batch = WriteBatch::new();
            let mut order: Vec<_> = (0..ACCOUNTS).collect();
            random.shuffle(&mut order);
            for key in order {
                match n % 5 {
                    4 => batch.on(&keyspace).remove(account(key)),
                    _ => batch.on(&keyspace).insert(account(key), n.to_le_bytes()),
                };
            }
            store.write(batch).unwrap();
            if n % 7 == 0 {
                keyspace.clear().unwrap();
            }
            thread::yield_now();
        }
    };
    let other = |random: &mut fastrand::Rng| bystander(&keyspace, random);
    read_beside(&keyspace, &[&equal, &equal, &other], |values| {
        assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
    });
}

#[test]
fn a_read_of_many_keys_sees_transfers_as_a_whole() {
    let (_directory, store) = open();
    for n in 0..ACCOUNTS {
        store.insert(account(n), 1000_u64.to_le_bytes()).unwrap();
    }
    let transfer = |random: &mut fastrand::Rng| {
        let mut done = 0;
        while done < 800 {
            let (from, to) = (random.usize(..ACCOUNTS), random.usize(..ACCOUNTS));
            let [has, gets] = [from, to].map(|n| number(store.get(account(n)).unwrap().unwrap()));
            if from == to || has == 0 {
                continue;
            }
            let amount = random.u64(1..=has);
            let mut batch = WriteBatch::new();
            batch.require(account(from), has.to_le_bytes());
            batch.require(account(to), gets.to_le_bytes());
            batch.insert(account(from), (has - amount).to_le_bytes());
            batch.insert(account(to), (gets + amount).to_le_bytes());
            match store.write(batch) {
                Ok(_) => done += 1,
                Err(Error::ConditionFailed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if random.bool() {
                thread::yield_now();
            }
        }
    };
    let other = |random: &mut fastrand::Rng| bystander(&store, random);
    read_beside(&store, &[&transfer, &transfer, &other], |values| {
        let sum: u64 = values.iter().map(|value| value.expect("no account is ever closed")).sum();
        assert_eq!(sum, TOTAL, "torn: {values:?}");
    });
}

#[test]
fn multi_get_sees_writes_to_single_keys_in_order() {
    let (_directory, store) = open();
    // Each round writes from the first account to the last. At any time some accounts have this
    // round's number, and those behind them the previous one.
    let climb = |_: &mut fastrand::Rng| {
        for round in 1..100_u64 {
            for n in 0..ACCOUNTS {
                store.insert(account(n), round.to_le_bytes()).unwrap();
                if (n as u64 + round).is_multiple_of(5) {
                    thread::yield_now();
                }
            }
        }
    };
    let other = |random: &mut fastrand::Rng| bystander(&store, random);
    read_beside(&store, &[&climb, &other], |values| {
        let steps = values.map(|value| value.unwrap_or(0));
        let falls = steps.is_sorted_by(|first, second| first >= second);
        assert!(falls && steps[0] - steps[ACCOUNTS - 1] <= 1, "torn: {values:?}");
    });
}
