//! The common parts of the kill suite and the power-cut suite: a process that writes until it dies,
//! and the check of its remains.
//!
//! [`writer`] is that process and its parent's side of it. [`operation`] defines its operations,
//! and [`shared`] the memory in which it acknowledges them. [`history`] checks the result.
//! [`Chain`] leads one store through many deaths.

pub(crate) mod history;
pub(crate) mod operation;
pub(crate) mod shared;
pub(crate) mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mapcask::{Durability, Options};

use self::history::{Death, History, Observed};
use self::shared::Phase;
use self::writer::Writer;

/// Returns the options of a process. Small segments make the log roll all the time. In every third
/// run they are larger, so that writes rarely wait for a file and death comes in the middle of a
/// record.
pub(crate) fn options(run: u32, durability: Durability) -> Options {
    let segment_bytes = if run.is_multiple_of(3) { 1 << 20 } else { 64 << 10 };
    Options::new().durability(durability).segment_bytes(segment_bytes).sync_interval(Duration::from_millis(5))
}

/// Returns the size of a suite: the variable's value, or a default for a plain `cargo test`.
pub(crate) fn count_of(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value}")),
        Err(_) => default,
    }
}

/// The planned death of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) durability: Durability,
    pub(crate) moment: Moment,
}

/// The moment of a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// While the process opens the store, or soon after.
    Opening,
    /// When this number of operations has been acknowledged.
    After(u64),
}

impl Fate {
    /// Draws a death. Most processes die while writing, some before they begin, and some in
    /// recovery.
    pub(crate) fn draw(rng: &mut fastrand::Rng, durabilities: &[Durability]) -> Self {
        let durability = durabilities[rng.usize(0..durabilities.len())];
        // A write that waits for the disk takes a thousand times as long.
        let magnitudes = if durability == Durability::Disk { 0..8 } else { 0..12 };
        let moment = match rng.u8(0..10) {
            0 | 1 => Moment::Opening,
            2 => Moment::After(0),
            _ => {
                let most = 2 << rng.u32(magnitudes);
                Moment::After(rng.u64(1..=most))
            }
        };
        Self { durability, moment }
    }
}

/// The totals of a chain, for the summary.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) deaths: u64,
    pub(crate) acknowledged: u64,
    /// The number of processes that died before they had opened the store.
    pub(crate) in_recovery: u64,
    /// The numbers of opens that found a torn write, and of opens that quarantined complete
    /// records.
    pub(crate) torn: u64,
    pub(crate) quarantined: u64,
    /// The number of acknowledged operations that a power cut took, which is allowed below `Disk`.
    pub(crate) taken: u64,
}

/// A store and the processes that write to it, one after the other.
#[derive(Debug)]
pub(crate) struct Chain {
    seed: u64,
    folder: PathBuf,
    store: PathBuf,
    run: u32,
    history: History,
    /// The worst death since the contents were last checked.
    death: Death,
    /// The time from a process's start until it has opened the store. The next process may be
    /// killed within it.
    opening: Duration,
    pub(crate) totals: Totals,
}

impl Chain {
    /// Begins without a store. `folder` holds the acknowledgements, and must outlive any harm to
    /// `store`.
    pub(crate) fn new(seed: u64, folder: &Path, store: &Path) -> Self {
        Self {
            seed,
            folder: folder.to_owned(),
            store: store.to_owned(),
            run: 0,
            history: History::new(seed),
            death: Death::Killed,
            opening: Duration::from_millis(5),
            totals: Totals::default(),
        }
    }

    /// Runs one process, which opens the store, reports its contents, writes, and dies. `cut` is
    /// called before it is killed.
    pub(crate) fn live_and_die(
        &mut self,
        rng: &mut fastrand::Rng,
        fate: Fate,
        cut: Option<&mut dyn FnMut()>,
    ) {
        self.run += 1;
        let started = Instant::now();
        let mut writer = Writer::start(&self.folder, &self.store, self.seed, self.run, fate.durability);
        match fate.moment {
            Moment::Opening => {
                writer.wait(|shared| shared.phase() >= Phase::Opening);
                // This waits for no event. It chooses a random moment of an open, whose steps
                // cannot be seen from outside.
                let moment = started.elapsed() + self.opening.mul_f64(rng.f64());
                while started.elapsed() < moment {
                    std::hint::spin_loop();
                }
            }
            Moment::After(target) => {
                writer.wait(|shared| shared.phase() == Phase::Writing);
                self.opening = started.elapsed();
                writer.wait(|shared| shared.acknowledged() >= target);
            }
        }
        let was_cut = cut.is_some();
        if let Some(cut) = cut {
            writer.shared().announce_cut();
            cut();
        }
        let shared = writer.kill(was_cut);
        self.totals.deaths += 1;
        if shared.phase() == Phase::Writing {
            let observed = Observed::read(&writer::report_path(&self.folder));
            self.judge(&observed);
            let record = shared.record(self.run);
            self.totals.acknowledged += record.acknowledged();
            self.history.append(&record);
        } else {
            self.totals.in_recovery += 1;
        }
        if was_cut {
            self.death = Death::PowerCut;
        }
    }

    /// Opens the store in this process, checks it, and closes it.
    pub(crate) fn look_and_close(&mut self) {
        let store =
            options(self.run, Durability::Os).open(&self.store).unwrap_or_else(|error| self.fail(&error));
        let observed = Observed::of(&store).unwrap_or_else(|error| self.fail(&error));
        self.judge(&observed);
        store.close().unwrap_or_else(|error| self.fail(&error));
        self.history.forget();
    }

    fn judge(&mut self, observed: &Observed) {
        let taken = self.history.check(observed, self.death);
        self.totals.taken += taken.unwrap_or_else(|complaint| self.fail(&complaint));
        self.totals.torn += u64::from(observed.torn_bytes > 0);
        self.totals.quarantined += u64::from(observed.quarantined_records > 0);
        self.death = Death::Killed;
    }

    fn fail(&self, complaint: &dyn std::fmt::Display) -> ! {
        let Self { seed, run, death, store, .. } = self;
        panic!("seed {seed}, run {run}, after {death:?}, store {}: {complaint}", store.display());
    }
}
