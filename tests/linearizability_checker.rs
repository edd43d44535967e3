//! Tests the linearizability checker with known histories, and the store with the checker.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/linearize.rs"]
mod linearize;

use std::thread;

use linearize::{Clock, Completed, History, Model, Recorder, check, check_by_key};
use mapcask::{Options, Store};
use proptest::prelude::*;

// ---- A register ---------------------------------------------------------------------------------

#[derive(Debug)]
struct Register;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Read,
    Write(u32),
    CompareAndSwap(u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Value(u32),
    Done,
    Swapped(bool),
}

use Operation::{CompareAndSwap, Read, Write};
use Outcome::{Done, Swapped, Value};

/// Returns the state after an operation, and its outcome.
fn carry_out(state: u32, operation: Operation) -> (u32, Outcome) {
    match operation {
        Read => (state, Value(state)),
        Write(value) => (value, Done),
        CompareAndSwap(old, new) if state == old => (new, Swapped(true)),
        CompareAndSwap(..) => (state, Swapped(false)),
    }
}

impl Model for Register {
    type State = u32;
    type Operation = Operation;
    type Outcome = Outcome;

    fn step(state: &u32, operation: &Operation, outcome: &Outcome) -> Option<u32> {
        let (after, real) = carry_out(*state, *operation);
        (real == *outcome).then_some(after)
    }
}

/// Makes a history of operations on a thread each: call, return, operation, outcome.
fn history(operations: &[(u64, u64, Operation, Outcome)]) -> History<Register> {
    let completed =
        |(thread, &(call, ret, operation, outcome))| Completed { thread, call, ret, operation, outcome };
    operations.iter().enumerate().map(completed).collect()
}

fn verdict(operations: &[(u64, u64, Operation, Outcome)]) -> Result<(), String> {
    check::<Register>(0, &history(operations))
}

#[test]
fn an_empty_history_and_one_in_sequence_are_linearizable() {
    verdict(&[]).unwrap();
    verdict(&[(0, 1, Read, Value(0)), (2, 3, Write(1), Done), (4, 5, Read, Value(1))]).unwrap();
}

#[test]
fn only_overlapping_operations_may_be_reordered() {
    let both = |ret, seen| verdict(&[(0, ret, Write(1), Done), (2, 6, Write(2), Done), (7, 8, Read, seen)]);
    both(5, Value(1)).unwrap();
    both(5, Value(2)).unwrap();
    both(1, Value(2)).unwrap();
    both(1, Value(1)).unwrap_err();
}

#[test]
fn a_read_of_a_value_that_was_replaced_before_it_began_is_found() {
    verdict(&[(0, 1, Write(1), Done), (2, 3, Write(2), Done), (4, 5, Read, Value(1))]).unwrap_err();
}

#[test]
fn older_value_after_a_newer_one_is_found_during_the_write() {
    let reads = |first, second| {
        verdict(&[(0, 9, Write(1), Done), (1, 2, Read, Value(first)), (3, 4, Read, Value(second))])
    };
    reads(0, 1).unwrap();
    reads(1, 1).unwrap();
    reads(1, 0).unwrap_err();
}

#[test]
fn a_lost_update_is_found() {
    let account = verdict(&[
        (0, 4, CompareAndSwap(0, 1), Swapped(true)),
        (1, 5, CompareAndSwap(1, 2), Swapped(true)),
        (6, 7, Read, Value(1)),
    ]);
    account.unwrap_err();
}

#[test]
fn two_swaps_that_both_succeed_from_the_same_value_are_found() {
    let swap = |new, outcome| (CompareAndSwap(0, new), Swapped(outcome));
    let both = |first: (Operation, Outcome), second: (Operation, Outcome)| {
        verdict(&[(0, 2, first.0, first.1), (1, 3, second.0, second.1)])
    };
    both(swap(1, true), swap(2, true)).unwrap_err();
    both(swap(1, true), swap(2, false)).unwrap();
    both(swap(1, false), swap(2, true)).unwrap();
    both(swap(1, false), swap(2, false)).unwrap_err();
}

