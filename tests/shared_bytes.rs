//! Tests that a value as `bytes::Bytes` shares the value's memory, for as long as it is held.
#![cfg(feature = "bytes")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::thread;

use bytes::Bytes;
use mapcask::Store;

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(directory.path().join("data")).unwrap();
    (directory, store)
}

#[test]
fn bytes_lie_where_the_value_lies() {
    let (_directory, store) = open();
    store.insert("key", vec![7; 5000]).unwrap();
    let value = store.get("key").unwrap().unwrap();
    let place = value.as_ptr_range();
    let bytes = Bytes::from(value);
    assert_eq!(bytes.as_ptr_range(), place);
    assert_eq!(bytes.slice(100..200).as_ptr(), place.start.wrapping_add(100));
    assert_eq!(bytes, vec![7; 5000]);
}

#[test]
fn an_empty_value_is_empty() {
    let (_directory, store) = open();
    store.insert("key", "").unwrap();
    assert!(Bytes::from(store.get("key").unwrap().unwrap()).is_empty());
}

#[test]
fn bytes_outlive_the_key_the_store_and_its_files() {
    let (directory, store) = open();
    store.insert("key", vec![7; 100_000]).unwrap();
    let bytes = Bytes::from(store.get("key").unwrap().unwrap());
    store.insert("key", "new").unwrap();
    store.close().unwrap();
    directory.close().unwrap();
    let part = bytes.slice(99_000..);
    drop(bytes);
    // The bytes are sent to another thread and dropped there.
    thread::spawn(move || assert_eq!(part, vec![7; 1000])).join().unwrap();
}
