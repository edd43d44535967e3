//! Tests documented limits, and the rules for handles, closing and failures.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use mapcask::sim::{Fault, Operation, SimDisk};
use mapcask::{
    Durability, Error, MAX_KEY_LEN, MAX_KEYSPACE_NAME_LEN, MAX_VALUE_LEN, Options, Store, WriteBatch,
};

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn every_write_accepts_the_longest_key_and_refuses_a_longer_one() {
    let store = options().open_on(&SimDisk::new()).unwrap();
    let longest = vec![1; MAX_KEY_LEN];
    assert!(store.insert_if_absent(&longest, "1").unwrap());
    assert!(store.compare_and_swap(&longest, Some("1"), Some("2")).unwrap().is_ok());
    assert_eq!(store.replace(&longest, "3").unwrap().as_deref(), Some(b"2".as_slice()));
    assert_eq!(store.multi_get(std::slice::from_ref(&longest)).unwrap()[0].as_deref(), Some(b"3".as_slice()));
    assert_eq!(store.take(&longest).unwrap().as_deref(), Some(b"3".as_slice()));
    let longer = vec![1; MAX_KEY_LEN + 1];
    let seq = store.last_seq();
    let too_large =
        |result: mapcask::Result<()>| matches!(result, Err(Error::KeyTooLarge { len: 65_536, .. }));
    assert!(too_large(store.insert(&longer, "1").map(|_| ())));
    assert!(too_large(store.remove(&longer).map(drop)));
    assert!(too_large(store.insert_if_absent(&longer, "1").map(drop)));
    assert!(too_large(store.replace(&longer, "1").map(drop)) && too_large(store.take(&longer).map(drop)));
    assert!(too_large(store.compare_and_swap(&longer, None::<&str>, Some("1")).map(drop)));
    assert!(too_large(store.fetch_and_update(&longer, |_| Some("1")).map(drop)));
    let mut batch = WriteBatch::new();
    batch.insert("fine", "1");
    batch.insert(&longer, "1");
    assert!(too_large(store.write(&batch).map(|_| ())));
    // A read of an impossible key is no error.
    assert_eq!(store.get(&longer).unwrap(), None);
    assert!(!store.contains_key(&longer).unwrap());
    assert_eq!((store.last_seq(), store.len()), (seq, 0));
}

#[cfg(target_pointer_width = "64")]
#[test]
fn a_value_beyond_the_limit_is_refused_by_its_length() {
    let store = options().open_on(&SimDisk::new()).unwrap();
    // Zeros that are never touched take no memory.
    let value = vec![0_u8; MAX_VALUE_LEN + 1];
    let refused = store.insert("key", &value);
    assert!(matches!(refused, Err(Error::ValueTooLarge { len: 4_294_967_296, .. })), "{refused:?}");
    let refused = store.compare_and_swap("key", None::<&str>, Some(&value));
    assert!(matches!(refused, Err(Error::ValueTooLarge { .. })), "{refused:?}");
    assert!(store.is_empty());
}

#[test]
fn options_that_cannot_work_are_refused_before_anything_is_made() {
    let directory = directory();
    let path = directory.path().join("data");
    let refused = [
        options().segment_bytes(4095),
        options().segment_bytes((4 << 30) + 4096),
        options().max_disk_bytes(4096),
        options().sync_interval(std::time::Duration::ZERO),
    ];
    for options in refused {
        let error = options.clone().open(&path).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{options:?}: {error:?}");
    }
    assert!(!path.exists());
    let store = options().open(&path).unwrap();
    store.keyspace(&"n".repeat(MAX_KEYSPACE_NAME_LEN)).unwrap();
}

