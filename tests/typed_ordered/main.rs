//! Tests ordered typed keyspaces, and transactions on typed keyspaces.
#![cfg(feature = "postcard")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod transactions;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use mapcask::{
    ChangeKind, Codec, Error, Follower, Options, Postcard, Result, Since, Store, TypedKeyspace, TypedReader,
    WriteBatch,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Ordered<K, V> = TypedKeyspace<K, V, Postcard>;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(directory: &tempfile::TempDir) -> Store {
    Options::new().segment_bytes(4096).background(false).open(directory.path().join("data")).unwrap()
}

fn ordered<K: ?Sized + Serialize, V: Serialize + DeserializeOwned>(store: &Store) -> Ordered<K, V> {
    store.ordered_typed_keyspace("ordered", Postcard).unwrap()
}

fn all<T>(items: impl Iterator<Item = Result<T>>) -> Vec<T> {
    items.map(Result::unwrap).collect()
}

/// Checks that an iterator has one item, a refusal.
#[track_caller]
fn refused_once<T: Debug>(mut items: impl Iterator<Item = Result<T>>, is_it: impl Fn(&Error) -> bool) {
    let first = items.next().unwrap().unwrap_err();
    assert!(is_it(&first), "{first}");
    assert!(items.next().is_none());
}

fn is_not_ordered(error: &Error) -> bool {
    matches!(error, Error::KeyspaceNotOrdered { name } if name == "plain")
}

fn is_codec(error: &Error) -> bool {
    matches!(error, Error::Codec { codec: "order-1", .. })
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Event {
    Start,
    Reading { sensor: String, time: i64 },
    Tags(Vec<String>),
}

fn texts() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just('\0'), Just('a'), Just('b'), Just('ü')], 0..3).prop_map(String::from_iter)
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        (texts(), -2..3_i64).prop_map(|(sensor, time)| Event::Reading { sensor, time }),
        vec(texts(), 0..3).prop_map(Event::Tags),
    ]
}

type Bounds<K> = (Bound<K>, Bound<K>);

/// Returns the items of a map within bounds, whose end may be before their begin.
fn within<K: Ord + Clone>(map: &BTreeMap<K, u32>, (from, to): &Bounds<K>) -> Vec<(K, u32)> {
    let is_above = |key: &K| match from {
        Included(from) => key >= from,
        Excluded(from) => key > from,
        Unbounded => true,
    };
    let is_below = |key: &K| match to {
        Included(to) => key <= to,
        Excluded(to) => key < to,
        Unbounded => true,
    };
    let found = map.iter().filter(|(key, _)| is_above(key) && is_below(key));
    found.map(|(key, value)| (key.clone(), *value)).collect()
}

/// Returns ranges of each kind between two keys.
fn ranges<K: Clone>(one: &K, other: &K) -> [Bounds<K>; 5] {
    [
        (Included(one.clone()), Excluded(other.clone())),
        (Excluded(one.clone()), Included(other.clone())),
        (Unbounded, Included(one.clone())),
        (Excluded(one.clone()), Unbounded),
        (Unbounded, Unbounded),
    ]
}

/// Compares each read of a keyspace with that of a map, and then the removals.
fn compare<K>(keys: Vec<K>, one: &K, other: &K)
where
    K: Serialize + DeserializeOwned + Ord + Clone + Debug,
{
    let directory = directory();
    let store = open(&directory);
    let keyspace: Ordered<K, u32> = ordered(&store);
    let mut map = BTreeMap::new();
    for (number, key) in (0..).zip(keys) {
        keyspace.insert(&key, &number).unwrap();
        map.insert(key, number);
    }
    assert_eq!(all(keyspace.iter()), Vec::from_iter(map.clone()));
    for range in ranges(one, other) {
        compare_range(&keyspace, &within(&map, &range), &range);
    }
    compare_neighbours(&keyspace, &map, one);
    compare_pops(&keyspace, map, one, other);
}

fn compare_range<K>(keyspace: &Ordered<K, u32>, expected: &[(K, u32)], range: &Bounds<K>)
where
    K: Serialize + DeserializeOwned + Ord + Clone + Debug,
{
    assert_eq!(all(keyspace.range(range.clone())), expected);
    let backwards = all(keyspace.range(range.clone()).rev());
    assert!(backwards.iter().rev().eq(expected));
    assert_eq!(keyspace.count_range(range.clone()).unwrap(), expected.len() as u64);
    assert_eq!(keyspace.get_range(range.clone(), 2).unwrap(), expected[..expected.len().min(2)]);
}

