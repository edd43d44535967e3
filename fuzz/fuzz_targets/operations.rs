//! Fuzzes sequences of operations, reopens, kills and power cuts, compared with two maps: one of the
//! default keyspace and one of an ordered keyspace.
//!
//! After the death of the process nothing is missing. After a power cut the store holds an earlier
//! content, no older than the last durable one.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapcask::sim::{Seeded, SimDisk, Tears};
use mapcask::{Durability, Error, Keyspace, Result, Store, Value, WriteBatch};
use mapcask_fuzz::store::{Model, contents, options};

/// The contents of the default keyspace and of the ordered one.
type Models = [Model; 2];

#[derive(Debug, Arbitrary)]
struct Input {
    is_durable: bool,
    verify_reads: bool,
    operations: Vec<Operation>,
}

#[derive(Debug, Arbitrary)]
enum Operation {
    Insert {
        of: Of,
        key: u8,
        len: u8,
    },
    InsertLong {
        of: Of,
        key: u8,
        len: u16,
    },
    Remove {
        of: Of,
        key: u8,
    },
    Get {
        of: Of,
        key: u8,
    },
    Batch(Vec<(Of, u8, Option<u8>)>),
    /// Puts many keys of the ordered keyspace as one batch, or removes them.
    Fill {
        from: u8,
        count: u8,
        removes: bool,
    },
    Pop {
        is_first: bool,
    },
    /// Iterates over a range, and removes a key in the middle of it.
    Range {
        from: u8,
        to: u8,
        is_back: bool,
        removed: Option<u8>,
    },
    /// Reads around a key.
    Neighbours {
        key: u8,
        limit: u8,
    },
    /// Reads two keys and counts a range, and writes a key, beside a write that may be a conflict.
    Transact {
        reads: [(Of, u8); 2],
        range: (u8, u8),
        write: (Of, u8),
        beside: Option<(Of, u8)>,
    },
    Flush,
    Step,
    Iterate,
    Verify,
    Reopen,
    Kill,
    CutPower {
        seed: u64,
        back: u16,
        tears: bool,
    },
}

/// The keyspace of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Of {
    Plain,
    Ordered,
}

struct Run {
    disk: SimDisk,
    store: Option<Store>,
    durability: Durability,
    verify_reads: bool,
    models: Models,
    /// The contents after each operation since the last certain one.
    past: Vec<Models>,
    counter: u8,
}