#[test]
fn a_value_that_was_never_written_is_found() {
    verdict(&[(0, 3, Write(1), Done), (1, 2, Read, Value(7))]).unwrap_err();
}

#[test]
fn account_names_the_impossible_operation_and_shortest_prefix() {
    let account = verdict(&[
        (0, 1, Write(1), Done),
        (2, 9, Write(2), Done),
        (3, 4, Read, Value(2)),
        (5, 6, Read, Value(1)),
        // The second fault comes later: the first one counts.
        (10, 11, Read, Value(9)),
    ]);
    let account = account.unwrap_err();
    let expected = [
        "not linearizable: no order explains what had returned at 6",
        "  after    thread 0 at 0..1: Write(1) -> Done",
        "  after    thread 1 at 2..9: Write(2) -> Done",
        "  after    thread 2 at 3..4: Read -> Value(2)",
        "  cannot:  thread 3 at 5..6: Read -> Value(1)",
        "  meanwhile thread 1 at 2..9: Write(2) -> Done",
        "  the order that gets furthest has 3 operations and leaves 2",
    ];
    assert_eq!(account.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn keys_are_judged_by_themselves_and_the_account_names_the_key() {
    #[derive(Debug)]
    struct Registers;
    impl Model for Registers {
        type State = u32;
        type Operation = (char, Operation);
        type Outcome = Outcome;

        fn step(state: &u32, operation: &(char, Operation), outcome: &Outcome) -> Option<u32> {
            Register::step(state, &operation.1, outcome)
        }
    }
    let completed = |call, key, operation, outcome| Completed {
        thread: 0,
        call,
        ret: call + 1,
        operation: (key, operation),
        outcome,
    };
    let mut history = vec![
        completed(0, 'a', Write(1), Done),
        completed(2, 'b', Read, Value(5)),
        completed(4, 'a', Read, Value(1)),
    ];
    let initial = |key: &char| if *key == 'b' { 5 } else { 0 };
    check_by_key::<Registers, _>(initial, &history, |operation| operation.0).unwrap();
    history.push(completed(6, 'b', Read, Value(1)));
    let account = check_by_key::<Registers, _>(initial, &history, |operation| operation.0).unwrap_err();
    assert!(account.starts_with("key 'b': not linearizable"), "{account}");
}

// ---- A simulated register -----------------------------------------------------------------------

/// The state of a thread of the simulation.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle,
    Called(u64, Operation),
    Effective(u64, Operation, Outcome),
}

/// Runs threads on one register, one step of one thread at a time: call, take effect, return.
fn simulate(seed: u64, threads: usize, count: usize) -> History<Register> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut phases = vec![Phase::Idle; threads];
    let (mut state, mut time, mut called) = (0, 0, 0);
    let mut history = Vec::new();
    while history.len() < count {
        let thread = random.usize(..threads);
        phases[thread] = match phases[thread] {
            Phase::Idle if called == count => continue,
            Phase::Idle => {
                called += 1;
                let value = random.u32(..4);
                let operation =
                    [Read, Write(value), CompareAndSwap(value, random.u32(..4))][random.usize(..3)];
                Phase::Called(time, operation)
            }
            Phase::Called(call, operation) => {
                let (after, outcome) = carry_out(state, operation);
                state = after;
                Phase::Effective(call, operation, outcome)
            }
            Phase::Effective(call, operation, outcome) => {
                history.push(Completed { thread, call, ret: time, operation, outcome });
                Phase::Idle
            }
        };
        time += 1;
    }
    history
}

/// Returns true if some order explains a short history, by trying all of them.
fn naive(state: u32, left: &[&Completed<Operation, Outcome>]) -> bool {
    left.iter().enumerate().any(|(place, next)| {
        let may_be_next = left.iter().all(|other| next.call < other.ret);
        let after = Register::step(&state, &next.operation, &next.outcome).filter(|_| may_be_next);
        let rest: Vec<_> = [&left[..place], &left[place + 1..]].concat();
        after.is_some_and(|after| naive(after, &rest))
    }) || left.is_empty()
}

