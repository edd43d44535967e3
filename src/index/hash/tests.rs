//! Tests of the index against a model, against concurrent readers, and against its bound on memory.

use super::scan::Cursor;
use crate::fs::tuning::Tuning;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::bucket::SLOTS;
use super::*;
use crate::format::hash::HashKey;

/// Bits of a key in a location, where the key stands for the record.
const KEY_BITS: u32 = 24;

/// Returns the location of a key's record of some version.
pub(super) fn place(key: u64, version: u64) -> Location {
    Location::from_bits(version << KEY_BITS | (key + 1))
}

pub(super) fn key_at(location: Location) -> u64 {
    (location.to_bits() & ((1 << KEY_BITS) - 1)) - 1
}

pub(super) fn is_key(key: u64) -> impl FnMut(Location) -> Result<bool, Never> {
    move |location| Ok(key_at(location) == key)
}

pub(super) fn get(index: &Index, hash: Hash, key: u64) -> Option<Location> {
    index.find(hash, is_key(key)).unwrap()
}

pub(super) fn random_hash(key: u64) -> Hash {
    // One secret for all tests, so that failures are reproducible.
    static KEY: std::sync::OnceLock<HashKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| HashKey::from_secret([7; 32])).hash(&key.to_le_bytes())
}

pub(super) fn sorted(mut locations: Vec<Location>) -> Vec<Location> {
    locations.sort_unstable();
    locations
}

pub(super) fn scan_all(index: &Index) -> Vec<Location> {
    let mut out = Vec::new();
    let mut cursor = Some(Cursor::START);
    while let Some(at) = cursor {
        cursor = index.scan(at, &mut out).expect("it is whole");
    }
    out
}

/// The operations that the index and its oracle have in common.
pub(super) trait Table {
    fn get(&self, hash: Hash, key: u64) -> Option<Location>;
    fn insert(&mut self, hash: Hash, location: Location);
    fn replace(&mut self, hash: Hash, old: Location, new: Location) -> bool;
    fn remove(&mut self, hash: Hash, old: Location) -> bool;
    fn all(&self) -> Vec<Location>;
}

fn fill_one(writer: &mut IndexWriter, hash: Hash, location: Location) -> Option<Location> {
    let found = writer.fill(1, Tuning::SIMULATED, |shard| {
        shard.reserve().expect("memory");
        shard.find_or_insert(hash, location, is_key(key_at(location)))
    });
    writer.grow(1, Tuning::SIMULATED).expect("memory");
    found.unwrap()[0]
}

impl Table for IndexWriter {
    fn get(&self, hash: Hash, key: u64) -> Option<Location> {
        let found = self.find(hash, is_key(key)).unwrap();
        assert_eq!(get(self.index(), hash, key), found);
        found
    }
    fn insert(&mut self, hash: Hash, location: Location) {
        self.reserve().expect("memory");
        if key_at(location).is_multiple_of(2) {
            Self::insert(self, hash, location);
        } else {
            assert_eq!(fill_one(self, hash, location), None);
        }
        // The key exists now, and keeps its location.
        assert_eq!(fill_one(self, hash, place(key_at(location), 0)), Some(location));
    }
    fn replace(&mut self, hash: Hash, old: Location, new: Location) -> bool {
        Self::replace(self, hash, old, new)
    }
    fn remove(&mut self, hash: Hash, old: Location) -> bool {
        self.before_removals(1);
        let removed = Self::remove(self, hash, old);
        // Two merges for each removal suffice.
        self.before_removals(0);
        assert!(!self.index().is_sparse());
        removed
    }
    fn all(&self) -> Vec<Location> {
        assert_eq!(scan_all(self.index()).len(), self.index().len());
        scan_all(self.index())
    }
}

impl Table for hashbrown::HashTable<(u64, Location)> {
    fn get(&self, hash: Hash, key: u64) -> Option<Location> {
        let hash = hash.to_bits();
        self.find(hash, |entry| entry.0 == hash && key_at(entry.1) == key).map(|entry| entry.1)
    }
    fn insert(&mut self, hash: Hash, location: Location) {
        self.insert_unique(hash.to_bits(), (hash.to_bits(), location), |entry| entry.0);
    }
    fn replace(&mut self, hash: Hash, old: Location, new: Location) -> bool {
        let entry = self.find_mut(hash.to_bits(), |entry| entry.1 == old);
        entry.map(|entry| entry.1 = new).is_some()
    }
    fn remove(&mut self, hash: Hash, old: Location) -> bool {
        self.find_entry(hash.to_bits(), |entry| entry.1 == old).map(|entry| entry.remove()).is_ok()
    }
    fn all(&self) -> Vec<Location> {
        self.iter().map(|entry| entry.1).collect()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Inserts, or replaces an existing entry.
    Put(u64),
    /// Replaces or removes by an outdated location.
    Stale(u64),
    Remove(u64),
    RemoveFrom(u64, u64),
}

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        8 => (0..300u64).prop_map(Change::Put),
        1 => (0..300u64).prop_map(Change::Stale),
        4 => (0..300u64).prop_map(Change::Remove),
        1 => (0..300u64, 1..60u64).prop_map(|(from, count)| Change::RemoveFrom(from, count)),
    ];
    proptest::collection::vec(change, 1..800)
}

