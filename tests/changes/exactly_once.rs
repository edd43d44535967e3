//! A consumer that is killed as well as the writer. It stores its position in one batch with the
//! effect of the changes, and so applies each of them once.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use mapcask::{
    ChangeKind, Changes, Error, FeedPosition, Follower, Keyspace, Options, Since, Store, WriteBatch,
};

use crate::contents::Contents;
use crate::processes::{SEED, SOURCE, WRITER, spawn};

/// The name of the test that is the child.
const CONSUMER: &str = "exactly_once::child_consumes_until_it_is_killed";
const TARGET: &str = "MAPCASK_FEEDS_TARGET";

/// A copy of a store in another one.
struct Consumer {
    /// Its own keys are the position, and the number of the last change.
    target: Store,
    /// The name of each keyspace, by number.
    names: Keyspace,
    /// Every key behind the number of its keyspace.
    data: Keyspace,
    changes: Changes,
}

/// A change whose bytes are copied, because a batch takes effect as a whole.
enum Owned {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Name([u8; 4], String),
    Clear([u8; 4]),
    StateEnd,
}

fn key_of(id: [u8; 4], key: &[u8]) -> Vec<u8> {
    [&id, key].concat()
}

impl Owned {
    fn of(change: &mapcask::Change<'_>) -> Vec<Self> {
        let id = change.keyspace.id.to_le_bytes();
        match change.kind {
            ChangeKind::Insert { key, value } | ChangeKind::State { key, value } => {
                vec![Self::Insert(key_of(id, key), value.to_vec())]
            }
            ChangeKind::Remove { key } => vec![Self::Remove(key_of(id, key))],
            ChangeKind::Created { name } | ChangeKind::Renamed { name } => {
                vec![Self::Name(id, name.to_owned())]
            }
            ChangeKind::Cleared { before } => {
                let name = change.keyspace.name.unwrap().to_owned();
                vec![Self::Clear(before.to_le_bytes()), Self::Name(id, name)]
            }
            ChangeKind::Dropped => vec![Self::Clear(id)],
            ChangeKind::StateEnd => vec![Self::StateEnd],
            _ => panic!("{change:?}"),
        }
    }
}

impl Consumer {
    fn open(source: &Path, target: &Path) -> Self {
        let target = Options::new().segment_bytes(64 << 10).open(target).unwrap();
        let [names, data] = ["names", "data"].map(|name| target.keyspace(name).unwrap());
        let since = match target.get("position").unwrap() {
            Some(bytes) => FeedPosition::from_bytes(&bytes).unwrap().into(),
            None => Since::State,
        };
        let changes = Changes::open(source, since).unwrap();
        Self { target, names, data, changes }
    }

