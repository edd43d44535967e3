//! Tests of index checkpoints. An open from a checkpoint gives the same store as an open without
//! it, and no damage to a checkpoint is fatal.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod damage;
mod lazy_segments;
mod making;
mod opening;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mapcask::sim::SimDisk;
use mapcask::{Options, Store};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new().segment_bytes(4096).background(false)
}

fn open(disk: &SimDisk) -> Store {
    options().open_on(disk).unwrap()
}

fn key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

fn value(number: u32, round: u32) -> Vec<u8> {
    [number, round].map(u32::to_le_bytes).concat().repeat(5)
}

/// Returns a store with this number of keys, and its contents.
fn filled(disk: &SimDisk, keys: u32) -> (Store, Map) {
    let store = open(disk);
    let mut map = Map::new();
    for number in 0..keys {
        insert(&store, &mut map, number, 0);
    }
    (store, map)
}

fn insert(store: &Store, map: &mut Map, number: u32, round: u32) {
    store.insert(key(number), value(number, round)).unwrap();
    map.insert(key(number).to_vec(), value(number, round));
}

fn remove(store: &Store, map: &mut Map, number: u32) {
    let there = map.remove(key(number).as_slice());
    assert_eq!(store.remove(key(number)).unwrap(), there.is_some());
}

fn contents(store: &Store) -> Map {
    let items = store.iter().map(|item| item.map(|(key, value)| (Vec::from(key), Vec::from(value))));
    items.collect::<Result<_, _>>().unwrap()
}

/// Compares the contents by iteration, by gets, and by the counts.
fn check(store: &Store, map: &Map) {
    for (key, value) in map {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(value.as_slice()), "{key:?}");
    }
    let found = contents(store);
    // Shows the difference only, because there may be thousands of keys.
    let wrong: Vec<_> = found.keys().filter(|key| !map.contains_key(*key)).collect();
    assert!(found == *map, "{} of {} keys; not to be there: {wrong:?}", found.len(), map.len());
    let size = |(key, value): (&Vec<u8>, &Vec<u8>)| (32 + key.len() + value.len()).next_multiple_of(8) as u64;
    let stats = store.stats();
    assert_eq!((stats.keys, stats.live_bytes), (map.len() as u64, map.iter().map(size).sum()));
}

fn image_of(disk: &SimDisk) -> Option<String> {
    let images: Vec<_> = disk.files().into_iter().filter(|name| name.starts_with("INDEX-")).collect();
    assert!(images.len() <= 1, "{images:?}");
    images.into_iter().next()
}

/// Copies the files of an open store, as a kill would leave them.
fn copied(from: &Path) -> tempfile::TempDir {
    let to = directory();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // The copy's lock is free.
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns the path of the checkpoint in a directory, if there is one.
fn image_in(directory: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_image = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("INDEX-");
    let images: Vec<_> = paths.filter(is_image).collect();
    assert!(images.len() <= 1, "{images:?}");
    images.into_iter().next()
}

/// Runs all steps that the background has to do now.
fn rest(store: &Store) {
    while store.step().unwrap() || store.rest_step().unwrap() {}
}
