//! Sets of bits: one that many threads set and read, and one whose memory is made as it is used.
//!
//! **Concurrency.** A thread that sees a bit sees every store made before it was set. Each bit is
//! set once and stays.

use crate::sync::{AtomicU64, Ordering};

/// A fixed number of bits.
#[derive(Debug)]
pub(in crate::index) struct AtomicBitSet {
    words: Box<[AtomicU64]>,
    count: u64,
}

impl AtomicBitSet {
    pub(in crate::index) fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), count }
    }

    /// True if a bit is set, or lies behind the last. A thread that sees a bit sees every store
    /// made before it was set.
    pub(in crate::index) fn get(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        // Acquire: pairs with the release in `set`.
        number >= self.count || self.words[word].load(Ordering::Acquire) & bit != 0
    }

    /// Sets an existing bit, and returns true if it was set before.
    pub(in crate::index) fn set(&self, number: u64) -> bool {
        debug_assert!(number < self.count);
        let (word, bit) = place(number);
        // Release: pairs with the acquire in `get`, for earlier stores. Acquire: the second thread
        // to set it sees what the first did.
        self.words[word].fetch_or(bit, Ordering::AcqRel) & bit != 0
    }

    /// Returns the memory of the bits in bytes.
    pub(in crate::index) fn memory_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }
}

/// Bits in pages that are made at their first use: making all at once would be a part of each open
/// that grows with the index.
#[derive(Debug)]
pub(in crate::index) struct PagedBits {
    pages: Vec<Option<Box<[u64; PAGE_WORDS]>>>,
}

/// The number of words in a page of [`PagedBits`], for 4,096 bits.
const PAGE_WORDS: usize = 64;

impl PagedBits {
    pub(in crate::index) fn new(count: u64) -> Self {
        let pages = usize::try_from(count.div_ceil(64 * PAGE_WORDS as u64)).unwrap_or(usize::MAX);
        Self { pages: vec![None; pages] }
    }

    pub(in crate::index) fn get(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        let page = self.pages[word / PAGE_WORDS].as_ref();
        page.is_some_and(|page| page[word % PAGE_WORDS] & bit != 0)
    }

    pub(in crate::index) fn set(&mut self, number: u64) {
        let (word, bit) = place(number);
        let page = self.pages[word / PAGE_WORDS].get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
        page[word % PAGE_WORDS] |= bit;
    }
}

/// Returns the word of a bit, and the bit in it.
fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}
