//! Tests keyspaces: the effect of each operation, the view of each handle, and the content after a
//! crash.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;
use std::fs;

use mapcask::{Error, Keyspace, Options, Store, WriteBatch};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns options without a worker and with the smallest segments.
fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn content(keyspace: &Keyspace) -> BTreeMap<Vec<u8>, Vec<u8>> {
    keyspace.iter().map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

fn pair(key: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

#[test]
fn equal_keys_of_several_keyspaces_are_several_keys() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let (a, b) = (store.keyspace("a").unwrap(), store.keyspace("b").unwrap());
    for (keyspace, value) in [(&*store, "0"), (&a, "1"), (&b, "2")] {
        keyspace.insert("key", value).unwrap();
    }
    assert!(a.remove("key").unwrap() && !a.remove("key").unwrap());
    assert_eq!(a.get("key").unwrap(), None);
    assert_eq!(b.get("key").unwrap().as_deref(), Some(b"2".as_slice()));
    assert_eq!(store.get("key").unwrap().as_deref(), Some(b"0".as_slice()));
    assert_eq!((store.len(), a.len(), b.len(), store.stats().keys, store.stats().keyspaces), (1, 0, 1, 2, 3));
    assert_eq!((a.name(), b.name(), store.name()), ("a".to_owned(), "b".to_owned(), String::new()));
    // The empty name is that of the default keyspace. Getting a keyspace twice gives the same one.
    store.keyspace("").unwrap().insert("key", "3").unwrap();
    store.keyspace("b").unwrap().insert("key", "4").unwrap();
    assert_eq!(store.get("key").unwrap().as_deref(), Some(b"3".as_slice()));
    assert_eq!(b.get("key").unwrap().as_deref(), Some(b"4".as_slice()));
    assert_eq!(store.verify().unwrap().keys, 2);
}

#[test]
fn names_are_checked_and_taken_names_refused() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let long = "n".repeat(mapcask::MAX_KEYSPACE_NAME_LEN);
    store.keyspace(&long).unwrap();
    let refused = |result: mapcask::Result<()>| matches!(result, Err(Error::InvalidKeyspaceName { .. }));
    assert!(refused(store.keyspace(&format!("{long}n")).map(drop)));
    assert!(refused(store.rename_keyspace(&long, &format!("{long}n"))));
    assert!(refused(store.rename_keyspace("", "a")) && refused(store.rename_keyspace(&long, "")));
    assert!(refused(store.drop_keyspace("").map(drop)));
    store.keyspace("käse \0 日本").unwrap();
    let taken = store.rename_keyspace(&long, "käse \0 日本");
    assert!(matches!(taken, Err(Error::KeyspaceExists { .. })), "{taken:?}");
    let missing = store.rename_keyspace("missing", "other");
    assert!(matches!(missing, Err(Error::KeyspaceNotFound { .. })), "{missing:?}");
    store.rename_keyspace(&long, &long).unwrap();
    assert!(!store.drop_keyspace("missing").unwrap());
    let seq = store.last_seq();
    assert!(refused(store.keyspace(&format!("{long}n")).map(drop)));
    assert_eq!(store.last_seq(), seq, "what is refused writes nothing");
    assert_eq!(store.keyspace_names(), ["käse \0 日本".to_owned(), long]);
}

