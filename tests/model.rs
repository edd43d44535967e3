//! Tests a store against a map per keyspace, through long random histories of every operation, end
//! and durability.
//!
//! A crash decides the content of the store after a power cut, so the model of the allowed contents
//! lives beside the store. The reference machine that proptest needs only draws the transitions.
//! Every transition is possible at any time, so shrinking may drop any of them.
//!
//! `MAPCASK_CASES` sets the number of histories, or else `PROPTEST_CASES`.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;

use std::time::Duration;

use mapcask::{Durability, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use model_support::machine::{Machine, Spoil};
use model_support::write::{Change, Expected, Step, Write};
use model_support::{Bytes, number_from_env};

/// The number of keys of the default keyspace: small enough that histories often overwrite and
/// remove.
const KEYS: u8 = 50;
/// The number of keys of each named keyspace.
const FEW_KEYS: u8 = 6;
/// The names of keyspaces: so few that creations, renames and drops often collide.
const NAMES: [&str; 4] = ["", "a", "b", "käse"];
/// The names where some keyspaces are ordered: those that begin with `o`.
const NAMES_ORDERED: [&str; 4] = ["", "a", "o", "orte"];

#[derive(Debug, Clone)]
enum Transition {
    Write(Write),
    /// A write with a higher durability than the others.
    WriteDurably(Write),
    /// Reads one key in all ways.
    Read(String, Bytes),
    ReadMany(String, Vec<Bytes>),
    Iterate,
    /// Keeps a handle to a keyspace.
    Hold(String),
    Flush,
    /// Waits for an earlier write.
    WaitDurable(prop::sample::Index),
    /// Carries out this many steps of the worker.
    Step(u8),
    /// Takes a snapshot, and keeps it.
    Snapshot,
    /// Drops one of the kept snapshots.
    DropSnapshot(prop::sample::Index),
    /// Carries out the worker's steps at rest, until none is left.
    Rest,
    /// Compacts the whole store, or gives up after this many steps.
    Compact(Option<u8>),
    /// Fails the power during a compaction.
    CutWithinCompaction {
        at: prop::sample::Index,
        seed: u64,
        same_boot: bool,
    },
    /// Takes an index checkpoint.
    TakeImage,
    /// Fails the power during a checkpoint.
    CutWithinImage {
        at: prop::sample::Index,
        seed: u64,
        same_boot: bool,
    },
    /// Closes the store or kills its process, damages the checkpoint, and opens the store again.
    Spoil {
        how: Spoil,
        killed: bool,
    },
    /// Lets time pass: at `Interval` the next step is a sync.
    Wait,
    Verify,
    Close,
    /// Drops the last handle.
    Drop,
    Kill,
    /// Fails the power. The machine returns with another boot identity, or with the old one.
    Cut {
        seed: u64,
        same_boot: bool,
    },
    /// Fails the power during a write and a flush.
    CutWithin {
        write: Write,
        flush: bool,
        at: prop::sample::Index,
        seed: u64,
        same_boot: bool,
    },
    /// Kills the process after a write, then fails the power at once.
    KillThenCut {
        write: Write,
        seed: u64,
    },
}

fn key(number: u8) -> Bytes {
    // One key is empty, one is long.
    Bytes(match number {
        0 => Vec::new(),
        1 => vec![b'k'; 700],
        _ => format!("key {number}").into_bytes(),
    })
}

fn value() -> impl Strategy<Value = Bytes> {
    let sized = |length| (any::<u8>(), length).prop_map(|(byte, length)| Bytes(vec![byte; length]));
    prop_oneof![
        1 => Just(Bytes(Vec::new())),
        8 => sized(1..60_usize),
        3 => sized(500..1500_usize),
        // Larger than a segment.
        1 => sized(4000..13_000_usize),
    ]
}

fn name(ordered: bool) -> impl Strategy<Value = String> {
    let names = if ordered { NAMES_ORDERED } else { NAMES };
    prop::sample::select(names.to_vec()).prop_map(str::to_owned)
}

/// Draws a name, sometimes the longest that is allowed or one that is too long.
fn any_name(ordered: bool) -> impl Strategy<Value = String> {
    prop_oneof![20 => name(ordered), 1 => (255..257_usize).prop_map(|len| "n".repeat(len))]
}

/// Draws a keyspace and a key, half of the time in one that has many: the default one, or an ordered
/// one.
fn place(ordered: bool) -> impl Strategy<Value = (String, Bytes)> {
    let large = if ordered { "o" } else { "" };
    prop_oneof![
        (0..KEYS).prop_map(move |number| (large.to_owned(), key(number))),
        (name(ordered), 0..FEW_KEYS).prop_map(|(name, number)| (name, key(number))),
    ]
}

/// Draws an expectation, mostly the right one.
fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        4 => Just(Expected::Right),
        1 => Just(Expected::Absent),
        1 => value().prop_map(Expected::Value),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let more = || (any::<u8>(), 1..20_usize).prop_map(|(byte, len)| Bytes(vec![byte; len]));
    prop_oneof![
        12 => value().prop_map(Change::Insert),
        4 => Just(Change::Remove),
        3 => (expected(), prop::option::weighted(0.7, value()))
            .prop_map(|(old, new)| Change::CompareAndSwap(old, new)),
        1 => value().prop_map(Change::InsertIfAbsent),
        1 => value().prop_map(Change::Replace),
        1 => Just(Change::Take),
        1 => more().prop_map(Change::FetchAndUpdate),
        1 => more().prop_map(Change::UpdateAndFetch),
    ]
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        1 => Just(Spoil::Remove),
        1 => Just(Spoil::Old),
        1 => any::<prop::sample::Index>().prop_map(|at| Spoil::Cut(at.index(1 << 20))),
        3 => any::<prop::sample::Index>().prop_map(|at| Spoil::Flip(at.index(1 << 20))),
        // These damage the front of the file.
        1 => (0..400_usize).prop_map(Spoil::Flip),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => value().prop_map(Step::Insert),
        4 => Just(Step::Remove),
        2 => expected().prop_map(Step::Require),
        1 => Just(Step::RequirePresent),
    ]
}