/// Returns the keys of a map below another one, up to it, from it on and above it, and those at the ends.
fn neighbours<K: Ord + Clone>(map: &BTreeMap<K, u32>, key: &K) -> [Option<(K, u32)>; 6] {
    let found = [
        map.range(..key).next_back(),
        map.range(..=key).next_back(),
        map.range(key..).next(),
        map.range((Excluded(key), Unbounded)).next(),
        map.first_key_value(),
        map.last_key_value(),
    ];
    found.map(|found| found.map(|(key, value)| (key.clone(), *value)))
}

fn compare_neighbours<K>(keyspace: &Ordered<K, u32>, map: &BTreeMap<K, u32>, key: &K)
where
    K: Serialize + DeserializeOwned + Ord + Clone + Debug,
{
    let expected = neighbours(map, key);
    let found = [
        keyspace.get_lt(key),
        keyspace.get_le(key),
        keyspace.get_ge(key),
        keyspace.get_gt(key),
        keyspace.first_key_value(),
        keyspace.last_key_value(),
    ];
    assert_eq!(found.map(Result::unwrap), expected);
}

fn compare_pops<K>(keyspace: &Ordered<K, u32>, mut map: BTreeMap<K, u32>, one: &K, other: &K)
where
    K: Serialize + DeserializeOwned + Ord + Clone + Debug,
{
    let key = map.range(one..).next().map(|(key, _)| key.clone());
    assert_eq!(keyspace.pop_first_in(one.clone()..).unwrap(), key.and_then(|key| map.remove_entry(&key)));
    let key = map.range(..=other).next_back().map(|(key, _)| key.clone());
    assert_eq!(keyspace.pop_last_in(..=other.clone()).unwrap(), key.and_then(|key| map.remove_entry(&key)));
    assert_eq!(keyspace.pop_last().unwrap(), map.pop_last());
    while let Some(first) = map.pop_first() {
        assert_eq!(keyspace.pop_first().unwrap(), Some(first));
    }
    assert_eq!(keyspace.pop_first().unwrap(), None);
    assert!(keyspace.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn keys_of_each_type_are_read_in_the_order_of_a_map(
        numbers in vec(-5..5_i64, 0..8),
        number in -6..6_i64,
        pairs in vec((texts(), 0..3_u32), 0..8),
        pair in (texts(), 0..3_u32),
        events in vec(events(), 0..8),
        event in events(),
    ) {
        compare(numbers, &number, &0);
        compare(pairs, &pair, &("a".to_owned(), 1));
        compare(events, &event, &Event::Reading { sensor: "a".to_owned(), time: 0 });
    }

    #[test]
    fn prefix_has_the_keys_with_these_first_fields(keys in vec((texts(), texts(), 0..2_u32), 0..8), text in texts()) {
        let directory = directory();
        let store = open(&directory);
        let keyspace: Ordered<(String, String, u32), ()> = ordered(&store);
        let mut sorted = keys;
        sorted.sort();
        sorted.dedup();
        for key in &sorted {
            keyspace.insert(key, &()).unwrap();
        }
        let with = |is_it: &dyn Fn(&(String, String, u32)) -> bool| -> Vec<_> {
            sorted.iter().filter(|key| is_it(key)).map(|key| (key.clone(), ())).collect()
        };
        let begins = with(&|key| key.0.starts_with(&text));
        prop_assert_eq!(&all(keyspace.prefix(&text)), &begins);
        let is_first = with(&|key| key.0 == text);
        prop_assert_eq!(&all(keyspace.prefix(&(&text,))), &is_first);
        let are_first = with(&|key| key.0 == text && key.1 == "a");
        prop_assert_eq!(&all(keyspace.prefix(&(&text, "a"))), &are_first);
        prop_assert!(all(keyspace.prefix(&(&text, "a")).rev()).iter().rev().eq(&are_first));
    }
}

#[test]
fn texts_are_stored_as_they_are() {
    let directory = directory();
    let store = open(&directory);
    let ages: Ordered<str, u32> = ordered(&store);
    ages.insert("anna", &42).unwrap();
    assert_eq!(ages.raw().first_key_value().unwrap().unwrap().0, "anna");
    assert_eq!(ages.multi_get(["anna", "berta"]).unwrap(), [Some(42), None]);
    assert_eq!(ages.update_and_fetch("anna", |age| age.map(|age| age + 1)).unwrap(), Some(43));
    assert!(ages.compare_and_swap("anna", Some(&43), None).unwrap().is_ok());
    assert!(ages.is_empty());
}

#[test]
fn both_opens_return_the_ordered_keys_after_a_reopen() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, ()> = ordered(&store);
    for number in [3, -300, 0, 256] {
        numbers.insert(&number, &()).unwrap();
    }
    drop((numbers, store));
    let store = open(&directory);
    let numbers: Ordered<i32, ()> = store.typed_keyspace("ordered", Postcard).unwrap();
    assert_eq!(all(numbers.range::<i32>(..)), [-300, 0, 3, 256].map(|number| (number, ())));
    assert!(numbers.contains_key(&256).unwrap() && numbers.remove(&256).unwrap());
    assert_eq!(ordered::<i32, ()>(&store).len(), 3);
    drop((numbers, store));
    let options = Options::new().read_only(true);
    let store = options.open(directory.path().join("data")).unwrap();
    for numbers in [ordered::<i32, ()>(&store), store.typed_keyspace("ordered", Postcard).unwrap()] {
        assert_eq!(all(numbers.iter()), [-300, 0, 3].map(|number| (number, ())));
    }
}

