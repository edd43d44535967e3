//! Tests of the pages that a scan asks for before it reads them.
#![expect(clippy::big_endian_bytes, reason = "keys whose bytes ascend as the numbers do")]

use std::path::Path;

use super::keyspace::Keyspace;
use super::options::Options;
use super::read_around_tests::{forget, major_faults, read_singly_beyond, scratch};
use super::store::Store;
use super::tx_value::TxValue;
use crate::error::Result;
use crate::mem::resident::{QUESTIONS, resident_pages};

/// The number of keys. Four records take a page, and each fourth record lies on two.
const KEYS: u32 = 8000;
/// The keys that a scan returns at most.
const MANY: usize = 100;

/// A scan of up to so many keys, in an order and from a place of its own. It returns the number of those that it read.
type Scan = fn(&Store, &Keyspace, usize) -> usize;

const SCANS: [(&str, Scan); 9] = [
    ("range", |_, keys, many| keys.range(bound(4000)..).take(many).map(whole).count()),
    ("range from the back", |_, keys, many| keys.range(..bound(4000)).rev().take(many).map(whole).count()),
    ("range of a view", |_, keys, many| keys.view().range(bound(4000)..).take(many).map(whole).count()),
    ("range of a view from the back", |_, keys, many| {
        keys.view().range(..bound(4000)).rev().take(many).map(whole).count()
    }),
    ("prefix", |_, keys, _| {
        // About 125 keys begin with each of these.
        (64..68).map(|byte| keys.prefix([byte]).map(whole).count()).sum()
    }),
    ("range of a snapshot", |store, _, many| {
        let keys = store.snapshot().keyspace("keys").expect("it is there");
        keys.range(bound(4000)..).take(many).map(whole).count()
    }),
    ("range of a transaction", |store, keys, many| {
        store.begin().range(keys, bound(4000)..).take(many).map(owned).count()
    }),
    ("range as of one moment", |_, keys, many| {
        keys.get_range(bound(4000).., many).expect("whole").into_iter().map(Ok).map(whole).count()
    }),
    ("iterator", |_, keys, many| keys.iter().take(many).map(whole).count()),
];

/// The distance of two keys.
const STEP: u64 = u64::MAX / KEYS as u64;

/// Returns keys in ascending order. Their ends differ, so that a leaf's first key differs from the bound of the leaf.
fn key(number: u32) -> [u8; 8] {
    let end = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) % (STEP / 2);
    (u64::from(number) * STEP + end).to_be_bytes()
}

/// Returns a bound that is below a key and above the one before.
fn bound(number: u32) -> [u8; 8] {
    (u64::from(number) * STEP - STEP / 4).to_be_bytes()
}

/// Reads an item to its last byte.
fn whole<T: AsRef<[u8]>>(item: Result<(T, T)>) {
    let (_, value) = item.expect("whole");
    assert!(value.as_ref().iter().all(|byte| *byte == 7));
}

fn owned(item: Result<(TxValue, TxValue)>) {
    let (_, value) = item.expect("whole");
    assert!(value.iter().all(|byte| *byte == 7));
}

fn options() -> Options {
    Options::new().background(false).segment_bytes(16 << 20)
}

/// Fills a store whose keys have another order in the log than in the keyspace.
fn fill(place: &Path) {
    let store = options().open(place).expect("an empty directory");
    let keys = store.ordered_keyspace("keys").expect("it is new");
    for number in 0..KEYS {
        keys.insert(key(number * 4999 % KEYS), [7; 1000]).expect("there is room");
    }
    store.close().expect("sound");
}

/// Opens the store with no page of a record in memory.
fn open_cold(place: &Path, memory: u64) -> (Store, Keyspace) {
    forget(place);
    let store = options().open(place).expect("it is whole");
    let keys = store.ordered_keyspace("keys").expect("it is there");
    read_singly_beyond(&store, memory);
    (store, keys)
}

/// Returns the faults for which the device was read during a call, and the questions about pages.
fn counted(call: impl FnOnce() -> usize) -> (u64, u64, usize) {
    let (faults, questions) = (major_faults(), QUESTIONS.get());
    let found = call();
    (major_faults() - faults, QUESTIONS.get() - questions, found)
}

/// Returns the number of pages of the store's segments that are in memory.
fn resident(store: &Store) -> usize {
    let segments = store.engine().shared.segments.read();
    segments.values().map(|segment| resident_pages(segment.mapping())).sum()
}

/// Cause: a scan read the page of a record before it asked for that of the next.
/// Symptom: with data of four times the memory, a range of 100 keys took 1.4 times as long as 100 gets.
#[test]
fn scan_beyond_memory_asks_for_pages_before_it_reads_them() {
    let place = scratch();
    fill(place.path());
    for (name, scan) in SCANS {
        let (store, keys) = open_cold(place.path(), 1 << 20);
        let (faults, questions, found) = counted(|| scan(&store, &keys, MANY));
        assert!(found >= MANY && questions >= MANY as u64, "{name}: {found} keys, {questions} questions");
        assert_eq!(faults, 0, "{name}: every page was asked for");
    }
}

#[test]
fn scan_of_pages_in_memory_asks_about_few_of_them() {
    let place = scratch();
    fill(place.path());
    for (name, scan) in SCANS {
        for (memory, most) in [(u64::MAX, 0), (1 << 20, 16)] {
            let (store, keys) = open_cold(place.path(), memory);
            scan(&store, &keys, MANY);
            let (faults, questions, found) = counted(|| scan(&store, &keys, MANY));
            assert!(faults == 0 && found >= MANY, "{name}: {faults} faults for {found} keys");
            assert!(questions <= most, "{name}: {questions} questions");
            assert_eq!(questions == 0, memory == u64::MAX, "{name}: {questions} questions");
        }
    }
}

#[test]
fn range_of_a_view_asks_for_few_more_pages_than_it_reads() {
    let place = scratch();
    fill(place.path());
    for many in [1, 3, 10, 100] {
        let (store, keys) = open_cold(place.path(), 1 << 20);
        let before = resident(&store);
        assert_eq!(keys.view().range(bound(4000)..).take(many).map(whole).count(), many);
        let pages = resident(&store) - before;
        // A quarter of the records lies on two.
        assert!(pages <= (2 * many + 8) * 5 / 4, "{many} keys: {pages} pages");
    }
}
