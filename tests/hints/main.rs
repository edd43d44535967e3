//! Opens that use hints instead of reading the log, on the simulated disk.
#![cfg(feature = "sim")]

mod crash;
mod damage;
mod waiting;

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Error, Keyspace, Options, Store};

/// Bytes of the log that a chunk of hints describes.
const CHUNK: u64 = 16 << 10;

fn options() -> Options {
    Options::new().background(false)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.set_hint_chunk(Some(CHUNK));
    disk
}

fn settle(store: &Store) {
    while store.step().expect("nothing fails here") {}
}

fn key(number: u32) -> [u8; 16] {
    let mut key = [7; 16];
    key[..4].copy_from_slice(&number.to_le_bytes());
    key
}

/// Writes `count` keys, lets the worker describe them, and kills the process.
fn killed(disk: &SimDisk, count: u32) -> SimDisk {
    let store = options().open_on(disk).expect("a new store");
    for number in 0..count {
        store.insert(key(number), [number.to_le_bytes(); 25].concat()).expect("there is room");
        if number % 64 == 0 {
            settle(&store);
        }
    }
    settle(&store);
    disk.kill()
}

fn check(store: &Store, count: u32) {
    for number in 0..count {
        let value = store.get(key(number)).expect("it is readable");
        assert_eq!(value.as_deref(), Some([number.to_le_bytes(); 25].concat().as_slice()), "{number}");
    }
    assert_eq!(store.get(key(count)).expect("it is readable"), None);
    assert_eq!(store.len(), count as usize);
    assert_eq!(store.iter().count(), count as usize);
}

fn hint_files(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().filter(|name| name.ends_with(".hint")).collect()
}

#[test]
fn open_after_a_kill_reads_one_chunk_at_every_size() {
    for count in [2000, 20_000] {
        let disk = killed(&disk(), count);
        let store = options().open_on(&disk).expect("it opens");
        let report = store.recovery_report();
        assert!(report.hinted_bytes > u64::from(count) * 100, "{report:?}");
        // The first segments are smaller than a part of a chunk, and each ends with less than one.
        assert!(report.bytes_read <= 2 * CHUNK, "{report:?}");
        assert_eq!(store.index_parts().1, 0, "{report:?}");
        assert!(store.contains_key(key(17)).expect("it is readable"));
        assert_eq!(store.index_parts().1, 1);
        check(&store, count);
    }
}

/// Cause: hints described the log only, so an open after a kill read all copies since the last checkpoint.
#[test]
fn open_after_a_kill_reads_no_copies_that_hints_describe() {
    let disk = disk();
    let options = || options().segment_bytes(64 << 10).compaction(false);
    let store = options().open_on(&disk).expect("a new store");
    let value = |number: u32, round: u8| [&number.to_le_bytes()[..], &[round; 90]].concat();
    let mut expected = BTreeMap::new();
    for (round, step) in [(0, 1), (1, 3), (2, 7)] {
        for number in (0..6000).step_by(step) {
            store.insert(key(number), value(number, round)).expect("there is room");
            expected.insert(key(number), value(number, round));
        }
    }
    for number in (0..6000).step_by(50) {
        assert_eq!(
            store.remove(key(number)).expect("there is room"),
            expected.remove(&key(number)).is_some()
        );
    }
    store.flush().expect("nothing fails here");
    settle(&store);
    let segments = |disk: &SimDisk| -> Vec<u64> {
        let files = disk.files().into_iter();
        files.filter_map(|name| name.strip_suffix(".seg").map(|id| id.parse().expect("a number"))).collect()
    };
    // The second pass moves copies of old records behind newer ones.
    for every in [2, 1] {
        let victims: Vec<_> = segments(&disk).into_iter().step_by(every).collect();
        assert_eq!(store.compact_segments(&victims, |_| true).expect("there is room").passes, 1);
        settle(&store);
    }
    let last = store.last_seq();
    let mut disk = disk.kill();
    for round in 3..5 {
        let store = options().open_on(&disk).expect("it opens");
        let report = store.recovery_report();
        // The log and the copies end with less than a chunk.
        assert!(report.bytes_read < 2 * CHUNK && report.hinted_bytes > 30 * CHUNK, "{report:?}");
        assert!(report.last_seq >= last.0, "{report:?} {last}");
        for (key, value) in &expected {
            assert_eq!(store.get(key).expect("it is readable").as_deref(), Some(value.as_slice()));
        }
        assert_eq!(store.len(), expected.len());
        store.verify().expect("it is whole");
        // The next open uses the hints again, and no number is given out twice.
        assert!(store.insert(key(1), value(1, round)).expect("there is room") > last);
        expected.insert(key(1), value(1, round));
        disk = disk.kill();
    }
    let store = options().open_on(&disk).expect("it opens");
    assert!(store.take_checkpoint().expect("there is room"));
    settle(&store);
    assert_eq!(hint_files(&disk), Vec::<String>::new(), "the checkpoint covers them");
}

#[test]
fn worker_completes_the_index_after_the_open() {
    let disk = killed(&disk(), 2000);
    let store = options().open_on(&disk).expect("it opens");
    assert!(store.index_parts().0 > 0);
    settle(&store);
    assert_eq!(store.index_parts().0, 0);
    check(&store, 2000);
}

