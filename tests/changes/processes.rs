//! A consumer in this process, beside a writer in another one that is killed again and again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;

use mapcask::{ChangeKind, Changes, Error, FeedPosition, Follower, Options, Since, WriteBatch};

/// The name of the test that is a writer.
pub(crate) const WRITER: &str = "processes::child_writes_until_it_is_killed";
pub(crate) const SOURCE: &str = "MAPCASK_FEEDS_STORE";
pub(crate) const SEED: &str = "MAPCASK_FEEDS_SEED";

/// The contents by the number of the keyspace.
type Copy = BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A process that runs a test of this suite. It is killed at the end.
pub(crate) struct Child {
    process: std::process::Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// Starts a test as another process.
pub(crate) fn spawn(test: &str, variables: &[(&str, &OsStr)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().copied()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let output = BufReader::new(process.stdout.take().unwrap()).lines();
    Child { process, output }
}

impl Child {
    /// Waits until it prints a line with this end.
    pub(crate) fn wait_for(&mut self, end: &str) {
        assert!(self.output.any(|line| line.unwrap().ends_with(end)), "it ends before it prints {end}");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After a failed assertion.
        self.kill();
    }
}

/// Writes at full speed, with compaction in the background, and with one pass after the other in one
/// of three processes. A part of a child.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(SOURCE).filter(|_| std::env::var_os(SEED).is_some()) else { return };
    let mut rng = fastrand::Rng::with_seed(std::env::var(SEED).unwrap().parse().unwrap());
    let keep = if rng.bool() { 100_000 } else { 0 };
    let store = Arc::new(Options::new().segment_bytes(16 << 10).keep_changes(keep).open(path).unwrap());
    if rng.u32(0..3) == 0 {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            loop {
                store.compact().unwrap();
            }
        });
    }
    println!("@ open");
    std::io::stdout().flush().unwrap();
    loop {
        let other = store.keyspace(&format!("{}", rng.u32(0..3))).unwrap();
        for _ in 0..rng.u32(0..40) {
            other.insert([rng.u8(0..40)], vec![rng.u8(..); rng.usize(0..400)]).unwrap();
            let mut batch = WriteBatch::new();
            // The sum of the two is always zero.
            let amount = rng.i64(-100..100);
            batch.insert("plus", amount.to_le_bytes());
            batch.insert("minus", (-amount).to_le_bytes());
            batch.on(&other).remove([rng.u8(0..40)]);
            store.write(&batch).unwrap();
        }
        match rng.u32(0..12) {
            0 => drop(other.clear().unwrap()),
            1 => drop(store.drop_keyspace(&other.name()).unwrap()),
            2..4 => drop(store.rename_keyspace(&other.name(), &format!("{}", rng.u32(0..3)))),
            4 if rng.bool() => drop(store.clear().unwrap()),
            _ => {}
        }
    }
}

/// A consumer, as a program would write it.
struct Consumer {
    changes: Changes,
    copy: Copy,
    position: FeedPosition,
    lagged: u64,
    batches: u64,
}

/// A change whose bytes are copied, because a batch takes effect as a whole.
enum Owned {
    Insert(u32, Vec<u8>, Vec<u8>),
    Remove(u32, Vec<u8>),
    Clear(u32),
    Nothing,
}

impl Consumer {
    fn poll(&mut self, path: &Path) {
        let mut pending = Vec::new();
        let mut is_state = false;
        loop {
            let change = match self.changes.next() {
                Ok(Some(change)) => change,
                Ok(None) => break,
                Err(Error::Lagged { .. }) => {
                    self.lagged += 1;
                    pending.clear();
                    self.changes = Changes::open(path, Since::State).unwrap();
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let id = change.keyspace.id;
            pending.push(match change.kind {
                ChangeKind::Insert { key, value } | ChangeKind::State { key, value } => {
                    Owned::Insert(id, key.to_vec(), value.to_vec())
                }
                ChangeKind::Remove { key } => Owned::Remove(id, key.to_vec()),
                ChangeKind::Cleared { before } => Owned::Clear(before),
                ChangeKind::Dropped => Owned::Clear(id),
                ChangeKind::StateEnd => {
                    is_state = true;
                    Owned::Nothing
                }
                _ => Owned::Nothing,
            });
            if !change.more {
                self.apply(std::mem::take(&mut pending), std::mem::take(&mut is_state));
            }
        }
        assert!(pending.is_empty(), "a batch is never seen in part");
    }

    fn apply(&mut self, pending: Vec<Owned>, is_state: bool) {
        if is_state {
            self.copy.clear();
        }
        for change in pending {
            match change {
                Owned::Insert(id, key, value) => drop(self.copy.entry(id).or_default().insert(key, value)),
                Owned::Remove(id, key) => drop(self.copy.entry(id).or_default().remove(&key)),
                Owned::Clear(id) => drop(self.copy.remove(&id)),
                Owned::Nothing => {}
            }
        }
        self.batches += 1;
        self.position = self.changes.position();
        let amounts =
            self.copy.values().find_map(|map| Some((map.get(&b"plus"[..])?, map.get(&b"minus"[..])?)));
        if let Some((plus, minus)) = amounts {
            let of = |bytes: &Vec<u8>| i64::from_le_bytes(bytes.as_slice().try_into().unwrap());
            assert_eq!(of(plus) + of(minus), 0);
        }
    }

    /// Compares with a full scan. No process writes.
    fn compare(&mut self, path: &Path) {
        self.poll(path);
        let follower = Follower::open(path).unwrap();
        let names = [String::new()].into_iter().chain(follower.keyspace_names());
        let mut expected: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = Vec::new();
        for name in names {
            let reader =
                if name.is_empty() { (*follower).clone() } else { follower.keyspace(&name).unwrap() };
            let items = reader.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())));
            expected.push(items.collect::<Result<_, _>>().unwrap());
        }
        let mut found: Vec<_> = self.copy.values().filter(|map| !map.is_empty()).cloned().collect();
        expected.retain(|map| !map.is_empty());
        found.sort_unstable();
        expected.sort_unstable();
        assert!(
            found == expected,
            "at {}: {} maps, expected {}",
            follower.last_seq(),
            found.len(),
            expected.len()
        );
    }
}

#[test]
fn consumer_has_the_contents_after_every_kill_of_the_writer() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().join("store");
    Options::new().open(&path).unwrap().close().unwrap();
    let seed = std::env::var("MAPCASK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("MAPCASK_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let changes = Changes::open(&path, Since::State).unwrap();
    let position = changes.position();
    let mut consumer = Consumer { changes, copy: Copy::new(), position, lagged: 0, batches: 0 };
    for round in 0..crate::cases(30) {
        let mut child =
            spawn(WRITER, &[(SOURCE, path.as_os_str()), (SEED, rng.u32(..).to_string().as_ref())]);
        child.wait_for("@ open");
        // The consumer decides the moment: after some of the batches, and sometimes it falls behind.
        let until = consumer.batches + rng.u64(1..400);
        while consumer.batches < until {
            if rng.u32(0..4) == 0 {
                consumer.changes = Changes::open(&path, consumer.position).unwrap();
            }
            consumer.poll(&path);
        }
        child.kill();
        consumer.compare(&path);
        if round % 3 == 0 {
            Options::new().open(&path).unwrap().close().unwrap();
            consumer.compare(&path);
        }
    }
    println!("{} batches, {} lags", consumer.batches, consumer.lagged);
}
