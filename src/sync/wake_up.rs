//! The protocol by which a change wakes the threads that wait for it, in this process and others.
//!
//! There are two words. `asked` holds the reasons for which waiters ask to be woken. `wake` is the
//! word that they sleep on; each wake-up raises it.
//!
//! | step of a waiter | step of the thread that changes something |
//! |---|---|
//! | 1. load `wake` | 1. make the change |
//! | 2. set the reason in `asked` | 2. fence |
//! | 3. fence | 3. load `asked`; if the reason is not set, do no more |
//! | 4. look for the change | 4. clear the reason, and raise `wake` |
//! | 5. sleep while `wake` is as loaded | 5. wake the sleepers |
//!
//! **Proof that no wake-up is lost.**
//!
//! 1. Of two fences, one comes first. If it is the waiter's, the other thread finds the reason. If it
//!    is the other thread's, the waiter finds the change in its step 4.
//! 2. A thread that finds the reason raises `wake` after the waiter has loaded it, because the
//!    waiter loads it before it sets the reason. So the waiter does not fall asleep, or is woken.
//! 3. A reason that a second waiter sets between the clearing and the raising may be lost, but this
//!    waiter loaded `wake` before the raising, so it does not fall asleep.
//!
//! **Cost.** A change costs the fence and one load while no waiter asks, and no system call. After the
//! release of a mutex on x86-64 the fence costs nothing ([`fence_after_unlock`]).

use crate::sync::{AtomicU64, Ordering, fence};

/// The operations of the protocol on a word.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
}

macro_rules! impl_word {
    ($word:ty) => {
        impl Word for $word {
            #[inline]
            fn load(&self, order: Ordering) -> u64 {
                <$word>::load(self, order)
            }

            fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
                <$word>::fetch_or(self, bits, order)
            }

            fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
                <$word>::fetch_and(self, bits, order)
            }

            fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
                <$word>::fetch_add(self, value, order)
            }
        }
    };
}

impl_word!(AtomicU64);
// The words of mappings are never loom's.
#[cfg(loom)]
impl_word!(std::sync::atomic::AtomicU64);

/// Steps 2 and 3 of a waiter.
pub(crate) fn ask(asked: &impl Word, reasons: u64) {
    // Relaxed: the fence orders it.
    asked.fetch_or(reasons, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Step 3 of a change. Returns the reasons that are asked for, of those given.
#[inline]
pub(crate) fn asked_for(asked: &impl Word, reasons: u64) -> u64 {
    // Relaxed: the fence of step 2 orders it.
    asked.load(Ordering::Relaxed) & reasons
}

/// Step 4 of a change. The caller wakes the sleepers on `wake` afterwards.
pub(crate) fn answer(asked: &impl Word, wake: &impl Word, reasons: u64) {
    // Acquire, and release: a waiter that finds `wake` raised finds the change.
    asked.fetch_and(!reasons, Ordering::AcqRel);
    wake.fetch_add(1, Ordering::AcqRel);
}

/// Step 2 of a change that was made under a mutex which was released just now.
#[inline]
pub(crate) fn fence_after_unlock() {
    // On x86-64 the release of a mutex is a locked instruction, and no load passes it. So only the
    // compiler must keep the order.
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicBool;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    const REASON: u64 = 1;

    #[derive(Default)]
    struct Words {
        asked: AtomicU64,
        wake: AtomicU64,
        changes: [AtomicBool; 2],
        /// The system's futex: it compares and falls asleep in one step.
        futex: (Mutex<()>, Condvar),
    }

    impl Words {
        fn change(&self, nth: usize) {
            // Relaxed: the weakest that a change may be; the fence orders it.
            self.changes[nth].store(true, Ordering::Relaxed);
            fence_after_unlock();
            if asked_for(&self.asked, REASON) != 0 {
                answer(&self.asked, &self.wake, REASON);
                drop(self.futex.0.lock().expect("no panic"));
                self.futex.1.notify_all();
            }
        }

        /// Waits for a change. A sleep that no wake-up ends is a deadlock of the model.
        fn wait(&self, nth: usize) {
            loop {
                let seen = self.wake.load(Ordering::Acquire);
                ask(&self.asked, REASON);
                if self.changes[nth].load(Ordering::Relaxed) {
                    return;
                }
                let guard = self.futex.0.lock().expect("no panic");
                if self.wake.load(Ordering::Acquire) == seen {
                    drop(self.futex.1.wait(guard));
                }
            }
        }
    }

    fn model(waiters: &'static [usize], changes: usize) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let words = Arc::new(Words::default());
            let waiting = waiters.iter().map(|nth| {
                let (words, nth) = (Arc::clone(&words), *nth);
                thread::spawn(move || words.wait(nth))
            });
            let waiting: Vec<_> = waiting.collect();
            (0..changes).for_each(|nth| words.change(nth));
            waiting.into_iter().for_each(|waiter| waiter.join().expect("it ends"));
        });
    }

    #[test]
    fn loom_a_waiter_finds_each_change() {
        model(&[1], 2);
    }

    #[test]
    fn loom_two_waiters_find_the_change() {
        model(&[0, 0], 1);
    }

    #[test]
    #[should_panic(expected = "neither saw the other")]
    fn loom_a_change_without_a_fence_loses_a_wake_up() {
        loom::model(|| {
            let words = Arc::new(Words::default());
            let waiting = Arc::clone(&words);
            let waiter = thread::spawn(move || {
                ask(&waiting.asked, REASON);
                waiting.changes[0].load(Ordering::Relaxed)
            });
            words.changes[0].store(true, Ordering::Relaxed);
            let is_asked = asked_for(&words.asked, REASON) != 0;
            let is_found = waiter.join().expect("it ends");
            assert!(is_asked || is_found, "neither saw the other");
        });
    }
}
