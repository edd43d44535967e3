//! The state of an open store, shared by reads, writes and background jobs.
//!
//! The jobs (`compaction`, `checkpoint`) have their own state, which this module does not know.
//!
//! **Concurrency.** One writer mutex orders all writes. Reads take no lock. Lock order: the locks
//! of the jobs, then the writer mutex, then those that `log::allocator` names. The leader of a
//! group commit takes the writer mutex twice, briefly, and syncs without it.

pub(crate) mod backpressure;
pub(crate) mod catalog;
pub(crate) mod hint_writer;
pub(crate) mod hinted_records;
pub(crate) mod index_loader;
pub(crate) mod lookup;
pub(crate) mod present_contents;
pub(crate) mod read_around;
mod rebuild;
pub(crate) mod snapshot_registry;
pub(crate) mod syncer;
pub(crate) mod visibility;
pub(crate) mod waiting_open;
pub(crate) mod write_guard;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::backpressure::{Backpressure, growth_bound};
use self::catalog::{Catalog, Indexes, KeyspaceData, KeyspaceState};
use self::hint_writer::HintWriter;
use self::hinted_records::HintedRecords;
use self::index_loader::IndexLoader;
use self::read_around::ReadAround;
use self::syncer::Syncer;
use self::visibility::Visibility;
use self::waiting_open::WaitingOpen;
use self::write_guard::{Due, WriteGuard};
use crate::config::{Config, Durability};
use crate::error::{Error, Result};
use crate::format::hash::HashKey;
use crate::format::keyspace_change::KeyspaceSet;
use crate::format::{SegmentId, Seq};
use crate::fs::Lock;
use crate::log::allocator::SegmentAllocator;
use crate::log::context::LogContext;
use crate::log::group_commit::CommitWatcher;
use crate::log::writer::LogWriter;
use crate::mem::fork_guard::ForkGuard;
use crate::recovery::Recovered;
use crate::recovery::report::RecoveryReport;
use crate::sync::epoch::{Domain, Pin};
use crate::sync::notifier::Notifier;
use crate::sync::seqlock::SeqLock;
use crate::sync::statistic::Statistic;

/// The state that the writer mutex guards.
#[derive(Debug)]
pub(crate) struct WriterState {
    pub(crate) log: LogWriter,
    pub(crate) indexes: Indexes,
    /// The keyspaces, according to the log.
    pub(crate) names: KeyspaceSet,
}

/// Counters that the writer keeps, and every thread reads.
#[derive(Debug, Default)]
pub(crate) struct StateCounters {
    /// The number of times a writer woke the worker.
    pub(crate) wakes: Statistic,
    /// The number of live iterators.
    pub(crate) iterators: AtomicUsize,
    /// The active segment, as the writer published it last.
    segment: AtomicU64,
}

/// The state of an open store.
pub(crate) struct State {
    /// The epoch domain that readers pin.
    pub(crate) pins: Domain,
    pub(crate) shared: LogContext,
    pub(crate) config: Config,
    pub(crate) fork_guard: ForkGuard,
    pub(crate) hash_key: HashKey,
    pub(crate) catalog: Catalog,
    /// The keyspace without a name.
    pub(crate) default: Arc<KeyspaceState>,
    pub(crate) visibility: Visibility,
    pub(crate) writer: Mutex<WriterState>,
    pub(crate) allocator: SegmentAllocator,
    pub(crate) counters: StateCounters,
    pub(crate) seqlock: SeqLock,
    pub(crate) report: RecoveryReport,
    pub(crate) notifier: Notifier,
    pub(crate) syncer: Syncer,
    pub(crate) loader: IndexLoader,
    pub(crate) hinted: HintedRecords,
    pub(crate) hint_writer: HintWriter,
    read_around: ReadAround,
    pub(crate) waiting_open: WaitingOpen,
    pub(crate) backpressure: Backpressure,
    /// The epoch of the oldest pin that removed files wait for, and the time it was first seen, by
    /// the store's clock.
    waiting: Mutex<Option<(u64, Duration)>>,
}

/// Short: a handle, a view and an iterator print this.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Engine");
        text.field("path", &self.shared.dir.path());
        // A forked child takes no lock.
        if !self.fork_guard.is_forked() {
            text.field("keyspaces", &self.catalog.all().len());
        }
        text.finish_non_exhaustive()
    }
}

