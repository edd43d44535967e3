//! Counters whose loads and stores order nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that threads count for reports.
#[derive(Debug, Default)]
pub(crate) struct Statistic(AtomicU64);

impl Statistic {
    pub(crate) const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Counts `by` more.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        // Relaxed, here and below: a statistic orders nothing.
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Counts `by` less.
    #[inline]
    pub(crate) fn sub(&self, by: u64) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }

    /// Replaces the number.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that one writer at a time changes, under a lock of its own, and that any thread reads.
#[derive(Debug, Default)]
pub(crate) struct SingleWriter(AtomicU64);

impl SingleWriter {
    /// Counts `by` more, modulo 2^64; by the writer only.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        // Relaxed, and not one operation: the lock of the writer orders the changes.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Replaces the number; by the writer only.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        // Relaxed: as for `add`.
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns another counter with the same number.
    pub(crate) fn copied(&self) -> Self {
        Self(AtomicU64::new(self.get()))
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: a reader may see any of the last values.
        self.0.load(Ordering::Relaxed)
    }
}
