//! Counts durations in buckets, for quantiles.

use std::time::Duration;

/// The number of buckets per power of two: a bucket is at most 1/32 wide.
const STEPS: u64 = 32;

/// Counts of durations in nanoseconds, in buckets that grow with them.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    greatest: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; 64 * 32], total: 0, greatest: 0 }
    }

    pub(crate) fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.greatest = self.greatest.max(nanos);
    }

    /// Returns the duration that a share of all did not exceed, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = self.total as f64 * share;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return (least(at + 1) as f64).min(self.greatest as f64) / 1e3;
            }
        }
        self.greatest as f64 / 1e3
    }
}

/// Returns the bucket of a duration: its highest bit, and the five below it.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(STEPS).ilog2();
    let within = nanos >> (power - 5) & (STEPS - 1);
    let row = if nanos < STEPS { 0 } else { u64::from(power) - 4 };
    usize::try_from(row * STEPS + within).expect("fewer than 64 rows")
}

/// Returns the least duration of a bucket.
fn least(bucket: usize) -> u64 {
    let (row, within) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if row == 0 { within } else { (STEPS + within) << (row - 1) }
}
