//! Fuzzes the blocks of a tree in an index checkpoint, with right checksums: every read and write ends,
//! with an error or with values that were once written.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mapcask::format::checkpoint::{
    BLOCK_LEN, CheckpointKeyspace, FRAME_SIZE, IndexCheckpoint, IndexKind, frame_sum,
};
use mapcask::sim::SimDisk;
use mapcask::{Keyspace, Options, Result, Store, Value};
use mapcask_fuzz::mend_file_sum;

/// The keys of the store, in groups with a common prefix, so that separators are long and two levels of
/// inner nodes are there.
const KEYS: u16 = 400;
const GROUP: u16 = 100;
const PREFIX_LEN: usize = 400;

#[derive(Debug, Arbitrary)]
struct Input {
    edits: Vec<Edit>,
    reads_first: bool,
    operations: Vec<Operation>,
}

/// An edit of the checkpoint, whose checksums are corrected.
#[derive(Debug, Arbitrary)]
enum Edit {
    /// Writes a word of a block.
    Word {
        block: u8,
        word: u16,
        value: u64,
    },
    FlipBit {
        block: u8,
        word: u16,
        bit: u8,
    },
    /// Copies a word to another place, of another block or of the same one.
    CopyWord {
        from: (u8, u16),
        to: (u8, u16),
    },
    CopyBlock {
        from: u8,
        to: u8,
    },
    Bytes {
        block: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    /// Flips a bit of the front: numbers of keys, of nodes, the root.
    Front {
        at: u8,
        bit: u8,
    },
}

#[derive(Debug, Arbitrary)]
enum Operation {
    Get(u16),
    Neighbours(u16),
    Range { from: u16, to: u16, is_back: bool },
    Page { from: u16, limit: u8 },
    Count { from: u16, to: u16 },
    Snapshot { from: u16 },
    Insert(u16),
    Remove(u16),
    Pop { is_first: bool },
    Verify,
    Checkpoint,
}

/// A closed store with a tree in its checkpoint.
struct Closed {
    disk: SimDisk,
    name: String,
    bytes: Vec<u8>,
    /// The place of the first frame, and the number that each frame's checksum covers.
    front_len: usize,
    nonce: u64,
}

static CLOSED: LazyLock<Closed> = LazyLock::new(|| {
    let disk = SimDisk::with_seed(5);
    let store = options().open_on(&disk).expect("a new simulated disk does not fail");
    let keyspace = store.ordered_keyspace("ordered").expect("it is new");
    for n in 0..KEYS {
        // Not in their order, so that leaves split everywhere.
        let n = (u32::from(n) * 7919 % u32::from(KEYS)) as u16;
        keyspace.insert(key(n), value(n)).expect("nothing fails");
    }
    assert!(store.take_checkpoint().expect("nothing fails"));
    drop(keyspace);
    store.close().expect("nothing fails");
    let is_checkpoint = |name: &String| name.starts_with("INDEX-") && !name.ends_with(".tmp");
    let name = disk.files().into_iter().find(is_checkpoint).expect("it was taken");
    let bytes = disk.read_file(&name).expect("it is listed");
    let front_len = IndexCheckpoint::front_len(&bytes, bytes.len() as u64).expect("it is whole");
    let front = IndexCheckpoint::decode(&bytes, bytes.len() as u64).expect("it is whole");
    let has_two_levels =
        |of: &CheckpointKeyspace| matches!(of.table.kind, IndexKind::Tree { level: 2.., .. });
    assert!(front.keyspaces.iter().any(has_two_levels), "a root leads to inner nodes");
    Closed { disk, name, bytes, front_len, nonce: front.nonce }
});

fn options() -> Options {
    Options::new().background(false).segment_bytes(32 << 10)
}

fn key(n: u16) -> Vec<u8> {
    let mut key = vec![(n / GROUP) as u8; PREFIX_LEN];
    key.extend((n % GROUP).to_be_bytes());
    key
}

fn value(n: u16) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

impl Closed {
    fn blocks(&self) -> usize {
        (self.bytes.len() - self.front_len) / FRAME_SIZE
    }

