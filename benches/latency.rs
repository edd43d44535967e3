//! How long a put takes at half the rate that is possible: what the slowest ones wait for.
//!
//! Puts are due at fixed times; a put that begins late because the one before it was slow has waited all the same, and
//! the wait counts (coordinated omission).

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use mapcask::{Options, Store};

use crate::reads::StdMap;
use crate::rounds::{Table, median};
use crate::{Lab, Result, scratch};

/// Buckets per power of two: a bucket is at most 1/32 wide.
const STEPS: u64 = 32;

/// Counts of durations in nanoseconds, in buckets that grow with them.
struct Histogram {
    counts: Vec<u64>,
    total: u64,
    greatest: u64,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; 64 * 32], total: 0, greatest: 0 }
    }

    fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.greatest = self.greatest.max(nanos);
    }

    fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.greatest = self.greatest.max(other.greatest);
    }

    /// The duration that a share of all did not exceed, in microseconds.
    fn quantile(&self, share: f64) -> f64 {
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

/// The bucket of a duration: its highest bit, and the five below it.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(STEPS).ilog2();
    let within = nanos >> (power - 5) & (STEPS - 1);
    let row = if nanos < STEPS { 0 } else { u64::from(power) - 4 };
    usize::try_from(row * STEPS + within).expect("fewer than 64 rows")
}

/// The least duration of a bucket.
fn least(bucket: usize) -> u64 {
    let (row, within) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if row == 0 { within } else { (STEPS + within) << (row - 1) }
}

/// Puts of new keys, paced.
pub(crate) fn latency(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "latency of a put of a new key at half the possible rate, Os, in microseconds",
        &["", "puts/s", "p50", "p99", "p99.9", "p99.99", "greatest"],
    );
    let store = |pace: Option<Duration>| -> Result<(f64, Histogram)> {
        let directory = lab.directory()?;
        let store = Store::open(directory.path())?;
        pace_puts(lab, pace, |key, value| Ok(store.insert(key, value).map(drop)?))
    };
    let map = |pace: Option<Duration>| -> Result<(f64, Histogram)> {
        let mut map = StdMap::new();
        pace_puts(lab, pace, |key, value| {
            map.insert(key.to_vec(), value.to_vec());
            Ok(())
        })
    };
    let mut rounds = [(Vec::new(), "mapcask"), (Vec::new(), "std HashMap, growing")];
    for _ in 0..lab.rounds {
        rounds[0].0.push(store(Some(half_rate(store(None)?.0)))?);
        rounds[1].0.push(map(Some(half_rate(map(None)?.0)))?);
    }
    for (found, label) in rounds {
        let over_rounds = |pick: &dyn Fn(&(f64, Histogram)) -> f64| {
            median(&mut found.iter().map(pick).collect::<Vec<f64>>())
        };
        let quantile =
            |share: f64| format!("{:.2}", over_rounds(&|(_, histogram)| histogram.quantile(share)));
        table.row([
            label.to_owned(),
            format!("{:.0}", over_rounds(&|(rate, _)| *rate)),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            quantile(0.9999),
            format!("{:.1}", over_rounds(&|(_, histogram)| histogram.greatest as f64 / 1e3)),
        ]);
    }
    Ok(vec![table.note(
        "From the time a put was due to its return; reading the clock is part of it. Medians over rounds.",
    )])
}

/// Overwrites in random order, paced, with compaction on and off: the same store, so often overwritten that passes run
/// all the time.
pub(crate) fn compact_latency(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "latency of an overwrite at half the possible rate, Os, in microseconds",
        &["compaction", "puts/s", "p50", "p99", "p99.9", "p99.99", "greatest", "passes"],
    );
    type Rounds = Vec<(f64, Histogram, u64)>;
    let mut rounds = [(Rounds::new(), true), (Rounds::new(), false)];
    for _ in 0..lab.rounds {
        for (found, compaction) in &mut rounds {
            let directory = lab.directory()?;
            let store = Options::new().compaction(*compaction).open(directory.path())?;
            scratch::fill(&store, 0, lab.keys)?;
            let mut random = fastrand::Rng::with_seed(5);
            let mut put = |_: &[u8], value: &[u8]| -> Result<()> {
                store.insert(lab.workload.keys[random.usize(..lab.keys)], value)?;
                Ok(())
            };
            let rate = pace_puts(lab, None, &mut put)?.0;
            let mut all = Histogram::new();
            for _ in 0..3 {
                all.merge(&pace_puts(lab, Some(half_rate(rate)), &mut put)?.1);
            }
            found.push((rate / 2.0, all, store.stats().compaction.passes));
        }
    }
    for (found, compaction) in rounds {
        let over_rounds = |pick: &dyn Fn(&(f64, Histogram, u64)) -> f64| {
            median(&mut found.iter().map(pick).collect::<Vec<f64>>())
        };
        let quantile =
            |share: f64| format!("{:.2}", over_rounds(&|(_, histogram, _)| histogram.quantile(share)));
        table.row([
            if compaction { "on" } else { "off" }.to_owned(),
            crate::rounds::number(over_rounds(&|(rate, ..)| *rate)),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            quantile(0.9999),
            format!("{:.1}", over_rounds(&|(_, histogram, _)| histogram.greatest as f64 / 1e3)),
            format!("{:.0}", over_rounds(&|(_, _, passes)| *passes as f64)),
        ]);
    }
    Ok(vec![table])
}

fn half_rate(rate: f64) -> Duration {
    Duration::from_secs_f64(2.0 / rate)
}

/// Puts everything, each at its time or as fast as possible; the rate reached, and how long each took.
fn pace_puts(
    lab: &Lab,
    pace: Option<Duration>,
    mut put: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<(f64, Histogram)> {
    let mut histogram = Histogram::new();
    let began = Instant::now();
    let mut due = began;
    for (at, key) in lab.workload.keys.iter().enumerate() {
        if let Some(pace) = pace {
            due += pace;
            while Instant::now() < due {
                spin_loop();
            }
        }
        put(key, lab.workload.value(at, 0))?;
        if pace.is_some() {
            histogram.add(due.elapsed());
        }
    }
    Ok((lab.workload.keys.len() as f64 / began.elapsed().as_secs_f64(), histogram))
}
