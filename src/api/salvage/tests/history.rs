//! Random histories of small stores on the simulated disk.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;

use crate::api::options::Options;
use crate::api::store::Store;
use crate::api::write_batch::WriteBatch;
use crate::fs::sim::SimDisk;

/// Keys and values.
pub(super) type Content = BTreeMap<Vec<u8>, Vec<u8>>;
/// The contents of each keyspace that is not empty.
pub(super) type Contents = BTreeMap<String, Content>;
/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

pub(super) fn contents(store: &Store) -> Contents {
    let names = store.keyspace_names().into_iter().chain([String::new()]);
    let all = names.map(|name| {
        let keyspace = store.keyspace(&name).expect("it is listed");
        let items = keyspace.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())));
        (name, items.collect::<Result<Content, _>>().expect("it can be read"))
    });
    all.filter(|(_, content)| !content.is_empty()).collect()
}

/// Returns the files of a disk without the lock and the index checkpoints, so that an open reads
/// everything.
pub(super) fn files_of(disk: &SimDisk) -> Files {
    let names = disk.files().into_iter().filter(|name| name != "LOCK" && !name.starts_with("INDEX-"));
    names.map(|name| (name.clone(), disk.read_file(&name).expect("it is listed"))).collect()
}

/// Returns a disk with these files, in the boot of the operating system in which they were written.
pub(super) fn disk_of(files: &Files, boot_id: Option<[u8; 16]>) -> SimDisk {
    let disk = SimDisk::with_seed(77);
    disk.set_boot_id(boot_id);
    for (name, bytes) in files {
        disk.put_file(name, bytes);
    }
    disk.forget_history();
    disk
}

/// A store under random writes.
pub(super) struct History {
    pub(super) disk: SimDisk,
    pub(super) store: Option<Store>,
    pub(super) rng: Rng,
    /// The key of each written value; no value is written twice.
    pub(super) written: HashMap<Vec<u8>, Vec<u8>>,
    /// The files at some earlier moments.
    pub(super) earlier: Vec<Files>,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimDisk::with_seed(seed);
        let store = options().open_on(&disk).expect("a new store");
        Self {
            disk,
            store: Some(store),
            rng: Rng::with_seed(seed),
            written: HashMap::new(),
            earlier: Vec::new(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key {}", self.rng.u32(0..30)).into_bytes()
    }

    fn value(&mut self, key: &[u8]) -> Vec<u8> {
        let value = format!("{:05}.", self.written.len()).into_bytes().repeat(self.rng.usize(1..60));
        self.written.insert(value.clone(), key.to_vec());
        value
    }

    /// Performs one random operation. It may fail because of a planned fault, or a closed store.
    pub(super) fn step(&mut self) {
        if self.store.is_none() {
            self.store = options().open_on(&self.disk).ok();
        }
        let Some(store) = self.store.take() else { return };
        let name = ["", "a", "b"][self.rng.usize(0..3)];
        let Ok(keyspace) = store.keyspace(name) else { return };
        let key = self.key();
        match self.rng.u32(0..100) {
            0..58 => {
                let value = self.value(&key);
                drop(keyspace.insert(&key, &value));
            }
            58..74 => drop(keyspace.remove(&key)),
            74..82 => {
                let mut batch = WriteBatch::new();
                for _ in 0..self.rng.u32(1..5) {
                    let key = self.key();
                    if self.rng.u8(0..4) == 0 {
                        batch.remove(&key);
                    } else {
                        let value = self.value(&key);
                        batch.insert(&key, &value);
                    }
                }
                drop(keyspace.write(&batch));
            }
            82 => drop(keyspace.clear()),
            83 if !name.is_empty() => drop(store.drop_keyspace(name)),
            84 if !name.is_empty() => drop(store.rename_keyspace(name, "c")),
            85 => drop(store.rename_keyspace("c", "b")),
            86..91 => drop(store.flush()),
            91..95 => drop(store.step()),
            95..98 => {
                let segment = |name: &String| name.strip_suffix(".seg").and_then(|id| id.parse().ok());
                let mut ids: Vec<u64> = self.disk.files().iter().filter_map(segment).collect();
                self.rng.shuffle(&mut ids);
                ids.truncate(self.rng.usize(1..5));
                drop(store.compact_segments(&ids, |_| true));
            }
            98 => drop(store.compact()),
            _ => {
                if store.close().is_ok() {
                    self.earlier.push(files_of(&self.disk));
                }
                return;
            }
        }
        self.store = Some(store);
    }
}