    /// Returns the place of a word in the file.
    fn word(&self, (block, word): (u8, u16)) -> usize {
        self.block(block) + usize::from(word) % (BLOCK_LEN / 8) * 8
    }

    /// Returns the place of a block in the file.
    fn block(&self, block: u8) -> usize {
        self.front_len + usize::from(block) % self.blocks() * FRAME_SIZE
    }

    fn edit(&self, bytes: &mut [u8], edit: &Edit) {
        match edit {
            Edit::Word { block, word, value } => {
                bytes[self.word((*block, *word))..][..8].copy_from_slice(&value.to_le_bytes());
            }
            Edit::FlipBit { block, word, bit } => {
                bytes[self.word((*block, *word)) + usize::from(bit / 8 % 8)] ^= 1 << (bit % 8);
            }
            Edit::CopyWord { from, to } => {
                let from = self.word(*from);
                bytes.copy_within(from..from + 8, self.word(*to));
            }
            Edit::CopyBlock { from, to } => {
                let from = self.block(*from);
                bytes.copy_within(from..from + BLOCK_LEN, self.block(*to));
            }
            Edit::Bytes { block, at, bytes: new } => {
                let at = usize::from(*at) % BLOCK_LEN;
                let len = new.len().min(BLOCK_LEN - at);
                bytes[self.block(*block) + at..][..len].copy_from_slice(&new[..len]);
            }
            Edit::Front { at, bit } => {
                // The fields behind magic, versions, checksum and lengths, from the end, where the
                // keyspaces are.
                let fields = self.front_len - 64;
                bytes[self.front_len - 1 - usize::from(*at) % fields] ^= 1 << (bit % 8);
            }
        }
    }

    /// Returns the disk of the store with an edited checkpoint.
    fn edited(&self, edits: &[Edit]) -> SimDisk {
        let mut bytes = self.bytes.clone();
        edits.iter().for_each(|edit| self.edit(&mut bytes, edit));
        mend_file_sum(&mut bytes[..self.front_len]);
        for (number, frame) in bytes[self.front_len..].chunks_exact_mut(FRAME_SIZE).enumerate() {
            let sum = frame_sum(self.nonce, number as u64, &frame[..BLOCK_LEN]);
            frame[BLOCK_LEN..].copy_from_slice(&sum.to_le_bytes());
        }
        let disk = SimDisk::with_seed(6);
        for name in self.disk.files() {
            disk.put_file(&name, &self.disk.read_file(&name).expect("it is listed"));
        }
        disk.put_file(&self.name, &bytes);
        disk
    }
}

fuzz_target!(|input: Input| {
    let closed = &*CLOSED;
    let edits = &input.edits[..input.edits.len().min(12)];
    let disk = closed.edited(edits);
    let is_whole = edits.is_empty();
    let Ok(store) = options().open_on(&disk) else {
        assert!(!is_whole, "an undamaged store opens");
        return;
    };
    let report = store.recovery_report();
    assert!(!is_whole || report.checkpoint_seq.is_some(), "the blocks are used: {report:?}");
    let Ok(keyspace) = store.ordered_keyspace("ordered") else {
        assert!(!is_whole, "the keyspace is there");
        return;
    };
    let mut run = Run { store, keyspace, written: written(), is_whole };
    if input.reads_first {
        run.all();
    }
    for operation in input.operations.iter().take(32) {
        run.carry_out(operation);
    }
    run.all();
});

/// Returns every value that each key ever had.
fn written() -> BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> {
    (0..KEYS).map(|n| (key(n), BTreeSet::from([value(n)]))).collect()
}

struct Run {
    store: Store,
    keyspace: Keyspace,
    written: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    is_whole: bool,
}

impl Run {
    fn check(&self, key: &[u8], value: &[u8]) {
        let is_known = self.written.get(key).is_some_and(|values| values.contains(value));
        assert!(is_known, "{key:?} never was {value:?}");
    }

