//! Tests of the removal of entries that lead to segments that are gone.

use std::collections::BTreeMap;
use std::path::Path;

use super::bucket::{IndexEntry, SLOTS};
use super::capture_tests::reopened;
use super::tests::{check_shape, get, place, random_hash, scan_all, sorted};
use super::*;
use crate::format::hint::{PARTS, part_of};
use crate::mem::address_space::GranuleRange;
use crate::mem::gone_ranges::GoneRanges;

const KEYS: u64 = 30_000;
/// The version of the records in the segment that is gone.
const GONE: u64 = 1;

/// Returns the range of the segment that is gone.
fn gone() -> GoneRanges {
    let granule = |key| u32::try_from(place(key, GONE).to_bits() >> 17).expect("it is small");
    let (first, last) = (granule(0), granule(2 * KEYS));
    let range = GranuleRange::from_granules(first, last - first + 1).expect("inside");
    GoneRanges::new(vec![range])
}

/// Returns an index from a checkpoint, and what it holds. One entry in `one_in` leads to the segment that
/// is gone.
fn restored(random: &mut fastrand::Rng, one_in: u64) -> (IndexWriter, BTreeMap<u64, Location>) {
    let (_, mut writer) = Index::new().expect("memory");
    let mut there = BTreeMap::new();
    for key in 0..KEYS {
        let version = if random.u64(..one_in) == 0 { GONE } else { 0 };
        writer.reserve().expect("memory");
        writer.insert(random_hash(key), place(key, version));
        there.insert(key, place(key, version));
    }
    (reopened(&mut writer).1, there)
}

/// Returns the locations in the last bucket.
fn last_bucket(index: &Index) -> Vec<Location> {
    let mut line = index.heads.line(index.buckets() - 1);
    let mut found = Vec::new();
    loop {
        found.extend((0..SLOTS).map(|slot| line.entry(slot)).filter_map(IndexEntry::location));
        match line.control().link() {
            Some(link) => line = index.overflow.line(link.line()),
            None => return found,
        }
    }
}

#[test]
fn whole_index_loses_the_entries_of_lost_segments() {
    let mut random = fastrand::Rng::with_seed(1);
    for one_in in [1, 2, 10] {
        let (mut writer, mut there) = restored(&mut random, one_in);
        let gone = gone();
        there.retain(|_, location| !gone.has(*location));
        assert_eq!(writer.purge(&gone).expect("nothing fails here"), KEYS - there.len() as u64);
        assert_eq!(sorted(scan_all(writer.index())), sorted(there.values().copied().collect()));
        check_shape(&writer);
        assert_eq!(writer.purge(&gone).expect("nothing fails here"), 0);
    }
}

#[test]
fn no_search_meets_an_entry_of_a_lost_segment() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut writer, mut there) = restored(&mut random, 5);
        let parts = Arc::new(WaitingParts::all(Path::new("store"), Arc::new(gone())));
        writer.wait_for_parts(&parts);
        let dead = there.values().filter(|location| parts.gone().has(**location)).count() as u64;
        let mut by_part = vec![Vec::new(); PARTS];
        (0..2 * KEYS).for_each(|key| by_part[part_of(random_hash(key))].push(key));
        let mut order: Vec<_> = (0..PARTS).collect();
        random.shuffle(&mut order);
        let (mut removed, mut splits) = (0, 0);
        for part in order {
            removed += writer.purge_part(part).expect("nothing fails here");
            parts.settle(part);
            for key in &by_part[part] {
                if there.get(key).is_some_and(|location| parts.gone().has(*location)) {
                    there.remove(key);
                }
                let hash = random_hash(*key);
                assert_eq!(get(writer.index(), hash, *key), there.get(key).copied(), "{key}");
                if !there.contains_key(key) {
                    // Splits buckets of other parts, most of which wait.
                    let before = writer.index().buckets();
                    writer.reserve().expect("memory");
                    if writer.index().buckets() > before {
                        splits += 1;
                        let moved = last_bucket(writer.index());
                        assert!(!moved.iter().any(|location| parts.gone().has(*location)));
                    }
                    writer.insert(hash, place(*key, 0));
                    there.insert(*key, place(*key, 0));
                }
            }
        }
        assert_eq!(removed, dead);
        assert!(splits > 1000, "{splits}");
        writer.index().end_waiting();
        assert_eq!(sorted(scan_all(writer.index())), sorted(there.values().copied().collect()));
        assert!(!writer.index().is_partial());
        writer.look_around();
        check_shape(&writer);
    }
}