#[test]
fn store_closes_when_its_last_handle_is_dropped() {
    let directory = directory();
    let store = options().open(directory.path()).unwrap();
    let (keyspace, raised) = (store.keyspace("a").unwrap(), store.with_durability(Durability::Disk));
    let iter = keyspace.iter();
    drop(store);
    keyspace.insert("key", "1").unwrap();
    assert!(matches!(options().open(directory.path()), Err(Error::Locked { .. })));
    drop(raised);
    assert!(matches!(options().open(directory.path()), Err(Error::Locked { .. })));
    let value = keyspace.get("key").unwrap().unwrap();
    drop(keyspace);
    // Neither an iterator nor a value is a handle.
    let again = options().open(directory.path()).unwrap();
    assert!(again.recovery_report().clean);
    assert_eq!(again.keyspace("a").unwrap().get("key").unwrap().unwrap(), value);
    drop(iter);
}

#[test]
fn closing_closes_every_handle_and_leaves_what_was_read() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    let keyspace = store.keyspace("a").unwrap();
    keyspace.insert("key", "1").unwrap();
    let value = keyspace.get("key").unwrap().unwrap();
    let (mut iter, other) = (keyspace.iter(), store.clone());
    store.close().unwrap();
    let closed = |result: mapcask::Result<()>| matches!(result, Err(Error::Closed));
    assert!(closed(keyspace.get("key").map(drop)) && closed(keyspace.insert("key", "2").map(|_| ())));
    assert!(closed(keyspace.multi_get(&["key"]).map(drop)) && closed(keyspace.try_get("key").map(drop)));
    assert!(closed(keyspace.clear().map(|_| ())) && closed(keyspace.take("key").map(drop)));
    assert!(closed(other.keyspace("b").map(drop)) && closed(other.drop_keyspace("a").map(drop)));
    assert!(closed(other.rename_keyspace("a", "b")) && closed(other.flush()));
    assert!(closed(other.wait_durable(other.last_seq())) && closed(other.verify().map(drop)));
    let (key, found) = iter.next().unwrap().unwrap();
    assert!(key == "key" && found == "1" && iter.next().is_none());
    assert!(closed(other.close()));
    assert_eq!(&*value, b"1");
}

#[test]
fn failed_sync_refuses_every_write_and_allows_every_read() {
    let disk = SimDisk::new();
    let store = options().open_on(&disk).unwrap();
    let keyspace = store.keyspace("a").unwrap();
    keyspace.insert("key", "1").unwrap();
    disk.fail_nth(Some(Operation::SyncRange), 1, Fault::Io, false);
    let poisoned = |result: mapcask::Result<()>| matches!(result, Err(Error::Poisoned { .. }));
    assert!(poisoned(store.flush()));
    let seq = store.last_seq();
    assert!(poisoned(keyspace.insert("key", "2").map(|_| ())) && poisoned(keyspace.remove("key").map(drop)));
    assert!(poisoned(keyspace.compare_and_swap("key", Some("1"), Some("2")).map(drop)));
    assert!(poisoned(keyspace.clear().map(|_| ())) && poisoned(store.keyspace("b").map(drop)));
    assert!(poisoned(store.drop_keyspace("a").map(drop)) && poisoned(store.rename_keyspace("a", "b")));
    assert!(poisoned(store.wait_durable(seq)));
    assert_eq!(keyspace.get("key").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(keyspace.multi_get(&["key"]).unwrap()[0].as_deref(), Some(b"1".as_slice()));
    assert_eq!((store.last_seq(), keyspace.iter().count(), store.keyspace_names().len()), (seq, 1, 1));
    let failed = Store::close(store);
    assert!(poisoned(failed));
}

#[test]
fn an_iterator_goes_on_to_its_end_after_the_store_is_closed() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("store");
    let options = || Options::new().segment_bytes(16 << 10).background(false);
    let keys = 1_000_u32;
    let store = options().open(&path).unwrap();
    for key in 0..keys {
        store.insert(key.to_le_bytes(), key.to_le_bytes().repeat(30)).unwrap();
    }
    store.close().unwrap();
    // Nothing is mapped yet, and the next owner of the store removes all its files.
    let store = options().open(&path).unwrap();
    let mut iter = store.iter();
    let first = iter.next().unwrap().unwrap();
    let untouched = store.iter();
    drop(store);
    let next = options().open(&path).unwrap();
    next.clear().unwrap();
    next.compact().unwrap();
    assert!(next.is_empty());
    let rest: Vec<_> = std::iter::once(first).chain(iter.map(Result::unwrap)).collect();
    for found in [rest, untouched.filter_map(Result::ok).collect()] {
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in found {
            let key = u32::from_le_bytes(key[..].try_into().unwrap());
            assert_eq!(*value, *key.to_le_bytes().repeat(30));
            seen.insert(key);
        }
        assert!(seen.into_iter().eq(0..keys), "a silent end");
    }
}

