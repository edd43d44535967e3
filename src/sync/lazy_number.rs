//! A number that is computed at its first use, without a lock.
//!
//! A child of `fork` has only the thread that forked. If another thread was computing the value of a
//! `OnceLock` at that moment, the child would wait for it for ever. Here no thread waits: two threads may
//! both compute the number.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number above zero, or none yet.
#[derive(Debug)]
pub(crate) struct LazyNumber(AtomicU64);

impl LazyNumber {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Returns the number, which `compute` returns at the first call. Zero counts as one.
    pub(crate) fn get_or(&self, compute: impl FnOnce() -> u64) -> u64 {
        // Relaxed, both: the number stands alone.
        let known = self.0.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let computed = compute().max(1);
        self.0.store(computed, Ordering::Relaxed);
        computed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Cause: a `OnceLock` held the memory limit, which a worker computes in its first step. Symptom: a
    /// child that was forked at that moment waited for ever in the first step of its own worker.
    #[test]
    fn lazy_number_waits_for_no_other_thread() {
        let number = LazyNumber::new();
        let of_another = std::thread::scope(|scope| {
            // Within the computation of one thread, another one gets its number.
            number.get_or(|| {
                let other = scope.spawn(|| number.get_or(|| 7));
                other.join().expect("it does not wait") + 1
            })
        });
        assert_eq!(of_another, 8);
        assert_eq!(number.get_or(|| 9), 8);
        assert_eq!(LazyNumber::new().get_or(|| 0), 1);
    }
}
