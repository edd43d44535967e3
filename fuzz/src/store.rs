//! Makes the files of a small store with a history, which the targets for whole directories damage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mapcask::sim::SimDisk;
use mapcask::{Options, Store, WriteBatch};

/// The keys and their values at one time.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The files of a store, and every value that it ever had.
#[derive(Debug)]
pub struct IndexCheckpoint {
    pub files: Vec<(String, Vec<u8>)>,
    /// Every value that a key ever had.
    pub written: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// The content when the files were taken.
    pub last: Model,
}

/// A store that was closed, and one whose process was killed.
pub static IMAGES: LazyLock<[IndexCheckpoint; 2]> = LazyLock::new(|| [build(true), build(false)]);

/// Returns options under which each run is equal, with files so small that a history takes several.
pub fn options() -> Options {
    Options::new().background(false).segment_bytes(4096)
}

fn build(is_clean: bool) -> IndexCheckpoint {
    let disk = SimDisk::with_seed(3);
    let mut checkpoint = IndexCheckpoint { files: Vec::new(), written: BTreeMap::new(), last: Model::new() };
    for run in 0..2_u8 {
        let is_last = run == 1;
        let store = options().open_on(&disk).expect("a new simulated disk does not fail");
        for step in 0..24_u8 {
            checkpoint.step(&store, run, step);
        }
        if is_last && !is_clean {
            // The copy does not see the changes that a drop makes on the store's own disk.
            checkpoint.take_files(&disk.kill());
            return checkpoint;
        }
        store.close().expect("nothing fails");
    }
    checkpoint.take_files(&disk);
    checkpoint
}

impl IndexCheckpoint {
    fn step(&mut self, store: &Store, run: u8, step: u8) {
        let key = vec![b'k', step % 9];
        let value = vec![run * 100 + step; usize::from(step) * 7];
        match step % 6 {
            4 => {
                store.remove(&key).expect("nothing fails");
                self.last.remove(&key);
            }
            5 => {
                let mut batch = WriteBatch::new();
                for at in 0..3 {
                    let key = vec![b'b', at];
                    batch.insert(&key, &value);
                    self.note(key, value.clone());
                }
                store.write(batch).expect("nothing fails");
            }
            _ => {
                store.insert(&key, &value).expect("nothing fails");
                self.note(key, value);
            }
        }
        if step % 10 == 9 {
            store.flush().expect("nothing fails");
        }
    }

    fn note(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.written.entry(key.clone()).or_default().insert(value.clone());
        self.last.insert(key, value);
    }

    fn take_files(&mut self, disk: &SimDisk) {
        self.files = disk
            .files()
            .into_iter()
            .map(|name| (name.clone(), disk.read_file(&name).expect("it is listed")))
            .collect();
    }
}

/// Returns everything that a store holds, or the first failure. Both kinds of iteration must agree.
pub fn contents(store: &Store) -> mapcask::Result<Model> {
    let items = store.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
    let owned = items.collect::<mapcask::Result<Model>>()?;
    let view = store.view();
    let items = view.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
    assert_eq!(items.collect::<mapcask::Result<Model>>()?, owned);
    Ok(owned)
}
