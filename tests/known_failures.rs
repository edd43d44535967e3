//! Tests against failures that other stores shipped: damage, leftovers, full disks and lost writes.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod model_support;

use mapcask::sim::{Operation, Script, SimDisk, Tears};
use mapcask::{Durability, Error, Result, Store};

use model_support::{History, State, Write, content, open, options};

const FIRST: &str = "0000000001.seg";
const MANIFESTS: [&str; 2] = ["MANIFEST.0", "MANIFEST.1"];

fn opened(disk: &SimDisk) -> Store {
    open(disk, Durability::Os).unwrap()
}

/// Returns a new machine with the same files, all of them durable.
fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::with_seed(99);
    for name in disk.files() {
        copy.put_file(&name, &disk.read_file(&name).unwrap());
    }
    copy
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    // Each attempt to open changes the note in the lock file.
    let names = disk.files().into_iter().filter(|name| name != "LOCK");
    names.map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Makes a store with a few records in two segments. It is flushed twice, so that the log itself
/// proves the first records durable.
fn filled() -> (SimDisk, Store, State) {
    let disk = SimDisk::new();
    let store = opened(&disk);
    for n in 0..10_u8 {
        store.insert(format!("key {n}"), vec![b'a' + n; 300]).unwrap();
        if n % 4 == 3 {
            store.flush().unwrap();
        }
    }
    store.remove("key 4").unwrap();
    store.flush().unwrap();
    store.insert("last", "and not needed").unwrap();
    store.flush().unwrap();
    let state = content(&store);
    (disk, store, state)
}

/// Makes a store and closes it cleanly.
fn closed() -> (SimDisk, State) {
    let (disk, store, state) = filled();
    store.close().unwrap();
    (disk, state)
}

/// Returns true if a damaged store may be refused with this error. The first bytes of a file tell
/// its kind and version.
fn is_refusal(error: &Error) -> bool {
    error.is_corruption()
        || matches!(error, Error::Foreign { .. } | Error::ForeignFile { .. } | Error::TooNew { .. })
}

/// Opens a machine, and returns its content or the refusal.
fn outcome(disk: &SimDisk) -> Result<State> {
    let before = files(disk);
    let store = open(disk, Durability::Os).inspect_err(|error| {
        assert!(is_refusal(error), "{error}");
        assert!(before == files(disk), "a refusal touches nothing: {error}");
    })?;
    store.verify().inspect_err(|error| assert!(error.is_corruption(), "{error}"))?;
    Ok(content(&store))
}

/// Cause elsewhere: a scan that ends at the first bad record treats all later records as never
/// written.
#[test]
fn open_fails_if_a_record_in_mid_log_is_damaged() {
    let (disk, _) = closed();
    let (unclean, store, state) = filled();
    let killed = unclean.kill();
    drop(store);
    let at = |name: &str, text: &[u8]| {
        let bytes = disk.read_file(name).unwrap();
        bytes.windows(text.len()).position(|window| window == text).unwrap() as u64
    };
    let offset = at(FIRST, b"key 2") + 10;
    for (disk, another_boot) in [(copy(&disk), false), (killed.kill(), false), (killed.kill(), true)] {
        if another_boot {
            disk.set_boot_id(Some([9; 16]));
        }
        assert_eq!(outcome(&disk.kill()).unwrap(), state);
        disk.rot_bit(FIRST, offset, 3).unwrap();
        let found = outcome(&disk);
        assert!(matches!(found, Err(Error::Corrupt { .. })), "{found:?}");
    }
}

