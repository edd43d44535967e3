//! The synchronisation primitives of the modules that are model-checked: std's and parking_lot's, or loom's.
//!
//! Modules whose orderings carry a proof (`index`, `epoch`, `commit`) import from here and from nowhere else. A model
//! runs with `--cfg loom`: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_`. Under loom these types work only
//! inside of `loom::model`. Statics are not modelled, since loom's types cannot be made in a constant: what a model is
//! about must be an instance.

pub(crate) mod epoch;
pub(crate) mod notifier;
pub(crate) mod rcu;
pub(crate) mod seqlock;
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

#[cfg(loom)]
mod modelled {
    use loom::sync::MutexGuard;

    /// loom's mutex with parking_lot's signature: it is never poisoned.
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
