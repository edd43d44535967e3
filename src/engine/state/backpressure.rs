//! Backpressure: the bound on the log's growth under writes, and the flag that slows writers beyond
//! it.

use std::sync::atomic::{AtomicBool, Ordering};

/// The reclaimable bytes that a small store may keep: less is not worth a pass.
const SLACK: u64 = 1 << 20;

/// Returns the bytes beyond the live data that compaction leaves alone.
pub(crate) fn slack(segment_bytes: u64) -> u64 {
    SLACK.min(4 * segment_bytes)
}

/// Returns the most bytes that the log takes under load, without those that are kept for change
/// feeds. Beyond it, writers help with compaction.
pub(crate) fn growth_bound(live: u64, segment_bytes: u64) -> u64 {
    2 * live + slack(segment_bytes) + 8 * segment_bytes
}

/// The flag that the log has grown beyond its bound.
#[derive(Debug, Default)]
pub(crate) struct Backpressure {
    over_bound: AtomicBool,
}

impl Backpressure {
    /// Records whether the log is beyond its bound.
    pub(crate) fn note(&self, used: u64, bound: u64) {
        // Relaxed: advice.
        self.over_bound.store(used > bound, Ordering::Relaxed);
    }

    /// Returns true if writers are to help.
    #[inline]
    pub(crate) fn is_over_bound(&self) -> bool {
        // Relaxed: advice.
        self.over_bound.load(Ordering::Relaxed)
    }
}
