//! A seqlock over writes: lets a reader of many keys detect that no write took effect while it
//! read.
//!
//! **Concurrency.** The writer, under the store's writer mutex, raises `begun` before a write takes
//! effect and `applied` after it. The effect is an index entry, the floor of a batch, or the data
//! of a keyspace. A reader loads `applied`, reads, and then compares `begun` with the number it
//! loaded. If they are equal, no write took effect in between, and every write up to the number had
//! taken effect. Proof: if the reader saw a write, even in part, it met an effect by an acquire
//! load of a release store. So it also sees `begun` raised.

use crate::format::Seq;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// The number of the last write that began to take effect, and the number of the last write that
/// has.
#[derive(Debug)]
pub(crate) struct SeqLock {
    begun: AtomicU64,
    applied: AtomicU64,
}

impl SeqLock {
    /// Makes a seqlock in which everything up to a number has taken effect.
    pub(crate) fn new(seq: Seq) -> Self {
        Self { begun: AtomicU64::new(seq.0), applied: AtomicU64::new(seq.0) }
    }

    /// Marks the write of this number as about to take effect. Its record is in the log.
    #[inline]
    pub(crate) fn begin(&self, seq: Seq) {
        // Relaxed: the release store of the effect that follows announces it.
        self.begun.store(seq.0, Ordering::Relaxed);
    }

    /// Marks everything up to this number as having taken effect.
    #[inline]
    pub(crate) fn end(&self, seq: Seq) {
        // Release: pairs with the acquire in `now`.
        self.applied.store(seq.0, Ordering::Release);
    }

    /// Returns the number of the last write by a user.
    #[inline]
    pub(crate) fn last(&self) -> Seq {
        // Relaxed: stored before the write that the caller knows of was acknowledged.
        Seq(self.begun.load(Ordering::Relaxed))
    }

    /// Returns the number with which a reader starts.
    pub(crate) fn now(&self) -> Seq {
        // Acquire: pairs with the release in `end`.
        Seq(self.applied.load(Ordering::Acquire))
    }

    /// True if no write took effect since `start`, so all that was read existed at one moment.
    pub(crate) fn is_unchanged_since(&self, start: Seq) -> bool {
        // Acquire: pairs with the release of every effect that the reader met.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        self.begun.load(Ordering::Relaxed) == start.0
    }
}

/// Models of the possible results of a reader of two keys. The keys are two words; their values are
/// the numbers of the writes.
#[cfg(loom)]
#[cfg(test)]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    struct Two {
        keys: [AtomicU64; 2],
        seqlock: SeqLock,
    }

    impl Two {
        fn write(&self, key: usize, seq: u64) {
            self.seqlock.begin(Seq(seq));
            // Release: as the index does.
            self.keys[key].store(seq, Ordering::Release);
            self.seqlock.end(Seq(seq));
        }

        /// Reads both keys, and returns them if they are of one moment. Its loads are relaxed, like
        /// those of a search that fences at its end.
        fn read(&self) -> Option<[u64; 2]> {
            let start = self.seqlock.now();
            let found = [1, 0].map(|key: usize| self.keys[key].load(Ordering::Relaxed));
            self.seqlock.is_unchanged_since(start).then_some([found[1], found[0]])
        }
    }

    #[test]
    fn loom_validated_reads_are_of_one_moment() {
        loom::model(|| {
            let two =
                Arc::new(Two { keys: [AtomicU64::new(0), AtomicU64::new(0)], seqlock: SeqLock::new(Seq(0)) });
            let writer = {
                let two = Arc::clone(&two);
                thread::spawn(move || {
                    two.write(0, 1);
                    two.write(1, 2);
                    two.write(0, 3);
                })
            };
            // The possible states, after zero to three writes.
            let states = [[0, 0], [1, 0], [1, 2], [3, 2]];
            if let Some(found) = two.read() {
                assert!(states.contains(&found), "{found:?}");
            }
            writer.join().unwrap();
            assert_eq!(two.read(), Some([3, 2]));
        });
    }
}
