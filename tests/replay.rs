//! Tests the parallel replay of a long log.
//!
//! Several threads read segments ahead of the one that fills the indexes. The result must not
//! differ.

#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mapcask::{Error, Options, Store, WriteBatch};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// The number of bytes from which recovery uses threads.
const MUCH: u64 = 4 << 20;

type Map = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

#[derive(Debug, Clone)]
enum Operation {
    Insert(usize, Vec<u8>, Vec<u8>),
    Remove(usize, Vec<u8>),
    /// Inserts several pairs at once, into two keyspaces.
    Batch(Vec<(usize, Vec<u8>, Vec<u8>)>),
    Clear(usize),
    Replace(usize),
}

impl Operation {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let key = |random: &mut fastrand::Rng| random.u32(0..6000).to_le_bytes().to_vec();
        let value = |random: &mut fastrand::Rng| vec![random.u8(..); random.usize(0..500)];
        let name = random.usize(0..NAMES.len());
        match random.u32(0..10_000) {
            0 => Self::Clear(name),
            1 => Self::Replace(name),
            2..500 => {
                let count = random.usize(1..20);
                Self::Batch((0..count).map(|_| (random.usize(0..2), key(random), value(random))).collect())
            }
            500..2500 => Self::Remove(name, key(random)),
            _ => Self::Insert(name, key(random), value(random)),
        }
    }

    fn apply(&self, store: &Store, map: &mut Map) {
        match self {
            Self::Insert(name, key, value) => {
                store.keyspace(NAMES[*name]).unwrap().insert(key, value).unwrap();
            }
            Self::Remove(name, key) => {
                store.keyspace(NAMES[*name]).unwrap().remove(key).unwrap();
            }
            Self::Batch(writes) => {
                let mut batch = WriteBatch::new();
                for (name, key, value) in writes {
                    batch.on(&store.keyspace(NAMES[*name]).unwrap()).insert(key, value);
                }
                store.write(&batch).unwrap();
            }
            Self::Clear(name) => drop(store.keyspace(NAMES[*name]).unwrap().clear().unwrap()),
            Self::Replace(name) => {
                store.drop_keyspace(NAMES[*name]).unwrap();
                store.keyspace(NAMES[*name]).unwrap();
            }
        }
        self.apply_to(map);
    }

    fn apply_to(&self, map: &mut Map) {
        match self {
            Self::Insert(name, key, value) => drop(map.insert((*name, key.clone()), value.clone())),
            Self::Remove(name, key) => drop(map.remove(&(*name, key.clone()))),
            Self::Batch(writes) => {
                for (name, key, value) in writes {
                    map.insert((*name, key.clone()), value.clone());
                }
            }
            Self::Clear(cleared) | Self::Replace(cleared) => map.retain(|(name, _), _| name != cleared),
        }
    }
}

/// A store, its content, and each operation with the last sequence number after it.
struct Written {
    directory: tempfile::TempDir,
    store: Store,
    map: Map,
    done: Vec<(u64, Operation)>,
}

fn options() -> Options {
    Options::new().segment_bytes(1 << 20).background(false)
}

/// Writes a store. Nothing is durable, except by the compactions that `compacted` asks for.
fn written(seed: u64, compacted: bool) -> Written {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = options().open(directory.path().join("store")).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut map, mut done) = (Map::new(), Vec::new());
    for count in 0..40_000 {
        let operation = Operation::draw(&mut random);
        operation.apply(&store, &mut map);
        done.push((store.last_seq().0, operation));
        if compacted && count % 15_000 == 14_999 {
            assert!(store.compact().unwrap().bytes_moved > 0);
        }
    }
    Written { directory, store, map, done }
}