    /// Applies the next batch, and waits for it. Returns false if the time is over.
    fn apply_next(&mut self, source: &Path, patience: Duration) -> bool {
        let mut pending = Vec::new();
        let seq = loop {
            match self.changes.next_within(patience) {
                Ok(Some(change)) => {
                    pending.extend(Owned::of(&change));
                    if !change.more {
                        break change.seq.0;
                    }
                }
                Ok(None) => {
                    assert!(pending.is_empty(), "a batch is never seen in part");
                    return false;
                }
                Err(Error::Lagged { .. }) => {
                    pending.clear();
                    self.changes = Changes::open(source, Since::State).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        };
        self.apply(pending, seq);
        true
    }

    fn apply(&self, pending: Vec<Owned>, seq: u64) {
        let last = self.target.get("last").unwrap().map_or(0, |bytes| number(&bytes));
        let is_state = matches!(pending.last(), Some(Owned::StateEnd));
        assert!(seq > last || is_state && seq >= last, "{seq} comes after {last}");
        let mut batch = WriteBatch::new();
        if is_state {
            self.remove_all(&mut batch, &[]);
        }
        for change in pending {
            match change {
                Owned::Insert(key, value) => drop(batch.on(&self.data).insert(key, value)),
                Owned::Remove(key) => drop(batch.on(&self.data).remove(key)),
                Owned::Name(id, name) => drop(batch.on(&self.names).insert(id, name)),
                Owned::Clear(id) => self.remove_all(&mut batch, &id),
                Owned::StateEnd => {}
            }
        }
        batch.insert("last", seq.to_le_bytes());
        batch.insert("position", self.changes.position().to_bytes());
        self.target.write(&batch).unwrap();
    }

    /// Removes the keys and names that begin with the number of a keyspace.
    fn remove_all(&self, batch: &mut WriteBatch, id: &[u8]) {
        for part in [&self.data, &self.names] {
            for key in part.keys().map(Result::unwrap).filter(|key| key.starts_with(id)) {
                batch.on(part).remove(&*key);
            }
        }
    }

    /// Returns the copy by the names of keyspaces. The default one is never created.
    fn contents(&self) -> Contents {
        let mut contents = Contents::from([(String::new(), BTreeMap::new())]);
        let mut names = BTreeMap::new();
        for (id, name) in self.names.iter().map(Result::unwrap) {
            let name = String::from_utf8(name.to_vec()).unwrap();
            contents.entry(name.clone()).or_default();
            assert_eq!(names.insert(id.to_vec(), name), None);
        }
        for (key, value) in self.data.iter().map(Result::unwrap) {
            let (id, key) = key.split_at(4);
            let name = names.get(id).cloned().unwrap_or_default();
            contents.get_mut(&name).unwrap().insert(key.to_vec(), value.to_vec());
        }
        contents
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Returns what a store holds that no process writes to.
fn held(source: &Path) -> Contents {
    let follower = Follower::open(source).unwrap();
    let map = |reader: &mapcask::Reader| {
        reader.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };
    let mut all = Contents::from([(String::new(), map(&follower))]);
    for name in follower.keyspace_names() {
        all.insert(name.clone(), map(&follower.keyspace(&name).unwrap()));
    }
    all
}

/// Applies changes, and prints a line for each batch. A part of a child.
#[test]
fn child_consumes_until_it_is_killed() {
    let (Some(source), Some(target)) = (std::env::var_os(SOURCE), std::env::var_os(TARGET)) else { return };
    let mut consumer = Consumer::open(source.as_ref(), target.as_ref());
    let mut output = std::io::stdout();
    while consumer.apply_next(source.as_ref(), Duration::from_secs(60)) {
        output.write_all(b"@ applied\n").unwrap();
    }
}

/// Applies what is left, and compares with the store.
fn compare(source: &Path, target: &Path, round: u64) {
    let mut consumer = Consumer::open(source, target);
    while consumer.apply_next(source, Duration::ZERO) {}
    let (found, expected) = (consumer.contents(), held(source));
    assert!(found == expected, "round {round}: {:?}, expected {:?}", found.keys(), expected.keys());
    consumer.target.close().unwrap();
}

#[test]
fn consumer_that_is_killed_applies_each_change_once() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [source, target] = ["source", "target"].map(|name| scratch.path().join(name));
    Options::new().open(&source).unwrap().close().unwrap();
    let seed = std::env::var("MAPCASK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("MAPCASK_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    // Each round kills a writer and two consumers.
    for round in 0..crate::cases(20) {
        let mut writer =
            spawn(WRITER, &[(SOURCE, source.as_os_str()), (SEED, rng.u32(..).to_string().as_ref())]);
        writer.wait_for("@ open");
        for is_last in [false, true] {
            let mut consumer = spawn(CONSUMER, &[(SOURCE, source.as_os_str()), (TARGET, target.as_os_str())]);
            // The consumer decides the moment.
            for _ in 0..rng.u32(1..150) {
                consumer.wait_for("@ applied");
            }
            if is_last && rng.bool() {
                writer.kill();
            }
            consumer.kill();
        }
        writer.kill();
        compare(&source, &target, round);
        if round % 3 == 0 {
            Options::new().open(&source).unwrap().close().unwrap();
            compare(&source, &target, round);
        }
    }
}
