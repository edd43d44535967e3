//! Tests of followers: handles that read a store while another handle writes to it.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod histories;
mod live;

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Follower, Options, Reader, Store};

/// The contents of every keyspace, by name.
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

fn follow(disk: &SimDisk) -> Follower {
    Options::new().follow_on(disk).unwrap()
}

fn map_of(reader: &Reader) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let items = reader.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    let map: BTreeMap<_, _> = items.collect::<Result<_, _>>().unwrap();
    assert_eq!(reader.len(), map.len());
    for (key, value) in &map {
        assert_eq!(reader.get(key).unwrap().as_deref(), Some(value.as_slice()));
    }
    map
}

/// Returns what a follower shows.
fn shown(follower: &Follower) -> Contents {
    let named = follower.keyspace_names().into_iter();
    let mut all: Contents = named
        .map(|name| {
            let map = map_of(&follower.keyspace(&name).unwrap());
            (name, map)
        })
        .collect();
    all.insert(String::new(), map_of(follower));
    all
}

/// Returns what a store holds.
fn held(store: &Store) -> Contents {
    let named = store.keyspace_names().into_iter();
    let mut all: Contents = named
        .map(|name| {
            let map = map_of(&store.open_keyspace(&name).unwrap());
            (name, map)
        })
        .collect();
    all.insert(String::new(), map_of(store));
    all
}

/// Shows each value by the step that wrote it and its length.
fn brief(contents: &Contents) -> Vec<String> {
    let one = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        format!("{key:?}: {} ({})", value.first().unwrap_or(&0), value.len())
    };
    let map = |(name, map): (&String, &BTreeMap<_, _>)| {
        format!("{name:?}: {}", map.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    contents.iter().map(map).collect()
}

/// Refreshes, and compares with the store.
fn assert_same(follower: &Follower, store: &Store) {
    let refreshed = follower.refresh().unwrap();
    assert_eq!(refreshed.seq, follower.last_seq());
    assert!(refreshed.seq >= store.last_seq());
    assert_eq!(brief(&shown(follower)), brief(&held(store)), "{refreshed:?}");
}
