//! Tests an open store whose files another program removes, renames or replaces.
//!
//! No call may acknowledge durability for data that the next open would not find.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use mapcask::{Durability, Error, Options, Store};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(path: impl AsRef<Path>) -> mapcask::Result<Store> {
    Options::new().segment_bytes(1 << 20).background(false).open(path)
}

/// A way to take a file away.
type Taking = fn(&Path, &Path);

fn remove(file: &Path, _: &Path) {
    fs::remove_file(file).unwrap();
}

fn rename(file: &Path, aside: &Path) {
    fs::rename(file, aside).unwrap();
}

fn replace_by_a_copy(file: &Path, aside: &Path) {
    fs::copy(file, aside).unwrap();
    fs::rename(aside, file).unwrap();
}

const TAKINGS: [(&str, Taking); 3] =
    [("removed", remove), ("renamed", rename), ("replaced", replace_by_a_copy)];

fn durable_insert(store: &Store) -> mapcask::Result<()> {
    store.with_durability(Durability::Disk).insert("durable", "1").map(drop)
}

fn compact(store: &Store) -> mapcask::Result<()> {
    store.compact().map(drop)
}

fn flush(store: &Store) -> mapcask::Result<()> {
    store.insert("flushed", "1")?;
    store.flush()
}

type Call = fn(&Store) -> mapcask::Result<()>;
const CALLS: [(&str, Call); 3] = [("insert", durable_insert), ("flush", flush), ("compact", compact)];

/// Waits until the last change of a name in each directory is three seconds old. Then a sync looks at the
/// directory alone.
fn settle<'a>(scratches: impl Iterator<Item = &'a tempfile::TempDir>) {
    let paths = scratches.map(|scratch| scratch.path().join("data"));
    let newest = paths.map(|path| fs::metadata(path).unwrap().ctime()).max().unwrap();
    let newest = u64::try_from(newest).unwrap();
    while SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() <= newest + 3 {
        thread::yield_now();
    }
}

/// Takes each name of a store away, long after the store was made, and then makes a durable write. `between`
/// runs on all stores before the first write.
fn take_away_late(between: impl Fn(&[(tempfile::TempDir, Store)])) {
    let names = ["MANIFEST.0", "MANIFEST.1", "0000000001.seg", "."];
    let cases: Vec<_> = names.iter().flat_map(|name| TAKINGS.map(|taking| (*name, taking))).collect();
    let made = cases.iter().map(|_| {
        let scratch = scratch();
        let store = open(scratch.path().join("data")).unwrap();
        (scratch, store)
    });
    let stores: Vec<_> = made.collect();
    settle(stores.iter().map(|(scratch, _)| scratch));
    for ((name, (_, taking)), (scratch, store)) in cases.iter().zip(&stores) {
        durable_insert(store).unwrap();
        let (path, aside) = (scratch.path().join("data"), scratch.path().join("aside"));
        if *name == "." {
            // The directory itself: another one takes its place.
            fs::rename(&path, &aside).unwrap();
            fs::create_dir(&path).unwrap();
        } else {
            taking(&path.join(name), &aside);
        }
    }
    between(&stores);
    for ((name, (how, _)), (_, store)) in cases.iter().zip(&stores) {
        let error = durable_insert(store).expect_err("what was written cannot be found");
        let Error::Poisoned { cause } = &error else { panic!("{name} {how}: {error}") };
        let is_right = match *name {
            "." => matches!(**cause, Error::DirectoryGone { replaced: true, .. }),
            "0000000001.seg" => matches!(**cause, Error::MissingSegment { .. }),
            _ => matches!(&**cause, Error::FileGone { path } if path.ends_with(name)),
        };
        assert!(is_right, "{name} {how}: {error}");
    }
}

/// Cause: a sync that looks at the directory alone could take a changed name for one that it has checked.
#[test]
fn names_that_change_late_fail_the_next_sync() {
    take_away_late(|_| ());
}

/// The same when the change is no longer new, so that the directory has a stamp again.
#[test]
fn names_that_changed_some_time_ago_fail_the_next_sync() {
    take_away_late(|stores| settle(stores.iter().map(|(scratch, _)| scratch)));
}

/// Takes a file of an open store away and makes a call that promises durability. Returns the errors
/// of the call and of the close.
fn refused(name: &str, taking: Taking, call: Call) -> [Error; 2] {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let store = open(&path).unwrap();
    store.insert("key", "value").unwrap();
    store.flush().unwrap();
    store.insert("key", "another value").unwrap();
    taking(&path.join(name), &scratch.path().join("aside"));
    let error = call(&store).expect_err("what was written cannot be found");
    assert_eq!(store.get("key").unwrap().as_deref(), Some(&b"another value"[..]), "reads go on");
    [error, store.close().expect_err("nor can it be closed as if nothing were missing")]
}

