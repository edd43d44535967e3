//! Fuzzes sequences of operations, reopens, kills and power cuts, compared with a map.
//!
//! After the death of the process nothing is missing. After a power cut the store holds an earlier
//! content, no older than the last durable one.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Durability, Store, WriteBatch};
use mapcask_fuzz::store::{Model, contents, options};

#[derive(Debug, Arbitrary)]
struct Input {
    is_durable: bool,
    verify_reads: bool,
    operations: Vec<Operation>,
}

#[derive(Debug, Arbitrary)]
enum Operation {
    Insert { key: u8, len: u8 },
    InsertLong { key: u8, len: u16 },
    Remove { key: u8 },
    Get { key: u8 },
    Batch(Vec<(u8, Option<u8>)>),
    Flush,
    Step,
    Iterate,
    Verify,
    Reopen,
    Kill,
    CutPower { seed: u64, back: u16, tears: bool },
}

struct Run {
    disk: SimDisk,
    store: Option<Store>,
    durability: Durability,
    verify_reads: bool,
    model: Model,
    /// The contents after each operation since the last certain one.
    past: Vec<Model>,
    counter: u8,
}

fuzz_target!(|input: Input| {
    let mut run = Run {
        disk: SimDisk::with_seed(1),
        store: None,
        durability: if input.is_durable { Durability::Disk } else { Durability::Os },
        verify_reads: input.verify_reads,
        model: Model::new(),
        past: vec![Model::new()],
        counter: 0,
    };
    run.open();
    for operation in input.operations.iter().take(64) {
        run.carry_out(operation);
    }
    run.compare();
    run.store().verify().expect("nothing is damaged");
    run.store.take().expect("it is open").close().expect("nothing fails");
});

impl Run {
    fn store(&self) -> &Store {
        self.store.as_ref().expect("a store is open between operations")
    }

    fn open(&mut self) {
        let options = options().durability(self.durability).verify_reads(self.verify_reads);
        self.store = Some(options.open_on(&self.disk).expect("an undamaged store opens"));
    }

    fn compare(&self) {
        assert_eq!(contents(self.store()).expect("nothing is damaged"), self.model);
        assert_eq!(self.store().len(), self.model.len());
    }

    /// Records that everything up to now is durable.
    fn settle(&mut self) {
        self.past = vec![self.model.clone()];
    }

    fn wrote(&mut self) {
        if self.durability == Durability::Disk {
            self.settle();
        } else {
            self.past.push(self.model.clone());
        }
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.counter = self.counter.wrapping_add(1);
        vec![self.counter; len]
    }

    fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::Insert { key, len } => self.insert(*key, usize::from(*len)),
            Operation::InsertLong { key, len } => self.insert(*key, usize::from(*len)),
            Operation::Remove { key } => {
                let key = self.key(*key);
                let was_there = self.store().remove(&key).expect("nothing fails");
                assert_eq!(was_there, self.model.remove(&key).is_some());
                self.wrote();
            }
            Operation::Get { key } => {
                let key = self.key(*key);
                let found = self.store().get(&key).expect("nothing is damaged");
                assert_eq!(found.as_deref(), self.model.get(&key).map(Vec::as_slice));
                let view = self.store().view();
                let found = view.get(&key).expect("nothing is damaged");
                assert_eq!(found, self.model.get(&key).map(Vec::as_slice));
            }
            Operation::Batch(writes) => self.batch(writes),
            Operation::Flush => {
                self.store().flush().expect("nothing fails");
                self.settle();
            }
            Operation::Step => drop(self.store().step().expect("nothing fails")),
            Operation::Iterate => self.compare(),
            Operation::Verify => drop(self.store().verify().expect("nothing is damaged")),
            Operation::Reopen => {
                self.store.take().expect("it is open").close().expect("nothing fails");
                self.settle();
                self.open();
                self.compare();
            }
            Operation::Kill => {
                self.go_on_with(self.disk.kill());
                self.compare();
            }
            Operation::CutPower { seed, back, tears } => self.cut_power(*seed, *back, *tears),
        }
    }

    fn key(&self, key: u8) -> Vec<u8> {
        vec![key % 16; usize::from(key % 5)]
    }

    fn insert(&mut self, key: u8, len: usize) {
        let (key, value) = (self.key(key), self.value(len));
        self.store().insert(&key, &value).expect("nothing fails");
        self.model.insert(key, value);
        self.wrote();
    }

    fn batch(&mut self, writes: &[(u8, Option<u8>)]) {
        let mut batch = WriteBatch::new();
        for (key, len) in writes {
            let key = self.key(*key);
            match len {
                Some(len) => {
                    let value = self.value(usize::from(*len));
                    batch.insert(&key, &value);
                    self.model.insert(key, value);
                }
                None => {
                    batch.remove(&key);
                    self.model.remove(&key);
                }
            }
        }
        self.store().write(batch).expect("nothing fails");
        self.wrote();
    }

    /// Opens the store on the machine that a crash left. The old store closes on the old machine,
    /// where no later step sees it.
    fn go_on_with(&mut self, after: SimDisk) {
        self.store = None;
        self.disk = after;
        self.open();
    }

    fn cut_power(&mut self, seed: u64, back: u16, tears: bool) {
        let positions = self.disk.positions();
        // The durable content of an earlier time is not known here: the store must only open.
        let is_now = back.is_multiple_of(2);
        let position = if is_now {
            positions[positions.len() - 1]
        } else {
            positions[positions.len() - 1 - usize::from(back) % positions.len()]
        };
        let tears = if tears { Tears::Any } else { Tears::None };
        let after = self.disk.crash_at(position, tears, &mut Seeded::new(seed));
        self.go_on_with(after);
        let found = contents(self.store()).expect("nothing is damaged");
        if is_now {
            assert!(self.past.contains(&found), "{found:?} is none of {:?}", self.past);
        }
        self.model = found;
        // The content after a cut is on the disk, or becomes durable before any later write counts.
        self.settle();
    }
}
