//! Backups of a store on the real file system, while threads write and the background compacts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use mapcask::{Options, Store, WriteBatch};

const WRITERS: usize = 3;
/// The constant sum of the two counters of each writer.
const SUM: u64 = 1 << 40;

/// Stops the writers, also after a failed assertion.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn counter(store: &Store, key: String) -> u64 {
    let value = store.get(&key).unwrap().unwrap_or_else(|| panic!("{key} is missing"));
    u64::from_le_bytes(*value.first_chunk().unwrap())
}

/// Writes until told to stop. `done` is the number of the last batch that returned.
fn write(store: &Store, writer: usize, done: &AtomicU64, stop: &AtomicBool) {
    for number in 1_u64.. {
        if stop.load(SeqCst) {
            return;
        }
        let mut batch = WriteBatch::new();
        for (side, value) in [("a", number), ("b", SUM - number)] {
            let mut value = value.to_le_bytes().to_vec();
            value.resize(600, 7);
            batch.insert(format!("{side}{writer}"), value);
        }
        // Some records stay, so that a pass has something to copy.
        batch.insert(format!("kept-{writer}-{}", number % 3000), [9; 40]);
        store.write(&batch).unwrap();
        done.store(number, SeqCst);
    }
}

#[test]
fn backups_under_load_hold_each_write_that_returned_before() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [path, target] = ["data", "backup"].map(|name| scratch.path().join(name));
    let store = Options::new().segment_bytes(256 << 10).open(&path).unwrap();
    let (done, stop) = ([const { AtomicU64::new(0) }; WRITERS], AtomicBool::new(false));
    let mut copied = Vec::new();
    thread::scope(|scope| {
        for (writer, done) in done.iter().enumerate() {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || write(store, writer, done, stop));
        }
        let _stop = Stop(&stop);
        while done.iter().any(|done| done.load(SeqCst) < 1000) {
            thread::yield_now();
        }
        let passes = store.stats().compaction.passes;
        for round in 0.. {
            let before = done.each_ref().map(|done| done.load(SeqCst));
            let report = store.backup(&target).unwrap();
            let after = done.each_ref().map(|done| done.load(SeqCst) + 1);
            copied.push((report.files_copied, report.files));
            let restored = scratch.path().join(format!("restored-{round}"));
            mapcask::restore(&target, &restored).unwrap();
            let restored = Options::new().background(false).create(false).open(&restored).unwrap();
            for writer in 0..WRITERS {
                let found = counter(&restored, format!("a{writer}"));
                assert_eq!(found + counter(&restored, format!("b{writer}")), SUM, "half a batch");
                assert!(
                    (before[writer]..=after[writer]).contains(&found),
                    "{found}: {before:?} to {after:?}"
                );
            }
            restored.verify().unwrap();
            // Segments were replaced between and during the backups.
            if round >= 5 && store.stats().compaction.passes > passes + 3 {
                return;
            }
        }
    });
    assert!(copied.iter().skip(1).any(|(copied, files)| copied < files), "{copied:?}");
}
