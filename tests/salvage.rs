//! Tests that a salvage recovers exactly the intact records.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{DamageCause, Error, Options, Store, WriteBatch, salvage_on};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn content(store: &Store) -> Content {
    store.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

/// Makes a closed store of single records, one batch, an overwritten key and a removed key.
fn sample() -> (SimDisk, Content) {
    let disk = SimDisk::with_seed(1);
    let store = options().open_on(&disk).unwrap();
    for n in 0..60_u32 {
        store.insert(format!("key {n}"), format!("value {n}").repeat(8)).unwrap();
    }
    store.insert("key 1", "overwritten").unwrap();
    store.remove("key 2").unwrap();
    let mut batch = WriteBatch::new();
    batch.insert("one", "both");
    batch.insert("other", "both");
    store.write(&batch).unwrap();
    let content = content(&store);
    store.close().unwrap();
    (disk, content)
}

fn rescue(damaged: &SimDisk) -> (mapcask::SalvageReport, Content) {
    let disk = SimDisk::with_seed(2);
    let rescued = Options::new().background(false).open_on(&disk).unwrap();
    let report = salvage_on(damaged, &rescued).unwrap();
    let content = content(&rescued);
    assert_eq!(report.keys, content.len() as u64);
    (report, content)
}

#[test]
fn salvage_of_an_intact_store_recovers_it_without_damage() {
    let (disk, expected) = sample();
    let (report, found) = rescue(&disk);
    assert_eq!(found, expected);
    assert_eq!(report.damage, []);
}

#[test]
fn every_record_but_the_damaged_one_comes_back() {
    let (disk, expected) = sample();
    let files: BTreeMap<_, _> =
        disk.files().into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".seg")) {
        for offset in (128..bytes.len()).step_by(101) {
            let damaged = SimDisk::with_seed(3);
            for (other, bytes) in &files {
                damaged.put_file(other, bytes);
            }
            damaged.rot_bit(name, offset as u64, 3).unwrap();
            let (report, found) = rescue(&damaged);
            let missing: Vec<_> =
                expected.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
            let batch = missing.iter().all(|(key, _)| [b"one".to_vec(), b"other".to_vec()].contains(key));
            assert!(missing.len() <= 1 || (batch && missing.len() == 2), "{name} {offset}: {missing:?}");
            for (key, value) in &found {
                // An older value or a removed key may replace a damaged record, but nothing else.
                let text = String::from_utf8_lossy(key);
                let old = text.strip_prefix("key ").map(|n| format!("value {n}").repeat(8).into_bytes());
                assert!(
                    expected.get(key) == Some(value) || old.as_ref() == Some(value),
                    "{name} {offset}: {text}"
                );
            }
            let padding = found == expected && report.damage.is_empty();
            assert!(
                padding || report.damage.iter().any(|damage| damage.path.ends_with(name)),
                "{name} {offset}"
            );
        }
    }
}

#[test]
fn a_store_without_its_manifest_comes_back_by_its_headers() {
    let (disk, expected) = sample();
    disk.remove_file("MANIFEST.0").unwrap();
    disk.remove_file("MANIFEST.1").unwrap();
    assert!(matches!(options().open_on(&disk), Err(Error::Corrupt { .. })));
    assert_eq!(rescue(&disk).1, expected);
}

#[test]
fn a_missing_segment_is_refused_by_open_and_listed_by_salvage() {
    let (disk, expected) = sample();
    disk.remove_file("0000000002.seg").unwrap();
    assert!(matches!(options().open_on(&disk), Err(Error::MissingSegment { .. })));
    let (report, found) = rescue(&disk);
    assert!(
        report
            .damage
            .iter()
            .any(|damage| damage.path.ends_with("0000000002.seg") && damage.cause == DamageCause::Missing)
    );
    assert!(!found.is_empty() && found.len() < expected.len());
}

#[test]
fn an_open_store_is_not_salvaged() {
    let (disk, _) = sample();
    let _store = options().open_on(&disk).unwrap();
    let other = SimDisk::with_seed(2);
    let rescued = options().open_on(&other).unwrap();
    assert!(matches!(salvage_on(&disk, &rescued), Err(Error::Locked { .. })));
}

