//! Tests that the operations of an ordered keyspace are linearizable, as one object.
//!
//! The object has five keys, which threads write one by one, and four blocks of forty keys between
//! them. A batch fills or empties a block, so leaves split and merge and the root grows and falls
//! below every read. In some rounds the object stands between two walls: keys that no thread touches,
//! and that each iteration must find.
//!
//! The number of operations is fixed, and the order of the threads differs from run to run.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(clippy::big_endian_bytes, reason = "keys sort by their numbers")]

#[path = "support/linearize.rs"]
#[allow(dead_code, reason = "keys are not judged by themselves here")]
mod linearize;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use linearize::{Clock, Completed, History, Model, Recorder, check};
use mapcask::{Error, Keyspace, Options, Result, Seq, Store, Value, WriteBatch};

const THREADS: usize = 4;
/// The keys that are written one by one.
const CELLS: usize = 5;
/// The keys between two cells: more than the 31 entries of a leaf.
const BLOCK: usize = 40;
/// The keys of a wall.
const WALL: usize = 40;
/// All keys by their order: a wall, cells with blocks between them, and a wall.
const SLOTS: usize = OBJECT.end + WALL;
const OBJECT: Range<usize> = WALL..WALL + CELLS + (CELLS - 1) * BLOCK;

fn cell(n: usize) -> usize {
    OBJECT.start + n * (BLOCK + 1)
}

fn block(n: usize) -> Range<usize> {
    cell(n) + 1..cell(n + 1)
}

fn key(slot: usize) -> [u8; 2] {
    u16::try_from(slot).unwrap().to_be_bytes()
}

/// A key by its place in the order, with its value.
type Item = (usize, u64);

fn item((key, value): (impl AsRef<[u8]>, impl AsRef<[u8]>)) -> Item {
    let slot = u16::from_be_bytes(key.as_ref().try_into().unwrap());
    (usize::from(slot), u64::from_le_bytes(value.as_ref().try_into().unwrap()))
}

// ---- The model ----------------------------------------------------------------------------------

/// The keys of a block that are left, and their value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Left {
    slots: Range<usize>,
    value: u64,
}

/// The contents of the keyspace, and the number of the last write that returned one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Contents {
    is_walled: bool,
    cells: [Option<u64>; CELLS],
    blocks: [Left; CELLS - 1],
    seq: Seq,
}

impl Contents {
    fn new(is_walled: bool, seq: Seq) -> Self {
        let blocks = std::array::from_fn(|_| Left { slots: 0..0, value: 0 });
        Self { is_walled, cells: [None; CELLS], blocks, seq }
    }

    fn value(&self, slot: usize) -> Option<u64> {
        if !OBJECT.contains(&slot) {
            return self.is_walled.then_some(slot as u64);
        }
        let n = (slot - OBJECT.start) / (BLOCK + 1);
        if slot == cell(n) {
            return self.cells[n];
        }
        let left = &self.blocks[n];
        left.slots.contains(&slot).then_some(left.value)
    }

    fn items(&self, slots: Range<usize>) -> impl DoubleEndedIterator<Item = Item> {
        slots.filter_map(|slot| Some((slot, self.value(slot)?)))
    }

    /// Takes out the first or the last key of a range.
    fn pop(&mut self, within: &Range<usize>, is_first: bool) -> Option<Item> {
        let popped =
            if is_first { self.items(within.clone()).next() } else { self.items(within.clone()).next_back() };
        let slot = popped?.0;
        let n = (slot - OBJECT.start) / (BLOCK + 1);
        if slot == cell(n) {
            self.cells[n] = None;
        } else {
            let left = &mut self.blocks[n].slots;
            *left = if slot == left.start { slot + 1..left.end } else { left.start..slot };
            if left.start == left.end {
                self.empty(n);
            }
        }
        popped
    }

    fn fill(&mut self, n: usize, value: u64) {
        self.blocks[n] = Left { slots: block(n), value };
    }

