//! The published mark of a mapping: one word, which its one appender raises and every reader loads.
//!
//! **Concurrency.** A thread that reads the mark sees every byte below it as it was written: that
//! is all of I1 between threads. Most readers come by an index entry, which orders the bytes once
//! more. Those that use the mark alone (a compaction pass, a checkpoint, `verify`) rely on this.

use crate::sync::atomic::{AtomicU64, Ordering};

/// The mark: bytes below it are published.
#[derive(Debug)]
pub(super) struct PublishedMark(AtomicU64);

impl PublishedMark {
    /// Makes a mark with nothing published.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        // Acquire: pairs with the release store in `raise`.
        self.0.load(Ordering::Acquire)
    }

    /// Publishes all bytes written below `end`.
    #[inline]
    pub(super) fn raise(&self, end: u64) {
        // Release: pairs with the acquire load in `get`.
        self.0.store(end, Ordering::Release);
    }
}

/// A model of a reader that uses the mark alone; two words stand for the bytes.
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
    fn loom_bytes_below_a_seen_mark_are_visible() {
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