#[test]
fn a_handle_follows_a_rename_and_a_clear_and_ends_with_a_drop() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let handle = store.keyspace("a").unwrap();
    handle.insert("key", "1").unwrap();
    let value = handle.get("key").unwrap().unwrap();
    store.rename_keyspace("a", "b").unwrap();
    handle.insert("other", "2").unwrap();
    assert_eq!((handle.name().as_str(), store.keyspace("b").unwrap().len()), ("b", 2));
    let mut iter = handle.iter();
    assert!(iter.next().unwrap().is_ok());
    handle.clear().unwrap();
    assert!(iter.next().is_none(), "what was gone through is gone");
    assert!(handle.is_empty() && handle.get("key").unwrap().is_none());
    handle.insert("key", "3").unwrap();
    assert_eq!(content(&store.keyspace("b").unwrap()), BTreeMap::from([pair("key", "3")]));
    let mut iter = handle.iter();
    assert!(store.drop_keyspace("b").unwrap());
    let dropped = |result: mapcask::Result<()>| matches!(result, Err(Error::KeyspaceDropped { .. }));
    assert!(dropped(iter.next().unwrap().map(drop)) && iter.next().is_none());
    // A new keyspace under an old name is another keyspace.
    let anew = store.keyspace("b").unwrap();
    anew.insert("key", "4").unwrap();
    let mut batch = WriteBatch::new();
    batch.on(&handle).insert("key", "5");
    assert!(dropped(handle.get("key").map(drop)) && dropped(handle.insert("key", "5").map(drop)));
    assert!(dropped(handle.remove("key").map(drop)) && dropped(handle.clear().map(drop)));
    assert!(dropped(handle.multi_get(&["key"]).map(drop)) && dropped(handle.try_get("key").map(drop)));
    assert!(dropped(store.write(&batch).map(drop)) && dropped(handle.keyspace_stats().map(drop)));
    assert!(dropped(handle.view().get("key").map(drop)) && dropped(handle.replace("key", "5").map(drop)));
    assert_eq!((handle.len(), content(&anew)), (0, BTreeMap::from([pair("key", "4")])));
    // A value that was read outlives its keyspace.
    assert_eq!(&*value, b"1");
}

#[test]
fn iterators_end_at_once_when_their_keyspace_goes() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let dropped = |result: mapcask::Result<()>| matches!(result, Err(Error::KeyspaceDropped { .. }));
    for (clears, keys) in [(true, 10), (false, 10), (true, 1_000), (false, 1_000)] {
        let keyspace = store.keyspace("a").unwrap();
        for key in 0..keys {
            keyspace.insert(u32::to_le_bytes(key), "").unwrap();
        }
        // Both have found several keys, and returned one.
        let (mut owned, view) = (keyspace.iter(), keyspace.view());
        let mut borrowed = view.iter();
        assert!(owned.next().unwrap().is_ok() && borrowed.next().unwrap().is_ok());
        if clears {
            keyspace.clear().unwrap();
            keyspace.insert("anew", "").unwrap();
            assert!(owned.next().is_none() && borrowed.next().is_none(), "of {keys} keys");
        } else {
            store.drop_keyspace("a").unwrap();
            assert!(dropped(owned.next().unwrap().map(drop)), "of {keys} keys");
            assert!(dropped(borrowed.next().unwrap().map(drop)), "of {keys} keys");
            assert!(view.iter().next().is_some_and(|item| dropped(item.map(drop))));
        }
        assert!(owned.next().is_none() && borrowed.next().is_none());
    }
}

#[test]
fn a_batch_goes_where_it_is_written_and_where_it_says() {
    let directory = directory();
    let store = options().open(directory.path().join("one")).unwrap();
    let (a, b) = (store.keyspace("a").unwrap(), store.keyspace("b").unwrap());
    let mut batch = WriteBatch::new();
    batch.insert("here", "1");
    batch.on(&b).insert("there", "2").insert("gone", "3").remove("gone");
    batch.on(&a).insert("here", "4");
    assert_eq!(batch.len(), 5);
    // `a` occurs twice, once as the keyspace that the batch is written to: the last write counts.
    a.write(&batch).unwrap();
    assert_eq!(content(&a), BTreeMap::from([pair("here", "4")]));
    assert_eq!(content(&b), BTreeMap::from([pair("there", "2")]));
    assert!(store.is_empty());
    // The keyspace is cleared after the batch was made and before it is written.
    b.clear().unwrap();
    store.write(&batch).unwrap();
    assert_eq!(content(&store), BTreeMap::from([pair("here", "1")]));
    assert_eq!(content(&b), BTreeMap::from([pair("there", "2")]));
    let other = options().open(directory.path().join("two")).unwrap();
    let foreign = other.write(&batch);
    assert!(matches!(foreign, Err(Error::ForeignKeyspace { .. })), "{foreign:?}");
    assert!(other.is_empty());
    // A batch for an earlier handle of the same store is refused: its numbers may mean other
    // keyspaces now.
    store.close().unwrap();
    let again = options().open(directory.path().join("one")).unwrap();
    assert!(matches!(again.write(&batch), Err(Error::ForeignKeyspace { .. })));
}