    fn empty(&mut self, n: usize) {
        self.blocks[n] = Left { slots: 0..0, value: 0 };
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// `get_range`.
    OneMoment,
    /// A range of a new snapshot.
    Snapshot,
}

#[derive(Debug, Clone)]
enum Deed {
    Get(usize),
    First,
    Last,
    Lt(usize),
    Le(usize),
    Ge(usize),
    Gt(usize),
    /// The first keys of a range, at most so many.
    Page(Range<usize>, usize, Way),
    Count(Range<usize>),
    Insert(usize, u64),
    Remove(usize),
    Batch([(usize, Option<u64>); 2]),
    Fill(usize, u64),
    Empty(usize),
    Clear,
    /// `pop_first` and `pop_last` of the object. They are bounded if there are walls.
    PopFirst,
    PopLast,
    PopFirstIn(Range<usize>),
    PopLastIn(Range<usize>),
    /// A transaction that reads two cells and writes one.
    Transact([usize; 2], (usize, Option<u64>)),
    /// A transaction that counts the keys of a range and writes a cell.
    CountAndInsert(Range<usize>, (usize, u64)),
}

#[derive(Debug, Clone, PartialEq)]
enum Effect {
    Value(Option<u64>),
    Item(Option<Item>),
    Items(Vec<Item>),
    Count(u64),
    Said(bool),
    Written(Seq),
    Read([Option<u64>; 2], Seq),
    Counted(u64, Seq),
    Conflict,
}

/// The model of an ordered keyspace. Each written number is new, so that a stale one is noticed.
#[derive(Debug)]
struct Sorted;

impl Sorted {
    /// Returns the effect of a deed without a sequence number, and changes the contents.
    fn plain(contents: &mut Contents, deed: &Deed) -> Option<Effect> {
        Some(match deed {
            Deed::Get(n) => Effect::Value(contents.cells[*n]),
            Deed::First => Effect::Item(contents.items(0..SLOTS).next()),
            Deed::Last => Effect::Item(contents.items(0..SLOTS).next_back()),
            Deed::Lt(slot) => Effect::Item(contents.items(0..*slot).next_back()),
            Deed::Le(slot) => Effect::Item(contents.items(0..slot + 1).next_back()),
            Deed::Ge(slot) => Effect::Item(contents.items(*slot..SLOTS).next()),
            Deed::Gt(slot) => Effect::Item(contents.items(slot + 1..SLOTS).next()),
            Deed::Page(slots, limit, _) => {
                Effect::Items(contents.items(slots.clone()).take(*limit).collect())
            }
            Deed::Count(slots) => Effect::Count(contents.items(slots.clone()).count() as u64),
            Deed::Remove(n) => Effect::Said(contents.cells[*n].take().is_some()),
            Deed::PopFirst => Effect::Item(contents.pop(&OBJECT, true)),
            Deed::PopLast => Effect::Item(contents.pop(&OBJECT, false)),
            Deed::PopFirstIn(slots) => Effect::Item(contents.pop(slots, true)),
            Deed::PopLastIn(slots) => Effect::Item(contents.pop(slots, false)),
            _ => return None,
        })
    }
}

impl Model for Sorted {
    type State = Contents;
    type Operation = Deed;
    type Outcome = Effect;

