//! Stores for the tests of damage: their files, and every state that their writer was told of.

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Options, Store, WriteBatch};

pub(crate) type Files = BTreeMap<String, Vec<u8>>;
pub(crate) type State = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) const PAGE: usize = 4096;
const BOOT: [u8; 16] = [7; 16];

pub(crate) fn options() -> Options {
    Options::new().background(false).segment_bytes(PAGE as u64)
}

/// A store that records every state it acknowledged.
struct Writer {
    disk: SimDisk,
    store: Store,
    states: Vec<State>,
    durable: usize,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::with_seed(seed);
        disk.set_boot_id(Some(BOOT));
        let store = options().open_on(&disk).unwrap();
        Self { disk, store, states: vec![State::new()], durable: 0 }
    }

    fn note(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.states.last().unwrap().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// Inserts, overwrites and removes single keys, then writes a batch that does all three.
    fn part(&mut self, part: u32) {
        for n in 0..30_u32 {
            let key = format!("key {}", n * 5 % 14).into_bytes();
            if n % 6 == 5 {
                assert_eq!(self.store.remove(&key).unwrap(), self.states.last().unwrap().contains_key(&key));
                self.note(|state| drop(state.remove(&key)));
            } else {
                let value = format!("part {part} value {n} ").repeat(1 + n as usize % 7).into_bytes();
                self.store.insert(&key, &value).unwrap();
                self.note(|state| drop(state.insert(key, value)));
            }
        }
        let mut batch = WriteBatch::new();
        let mut state = self.states.last().unwrap().clone();
        for n in 0..4 + part % 3 {
            let (key, value) = (format!("batch {n}").into_bytes(), format!("part {part}").into_bytes());
            batch.insert(&key, &value);
            state.insert(key, value);
        }
        batch.remove("key 1");
        state.remove(b"key 1".as_slice());
        self.store.write(&batch).unwrap();
        self.states.push(state);
    }

    /// Writes a value of several pages, which gets a segment of its own.
    fn large(&mut self) {
        let value: Vec<u8> = (0..9000_u32).flat_map(|n| n.to_le_bytes()).take(9000).collect();
        self.store.insert("large", &value).unwrap();
        self.note(|state| drop(state.insert(b"large".to_vec(), value)));
    }

    fn flush(&mut self) {
        self.store.flush().unwrap();
        self.durable = self.states.len() - 1;
    }

    /// Kills the process, and opens the store in another one.
    fn kill_and_open(self) -> Self {
        let disk = self.disk.kill();
        disk.set_boot_id(Some(BOOT));
        let store = options().open_on(&disk).unwrap();
        Self { disk, store, ..self }
    }

    fn files(&self) -> Files {
        files_of(&self.disk)
    }

    fn sample(self, name: &'static str, older: Files) -> Sample {
        let (states, durable) = (self.states.clone(), self.durable);
        Sample { name, files: files_of(&self.disk.kill()), older, states, durable, clean: false }
    }
}

pub(crate) fn files_of(disk: &SimDisk) -> Files {
    disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

pub(crate) fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    disk.set_boot_id(Some(BOOT));
    for (name, bytes) in files {
        disk.put_file(name, bytes);
    }
    disk
}

/// The files of a store, and the states that its writer was told of.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) files: Files,
    /// The files at an earlier moment.
    pub(crate) older: Files,
    /// Every acknowledged state, in order.
    pub(crate) states: Vec<State>,
    /// The index of the state at the last flush.
    pub(crate) durable: usize,
    /// True if the store was closed.
    pub(crate) clean: bool,
}

pub(crate) fn closed(seed: u64) -> Sample {
    let mut writer = Writer::new(seed);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let older = writer.files();
    writer.large();
    writer.part(2);
    let (states, disk) = (writer.states, writer.disk);
    writer.store.close().unwrap();
    let durable = states.len() - 1;
    Sample { name: "closed", files: files_of(&disk), older, states, durable, clean: true }
}

fn killed() -> Sample {
    let mut writer = Writer::new(2);
    writer.part(0);
    let older = writer.files();
    writer.part(1);
    writer.large();
    writer.flush();
    writer.part(2);
    writer.part(3);
    writer.sample("killed", older)
}

fn killed_after_recovery() -> Sample {
    let mut writer = Writer::new(3);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let mut writer = writer.kill_and_open();
    let older = writer.files();
    writer.part(2);
    writer.flush();
    writer.part(3);
    writer.sample("killed after a recovery", older)
}

/// Returns a store that was killed twice. The process dies again after some writes, before any
/// recovered data is durable.
fn killed_in_recovery() -> Sample {
    let mut writer = Writer::new(4);
    writer.part(0);
    writer.flush();
    writer.part(1);
    let older = writer.files();
    let mut writer = writer.kill_and_open();
    writer.part(2);
    writer.sample("killed in recovery", older)
}

pub(crate) fn samples() -> [Sample; 4] {
    let samples = [closed(1), killed(), killed_after_recovery(), killed_in_recovery()];
    for sample in &samples {
        let bytes: usize = sample.files.values().map(Vec::len).sum();
        assert!(bytes <= 64 << 10, "{}: {bytes} bytes", sample.name);
        assert!(sample.files.keys().filter(|name| name.ends_with(".seg")).count() >= 3, "{}", sample.name);
        assert_eq!(sample.check(&sample.files, 0), Ok(Some(sample.states.len() - 1)), "{}", sample.name);
    }
    samples
}
