//! Tests an open store whose files another program removes, renames or replaces.
//!
//! No call may acknowledge durability for data that the next open would not find.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::path::Path;

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