    fn step(contents: &Contents, deed: &Deed, effect: &Effect) -> Option<Contents> {
        let mut after = contents.clone();
        if let Some(expected) = Self::plain(&mut after, deed) {
            return (expected == *effect).then_some(after);
        }
        // A clear of nothing writes nothing.
        let is_written = !matches!(deed, Deed::Clear) || contents.items(0..SLOTS).next().is_some();
        let seq = match (deed, effect) {
            // A conflict is without an effect, and the model does not say when there is one.
            (Deed::Transact(..) | Deed::CountAndInsert(..), Effect::Conflict) => return Some(after),
            (Deed::Transact(cells, (n, new)), Effect::Read(seen, seq)) => {
                if cells.map(|n| contents.cells[n]) != *seen {
                    return None;
                }
                after.cells[*n] = *new;
                seq
            }
            (Deed::CountAndInsert(slots, (n, new)), Effect::Counted(seen, seq)) => {
                if contents.items(slots.clone()).count() as u64 != *seen {
                    return None;
                }
                after.cells[*n] = Some(*new);
                seq
            }
            (_, Effect::Written(seq)) => {
                match deed {
                    Deed::Insert(n, new) => after.cells[*n] = Some(*new),
                    Deed::Batch(writes) => writes.iter().for_each(|(n, new)| after.cells[*n] = *new),
                    Deed::Fill(n, value) => after.fill(*n, *value),
                    Deed::Empty(n) => after.empty(*n),
                    Deed::Clear => after = Contents::new(contents.is_walled, contents.seq),
                    _ => return None,
                }
                seq
            }
            _ => return None,
        };
        after.seq = *seq;
        (*seq > contents.seq || !is_written && *seq == contents.seq).then_some(after)
    }
}

// ---- The keyspace -------------------------------------------------------------------------------

fn found(found: Result<Option<(Value, Value)>>) -> Effect {
    Effect::Item(found.unwrap().map(item))
}

fn number(value: Option<impl AsRef<[u8]>>) -> Option<u64> {
    value.map(|value| u64::from_le_bytes(value.as_ref().try_into().unwrap()))
}

fn keys(slots: &Range<usize>) -> Range<[u8; 2]> {
    key(slots.start)..key(slots.end)
}

fn write(keyspace: &Keyspace, writes: impl IntoIterator<Item = (usize, Option<u64>)>) -> Effect {
    let mut batch = WriteBatch::new();
    for (slot, new) in writes {
        match new {
            Some(new) => batch.insert(key(slot), new.to_le_bytes()),
            None => batch.remove(key(slot)),
        };
    }
    Effect::Written(keyspace.write(batch).unwrap())
}

/// Carries out a transaction. The pause before its commit makes conflicts likely.
fn transact(store: &Store, keyspace: &Keyspace, deed: &Deed) -> Result<Effect> {
    let mut transaction = store.begin();
    match deed {
        Deed::Transact(cells, (n, new)) => {
            let mut seen = [None; 2];
            for (seen, n) in seen.iter_mut().zip(cells) {
                *seen = number(transaction.get(keyspace, key(cell(*n)))?);
            }
            match new {
                Some(new) => transaction.insert(keyspace, key(cell(*n)), new.to_le_bytes())?,
                None => transaction.remove(keyspace, key(cell(*n)))?,
            }
            thread::yield_now();
            Ok(Effect::Read(seen, transaction.commit()?))
        }
        Deed::CountAndInsert(slots, (n, new)) => {
            let seen = transaction.count_range(keyspace, keys(slots))?;
            transaction.insert(keyspace, key(cell(*n)), new.to_le_bytes())?;
            thread::yield_now();
            Ok(Effect::Counted(seen, transaction.commit()?))
        }
        _ => unreachable!("it is no transaction"),
    }
}

fn perform(store: &Store, keyspace: &Keyspace, is_walled: bool, deed: &Deed) -> Effect {
    match deed {
        Deed::Get(n) => Effect::Value(number(keyspace.get(key(cell(*n))).unwrap())),
        Deed::First => found(keyspace.first_key_value()),
        Deed::Last => found(keyspace.last_key_value()),
        Deed::Lt(slot) => found(keyspace.get_lt(key(*slot))),
        Deed::Le(slot) => found(keyspace.get_le(key(*slot))),
        Deed::Ge(slot) => found(keyspace.get_ge(key(*slot))),
        Deed::Gt(slot) => found(keyspace.get_gt(key(*slot))),
        Deed::Page(slots, limit, Way::OneMoment) => {
            let page = keyspace.get_range(keys(slots), *limit).unwrap();
            Effect::Items(page.into_iter().map(item).collect())
        }
        Deed::Page(slots, limit, Way::Snapshot) => {
            let snapshot = store.snapshot().keyspace("sorted").unwrap();
            Effect::Items(snapshot.range(keys(slots)).take(*limit).map(|one| item(one.unwrap())).collect())
        }
        Deed::Count(slots) => Effect::Count(keyspace.count_range(keys(slots)).unwrap()),
        Deed::Insert(n, new) => Effect::Written(keyspace.insert(key(cell(*n)), new.to_le_bytes()).unwrap()),
        Deed::Remove(n) => Effect::Said(keyspace.remove(key(cell(*n))).unwrap()),
        Deed::Batch(writes) => write(keyspace, writes.map(|(n, new)| (cell(n), new))),
        Deed::Fill(n, value) => write(keyspace, block(*n).map(|slot| (slot, Some(*value)))),
        Deed::Empty(n) => write(keyspace, block(*n).map(|slot| (slot, None))),
        Deed::Clear => Effect::Written(keyspace.clear().unwrap()),
        Deed::PopFirst if is_walled => found(keyspace.pop_first_in(keys(&OBJECT))),
        Deed::PopLast if is_walled => found(keyspace.pop_last_in(keys(&OBJECT))),
        Deed::PopFirst => found(keyspace.pop_first()),
        Deed::PopLast => found(keyspace.pop_last()),
        Deed::PopFirstIn(slots) => found(keyspace.pop_first_in(keys(slots))),
        Deed::PopLastIn(slots) => found(keyspace.pop_last_in(keys(slots))),
        Deed::Transact(..) | Deed::CountAndInsert(..) => match transact(store, keyspace, deed) {
            Err(Error::Conflict { .. }) => Effect::Conflict,
            effect => effect.unwrap(),
        },
    }
}

/// Draws a range from one cell to another, without the last one.
fn draw_range(random: &mut fastrand::Rng) -> Range<usize> {
    let (one, other) = (random.usize(..CELLS), random.usize(..CELLS));
    cell(one.min(other))..cell(one.max(other))
}

fn draw(random: &mut fastrand::Rng, is_walled: bool, fresh: u64) -> Deed {
    let new = |random: &mut fastrand::Rng| random.u8(..3).gt(&0).then_some(fresh);
    let n = random.usize(..CELLS);
    let slot = random.usize(OBJECT);
    match random.u8(..40) {
        0 => Deed::Get(n),
        1 | 2 => Deed::First,
        3 | 4 => Deed::Last,
        5 => Deed::Lt(slot),
        6 => Deed::Le(slot),
        7 => Deed::Ge(slot),
        8 => Deed::Gt(slot),
        9..=11 => Deed::Page(slot..SLOTS, 3, Way::OneMoment),
        12 => Deed::Page(0..SLOTS, SLOTS, Way::OneMoment),
        13 => Deed::Page(slot..SLOTS, 3, Way::Snapshot),
        14 => Deed::Page(0..SLOTS, SLOTS, Way::Snapshot),
        15..=17 => Deed::Count(draw_range(random)),
        18..=20 => Deed::Insert(n, fresh),
        21 => Deed::Remove(n),
        22..=24 => Deed::Batch([(n, new(random)), (random.usize(..CELLS), new(random))]),
        25..=27 => Deed::Fill(random.usize(..CELLS - 1), fresh),
        28..=30 => Deed::Empty(random.usize(..CELLS - 1)),
        31 => Deed::PopFirst,
        32 => Deed::PopLast,
        33 => Deed::PopFirstIn(draw_range(random)),
        34 => Deed::PopLastIn(draw_range(random)),
        35 if !is_walled => Deed::Clear,
        35..=37 => Deed::Transact([n, random.usize(..CELLS)], (random.usize(..CELLS), new(random))),
        _ => Deed::CountAndInsert(draw_range(random), (n, fresh)),
    }
}

/// Draws few kinds of short deeds: what a pop took, and what was there meanwhile.
fn draw_beside_pops(random: &mut fastrand::Rng, _is_walled: bool, fresh: u64) -> Deed {
    let n = random.usize(..CELLS);
    match random.u8(..10) {
        0..=2 => Deed::PopFirst,
        3 => Deed::PopLast,
        4..=6 => Deed::Insert(n, fresh),
        7 | 8 => Deed::Get(n),
        _ => Deed::Page(OBJECT, CELLS, Way::OneMoment),
    }
}

/// Draws reads of many leaves, and batches that move a key from one leaf to another.
fn draw_beside_moves(random: &mut fastrand::Rng, _is_walled: bool, fresh: u64) -> Deed {
    let (from, to) = (random.usize(..CELLS), random.usize(..CELLS));
    match random.u8(..8) {
        0..=3 => Deed::Batch([(from, None), (to, Some(fresh))]),
        4 => Deed::Count(OBJECT),
        _ => Deed::Page(OBJECT, SLOTS, Way::OneMoment),
    }
}

type Draw = fn(&mut fastrand::Rng, bool, u64) -> Deed;

/// Checks an iteration in each direction: keys never repeat or go back, and no key of a wall is missed.
fn iterate(keyspace: &Keyspace, is_walled: bool) {
    let forward: Vec<Item> = keyspace.range::<&[u8]>(..).map(|one| item(one.unwrap())).collect();
    let view = keyspace.view();
    let mut back: Vec<Item> = view.range::<&[u8]>(..).rev().map(|one| item(one.unwrap())).collect();
    back.reverse();
    for items in [forward, back] {
        assert!(items.is_sorted_by(|one, other| one.0 < other.0), "keys ascend: {items:?}");
        let wall: Vec<Item> = items.into_iter().filter(|(slot, _)| !OBJECT.contains(slot)).collect();
        let stays = (0..OBJECT.start).chain(OBJECT.end..SLOTS).filter(|_| is_walled);
        assert_eq!(wall, stays.map(|slot| (slot, slot as u64)).collect::<Vec<_>>());
    }
}

/// Runs the threads beside an iterating one, and joins their records.
fn run(
    (store, keyspace): (&Store, &Keyspace),
    is_walled: bool,
    round: usize,
    (draw, operations): (Draw, u64),
) -> History<Sorted> {
    let (clock, ended) = (Clock::default(), AtomicBool::new(false));
    let work = |thread: usize| {
        let mut recorder = Recorder::new(&clock, thread);
        let mut random = fastrand::Rng::with_seed((round * THREADS + thread) as u64);
        for _ in 0..operations {
            let fresh = random.u64(..);
            let deed = draw(&mut random, is_walled, fresh);
            recorder.record(deed, |deed| perform(store, keyspace, is_walled, deed));
        }
        recorder.finish()
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        let iterating = scope.spawn(|| {
            let mut rounds = 0;
            while rounds == 0 || !ended.load(SeqCst) {
                iterate(keyspace, is_walled);
                rounds += 1;
            }
        });
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        ended.store(true, SeqCst);
        iterating.join().unwrap();
        ends.into_iter().flat_map(|end| end.unwrap()).collect()
    })
}

