//! Tests of bulk loading by several threads, against the result of one writer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::tests::{check_shape, hash_of_kind, is_key, key_at, place, scan_all};
use super::*;
use crate::fs::tuning::Tuning;
use crate::index::lines::block_error::BlockError;

const PARTS_BITS: u32 = 3;
const PARTS: usize = 1 << PARTS_BITS;

/// Puts the keys into the index, each with the batch's version, by threads that take parts as they
/// come.
fn fill(writer: &mut IndexWriter, threads: usize, kind: u8, keys: &[u64], version: u64) {
    let index = Arc::clone(writer.index());
    let next = AtomicUsize::new(0);
    let taken = writer.fill(threads, Tuning::SIMULATED, |shard| {
        let mut taken = 0;
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= PARTS {
                return Ok::<_, BlockError>(taken);
            }
            for &key in keys {
                let hash = hash_of_kind(kind, key);
                if index.part_of(hash, PARTS_BITS) != part {
                    continue;
                }
                taken += 1;
                shard.reserve().expect("memory");
                let new = place(key, version);
                let matches = |location| Ok::<_, BlockError>(key_at(location) == key);
                if let Some(old) = shard.find_or_insert(hash, new, matches).expect("nothing fails here") {
                    assert!(shard.replace(hash, old, new));
                }
            }
        }
    });
    assert_eq!(taken.expect("nothing fails here").iter().sum::<usize>(), keys.len(), "each in one part");
    writer.grow(threads, Tuning::SIMULATED).expect("memory");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bulk_load_by_threads_equals_one_writer(
        kind in 0..5u8,
        base_bits in 0..3u32,
        threads in 1..5usize,
        batches in proptest::collection::vec(proptest::collection::vec(0..600u64, 0..400), 1..6),
    ) {
        let (index, mut writer) = Index::with_base_bits(base_bits, 0).unwrap();
        let mut oracle = BTreeMap::new();
        for (version, keys) in (1..).zip(&batches) {
            let before = index.buckets();
            fill(&mut writer, threads, kind, keys, version);
            oracle.extend(keys.iter().map(|key| (*key, place(*key, version))));
            prop_assert_eq!(index.len(), oracle.len());
            // The result has as many buckets as one writer's reservations make, and no more.
            let least = (oracle.len() as u64 * 10).div_ceil(writer::LOAD_TIMES_TEN);
            prop_assert_eq!(index.buckets(), least.max(before));
            check_shape(&writer);
            // Removals free lines, which the next batch uses.
            for key in keys.iter().step_by(3) {
                if let Some(location) = oracle.remove(key) {
                    prop_assert!(writer.remove(hash_of_kind(kind, *key), location));
                }
            }
            for (key, location) in &oracle {
                let found = writer.find(hash_of_kind(kind, *key), is_key(*key)).unwrap();
                prop_assert_eq!(found, Some(*location));
            }
            let mut all = scan_all(&index);
            all.sort_unstable();
            let mut there: Vec<_> = oracle.values().copied().collect();
            there.sort_unstable();
            prop_assert_eq!(all, there);
            check_shape(&writer);
        }
    }
}

#[test]
fn bulk_load_returns_unused_lines_of_threads() {
    let (index, mut writer) = Index::with_base_bits(0, 0).unwrap();
    let keys: Vec<_> = (0..5000).collect();
    fill(&mut writer, 4, 0, &keys, 1);
    check_shape(&writer);
    let used = index.memory_bytes();
    // A few lines are left over for each thread, and are used first.
    for key in 5000..5100 {
        writer.reserve().unwrap();
        writer.insert(hash_of_kind(0, key), place(key, 1));
    }
    assert!(index.memory_bytes() <= used + 64 * 30, "{used} bytes, then {}", index.memory_bytes());
    check_shape(&writer);
}

#[test]
fn bulk_load_fails_if_one_thread_fails() {
    let (_, mut writer) = Index::with_base_bits(0, 0).unwrap();
    let turns = AtomicUsize::new(0);
    let done = writer.fill(3, Tuning::SIMULATED, |_| match turns.fetch_add(1, Ordering::Relaxed) {
        1 => Err("refused"),
        turn => Ok(turn),
    });
    assert!(done == Err("refused") || turns.into_inner() == 1, "{done:?}");
}