/// Returns hashes of all qualities, from good to the worst.
pub(super) fn hash_of_kind(kind: u8, key: u64) -> Hash {
    match kind {
        0 => random_hash(key),
        // Equal in all bits.
        1 => Hash::from_bits(5),
        // Few tags, spread over the buckets.
        2 => Hash::from_bits(random_hash(key).to_bits() & 7),
        // Equal in all bits that growth uses for a long time.
        3 => Hash::from_bits(key << 20),
        // Consecutive numbers.
        _ => Hash::from_bits(key),
    }
}

pub(super) fn apply(table: &mut impl Table, kind: u8, changes: &[Change]) -> Vec<Location> {
    change_all(table, kind, changes);
    let mut all = table.all();
    all.sort_unstable();
    all
}

pub(super) fn change_all(table: &mut impl Table, kind: u8, changes: &[Change]) {
    for (version, &change) in (1..).zip(changes) {
        match change {
            Change::Put(key) => {
                let hash = hash_of_kind(kind, key);
                match table.get(hash, key) {
                    Some(old) => assert!(table.replace(hash, old, place(key, version))),
                    None => table.insert(hash, place(key, version)),
                }
                assert_eq!(table.get(hash, key), Some(place(key, version)));
            }
            Change::Stale(key) => {
                let (hash, never) = (hash_of_kind(kind, key), place(key, 1 << 15));
                assert!(!table.replace(hash, never, place(key, version)) && !table.remove(hash, never));
            }
            Change::Remove(key) => remove(table, kind, key),
            Change::RemoveFrom(from, count) => (from..from + count).for_each(|key| remove(table, kind, key)),
        }
    }
}