fn open() -> (tempfile::TempDir, Store, Keyspace) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Options::new().segment_bytes(16 << 10).open(directory.path().join("data")).unwrap();
    let keyspace = store.ordered_keyspace("sorted").unwrap();
    (directory, store, keyspace)
}

#[test]
fn pops_beside_inserts_are_linearizable() {
    let (_directory, store, keyspace) = open();
    for round in 0..4 {
        keyspace.clear().unwrap();
        let initial = Contents::new(false, store.last_seq());
        let history = run((&store, &keyspace), false, round, (draw_beside_pops, 8000));
        check::<Sorted>(initial, &history).unwrap_or_else(|account| panic!("{account}"));
    }
    store.verify().unwrap();
}

#[test]
fn reads_of_many_leaves_beside_moves_are_linearizable() {
    let (_directory, store, keyspace) = open();
    for round in 0..4 {
        keyspace.clear().unwrap();
        let mut initial = Contents::new(false, store.last_seq());
        for n in 0..CELLS - 1 {
            initial.fill(n, 7);
            write(&keyspace, block(n).map(|slot| (slot, Some(7))));
        }
        initial.seq = store.last_seq();
        let history = run((&store, &keyspace), false, round, (draw_beside_moves, 3000));
        check::<Sorted>(initial, &history).unwrap_or_else(|account| panic!("{account}"));
    }
    store.verify().unwrap();
}

