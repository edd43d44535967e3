//! Makes the keys, values and order that every contender gets.
//!
//! Keys are random, so that no contender gains from their order. Values are incompressible and
//! differ from key to key. Both are functions of a number, so that a child process needs no list of
//! them.

use std::hint::black_box;

/// The bytes in a key.
pub(crate) const KEY_LEN: usize = 16;
/// The bytes in a value, unless a row says otherwise.
pub(crate) const VALUE_LEN: usize = 100;
/// The bytes of the pool that values are cut from. It stays in the second-level cache: making
/// values must cost less than storing them.
const POOL_LEN: usize = 1 << 19;

/// A key as every contender gets it.
pub(crate) type Key = [u8; KEY_LEN];

/// Keys in the order of insertion, keys in another order for reads, and values.
pub(crate) struct Workload {
    /// The keys in the order of insertion.
    pub(crate) keys: Vec<Key>,
    /// The indexes into `keys`, shuffled.
    pub(crate) order: Vec<usize>,
    /// The keys in shuffled order, so that a bench reads this list from front to back.
    pub(crate) probes: Vec<Key>,
    /// Keys that were never stored.
    pub(crate) absent: Vec<Key>,
    pool: Vec<u8>,
}

impl Workload {
    /// Makes the workload for `count` keys.
    pub(crate) fn new(count: usize) -> Self {
        let keys: Vec<Key> = (0..count as u64).map(key).collect();
        let mut order: Vec<usize> = (0..count).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut order);
        let probes = order.iter().map(|at| keys[*at]).collect();
        let absent = (0..count as u64).map(|number| key(number | 1 << 63)).collect();
        Self { keys, order, probes, absent, pool: pool(POOL_LEN) }
    }

    /// Returns the value of the `at`-th key after `version` overwrites.
    pub(crate) fn value(&self, at: usize, version: usize) -> &[u8] {
        value(&self.pool, at, version)
    }
}

/// Returns bytes that cannot be compressed.
pub(crate) fn pool(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(11).fill(&mut bytes);
    bytes
}

/// Returns a value, cut from a pool of [`value_pool`]'s length.
pub(crate) fn value(pool: &[u8], at: usize, version: usize) -> &[u8] {
    let place = at.wrapping_add(version << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    &pool[place % (POOL_LEN - VALUE_LEN)..][..VALUE_LEN]
}

/// Returns the pool that [`value`] takes.
pub(crate) fn value_pool() -> Vec<u8> {
    pool(POOL_LEN)
}

/// Returns the key of a number.
pub(crate) fn key(number: u64) -> Key {
    let mut key = [0; KEY_LEN];
    key[..8].copy_from_slice(&mix(number).to_le_bytes());
    key[8..].copy_from_slice(&mix(!number).to_le_bytes());
    key
}

/// Mixes a number with the finisher of SplitMix64 (Steele et al. 2014): a bijection, so that no two
/// numbers share a key.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Touches every byte of a value.
pub(crate) fn whole(value: &[u8]) -> u64 {
    let (words, rest) = value.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word));
    black_box(rest.iter().fold(sum, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte)))
}

/// Touches one byte of a value.
pub(crate) fn one_byte(value: &[u8]) -> u64 {
    black_box(value.first().copied().map_or(0, u64::from))
}