/// Cause: the copies of the manifest were reached by their descriptors alone. Symptom: writes at
/// `Disk`, `flush` and `close` returned `Ok` after the files had lost their names. The next open
/// found no manifest, or an older one. Fix: each sync and each change of the manifest first checks
/// the names.
#[test]
fn a_manifest_that_was_taken_away_is_an_error_of_every_sync() {
    for name in ["MANIFEST.0", "MANIFEST.1"] {
        for (how, taking) in TAKINGS {
            for (what, call) in CALLS {
                for error in refused(name, taking, call) {
                    let Error::Poisoned { cause } = &error else { panic!("{name} {how}, {what}: {error}") };
                    let is_gone = matches!(&**cause, Error::FileGone { path } if path.ends_with(name));
                    assert!(is_gone, "{name} {how}, {what}: {error}");
                }
            }
        }
    }
}

/// Cause: a sync checked the number of the file's names, which a rename does not change. Symptom:
/// writes at `Disk` were acknowledged, and the next open missed the segment. Fix: the sync checks
/// the name, too.
#[test]
fn an_active_segment_taken_away_fails_every_sync() {
    for (how, taking) in TAKINGS {
        for (what, call) in CALLS {
            for error in refused("0000000001.seg", taking, call) {
                let Error::Poisoned { cause } = &error else { panic!("{how}, {what}: {error}") };
                assert!(matches!(**cause, Error::MissingSegment { .. }), "{how}, {what}: {error}");
            }
        }
    }
}

#[test]
fn control_and_lock_files_may_be_taken_away() {
    for name in ["CONTROL", "LOCK"] {
        for (how, taking) in TAKINGS {
            let scratch = scratch();
            let path = scratch.path().join("data");
            let store = open(&path).unwrap();
            store.insert("key", "value").unwrap();
            taking(&path.join(name), &scratch.path().join("aside"));
            durable_insert(&store).unwrap();
            store.close().unwrap();
            let store = open(&path).unwrap();
            assert_eq!(store.len(), 2, "{name} {how}");
        }
    }
}

/// Cause: an open of a closed store reads up to the end that the manifest records, and nothing
/// behind it. Symptom: with both copies of the manifest from an older backup, and no new segment
/// since, it lost the newer records and overwrote them. Fix: the open checks the first word behind
/// the end.
#[test]
fn older_manifests_over_a_newer_store_are_refused() {
    for closed in [true, false] {
        let scratch = scratch();
        let path = scratch.path().join("data");
        let store = open(&path).unwrap();
        store.insert("old", "1").unwrap();
        store.close().unwrap();
        let manifests = ["MANIFEST.0", "MANIFEST.1"].map(|name| (name, fs::read(path.join(name)).unwrap()));
        let store = open(&path).unwrap();
        store.insert("new", "2").unwrap();
        let newer = scratch.path().join("newer");
        if closed {
            store.close().unwrap();
            fs::rename(&path, &newer).unwrap();
        } else {
            // The copy is what a kill leaves.
            fs::create_dir(&newer).unwrap();
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), newer.join(entry.file_name())).unwrap();
            }
        }
        for (name, bytes) in &manifests {
            fs::write(newer.join(name), bytes).unwrap();
        }
        let error = open(&newer).unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("older backup"), "{error}");
        let rescued = open(scratch.path().join("rescued")).unwrap();
        assert_eq!(mapcask::salvage(&newer, &rescued).unwrap().keys, 2);
    }
}

/// Cause: a salvage took the lock only where there was a lock file. Symptom: it read a store during
/// writes.
#[test]
fn a_salvage_keeps_out_of_an_open_store_without_a_lock_file() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let store = open(&path).unwrap();
    store.insert("key", "value").unwrap();
    fs::remove_file(path.join("LOCK")).unwrap();
    let rescued = open(scratch.path().join("rescued")).unwrap();
    let error = mapcask::salvage(&path, &rescued).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    store.close().unwrap();
    assert!(mapcask::salvage(&path, &rescued).unwrap().intact);
}

/// Cause: an open and a destruction listed the directory before they had the lock. A file that was
/// removed after the listing became a read error. A salvage decided by a listing from before it had
/// the lock. Symptom: racing calls reported missing files, and a salvage reported a whole store
/// that was not whole. Fix: a missing file is absent, an open starts again if its directory was
/// removed, and a salvage lists under the lock.
#[test]
fn opens_destructions_and_salvages_may_race() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let (path, rescued) = (&path, scratch.path().join(format!("rescued-{thread}")));
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let rescued = open(rescued).unwrap();
                for round in 0..60 {
                    let failed = match random.u8(..8) {
                        0..4 => open(path).and_then(|store| store.insert(round.to_string(), "")).err(),
                        4..7 => mapcask::destroy(path).err(),
                        _ => match mapcask::salvage(path, &rescued) {
                            Ok(report) => {
                                assert!(report.intact, "{report:?}");
                                None
                            }
                            Err(error) => Some(error),
                        },
                    };
                    let may_be = |error: &Error| {
                        matches!(
                            error,
                            Error::Locked { .. } | Error::NotFound { .. } | Error::Destroying { .. }
                        )
                    };
                    assert!(failed.as_ref().is_none_or(may_be), "{failed:?}");
                }
            });
        }
    });
}
