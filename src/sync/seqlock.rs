//! How far writes have come, so that a reader of many keys can tell whether it read them as of one moment.
//!
//! **Concurrency.** The writer, under the store's writer mutex, raises `begun` before a write takes effect (an index entry,
//! the floor of a batch, the contents of a keyspace) and `applied` after it. A reader loads `applied`, reads, and then
//! finds `begun` at the same number: then no write took effect in between, and everything up to the number had. A write
//! that was seen, even in part, is one whose effect the reader met, by an acquire load of what the writer stored with
//! release order; so the reader also sees `begun` raised.

use crate::format::Seq;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// The numbers of the last write that began to take effect and of the last one that has.
#[derive(Debug)]
pub(crate) struct SeqLock {
    begun: AtomicU64,
    applied: AtomicU64,
}

impl SeqLock {
    /// Everything up to a number has taken effect.
    pub(crate) fn new(seq: Seq) -> Self {
        Self { begun: AtomicU64::new(seq.0), applied: AtomicU64::new(seq.0) }
    }

    /// The write of this number is in the log, and is about to take effect.
    #[inline]
    pub(crate) fn begin(&self, seq: Seq) {
        // Relaxed: the release store of the effect that follows announces it.
        self.begun.store(seq.0, Ordering::Relaxed);
    }

    /// Everything up to this number has taken effect.
    #[inline]
    pub(crate) fn end(&self, seq: Seq) {
        // Release: pairs with the acquire in `now`.
        self.applied.store(seq.0, Ordering::Release);
    }

    /// The number of the last write that somebody made.
    #[inline]
    pub(crate) fn last(&self) -> Seq {
        // Relaxed: stored before the write that the caller knows of was acknowledged.
        Seq(self.begun.load(Ordering::Relaxed))
    }

    /// Where a reader begins.
    pub(crate) fn now(&self) -> Seq {
        // Acquire: pairs with the release in `end`.
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// Whether what was read since `start` was there at one moment.
    pub(crate) fn is_unchanged_since(&self, start: Seq) -> bool {
        // Acquire: pairs with the release of every effect that was met.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        self.begun.load(Ordering::Relaxed) == start.0
    }
}

/// Models of what a reader of two keys can see: the keys are two words, their values the numbers of the writes.
#[cfg(loom)]
#[cfg(test)]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    struct Two {
        keys: [AtomicU64; 2],
        progress: SeqLock,
    }

    impl Two {
        fn write(&self, key: usize, seq: u64) {
            self.seqlock.begin(Seq(seq));
            // Release: as the index does.
            self.keys[key].store(seq, Ordering::Release);
            self.seqlock.end(Seq(seq));
        }

        /// Both keys, if it was one moment; relaxed loads, as a search that fences at its end.
        fn read(&self) -> Option<[u64; 2]> {
            let start = self.seqlock.now();
            let found = [1, 0].map(|key: usize| self.keys[key].load(Ordering::Relaxed));
            self.seqlock.is_unchanged_since(start).then_some([found[1], found[0]])
        }
    }

    #[test]
    fn loom_what_is_read_of_two_keys_was_there_at_one_moment() {
        loom::model(|| {
            let two = Arc::new(Two {
                keys: [AtomicU64::new(0), AtomicU64::new(0)],
                progress: SeqLock::new(Seq(0)),
            });
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || {
                    two.write(0, 1);
                    two.write(1, 2);
                    two.write(0, 3);
                })
            };
            // The states that there were: nothing, one, two, three writes.
            let states = [[0, 0], [1, 0], [1, 2], [3, 2]];
            if let Some(found) = two.read() {
                assert!(states.contains(&found), "{found:?}");
            }
            writer.join().unwrap();
            assert_eq!(two.read(), Some([3, 2]));
        });
    }
}