#[test]
fn iterator_of_a_view_ends_with_an_error_after_a_close() {
    let store = options().open_on(&SimDisk::new()).unwrap();
    let keys = 1_000_u32;
    for key in 0..keys {
        store.insert(key.to_le_bytes(), "").unwrap();
    }
    let (other, view) = (store.clone(), store.view());
    let mut iter = view.iter();
    let (key, _) = iter.next().unwrap().unwrap();
    other.close().unwrap();
    let mut rest: Vec<_> = iter.by_ref().collect();
    assert!(matches!(rest.pop(), Some(Err(Error::Closed))) && rest.len() < keys as usize / 2);
    assert!(rest.iter().all(|item| item.as_ref().is_ok_and(|(other, _)| *other != key)));
    assert!(iter.next().is_none() && matches!(view.iter().next(), Some(Err(Error::Closed))));
}

/// The pages that may hold a contract, as their names and texts.
fn pages() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<_> = ["README.md", "DESIGN.md", "src/lib.rs"].map(|page| root.join(page)).into();
    found.extend(std::fs::read_dir(root.join("docs/design")).unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md" || extension == "rs"));
    let name = |path: &std::path::Path| path.strip_prefix(root).unwrap().display().to_string();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// Returns the rows of all tables of a page, as their cells without the brackets of links.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let rows = lines.filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(|cell| cell.trim().replace(['[', ']'], "")).collect()).collect()
}

/// Returns the table of a page that has this cell in its head, with the head.
fn table(text: &str, head: &str) -> Option<Vec<Vec<String>>> {
    // A row of dashes follows each head, so the table ends one row before the next row of dashes.
    let rows = rows(text);
    let begin = rows.iter().position(|row| row.iter().any(|cell| cell == head))?;
    let is_rule = |row: &Vec<String>| row.iter().all(|cell| cell.chars().all(|letter| "-:".contains(letter)));
    let next = rows[begin + 2..].iter().position(is_rule).map_or(rows.len(), |at| begin + 2 + at - 1);
    Some(rows[begin..next].to_vec())
}

#[test]
fn durability_is_stated_the_same_in_the_readme_and_the_crate() {
    let head = "an acknowledged write survives";
    let found: Vec<_> =
        pages().into_iter().filter_map(|(page, text)| Some((page, table(&text, head)?))).collect();
    let names: Vec<_> = found.iter().map(|(page, _)| page.as_str()).collect();
    assert_eq!(names, ["README.md", "src/lib.rs"], "the other pages link to one of these");
    assert_eq!(found[0].1, found[1].1);
    assert_eq!(found[0].1.len(), 5, "the head, its rule and three levels");
}

#[test]
fn isolation_is_stated_once_and_linked_from_the_design() {
    let pages = pages();
    let text = |name: &str| &pages.iter().find(|(page, _)| page == name).unwrap().1;
    let contract = table(text("src/lib.rs"), "operation").unwrap();
    let operations: Vec<_> = contract[2..].iter().map(|row| &row[0]).collect();
    assert!(operations.len() >= 8, "{operations:?}");
    for (page, text) in pages.iter().filter(|(page, _)| page != "src/lib.rs") {
        let again: Vec<_> = rows(text).into_iter().filter(|row| operations.contains(&&row[0])).collect();
        assert!(again.is_empty(), "{page} states it again: {again:?}");
    }
    assert!(text("DESIGN.md").contains("(src/lib.rs) says what each operation sees"));
}