/// Makes a copy of the files, as a kill would leave them.
fn killed(written: &Written, name: &str) -> PathBuf {
    let to = written.directory.path().join(name);
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(written.directory.path().join("store")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

fn content(store: &Store) -> Map {
    let mut map = Map::new();
    for (number, name) in NAMES.iter().enumerate() {
        for item in &store.keyspace(name).unwrap() {
            let (key, value) = item.unwrap();
            map.insert((number, Vec::from(key)), Vec::from(value));
        }
    }
    map
}

/// Returns the segments by number, which is the order of the log where nothing was compacted.
fn segments(path: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    segments
}

/// Damages the record in the middle of a segment.
fn damage(segment: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    // The damage is longer than the longest record.
    let middle = file.metadata().unwrap().len() / 2;
    file.write_all_at(&[0xff; 4096], middle).unwrap();
}

#[test]
fn parallel_replay_restores_content_and_live_bytes() {
    for (seed, compacted) in [(1, false), (2, true)] {
        let written = written(seed, compacted);
        let before = written.store.stats();
        let path = killed(&written, "killed");
        for again in [false, true] {
            let store = options().open(&path).unwrap();
            let report = store.recovery_report();
            assert!(again || report.bytes_read > MUCH, "{report:?}");
            assert!(content(&store) == written.map, "seed {seed}");
            assert_eq!(report.keys, written.map.len());
            let stats = store.stats();
            assert_eq!((stats.keys, stats.live_bytes), (before.keys, before.live_bytes));
            let live: u64 = NAMES
                .map(|name| store.keyspace(name).unwrap().keyspace_stats().unwrap().live_bytes)
                .iter()
                .sum();
            assert_eq!(live, before.live_bytes);
            assert_eq!(store.verify().unwrap().keys, report.keys as u64);
            store.close().unwrap();
        }
    }
}

/// Returns a key of one of three shapes: random, long with common beginnings, short or long or full of zeros.
fn ordered_key(shape: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    match shape {
        0 => random.u128(..).to_le_bytes().to_vec(),
        1 => {
            let numbers = (random.u32(..12), random.u32(..30), random.u32(..200));
            format!(
                "tenant-{:05}/project-{:04}/objects/2026/11/{:012x}/file",
                numbers.0, numbers.1, numbers.2
            )
            .into_bytes()
        }
        _ => match random.u8(..3) {
            0 => vec![0; random.usize(..40)],
            1 => (0..random.usize(..14)).map(|_| random.u8(..2)).collect(),
            _ => [vec![b'k'; random.usize(..1000)], random.u16(..).to_le_bytes().to_vec()].concat(),
        },
    }
}

/// Several threads sort the records of an ordered keyspace. A tree of random keys is then built of leaves that
/// are fuller than those of inserts in the order of the log.
#[test]
fn parallel_replay_restores_the_order_of_keys() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = options().open(directory.path().join("store")).unwrap();
    let keyspaces = NAMES.map(|name| store.ordered_keyspace(name).unwrap());
    let mut random = fastrand::Rng::with_seed(6);
    let mut map = Map::new();
    for _ in 0..60_000 {
        let shape = random.usize(..3);
        let key = ordered_key(shape, &mut random);
        // Those of random keys have no tombstones.
        if shape > 0 && random.u8(..4) == 0 {
            keyspaces[shape].remove(&key).unwrap();
            map.remove(&(shape, key));
        } else {
            let value = vec![random.u8(..); random.usize(..100)];
            keyspaces[shape].insert(&key, &value).unwrap();
            map.insert((shape, key), value);
        }
    }
    let written = Written { directory, store, map, done: Vec::new() };
    let before = written.store.stats();
    let store = options().open(killed(&written, "killed")).unwrap();
    assert!(store.recovery_report().bytes_read > MUCH, "{:?}", store.recovery_report());
    let mut found = Vec::new();
    for (number, name) in NAMES.iter().enumerate() {
        for item in store.ordered_keyspace(name).unwrap().range::<&[u8]>(..) {
            let (key, value) = item.unwrap();
            found.push(((number, Vec::from(key)), Vec::from(value)));
        }
    }
    assert!(found.into_iter().eq(written.map.clone()), "in order, and each key once");
    let stats = store.stats();
    assert_eq!((stats.keys, stats.live_bytes), (before.keys, before.live_bytes));
    assert_eq!(store.verify().unwrap().keys, written.map.len() as u64);
    let of_random = store.ordered_keyspace(NAMES[0]).unwrap().keyspace_stats().unwrap();
    let bytes = of_random.index_bytes as f64 / of_random.keys as f64;
    assert!(bytes < 12.0, "{bytes} bytes of index for each key");
}

#[test]
fn records_behind_a_hole_never_count_even_if_read_ahead() {
    let written = written(3, false);
    let count = segments(&killed(&written, "whole")).len();
    assert!(count > 8);
    for at in [0, count / 2, count - 3] {
        let path = killed(&written, &at.to_string());
        damage(&segments(&path)[at]);
        let store = options().open(&path).unwrap();
        let report = store.recovery_report();
        assert!(report.quarantined_records > 0 && !report.quarantined.is_empty(), "{report:?}");
        let mut map = Map::new();
        let done = written.done.iter().take_while(|(seq, _)| *seq <= report.last_seq);
        done.for_each(|(_, operation)| operation.apply_to(&mut map));
        assert!(content(&store) == map, "segment {at}");
        assert!(at == 0 || !map.is_empty());
        assert_eq!((store.verify().unwrap().keys, report.keys), (map.len() as u64, map.len()));
    }
}

#[test]
fn damage_in_a_durable_segment_is_an_error_that_names_it() {
    let written = written(4, true);
    written.store.flush().unwrap();
    let names = segments(&killed(&written, "whole"));
    for at in [0, names.len() / 2, names.len() - 2] {
        let path = killed(&written, &at.to_string());
        let damaged = &segments(&path)[at];
        damage(damaged);
        let error = options().open(&path).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { path, .. } if path == damaged), "{error:?}");
    }
}

