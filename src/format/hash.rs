//! The keyed hash function of the index.
//!
//! It is part of the format: index checkpoints hold parts of hashes. [`HASH_ID`] names this
//! function; a change to any constant or step here needs a new number. The function is neither a
//! checksum nor a message authentication code.
//!
//! **Format.** Arithmetic is modulo the Mersenne prime p = 2^61 - 1. The secret expands into 36
//! coefficients in [0, p): a constant c, a_len, a_s, r and a_0 to a_31, in this order
//! ([`HashKey::from_secret`]). A key is cut into blocks of 128 bytes, the last of 1 to 128 bytes
//! (of none for the empty key). A block is 32 little-endian 32-bit words m_0 to m_31, padded with
//! zero bytes. Then
//!
//! ```text
//! s := 0;  for every block but the last:  s := (s + sum a_i m_i) * r
//! h := c + a_len * len + a_s * s + sum a_i m_i    (the last block)
//! ```
//!
//! and the hash is `finish(h)`, a fixed bijection on 61 bits.
//!
//! **Guarantees.** They hold for coefficients drawn uniformly and keys chosen without knowledge of
//! them:
//!
//! 1. Two different keys of at most 128 bytes, or of different lengths, hash to two independent and
//!    uniform values: the family is *strongly universal* (pairwise independent). The difference of
//!    their sums is a sum of coefficients times integers below p that are not all zero, so it is
//!    uniform. The length is one of these integers, which makes the zero padding unambiguous. The
//!    constant c makes each value uniform for every difference.
//! 2. Two keys of one length that differ only in their last block hash to independent and uniform
//!    values too, because s is equal.
//! 3. Two keys of one length with other differences, with n full blocks before the last, hash to
//!    independent values except with a probability of at most (n + 1)/p. The difference of the two
//!    s is the sum over i of a_i P_i(r), where P_i is a polynomial of degree at most n without a
//!    constant term, and not all P_i are zero. A non-zero P_i vanishes at r with a probability of
//!    at most n/p. Otherwise the sum vanishes with a probability of 1/p. If the sum does not
//!    vanish, a_s makes h uniform. The bound is below 2^-51 for the longest key (64 KiB).
//!
//! A bijection such as `finish` preserves all of it. `finish` exists because sums keep arithmetic
//! progressions (consecutive integers as keys). Pairwise independence permits these, and a table
//! would suffer from them.
//!
//! Consequence for a table of N buckets and K keys: any key shares its bucket with at most K/N
//! others in expectation (up to rounding by p), for *every* set of keys. An attacker cannot prepare
//! colliding keys. The guarantee is against an *oblivious* attacker. It does not cover one that can
//! read the secret, or that can time single lookups precisely enough to find collisions by trial.
//! The coefficients are expanded from 256 bits instead of drawn, so the theorem holds up to the
//! quality of the expansion.
//!
//! Sources: Carter and Wegman, "Universal classes of hash functions" (1979), for sums of products
//! modulo a prime and for the Mersenne prime; Lemire and Kaser, "Strongly universal string hashing
//! is fast" (2014), for multilinear hashing with one reduction at the end; Dietzfelbinger and
//! others, "Polynomial hash functions are reliable" (1992), for the polynomial over the blocks of a
//! long key.

use std::fmt;

/// The number of this hash function.
pub const HASH_ID: u32 = 1;
/// Significant bits of a [`Hash`].
pub const HASH_BITS: u32 = 61;

/// The prime 2^61 - 1, which is also the mask of 61 bits.
const PRIME: u64 = (1 << HASH_BITS) - 1;
/// Words in a block.
const BLOCK_WORDS: usize = 32;
/// Bytes in a block.
const BLOCK_SIZE: usize = BLOCK_WORDS * 4;

/// A key's hash: 61 significant bits, the rest zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(u64);

impl Hash {
    /// Makes a hash from an integer; bits above the 61st are dropped.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & PRIME)
    }

    /// Returns the hash as an integer below 2^61.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

/// The coefficients of one store's hash. The debug form shows none of them.
#[derive(Clone)]
pub struct HashKey {
    constant: u64,
    len: u64,
    sum: u64,
    radix: u64,
    words: [u64; BLOCK_WORDS],
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").finish_non_exhaustive()
    }
}

