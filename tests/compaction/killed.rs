//! Tests a store that is overwritten ten times and killed again and again. No acknowledged write is
//! missing, and the bound on its space holds at rest.
//!
//! `MAPCASK_COMPACTION_KILLS` sets the number of kills per distribution of keys, and
//! `MAPCASK_COMPACTION_KEYS` the number of keys.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mapcask::{Durability, Options, Store};

use super::{directory, rested};

/// The name of the test that is the killed process.
const TEST: &str = "killed::process_overwrites_until_it_dies";
const FOLDER: &str = "MAPCASK_COMPACTION_FOLDER";
const ZIPF: &str = "MAPCASK_COMPACTION_ZIPF";
const RECORD: u64 = 128;
/// The exponent of the Zipf distribution.
const EXPONENT: f64 = 0.99;

fn keys() -> u64 {
    std::env::var("MAPCASK_COMPACTION_KEYS").map_or(4000, |text| text.parse().unwrap())
}

/// Returns the size of a segment, a thirty-second of the live bytes. It is 16 KiB by default.
fn segment_bytes() -> u64 {
    (keys() * RECORD / 31).next_power_of_two().min(64 << 20)
}

fn options() -> Options {
    Options::new().segment_bytes(segment_bytes()).durability(Durability::Os)
}

fn value(n: u64) -> [u8; 88] {
    let mut value = [7; 88];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

/// Returns the key of write `n`. The first `keys` writes write every key once.
fn key_of(n: u64, keys: u64, zipf: bool) -> u64 {
    if n < keys {
        return n;
    }
    let mut random = fastrand::Rng::with_seed(n);
    if !zipf {
        return random.u64(0..keys);
    }
    // The inverse of the distribution function, with its sum approximated by an integral.
    let most = (keys as f64 + 1.0).powf(1.0 - EXPONENT);
    let rank = (1.0 + random.f64() * (most - 1.0)).powf(1.0 / (1.0 - EXPONENT));
    #[expect(clippy::cast_possible_truncation, reason = "the rank is what is wanted")]
    let key = rank as u64 - 1;
    key.min(keys - 1)
}

fn words(folder: &Path) -> File {
    let path = folder.join("acknowledged");
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn acknowledged(words: &File) -> u64 {
    let mut word = [0; 8];
    words.read_exact_at(&mut word, 0).map_or(0, |()| u64::from_le_bytes(word))
}

#[test]
fn process_overwrites_until_it_dies() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let zipf = std::env::var_os(ZIPF).is_some();
    let (words, keys) = (words(&folder), keys());
    let store = options().open(folder.join("store")).unwrap();
    for n in acknowledged(&words).. {
        store.insert(key_of(n, keys, zipf).to_le_bytes(), value(n)).unwrap();
        words.write_all_at(&(n + 1).to_le_bytes(), 0).unwrap();
    }
}

/// The last acknowledged write of each key.
struct Last {
    keys: u64,
    zipf: bool,
    count: u64,
    of: Vec<Option<u64>>,
}

impl Last {
    fn note(&mut self, count: u64) {
        for n in self.count..count {
            self.of[usize::try_from(key_of(n, self.keys, self.zipf)).unwrap()] = Some(n);
        }
        self.count = count;
    }

    /// Checks that every acknowledged write is found. The one in progress may be found.
    fn check(&self, store: &Store, place: &str) {
        let under_way = key_of(self.count, self.keys, self.zipf);
        for (key, last) in (0..).zip(&self.of) {
            let found = store.get(u64::to_le_bytes(key)).unwrap();
            let is_expected =
                |n: Option<u64>| found.as_deref() == n.map(value).as_ref().map(|value| &value[..]);
            assert!(
                is_expected(*last) || (key == under_way && is_expected(Some(self.count))),
                "{place}: key {key} is not that of write {last:?}"
            );
        }
    }
}

#[test]
fn killed_overwrites_lose_nothing_and_stay_in_space_bound() {
    let kills = std::env::var("MAPCASK_COMPACTION_KILLS").map_or(5, |text| text.parse().unwrap());
    let (keys, segment) = (keys(), segment_bytes());
    for zipf in [false, true] {
        let directory = directory();
        let words = words(directory.path());
        let mut last = Last { keys, zipf, count: 0, of: vec![None; usize::try_from(keys).unwrap()] };
        let mut most_of_all = 0.0;
        for kill in 1..=kills {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
            command.env(FOLDER, directory.path());
            if zipf {
                command.env(ZIPF, "1");
            }
            let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
            // The kills together see everything overwritten at least ten times.
            let wanted = 11 * keys * kill / kills;
            while acknowledged(&words) < wanted {
                assert!(process.try_wait().unwrap().is_none(), "the process ended by itself");
                std::thread::yield_now();
            }
            process.kill().unwrap();
            assert_eq!(process.wait().unwrap().signal(), Some(9));
            last.note(acknowledged(&words));
            let place = format!("zipf: {zipf}, kill {kill}, after {} writes", last.count);
            let store = options().open(directory.path().join("store")).unwrap();
            last.check(&store, &place);
            let stats = rested(&store);
            // This includes unused space at the ends of files. A kill leaves an almost empty
            // segment, and a few of those may wait for a pass.
            let most = stats.live_bytes * 3 / 2 + 8 * segment + stats.segments as u64 * 4096;
            let size = store.size_on_disk().unwrap();
            assert!(size <= most, "{place}: {size} of {most}, {stats:?}");
            most_of_all = f64::max(most_of_all, size as f64 / stats.live_bytes as f64);
            assert!(stats.live_bytes <= keys * RECORD);
            last.check(&store, &place);
            // The write in progress may have been made. The next process repeats it.
            store.close().unwrap();
        }
        let store = options().open(directory.path().join("store")).unwrap();
        store.verify().unwrap();
        eprintln!("zipf: {zipf}, {kills} kills: at most {most_of_all:.2} times what is alive, at rest");
    }
}