/// Makes a closed store with keyspaces that were created, renamed, cleared and dropped, and returns
/// the content of each.
fn sample_of_keyspaces() -> (SimDisk, BTreeMap<String, Content>) {
    let disk = SimDisk::with_seed(4);
    let store = options().open_on(&disk).unwrap();
    let named = ["kept", "renamed", "cleared", "dropped"].map(|name| store.keyspace(name).unwrap());
    for n in 0..40_u32 {
        for keyspace in &named {
            keyspace.insert(format!("key {n}"), keyspace.name().repeat(4)).unwrap();
        }
        store.insert(format!("key {n}"), "default").unwrap();
    }
    store.rename_keyspace("renamed", "käse").unwrap();
    named[2].clear().unwrap();
    named[2].insert("after", "the clear").unwrap();
    store.drop_keyspace("dropped").unwrap();
    store.keyspace("dropped").unwrap().insert("anew", "under an old name").unwrap();
    store.keyspace("empty").unwrap();
    let contents = contents(&store);
    store.close().unwrap();
    (disk, contents)
}

/// Returns the content of each keyspace that is not empty.
fn contents(store: &Store) -> BTreeMap<String, Content> {
    let names = store.keyspace_names().into_iter().chain([String::new()]);
    let all = names.map(|name| {
        let keyspace = store.keyspace(&name).unwrap();
        let items =
            keyspace.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
        (name, items.collect::<Content>())
    });
    all.filter(|(_, content)| !content.is_empty()).collect()
}

fn rescue_keyspaces(damaged: &SimDisk) -> (mapcask::SalvageReport, BTreeMap<String, Content>) {
    let disk = SimDisk::with_seed(5);
    let rescued = Options::new().background(false).open_on(&disk).unwrap();
    let report = salvage_on(damaged, &rescued).unwrap();
    let found = contents(&rescued);
    assert_eq!(report.keyspaces, found.keys().cloned().collect::<Vec<_>>());
    (report, found)
}

#[test]
fn salvage_keeps_keyspace_names_with_and_without_a_manifest() {
    let (disk, expected) = sample_of_keyspaces();
    let (report, found) = rescue_keyspaces(&disk);
    assert_eq!((found, report.damage.as_slice()), (expected.clone(), [].as_slice()));
    for name in ["MANIFEST.0", "MANIFEST.1"] {
        disk.remove_file(name).unwrap();
        assert_eq!(rescue_keyspaces(&disk).1, expected, "without {name}");
    }
}

#[test]
fn a_keyspace_whose_name_is_lost_comes_back_under_its_number() {
    let (disk, expected) = sample_of_keyspaces();
    for name in ["MANIFEST.0", "MANIFEST.1", "0000000001.seg"] {
        disk.remove_file(name).unwrap();
    }
    let (report, found) = rescue_keyspaces(&disk);
    // The first segment held the creations. Only the new name of the renamed keyspace is left.
    assert!(report.keyspaces.contains(&"salvaged-1".to_owned()), "{:?}", report.keyspaces);
    let kept = &found["salvaged-1"];
    assert!(!kept.is_empty() && kept.iter().all(|(key, value)| expected["kept"].get(key) == Some(value)));
    let renamed = &found["käse"];
    assert!(
        !renamed.is_empty() && renamed.iter().all(|(key, value)| expected["käse"].get(key) == Some(value))
    );
    assert_eq!(found["cleared"], expected["cleared"]);
    assert_eq!(found["dropped"], expected["dropped"]);
}

/// Cause: any failure to take the lock was treated as a directory without a writer. Symptom:
/// without a free descriptor, a salvage read the files of an open store during writes. Fix: a
/// salvage goes without a lock only where no writer is possible.
#[test]
fn salvage_without_the_lock_that_it_could_have_is_refused() {
    let (disk, expected) = sample();
    let into = Options::new().background(false).open_on(&SimDisk::with_seed(2)).unwrap();
    disk.fail_nth(Some(Operation::Lock), 1, Fault::Io, false);
    let error = salvage_on(&disk, &into).unwrap_err();
    assert!(matches!(error, Error::Io { operation: "lock", .. }), "{error:?}");
    assert_eq!(into.len(), 0);
    salvage_on(&disk, &into).unwrap();
    assert_eq!(content(&into), expected);
}
