//! Tests the basic operations: write, read, iterate, batch, close and open again.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use mapcask::{Durability, Error, Options, Store, WriteBatch};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("data")
}

fn content(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut content = BTreeMap::new();
    for item in store.iter() {
        let (key, value) = item.unwrap();
        assert!(content.insert(key.to_vec(), value.to_vec()).is_none(), "each key comes once");
    }
    content
}

#[test]
fn inserted_values_are_read_before_and_after_a_close() {
    for durability in [Durability::Os, Durability::Interval, Durability::Disk] {
        let directory = directory();
        let options = Options::new().durability(durability);
        let store = options.clone().open(path(&directory)).unwrap();
        assert!(store.recovery_report().created);
        store.insert("a", "1").unwrap();
        store.insert("b", "").unwrap();
        store.insert("", "empty key").unwrap();
        store.insert("a", "2").unwrap();
        assert!(store.remove("b").unwrap());
        assert!(!store.remove("b").unwrap());
        assert_eq!(store.len(), 2);
        store.verify().unwrap();
        store.close().unwrap();

        let store = options.open(path(&directory)).unwrap();
        assert!(store.recovery_report().clean);
        assert_eq!(store.len(), 2);
        assert_eq!(store.get("a").unwrap().unwrap(), "2");
        assert_eq!(store.get("b").unwrap(), None);
        assert_eq!(store.get("").unwrap().unwrap(), "empty key");
        store.verify().unwrap();
    }
}

#[test]
fn many_keys_in_tiny_segments_survive_reopening() {
    let directory = directory();
    let options = Options::new().segment_bytes(4096);
    let mut model = BTreeMap::new();
    for round in 0..4_u32 {
        let store = options.clone().open(path(&directory)).unwrap();
        assert_eq!(content(&store), model);
        for n in 0..500_u32 {
            let key = format!("key {}", n * 7 % 300);
            if (n + round) % 5 == 0 {
                assert_eq!(store.remove(&key).unwrap(), model.remove(key.as_bytes()).is_some());
            } else {
                let value = vec![7; (n % 200) as usize];
                store.insert(&key, &value).unwrap();
                model.insert(key.into_bytes(), value);
            }
        }
        assert_eq!(content(&store), model);
        assert_eq!(store.len(), model.len());
        store.verify().unwrap();
    }
}

#[test]
fn a_value_stays_readable_after_everything_else_is_gone() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    store.insert("k", "first").unwrap();
    let value = store.get("k").unwrap().unwrap();
    store.insert("k", "second").unwrap();
    store.remove("k").unwrap();
    store.close().unwrap();
    directory.close().unwrap();
    assert_eq!(value, "first");
}

#[test]
fn a_batch_takes_effect_as_a_whole_and_its_last_write_counts() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    store.insert("gone", "x").unwrap();
    let mut batch = WriteBatch::new();
    batch.insert("a", "1");
    batch.insert("a", "2");
    batch.remove("gone");
    batch.remove("never");
    batch.insert("b", "1");
    batch.remove("b");
    batch.insert("c", "1");
    batch.remove("c");
    batch.insert("c", "3");
    store.write(&batch).unwrap();
    let expected = BTreeMap::from([(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"3".to_vec())]);
    assert_eq!(content(&store), expected);
    assert_eq!(store.len(), 2);
    store.verify().unwrap();
    store.close().unwrap();
    let store = Store::open(path(&directory)).unwrap();
    assert_eq!(content(&store), expected);
    assert_eq!(store.len(), 2);
    assert_eq!(store.stats().keys, 2);
}

#[test]
fn values_and_batches_larger_than_a_segment_are_read_back() {
    let directory = directory();
    let options = Options::new().segment_bytes(4096);
    let store = options.clone().open(path(&directory)).unwrap();
    let large = vec![7; 1 << 20];
    store.insert("before", "1").unwrap();
    store.insert("large", &large).unwrap();
    store.insert("after", "2").unwrap();
    let mut batch = WriteBatch::new();
    for n in 0..1000_u32 {
        batch.insert(format!("batch {n}"), "value");
    }
    store.write(&batch).unwrap();
    store.verify().unwrap();
    let all = content(&store);
    assert_eq!(all.len(), 1003);
    assert_eq!(all[b"large".as_slice()], large);
    drop(store);
    assert_eq!(content(&options.open(path(&directory)).unwrap()), all);
}

