//! Transactions on typed keyspaces, with and without an order.

use super::*;

/// Compares each read of a transaction, with own writes among those of the store, with that of a map.
fn compare<K>(keys: &[K], one: &K, other: &K)
where
    K: Serialize + DeserializeOwned + Ord + Clone + Debug,
{
    let directory = directory();
    let store = open(&directory);
    let keyspace: Ordered<K, u32> = ordered(&store);
    let (stored, own) = keys.split_at(keys.len() / 2);
    for key in stored {
        keyspace.insert(key, &1).unwrap();
    }
    let mut transaction = store.begin();
    let mut typed = transaction.on(&keyspace);
    for key in own {
        typed.insert(key, &2).unwrap();
    }
    typed.remove(other).unwrap();
    let mut map: BTreeMap<K, u32> = stored.iter().map(|key| (key.clone(), 1)).collect();
    map.extend(own.iter().map(|key| (key.clone(), 2)));
    map.remove(other);
    for range in ranges(one, other) {
        let expected = within(&map, &range);
        assert_eq!(all(typed.range(range.clone())), expected);
        assert!(all(typed.range(range.clone()).rev()).iter().rev().eq(&expected));
        assert_eq!(typed.count_range(range).unwrap(), expected.len() as u64);
    }
    let found = [
        typed.get_lt(one),
        typed.get_le(one),
        typed.get_ge(one),
        typed.get_gt(one),
        typed.first_key_value(),
        typed.last_key_value(),
    ];
    assert_eq!(found.map(Result::unwrap), neighbours(&map, one));
    transaction.commit().unwrap();
    assert!(all(keyspace.iter()).into_iter().eq(map));
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
        compare(&numbers, &number, &0);
        compare(&pairs, &pair, &("a".to_owned(), 1));
        compare(&events, &event, &Event::Reading { sensor: "a".to_owned(), time: 0 });
    }
}

#[test]
fn prefix_has_own_keys_with_these_first_fields() {
    let directory = directory();
    let store = open(&directory);
    let visits: Ordered<(String, u64), ()> = ordered(&store);
    visits.insert(&("anna".to_owned(), 2), &()).unwrap();
    let mut transaction = store.begin();
    let mut typed = transaction.on(&visits);
    typed.insert(&("anna".to_owned(), 1), &()).unwrap();
    typed.insert(&("annabel".to_owned(), 3), &()).unwrap();
    let numbers = |found: Vec<((String, u64), ())>| Vec::from_iter(found.into_iter().map(|(key, ())| key.1));
    assert_eq!(numbers(all(typed.prefix(&("anna",)))), [1, 2]);
    assert_eq!(numbers(all(typed.prefix("anna").rev())), [3, 2, 1]);
}

#[test]
fn a_keyspace_without_order_refuses_ordered_reads() {
    let directory = directory();
    let store = open(&directory);
    let plain: Ordered<u32, u32> = store.typed_keyspace("plain", Postcard).unwrap();
    plain.insert(&1, &2).unwrap();
    let mut transaction = store.begin();
    let mut typed = transaction.on(&plain);
    refused_once(typed.range(1..), is_not_ordered);
    refused_once(typed.prefix(&1_u32), is_not_ordered);
    assert!(is_not_ordered(&typed.first_key_value().unwrap_err()));
    assert!(is_not_ordered(&typed.get_le(&1).unwrap_err()));
    assert!(is_not_ordered(&typed.count_range(1..).unwrap_err()));
    assert_eq!(typed.get(&1).unwrap(), Some(2));
}

#[test]
fn keys_without_an_encoding_are_refused() {
    let directory = directory();
    let store = open(&directory);
    let heights: Ordered<f64, u32> = ordered(&store);
    heights.insert(&0.5, &1).unwrap();
    heights.raw().insert("no number", [0]).unwrap();
    let mut transaction = store.begin();
    let mut typed = transaction.on(&heights);
    refused_once(typed.range(f64::NAN..), is_codec);
    refused_once(typed.prefix(&f64::NAN), is_codec);
    assert!(is_codec(&typed.insert(&f64::NAN, &3).unwrap_err()));
    assert!(is_codec(&typed.get_lt(&f64::NAN).unwrap_err()));
    assert!(is_codec(&typed.count_range(f64::NAN..).unwrap_err()));
    // The bytes of the text are below those of the number.
    assert!(is_codec(&typed.get_lt(&0.5).unwrap_err()));
    let items: Vec<_> = typed.range::<f64>(..).collect();
    assert!(is_codec(items[0].as_ref().unwrap_err()));
    assert_eq!(items[1].as_ref().unwrap(), &(0.5, 1));
}

