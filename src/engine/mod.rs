//! The store without its face: what reads, writes, the helper and the reports share.
//!
//! **Concurrency.** One writer mutex decides everything about writes (`write`); reads take no lock (`read`). Lock
//! order: writer mutex, then what `provision` names. The commit's leader takes the writer mutex twice, briefly, and
//! syncs without it.

pub(crate) mod checkpoint;
pub(crate) mod compaction;
pub(crate) mod handle;
pub(crate) mod lookup;
pub(crate) mod maintenance;
pub(crate) mod read;
pub(crate) mod scrub;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod worker_task;
pub(crate) mod write;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{Config, Durability};
use crate::engine::checkpoint::state::Imaging;
use crate::engine::compaction::state::Compaction;
use crate::engine::state::catalog::{Catalog, Contents, Indexes, Keyspace};
use crate::engine::state::visibility::Visibility;
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::hash::HashKey;
use crate::format::keyspace_change::Keyspaces;
use crate::format::manifest::{Manifest, State};
use crate::fs::Lock;
use crate::log::allocator::Provision;
use crate::log::context::Shared;
use crate::log::control_page::ControlPage;
use crate::log::rewrite::{free_behind, heal, note_healed};
use crate::log::sync_plan::{Full, SegmentRange};
use crate::log::writer::LogWriter;
use crate::mem::fork_guard::Liveness;
use crate::recovery::Opened;
use crate::recovery::report::RecoveryReport;
use crate::sync::epoch::{Domain, Pin};
use crate::sync::notifier::Bell;
use crate::sync::seqlock::Progress;

/// What the writer mutex guards.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) log: LogWriter,
    pub(crate) indexes: Indexes,
    /// The keyspaces, as the log has them.
    pub(crate) names: Keyspaces,
}

/// Counters that the writer keeps and everybody reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// How often a writer woke the helper.
    pub(crate) wakes: AtomicU64,
    /// Iterators that are alive.
    pub(crate) iterators: AtomicUsize,
    /// Segments that are full and not durable.
    pub(crate) full: AtomicU64,
    /// The active segment, as the writer told everybody last.
    pub(crate) segment: AtomicU64,
}

/// Segments that are durable to their end and not yet called so by the manifest.
#[derive(Debug, Default)]
struct Sealing {
    full: Vec<Full>,
    healed: Vec<SegmentRange>,
}

impl Sealing {
    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.healed.is_empty()
    }
}

/// An open store.
pub(crate) struct Engine {
    /// What its readers pin.
    pub(crate) pins: Domain,
    pub(crate) shared: Shared,
    pub(crate) config: Config,
    pub(crate) liveness: Liveness,
    pub(crate) hash_key: HashKey,
    pub(crate) catalog: Catalog,
    /// The keyspace without a name.
    pub(crate) default: Arc<Keyspace>,
    pub(crate) visibility: Visibility,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) provision: Provision,
    pub(crate) counters: Counters,
    pub(crate) progress: Progress,
    pub(crate) report: RecoveryReport,
    pub(crate) bell: Bell,
    pub(crate) compaction: Compaction,
    pub(crate) imaging: Imaging,
    control: ControlPage,
    /// What of a sync that nobody asked for is still to be written back before it.
    pub(crate) ahead: Mutex<Option<Vec<SegmentRange>>>,
    /// What an unclean end left to be written again.
    pub(crate) unproven: Mutex<Vec<SegmentRange>>,
    /// Segments that are durable and not yet called so by the manifest.
    sealing: Mutex<Sealing>,
    lock: Mutex<Option<Box<dyn Lock>>>,
    /// When the oldest write that no sync covers was noticed, by the store's clock.
    pub(crate) dirty_since: Mutex<Option<Duration>>,
    /// The epoch of the oldest pin that removed files wait for, and since when, by the store's clock.
    waiting: Mutex<Option<(u64, Duration)>>,
}

