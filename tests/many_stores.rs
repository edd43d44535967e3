//! Tests the cost of many small stores that share one worker, and that closing them leaves nothing
//! behind.
//!
//! The test opens 200 stores, or `MAPCASK_STORES`. Syncs take nearly all of the time: ten to
//! make a store, four to close it, and five for the first write after an open. The test prints (`--nocapture`) the
//! figures that README and the documentation of `Background` give. It is alone in its file, because
//! it counts the resources of the whole process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
#![expect(unsafe_code, reason = "the limit on descriptors is a system call that only libc has")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Background, Options, Store};

/// The descriptors of one store: its directory, its lock, two copies of its manifest, its segment.
const DESCRIPTORS: usize = 5;
/// The mappings of one store: its segment, the control page, the waiters page, the table of places,
/// the index. The page that detects a fork shares one with its neighbours.
const MAPS: usize = 6;
/// The bytes of one store on the disk: the segment of 16 KiB, and five files of a page. The waiters
/// page has its block once a worker has slept on it, because the system faults it for writing.
const DISK: u64 = 36 << 10;
/// The bytes of anonymous memory of one store, about twice the measured value.
const MEMORY: u64 = 64 << 10;
const KEYS: u32 = 5;

/// The resources that the process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    maps: usize,
    memory: u64,
}

fn holdings() -> Holdings {
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let kib: u64 = anonymous.trim().trim_end_matches("kB").trim().parse().unwrap();
    Holdings {
        descriptors: count("/proc/self/fd"),
        threads: count("/proc/self/task"),
        maps,
        memory: kib << 10,
    }
}

/// Waits until the kernel no longer lists the joined threads.
fn until_threads(wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while holdings().threads != wanted {
        assert!(Instant::now() < deadline, "{} threads, not {wanted}", holdings().threads);
        thread::yield_now();
    }
}

/// Raises the limit on descriptors of this process to its maximum, and returns it.
fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is writable and of the size that the call fills.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(got, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the struct is initialised; the call only reads it.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0);
    limit.rlim_cur
}

fn open(root: &Path, n: usize, background: &Background) -> Store {
    Options::new().background(background).open(root.join(n.to_string())).unwrap()
}

fn value(n: usize, key: u32) -> String {
    format!("value {key} of store {n}")
}

fn check(stores: &[Store]) {
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(store.len(), KEYS as usize);
        for key in 0..KEYS {
            assert_eq!(store.get(key.to_le_bytes()).unwrap().unwrap(), value(n, key).as_bytes());
        }
    }
}

#[test]
fn many_small_stores_share_a_thread_and_take_what_is_stated() {
    let count = std::env::var("MAPCASK_STORES").map_or(200, |count| count.parse().unwrap());
    let room = raise_descriptors();
    let needed = count * DESCRIPTORS + 100;
    assert!(room >= needed as u64, "the system allows {room} descriptors, {needed} are needed");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let background = Background::shared();
    // This makes what the process makes once for any number of stores.
    drop(open(directory.path(), count, &background));
    let before = holdings();
    let until_closed = || until_threads(before.threads);
    until_closed();

    let start = Instant::now();
    let stores: Vec<Store> = (0..count).map(|n| open(directory.path(), n, &background)).collect();
    eprintln!("{count} stores made in {:?}", start.elapsed());
    for (n, store) in stores.iter().enumerate() {
        (0..KEYS).for_each(|key| {
            store.insert(key.to_le_bytes(), value(n, key)).unwrap();
        });
    }
    check(&stores);
    let with = holdings();
    assert_eq!(with.threads, before.threads + 1, "one thread for all");
    assert_eq!(with.descriptors, before.descriptors + count * DESCRIPTORS);
    let disk: Vec<u64> = stores.iter().map(|store| store.size_on_disk().unwrap()).collect();
    let (maps, memory) = (with.maps - before.maps, with.memory.saturating_sub(before.memory));
    eprintln!(
        "each: {DESCRIPTORS} descriptors, {:.1} maps, {} bytes on the disk, {} bytes of memory",
        maps as f64 / count as f64,
        disk.iter().max().unwrap(),
        memory / count as u64,
    );
    assert!(maps <= count * MAPS, "{maps} maps");
    assert!(disk.iter().all(|bytes| *bytes <= DISK), "{disk:?}");
    assert!(memory <= count as u64 * MEMORY, "{memory} bytes of memory");

    let start = Instant::now();
    for (n, store) in stores.into_iter().enumerate() {
        // Stores are dropped and closed alternately; the last one is closed.
        if (count - n).is_multiple_of(2) { drop(store) } else { store.close().unwrap() }
    }
    until_closed();
    assert_eq!(holdings().descriptors, before.descriptors);
    let maps = holdings().maps;
    assert!(maps <= before.maps + 16, "{maps} maps, {} before", before.maps);
    eprintln!("closed in {:?}", start.elapsed());

    let start = Instant::now();
    let stores: Vec<Store> = (0..count).map(|n| open(directory.path(), n, &background)).collect();
    eprintln!("opened again in {:?}", start.elapsed());
    check(&stores);
    assert!(stores.iter().all(|store| store.recovery_report().clean));
    assert_eq!(holdings().threads, before.threads + 1);
    assert_eq!(holdings().descriptors, before.descriptors + count * DESCRIPTORS);
    drop(stores);
    until_closed();
    assert_eq!(holdings().descriptors, before.descriptors);
}