fn remove(table: &mut impl Table, kind: u8, key: u64) {
    let hash = hash_of_kind(kind, key);
    if let Some(old) = table.get(hash, key) {
        assert!(table.remove(hash, old));
        assert_eq!(table.get(hash, key), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leaves_what_the_oracle_holds(kind in 0..5u8, base_bits in 0..3u32, changes in changes()) {
        let (_, mut writer) = Index::with_base_bits(base_bits, 0).unwrap();
        let ours = apply(&mut writer, kind, &changes);
        let theirs = apply(&mut hashbrown::HashTable::new(), kind, &changes);
        prop_assert_eq!(ours, theirs);
        check_shape(&writer);
    }
}

/// Checks X3, X4, and that no overflow line is lost.
pub(super) fn check_shape(writer: &IndexWriter) {
    let index = writer.index();
    let buckets = index.buckets();
    let mut lines_in_chains = 0;
    for number in 0..buckets {
        let head = index.heads.line(number);
        let mut places: Vec<_> = (0..SLOTS).map(|slot| head.entry(slot)).collect();
        let mut link = head.control().link();
        while let Some(next) = link {
            let line = index.overflow.line(next.line());
            places.extend((0..SLOTS).map(|slot| line.entry(slot)));
            lines_in_chains += 1;
            link = line.control().link();
        }
        let entries: Vec<_> = places.iter().filter(|entry| !entry.is_empty()).collect();
        assert!(entries.iter().all(|&&entry| bucket_of(index.hash_of(entry, number), buckets) == number));
        if places.len() > SLOTS {
            assert!(entries.len() > places.len() - SLOTS, "the last line is empty");
            assert!(places[..entries.len()].iter().all(|entry| !entry.is_empty()), "a gap in a chain");
        }
    }
    assert_eq!(
        lines_in_chains + writer.free_lines(),
        index.counters.0.overflow_lines.load(Ordering::Relaxed)
    );
}

#[test]
fn buckets_take_all_hashes_between_them_and_none_twice() {
    for buckets in 1..70u64 {
        let source = split_source(buckets);
        for hash in 0..256 {
            let before = bucket_of(hash, buckets);
            let after = bucket_of(hash, buckets + 1);
            assert!(before < buckets && (after == before || (before == source && after == buckets)));
            let mask = (1 << bits_of(before, buckets)) - 1;
            assert_eq!(hash & mask, before & mask);
        }
        let share: f64 = (0..buckets).map(|bucket| 0.5f64.powi(bits_of(bucket, buckets).cast_signed())).sum();
        assert!((share - 1.0).abs() < 1e-9, "{buckets} buckets have {share} of all hashes");
    }
}

#[test]
fn a_key_takes_at_most_16_bytes_at_every_size() {
    let (index, mut writer) = Index::new().unwrap();
    let (mut max, mut max_overflow) = (0.0f64, 0.0f64);
    for key in 0..1_500_000u64 {
        writer.reserve().unwrap();
        writer.insert(random_hash(key), place(key, 0));
        let count = index.len() as f64;
        if index.len() >= 100_000 {
            max = max.max(index.memory_bytes() as f64 / count);
            max_overflow =
                max_overflow.max((index.memory_bytes() / 64) as f64 / index.buckets() as f64 - 1.0);
        }
    }
    println!("at most {max:.2} bytes per key; {:.1}% overflow lines", max_overflow * 100.0);
    assert!(max <= 16.0, "{max} bytes per key");
    check_shape(&writer);
}

#[test]
fn a_reservation_pays_for_its_inserts_wherever_they_go() {
    let (index, mut writer) = Index::with_base_bits(0, 0).unwrap();
    for round in 0..20u64 {
        writer.reserve_many(100).unwrap();
        let lines = writer.ensured_lines();
        for key in round * 100..(round + 1) * 100 {
            writer.insert(hash_of_kind(if round % 2 == 0 { 0 } else { 1 }, key), place(key, 0));
        }
        assert_eq!(writer.ensured_lines(), lines);
    }
    assert_eq!(index.len(), 2000);
    check_shape(&writer);
}

#[test]
fn a_scan_sees_every_key_once_while_the_index_grows_under_it() {
    for step in [1, 3, 17] {
        let (index, mut writer) = Index::with_base_bits(1, 0).unwrap();
        let mut next = 0u64;
        let mut insert = |count| {
            for _ in 0..count {
                Table::insert(&mut writer, random_hash(next), place(next, 0));
                next += 1;
            }
            next
        };
        let before = insert(500);
        let (mut out, mut cursor) = (Vec::new(), Some(Cursor::START));
        while let Some(at) = cursor {
            cursor = index.scan(at, &mut out).expect("it is whole");
            if index.len() < 20_000 {
                insert(step);
            }
        }
        let mut keys: Vec<u64> = out.into_iter().map(key_at).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "a key came twice");
        assert!((0..before).all(|key| keys.binary_search(&key).is_ok()), "a key was lost");
    }
}

/// Fills the one bucket and searches for the last of `hashes`, which must have the hash of the
/// first. Makes a change while the search reads the record of the first.
fn find_across(hashes: &[u64], change: impl FnOnce(&mut IndexWriter)) {
    let (index, mut writer) = Index::with_base_bits(0, 0).expect("memory");
    for (key, &hash) in (0..).zip(hashes) {
        writer.reserve_lines(1);
        writer.insert(Hash::from_bits(hash), place(key, 0));
    }
    let sought = hashes.len() as u64 - 1;
    let mut change = Some(change);
    let found = index.find(Hash::from_bits(hashes[0]), |location| {
        if let Some(change) = change.take() {
            assert_eq!(location, place(0, 0));
            change(&mut writer);
        }
        Ok::<_, Never>(location == place(sought, 0))
    });
    assert_eq!(found, Ok(Some(place(sought, 0))));
    check_shape(&writer);
}

#[test]
fn search_finds_key_that_a_split_takes_away() {
    find_across(&[1, 0, 1], IndexWriter::split_one);
}

#[test]
fn search_finds_key_that_a_split_moves_forward() {
    // Six leavers, and nine stayers, the last of them alone in the third line. It moves to the end
    // of the first line, which the search has left, and the head's link stays as it is.
    find_across(&[0, 1, 1, 1, 1, 1, 1, 2, 4, 6, 8, 10, 12, 14, 0], IndexWriter::split_one);
}

#[test]
fn search_finds_key_that_a_removal_moves_forward() {
    let hashes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0];
    find_across(&hashes, |writer| assert!(writer.remove(Hash::from_bits(1), place(1, 0))));
    find_across(&hashes[..8].iter().copied().chain([0]).collect::<Vec<_>>(), |writer| {
        for key in 1..3 {
            assert!(writer.remove(Hash::from_bits(key), place(key, 0)));
        }
        // The freed line serves another bucket.
        writer.split_one();
    });
}

