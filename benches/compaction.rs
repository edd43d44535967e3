//! Measures compaction: the disk space of a store under endless overwrites, and the cost of keeping
//! it small.

use std::thread;
use std::time::{Duration, Instant};

use mapcask::{Options, Stats, Store};

use crate::rounds::{Table, number};
use crate::workload::{Key, VALUE_LEN, key, value, value_pool};
use crate::{Lab, Result, scratch};

/// The number of writes per key.
const TIMES: usize = 10;
/// The exponent of the skewed workload.
const ZIPF: f64 = 0.99;
/// The bytes that a record takes in the log.
const RECORD: f64 = 152.0;
/// The bytes that a tombstone takes.
const TOMBSTONE: f64 = 48.0;

/// A workload: writes to a store, and returns the bytes that these writes took in the log.
type Work = fn(&Lab, &Store, &mut dyn FnMut(&Store) -> Result<()>) -> Result<f64>;

/// Runs every workload, with compaction on and off.
pub(crate) fn compact(lab: &Lab) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "each key overwritten ten times, Os; segment files per live byte of the log, and bytes written per byte of the user's",
        &[
            "",
            "writes/s",
            "without",
            "most under load",
            "at rest",
            "amplification",
            "moved, MB",
            "seconds to rest",
        ],
    );
    let rows: [(&str, Work); 4] =
        [("uniform", uniform), ("Zipf 0.99", zipf), ("queue", queue), ("one hot key", hot)];
    for (label, work) in rows {
        let (with, without) = (measure(lab, work, true)?, measure(lab, work, false)?);
        let ratio = |bytes: u64| number(bytes as f64 / with.rested.live_bytes.max(1) as f64);
        let moved = with.rested.compaction.bytes_moved as f64;
        table.row([
            label.to_owned(),
            number(with.rate),
            number(without.rate),
            ratio(with.most),
            ratio(with.rested.segment_bytes),
            number((with.user + moved) / with.user),
            number(moved / 1e6),
            number(with.to_rest.as_secs_f64()),
        ]);
    }
    Ok(vec![table])
}

struct Found {
    rate: f64,
    user: f64,
    most: u64,
    rested: Stats,
    to_rest: Duration,
}

fn measure(lab: &Lab, work: Work, compaction: bool) -> Result<Found> {
    let directory = lab.directory()?;
    let store = Options::new().compaction(compaction).open(directory.path())?;
    scratch::fill(&store, 0, lab.keys)?;
    let before = store.stats().last_seq;
    let mut most = 0;
    let begun = Instant::now();
    let user = work(lab, &store, &mut |store| {
        most = most.max(store.stats().segment_bytes);
        Ok(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = (store.stats().last_seq - before) as f64 / seconds;
    let ended = Instant::now();
    let rested = loop {
        let stats = store.stats();
        let rests = !stats.compaction.running && stats.compaction.next_reason.is_none();
        if !compaction || rests {
            break stats;
        }
        // The worker uses the other core.
        thread::yield_now();
    };
    Ok(Found { rate, user, most, rested, to_rest: ended.elapsed() })
}

/// The number of writes between two looks.
const LOOK: usize = 100_000;

fn overwrite(
    lab: &Lab,
    store: &Store,
    look: &mut dyn FnMut(&Store) -> Result<()>,
    mut pick: impl FnMut() -> usize,
) -> Result<f64> {
    let count = lab.keys * TIMES;
    for n in 0..count {
        let at = pick();
        store.insert(lab.workload.keys[at], lab.workload.value(at, n))?;
        if n % LOOK == 0 {
            look(store)?;
        }
    }
    Ok(count as f64 * RECORD)
}

fn uniform(lab: &Lab, store: &Store, look: &mut dyn FnMut(&Store) -> Result<()>) -> Result<f64> {
    let mut random = fastrand::Rng::with_seed(5);
    overwrite(lab, store, look, || random.usize(..lab.keys))
}

fn hot(lab: &Lab, store: &Store, look: &mut dyn FnMut(&Store) -> Result<()>) -> Result<f64> {
    overwrite(lab, store, look, || 7)
}

/// Draws ranks by rejection-free inversion of the continuous distribution (Gray and others 1994),
/// spread over the keys.
fn zipf(lab: &Lab, store: &Store, look: &mut dyn FnMut(&Store) -> Result<()>) -> Result<f64> {
    let mut random = fastrand::Rng::with_seed(5);
    let count = lab.keys as f64;
    let zeta: f64 = (1..=lab.keys).map(|rank| (rank as f64).powf(-ZIPF)).sum();
    let eta = (1.0 - (2.0 / count).powf(1.0 - ZIPF)) / (1.0 - (1.0 + 0.5_f64.powf(ZIPF)) / zeta);
    overwrite(lab, store, look, || {
        let u = random.f64();
        let rank = if u * zeta < 1.0 {
            0.0
        } else if u * zeta < 1.0 + 0.5_f64.powf(ZIPF) {
            1.0
        } else {
            count * (eta * u - eta + 1.0).powf(1.0 / (1.0 - ZIPF))
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is below the number of keys"
        )]
        let rank = rank as usize;
        lab.workload.order[rank.min(lab.keys - 1)]
    })
}

/// Inserts unique keys, and removes each a thousand later, beside the cold keys.
fn queue(lab: &Lab, store: &Store, look: &mut dyn FnMut(&Store) -> Result<()>) -> Result<f64> {
    const LENGTH: usize = 1000;
    let pool = value_pool();
    let unique = |n: usize| -> Key { key((n + lab.keys) as u64) };
    // An overwritten cold key leaves an old record, which newer tombstones may hide.
    store.insert(lab.workload.keys[0], [1; VALUE_LEN])?;
    let count = lab.keys * TIMES / 2;
    for n in 0..count {
        store.insert(unique(n), value(&pool, n, 0))?;
        if n >= LENGTH {
            store.remove(unique(n - LENGTH))?;
        }
        if n % LOOK == 0 {
            look(store)?;
        }
    }
    Ok(count as f64 * (RECORD + TOMBSTONE))
}