#[test]
fn operations_of_an_ordered_keyspace_are_linearizable() {
    const ROUNDS: usize = 8;
    let (_directory, store, keyspace) = open();
    let (mut commits, mut conflicts) = (0, 0);
    for round in 0..ROUNDS {
        let is_walled = round % 2 == 1;
        keyspace.clear().unwrap();
        if is_walled {
            let wall = (0..OBJECT.start).chain(OBJECT.end..SLOTS);
            write(&keyspace, wall.map(|slot| (slot, Some(slot as u64))));
        }
        let initial = Contents::new(is_walled, store.last_seq());
        let history = run((&store, &keyspace), is_walled, round, (draw, 800));
        check::<Sorted>(initial, &history).unwrap_or_else(|account| panic!("{account}"));
        let count = |test: fn(&Effect) -> bool| history.iter().filter(|one| test(&one.outcome)).count();
        commits += count(|effect| matches!(effect, Effect::Read(..) | Effect::Counted(..)));
        conflicts += count(|effect| matches!(effect, Effect::Conflict));
    }
    assert!(commits > 100 && conflicts > 0, "transactions must commit and conflict: {commits}, {conflicts}");
    store.verify().unwrap();
}

// ---- The checker --------------------------------------------------------------------------------

/// Judges deeds on a thread each, with their calls and returns.
fn verdict(deeds: &[(u64, u64, Deed, Effect)]) -> std::result::Result<(), String> {
    let completed = |(thread, (call, ret, deed, effect)): (usize, &(u64, u64, Deed, Effect))| Completed {
        thread,
        call: *call,
        ret: *ret,
        operation: deed.clone(),
        outcome: effect.clone(),
    };
    check::<Sorted>(Contents::new(false, Seq(0)), &deeds.iter().enumerate().map(completed).collect())
}

