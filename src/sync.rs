//! The synchronisation primitives of the modules that are model-checked: std's, or loom's under `--cfg loom`.
//!
//! Modules whose orderings carry a proof (`index`, `epoch`, `commit`) import from here and from nowhere else, so that
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_` explores what they do. Under loom these types work only
//! inside of `loom::model`.

#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};
