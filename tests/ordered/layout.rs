//! Tests of the places of records after a compaction.

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Keyspace, Options};

use super::items;

const KEYS: u32 = 2000;

/// Returns the number of keys whose value lies before that of the key in front of them.
fn descents(keyspace: &Keyspace) -> usize {
    let places: Vec<_> = keyspace.range::<&[u8]>(..).map(|item| item.unwrap().1.as_ptr() as usize).collect();
    places.windows(2).filter(|pair| pair[0] > pair[1]).count()
}

/// Cause: a pass copied records in the order of the log. Symptom: with data of four times the memory, a scan of all keys
/// read a page for each.
#[test]
fn compaction_lays_out_survivors_in_the_order_of_keys() {
    let disk = SimDisk::new();
    let store = Options::new().segment_bytes(1 << 20).background(false).open_on(&disk).unwrap();
    let (one, other) = (store.ordered_keyspace("one").unwrap(), store.ordered_keyspace("other").unwrap());
    let mut contents = BTreeMap::new();
    for number in (0..KEYS).map(|number| number * 1999 % KEYS) {
        let (key, mut value) = (number.to_be_bytes(), vec![1; 100]);
        for keyspace in [&one, &other] {
            keyspace.insert(key, &value).unwrap();
        }
        if number % 3 == 0 {
            value = vec![2; if number % 60 == 0 { 70_000 } else { 50 }];
            one.insert(key, &value).unwrap();
        }
        contents.insert(key.to_vec(), value);
    }
    assert!(descents(&one) > 500 && descents(&other) > 500);
    store.compact().unwrap();
    // Values of 70,000 bytes are not gathered, and each segment of copies begins anew.
    let (large, segments) = (KEYS as usize / 60 + 1, store.stats().segments);
    assert!(descents(&other) <= segments, "{} in {segments} segments", descents(&other));
    assert!(descents(&one) <= segments + large, "{} in {segments} segments", descents(&one));
    assert_eq!(items(one.range::<&[u8]>(..)), contents.into_iter().collect::<Vec<_>>());
    assert_eq!(other.len(), KEYS as usize);
}
