//! A transaction's own writes in its reads.

use std::collections::BTreeMap;

use super::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn items(range: mapcask::TxRange<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    range.map(|item| owned(item.unwrap())).collect()
}

/// Takes the items from random ends.
fn shuffled(mut range: mapcask::TxRange<'_>, random: &mut fastrand::Rng) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    loop {
        let is_front = random.bool();
        let item = if is_front { range.next() } else { range.next_back() };
        let Some(item) = item else { break };
        if is_front { front.push(owned(item.unwrap())) } else { back.push(owned(item.unwrap())) }
    }
    assert!(range.next().is_none() && range.next_back().is_none());
    back.reverse();
    [front, back].concat()
}

#[test]
fn reads_show_own_writes_from_both_ends() {
    let (store, [_, ordered]) = open_both();
    let mut random = fastrand::Rng::with_seed(6);
    let mut map = Map::new();
    for round in 0..60 {
        let mut transaction = store.begin();
        let mut seen = map.clone();
        for step in 0..60_u32 {
            let key = random.u16(..300).to_be_bytes();
            if random.u8(..3) > 0 {
                let value = [step.to_le_bytes(), u32::to_le_bytes(round)].concat();
                transaction.insert(&ordered, key, &value).unwrap();
                seen.insert(key.to_vec(), value);
            } else {
                transaction.remove(&ordered, key).unwrap();
                seen.remove(&key[..]);
            }
            let (from, to) = (random.u16(..300).to_be_bytes(), random.u16(..300).to_be_bytes());
            let within =
                if from < to { seen.range(from.to_vec()..to.to_vec()) } else { seen.range(vec![0xff]..) };
            let within: Vec<_> = within.map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(items(transaction.range(&ordered, from..to)), within);
            assert_eq!(shuffled(transaction.range(&ordered, from..to), &mut random), within);
            assert_eq!(transaction.count_range(&ordered, from..to).unwrap(), within.len() as u64);
            let value = transaction.get(&ordered, key).unwrap();
            assert_eq!(value.as_deref(), seen.get(&key[..]).map(|value| &**value));
        }
        if round % 2 == 0 {
            transaction.commit().unwrap();
            map = seen;
        }
        let found: Map =
            ordered.iter().map(|item| item.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
        assert_eq!(found, map);
    }
}

#[test]
fn neighbours_and_ends_show_own_writes() {
    let (store, [_, ordered]) = open_both();
    for key in ["b", "d", "f"] {
        ordered.insert(key, "stored").unwrap();
    }
    let mut transaction = store.begin();
    transaction.remove(&ordered, "b").unwrap();
    transaction.insert(&ordered, "c", "own").unwrap();
    transaction.insert(&ordered, "d", "own").unwrap();
    transaction.remove(&ordered, "f").unwrap();
    let at = |key: &str| Some((key.as_bytes().to_vec(), b"own".to_vec()));
    let mut t = transaction;
    assert_eq!(t.first_key_value(&ordered).unwrap().map(owned), at("c"));
    assert_eq!(t.last_key_value(&ordered).unwrap().map(owned), at("d"));
    assert_eq!(t.get_lt(&ordered, "d").unwrap().map(owned), at("c"));
    assert_eq!(t.get_le(&ordered, "d").unwrap().map(owned), at("d"));
    assert_eq!(t.get_ge(&ordered, "b").unwrap().map(owned), at("c"));
    assert_eq!(t.get_gt(&ordered, "c").unwrap().map(owned), at("d"));
    assert_eq!(t.get_gt(&ordered, "d").unwrap(), None);
    assert_eq!(items(t.prefix(&ordered, "d")).len(), 1);
    t.commit().unwrap();
    assert_eq!(ordered.keys().map(|key| key.unwrap().to_vec()).collect::<Vec<_>>(), [b"c", b"d"]);
}

#[test]
fn last_write_to_a_key_is_the_one_that_is_committed() {
    let (store, both) = open_both();
    let mut transaction = store.begin();
    for keyspace in &both {
        for n in 0..100_u64 {
            transaction.insert(keyspace, "counter", n.to_le_bytes()).unwrap();
            transaction.insert(keyspace, "gone", n.to_le_bytes()).unwrap();
        }
        transaction.remove(keyspace, "gone").unwrap();
    }
    let before = store.last_seq();
    let seq = transaction.commit().unwrap();
    // The frame and one record for each key.
    assert_eq!(seq.0, before.0 + 5);
    for keyspace in &both {
        assert_eq!(number(keyspace.get("counter").unwrap().as_deref()), 99);
        assert_eq!(keyspace.len(), 1);
    }
}

#[test]
fn ranges_of_a_keyspace_without_order_are_refused() {
    let (store, [plain, _]) = open_both();
    let mut transaction = store.begin();
    let late = store.keyspace("late").unwrap();
    for keyspace in [&plain, &late] {
        let mut range = transaction.range::<&str>(keyspace, ..);
        assert!(matches!(range.next(), Some(Err(Error::KeyspaceNotOrdered { .. }))));
        assert!(range.next().is_none() && range.next_back().is_none());
        let refused = transaction.first_key_value(keyspace);
        assert!(matches!(refused, Err(Error::KeyspaceNotOrdered { name }) if name == keyspace.name()));
        assert!(transaction.count_range::<&str>(keyspace, ..).is_err());
    }
    plain.insert("a", "1").unwrap();
    transaction.insert(&plain, "b", "2").unwrap();
    transaction.commit().unwrap();
}
