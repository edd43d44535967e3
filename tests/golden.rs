//! Tests that every store which an earlier version wrote still opens.
//!
//! `tests/fixtures/vN` is a closed store as version N of the format left it; `vN-killed` is one
//! whose process was killed. `vN-ordered` has an ordered keyspace, and an index checkpoint with records
//! behind it. `MAPCASK_MAKE_GOLDEN=DIR cargo test --features sim --test golden` writes the present
//! version's stores to `DIR`, for the next change of the format. The fixtures themselves are never
//! rewritten.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mapcask::{Options, Store, WriteBatch};

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

/// Writes the one content of all golden stores.
fn fill(store: &Store) {
    for n in 0..40_u32 {
        store.insert(format!("key {n}"), format!("value {n} ").repeat(5)).unwrap();
    }
    let mut batch = WriteBatch::new();
    for n in 0..10_u32 {
        batch.insert(format!("batch {n}"), [7; 33]);
    }
    batch.remove("key 3");
    store.write(&batch).unwrap();
    store.insert("large", vec![1; 6000]).unwrap();
    store.insert("", "").unwrap();
    store.remove("key 5").unwrap();
    store.insert("key 7", "overwritten").unwrap();
    let named = ["renamed", "cleared", "dropped"].map(|name| store.keyspace(name).unwrap());
    for keyspace in &named {
        keyspace.insert("key", keyspace.name()).unwrap();
        keyspace.insert("removed", [9; 300]).unwrap();
        keyspace.remove("removed").unwrap();
    }
    store.rename_keyspace("renamed", "käse").unwrap();
    store.flush().unwrap();
    let mut batch = WriteBatch::new();
    batch.insert("last", "not synced");
    batch.on(&named[0]).insert("last", "not synced");
    named[1].clear().unwrap();
    batch.on(&named[1]).insert("after", "the clear");
    store.drop_keyspace("dropped").unwrap();
    store.write(&batch).unwrap();
}

/// Checks the content of all keyspaces but the default one.
fn check_keyspaces(store: &Store) {
    assert_eq!(store.keyspace_names(), ["cleared", "käse"]);
    let of = |name: &str| -> BTreeMap<_, _> {
        let keyspace = store.keyspace(name).unwrap();
        keyspace.iter().map(|item| item.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
    };
    assert_eq!(of("cleared"), BTreeMap::from([(b"after".to_vec(), b"the clear".to_vec())]));
    let renamed = [(b"key".to_vec(), b"renamed".to_vec()), (b"last".to_vec(), b"not synced".to_vec())];
    assert_eq!(of("käse"), BTreeMap::from(renamed));
}

fn expected() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut expected = BTreeMap::new();
    for n in (0..40_u32).filter(|n| ![3, 5].contains(n)) {
        expected.insert(format!("key {n}").into_bytes(), format!("value {n} ").repeat(5).into_bytes());
    }
    for n in 0..10_u32 {
        expected.insert(format!("batch {n}").into_bytes(), vec![7; 33]);
    }
    expected.insert(b"large".to_vec(), vec![1; 6000]);
    expected.insert(Vec::new(), Vec::new());
    expected.insert(b"key 7".to_vec(), b"overwritten".to_vec());
    expected.insert(b"last".to_vec(), b"not synced".to_vec());
    expected
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut fixtures: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.sort();
    fixtures
}

fn is_ordered(fixture: &Path) -> bool {
    fixture.to_string_lossy().ends_with("ordered")
}

fn word(n: u32) -> String {
    format!("word {:04}", n * 7919 % 1000)
}

/// Returns the content of the ordered keyspace of a golden store.
fn expected_words() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let words = (0..440_u32).filter(|n| n % 10 != 3);
    let mut expected: BTreeMap<_, _> =
        words.map(|n| (word(n).into_bytes(), n.to_string().into_bytes())).collect();
    expected.insert(word(17).into_bytes(), b"overwritten".to_vec());
    expected
}