#[test]
fn no_flipped_bit_anywhere_gives_a_wrong_answer() {
    let (disk, state) = closed();
    let mut refused = 0;
    let segments = disk.files().into_iter().filter(|name| name.ends_with(".seg"));
    for name in segments.chain(MANIFESTS.map(str::to_owned)).collect::<Vec<_>>() {
        for offset in 0..disk.read_file(&name).unwrap().len() as u64 {
            // Every written byte is damaged, and a sample of the zeros.
            let byte = disk.read_file(&name).unwrap()[usize::try_from(offset).unwrap()];
            if byte == 0 && offset % 61 != 0 {
                continue;
            }
            let damaged = copy(&disk);
            damaged.rot_bit(&name, offset, (offset % 8) as u8).unwrap();
            match outcome(&damaged) {
                Ok(found) => assert!(found == state, "bit of byte {offset} of {name}: a wrong answer"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000, "most of a small store is records: {refused}");
}

#[test]
fn a_segment_of_any_shorter_length_is_refused() {
    let (disk, _) = closed();
    for len in (0..4096).step_by(97) {
        let damaged = copy(&disk);
        damaged.truncate(FIRST, len).unwrap();
        let found = outcome(&damaged);
        assert!(matches!(found, Err(Error::Corrupt { .. })), "{len} bytes: {found:?}");
    }
    let damaged = copy(&disk);
    damaged.remove_file(FIRST).unwrap();
    let found = outcome(&damaged);
    assert!(matches!(found, Err(Error::MissingSegment { .. })), "{found:?}");
}

/// Cause elsewhere: the process died after it created a file and before it wrote it.
#[test]
fn a_control_page_of_any_content_does_not_block_opening() {
    let (disk, store, state) = filled();
    let killed = disk.kill();
    drop(store);
    let whole = killed.read_file("CONTROL").unwrap();
    for len in [0, 1, 7, 8, 63, 64, 100, whole.len()] {
        for fill in [None, Some(0), Some(0xff)] {
            let disk = killed.kill();
            let bytes = fill.map_or_else(|| whole[..len].to_vec(), |byte| vec![byte; len]);
            disk.put_file("CONTROL", &bytes);
            let found = outcome(&disk).unwrap_or_else(|error| panic!("{len} bytes of {fill:?}: {error}"));
            assert_eq!(found, state, "{len} bytes of {fill:?}");
        }
    }
}

#[test]
fn leftovers_of_a_process_that_died_do_not_block_opening() {
    let (disk, state) = closed();
    for bytes in [&b""[..], b"half a header"] {
        for name in ["0000000001.seg.tmp", "0000000002.seg.tmp", "0000000099.seg.tmp"] {
            disk.put_file(name, bytes);
        }
        let store = opened(&disk);
        assert_eq!(content(&store), state);
        let left: Vec<_> = disk.files().into_iter().filter(|name| name.ends_with(".tmp")).collect();
        assert_eq!(left, [""; 0], "they are removed");
    }
}

#[test]
fn open_succeeds_if_one_manifest_copy_is_truncated_or_missing() {
    let (disk, state) = closed();
    for name in MANIFESTS {
        let len = disk.read_file(name).unwrap().len() as u64;
        for len in 0..len {
            let disk = copy(&disk);
            disk.truncate(name, len).unwrap();
            let found = outcome(&disk).unwrap_or_else(|error| panic!("{name} of {len} bytes: {error}"));
            assert_eq!(found, state, "{name} of {len} bytes");
        }
        let disk = copy(&disk);
        disk.remove_file(name).unwrap();
        assert_eq!(outcome(&disk).unwrap(), state, "without {name}");
    }
}

#[test]
fn a_length_that_lies_is_damage_and_allocates_nothing() {
    let (disk, state) = closed();
    for name in [FIRST, MANIFESTS[0]] {
        let bytes = disk.read_file(name).unwrap();
        for at in (0..bytes.len() - 4).step_by(2) {
            if bytes[at..at + 4] == [0; 4] && at % 64 != 0 {
                continue;
            }
            for lie in [[0xff; 4], [0xff, 0xff, 0xff, 0x7f]] {
                let disk = copy(&disk);
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&lie);
                disk.put_file(name, &bytes);
                if name != FIRST {
                    disk.put_file(MANIFESTS[1], &bytes);
                }
                match open(&disk, Durability::Os) {
                    Ok(store) => assert_eq!(content(&store), state, "at {at} of {name}"),
                    Err(error) => assert!(is_refusal(&error), "at {at} of {name}: {error}"),
                }
            }
        }
    }
}

/// Cause elsewhere: after an error `fsync` is called again, succeeds, and has written nothing.
#[test]
fn a_failed_sync_is_not_tried_again_and_not_forgotten() {
    for operation in [Operation::SyncRange, Operation::Sync] {
        let disk = SimDisk::new();
        let store = opened(&disk);
        store.insert("a", "1").unwrap();
        store.flush().unwrap();
        disk.fail_nth(Some(operation), 1, mapcask::sim::Fault::Io, false);
        // The second value needs its own segment, which is synced when it is made and named.
        let written = store.insert("b", vec![2; 5000]);
        let flushed = written.and_then(|_| store.flush());
        let again = store.flush();
        if operation == Operation::SyncRange {
            let first = flushed.unwrap_err();
            assert!(matches!(first, Error::Poisoned { .. }), "{first}");
            assert_eq!(again.unwrap_err().to_string(), first.to_string());
            assert!(matches!(store.insert("c", "3"), Err(Error::Poisoned { .. })));
        }
        assert_eq!(store.get("a").unwrap().unwrap(), "1");
        drop(store);
        let store = opened(&disk);
        assert_eq!(store.get("a").unwrap().unwrap(), "1");
        store.flush().unwrap();
        let state = content(&store);
        let after = disk.crash_at(disk.position(), Tears::None, &mut Script::new([]));
        assert_eq!(content(&opened(&after)), state);
    }
}

#[test]
fn store_continues_once_a_full_disk_has_space_again() {
    for durability in [Durability::Os, Durability::Disk] {
        let disk = SimDisk::new();
        let store = open(&disk, durability).unwrap();
        let mut history = History::new();
        for capacity in [40_000, 80_000, 160_000] {
            disk.set_capacity(Some(capacity));
            for n in 0.. {
                let write = Write::insert("", &format!("{capacity} {n}"), [b'v'; 700]);
                match write.run(&store) {
                    Ok(said) => assert_eq!(said, history.write(&write)),
                    Err(Error::NoSpace { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
                assert!(n < 1000, "the disk was to be full by now");
            }
            assert_eq!(content(&store), *history.now(), "reads go on");
            assert!(matches!(store.insert("no", vec![0; 9000]), Err(Error::NoSpace { .. })));
            store.flush().unwrap();
            let after = disk.crash_at(disk.position(), Tears::None, &mut Script::new([]));
            after.set_capacity(None);
            assert_eq!(content(&open(&after, durability).unwrap()), *history.now());
        }
        disk.set_capacity(None);
        store.insert("room", vec![0; 9000]).unwrap();
        store.close().unwrap();
        assert_eq!(options(durability).open_on(&disk).unwrap().len(), history.now().0[""].len() + 1);
    }
}

/// Cause elsewhere: an open reads data that is in the page cache only. Its write-back failed
/// unnoticed, and the next sync has nothing to write.
#[test]
fn flush_after_a_kill_syncs_records_whose_write_back_failed() {
    let disk = SimDisk::new();
    let store = opened(&disk);
    store.insert("durable", "1").unwrap();
    store.flush().unwrap();
    store.insert("a", "2").unwrap();
    store.insert("b", vec![3; 5000]).unwrap();
    let killed = disk.kill();
    drop(store);
    for name in killed.files().into_iter().filter(|name| name.ends_with(".seg")) {
        killed.fail_writeback(&name).unwrap();
    }
    let store = opened(&killed);
    let state = content(&store);
    assert_eq!(state.0[""].len(), 3, "the cache shows everything");
    store.flush().unwrap();
    let after = killed.crash_at(killed.position(), Tears::None, &mut Script::new([]));
    assert_eq!(content(&opened(&after)), state);
}

/// Cause, planted: the records that an open read are written again without another look. Symptom:
/// damage that came meanwhile is made durable, and counts as verified.
#[test]
fn flush_after_a_kill_writes_no_damaged_record_again() {
    let disk = SimDisk::new();
    let store = opened(&disk);
    store.insert("a", "a value to be found").unwrap();
    let killed = disk.kill();
    drop(store);
    let store = opened(&killed);
    let bytes = killed.read_file(FIRST).unwrap();
    let at = bytes.windows(7).position(|window| window == b"a value").unwrap();
    killed.rot_bit(FIRST, at as u64, 0).unwrap();
    let refused = store.flush().unwrap_err();
    assert!(matches!(&refused, Error::Poisoned { cause } if cause.is_corruption()), "{refused}");
}

#[test]
fn evicted_pages_after_failed_write_back_leave_a_prefix() {
    for answer in [0, 1] {
        let disk = SimDisk::new();
        let store = opened(&disk);
        let mut history = History::new();
        let write = |store: &Store, history: &mut History, key: &str| {
            let write = Write::insert("", key, [b'v'; 1200]);
            write.run(store).unwrap();
            history.write(&write);
        };
        write(&store, &mut history, "durable");
        store.flush().unwrap();
        history.make_durable();
        for key in ["a", "b", "c", "d", "e"] {
            write(&store, &mut history, key);
        }
        let killed = disk.kill();
        drop(store);
        killed.fail_writeback(FIRST).unwrap();
        killed.evict(FIRST, Tears::None, &mut Script::new([answer; 8])).unwrap();
        let store = opened(&killed);
        history.check_cut(&content(&store)).unwrap_or_else(|complaint| panic!("{complaint}"));
        store.verify().unwrap();
    }
}

/// Cause elsewhere: recovery truncates or renames first and decides afterwards.
#[test]
fn a_crash_in_recovery_takes_nothing_back() {
    let (disk, store, state) = filled();
    let cut = |disk: &SimDisk, at| disk.crash_at(at, Tears::None, &mut Script::new([]));
    let crashed = cut(&disk, disk.position());
    drop(store);
    let store = opened(&crashed);
    assert_eq!(content(&store), state);
    for at in crashed.positions() {
        assert_eq!(content(&opened(&cut(&crashed, at))), state, "crashed again at {at:?}");
    }
}

/// Found by the enumeration. Cause: a segment that was lost as a whole looks as if it had never
/// been written to. Recovery did not check which segment the first one of the log continues.
/// Symptom: a later write without the earlier one. Fix: the log begins with a segment that
/// continues no named segment.
#[test]
fn a_first_segment_that_was_lost_takes_the_later_ones_along() {
    let disk = SimDisk::new();
    let store = opened(&disk);
    let mut history = History::new();
    for write in [Write::insert("", "a", "1"), Write::insert("", "b", [2; 5000])] {
        write.run(&store).unwrap();
        history.write(&write);
    }
    for seed in 0..200 {
        let mut random = mapcask::sim::Seeded::new(seed);
        let after = disk.crash_at(disk.position(), Tears::None, &mut random);
        let found = content(&opened(&after));
        history.check_cut(&found).unwrap_or_else(|complaint| panic!("seed {seed}: {complaint}"));
    }
}

/// Found by the enumeration. Cause: a segment whose creator died before the sync of the directory
/// was adopted. The manifest named it durably before its own name was durable. Symptom:
/// `MissingSegment` after a power cut. Fix: the directory is synced before adopted segments are
/// named.
#[test]
fn segment_adopted_after_a_kill_survives_a_power_cut() {
    let disk = SimDisk::new();
    let store = opened(&disk);
    store.insert("a", "1").unwrap();
    store.insert("b", vec![2; 5000]).unwrap();
    for (at, _) in disk.points() {
        let killed = disk.crash_point(at, Tears::None).kill();
        let store = opened(&killed);
        let state = content(&store);
        store.flush().unwrap();
        let after = killed.crash_at(killed.position(), Tears::None, &mut Script::new([]));
        assert_eq!(content(&opened(&after)), state, "killed at {at:?}");
    }
}

/// Found by failing every operation. Cause: the log had switched to a new segment when the pages
/// for its start record were refused. The next write went there all the same. Symptom: the next
/// recovery cut off every later record, flushed or not. Fix: the pages come first.
#[test]
fn roll_without_pages_leaves_a_log_that_is_read_to_its_end() {
    for nth in 1..8 {
        let disk = SimDisk::new();
        let store = opened(&disk);
        disk.fail_nth(Some(Operation::Populate), nth, mapcask::sim::Fault::NoSpace, false);
        let mut history = History::new();
        for n in 0..12 {
            let write = Write::insert("", &format!("key {n}"), [n; 1200]);
            // The first write may fail once; then there is space again.
            write.run(&store).or_else(|_| write.run(&store)).unwrap();
            history.write(&write);
        }
        store.flush().unwrap();
        let after = disk.crash_at(disk.position(), Tears::None, &mut Script::new([]));
        assert_eq!(content(&opened(&after)), *history.now());
    }
}

/// Damage is reported before a lock that another store holds: waiting for the lock would be in
/// vain.
#[test]
fn damage_is_reported_even_if_another_store_holds_the_lock() {
    let (disk, store, _) = filled();
    assert!(matches!(open(&disk, Durability::Os), Err(Error::Locked { .. })));
    for name in MANIFESTS {
        disk.rot_bit(name, 40, 0).unwrap();
    }
    let refused = open(&disk, Durability::Os);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    drop(store);
}