#[test]
fn too_long_key_is_refused_and_writes_nothing() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    let key = vec![0; mapcask::MAX_KEY_LEN];
    store.insert(&key, "longest").unwrap();
    let longer = vec![0; mapcask::MAX_KEY_LEN + 1];
    assert!(matches!(store.insert(&longer, "v"), Err(Error::KeyTooLarge { .. })));
    let mut batch = WriteBatch::new();
    batch.insert("fine", "v");
    batch.insert(&longer, "v");
    assert!(matches!(store.write(&batch), Err(Error::KeyTooLarge { .. })));
    assert_eq!(store.len(), 1);
    assert_eq!(store.get(&key).unwrap().unwrap(), "longest");
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    let pid = std::process::id();
    match Store::open(path(&directory)) {
        Err(Error::Locked { pid: Some(found), .. }) => assert_eq!(found, pid),
        other => panic!("{other:?}"),
    }
    let clone = store.clone();
    store.close().unwrap();
    assert!(matches!(clone.insert("a", "1"), Err(Error::Closed)));
    assert!(matches!(clone.get("a"), Err(Error::Closed)));
    Store::open(path(&directory)).unwrap();
}

#[test]
fn a_directory_of_something_else_is_refused_and_not_touched() {
    let directory = directory();
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    match Store::open(directory.path()) {
        Err(Error::Foreign { found, .. }) => assert_eq!(found, "notes.txt"),
        other => panic!("{other:?}"),
    }
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["notes.txt"]);
}

#[test]
fn create_false_does_not_create_a_store() {
    let directory = directory();
    assert!(matches!(Options::new().create(false).open(path(&directory)), Err(Error::NotFound { .. })));
    assert!(!path(&directory).exists());
}

#[test]
fn an_empty_store_is_small_on_the_disk() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    let size = store.size_on_disk().unwrap();
    assert!(size <= 300 << 10, "{size}");
}

#[test]
fn a_flush_with_nothing_to_do_does_not_sync() {
    let directory = directory();
    let store = Store::open(path(&directory)).unwrap();
    store.insert("a", "1").unwrap();
    store.flush().unwrap();
    let syncs = store.stats().syncs;
    assert_eq!(syncs, 1);
    store.flush().unwrap();
    store.flush().unwrap();
    assert_eq!(store.stats().syncs, syncs);
}

#[test]
fn an_emptied_store_gives_the_memory_of_its_index_back() {
    let directory = directory();
    let store = Options::new().background(false).open(path(&directory)).unwrap();
    let first = store.stats().index_bytes;
    let keys = 50_000_u32;
    for round in 0..2 {
        // Keys are removed one by one, then in batches. Earlier readers continue.
        for from in (0..keys).step_by(100) {
            let mut batch = WriteBatch::new();
            (from..from + 100).for_each(|key| batch.insert(key.to_le_bytes(), ""));
            store.write(&batch).unwrap();
        }
        assert!(store.stats().index_bytes > 10 * keys as usize);
        let snapshot = store.snapshot();
        let mut iter = store.iter();
        let (seen, _) = iter.next().unwrap().unwrap();
        let stays = keys - 1;
        for from in (0..stays).step_by(100) {
            let numbers = from..(from + 100).min(stays);
            if round == 0 {
                numbers.for_each(|key| assert!(store.remove(key.to_le_bytes()).unwrap()));
            } else {
                let mut batch = WriteBatch::new();
                numbers.for_each(|key| batch.remove(key.to_le_bytes()));
                store.write(&batch).unwrap();
            }
            assert!(store.contains_key(stays.to_le_bytes()).unwrap());
        }
        assert_eq!(store.stats().index_bytes, first);
        // The iterator yields the key that was there throughout, and no key twice.
        let rest: Vec<_> = iter.map(|item| item.unwrap().0).collect();
        assert!(
            rest.iter().filter(|key| ***key == stays.to_le_bytes()).count()
                == usize::from(seen != stays.to_le_bytes())
        );
        assert!(!rest.contains(&seen));
        assert_eq!(snapshot.iter().count(), keys as usize);
        store.remove(stays.to_le_bytes()).unwrap();
        assert_eq!((store.iter().count(), store.len()), (0, 0));
    }
}
