//! A store that is overwritten ten times and killed in the middle of it again and again: nothing acknowledged is missing,
//! and the bound on its room holds once it rests. `MAPCASK_COMPACTION_KILLS` sets how often each way is killed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mapcask::{Durability, Options, Store};

use super::{directory, rested};

/// The name of the test that is the process.
const TEST: &str = "killed::a_process_that_overwrites_until_it_dies";
const FOLDER: &str = "MAPCASK_COMPACTION_FOLDER";
const ZIPF: &str = "MAPCASK_COMPACTION_ZIPF";
const KEYS: u64 = 4000;
const RECORD: u64 = 128;
const SEGMENT: u64 = 16 << 10;

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT).durability(Durability::Os)
}

fn value(n: u64) -> [u8; 88] {
    let mut value = [7; 88];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

/// The key of write `n`: the first ones write every key once.
fn key_of(n: u64, zipf: bool) -> u64 {
    if n < KEYS {
        return n;
    }
    let mut random = fastrand::Rng::with_seed(n);
    // With an exponent of nearly one the logarithm of the rank is nearly even: the number of its digits is drawn.
    if zipf { random.u64(0..KEYS) >> random.u32(0..12) } else { random.u64(0..KEYS) }
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
fn a_process_that_overwrites_until_it_dies() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let zipf = std::env::var_os(ZIPF).is_some();
    let words = words(&folder);
    let store = options().open(folder.join("store")).unwrap();
    for n in acknowledged(&words).. {
        store.insert(key_of(n, zipf).to_le_bytes(), value(n)).unwrap();
        words.write_all_at(&(n + 1).to_le_bytes(), 0).unwrap();
    }
}

/// The last write of each key, of the first `count`.
fn last_writes(count: u64, zipf: bool) -> Vec<Option<u64>> {
    let mut last = vec![None; usize::try_from(KEYS).unwrap()];
    (0..count).for_each(|n| last[usize::try_from(key_of(n, zipf)).unwrap()] = Some(n));
    last
}

/// Everything acknowledged is there; the one write under way may be.
fn check(store: &Store, count: u64, zipf: bool, place: &str) {
    let under_way = key_of(count, zipf);
    for (key, last) in (0..).zip(last_writes(count, zipf)) {
        let found = store.get(u64::to_le_bytes(key)).unwrap();
        let is_expected = |n: Option<u64>| found.as_deref() == n.map(value).as_ref().map(|value| &value[..]);
        assert!(
            is_expected(last) || (key == under_way && is_expected(Some(count))),
            "{place}: key {key} is not that of write {last:?}"
        );
    }
}

#[test]
fn overwritten_ten_times_and_killed_in_the_middle_nothing_is_missing_and_the_bound_holds() {
    let kills = std::env::var("MAPCASK_COMPACTION_KILLS").map_or(5, |text| text.parse().unwrap());
    for zipf in [false, true] {
        let directory = directory();
        let words = words(directory.path());
        for kill in 1..=kills {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
            command.env(FOLDER, directory.path());
            if zipf {
                command.env(ZIPF, "1");
            }
            let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
            // All of them together overwrite everything ten times, or more.
            let wanted = 11 * KEYS * kill / kills;
            while acknowledged(&words) < wanted {
                assert!(process.try_wait().unwrap().is_none(), "the process ended by itself");
                std::thread::yield_now();
            }
            process.kill().unwrap();
            assert_eq!(process.wait().unwrap().signal(), Some(9));
            let count = acknowledged(&words);
            let place = format!("zipf: {zipf}, kill {kill}, after {count} writes");
            let store = options().open(directory.path().join("store")).unwrap();
            check(&store, count, zipf, &place);
            let stats = rested(&store);
            // With what is lost at the ends of files: segments are of four pages, and a kill leaves one that is hardly used.
            let most = stats.live_bytes * 3 / 2 + 8 * SEGMENT + stats.segments as u64 * 4096;
            let size = store.size_on_disk().unwrap();
            assert!(size <= most, "{place}: {size} of {most}, {stats:?}");
            assert!(stats.live_bytes <= KEYS * RECORD);
            check(&store, count, zipf, &place);
            // The write under way may be there, and comes again.
            store.close().unwrap();
        }
        let store = options().open(directory.path().join("store")).unwrap();
        store.verify().unwrap();
    }
}