#[cfg(feature = "bincode")]
#[test]
fn other_codecs_and_plain_bytes_are_refused() {
    #[track_caller]
    fn mismatch<T: Debug>(result: Result<T>, of_stored: &str, of_asked: &str) {
        let Err(Error::CodecMismatch { stored, asked, .. }) = result else { panic!("{result:?}") };
        assert_eq!((stored.as_str(), asked.as_str()), (of_stored, of_asked));
    }
    use mapcask::Bincode;
    let directory = directory();
    let store = open(&directory);
    drop(ordered::<u32, u32>(&store));
    store.ordered_keyspace("bytes").unwrap();
    let bincode = || store.ordered_typed_keyspace::<u32, u32, _>("ordered", Bincode);
    mismatch(bincode(), "order-1+postcard-1", "order-1+bincode-1");
    let bincode = || store.typed_keyspace::<u32, u32, _>("ordered", Bincode);
    mismatch(bincode(), "order-1+postcard-1", "order-1+bincode-1");
    let bytes = store.ordered_typed_keyspace::<u32, u32, _>("bytes", Postcard);
    mismatch(bytes, "", "order-1+postcard-1");
    mismatch(store.typed_keyspace::<u32, u32, _>("bytes", Postcard), "", "postcard-1");
}

/// A codec with an id of its own, whose work is that of another codec.
#[derive(Debug, Clone)]
struct Named(String);

impl Codec for Named {
    fn id(&self) -> &str {
        &self.0
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        Postcard.encode(value, into)
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
        Postcard.decode(bytes)
    }
}

#[test]
fn ids_that_are_too_long_or_those_of_keys_are_refused() {
    let directory = directory();
    let store = open(&directory);
    for id in ["", "order-1+postcard-1", "order-2", "ä", &"a".repeat(57)] {
        let found = store.ordered_typed_keyspace::<u32, u32, _>("named", Named(id.to_owned()));
        assert!(matches!(found, Err(Error::InvalidOption { option: "codec", .. })), "{id}: {found:?}");
    }
    for id in ["order-1+postcard-1", "order-2"] {
        let found = store.typed_keyspace::<u32, u32, _>("named", Named(id.to_owned()));
        assert!(matches!(found, Err(Error::InvalidOption { option: "codec", .. })), "{id}: {found:?}");
    }
    assert_eq!(store.keyspace_names(), [""; 0]);
    let longest = || store.ordered_typed_keyspace::<u32, u32, _>("named", Named("a".repeat(56)));
    longest().unwrap().insert(&1, &2).unwrap();
    assert_eq!(longest().unwrap().get(&1).unwrap(), Some(2));
}

#[test]
fn a_keyspace_without_order_refuses_ordered_reads() {
    let directory = directory();
    let store = open(&directory);
    let plain: Ordered<u32, u32> = store.typed_keyspace("plain", Postcard).unwrap();
    plain.insert(&1, &2).unwrap();
    let ordered = store.ordered_typed_keyspace::<u32, u32, _>("plain", Postcard);
    assert!(is_not_ordered(&ordered.unwrap_err()));
    let default = store.ordered_typed_keyspace::<u32, u32, _>("", Postcard);
    assert!(matches!(default, Err(Error::KeyspaceNotOrdered { .. })));
    refused_once(plain.range(1..), is_not_ordered);
    refused_once(plain.prefix(&1_u32), is_not_ordered);
    for read in [TypedReader::get_lt, TypedReader::get_le, TypedReader::get_ge, TypedReader::get_gt] {
        assert!(is_not_ordered(&read(&plain, &1).unwrap_err()));
    }
    assert!(is_not_ordered(&plain.get_range(1.., 7).unwrap_err()));
    assert!(is_not_ordered(&plain.count_range(1..).unwrap_err()));
    for pop in [plain.pop_first(), plain.pop_last(), plain.pop_first_in(1..), plain.pop_last_in(1..)] {
        assert!(is_not_ordered(&pop.unwrap_err()));
    }
}

