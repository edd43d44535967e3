//! Tests one background thread that many stores share.
//!
//! It serves every store, starts with the first, ends with the last, and keeps their failures
//! apart.
//!
//! The tests count the threads of their process, so they run one after the other.
#![cfg(all(target_os = "linux", feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{Background, Durability, Error, Options, Result, Store};

/// The time a test waits for an event before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    until("the threads of the test before are gone", || naps().is_empty());
    guard
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        thread::yield_now();
    }
}

/// Returns the number of times that each background thread of this process has gone to sleep.
fn naps() -> Vec<u64> {
    let mut naps = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while the list is read.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |wanted| status.lines().find_map(|line| line.strip_prefix(wanted)).map(str::trim);
        if field("Name:") == Some("mapcask") {
            naps.push(field("voluntary_ctxt_switches:").unwrap().parse().unwrap());
        }
    }
    naps
}

/// Waits for exactly one background thread. A thread has its name only once it runs.
fn until_one_thread() {
    until("there is a thread", || !naps().is_empty());
    assert_eq!(naps().len(), 1);
}

/// An open after a kill leaves its changes to the disk to the worker, which no notification wakes.
#[test]
fn worker_completes_an_open_for_which_no_segment_could_be_made() {
    let _alone = alone();
    let disk = SimDisk::new();
    let store = Options::new().background(false).open_on(&disk).unwrap();
    store.insert("key", "value").unwrap();
    // No sync is due after the open.
    store.flush().unwrap();
    let killed = disk.kill();
    let manifest = || killed.read_file("MANIFEST.0").unwrap();
    let before = manifest();
    killed.fail_nth(Some(Operation::Create), 1, Fault::Io, false);
    let again = Options::new().open_on(&killed).unwrap();
    until("the manifest says that the store is open", || manifest() != before);
    assert_eq!(killed.faults_fired(), 1);
    again.close().unwrap();
    assert!(Options::new().background(false).open_on(&killed).unwrap().recovery_report().clean);
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn in_time() -> Options {
    Options::new().durability(Durability::Interval).sync_interval(Duration::from_millis(1))
}

fn open_all(root: &Path, count: usize, background: &Background) -> Vec<Store> {
    let open = |n: usize| in_time().background(background).open(root.join(n.to_string())).unwrap();
    (0..count).map(open).collect()
}

fn is_durable(store: &Store) -> bool {
    let stats = store.stats();
    stats.durable_seq >= stats.last_seq
}

#[test]
fn shared_thread_syncs_every_store_and_ends_with_the_last() {
    const STORES: usize = 24;
    let _alone = alone();
    let directory = directory();
    let background = Background::shared();
    assert_eq!(naps().len(), 0);
    for round in 0..3_usize {
        let mut stores = open_all(directory.path(), STORES, &background);
        until_one_thread();
        for (n, store) in stores.iter().enumerate() {
            assert_eq!(store.len(), round * 2, "what was written before is there");
            store.insert(format!("{round}"), n.to_le_bytes()).unwrap();
        }
        until("every store is durable", || stores.iter().all(is_durable));
        // Each store writes again. Its thread may have been idle in between.
        for (n, store) in stores.iter().enumerate() {
            store.insert(format!("{round} again"), n.to_le_bytes()).unwrap();
            assert_eq!(store.get(format!("{round}")).unwrap().unwrap(), n.to_le_bytes());
        }
        until("every store is durable again", || stores.iter().all(is_durable));
        // The rounds close from the front, drop from the back, and alternate between both.
        for n in 0..STORES {
            assert_eq!(naps().len(), 1, "one for all of them");
            let from_the_front = [true, false, n.is_multiple_of(2)][round];
            let store = if from_the_front { stores.remove(0) } else { stores.pop().unwrap() };
            if from_the_front {
                store.close().unwrap();
            } else {
                drop(store);
            }
        }
        until("the thread has ended with the last store", || naps().is_empty());
    }
}

#[test]
fn bool_background_gives_a_store_its_own_thread_or_none() {
    let _alone = alone();
    let directory = directory();
    let open = |name: &str, background: bool| {
        Options::new().background(background).open(directory.path().join(name))
    };
    let without = open("without", false).unwrap();
    assert_eq!(naps().len(), 0);
    let with = [open("one", true).unwrap(), Store::open(directory.path().join("two")).unwrap()];
    until("there are two threads", || naps().len() == 2);
    drop(with);
    until("they have ended", || naps().is_empty());
    // Options that are used twice do not share a thread.
    let options = Options::new();
    let with = ["three", "four"].map(|name| options.clone().open(directory.path().join(name)).unwrap());
    until("there are two threads", || naps().len() == 2);
    drop((with, without));
}

#[test]
fn a_failed_sync_in_the_background_poisons_that_store_alone() {
    let _alone = alone();
    let disks: Vec<SimDisk> = (0..3).map(SimDisk::with_seed).collect();
    let background = Background::shared();
    let open = |disk| in_time().background(&background).open_on(disk).unwrap();
    let stores: Vec<Store> = disks.iter().map(open).collect();
    until_one_thread();
    disks[1].fail_nth(Some(Operation::SyncRange), 1, Fault::Io, true);
    for round in 0..20_u32 {
        for (n, store) in stores.iter().enumerate() {
            match store.insert(round.to_le_bytes(), "value").map(|_| ()) {
                Err(Error::Poisoned { .. }) if n == 1 => {}
                other => other.unwrap(),
            }
        }
        until("the sound stores are durable, the other one is poisoned", || {
            disks.iter().for_each(|disk| disk.advance_clock(Duration::from_millis(1)));
            let poisoned = matches!(stores[1].insert("more", "value"), Err(Error::Poisoned { .. }));
            is_durable(&stores[0]) && is_durable(&stores[2]) && poisoned
        });
    }
    assert_eq!(naps().len(), 1);
    let [first, second, third] = stores.try_into().unwrap();
    assert!(matches!(second.close(), Err(Error::Poisoned { .. })));
    first.insert("after", "all").unwrap();
    first.close().unwrap();
    third.close().unwrap();
}

#[test]
fn a_full_disk_pauses_that_store_alone() {
    let _alone = alone();
    let disks: Vec<SimDisk> = (0..2).map(SimDisk::with_seed).collect();
    let background = Background::shared();
    let open = |disk| Options::new().segment_bytes(256 << 10).background(&background).open_on(disk).unwrap();
    let stores: Vec<Store> = disks.iter().map(open).collect();
    let fill = |store: &Store, n: u32| store.insert(n.to_le_bytes(), vec![7; 20_000]).map(|_| ());
    // The value does not fit into the first segment, so both stores are in their second one.
    stores.iter().for_each(|store| fill(store, 20).unwrap());
    disks[0].fail_nth(Some(Operation::Allocate), 1, Fault::NoSpace, true);
    // From the middle of a segment on, the worker preallocates the next one.
    (0..8).for_each(|n| stores.iter().for_each(|store| fill(store, n).unwrap()));
    until("its helper has met the full disk", || disks[0].faults_fired() > 0);
    until("the other store has a segment ahead", || stores[1].stats().ready_segments > 0);
    let refused = (8..20).find_map(|n| fill(&stores[0], n).err());
    assert!(matches!(refused, Some(Error::NoSpace { .. })), "{refused:?}");
    (8..20).for_each(|n| fill(&stores[1], n).unwrap());
    until("the other store has one again", || stores[1].stats().ready_segments > 0);
    disks[0].clear_faults();
    (8..20).for_each(|n| fill(&stores[0], n).unwrap());
    until("it goes on when there is room again", || stores[0].stats().ready_segments > 0);
    for store in stores {
        store.close().unwrap();
    }
}

#[test]
fn close_under_writers_keeps_every_acknowledged_write() {
    const STORES: usize = 8;
    let _alone = alone();
    let directory = directory();
    let background = Background::shared();
    for name in ["one", "two"] {
        let root = directory.path().join(name);
        let stores = open_all(&root, STORES, &background);
        let acknowledged = [const { AtomicU64::new(0) }; STORES];
        thread::scope(|scope| {
            for (store, acknowledged) in stores.iter().zip(&acknowledged) {
                let store = store.clone();
                scope.spawn(move || {
                    let write = |n: u64| store.insert(n.to_le_bytes(), [7; 20]);
                    let refused = (0..).find_map(|n| match write(n) {
                        Ok(_) => {
                            acknowledged.store(n + 1, SeqCst);
                            None
                        }
                        Err(error) => Some(error),
                    });
                    assert!(matches!(refused, Some(Error::Closed)), "{refused:?}");
                });
            }
            for (store, acknowledged) in stores.iter().zip(&acknowledged) {
                until("it has been written to", || acknowledged.load(SeqCst) > 200);
                // Two threads close at once. Neither may return before the worker is done with the
                // store.
                let [one, other] = [store.clone(), store.clone()].map(|store| scope.spawn(|| store.close()));
                let closed: Vec<Result<()>> = vec![one.join().unwrap(), other.join().unwrap()];
                assert_eq!(closed.iter().filter(|closed| closed.is_ok()).count(), 1, "{closed:?}");
            }
        });
        drop(stores);
        until("the thread has ended", || naps().is_empty());
        for (n, acknowledged) in acknowledged.iter().enumerate() {
            let store = Options::new().background(false).open(root.join(n.to_string())).unwrap();
            assert!(store.recovery_report().clean);
            assert_eq!(store.len() as u64, acknowledged.load(SeqCst), "store {n}");
        }
    }
}

/// Waits until the one thread rests: it has not gone to sleep again during 5,000 looks at it.
///
/// A thread that never rests keeps this waiting until `PATIENCE` ends, whatever the scheduler does.
fn until_at_rest() -> Vec<u64> {
    let mut unchanged = 0_u32;
    let mut before = naps();
    until("the thread rests", || {
        let now = naps();
        unchanged = if now == before && now.len() == 1 { unchanged + 1 } else { 0 };
        before.clone_from(&now);
        unchanged == 5_000
    });
    before
}

#[test]
fn idle_stores_cause_no_wake_ups_and_a_writer_causes_one() {
    let _alone = alone();
    let directory = directory();
    let background = Background::shared();
    // These stores use `Os`, so that nothing falls due.
    let open =
        |n: u32| Options::new().background(&background).open(directory.path().join(n.to_string())).unwrap();
    let stores: Vec<Store> = (0..16).map(open).collect();
    let durable = open_all(&directory.path().join("durable"), 4, &background);
    for store in durable.iter().chain(&stores) {
        store.insert("key", "value").unwrap();
    }
    until("nothing is due", || durable.iter().all(is_durable));
    let at_rest = until_at_rest();
    // These writes leave no work, so they do not wake the thread.
    for store in &stores {
        store.insert("small", "value").unwrap();
        assert_eq!(store.stats().worker_wakes, 0);
    }
    assert_eq!(until_at_rest(), at_rest);
    // This write fills more than half of the first segment, so the worker preallocates the next
    // one.
    stores[7].insert("large", vec![7; 9 << 10]).unwrap();
    assert_eq!(stores[7].stats().worker_wakes, 1);
    until("a segment is ready", || stores[7].stats().ready_segments == 1);
    let at_rest = until_at_rest();
    // Its first write may have woken the thread as well.
    let before = durable[2].stats().worker_wakes;
    durable[2].insert("key", "other").unwrap();
    assert_eq!(durable[2].stats().worker_wakes, before + 1);
    until("it is durable", || is_durable(&durable[2]));
    assert_ne!(until_at_rest(), at_rest, "the thread slept in between");
    let woken = stores.iter().filter(|store| store.stats().worker_wakes > 0);
    assert_eq!(woken.count(), 1, "one wake-up is for one store");
}