impl HashKey {
    /// Expands a store's secret into coefficients.
    ///
    /// Let w_0 to w_3 be the secret's little-endian 64-bit words and `mix` the output function of
    /// `SplitMix64` (Steele, Lea and Flood 2014). For n = 1, 2, 3 and so on the stream is
    /// `mix(mix(mix(mix(n * 0x9e3779b97f4a7c15 ^ w_0) ^ w_1) ^ w_2) ^ w_3)`, reduced to its low 61
    /// bits. The value p is skipped, so that the rest is uniform in [0, p).
    #[must_use]
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(secret.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let mut n = 0u64;
        let mut draw = || loop {
            n += 1;
            let start = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let value = words.iter().fold(start, |x, word| mix(x ^ word)) & PRIME;
            if value != PRIME {
                return value;
            }
        };
        // The order of these fields is the order of the draws.
        Self {
            constant: draw(),
            len: draw(),
            sum: draw(),
            radix: draw(),
            words: std::array::from_fn(|_| draw()),
        }
    }

    /// Returns the hash of a key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> Hash {
        let start = u128::from(self.constant) + product(self.len, key.len() as u64);
        let sum = if key.len() <= 16 {
            start + self.short_sum(key)
        } else if key.len() <= BLOCK_SIZE {
            start + self.block_sum(key)
        } else {
            start + self.long_sum(key)
        };
        Hash(finish(reduce(sum)))
    }

    /// Returns the sum over the words of a block of at most 16 bytes.
    #[inline]
    fn short_sum(&self, block: &[u8]) -> u128 {
        let (first, second) = match (block.first_chunk::<8>(), block.last_chunk::<8>()) {
            (Some(head), Some(tail)) => {
                // The last eight bytes overlap the first eight; the overlap is shifted out.
                let overlap = 16 - block.len();
                let second = u64::from_le_bytes(*tail).checked_shr(8 * u32_of(overlap)).unwrap_or(0);
                (u64::from_le_bytes(*head), second)
            }
            _ => (short_word(block), 0),
        };
        self.pair(0, first) + self.pair(2, second)
    }

    /// Returns the sum over the words of a block of 16 to 128 bytes.
    fn block_sum(&self, block: &[u8]) -> u128 {
        let (chunks, rest) = block.as_chunks::<8>();
        let mut sum = 0;
        for (chunk, factors) in chunks.iter().zip(self.words.as_chunks::<2>().0) {
            sum += pair(factors, u64::from_le_bytes(*chunk));
        }
        match block.last_chunk::<8>() {
            Some(tail) if !rest.is_empty() => {
                let last = u64::from_le_bytes(*tail) >> (8 * u32_of(8 - rest.len()));
                sum + self.pair(2 * chunks.len(), last)
            }
            _ => sum,
        }
    }

    /// Returns the sum for a key of more than one block.
    #[cold]
    fn long_sum(&self, key: &[u8]) -> u128 {
        let full = (key.len() - 1) / BLOCK_SIZE;
        let (head, last) = key.split_at(full * BLOCK_SIZE);
        let mut s = 0;
        for block in head.as_chunks::<BLOCK_SIZE>().0 {
            s = reduce(product(reduce(u128::from(s) + self.block_sum(block)), self.radix));
        }
        let last = if last.len() < 16 { self.short_sum(last) } else { self.block_sum(last) };
        product(self.sum, s) + last
    }

    /// Multiplies two words of a block, the first at position `at`, by their coefficients and adds
    /// the products.
    #[inline]
    fn pair(&self, at: usize, words: u64) -> u128 {
        product(self.words[at], words & 0xffff_ffff) + product(self.words[at + 1], words >> 32)
    }
}

/// Multiplies two neighbouring words by their coefficients and adds the products.
#[inline]
fn pair(factors: &[u64; 2], words: u64) -> u128 {
    product(factors[0], words & 0xffff_ffff) + product(factors[1], words >> 32)
}

