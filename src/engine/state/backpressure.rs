//! Backpressure: how far the log may grow while writes go on, and the flag that slows writers beyond it.

use std::sync::atomic::{AtomicBool, Ordering};

/// How much may be freeable in a small store, in bytes: less is not worth a pass.
const SLACK: u64 = 1 << 20;

/// The part of a store's size that is not live data and is left alone.
pub(crate) fn slack(segment_bytes: u64) -> u64 {
    SLACK.min(4 * segment_bytes)
}

/// The most bytes that the log takes under load; beyond that writers help with compaction.
pub(crate) fn growth_bound(live: u64, segment_bytes: u64) -> u64 {
    2 * live + slack(segment_bytes) + 8 * segment_bytes
}

/// Tells writers that the log has grown beyond its bound.
#[derive(Debug, Default)]
pub(crate) struct Backpressure {
    over_bound: AtomicBool,
}

impl Backpressure {
    /// Notes whether the log is beyond its bound.
    pub(crate) fn note(&self, used: u64, bound: u64) {
        // Relaxed: advice.
        self.over_bound.store(used > bound, Ordering::Relaxed);
    }

    /// True if writers are to help.
    #[inline]
    pub(crate) fn is_over_bound(&self) -> bool {
        // Relaxed: advice.
        self.over_bound.load(Ordering::Relaxed)
    }
}