/// Cause: in one step the worker provides four pieces of the log to a writer that is short of pages. With one
/// chunk of hints for them, an open after a long load had all of the load to read.
#[test]
fn worker_that_is_behind_with_hints_writes_more_in_a_step() {
    let records = |chunks: u64| u32::try_from(chunks * CHUNK / 176).expect("some hundred");
    for (chunks, described) in [(3, 1), (24, 16)] {
        let disk = disk();
        let store = options().open_on(&disk).expect("a new store");
        settle(&store);
        for number in 0..records(chunks) {
            store.insert(key(number), [number.to_le_bytes(); 25].concat()).expect("there is room");
        }
        assert!(store.step().expect("nothing fails here"));
        let store = options().open_on(&disk.kill()).expect("it opens");
        let bytes = store.recovery_report().hinted_bytes;
        // A chunk ends behind a record.
        assert_eq!((bytes + CHUNK / 2) / CHUNK, described, "{chunks} chunks: {bytes}");
    }
}

#[test]
fn small_store_has_no_hints() {
    let disk = killed(&disk(), 100);
    assert_eq!(hint_files(&disk), Vec::<String>::new());
}

#[test]
fn open_reads_the_log_where_the_mount_is_another_or_unknown() {
    for mount in [Some(99), None] {
        let disk = killed(&disk(), 2000);
        disk.set_mount_id(mount);
        let store = options().open_on(&disk).expect("it opens");
        assert_eq!(store.recovery_report().hinted_bytes, 0);
        check(&store, 2000);
        assert_eq!(hint_files(&disk), Vec::<String>::new(), "they are of no use any more");
    }
}

/// The contents of a store with some keyspaces.
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A store and its expected contents, which grow by random operations.
struct Walk {
    disk: SimDisk,
    store: Store,
    expected: Contents,
    rng: fastrand::Rng,
    hinted: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let disk = disk();
        disk.set_hint_chunk(Some(2048));
        let store = options().segment_bytes(64 << 10).open_on(&disk).expect("a new store");
        let expected = Contents::from([(String::new(), BTreeMap::new())]);
        Self { disk, store, expected, rng: fastrand::Rng::with_seed(seed), hinted: 0 }
    }

    fn name(&mut self) -> String {
        let names: Vec<_> = self.expected.keys().cloned().collect();
        names[self.rng.usize(..names.len())].clone()
    }

    fn keyspace(&self, name: &str) -> Keyspace {
        if name.is_empty() { (*self.store).clone() } else { self.store.keyspace(name).expect("it exists") }
    }

    fn step(&mut self) -> Result<(), Error> {
        let name = self.name();
        let key = self.rng.u32(..400).to_le_bytes().to_vec();
        let value = vec![self.rng.u8(..); self.rng.usize(..120)];
        let keyspace = self.keyspace(&name);
        let contents = self.expected.get_mut(&name).expect("it exists");
        match self.rng.u32(..100) {
            0..60 => {
                keyspace.insert(&key, &value)?;
                contents.insert(key, value);
            }
            60..80 => {
                assert_eq!(keyspace.remove(&key)?, contents.remove(&key).is_some());
            }
            80..86 => {
                let mut batch = mapcask::WriteBatch::new();
                for number in 0..self.rng.u32(1..40) {
                    let key = number.to_le_bytes().to_vec();
                    if self.rng.bool() {
                        batch.insert(&key, &value);
                        contents.insert(key, value.clone());
                    } else {
                        batch.remove(&key);
                        contents.remove(&key);
                    }
                }
                keyspace.write(&batch)?;
            }
            86..93 => drop(self.store.step()?),
            93..95 => {
                self.store.keyspace(&format!("k{}", self.rng.u32(..4)))?;
                for name in self.store.keyspace_names() {
                    self.expected.entry(name).or_default();
                }
            }
            95 => {
                keyspace.clear()?;
                contents.clear();
            }
            96 if !name.is_empty() => {
                self.store.drop_keyspace(&name)?;
                self.expected.remove(&name);
            }
            97 => self.store.flush()?,
            98 => drop(self.store.compact()?),
            _ => assert_eq!(
                keyspace.get(&key)?.as_deref(),
                contents.get(&key).map(Vec::as_slice),
                "{name} {key:?}"
            ),
        }
        Ok(())
    }

    fn reopen(&mut self) {
        if self.rng.u32(..8) == 0 {
            settle(&self.store);
        }
        if self.rng.u32(..8) == 0 {
            self.store.take_checkpoint().expect("nothing fails here");
        }
        self.disk = self.disk.kill();
        if self.rng.u32(..6) == 0 {
            self.disk.set_mount_id(Some(self.rng.u64(..)));
        }
        self.store = options().segment_bytes(64 << 10).open_on(&self.disk).expect("it opens");
        self.hinted += self.store.recovery_report().hinted_bytes;
    }

    fn check(&self) {
        for (name, contents) in &self.expected {
            let keyspace = self.keyspace(name);
            for (key, value) in contents {
                assert_eq!(keyspace.get(key).expect("readable").as_deref(), Some(value.as_slice()));
            }
            let found: BTreeMap<_, _> = keyspace
                .iter()
                .map(|pair| pair.expect("readable"))
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .collect();
            assert_eq!(&found, contents, "{name}");
            assert_eq!(keyspace.len(), contents.len(), "{name}");
        }
    }
}

#[test]
fn random_histories_survive_kills_with_hints() {
    let mut hinted = 0;
    for seed in 0..40 {
        let mut walk = Walk::new(seed);
        for _ in 0..8 {
            for _ in 0..walk.rng.u32(1..800) {
                walk.step().expect("nothing fails here");
            }
            walk.reopen();
            if walk.rng.bool() {
                walk.check();
            }
        }
        walk.check();
        walk.store.verify().expect("it is whole");
        hinted += walk.hinted;
    }
    assert!(hinted > 100_000, "{hinted}");
}