/// Short: this is what a handle, a view and an iterator print.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Engine");
        text.field("path", &self.shared.dir.path());
        // A forked child takes no lock.
        if !self.liveness.is_forked() {
            text.field("keyspaces", &self.catalog.all().len());
        }
        text.finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts on what recovery opened.
    ///
    /// # Errors
    ///
    /// When memory is short, or the first pages of the log cannot be made ready.
    pub(crate) fn start(opened: Opened, config: Config) -> Result<Self> {
        let Opened { shared, lock, control, hash_key, keyspaces, names, pending, tail, ready, .. } = opened;
        let liveness =
            Liveness::new().map_err(|error| Error::io("make a page for", shared.dir.path(), error))?;
        let provision =
            Provision::new(opened.regime, &config, &shared.segments, ready, Arc::clone(&tail.segment));
        let pins = shared.space.domain();
        let last = tail.last;
        tail.segment.times_are_told(last);
        let log = LogWriter::open(&shared, tail)?;
        let (segment, offset) = log.position();
        provision.set_active(segment, offset);
        let counters = Counters { segment: AtomicU64::new(segment.id().0), ..Counters::default() };
        let loaded = keyspaces.iter().map(|loaded| loaded.slot.index.index());
        let imaging = Imaging::new(opened.image.as_ref(), loaded);
        let (catalog, indexes) = Catalog::new(keyspaces, pending, pins);
        if config.sigbus_guard {
            control.guard();
        }
        Ok(Self {
            pins,
            shared,
            config,
            liveness,
            hash_key,
            default: catalog.get("").expect("every store has the keyspace without a name"),
            catalog,
            visibility: Visibility::new(pins),
            writer: Mutex::new(Writer { log, indexes, names }),
            provision,
            counters,
            progress: Progress::new(last),
            report: opened.report,
            bell: Bell::default(),
            compaction: Compaction::default(),
            imaging,
            control,
            ahead: Mutex::new(None),
            unproven: Mutex::new(opened.unproven),
            sealing: Mutex::new(Sealing::default()),
            lock: Mutex::new(Some(lock)),
            dirty_since: Mutex::new(None),
            waiting: Mutex::new(None),
        })
    }

    /// Pins the store for the time of a read.
    #[inline]
    pub(crate) fn pin(&self) -> Pin {
        self.pins.pin()
    }

    /// Gives back what was removed and no reader can see any more, and takes note of what is held; how many pieces wait.
    pub(crate) fn collect_removed(&self) -> usize {
        let left = self.shared.space.collect();
        self.provision.recount(&self.shared);
        self.note_oldest_pin();
        left
    }

    /// How long removed files have waited for the oldest pin, as far as somebody has looked. A pin's epoch tells it from all
    /// that were taken since something began to wait.
    pub(crate) fn note_oldest_pin(&self) -> Option<Duration> {
        let now = self.shared.dir.now();
        let oldest = self.pins.pins().oldest.filter(|_| self.shared.space.waits());
        let mut waiting = self.waiting.lock();
        *waiting = oldest.map(|epoch| waiting.filter(|(before, _)| *before == epoch).unwrap_or((epoch, now)));
        waiting.map(|(_, since)| now.saturating_sub(since))
    }

    /// What a keyspace holds now.
    ///
    /// # Errors
    ///
    /// `KeyspaceDropped`.
    #[inline]
    pub(crate) fn contents<'p>(&self, keyspace: &'p Keyspace, pin: &'p Pin) -> Result<&'p Contents> {
        match keyspace.contents(pin) {
            Some(contents) => Ok(contents),
            None => Err(dropped(keyspace)),
        }
    }

    /// Makes everything appended so far durable; run by the leader of a commit, one at a time.
    ///
    /// # Errors
    ///
    /// The first failure; the commit poisons the store with it.
    pub(crate) fn sync_once(&self) -> Result<Seq> {
        // What nobody can find is not called durable.
        self.shared.manifest.check_place()?;
        let unproven = std::mem::take(&mut *self.unproven.lock());
        heal(&unproven)?;
        self.sealing.lock().healed.extend(unproven);
        let plan = self.writer.lock().log.plan();
        plan.execute(self.shared.dir.as_ref(), &self.shared.commit)?;
        let durable = self.writer.lock().log.synced(&self.shared, &plan);
        for full in &durable {
            full.segment.tell_time(full.last_seq);
        }
        self.control.set_durable(plan.upto());
        self.sealing.lock().full.extend(durable);
        *self.dirty_since.lock() = None;
        crate::trace::synced(plan.upto().0, plan.bytes());
        Ok(plan.upto())
    }

    /// Has a piece of the log written back ahead of the sync that counts, so that this finds little to do.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn write_back(&self, SegmentRange { segment, from, to }: SegmentRange) -> Result<()> {
        self.shared.commit.check()?;
        // Durable meanwhile as a whole, where it has no file any more.
        segment.sync_if_kept(from, to, &self.shared.commit).map(drop)
    }

    /// Waits until a write is as durable as it is to be.
    ///
    /// # Errors
    ///
    /// `Poisoned` where a sync failed, now or earlier.
    pub(crate) fn settle(&self, seq: Seq, durability: Durability) -> Result<()> {
        match durability {
            Durability::Os | Durability::Interval => Ok(()),
            Durability::Disk => self.shared.commit.wait(seq, || self.sync_once()),
        }
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    ///
    /// As [`Engine::settle`].
    pub(crate) fn flush(&self) -> Result<()> {
        self.shared.commit.check()?;
        self.settle(self.last_seq(), Durability::Disk)
    }

    /// The last record that somebody wrote.
    pub(crate) fn last_seq(&self) -> Seq {
        self.progress.last()
    }

    /// The last record that somebody wrote and that is durable together with all before it.
    ///
    /// The store's own records have numbers, too, and are synced with the others: those are nobody's to ask for.
    pub(crate) fn durable_seq(&self) -> Seq {
        let durable = self.shared.commit.durable();
        durable.min(self.last_seq())
    }

    /// Waits until everything up to a number is durable.
    ///
    /// # Errors
    ///
    /// As [`Engine::settle`]; `UnknownSeq`.
    pub(crate) fn wait_durable(&self, seq: Seq) -> Result<()> {
        self.liveness.check()?;
        let last = self.last_seq();
        if seq > last {
            return Err(Error::UnknownSeq { seq: seq.0, last: last.0 });
        }
        self.settle(seq, Durability::Disk)
    }

    /// Has the manifest call segments sealed that are durable; whether there were any.
    ///
    /// # Errors
    ///
    /// What the operating system says; they are named again later.
    pub(crate) fn seal(&self) -> Result<bool> {
        let sealing = std::mem::take(&mut *self.sealing.lock());
        if sealing.is_empty() {
            return Ok(false);
        }
        let named = self.shared.manifest.update(|manifest| {
            self.note_sealed(manifest, &sealing.full);
            note_healed(manifest, &sealing.healed);
        });
        if let Err(error) = named {
            let mut waiting = self.sealing.lock();
            waiting.full.extend(sealing.full);
            waiting.healed.extend(sealing.healed);
            return Err(error);
        }
        let mut freed = Ok(());
        for range in sealing.healed {
            freed = freed.and(free_behind(&range.segment, range.to));
            range.segment.release_file();
        }
        for full in sealing.full {
            // A segment that ended early because the next frame did not fit.
            freed = freed.and(free_behind(&full.segment, full.end));
            full.segment.release_file();
        }
        freed.map(|()| true)
    }

    fn note_sealed(&self, manifest: &mut Manifest, sealed: &[Full]) {
        for full in sealed {
            if let Some(entry) = manifest.segment_mut(full.segment.id()) {
                entry.state = State::Sealed;
                entry.end = full.end;
                entry.last_seq = full.last_seq;
                entry.first_seq = full.segment.first_seq();
                entry.filtered = full.segment.filtered();
            }
        }
        self.catalog.note_durable(manifest, self.shared.commit.durable());
    }

    /// Closes the store: everything durable, the manifest says so, the lock free.
    ///
    /// # Errors
    ///
    /// What went wrong; the store is closed nevertheless, and the next open recovers.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.liveness.close() {
            return Err(Error::Closed);
        }
        let result = self.finish();
        self.attach_for_readers();
        self.lock.lock().take();
        crate::trace::closed(self.shared.dir.path(), result.is_ok());
        result
    }

    /// Maps what waits, where a snapshot or an iterator is alive and may need it: they outlive the store, and whoever has that
    /// next may remove the files.
    fn attach_for_readers(&self) {
        // Relaxed: whoever makes an iterator meanwhile does so beside the close.
        let iterators = self.counters.iterators.load(Ordering::Relaxed);
        if self.catalog.snapshots.holding().snapshots == 0 && iterators == 0 {
            return;
        }
        for segment in self.shared.segments.read().values() {
            if let Err(error) = self.shared.space.attach(segment.mapping()) {
                // The read that needs it tries again, and says so.
                crate::trace::segment_unusable(&error);
            }
        }
    }

    fn finish(&self) -> Result<()> {
        if self.config.read_only {
            return Ok(());
        }
        self.end_compaction();
        self.end_image();
        self.shared.commit.check()?;
        // A writer that got in before the handle was closed is done once the mutex is free.
        drop(self.writer.lock());
        if self.shared.manifest.is_behind() {
            // Nothing was written: the disk says of the store what is true.
            return Ok(());
        }
        self.flush()?;
        self.provision.tell_time(self.last_seq());
        // The flush was followed by a watermark; the second one makes the very end durable, and is followed by none.
        self.shared.commit.run(|| self.sync_once())?;
        let sealed = self.seal();
        if let Err(error) = self.image_at_close() {
            // The next open reads more.
            self.shared.commit.check()?;
            crate::trace::image_failed(&error);
        }
        let writer = self.writer.lock();
        let (segment, offset) = writer.log.position();
        let (last_seq, next_seq) = (writer.log.last_seq(), writer.log.next_seq());
        self.shared.manifest.update(|manifest| {
            if let Some(entry) = manifest.segment_mut(segment.id()) {
                entry.end = offset;
                entry.last_seq = last_seq;
            }
            manifest.clean = true;
            self.catalog.note_durable(manifest, last_seq);
            manifest.next_seq = next_seq;
        })?;
        // The store is closed cleanly all the same; the caller hears that some space was not given back.
        sealed.map(drop)
    }
}

/// The error of whoever uses a keyspace that is gone.
#[cold]
pub(crate) fn dropped(keyspace: &Keyspace) -> Error {
    Error::KeyspaceDropped { name: keyspace.name().to_string() }
}