impl State {
    /// Starts on the result of recovery. Returns the store's lock beside it.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or the first pages of the log cannot be faulted.
    pub(super) fn start(opened: Recovered, config: Config) -> Result<(Self, Box<dyn Lock>)> {
        let Recovered { shared, lock, control, hash_key, keyspaces, names, pending, tail, ready, .. } =
            opened;
        let fork_guard =
            ForkGuard::new().map_err(|error| Error::io("make a page for", shared.dir.path(), error))?;
        let allocator = SegmentAllocator::new(
            opened.prefault,
            &config,
            &shared.segments,
            ready,
            Arc::clone(&tail.segment),
        );
        let pins = shared.space.domain();
        let last = tail.last;
        tail.segment.times_are_told(last);
        let log = LogWriter::open(&shared, tail)?;
        let (segment, offset) = log.position();
        allocator.set_active(segment, offset);
        let is_resumed = offset > segment.data_offset();
        let covered = opened.checkpoint.iter().flat_map(|checkpoint| &checkpoint.segments);
        let covered = covered.filter(|covered| covered.id == segment.id()).map(|covered| covered.end).next();
        let resumed = (segment.id(), covered.unwrap_or(segment.data_offset()));
        let hint_writer = HintWriter::new(
            shared.dir.tuning().hint_chunk.filter(|_| !config.read_only),
            (log.next_seq(), shared.manifest.read(|manifest| manifest.next_segment)),
            opened.hint_files,
            is_resumed.then_some(resumed),
        );
        let counters = StateCounters { segment: AtomicU64::new(segment.id().0), ..StateCounters::default() };
        let loader = IndexLoader::new(keyspaces.iter().map(|loaded| loaded.slot.index.index()));
        let (catalog, indexes) = Catalog::new(keyspaces, pending, pins);
        if config.sigbus_guard {
            control.guard();
        }
        shared.commit.show_at(Arc::clone(&control) as Arc<dyn CommitWatcher>);
        let state = Self {
            pins,
            shared,
            config,
            fork_guard,
            hash_key,
            default: catalog.get("").expect("every store has the keyspace without a name"),
            catalog,
            visibility: Visibility::new(pins),
            writer: Mutex::new(WriterState { log, indexes, names }),
            allocator,
            counters,
            seqlock: SeqLock::new(last),
            report: opened.report,
            notifier: Notifier::default(),
            syncer: Syncer::new(control, opened.unsynced)?,
            loader,
            hinted: HintedRecords::new(opened.hinted),
            hint_writer,
            read_around: ReadAround::default(),
            waiting_open: WaitingOpen::new(opened.waiting),
            backpressure: Backpressure::default(),
            waiting: Mutex::new(None),
        };
        Ok((state, lock))
    }

