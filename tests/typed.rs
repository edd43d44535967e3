//! Tests keyspaces of typed keys and values.
#![cfg(all(feature = "bincode", feature = "postcard"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeMap;

use mapcask::{Bincode, Codec, Durability, Error, Options, Postcard, Store, TypedKeyspace, WriteBatch};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u32,
    tags: Vec<String>,
}

fn user(age: u32) -> User {
    User { name: "Anna".to_owned(), age, tags: vec!["admin".to_owned(); 2] }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(directory: &tempfile::TempDir) -> Store {
    Options::new().segment_bytes(4096).background(false).open(directory.path()).unwrap()
}

/// Calls every function of a typed keyspace with one codec.
fn round_trip<C: Codec + Clone>(codec: C) {
    let directory = directory();
    let store = open(&directory);
    let users: TypedKeyspace<str, User, C> = store.typed_keyspace("users", codec.clone()).unwrap();
    users.insert("anna", &user(42)).unwrap();
    assert_eq!(users.get("anna").unwrap(), Some(user(42)));
    assert_eq!(users.get("berta").unwrap(), None);
    assert!(users.contains_key("anna").unwrap() && !users.contains_key("berta").unwrap());
    assert!(users.insert_if_absent("berta", &user(1)).unwrap());
    assert!(!users.insert_if_absent("berta", &user(2)).unwrap());
    assert_eq!(users.replace("berta", &user(3)).unwrap(), Some(user(1)));
    assert_eq!(users.multi_get(["berta", "missing", "anna"]).unwrap(), [Some(user(3)), None, Some(user(42))]);
    let older = |old: Option<User>| old.map(|old| user(old.age + 1));
    assert_eq!(users.fetch_and_update("anna", older).unwrap(), Some(user(42)));
    assert_eq!(users.update_and_fetch("anna", older).unwrap(), Some(user(44)));
    assert_eq!(users.update_and_fetch("missing", older).unwrap(), None);
    assert!(users.compare_and_swap("anna", Some(&user(44)), Some(&user(45))).unwrap().is_ok());
    assert!(users.compare_and_swap("anna", Some(&user(44)), None).unwrap().is_err());
    let content: BTreeMap<String, User> = users.iter().map(Result::unwrap).collect();
    assert_eq!(content, BTreeMap::from([("anna".to_owned(), user(45)), ("berta".to_owned(), user(3))]));
    let mut batch = WriteBatch::new();
    users.insert_in(&mut batch, "clara", &user(5)).unwrap();
    users.remove_in(&mut batch, "anna").unwrap();
    store.write(&batch).unwrap();
    assert_eq!(users.take("clara").unwrap(), Some(user(5)));
    assert!(users.remove("berta").unwrap() && !users.remove("anna").unwrap());
    assert!(users.is_empty() && users.raw().is_empty());
    let seq = users.with_durability(Durability::Disk).insert("anna", &user(6)).unwrap();
    assert!(store.durable_seq() >= seq);
    drop((users, store));
    let users: TypedKeyspace<str, User, C> = open(&directory).typed_keyspace("users", codec).unwrap();
    assert_eq!((users.len(), users.get("anna").unwrap()), (1, Some(user(6))));
}

#[test]
fn types_come_back_as_they_were_with_either_codec() {
    round_trip(Bincode);
    round_trip(Postcard);
}

#[test]
fn keys_of_every_kind_find_their_values() {
    let directory = directory();
    let store = open(&directory);
    let numbers = store.typed_keyspace::<u64, i8, _>("numbers", Postcard).unwrap();
    let pairs = store.typed_keyspace::<(u32, String), (), _>("pairs", Bincode).unwrap();
    let bytes = store.typed_keyspace::<[u8], u8, _>("bytes", Postcard).unwrap();
    for n in [0, 1, 127, 128, u64::MAX] {
        numbers.insert(&n, &-1).unwrap();
        assert_eq!(numbers.get(&n).unwrap(), Some(-1));
    }
    assert_eq!(numbers.len(), 5);
    pairs.insert(&(7, "x".to_owned()), &()).unwrap();
    assert_eq!(pairs.iter().next().unwrap().unwrap(), ((7, "x".to_owned()), ()));
    bytes.insert(&[1, 2, 3], &9).unwrap();
    assert_eq!(bytes.iter().next().unwrap().unwrap(), (vec![1, 2, 3], 9));
}

#[test]
fn typed_keyspace_opens_with_its_own_codec_or_as_bytes() {
    let directory = directory();
    let store = open(&directory);
    store.typed_keyspace::<str, u32, _>("postcard", Postcard).unwrap().insert("a", &1).unwrap();
    store.keyspace("plain").unwrap();
    let cleared = store.typed_keyspace::<str, u32, _>("cleared", Bincode).unwrap();
    cleared.raw().clear().unwrap();
    store.rename_keyspace("cleared", "renamed").unwrap();
    let mismatch = |name, stored_then: &str| match store.typed_keyspace::<str, u32, _>(name, Bincode) {
        Err(Error::CodecMismatch { stored, asked, .. }) => {
            assert_eq!((stored.as_str(), asked.as_str()), (stored_then, Bincode.id()));
        }
        other => panic!("{other:?}"),
    };
    mismatch("postcard", Postcard.id());
    mismatch("plain", "");
    mismatch("", "");
    assert_eq!(store.keyspace("postcard").unwrap().len(), 1);
    store.typed_keyspace::<str, u32, _>("renamed", Bincode).unwrap();
    store.close().unwrap();
    let store = open(&directory);
    assert!(store.typed_keyspace::<str, u32, _>("renamed", Postcard).is_err());
    assert!(store.typed_keyspace::<str, u32, _>("postcard", Bincode).is_err());
    store.typed_keyspace::<str, u32, _>("renamed", Bincode).unwrap();
}

#[test]
fn undecodable_value_is_an_error_and_no_update_changes_it() {
    let directory = directory();
    let store = open(&directory);
    let users: TypedKeyspace<str, User, _> = store.typed_keyspace("users", Postcard).unwrap();
    let mut key = Vec::new();
    Postcard.encode("anna", &mut key).unwrap();
    users.raw().insert(&key, [0xff; 20]).unwrap();
    let seq = store.last_seq();
    let is_codec = |error: Error| matches!(error, Error::Codec { .. });
    assert!(is_codec(users.get("anna").unwrap_err()) && is_codec(users.iter().next().unwrap().unwrap_err()));
    assert!(is_codec(users.multi_get(["anna"]).unwrap_err()));
    assert!(is_codec(users.fetch_and_update("anna", |_| Some(user(1))).unwrap_err()));
    assert_eq!(
        (store.last_seq(), users.raw().get(&key).unwrap().as_deref()),
        (seq, Some([0xff; 20].as_slice()))
    );
}

/// A codec with a chosen id.
#[derive(Clone, Copy)]
struct Named(&'static str);

impl Codec for Named {
    fn id(&self) -> &str {
        self.0
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> mapcask::Result<()> {
        Postcard.encode(value, into)
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> mapcask::Result<T> {
        Postcard.decode(bytes)
    }
}

#[test]
fn a_codec_needs_an_id_that_can_be_kept() {
    let directory = directory();
    let store = open(&directory);
    let long = "x".repeat(65);
    for id in ["", "käse", long.leak()] {
        let refused = store.typed_keyspace::<str, u32, _>("a", Named(id));
        assert!(matches!(refused, Err(Error::InvalidOption { option: "codec", .. })), "{id:?}");
    }
    assert_eq!(store.keyspace_names(), Vec::<String>::new());
    store.typed_keyspace::<str, u32, _>("a", Named("mine-1")).unwrap();
}

/// Cause: a follower compared a codec's id with that of the keyspace, and plain bytes have an empty
/// one. Symptom: a codec with an empty id read plain bytes as typed values. Fix: both handles
/// refuse such a codec.
#[test]
fn a_codec_without_an_id_does_not_follow_plain_bytes() {
    let directory = directory();
    let store = open(&directory);
    store.keyspace("bytes").unwrap().insert("a", "1").unwrap();
    store.typed_keyspace::<str, u32, _>("typed", Named("mine-1")).unwrap();
    let follower = mapcask::Follower::open(directory.path()).unwrap();
    for name in ["bytes", "typed"] {
        let refused = follower.typed_keyspace::<str, u32, _>(name, Named(""));
        assert!(matches!(refused, Err(Error::InvalidOption { option: "codec", .. })), "{refused:?}");
        let refused = follower.typed_keyspace::<str, u32, _>(name, Named("mine-2"));
        assert!(matches!(refused, Err(Error::CodecMismatch { .. })), "{refused:?}");
    }
    assert!(follower.typed_keyspace::<str, u32, _>("typed", Named("mine-1")).unwrap().is_empty());
}
