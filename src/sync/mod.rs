//! Synchronisation primitives: of std and parking_lot, or of loom in the modules that are
//! model-checked.
//!
//! Modules whose memory orderings carry a proof (`index`, `epoch`, `group_commit`) import from here
//! and from nowhere else. A model runs with `--cfg loom`:
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_`. Under loom these types work only
//! inside `loom::model`. Statics are not modelled, because loom's types cannot be made in a
//! constant. A model therefore needs an instance.

pub(crate) mod epoch;
pub(crate) mod lazy_number;
pub(crate) mod notifier;
pub(crate) mod rcu;
pub(crate) mod seqlock;
pub(crate) mod sleep_word;
pub(crate) mod statistic;
pub(crate) mod wake_up;
pub(crate) mod worker;

#[cfg(loom)]
pub(crate) use self::modelled::Mutex;
#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{self, AtomicU64, Ordering, fence},
    thread,
};
#[cfg(not(loom))]
pub(crate) use parking_lot::Mutex;
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{self, AtomicU64, Ordering, fence},
    thread,
};

/// Lets other threads run. Returns false if they ran for so long that they do more than to wake up
/// and write: then the processors are busy.
#[cfg(not(loom))]
pub(crate) fn yield_briefly() -> bool {
    /// A scheduler lets a busy thread run for longer than this, in general.
    const BRIEF: std::time::Duration = std::time::Duration::from_micros(500);
    let began = std::time::Instant::now();
    thread::yield_now();
    began.elapsed() < BRIEF
}

/// Lets other threads run. A model has no time.
#[cfg(loom)]
pub(crate) fn yield_briefly() -> bool {
    thread::yield_now();
    true
}

#[cfg(loom)]
mod modelled {
    use loom::sync::MutexGuard;

    /// loom's mutex with parking_lot's signature, which has no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model ends with the first panic")
        }
    }
}