proptest! {
    #[test]
    fn simulated_register_history_is_linearizable(seed: u64, threads in 1_usize..8, count in 0_usize..300) {
        let verdict = check::<Register>(0, &simulate(seed, threads, count));
        prop_assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    }

    #[test]
    fn one_impossible_outcome_is_found_wherever_it_is(
        seed: u64,
        threads in 1_usize..8,
        count in 1_usize..300,
        place: prop::sample::Index,
    ) {
        let mut history = simulate(seed, threads, count);
        let chosen = &mut history[place.index(count)];
        // No thread writes so great a number, and only a swap returns a `Swapped`.
        chosen.outcome = if matches!(chosen.operation, Write(_)) { Swapped(true) } else { Value(1000) };
        prop_assert!(check::<Register>(0, &history).is_err());
    }

    #[test]
    fn short_histories_are_judged_as_by_trying_every_order(seed: u64, threads in 1_usize..5, count in 1_usize..8) {
        let mut history = simulate(seed, threads, count);
        let mut random = fastrand::Rng::with_seed(seed);
        for completed in &mut history {
            match &mut completed.outcome {
                Value(value) if random.bool() => *value = random.u32(..4),
                Swapped(swapped) if random.bool() => *swapped = random.bool(),
                _ => {}
            }
        }
        let expected = naive(0, &history.iter().collect::<Vec<_>>());
        prop_assert_eq!(check::<Register>(0, &history).is_ok(), expected);
    }
}

#[test]
fn long_history_is_judged_without_recursion() {
    check::<Register>(0, &simulate(1, 8, 20_000)).unwrap();
    let mut history = simulate(2, 8, 20_000);
    history[19_000].outcome = Value(1000);
    history[19_000].operation = Read;
    check::<Register>(0, &history).unwrap_err();
}

// ---- The store ----------------------------------------------------------------------------------

/// The model of one key of a store; `None` is an absent key.
#[derive(Debug)]
struct Key;

#[derive(Debug)]
enum Access {
    Get(u8),
    Insert(u8, u64),
    Remove(u8),
}

#[derive(Debug, PartialEq)]
enum Answer {
    Found(Option<u64>),
    Inserted,
    Removed(bool),
}

impl Model for Key {
    type State = Option<u64>;
    type Operation = Access;
    type Outcome = Answer;

    fn step(state: &Option<u64>, access: &Access, answer: &Answer) -> Option<Option<u64>> {
        let (after, expected) = match access {
            Access::Get(_) => (*state, Answer::Found(*state)),
            Access::Insert(_, value) => (Some(*value), Answer::Inserted),
            Access::Remove(_) => (None, Answer::Removed(state.is_some())),
        };
        (expected == *answer).then_some(after)
    }
}

fn access(store: &Store, access: &Access) -> Answer {
    match access {
        Access::Get(key) => {
            let value = store.get([*key]).unwrap();
            Answer::Found(value.map(|value| u64::from_le_bytes((*value).try_into().unwrap())))
        }
        Access::Insert(key, value) => {
            store.insert([*key], value.to_le_bytes()).unwrap();
            Answer::Inserted
        }
        Access::Remove(key) => Answer::Removed(store.remove([*key]).unwrap()),
    }
}

#[test]
fn concurrent_reads_and_writes_of_each_key_are_linearizable() {
    const THREADS: usize = 4;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Options::new().segment_bytes(64 << 10).open(directory.path().join("data")).unwrap();
    let clock = Clock::default();
    let work = |thread: usize| {
        let mut recorder = Recorder::new(&clock, thread);
        let mut random = fastrand::Rng::with_seed(thread as u64);
        for number in 0..5000 {
            let key = random.u8(..3);
            let next = match random.u8(..5) {
                0 | 1 => Access::Insert(key, number * THREADS as u64 + thread as u64),
                2 => Access::Remove(key),
                _ => Access::Get(key),
            };
            recorder.record(next, |next| access(&store, next));
        }
        recorder.finish()
    };
    let history: History<Key> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let key = |access: &Access| match access {
        Access::Get(key) | Access::Insert(key, _) | Access::Remove(key) => *key,
    };
    check_by_key::<Key, _>(|_| None, &history, key).unwrap_or_else(|account| panic!("{account}"));
}
