//! How far a mapping is published: one word, which its one appender raises and everybody reads.
//!
//! **Concurrency.** Whoever reads the mark sees every byte below it as it was written: that is the whole of I1 between threads.
//! Most readers come by an entry of the index, which orders the bytes once more; those that go by the mark alone (a pass, an
//! image, `verify`) rest on this.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes below it are published.
#[derive(Debug)]
pub(super) struct PublishedMark(AtomicU64);

impl PublishedMark {
    /// Nothing is published.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        // Acquire: pairs with the release store in `raise`.
        self.0.load(Ordering::Acquire)
    }

    /// Publishes what has been written below `end`.
    #[inline]
    pub(super) fn raise(&self, end: u64) {
        // Release: pairs with the acquire load in `get`.
        self.0.store(end, Ordering::Release);
    }
}

/// A model of what a reader sees who goes by the mark alone; two words stand for the bytes.
#[cfg(loom)]
#[cfg(test)]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    struct MarkedBytes {
        words: [AtomicU64; 2],
        mark: PublishedMark,
    }

    #[test]
    fn loom_whoever_sees_the_mark_sees_the_bytes_below_it() {
        loom::model(|| {
            let bytes = Arc::new(MarkedBytes {
                words: [AtomicU64::new(0), AtomicU64::new(0)],
                mark: PublishedMark::new(),
            });
            let writer = {
                let bytes = Arc::clone(&bytes);
                thread::spawn(move || {
                    for (n, word) in (1..).zip(&bytes.words) {
                        // Relaxed: as plain stores into the mapping are.
                        word.store(n, Ordering::Relaxed);
                        bytes.mark.raise(n);
                    }
                })
            };
            let mark = bytes.mark.get();
            for (n, word) in (1..=mark).zip(&bytes.words) {
                // Relaxed: as plain loads from the mapping are.
                assert_eq!(word.load(Ordering::Relaxed), n, "published and not to be seen");
            }
            writer.join().expect("it does not panic");
            assert_eq!(bytes.mark.get(), 2);
        });
    }
}
