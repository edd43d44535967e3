//! Measures the latency of a put at half the possible rate.
//!
//! Puts are due at fixed times. A put that begins late because the one before was slow has waited,
//! and the wait counts (coordinated omission).
//!
//! A second figure leaves out the time for which the putting thread was ready to run without a
//! processor. On two cores that can be most of the slowest latencies: a slice of the scheduler is
//! three milliseconds. After each slow put the bench asks the kernel for that time since the last
//! question. It subtracts at most the time that this put lost.

use std::fs::File;
use std::hint::spin_loop;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Options, Store};

use crate::histogram::Histogram;
use crate::reads::StdMap;
use crate::rounds::{Table, median};
use crate::{Lab, Result, scratch};

/// The added lateness from which a put is slow, and the kernel is asked for its wait.
const SLOW: Duration = Duration::from_micros(20);
/// The number of overwrites per key under compaction: a few stalls must not make a thousandth of
/// all puts.
const PACED: usize = 9;
/// The results of a run of paced puts.
struct Paced {
    /// The puts per second.
    rate: f64,
    all: Histogram,
    /// The latencies without the waits for a processor.
    running: Histogram,
}

/// The time for which this thread was ready to run and had no processor.
struct Waits {
    file: Option<File>,
    seen: Duration,
}

impl Waits {
    fn new() -> Self {
        let mut waits = Self { file: File::open("/proc/thread-self/schedstat").ok(), seen: Duration::ZERO };
        waits.since();
        waits
    }

    /// Returns the time since the last call; zero where the kernel does not count it.
    fn since(&mut self) -> Duration {
        let mut bytes = [0; 96];
        let read = self.file.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&bytes[..read]).unwrap_or_default();
        let waited = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
        let now = waited.map_or(self.seen, Duration::from_nanos);
        now.saturating_sub(std::mem::replace(&mut self.seen, now))
    }
}

/// Measures paced puts of new keys.
pub(crate) fn latency(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "latency of a put of a new key at half the possible rate, Os, in microseconds",
        &["", "puts/s", "p50", "p99", "p99.9", "p99.99", "greatest", "running: p99.9", "running: p99.99"],
    );
    let store = |pace: Option<Duration>| -> Result<Paced> {
        let directory = lab.directory()?;
        let store = Store::open(directory.path())?;
        pace_puts(lab, pace, |key, value| Ok(store.insert(key, value).map(drop)?))
    };
    let map = |pace: Option<Duration>| -> Result<Paced> {
        let mut map = StdMap::new();
        pace_puts(lab, pace, |key, value| {
            map.insert(key.to_vec(), value.to_vec());
            Ok(())
        })
    };
    let mut rounds = [(Vec::new(), "mapcask"), (Vec::new(), "std HashMap, growing")];
    for _ in 0..lab.rounds {
        rounds[0].0.push(store(Some(half_rate(store(None)?.rate)))?);
        rounds[1].0.push(map(Some(half_rate(map(None)?.rate)))?);
    }
    for (found, label) in rounds {
        table.row([label.to_owned()].into_iter().chain(figures(&found)));
    }
    Ok(vec![table.note(
        "From the time a put was due to its return; reading the clock is part of it. Medians over rounds. Running: without the time for which the thread was ready and had no processor.",
    )])
}

/// Measures paced overwrites in random order, with compaction on and off. The store is overwritten
/// so often that passes run all the time.
pub(crate) fn compact_latency(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "latency of an overwrite at half the possible rate, Os, in microseconds",
        &[
            "compaction",
            "puts/s",
            "p50",
            "p99",
            "p99.9",
            "p99.99",
            "greatest",
            "running: p99.9",
            "running: p99.99",
            "passes",
        ],
    );
    let mut contenders =
        [("on", true, false), ("off", false, false), ("off, another thread busy", false, true)]
            .map(|contender| (contender, Vec::new(), Vec::new()));
    for _ in 0..lab.rounds {
        for ((_, compaction, busy), paced, passes) in &mut contenders {
            let directory = lab.directory()?;
            let store = Options::new().compaction(*compaction).open(directory.path())?;
            scratch::fill(&store, 0, lab.keys)?;
            let mut random = fastrand::Rng::with_seed(5);
            let mut put = |_: &[u8], value: &[u8]| -> Result<()> {
                store.insert(lab.workload.keys[random.usize(..lab.keys)], value)?;
                Ok(())
            };
            let rate = pace_puts(lab, None, &mut put)?.rate;
            let ended = AtomicBool::new(!*busy);
            thread::scope(|scope| {
                scope.spawn(|| copy_until(&ended));
                let _end = Ended(&ended);
                for _ in 0..PACED {
                    paced.push(pace_puts(lab, Some(half_rate(rate)), &mut put)?);
                }
                Result::Ok(())
            })?;
            passes.push(store.stats().compaction.passes as f64);
        }
    }
    for ((label, ..), paced, mut passes) in contenders {
        let passes = format!("{:.0}", median(&mut passes));
        table.row([label.to_owned()].into_iter().chain(figures(&paced)).chain([passes]));
    }
    Ok(vec![table.note(
        "Medians over runs of as many puts as there are keys. Running: without the time for which the thread was ready and had no processor. \
         The busy thread copies memory for as long as the puts go on, and has nothing to do with the store.",
    )])
}

/// Copies memory, so that a processor and the memory bus are busy.
fn copy_until(ended: &AtomicBool) {
    let (from, mut to) = (vec![1u8; 8 << 20], vec![0u8; 8 << 20]);
    while !ended.load(Ordering::Relaxed) {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
    }
}

/// A guard that ends the copying, also after an error.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the figures of a row: medians over rounds.
fn figures(rounds: &[Paced]) -> [String; 8] {
    let over_rounds =
        |pick: &dyn Fn(&Paced) -> f64| median(&mut rounds.iter().map(pick).collect::<Vec<f64>>());
    let all = |share: f64| format!("{:.2}", over_rounds(&|paced| paced.all.quantile(share)));
    let running = |share: f64| format!("{:.2}", over_rounds(&|paced| paced.running.quantile(share)));
    [
        crate::rounds::number(over_rounds(&|paced| paced.rate)),
        all(0.5),
        all(0.99),
        all(0.999),
        all(0.9999),
        format!("{:.1}", over_rounds(&|paced| paced.all.quantile(1.0))),
        running(0.999),
        running(0.9999),
    ]
}

fn half_rate(rate: f64) -> Duration {
    Duration::from_secs_f64(2.0 / rate)
}

/// Puts every key, each at its time or as fast as possible.
fn pace_puts(
    lab: &Lab,
    pace: Option<Duration>,
    mut put: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<Paced> {
    let (mut all, mut running) = (Histogram::new(), Histogram::new());
    let mut waits = Waits::new();
    // The scheduler's part of the backlog, and the lateness of the previous put.
    let (mut waited, mut before) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    let mut due = began;
    for (at, key) in lab.workload.keys.iter().enumerate() {
        if let Some(pace) = pace {
            due += pace;
            if Instant::now() < due {
                waited = Duration::ZERO;
            }
            while Instant::now() < due {
                spin_loop();
            }
        }
        put(key, lab.workload.value(at, 0))?;
        if pace.is_some() {
            let late = due.elapsed();
            all.add(late);
            // The kernel is asked only where this put lost time, not for those that wait behind it:
            // it is a system call.
            if late > before + SLOW {
                waited += waits.since().min(late - before);
            }
            before = late;
            running.add(late.saturating_sub(waited));
        }
    }
    let rate = lab.workload.keys.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Paced { rate, all, running })
}