#[test]
fn keys_without_an_encoding_are_refused() {
    let directory = directory();
    let store = open(&directory);
    let heights: Ordered<f64, u32> = ordered(&store);
    heights.insert(&-0.5, &1).unwrap();
    heights.insert(&0.0, &2).unwrap();
    assert_eq!(heights.get(&-0.0).unwrap(), Some(2));
    assert!(is_codec(&heights.insert(&f64::NAN, &3).unwrap_err()));
    assert!(is_codec(&heights.get_le(&f64::NAN).unwrap_err()));
    assert!(is_codec(&heights.get_range(f64::NAN.., 1).unwrap_err()));
    assert!(is_codec(&heights.pop_first_in(..f64::NAN).unwrap_err()));
    refused_once(heights.range(f64::NAN..), is_codec);
    refused_once(heights.range(..=f64::NAN).rev(), is_codec);
    refused_once(heights.prefix(&(f64::NAN,)), is_codec);
    let mut range = heights.range::<f64>(..);
    assert!(
        is_codec(&range.seek(&f64::NAN).unwrap_err()) && is_codec(&range.seek_back(&f64::NAN).unwrap_err())
    );
    assert_eq!(all(range), [(-0.5, 1), (0.0, 2)]);
    assert_eq!(heights.len(), 2);
}

#[test]
fn encoded_keys_have_the_length_of_ordered_keys() {
    let directory = directory();
    let store = open(&directory);
    let names: Ordered<str, ()> = ordered(&store);
    names.insert(&"a".repeat(1024), &()).unwrap();
    names.insert(&"\0".repeat(512), &()).unwrap();
    for name in ["a".repeat(1025), "\0".repeat(513)] {
        assert!(matches!(names.insert(&name, &()), Err(Error::KeyTooLarge { .. })));
    }
}

#[test]
fn damaged_keys_are_errors_in_their_place() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<u32, u32> = ordered(&store);
    numbers.insert(&1, &1).unwrap();
    numbers.insert(&3, &3).unwrap();
    numbers.raw().insert([0, 0, 0, 2, 7], [0]).unwrap();
    let items: Vec<_> = numbers.range(1..).collect();
    assert_eq!(items[0].as_ref().unwrap(), &(1, 1));
    assert!(is_codec(items[1].as_ref().unwrap_err()));
    assert_eq!(items[2].as_ref().unwrap(), &(3, 3));
    assert!(is_codec(&numbers.get_gt(&1).unwrap_err()));
    assert!(is_codec(&numbers.iter().nth(1).unwrap().unwrap_err()));
    assert!(is_codec(&numbers.get_range::<u32>(.., 9).unwrap_err()));
    assert_eq!(numbers.count_range(2..).unwrap(), 2);
    assert!(is_codec(&numbers.pop_first_in(2..).unwrap_err()));
    assert_eq!(numbers.len(), 3, "a pop removes nothing that it cannot return");
    numbers.raw().insert(numbers.encode_key(&0).unwrap(), [0xff]).unwrap();
    assert!(matches!(numbers.pop_first(), Err(Error::Codec { codec, .. }) if codec != "order-1"));
    assert_eq!(numbers.pop_last().unwrap(), Some((3, 3)));
    assert_eq!(numbers.len(), 3);
}