#[test]
fn a_transaction_reads_its_own_writes_in_place() {
    let directory = directory();
    let store = open(&directory);
    let numbers: Ordered<i32, u32> = ordered(&store);
    for number in [-300, 0, 300] {
        numbers.insert(&number, &1).unwrap();
    }
    let mut transaction = store.begin();
    let mut typed = transaction.on(&numbers);
    typed.insert(&-1, &2).unwrap();
    typed.insert(&300, &3).unwrap();
    typed.remove(&0).unwrap();
    assert_eq!(all(typed.range::<i32>(..)), [(-300, 1), (-1, 2), (300, 3)]);
    assert_eq!(all(typed.range(-300..300).rev()), [(-1, 2), (-300, 1)]);
    assert_eq!((typed.get(&0).unwrap(), typed.get(&300).unwrap()), (None, Some(3)));
    assert_eq!((typed.peek(&-1).unwrap(), typed.contains_key(&0).unwrap()), (Some(2), false));
    assert_eq!(typed.get_ge(&0).unwrap(), Some((300, 3)));
    assert_eq!(typed.get_lt(&0).unwrap(), Some((-1, 2)));
    assert_eq!(numbers.len(), 3);
    transaction.commit().unwrap();
    assert_eq!(all(numbers.iter()), [(-300, 1), (-1, 2), (300, 3)]);
}

#[test]
fn a_typed_read_is_a_part_of_what_must_hold() {
    let directory = directory();
    let store = open(&directory);
    let seats: Ordered<(u32, u32), u32> = ordered(&store);
    seats.insert(&(1, 1), &1).unwrap();
    let taken = |row, meanwhile: &(u32, u32)| {
        let mut transaction = store.begin();
        let last = all(transaction.on(&seats).prefix(&(row,))).pop().map_or(0, |((_, seat), _)| seat);
        transaction.on(&seats).insert(&(row, 100 + last), &2).unwrap();
        seats.insert(meanwhile, &3).unwrap();
        transaction.commit()
    };
    taken(1_u32, &(2, 1)).unwrap();
    assert!(matches!(taken(1, &(1, 2)), Err(Error::Conflict { .. })));
    let mut transaction = store.begin();
    assert_eq!(transaction.on(&seats).peek(&(1, 1)).unwrap(), Some(1));
    transaction.on(&seats).insert(&(9, 9), &1).unwrap();
    seats.insert(&(1, 1), &7).unwrap();
    transaction.commit().unwrap();
    let mut transaction = store.begin();
    assert!(transaction.on(&seats).contains_key(&(1, 1)).unwrap());
    transaction.on(&seats).remove(&(9, 9)).unwrap();
    seats.insert(&(1, 1), &8).unwrap();
    assert!(matches!(transaction.commit(), Err(Error::Conflict { .. })));
    assert_eq!(seats.get(&(9, 9)).unwrap(), Some(1));
}

#[test]
fn a_transaction_spans_typed_keyspaces_of_both_kinds() {
    let directory = directory();
    let store = open(&directory);
    let by_name: Ordered<str, u32> = store.typed_keyspace("plain", Postcard).unwrap();
    let by_age: Ordered<(u32, String), ()> = ordered(&store);
    let mut transaction = store.begin();
    transaction.on(&by_name).insert("anna", &42).unwrap();
    transaction.on(&by_age).insert(&(42, "anna".to_owned()), &()).unwrap();
    transaction.insert(&store, "count", "1").unwrap();
    transaction.commit().unwrap();
    assert_eq!(by_name.get("anna").unwrap(), Some(42));
    assert_eq!(by_age.first_key_value().unwrap().unwrap().0.1, "anna");
    let elsewhere = self::directory();
    let mut foreign = open(&elsewhere).begin();
    assert!(matches!(foreign.on(&by_name).get("anna"), Err(Error::ForeignKeyspace { .. })));
    refused_once(foreign.on(&by_age).range::<(u32, String)>(..), |error| {
        matches!(error, Error::ForeignKeyspace { .. })
    });
}