    /// Pins the store for the time of a read.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        self.pins.pin()
    }

    /// Frees removed memory and files that no reader can see any more, and updates the quota.
    /// Returns the number that wait.
    pub(crate) fn collect_removed(&self) -> usize {
        let left = self.shared.space.collect();
        self.allocator.recount(&self.shared);
        self.note_oldest_pin();
        left
    }

    /// Returns the time that removed files have waited for the oldest pin, according to the calls
    /// so far.
    ///
    /// A pin's epoch distinguishes it from all pins taken since something began to wait.
    pub(crate) fn note_oldest_pin(&self) -> Option<Duration> {
        let now = self.shared.dir.now();
        let oldest = self.pins.pins().oldest.filter(|_| self.shared.space.waits());
        let mut waiting = self.waiting.lock();
        *waiting = oldest.map(|epoch| waiting.filter(|(before, _)| *before == epoch).unwrap_or((epoch, now)));
        waiting.map(|(_, since)| now.saturating_sub(since))
    }

    /// Returns the present contents of a keyspace.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    #[inline]
    pub(crate) fn contents<'p>(&self, keyspace: &'p KeyspaceState, pin: &'p Pin) -> Result<&'p KeyspaceData> {
        match keyspace.contents(pin) {
            Some(contents) => Ok(contents),
            None => Err(dropped(keyspace)),
        }
    }

    /// Refuses to write to a store that is poisoned or closed.
    ///
    /// # Errors
    ///
    /// `Poisoned`, `Closed` or `Forked`.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.shared.commit.check()?;
        self.fork_guard.check()
    }

    // ---- Durability

    /// Makes everything appended so far durable, the log's own records included.
    ///
    /// # Errors
    ///
    /// `Poisoned` if a sync failed, now or earlier.
    pub(crate) fn sync(&self) -> Result<()> {
        self.resume()?;
        self.shared.commit.run(|| self.syncer.sync(self))
    }

    /// Waits until everything up to a number is durable, the numbers of the log's own records
    /// included.
    ///
    /// # Errors
    ///
    /// The errors of [`State::sync`].
    pub(crate) fn sync_upto(&self, seq: Seq) -> Result<()> {
        if self.shared.commit.durable() < seq {
            self.resume()?;
        }
        self.shared.commit.wait(seq, || self.syncer.sync(self))
    }

    /// Waits until a write is as durable as `durability` asks.
    ///
    /// # Errors
    ///
    /// The errors of [`State::sync`].
    #[inline]
    pub(crate) fn wait_for(&self, seq: Seq, durability: Durability) -> Result<()> {
        match durability {
            Durability::Os | Durability::Interval => Ok(()),
            Durability::Disk => self.sync_upto(seq),
        }
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    ///
    /// The errors of [`State::sync`].
    pub(crate) fn flush(&self) -> Result<()> {
        self.shared.commit.check()?;
        self.resume()?;
        self.sync_upto(self.last_seq())
    }

    /// Marks durable segments as sealed in the manifest. Returns true if there were any.
    ///
    /// # Errors
    ///
    /// The errors of [`Syncer::seal`].
    pub(crate) fn seal(&self) -> Result<bool> {
        self.syncer.seal(self)
    }

    /// Returns the last record that a user wrote.
    pub(crate) fn last_seq(&self) -> Seq {
        self.seqlock.last()
    }

    /// Returns the last record that a user wrote and that is durable together with all before it.
    ///
    /// The log's own records have numbers, too, and are synced with the others. Users cannot wait
    /// for those.
    pub(crate) fn durable_seq(&self) -> Seq {
        let durable = self.shared.commit.durable();
        durable.min(self.last_seq())
    }

    /// Waits until everything up to a number is durable.
    ///
    /// # Errors
    ///
    /// The errors of [`State::sync`], and `UnknownSeq`.
    pub(crate) fn wait_durable(&self, seq: Seq) -> Result<()> {
        self.fork_guard.check()?;
        let last = self.last_seq();
        if seq > last {
            return Err(Error::UnknownSeq { seq: seq.0, last: last.0 });
        }
        self.sync_upto(seq)
    }

    // ---- The active segment

    /// Records the active segment, under the writer mutex. Returns true if it has changed.
    #[inline]
    fn note_active(&self, segment: SegmentId) -> bool {
        // Relaxed, both: under the writer mutex.
        let rolled = self.counters.segment.load(Ordering::Relaxed) != segment.0;
        if rolled {
            self.counters.segment.store(segment.0, Ordering::Relaxed);
            self.note_growth();
        }
        rolled
    }

    /// Records whether the log is beyond its bound.
    #[cold]
    pub(crate) fn note_growth(&self) {
        self.backpressure.note(self.allocator.used(), self.growth_bound());
    }

    /// Returns the most bytes that the log takes while writes go on.
    pub(crate) fn growth_bound(&self) -> u64 {
        let bound = growth_bound(self.catalog.live_bytes(), self.config.segment_bytes);
        // Compaction does not free it.
        bound.saturating_add(self.config.keep_changes)
    }

    /// Wakes the worker, if it sleeps and has work.
    #[inline]
    pub(crate) fn notify_worker(&self, due: Due) {
        if due.call {
            self.call_worker();
        }
    }

    /// Wakes the worker, if it sleeps.
    pub(crate) fn call_worker(&self) {
        if self.notifier.notify() {
            self.counters.wakes.add(1);
        }
    }

    /// Continues in another segment, and makes the one before durable.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `Poisoned`, or an error of the operating system.
    pub(crate) fn roll(&self) -> Result<()> {
        {
            let mut guard = WriteGuard::lock(self)?;
            guard.writer.log.roll_now(&self.shared, &self.allocator)?;
            guard.end();
        }
        self.sync()?;
        self.seal().map(drop)
    }

    /// Returns true if the active segment holds bytes that compaction could reclaim.
    pub(crate) fn is_active_dirty(&self) -> bool {
        let writer = self.writer.lock();
        let counted = writer.log.position().0.mapping().dead_bytes().counted();
        counted.hidden > 0 || counted.tombstones > 0
    }

    /// Maps a segment that was not needed since the store was opened. Returns true if there was
    /// one.
    pub(crate) fn map_some(&self) -> bool {
        let attached = self.shared.space.map_next();
        if let Some(Err(error)) = &attached {
            // Each read that needs it tries again, and returns the error.
            crate::trace::segment_unusable(error);
        }
        attached.is_some()
    }
}

/// Returns the error for the use of a dropped keyspace.
#[cold]
pub(crate) fn dropped(keyspace: &KeyspaceState) -> Error {
    Error::KeyspaceDropped { name: keyspace.name().to_string() }
}