fn write(ordered: bool) -> impl Strategy<Value = Write> {
    let (name, any_name, place) = (|| name(ordered), || any_name(ordered), || place(ordered));
    // The keys are few, so that a batch has some of them twice.
    let item = (name(), 0..FEW_KEYS, step()).prop_map(|(name, number, step)| (name, key(number), step));
    prop_oneof![
        24 => (place(), change()).prop_map(|((name, key), change)| Write::Key(name, key, change)),
        6 => (name(), prop::collection::vec(item, 0..9)).prop_map(|(to, items)| Write::Batch(to, items)),
        1 => any_name().prop_map(Write::Create),
        2 => (any_name(), any_name()).prop_map(|(from, to)| Write::Rename(from, to)),
        1 => name().prop_map(Write::Clear),
        2 => (name(), any::<bool>()).prop_map(|(name, first)| Write::Pop(name, first)),
        1 => any_name().prop_map(Write::Drop),
    ]
}

/// The machine that draws the transitions, with ordered keyspaces or without.
struct Reference<const ORDERED: bool>;

impl<const ORDERED: bool> ReferenceStateMachine for Reference<ORDERED> {
    type State = Durability;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Durability> {
        prop::sample::select(vec![Durability::Os, Durability::Interval, Durability::Disk]).boxed()
    }

    fn transitions(_: &Durability) -> BoxedStrategy<Transition> {
        let (write, name, place) = (|| write(ORDERED), || name(ORDERED), || place(ORDERED));
        let within = (write(), any::<bool>(), any::<prop::sample::Index>(), any::<u64>(), any::<bool>());
        let keys = prop::collection::vec((0..FEW_KEYS + 2).prop_map(key), 0..40);
        prop_oneof![
            60 => write().prop_map(Transition::Write),
            2 => write().prop_map(Transition::WriteDurably),
            4 => place().prop_map(|(name, key)| Transition::Read(name, key)),
            3 => (name(), keys).prop_map(|(name, keys)| Transition::ReadMany(name, keys)),
            1 => Just(Transition::Iterate),
            3 => name().prop_map(Transition::Hold),
            2 => Just(Transition::Flush),
            2 => any::<prop::sample::Index>().prop_map(Transition::WaitDurable),
            6 => (1..16_u8).prop_map(Transition::Step),
            1 => Just(Transition::Rest),
            3 => Just(Transition::Snapshot),
            2 => any::<prop::sample::Index>().prop_map(Transition::DropSnapshot),
            2 => prop::option::weighted(0.3, 0..6_u8).prop_map(Transition::Compact),
            2 => (any::<prop::sample::Index>(), any::<u64>(), any::<bool>())
                .prop_map(|(at, seed, same_boot)| Transition::CutWithinCompaction { at, seed, same_boot }),
            4 => Just(Transition::TakeImage),
            1 => (any::<prop::sample::Index>(), any::<u64>(), any::<bool>())
                .prop_map(|(at, seed, same_boot)| Transition::CutWithinImage { at, seed, same_boot }),
            3 => (spoil(), any::<bool>()).prop_map(|(how, killed)| Transition::Spoil { how, killed }),
            1 => Just(Transition::Wait),
            1 => Just(Transition::Verify),
            2 => Just(Transition::Close),
            1 => Just(Transition::Drop),
            2 => Just(Transition::Kill),
            2 => (any::<u64>(), any::<bool>())
                .prop_map(|(seed, same_boot)| Transition::Cut { seed, same_boot }),
            3 => within.prop_map(|(write, flush, at, seed, same_boot)| {
                Transition::CutWithin { write, flush, at, seed, same_boot }
            }),
            1 => (write(), any::<u64>()).prop_map(|(write, seed)| Transition::KillThenCut { write, seed }),
        ]
        .boxed()
    }

