//! Long random histories of a store against a `BTreeMap`: every operation, every way to end, every durability.
//!
//! What is in the store after a power cut is decided by the crash, so the model that says what may be there lives
//! beside the store; the reference machine that proptest asks for only draws the transitions. That leaves every
//! transition possible at any time, so shrinking may drop any of them.
//!
//! `MAPCASK_CASES` says how many histories, and `PROPTEST_CASES` where that is not set.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;

use std::time::Duration;

use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Durability, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use model_support::{History, Write, content, number_from_env, open};

/// Keys that a history uses: few enough that overwriting and removing happen all the time.
const KEYS: u8 = 50;

#[derive(Debug, Clone)]
enum Transition {
    Write(Write),
    /// All ways to read one key.
    Read(u8),
    Iterate,
    Flush,
    /// So many pieces of the helper's work.
    Step(u8),
    /// Time passes: at `Interval` the next piece of work is a sync.
    Wait,
    Verify,
    Close,
    /// Drops the last handle.
    Drop,
    Kill,
    /// The power fails, and comes back in another run of the system, or in this one as far as the store can see.
    Cut {
        seed: u64,
        same_boot: bool,
    },
    /// The power fails somewhere within a write and a flush.
    CutWithin {
        write: Write,
        flush: bool,
        at: prop::sample::Index,
        seed: u64,
        same_boot: bool,
    },
    /// The process dies somewhere within a write: at any of its moments, by a power cut's measure the worst.
    KillThenCut {
        write: Write,
        seed: u64,
    },
}

