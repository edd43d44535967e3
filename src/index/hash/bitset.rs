//! A set of bits that many threads set and read.
//!
//! **Concurrency.** A thread that sees a bit sees every store made before it was set. Each bit is
//! set once and stays.

use crate::sync::{AtomicU64, Ordering};

/// A fixed number of bits.
#[derive(Debug)]
pub(super) struct AtomicBitSet {
    words: Box<[AtomicU64]>,
    count: u64,
}

impl AtomicBitSet {
    pub(super) fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), count }
    }

    /// True if a bit is set, or lies behind the last. A thread that sees a bit sees every store
    /// made before it was set.
    pub(super) fn get(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        // Acquire: pairs with the release in `set`.
        number >= self.count || self.words[word].load(Ordering::Acquire) & bit != 0
    }

    /// Sets an existing bit, and returns true if it was set before.
    pub(super) fn set(&self, number: u64) -> bool {
        debug_assert!(number < self.count);
        let (word, bit) = place(number);
        // Release: pairs with the acquire in `get`, for earlier stores. Acquire: the second thread
        // to set it sees what the first did.
        self.words[word].fetch_or(bit, Ordering::AcqRel) & bit != 0
    }

    /// Returns the memory of the bits in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }
}

/// Returns the word of a bit, and the bit in it.
pub(super) fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}