#[test]
fn keyspaces_come_back_after_a_close_and_after_a_kill() {
    let directory = directory();
    let made = directory.path().join("made");
    let store = options().open(&made).unwrap();
    for name in ["kept", "renamed", "cleared", "dropped", "again"] {
        let keyspace = store.keyspace(name).unwrap();
        for n in 0..30 {
            keyspace.insert(format!("{n}"), name.repeat(9)).unwrap();
        }
    }
    store.rename_keyspace("renamed", "other").unwrap();
    let cleared = store.keyspace("cleared").unwrap();
    store.flush().unwrap();
    cleared.clear().unwrap();
    cleared.insert("after", "1").unwrap();
    store.drop_keyspace("dropped").unwrap();
    store.drop_keyspace("again").unwrap();
    store.keyspace("again").unwrap().insert("new", "2").unwrap();
    store.clear().unwrap();
    store.insert("default", "3").unwrap();
    let check = |store: &Store| {
        assert_eq!(store.keyspace_names(), ["again", "cleared", "kept", "other"]);
        let of = |name| content(&store.keyspace(name).unwrap());
        assert_eq!(of("again"), BTreeMap::from([pair("new", "2")]));
        assert_eq!(of("cleared"), BTreeMap::from([pair("after", "1")]));
        assert_eq!((of("kept").len(), of("other").len()), (30, 30));
        assert_eq!(of("other")[b"7".as_slice()], "renamed".repeat(9).into_bytes());
        assert_eq!(content(store), BTreeMap::from([pair("default", "3")]));
        assert_eq!(store.verify().unwrap().keys, 63);
    };
    check(&store);
    let before = store.stats();
    // The copy is what a killed process leaves.
    let killed = directory.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for entry in fs::read_dir(&made).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), killed.join(entry.file_name())).unwrap();
    }
    store.close().unwrap();
    for path in [&made, &killed] {
        for _ in 0..2 {
            let store = options().create(false).open(path).unwrap();
            check(&store);
            assert_eq!(store.stats().live_bytes, before.live_bytes);
            assert_eq!(store.recovery_report().keyspaces, 5);
            store.close().unwrap();
        }
    }
}

#[test]
fn clear_and_drop_make_live_bytes_dead_and_free_the_index() {
    let directory = directory();
    let store = Options::new().segment_bytes(64 << 10).background(false).open(directory.path()).unwrap();
    let empty = store.stats();
    let keyspace = store.keyspace("a").unwrap();
    for n in 0..50_000_u32 {
        keyspace.insert(n.to_le_bytes(), n.to_le_bytes()).unwrap();
    }
    let full = store.stats();
    assert!(full.index_bytes > empty.index_bytes + 500_000);
    let (live, dead) = (full.live_bytes, full.dead_bytes);
    assert_eq!(keyspace.keyspace_stats().unwrap().live_bytes, live);
    keyspace.clear().unwrap();
    let cleared = store.stats();
    // Every live byte is dead now, and so is the record of the clear.
    let record = 40;
    assert_eq!((cleared.live_bytes, cleared.dead_bytes), (0, dead + live + record));
    assert_eq!(cleared.index_bytes, 2 * empty.index_bytes, "an empty index each");
    keyspace.insert("key", "value").unwrap();
    let dead = store.stats().dead_bytes;
    store.drop_keyspace("a").unwrap();
    let dropped = store.stats();
    assert_eq!((dropped.keyspaces, dropped.keys, dropped.index_bytes), (1, 0, empty.index_bytes));
    assert_eq!(dropped.dead_bytes, dead + 40 + record, "one record of 40 bytes died");
}

#[test]
fn a_store_refuses_more_keyspaces_than_it_can_map() {
    let directory = directory();
    let store = Options::new().background(false).open(directory.path()).unwrap();
    for n in 0..16_384 {
        store.keyspace(&format!("{n}")).unwrap();
    }
    let refused = store.keyspace("one more");
    assert!(matches!(refused, Err(Error::Limit { .. })), "{refused:?}");
    assert!(store.drop_keyspace("7").unwrap());
    store.keyspace("one more").unwrap().insert("key", "value").unwrap();
    store.close().unwrap();
    let store = Options::new().background(false).open(directory.path()).unwrap();
    assert_eq!(store.keyspace_names().len(), 16_384);
    assert_eq!(store.keyspace("one more").unwrap().len(), 1);
}