fn key(number: u8) -> Vec<u8> {
    // One key is empty, one is long.
    match number {
        0 => Vec::new(),
        1 => vec![b'k'; 700],
        _ => format!("key {number}").into_bytes(),
    }
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let sized = |length| (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![
        1 => Just(Vec::new()),
        8 => sized(1..60_usize),
        3 => sized(500..1500_usize),
        // Larger than a segment.
        1 => sized(4000..13_000_usize),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let item = (0..KEYS, prop::option::weighted(0.7, value()));
    prop_oneof![
        6 => (0..KEYS, value()).prop_map(|(number, value)| Write::Insert(key(number), value)),
        2 => (0..KEYS).prop_map(|number| Write::Remove(key(number))),
        // Few keys, so that a batch has some of them twice.
        2 => prop::collection::vec(item, 0..9).prop_map(|items| {
            Write::Batch(items.into_iter().map(|(number, value)| (key(number % 6), value)).collect())
        }),
    ]
}

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Durability;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Durability> {
        prop::sample::select(vec![Durability::Os, Durability::Interval, Durability::Disk]).boxed()
    }

    fn transitions(_: &Durability) -> BoxedStrategy<Transition> {
        let within = (write(), any::<bool>(), any::<prop::sample::Index>(), any::<u64>(), any::<bool>());
        prop_oneof![
            60 => write().prop_map(Transition::Write),
            6 => (0..KEYS).prop_map(Transition::Read),
            1 => Just(Transition::Iterate),
            3 => Just(Transition::Flush),
            4 => (1..6_u8).prop_map(Transition::Step),
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

fn boot_id(run: u64) -> Option<[u8; 16]> {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&run.to_le_bytes());
    Some(id)
}

/// A store on its disk, and what it may hold.
struct Machine {
    disk: SimDisk,
    /// None only while it is being reopened.
    store: Option<Store>,
    durability: Durability,
    history: History,
    /// The run of the system.
    boot: u64,
}

impl Machine {
    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between transitions")
    }

    fn write(&mut self, write: &Write) {
        write.run(self.store()).unwrap();
        self.history.write(write);
        if self.durability == Durability::Disk {
            self.make_durable();
        }
        let keys = match write {
            Write::Insert(key, _) | Write::Remove(key) => vec![key],
            Write::Batch(items) => items.iter().map(|(key, _)| key).collect(),
        };
        for key in keys {
            self.read(key);
        }
        assert_eq!(self.store().len(), self.history.now().len());
    }

    fn make_durable(&mut self) {
        self.history.make_durable();
        self.history.forget();
    }

    fn flush(&mut self) {
        self.store().flush().unwrap();
        self.make_durable();
    }

    fn read(&self, key: &[u8]) {
        let expected = self.history.now().get(key).map(Vec::as_slice);
        let store = self.store();
        assert_eq!(store.get(key).unwrap().as_deref(), expected);
        assert_eq!(store.view().get(key).unwrap(), expected);
        assert_eq!(store.contains_key(key).unwrap(), expected.is_some());
        let mut copy = b"is cleared".to_vec();
        assert_eq!(store.get_into(key, &mut copy).unwrap(), expected.is_some());
        assert_eq!(copy, expected.unwrap_or_default());
    }

    /// Starts another process on a disk; the one before has ended, in whatever way.
    fn start(&mut self, disk: SimDisk) {
        self.disk = disk;
        let store = open(&self.disk, self.durability).unwrap();
        store.verify().unwrap();
        self.store = Some(store);
    }

    fn close(&mut self, by_drop: bool) {
        let store = self.store.take().expect("it is open between transitions");
        if by_drop {
            drop(store)
        } else {
            store.close().unwrap()
        }
        self.make_durable();
        self.start(self.disk.clone());
        assert!(self.store().recovery_report().clean);
        assert_eq!(content(self.store()), *self.history.now());
    }

    fn kill(&mut self) {
        self.start(self.disk.kill());
        let found = content(self.store());
        self.history = self.history.check_kill(&found, 0).unwrap_or_else(|complaint| panic!("{complaint}"));
    }

    /// The power fails at a moment; `allowed` is what may be there then.
    fn cut(&mut self, at: mapcask::sim::Position, allowed: &History, seed: u64, same_boot: bool) {
        let disk = self.disk.crash_at(at, Tears::Any, &mut Seeded::new(seed));
        self.boot += u64::from(!same_boot);
        disk.set_boot_id(boot_id(self.boot));
        self.start(disk);
        let found = content(self.store());
        self.history = allowed.check_cut(&found).unwrap_or_else(|complaint| panic!("{complaint}"));
    }

    fn cut_within(
        &mut self,
        write: &Write,
        flush: bool,
        at: prop::sample::Index,
        seed: u64,
        same_boot: bool,
    ) {
        self.disk.forget_history();
        let allowed = self.history.with_pending(Some(write));
        write.run(self.store()).unwrap();
        if flush {
            self.store().flush().unwrap();
        }
        let positions = self.disk.positions();
        // The last one is behind the acknowledgement; `Transition::Cut` is for that.
        let positions = &positions[..(positions.len() - 1).max(1)];
        self.cut(*at.get(positions), &allowed, seed, same_boot);
    }

    fn kill_then_cut(&mut self, write: &Write, seed: u64) {
        self.write(write);
        self.kill();
        self.cut(self.disk.position(), &self.history.clone(), seed, false);
    }
}

struct Test;

impl StateMachineTest for Test {
    type SystemUnderTest = Machine;
    type Reference = Reference;

    fn init_test(durability: &Durability) -> Machine {
        let disk = SimDisk::new();
        disk.set_boot_id(boot_id(0));
        let store = Some(open(&disk, *durability).unwrap());
        Machine { disk, store, durability: *durability, history: History::new(), boot: 0 }
    }

    fn apply(mut machine: Machine, _: &Durability, transition: Transition) -> Machine {
        match transition {
            Transition::Write(write) => machine.write(&write),
            Transition::Read(number) => machine.read(&key(number)),
            Transition::Iterate => assert_eq!(content(machine.store()), *machine.history.now()),
            Transition::Flush => machine.flush(),
            Transition::Step(count) => {
                for _ in 0..count {
                    machine.store().step().unwrap();
                }
            }
            Transition::Wait => machine.disk.advance_clock(Duration::from_millis(101)),
            Transition::Verify => drop(machine.store().verify().unwrap()),
            Transition::Close => machine.close(false),
            Transition::Drop => machine.close(true),
            Transition::Kill => machine.kill(),
            Transition::Cut { seed, same_boot } => {
                machine.cut(machine.disk.position(), &machine.history.clone(), seed, same_boot);
            }
            Transition::CutWithin { write, flush, at, seed, same_boot } => {
                machine.cut_within(&write, flush, at, seed, same_boot);
            }
            Transition::KillThenCut { write, seed } => machine.kill_then_cut(&write, seed),
        }
        // A history of thousands of events would be replayed for every crash.
        machine.disk.forget_history();
        machine
    }

    fn teardown(machine: Machine, _: Durability) {
        assert_eq!(content(machine.store()), *machine.history.now());
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

    // A hundred transitions on average.
    #[test]
    fn a_store_agrees_with_a_map_through_every_kind_of_end(sequential 1..200 => Test);
}