    fn check_item(&self, found: Result<Option<(Value, Value)>>) {
        if let Some(Some((key, value))) = self.judged(found) {
            self.check(&key, &value);
        }
    }

    /// Returns what a call returned, `None` for an error of a damaged store.
    fn judged<T>(&self, found: Result<T>) -> Option<T> {
        assert!(!self.is_whole || found.is_ok(), "{:?}", found.err());
        found.ok()
    }

    /// Checks the items of an iterator, of which there are not many more than keys.
    fn check_all(&self, items: impl Iterator<Item = Result<(Value, Value)>>) -> usize {
        let mut count = 0;
        for item in items {
            let Some((key, value)) = self.judged(item) else { break };
            self.check(&key, &value);
            count += 1;
            assert!(count <= 2 * self.written.len(), "iteration ends");
        }
        count
    }

    fn all(&self) {
        let forward = self.check_all(self.keyspace.range::<&[u8]>(..));
        let back = self.check_all(self.keyspace.range::<&[u8]>(..).rev());
        if self.is_whole {
            assert_eq!([forward, back], [self.keyspace.len(); 2]);
        }
        for key in self.written.keys().step_by(17) {
            if let Some(Some(value)) = self.judged(self.keyspace.get(key)) {
                self.check(key, &value);
            }
        }
    }

    fn carry_out(&mut self, operation: &Operation) {
        let keyspace = &self.keyspace;
        let bounds = |from: &u16, to: &u16| {
            let (from, to) = (from % KEYS, to % KEYS);
            (Bound::Included(key(from.min(to))), Bound::Excluded(key(from.max(to))))
        };
        match operation {
            Operation::Get(n) => {
                let key = key(n % KEYS);
                if let Some(Some(value)) = self.judged(keyspace.get(&key)) {
                    self.check(&key, &value);
                }
            }
            Operation::Neighbours(n) => {
                let key = key(n % KEYS);
                self.check_item(keyspace.get_lt(&key));
                self.check_item(keyspace.get_ge(&key));
                self.check_item(keyspace.first_key_value());
                self.check_item(keyspace.last_key_value());
            }
            Operation::Range { from, to, is_back: false } => {
                self.check_all(keyspace.range(bounds(from, to)));
            }
            Operation::Range { from, to, is_back: true } => {
                self.check_all(keyspace.range(bounds(from, to)).rev());
            }
            Operation::Page { from, limit } => {
                let page = keyspace.get_range(key(from % KEYS).., usize::from(*limit));
                self.check_all(self.judged(page).into_iter().flatten().map(Ok));
            }
            Operation::Count { from, to } => drop(self.judged(keyspace.count_range(bounds(from, to)))),
            Operation::Snapshot { from } => {
                let snapshot = self.judged(self.store.snapshot().keyspace("ordered"));
                if let Some(snapshot) = snapshot {
                    self.check_all(snapshot.range(key(from % KEYS)..).take(50));
                }
            }
            Operation::Insert(n) => self.insert(*n),
            Operation::Remove(n) => drop(self.judged(keyspace.remove(key(n % KEYS)))),
            Operation::Pop { is_first: true } => self.check_item(keyspace.pop_first()),
            Operation::Pop { is_first: false } => self.check_item(keyspace.pop_last()),
            Operation::Verify => drop(self.judged(self.store.verify())),
            Operation::Checkpoint => drop(self.judged(self.store.take_checkpoint())),
        }
    }

    /// Overwrites a key, or puts a new one behind it.
    fn insert(&mut self, n: u16) {
        let mut key = key(n % KEYS);
        if n >= KEYS {
            key.extend(n.to_be_bytes());
        }
        let value = [&n.to_le_bytes()[..], b"new"].concat();
        self.written.entry(key.clone()).or_default().insert(value.clone());
        let inserted = self.keyspace.insert(&key, &value);
        if self.judged(inserted).is_some()
            && let Some(found) = self.judged(self.keyspace.get(&key))
        {
            assert_eq!(found.as_deref(), Some(&*value), "what was just written can be read");
        }
    }
}