#[inline]
fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// Computes the output function of `SplitMix64`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Converts a count of at most 16.
#[inline]
fn u32_of(count: usize) -> u32 {
    debug_assert!(count <= 16);
    #[expect(clippy::cast_possible_truncation, reason = "callers count bytes of at most two words")]
    {
        count as u32
    }
}

/// Reads fewer than eight bytes as a little-endian integer, by loads that may overlap.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(head), Some(tail)) => {
            let shift = 8 * u32_of(len - 4);
            // Overlapping bits of the two loads are equal.
            u64::from(u32::from_le_bytes(*head)) | (u64::from(u32::from_le_bytes(*tail)) << shift)
        }
        _ => bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
    }
}

/// Reduces a sum below 2^126 modulo p.
///
/// The largest sum of a key consists of 33 products of 61 by 32 bits, one of 61 by 61 bits, one of
/// 61 bits by the length (fewer than 63 bits), and one coefficient.
#[inline]
fn reduce(x: u128) -> u64 {
    debug_assert!(x < 1 << 126);
    #[expect(clippy::cast_possible_truncation, reason = "each part is masked to its 61 bits or has four")]
    let (low, middle, high) =
        ((x as u64) & PRIME, ((x >> HASH_BITS) as u64) & PRIME, (x >> (2 * HASH_BITS)) as u64);
    // 2^61 is 1 modulo p. The sum has fewer than 63 bits, so one more folding leaves at most p + 2.
    let sum = low + middle + high;
    let folded = (sum & PRIME) + (sum >> HASH_BITS);
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// Applies the fixed bijection on 61 bits: each of its three steps has an inverse.
#[inline]
fn finish(x: u64) -> u64 {
    let x = x ^ (x >> 31);
    let x = x.wrapping_mul(0x1d8a_f066_8c5f_22a5) & PRIME;
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HashKey {
        HashKey::from_secret(std::array::from_fn(|i| u8::try_from(i * 7 + 1).unwrap()))
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from((i * i + 3 * i + len) % 251).unwrap()).collect()
    }

    /// Computes the definition in the file's head, word by word.
    fn naive(key: &HashKey, message: &[u8]) -> u64 {
        let p = u128::from(PRIME);
        let block_sum = |block: &[u8]| {
            let mut sum = 0u128;
            for (i, word) in block.chunks(4).enumerate() {
                let mut padded = [0; 4];
                padded[..word.len()].copy_from_slice(word);
                sum = (sum + u128::from(key.words[i]) * u128::from(u32::from_le_bytes(padded)) % p) % p;
            }
            sum
        };
        let mut blocks: Vec<&[u8]> = message.chunks(128).collect();
        let last = blocks.pop().unwrap_or_default();
        let s = blocks.iter().fold(0, |s, block| (s + block_sum(block)) % p * u128::from(key.radix) % p);
        let h = (u128::from(key.constant)
            + u128::from(key.len) * message.len() as u128 % p
            + u128::from(key.sum) * s % p
            + block_sum(last))
            % p;
        finish(u64::try_from(h).unwrap())
    }

    #[test]
    fn the_fast_hash_equals_the_definition_at_every_length() {
        let mut secret = [0xff; 32];
        for keys in [key(), HashKey::from_secret([0; 32]), HashKey::from_secret(secret)] {
            for len in 0..=520 {
                assert_eq!(keys.hash(&bytes(len)).to_bits(), naive(&keys, &bytes(len)), "{len} bytes");
                assert_eq!(keys.hash(&vec![0xff; len]).to_bits(), naive(&keys, &vec![0xff; len]));
            }
            let longest = vec![0xff; 65535];
            assert_eq!(keys.hash(&longest).to_bits(), naive(&keys, &longest));
        }
        secret[31] = 0;
        assert_ne!(HashKey::from_secret(secret).hash(b""), HashKey::from_secret([0xff; 32]).hash(b""));
    }

    #[test]
    fn sums_as_large_as_they_get_reduce_exactly() {
        let p = u128::from(PRIME);
        let edge = [
            0,
            1,
            p - 1,
            p,
            p + 1,
            2 * p,
            p * p,
            p * p - 1,
            p * p + p,
            (1 << 122) - 1,
            1 << 122,
            (1 << 126) - 1,
        ];
        for x in edge {
            assert_eq!(u128::from(reduce(x)), x % p, "{x}");
        }
    }

    #[test]
    fn the_function_is_the_one_that_stores_were_written_with() {
        let key = key();
        let fold = (0..=300).fold(0u64, |sum, len| sum.rotate_left(5) ^ key.hash(&bytes(len)).to_bits());
        let vectors =
            [&b""[..], b"a", b"mapcask", b"01234567", b"0123456789abcdef", &[0; 17], &[1; 128], &[2; 129]];
        let hashes = vectors.map(|vector| key.hash(vector).to_bits());
        assert_eq!((HASH_ID, fold, hashes), (1, PINNED_FOLD, PINNED));
    }

    const PINNED_FOLD: u64 = 16_311_201_316_299_159_195;
    const PINNED: [u64; 8] = [
        145_678_051_220_822_401,
        1_795_542_702_191_230_557,
        1_691_237_556_640_814_012,
        880_140_840_498_004_239,
        574_806_043_449_674_866,
        433_833_325_921_780_491,
        1_759_136_777_630_157_890,
        835_426_924_299_468_472,
    ];

    #[test]
    fn every_change_of_one_byte_changes_the_hash() {
        let key = key();
        for len in (1..=40).chain([127, 128, 129, 255, 256, 257, 300]) {
            let message = bytes(len);
            let hash = key.hash(&message);
            for at in 0..len {
                for flip in [1, 0x80, 0xff] {
                    let mut changed = message.clone();
                    changed[at] ^= flip;
                    assert_ne!(key.hash(&changed), hash, "byte {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn padding_bytes_are_not_mistaken_for_the_key_s_own() {
        let key = key();
        let zeros = [0; 600];
        let mut hashes: Vec<u64> = (0..=600).map(|len| key.hash(&zeros[..len]).to_bits()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 601);
    }

    #[test]
    fn the_finisher_has_an_inverse() {
        let unshift = |x: u64, by: u32| x ^ (x >> by) ^ x.checked_shr(2 * by).unwrap_or(0);
        // Newton's iteration computes the inverse of an odd number modulo a power of two.
        let factor = 0x1d8a_f066_8c5f_22a5_u64;
        let inverse = (0..6).fold(factor, |y, _| y.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(y))));
        for x in (0..61).map(|bit| 1u64 << bit).chain((0..1000).map(|i| mix(i) & PRIME)) {
            let y = unshift(finish(x), 29);
            assert_eq!(unshift(y.wrapping_mul(inverse) & PRIME, 31), x);
        }
    }

    /// Returns the distance of the chi-square of `hashes` from its mean, in standard deviations.
    /// The 4,096 cells are 12 bits, starting at bit `from`.
    fn distance(hashes: &[u64], from: u32) -> f64 {
        let mut cells = vec![0u32; 4096];
        for hash in hashes {
            cells[usize::try_from((hash >> from) & 4095).unwrap()] += 1;
        }
        let mean = hashes.len() as f64 / 4096.0;
        let chi: f64 = cells.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
        (chi - 4095.0) / (2.0 * 4095.0f64).sqrt()
    }

    #[test]
    fn regular_keys_spread_over_the_bits_that_the_index_uses() {
        for seed in 0..4 {
            let key = HashKey::from_secret([seed; 32]);
            for stride_bits in [0, 1, 3, 8, 12, 16, 24, 31, 32, 40, 44] {
                let little = (0..1u64 << 16).map(|i| key.hash(&(i << stride_bits).to_le_bytes()).to_bits());
                let little: Vec<u64> = little.collect();
                let text = (0..1u64 << 16)
                    .map(|i| key.hash(format!("user:{}", i << stride_bits).as_bytes()).to_bits());
                let text: Vec<u64> = text.collect();
                for from in [0, 12, 23] {
                    for hashes in [&little, &text] {
                        let distance = distance(hashes, from);
                        assert!(
                            distance < 6.0,
                            "stride 2^{stride_bits}, bits from {from}: {distance} deviations"
                        );
                    }
                }
            }
        }
    }
}