/// Judges a deed with two effects beside a write. The first effect is one that an order explains.
fn convicts(before: &[(Deed, Effect)], beside: (Deed, Effect), deed: Deed, right: Effect, wrong: Effect) {
    let [right, wrong] = [right, wrong].map(|effect| {
        let mut deeds: Vec<_> = (0..)
            .zip(before)
            .map(|(n, (deed, effect))| (2 * n, 2 * n + 1, deed.clone(), effect.clone()))
            .collect();
        let time = 2 * before.len() as u64;
        deeds.push((time, time + 3, beside.0.clone(), beside.1.clone()));
        deeds.push((time + 1, time + 2, deed.clone(), effect));
        verdict(&deeds)
    });
    right.unwrap();
    wrong.unwrap_err();
}

fn written(seq: u64) -> Effect {
    Effect::Written(Seq(seq))
}

#[test]
fn checker_rejects_reads_of_two_moments() {
    let two = [(Deed::Batch([(0, Some(1)), (4, Some(2))]), written(1))];
    let moves = || (Deed::Batch([(0, None), (4, Some(3))]), written(2));
    let page = |items: &[Item]| Effect::Items(items.to_vec());
    let all = || Deed::Page(0..SLOTS, 3, Way::OneMoment);
    convicts(&two, moves(), all(), page(&[(cell(0), 1), (cell(4), 2)]), page(&[(cell(0), 1), (cell(4), 3)]));
    convicts(&two, moves(), all(), page(&[(cell(4), 3)]), page(&[(cell(4), 2)]));
    convicts(&two, moves(), Deed::First, Effect::Item(Some((cell(4), 3))), Effect::Item(None));
    convicts(&two, moves(), Deed::Last, Effect::Item(Some((cell(4), 2))), Effect::Item(Some((cell(0), 1))));
    convicts(&two, moves(), Deed::Gt(cell(0)), Effect::Item(Some((cell(4), 3))), Effect::Item(None));
    convicts(&two, moves(), Deed::Lt(cell(4)), Effect::Item(None), Effect::Item(Some((cell(0), 3))));
    let fill = || (Deed::Fill(1, 7), written(2));
    convicts(&two, fill(), Deed::Count(OBJECT), Effect::Count(42), Effect::Count(41));
    let first = || Deed::Page(cell(1)..SLOTS, 1, Way::Snapshot);
    convicts(&two, fill(), first(), page(&[(block(1).start, 7)]), page(&[(block(1).start + 1, 7)]));
}

#[test]
fn checker_rejects_pops_that_no_order_explains() {
    let two = [(Deed::Batch([(1, Some(1)), (3, Some(2))]), written(1))];
    let pops = || (Deed::PopFirst, Effect::Item(Some((cell(1), 1))));
    let popped = |n, value| Effect::Item(Some((cell(n), value)));
    // Both cannot pop the same key, and neither goes past a smaller one.
    convicts(&two, pops(), Deed::PopFirst, popped(3, 2), popped(1, 1));
    convicts(&two, pops(), Deed::PopLast, popped(3, 2), Effect::Item(None));
    convicts(&two, pops(), Deed::PopFirstIn(cell(0)..cell(3)), Effect::Item(None), popped(3, 2));
    let inserts = || (Deed::Insert(0, 9), written(2));
    convicts(&two, inserts(), Deed::PopFirst, popped(0, 9), popped(3, 2));
}

#[test]
fn checker_rejects_transactions_whose_reads_do_not_hold() {
    let two = [(Deed::Batch([(0, Some(1)), (1, Some(2))]), written(1))];
    let one = || (Deed::Transact([0, 1], (0, Some(5))), Effect::Read([Some(1), Some(2)], Seq(2)));
    let other = || Deed::Transact([0, 1], (1, Some(6)));
    // Each has read what the other writes.
    convicts(&two, one(), other(), Effect::Conflict, Effect::Read([Some(1), Some(2)], Seq(3)));
    convicts(
        &two,
        one(),
        other(),
        Effect::Read([Some(5), Some(2)], Seq(3)),
        Effect::Read([Some(5), None], Seq(3)),
    );
    let counts = || Deed::CountAndInsert(OBJECT, (4, 8));
    let fills = || (Deed::Fill(0, 7), written(2));
    convicts(&two, fills(), counts(), Effect::Counted(42, Seq(3)), Effect::Counted(2, Seq(3)));
    // A conflict has no effect.
    let read = |effect| {
        verdict(&[
            (0, 1, Deed::Transact([0, 1], (0, Some(5))), Effect::Conflict),
            (2, 3, Deed::First, effect),
        ])
    };
    read(Effect::Item(None)).unwrap();
    read(Effect::Item(Some((cell(0), 5)))).unwrap_err();
}