#[test]
fn poppers_share_the_keys_among_them() {
    const KEYS: u32 = 2000;
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<u32, u32> = ordered(&store);
    for number in 0..KEYS {
        numbers.insert(&number, &number).unwrap();
    }
    let mut popped = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let numbers = numbers.clone();
                scope.spawn(move || {
                    let next = || if thread == 0 { numbers.pop_last() } else { numbers.pop_first() };
                    std::iter::from_fn(|| next().unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    popped.sort_unstable();
    assert_eq!(popped, (0..KEYS).map(|number| (number, number)).collect::<Vec<_>>());
}

/// Cause: serde counts the aliases of a struct's fields among its fields.
/// Symptom: keys were written that no range could return.
#[test]
fn keys_with_aliases_of_their_fields_are_read_back() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Place {
        #[serde(alias = "town", alias = "village")]
        city: String,
        number: u8,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Found {
        At {
            #[serde(alias = "spot")]
            place: Place,
        },
    }
    let directory = directory();
    let store = open(&directory);
    let places: Ordered<(Place, Found), u8> = ordered(&store);
    let key = |city: &str| {
        let place = Place { city: city.to_owned(), number: 7 };
        (place.clone(), Found::At { place })
    };
    places.insert(&key("ulm"), &1).unwrap();
    places.insert(&key("bonn"), &2).unwrap();
    assert_eq!(all(places.iter()), [(key("bonn"), 2), (key("ulm"), 1)]);
    let mut bytes = places.encode_key(&key("ulm")).unwrap();
    bytes.push(0);
    assert!(is_codec(&places.decode_key(&bytes).unwrap_err()));
}

#[test]
fn a_range_skips_keys_at_both_ends() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i8, ()> = ordered(&store);
    for number in -10..10 {
        numbers.insert(&number, &()).unwrap();
    }
    let mut range = numbers.range::<i8>(..);
    range.seek(&-3).unwrap();
    range.seek_back(&3).unwrap();
    range.seek(&-8).unwrap();
    assert_eq!(range.next().unwrap().unwrap().0, -3);
    assert_eq!(range.next_back().unwrap().unwrap().0, 3);
    assert_eq!(range.count(), 5);
}

#[test]
fn a_follower_reads_in_the_order_of_the_keys() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, u32> = ordered(&store);
    numbers.insert(&5, &1).unwrap();
    let follower = Follower::open(directory.path().join("data")).unwrap();
    let followed: TypedReader<i32, u32, _> = follower.typed_keyspace("ordered", Postcard).unwrap();
    numbers.insert(&-5, &2).unwrap();
    follower.refresh().unwrap();
    assert_eq!(all(followed.range(..=5)), [(-5, 2), (5, 1)]);
    assert_eq!(followed.get_lt(&5).unwrap(), Some((-5, 2)));
    assert_eq!(followed.get(&-5).unwrap(), Some(2));
    let named = follower.typed_keyspace::<i32, u32, _>("ordered", Named("other".to_owned()));
    assert!(matches!(named, Err(Error::CodecMismatch { .. })));
}

#[test]
fn bytes_of_snapshots_and_feeds_are_decoded() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, String> = ordered(&store);
    numbers.insert(&-5, &"before".to_owned()).unwrap();
    let snapshot = store.snapshot();
    numbers.insert(&-5, &"after".to_owned()).unwrap();
    let of_snapshot = snapshot.keyspace("ordered").unwrap();
    let value = of_snapshot.get(numbers.encode_key(&-5).unwrap()).unwrap().unwrap();
    assert_eq!(numbers.decode_value(&value).unwrap(), "before");
    let (key, _) = of_snapshot.get_ge(numbers.encode_key(&-6).unwrap()).unwrap().unwrap();
    assert_eq!(numbers.decode_key(&key).unwrap(), -5);
    assert!(is_codec(&numbers.decode_key(b"long!").unwrap_err()));
    let mut changes = store.changes(Since::Oldest).unwrap();
    assert!(matches!(changes.next().unwrap().unwrap().kind, ChangeKind::Created { name: "ordered" }));
    let found = changes.next().unwrap().unwrap();
    let ChangeKind::Insert { key, value } = found.kind else { panic!("{found:?}") };
    assert_eq!(numbers.decode_key(key).unwrap(), -5);
    assert_eq!(numbers.decode_value(value).unwrap(), "before");
    let plain: Ordered<i32, u32> = store.typed_keyspace("plain", Postcard).unwrap();
    assert_eq!(plain.decode_key(&plain.encode_key(&-5).unwrap()).unwrap(), -5);
    assert_ne!(plain.encode_key(&-5).unwrap(), numbers.encode_key(&-5).unwrap());
}

#[test]
fn a_salvaged_copy_has_the_order_and_the_encoding() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, u32> = ordered(&store);
    numbers.insert(&5, &1).unwrap();
    numbers.insert(&-5, &2).unwrap();
    drop((numbers, store));
    let store = Store::open(directory.path().join("salvaged")).unwrap();
    mapcask::salvage(directory.path().join("data"), &store).unwrap();
    assert_eq!(all(ordered::<i32, u32>(&store).iter()), [(-5, 2), (5, 1)]);
}

#[test]
fn a_batch_writes_keys_in_their_order() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, u32> = ordered(&store);
    let mut batch = WriteBatch::new();
    numbers.insert_in(&mut batch, &300, &1).unwrap();
    numbers.insert_in(&mut batch, &-300, &2).unwrap();
    numbers.insert_in(&mut batch, &0, &3).unwrap();
    numbers.remove_in(&mut batch, &0).unwrap();
    store.write(&batch).unwrap();
    assert_eq!(all(numbers.range::<i32>(..)), [(-300, 2), (300, 1)]);
}
