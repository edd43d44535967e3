//! Tests of followers: handles that read a store while another handle writes to it.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../support/contents.rs"]
mod contents;
mod histories;
mod live;
#[path = "../support/steps.rs"]
mod steps;
mod taking_over;
mod waiting;

use std::collections::BTreeMap;

use mapcask::sim::SimDisk;
use mapcask::{Follower, Options, Store};

use self::contents::{Contents, held, shown};

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

fn follow(disk: &SimDisk) -> Follower {
    Options::new().follow_on(disk).unwrap()
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