    fn apply(state: Durability, _: &Transition) -> Durability {
        state
    }
}

struct Test<const ORDERED: bool>;

impl<const ORDERED: bool> StateMachineTest for Test<ORDERED> {
    type SystemUnderTest = Machine;
    type Reference = Reference<ORDERED>;

    fn init_test(durability: &Durability) -> Machine {
        Machine::new(*durability, (0..KEYS).map(key).collect())
    }

    fn apply(mut machine: Machine, _: &Durability, transition: Transition) -> Machine {
        match transition {
            Transition::Write(write) => machine.write(&write, Durability::Os),
            Transition::WriteDurably(write) => machine.write(&write, Durability::Disk),
            Transition::Read(name, key) => machine.read(&name, &key),
            Transition::ReadMany(name, keys) => machine.read_many(&name, &keys),
            Transition::Iterate => machine.check_all(),
            Transition::Hold(name) => machine.hold(&name),
            Transition::Flush => machine.flush(),
            Transition::WaitDurable(which) => machine.wait_durable(|seqs| *which.get(seqs)),
            Transition::Step(count) => {
                for _ in 0..count {
                    machine.store().step().unwrap();
                }
            }
            Transition::Snapshot => machine.take_snapshot(),
            Transition::DropSnapshot(which) => machine.drop_snapshot(|count| which.index(count)),
            Transition::Rest => {
                while machine.store().step().unwrap() || machine.store().rest_step().unwrap() {}
            }
            Transition::Compact(steps) => machine.compact(steps),
            Transition::CutWithinCompaction { at, seed, same_boot } => {
                let work = |store: &Store| {
                    store.compact().unwrap();
                };
                machine.cut_within_work(work, |positions| *at.get(positions), seed, same_boot);
            }
            Transition::TakeImage => machine.take_checkpoint(),
            Transition::CutWithinImage { at, seed, same_boot } => {
                let work = |store: &Store| {
                    store.take_checkpoint().unwrap();
                };
                machine.cut_within_work(work, |positions| *at.get(positions), seed, same_boot);
            }
            Transition::Spoil { how, killed } => machine.spoil(how, killed),
            Transition::Wait => machine.disk.advance_clock(Duration::from_millis(101)),
            Transition::Verify => drop(machine.store().verify().unwrap()),
            Transition::Close => machine.close(false),
            Transition::Drop => machine.close(true),
            Transition::Kill => machine.kill(),
            Transition::Cut { seed, same_boot } => machine.cut_now(seed, same_boot),
            Transition::CutWithin { write, flush, at, seed, same_boot } => {
                machine.cut_within(&write, flush, |positions| *at.get(positions), seed, same_boot);
            }
            Transition::KillThenCut { write, seed } => {
                machine.write(&write, Durability::Os);
                machine.kill();
                machine.cut_now(seed, false);
            }
        }
        machine.check_seqs();
        // A history of thousands of events would be replayed for every crash.
        machine.disk.forget_history();
        machine
    }

    fn teardown(machine: Machine, _: Durability) {
        machine.check_all();
        machine.store().verify().unwrap();
    }
}

fn config() -> Config {
    let cases = number_from_env("MAPCASK_CASES", number_from_env("PROPTEST_CASES", 100));
    Config {
        cases: u32::try_from(cases).expect("a sensible number of cases"),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/regressions/model.txt"))),
        max_shrink_iters: 20_000,
        ..Config::default()
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    // A sequence has a hundred transitions on average.
    #[test]
    fn a_store_agrees_with_a_map_through_every_kind_of_end(sequential 1..200 => Test<false>);

    #[test]
    fn ordered_keyspaces_agree_with_a_map_through_every_end(sequential 1..200 => Test<true>);
}