/// Checks a store with an ordered keyspace.
fn check_words(store: &Store) {
    let words = store.open_keyspace("words").unwrap();
    assert!(words.is_ordered());
    let found: Vec<_> =
        words.range::<&str>(..).map(|item| item.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
    assert_eq!(found, expected_words().into_iter().collect::<Vec<_>>());
    assert_eq!(words.len(), found.len());
    for (key, value) in &found {
        assert_eq!(words.get(key).unwrap().as_deref(), Some(&**value));
    }
    assert_eq!(store.get("plain").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn golden_ordered_stores_open_from_their_checkpoints() {
    let fixtures: Vec<_> = fixtures().into_iter().filter(|fixture| is_ordered(fixture)).collect();
    assert!(!fixtures.is_empty(), "the fixtures are there");
    for fixture in fixtures {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("data");
        copy(&fixture, &path);
        for _ in 0..2 {
            let store = options().create(false).open(&path).unwrap();
            let report = store.recovery_report();
            assert!(report.clean && report.checkpoint_seq.is_some(), "{}", fixture.display());
            check_words(&store);
            store.verify().unwrap();
            let words = store.ordered_keyspace("words").unwrap();
            words.insert("new", "1").unwrap();
            assert!(words.remove("new").unwrap());
            store.close().unwrap();
        }
    }
}

#[cfg(feature = "sim")]
#[test]
fn the_present_version_writes_ordered_stores() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let asked = std::env::var_os("MAPCASK_MAKE_GOLDEN").map(PathBuf::from);
    let made = asked.clone().unwrap_or_else(|| directory.path().to_owned()).join("ordered");
    let store = options().open(&made).unwrap();
    store.insert("plain", "1").unwrap();
    let words = store.ordered_keyspace("words").unwrap();
    for n in 0..400_u32 {
        words.insert(word(n), n.to_string()).unwrap();
    }
    words.insert(word(17), "overwritten").unwrap();
    assert!(store.take_checkpoint().unwrap());
    for n in 400..440_u32 {
        words.insert(word(n), n.to_string()).unwrap();
    }
    for n in (3..440_u32).step_by(10) {
        assert!(words.remove(word(n)).unwrap());
    }
    drop(words);
    store.close().unwrap();
    if asked.is_none() {
        check_words(&options().open(&made).unwrap());
    }
}

#[test]
fn every_golden_store_opens_with_its_content_and_takes_writes() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 3, "the fixtures are there");
    for fixture in fixtures.into_iter().filter(|fixture| !is_ordered(fixture)) {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("data");
        copy(&fixture, &path);
        for round in 0..2 {
            let store = options().create(false).open(&path).unwrap();
            let killed = fixture.to_string_lossy().ends_with("killed");
            assert_eq!(store.recovery_report().clean, !killed || round > 0, "{}", fixture.display());
            let content: BTreeMap<_, _> =
                store.iter().map(|item| item.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
            assert_eq!(content, expected(), "{}", fixture.display());
            assert_eq!(store.len(), content.len());
            check_keyspaces(&store);
            store.verify().unwrap();
            store.insert("new", "1").unwrap();
            assert!(store.remove("new").unwrap());
            store.close().unwrap();
        }
    }
}

#[test]
fn the_present_version_writes_what_it_reads() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let asked = std::env::var_os("MAPCASK_MAKE_GOLDEN").map(PathBuf::from);
    let made = asked.clone().unwrap_or_else(|| directory.path().to_owned());
    let closed = made.join("closed");
    let store = options().open(&closed).unwrap();
    fill(&store);
    // The copy is what a killed process leaves: the files as they are now.
    copy(&closed, &made.join("killed"));
    store.close().unwrap();
    // New golden stores stay as they were made, because opening changes them.
    for name in ["closed", "killed"].iter().filter(|_| asked.is_none()) {
        let store = options().open(made.join(name)).unwrap();
        assert_eq!(store.len(), expected().len(), "{name}");
        check_keyspaces(&store);
    }
}