#[test]
fn a_segment_that_cannot_be_read_to_its_end_is_an_error() {
    let written = written(5, false);
    written.store.flush().unwrap();
    let path = killed(&written, "cut");
    let segment = &segments(&path)[5];
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(1 << 19).unwrap();
    let error = options().open(&path).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path == segment), "{error:?}");
}

/// The variable that names the store for the process that may open few files.
const STORE: &str = "MAPCASK_REPLAY_STORE";

#[test]
fn child_opens_a_store_with_few_descriptors() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = Options::new().segment_bytes(4096).background(false).open(path).unwrap();
    assert_eq!(store.len(), 1000);
}

/// Sealed segments of the log and of compaction are read through descriptors that are closed at
/// once. Segments that a checkpoint covers keep none.
#[test]
#[cfg(target_os = "linux")]
fn an_open_needs_few_descriptors_whatever_it_reads() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("store");
    let store = Options::new().segment_bytes(4096).background(false).open(&path).unwrap();
    let fill = |from: u32, step: usize| {
        for number in (from..1000).step_by(step) {
            store.insert(number.to_le_bytes(), [1; 1400]).unwrap();
        }
        store.flush().unwrap();
    };
    fill(0, 2);
    fill(1, 2);
    fill(0, 4);
    assert!(store.compact().unwrap().bytes_moved > 100 * 1400);
    assert!(store.stats().segments > 150);
    let written = Written { directory, store, map: Map::new(), done: Vec::new() };
    let killed = killed(&written, "killed");
    written.store.close().unwrap();
    let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        names.into_iter().any(|name| name.to_string_lossy().starts_with("INDEX-")),
        "one of them has an image"
    );
    for path in [path, killed] {
        let mut command = std::process::Command::new("sh");
        command.args([
            "-c",
            "ulimit -n 32 && exec \"$0\" --exact child_opens_a_store_with_few_descriptors --test-threads=1",
        ]);
        let output = command.arg(std::env::current_exe().unwrap()).env(STORE, &path).output().unwrap();
        assert!(output.status.success(), "{path:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }
}

/// Cause: one key without the beginning that all others share made the bytes that were compared equal, and
/// equal ones counted as ascending. Symptom: random keys filled their leaves, so the next inserts split all of them.
#[test]
fn replay_leaves_room_in_the_leaves_of_random_keys() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = options().open(directory.path().join("store")).unwrap();
    let keyspace = store.ordered_keyspace(NAMES[0]).unwrap();
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..20_000 {
        keyspace.insert(format!("tenant/users/{:016x}", random.u64(..)), b"").unwrap();
    }
    keyspace.insert("a", b"").unwrap();
    let written = Written { directory, store, map: Map::new(), done: Vec::new() };
    let store = options().open(killed(&written, "killed")).unwrap();
    let stats = store.ordered_keyspace(NAMES[0]).unwrap().keyspace_stats().unwrap();
    assert_eq!(stats.keys, 20_001);
    let bytes = stats.index_bytes as f64 / stats.keys as f64;
    assert!(bytes > 10.0, "{bytes} bytes of index for each key");
}