fuzz_target!(|input: Input| {
    let mut run = Run {
        disk: SimDisk::with_seed(1),
        store: None,
        durability: if input.is_durable { Durability::Disk } else { Durability::Os },
        verify_reads: input.verify_reads,
        models: Models::default(),
        past: vec![Models::default()],
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
        let store = options.open_on(&self.disk).expect("an undamaged store opens");
        store.ordered_keyspace("ordered").expect("it is ordered, if it is there");
        self.store = Some(store);
    }

    fn keyspace(&self, of: Of) -> Keyspace {
        let name = if of == Of::Ordered { "ordered" } else { "" };
        self.store().open_keyspace(name).expect("it is there")
    }

    fn models(&self) -> Models {
        let ordered = self.keyspace(Of::Ordered);
        let forward = items(ordered.iter());
        assert!(forward.is_sorted_by(|one, other| one.0 < other.0), "keys ascend");
        [contents(self.store()).expect("nothing is damaged"), forward.into_iter().collect()]
    }

    fn compare(&self) {
        assert_eq!(self.models(), self.models);
        let ordered = self.keyspace(Of::Ordered);
        assert_eq!([self.store().len(), ordered.len()], [self.models[0].len(), self.models[1].len()]);
        let mut back = items(ordered.range::<&[u8]>(..).rev());
        back.reverse();
        let all: Vec<_> = self.models[1].clone().into_iter().collect();
        assert_eq!(back, all);
        assert_eq!(ordered.count_range::<&[u8]>(..).expect("nothing is damaged"), all.len() as u64);
        assert_eq!(item(ordered.first_key_value()), all.first().cloned());
        assert_eq!(item(ordered.last_key_value()), all.last().cloned());
    }

    /// Records that everything up to now is durable.
    fn settle(&mut self) {
        self.past = vec![self.models.clone()];
    }

    fn wrote(&mut self) {
        if self.durability == Durability::Disk {
            self.settle();
        } else {
            self.past.push(self.models.clone());
        }
    }

    fn value(&mut self, len: usize) -> Vec<u8> {
        self.counter = self.counter.wrapping_add(1);
        vec![self.counter; len]
    }

    fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::Insert { of, key, len } => self.insert(*of, *key, usize::from(*len)),
            Operation::InsertLong { of, key, len } => self.insert(*of, *key, usize::from(*len)),
            Operation::Remove { of, key } => {
                let key = key_of(*of, *key);
                let was_there = self.keyspace(*of).remove(&key).expect("nothing fails");
                assert_eq!(was_there, self.models[*of as usize].remove(&key).is_some());
                self.wrote();
            }
            Operation::Get { of, key } => {
                let key = key_of(*of, *key);
                let keyspace = self.keyspace(*of);
                let found = keyspace.get(&key).expect("nothing is damaged");
                let expected = self.models[*of as usize].get(&key).map(Vec::as_slice);
                assert_eq!(found.as_deref(), expected);
                let view = keyspace.view();
                assert_eq!(view.get(&key).expect("nothing is damaged"), expected);
            }
            Operation::Batch(writes) => self.batch(writes),
            Operation::Fill { from, count, removes } => {
                let keys = (0..*count % 64).map(|n| from.wrapping_add(n));
                let writes: Vec<_> = keys.map(|key| (Of::Ordered, key, (!removes).then_some(3))).collect();
                self.batch(&writes);
            }
            Operation::Pop { is_first } => {
                let ordered = self.keyspace(Of::Ordered);
                let model = &mut self.models[1];
                let (popped, expected) = match is_first {
                    true => (ordered.pop_first(), model.pop_first()),
                    false => (ordered.pop_last(), model.pop_last()),
                };
                assert_eq!(item(popped), expected);
                self.wrote();
            }
            Operation::Range { from, to, is_back, removed } => self.range([*from, *to], *is_back, *removed),
            Operation::Neighbours { key, limit } => self.neighbours(*key, usize::from(*limit)),
            Operation::Transact { reads, range, write, beside } => {
                self.transact(reads, *range, *write, *beside);
            }
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

    fn insert(&mut self, of: Of, key: u8, len: usize) {
        let (key, value) = (key_of(of, key), self.value(len));
        self.keyspace(of).insert(&key, &value).expect("nothing fails");
        self.models[of as usize].insert(key, value);
        self.wrote();
    }

    fn batch(&mut self, writes: &[(Of, u8, Option<u8>)]) {
        let mut batch = WriteBatch::new();
        for (of, key, len) in writes {
            let key = key_of(*of, *key);
            match len {
                Some(len) => {
                    let value = self.value(usize::from(*len));
                    batch.on(&self.keyspace(*of)).insert(&key, &value);
                    self.models[*of as usize].insert(key, value);
                }
                None => {
                    batch.on(&self.keyspace(*of)).remove(&key);
                    self.models[*of as usize].remove(&key);
                }
            }
        }
        self.store().write(batch).expect("nothing fails");
        self.wrote();
    }

    /// Compares a range. A key that goes away in the middle of it may come or not; no other changes.
    fn range(&mut self, ends: [u8; 2], is_back: bool, removed: Option<u8>) {
        let [from, to] = [ends[0].min(ends[1]), ends[0].max(ends[1])].map(|key| key_of(Of::Ordered, key));
        let (from, to) = if from <= to { (from, to) } else { (to, from) };
        let ordered = self.keyspace(Of::Ordered);
        let mut expected: Vec<_> = self.models[1]
            .range(from.clone()..to.clone())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if is_back {
            expected.reverse();
        }
        let mut range = ordered.range(from..to);
        let mut next = || if is_back { range.next_back() } else { range.next() };
        let mut found: Vec<_> = std::iter::from_fn(&mut next).take(expected.len() / 2).collect();
        if let Some(removed) = removed.map(|key| key_of(Of::Ordered, key)) {
            ordered.remove(&removed).expect("nothing fails");
            self.models[1].remove(&removed);
            self.wrote();
            found.extend(std::iter::from_fn(&mut next));
            let mut found = items(found.into_iter());
            found.retain(|(key, _)| *key != removed);
            expected.retain(|(key, _)| *key != removed);
            assert_eq!(found, expected);
        } else {
            found.extend(std::iter::from_fn(&mut next));
            assert_eq!(items(found.into_iter()), expected);
        }
    }

    fn neighbours(&self, key: u8, limit: usize) {
        let (ordered, key) = (self.keyspace(Of::Ordered), key_of(Of::Ordered, key));
        let model = &self.models[1];
        let before = model.range(..key.clone()).next_back();
        let from: Vec<_> =
            model.range(key.clone()..).map(|(key, value)| (key.clone(), value.clone())).collect();
        let behind = from.iter().find(|(other, _)| *other != key).cloned();
        assert_eq!(item(ordered.get_lt(&key)), before.map(|(key, value)| (key.clone(), value.clone())));
        assert_eq!(item(ordered.get_ge(&key)), from.first().cloned());
        assert_eq!(item(ordered.get_gt(&key)), behind);
        let page = ordered.get_range(&key[..].., limit).expect("nothing is damaged");
        assert_eq!(items(page.into_iter().map(Ok)), from[..limit.min(from.len())]);
        let under: Vec<_> = from.iter().filter(|(other, _)| other.starts_with(&key)).cloned().collect();
        assert_eq!(items(ordered.prefix(&key)), under);
    }

    /// Commits a transaction unless `beside` has changed what it read. A write of an equal value is a
    /// change, too.
    fn transact(
        &mut self,
        reads: &[(Of, u8); 2],
        range: (u8, u8),
        write: (Of, u8),
        beside: Option<(Of, u8)>,
    ) {
        let mut transaction = self.store().begin();
        for (of, key) in reads {
            let key = key_of(*of, *key);
            let found = transaction.get(&self.keyspace(*of), &key).expect("nothing is damaged");
            assert_eq!(found.as_deref(), self.models[*of as usize].get(&key).map(Vec::as_slice));
        }
        let (one, other) = (key_of(Of::Ordered, range.0), key_of(Of::Ordered, range.1));
        let range = if one <= other { one..other } else { other..one };
        let count = transaction.count_range(&self.keyspace(Of::Ordered), range.clone());
        let expected = self.models[1].range(range.clone()).count() as u64;
        assert_eq!(count.expect("nothing is damaged"), expected);
        let mut is_conflict = false;
        if let Some((of, key)) = beside {
            self.insert(of, key, 5);
            let key = (of, key_of(of, key));
            is_conflict = reads.iter().any(|(of, read)| key == (*of, key_of(*of, *read)))
                || of == Of::Ordered && range.contains(&key.1);
        }
        let (key, value) = (key_of(write.0, write.1), self.value(4));
        transaction.insert(&self.keyspace(write.0), &key, &value).expect("nothing fails");
        match transaction.commit() {
            Ok(_) => {
                assert!(!is_conflict, "the commit must be refused");
                self.models[write.0 as usize].insert(key, value);
                self.wrote();
            }
            Err(Error::Conflict { .. }) => assert!(is_conflict, "nothing was changed"),
            Err(error) => panic!("{error}"),
        }
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
        let found = self.models();
        if is_now {
            assert!(self.past.contains(&found), "{found:?} is none of {:?}", self.past);
        }
        self.models = found;
        // The content after a cut is on the disk, or becomes durable before any later write counts.
        self.settle();
    }
}

/// Returns one of 80 keys of the default keyspace, or one of 256 of the ordered one. Some are prefixes
/// of others.
fn key_of(of: Of, key: u8) -> Vec<u8> {
    match of {
        Of::Plain => vec![key % 16; usize::from(key % 5)],
        Of::Ordered => {
            [&vec![7; usize::from(key % 3)], &[key / 8, key][usize::from(key.is_multiple_of(8))..]].concat()
        }
    }
}

type Item = (Vec<u8>, Vec<u8>);

fn items(items: impl Iterator<Item = Result<(Value, Value)>>) -> Vec<Item> {
    let owned = |(key, value): (Value, Value)| (key.to_vec(), value.to_vec());
    items.map(|item| owned(item.expect("nothing is damaged"))).collect()
}

fn item(found: Result<Option<(Value, Value)>>) -> Option<Item> {
    found.expect("nothing is damaged").map(|(key, value)| (key.to_vec(), value.to_vec()))
}
