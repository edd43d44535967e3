//! What the background does for a store: what keeps promises first, and then a piece of everything in turn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Durability;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::sync_plan::SegmentRange;

/// How many segments may be full and not durable before the helper syncs them.
const FULL_MAX: u64 = 16;

/// How many steps are taken for a writer who finds little ready, before the next one for anybody else.
const PROVIDED: usize = 4;

/// How much of the log is written back in one step, in bytes.
const SYNC_PIECE: u64 = 2 << 20;

/// How many indexes one step looks at, whether they want memory.
const GROW_LOOKS: usize = 64;

/// How many buckets of an index one step merges: some ten microseconds under the writer mutex.
const MERGES: usize = 128;

impl Engine {
    /// One piece of the background's work; whether there was any.
    ///
    /// # Errors
    ///
    /// What a writer that did the work itself would get.
    pub(crate) fn step(&self) -> Result<bool> {
        self.shared.commit.check()?;
        if self.catalog.has_retired() {
            // What is left waits for a reader: it may take as long as it likes.
            self.catalog.collect();
        }
        if self.shared.manifest.is_behind() {
            // Nothing was written since a clean close, and nothing is to be before the first write.
            return Ok(self.load_some()? || self.attach_some());
        }
        if !self.unproven.lock().is_empty() {
            self.shared.commit.run(|| self.sync_once())?;
            return Ok(true);
        }
        // What keeps promises comes before what saves time.
        if self.sync_in_time()? || self.seal()? || self.grow_ahead()? {
            return Ok(true);
        }
        // A piece of each: a fast writer keeps `provision` at work for as long as it writes, and a pass takes long, too.
        let mut provided = false;
        for _ in 0..PROVIDED {
            let more = self.provision.step(&self.shared)?;
            provided |= more;
            if !more || !self.provision.is_short() {
                break;
            }
        }
        let synced = self.sync_full()?;
        let done = self.load_some()?
            || self.attach_some()
            || self.image_step()?
            || self.compact_step()?
            || self.shrink_some();
        Ok(provided || synced || done)
    }

    /// One piece of what is worth doing once nothing has been written for a while; whether there was any.
    ///
    /// A store from which nearly everything was removed ends up with small files, as if it were new.
    ///
    /// # Errors
    ///
    /// As [`Engine::step`].
    pub(crate) fn rest_step(&self) -> Result<bool> {
        self.shared.commit.check()?;
        if !self.config.compaction || self.shared.manifest.is_behind() {
            return Ok(false);
        }
        if self.is_outgrown() {
            self.provision.give_up_ready(&self.shared)?;
            self.roll()?;
            return Ok(true);
        }
        self.compact_at_rest()
    }

    /// Maps a segment that nobody has needed since the store was opened; whether there was one.
    fn attach_some(&self) -> bool {
        let attached = self.shared.space.attach_next();
        if let Some(Err(error)) = &attached {
            // Every read that needs it tries again, and says so.
            crate::trace::segment_unusable(error);
        }
        attached.is_some()
    }

    /// Makes memory of an index that is short of it present ahead of the writer; whether there was one among those
    /// whose turn it was.
    fn grow_ahead(&self) -> Result<bool> {
        let pin = self.pin();
        for keyspace in self.catalog.next_few(GROW_LOOKS) {
            let Some(contents) = keyspace.contents(&pin) else { continue };
            if contents.index.is_short_of_room() {
                let grown = contents.index.populate_ahead();
                grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Merges some buckets of an index that has too many, which its writes have not done: an image was taken meanwhile, or the index
    /// came from one. Whether there was one among those whose turn it was.
    fn shrink_some(&self) -> bool {
        let pin = self.pin();
        self.catalog.next_few(GROW_LOOKS).iter().any(|keyspace| {
            let is_sparse = || keyspace.contents(&pin).filter(|contents| contents.index.is_sparse());
            if is_sparse().is_none_or(|contents| contents.index.is_partial()) {
                return false;
            }
            // It may have been cleared meanwhile.
            let mut writer = self.writer.lock();
            is_sparse().is_some_and(|contents| writer.indexes.of(contents).index.shrink(MERGES) > 0)
        })
    }

    /// A piece of a sync where nobody asked for it, once many segments wait: each keeps its descriptor until it is durable.
    fn sync_full(&self) -> Result<bool> {
        let mut ahead = self.ahead.lock();
        if ahead.is_none() {
            // Relaxed: the next step sees what this one misses.
            if self.counters.full.load(Ordering::Relaxed) < FULL_MAX {
                return Ok(false);
            }
            *ahead = Some(self.pieces());
        }
        if self.write_back_some(&mut ahead)? {
            self.shared.commit.run(|| self.sync_once())?;
            // Relaxed: as above; a writer that fills another one meanwhile counts again.
            self.counters.full.store(0, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// What is not durable yet, in pieces.
    pub(crate) fn pieces(&self) -> Vec<SegmentRange> {
        self.writer.lock().log.plan().pieces(SYNC_PIECE)
    }

    /// Has the next piece written back; whether it was the last one, and the sync that counts will find little to do. That one
    /// is one step, and while it takes nobody makes pages ready for the writer.
    ///
    /// # Errors
    ///
    /// `Poisoned`.
    pub(crate) fn write_back_some(&self, ahead: &mut Option<Vec<SegmentRange>>) -> Result<bool> {
        if let Some(piece) = ahead.as_mut().and_then(Vec::pop) {
            self.write_back(piece)?;
            return Ok(false);
        }
        *ahead = None;
        Ok(true)
    }

    /// Whether a write waits for a sync that is due some time later.
    pub(crate) fn is_dirty(&self) -> bool {
        // The helper looks under the writer mutex before it sleeps.
        self.config.durability == Durability::Interval && self.progress.last() > self.shared.commit.durable()
    }

    /// How long it is until a sync is due, if a write waits for one.
    pub(crate) fn due(&self) -> Option<Duration> {
        let since = self.is_dirty().then(|| *self.dirty_since.lock()).flatten()?;
        Some(since.saturating_add(self.config.sync_interval).saturating_sub(self.shared.dir.now()))
    }

    fn sync_in_time(&self) -> Result<bool> {
        if !self.is_dirty() {
            return Ok(false);
        }
        let now = self.shared.dir.now();
        let since = *self.dirty_since.lock().get_or_insert(now);
        if now.saturating_sub(since) < self.config.sync_interval {
            return Ok(false);
        }
        self.flush()?;
        Ok(true)
    }
}