#[test]
fn a_key_that_is_replaced_during_a_search_is_found() {
    let (index, mut writer) = Index::with_base_bits(0, 0).unwrap();
    for key in 0..2 {
        writer.reserve_lines(1);
        writer.insert(Hash::from_bits(0), place(key, 0));
    }
    let found = index.find(Hash::from_bits(0), |location| {
        if location == place(0, 0) {
            assert!(writer.replace(Hash::from_bits(0), place(1, 0), place(1, 1)));
        }
        Ok::<_, Never>(key_at(location) == 1)
    });
    assert_eq!(found, Ok(Some(place(1, 1))));
}

#[test]
fn readers_and_scans_never_miss_a_key_that_stays() {
    const FIXED: u64 = 200;
    for round in 0..6u64 {
        let (index, mut writer) = Index::with_base_bits(0, 0).unwrap();
        // Chains: half of the rounds have few tags.
        let hash = |key: u64| if round % 2 == 0 { random_hash(key) } else { hash_of_kind(2, key) };
        for key in 0..FIXED {
            Table::insert(&mut writer, hash(key), place(key, 0));
        }
        let stop = AtomicBool::new(false);
        // Without the barrier, the churn may end before the other threads have begun.
        let begin = std::sync::Barrier::new(3);
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                while !stop.load(Ordering::Relaxed) {
                    for key in 0..FIXED {
                        assert!(
                            get(&index, hash(key), key).is_some(),
                            "key {key} was missed in round {round}"
                        );
                        assert!(get(&index, hash(key), 1 << 22).is_none());
                    }
                }
            });
            scope.spawn(|| {
                begin.wait();
                while !stop.load(Ordering::Relaxed) {
                    let mut keys: Vec<u64> = scan_all(&index).into_iter().map(key_at).collect();
                    keys.retain(|&key| key < FIXED);
                    keys.sort_unstable();
                    assert!(keys.iter().copied().eq(0..FIXED), "round {round}: {keys:?}");
                    index.populate_ahead().unwrap();
                }
            });
            begin.wait();
            churn(&mut writer, hash, FIXED, round);
            stop.store(true, Ordering::Relaxed);
        });
        check_shape(&writer);
    }
}

/// Inserts, removes and replaces keys among others that stay; the index grows all the time.
fn churn(writer: &mut IndexWriter, hash: impl Fn(u64) -> Hash, fixed: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut keys: Vec<(u64, u64)> = (0..fixed).map(|key| (key, 0)).collect();
    let mut next = fixed;
    let fixed = usize::try_from(fixed).expect("a small number");
    for version in 1..20_000u64 {
        match random.u8(0..8) {
            0..3 => {
                Table::insert(writer, hash(next), place(next, 0));
                keys.push((next, 0));
                next += 1;
            }
            3..5 if keys.len() > fixed => {
                let (key, old) = keys.swap_remove(random.usize(fixed..keys.len()));
                assert!(Table::remove(writer, hash(key), place(key, old)));
            }
            _ => {
                let (key, old) = keys[random.usize(..keys.len())];
                assert!(Table::replace(writer, hash(key), place(key, old), place(key, version % 0xffff)));
                let entry = keys.iter_mut().find(|entry| entry.0 == key).expect("chosen from here");
                entry.1 = version % 0xffff;
            }
        }
    }
}

#[test]
fn memory_ahead_of_the_writer_is_made_in_steps() {
    let (index, mut writer) = Index::new().unwrap();
    let mut steps = 0;
    for key in 0..200_000u64 {
        if index.is_short_of_room() {
            // Before the first split, and not for an index that may stay small.
            assert!(steps > 0 || key == 2 * 4096, "first for {key} keys");
            index.populate_ahead().unwrap();
            assert!(!index.is_short_of_room());
            steps += 1;
        }
        Table::insert(&mut writer, random_hash(key), place(key, 0));
    }
    assert!(steps > 10, "{steps}");
    check_shape(&writer);
}

#[test]
fn populated_memory_takes_18_bytes_per_key_at_most() {
    let (index, mut writer) = Index::new().unwrap();
    let mut most = 0.0_f64;
    for key in 0..300_000_u64 {
        if index.is_short_of_room() {
            index.populate_ahead().unwrap();
        }
        Table::insert(&mut writer, random_hash(key), place(key, 0));
        if key >= 100_000 {
            let used = [index.buckets(), index.counters.0.overflow_lines.load(Ordering::Relaxed)];
            let marks = [&index.populated.heads, &index.populated.overflow];
            let lines =
                std::iter::zip(used, marks).map(|(used, mark)| used.max(mark.load(Ordering::Relaxed)));
            most = most.max((64 * lines.sum::<u64>()) as f64 / key as f64);
        }
    }
    assert!(most <= 18.0, "{most} bytes per key");
}
