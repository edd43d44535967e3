//! The worker's steps for a store: those that guarantees depend on first, then a step of each job
//! in turn.

use crate::engine::Engine;
use crate::engine::state::catalog::KeyspaceData;
use crate::error::{Error, Result};
use crate::mem::limit::memory_limit;

/// The steps taken for a writer with few faulted pages, before the next one for another job.
const PROVIDED: usize = 4;

/// The slices of hints that one step writes: at most some ten milliseconds of work, if most of the log has no
/// hints. It is one if the writer is short of pages and few hints are missing.
const HINTED: usize = 16;

/// The number of indexes that one step checks for missing memory.
const GROW_LOOKS: usize = 64;

/// The number of index buckets that one step merges: some ten microseconds under the writer mutex.
const MERGES: usize = 128;

impl Engine {
    /// Does one step of the worker's work. Returns true if there was any.
    ///
    /// # Errors
    ///
    /// The error that a writer would get if it did the work itself.
    pub(crate) fn step(&self) -> Result<bool> {
        self.shared.commit.check()?;
        if self.catalog.has_retired() {
            // The rest waits for a reader, which may take as long as it likes.
            self.catalog.collect();
        }
        self.read_singly_beyond(memory_limit());
        if self.syncer.sync_as_asked(self)? {
            return Ok(true);
        }
        if self.shared.manifest.is_closed() {
            // Nothing was written since a clean close, and nothing is to be before the first write.
            return Ok(self.load_some()? || self.collapse_some() || self.map_some());
        }
        self.resume()?;
        if self.syncer.unsynced().0 > 0 {
            self.sync()?;
            return Ok(true);
        }
        // Work that guarantees depend on comes before work that saves time.
        if self.syncer.sync_in_time(self)? || self.seal()? || self.grow_ahead()? {
            return Ok(true);
        }
        // A step of each: a fast writer keeps `allocator` busy while it writes, and a pass takes
        // long, too.
        let mut provided = false;
        for _ in 0..PROVIDED {
            let more = self.allocator.step(&self.shared)?;
            provided |= more;
            if !more || !self.allocator.is_short() {
                break;
            }
        }
        let synced = self.syncer.sync_full(self)?;
        let done = self.load_some()?
            || self.collapse_some()
            || self.map_some()
            || self.checkpointer.step(self, &self.compactor)?
            || self.compact_step()?
            || self.shrink_some();
        let mut hinted = false;
        let is_idle = !(provided || synced || done);
        for _ in 0..HINTED {
            let more = self.hint_writer.step(self, is_idle);
            hinted |= more;
            // A writer that waits for a page is slow, and an open that reads much of the log is, too.
            if !more || (self.allocator.is_short() && !self.hint_writer.is_behind()) {
                break;
            }
        }
        Ok(provided || synced || done || hinted)
    }

    /// Does one step of the work that is worth doing after a while without writes. Returns true if
    /// there was any.
    ///
    /// A store from which nearly everything was removed ends up with small files, as if it were
    /// new.
    ///
    /// # Errors
    ///
    /// The errors of [`Engine::step`].
    pub(crate) fn rest_step(&self) -> Result<bool> {
        self.shared.commit.check()?;
        if !self.config.compaction || self.shared.manifest.is_behind() {
            return Ok(false);
        }
        if self.compactor.is_outgrown(self) {
            self.allocator.give_up_ready(&self.shared)?;
            self.roll()?;
            return Ok(true);
        }
        let Some(whole) = self.loader.whole() else { return Ok(false) };
        self.compactor.compact_at_rest(self, whole)
    }

    fn compact_step(&self) -> Result<bool> {
        let Some(whole) = self.loader.whole() else { return Ok(false) };
        self.compactor.step(self, whole)
    }

    /// Faults memory of an index that is short of it, ahead of the writer.
    ///
    /// Returns true if there was one among those whose turn it was.
    fn grow_ahead(&self) -> Result<bool> {
        let pin = self.pin();
        for keyspace in self.catalog.next_few(GROW_LOOKS) {
            let Some(contents) = keyspace.contents(&pin) else { continue };
            let short = contents.index.hashed().filter(|index| index.is_short_of_room());
            if let Some(index) = short {
                let grown = index.populate_ahead();
                grown.map_err(|error| Error::io("grow the index of", self.shared.dir.path(), error))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Merges some buckets of an index that has too many. Returns true if there was one among those
    /// whose turn it was.
    ///
    /// Its writes have not merged them, since a checkpoint was being made, or the index came from
    /// one.
    fn shrink_some(&self) -> bool {
        let pin = self.pin();
        self.catalog.next_few(GROW_LOOKS).iter().any(|keyspace| {
            let is_sparse_one =
                |contents: &&KeyspaceData| contents.index.hashed().is_some_and(|index| index.is_sparse());
            let sparse = || keyspace.contents(&pin).filter(is_sparse_one);
            if sparse().is_none_or(|contents| contents.index.is_partial()) {
                return false;
            }
            // It may have been cleared meanwhile.
            let mut writer = self.writer.lock();
            let shrunk = |contents| {
                let index = writer.indexes.of(contents).index.hashed();
                index.map_or(0, |index| index.shrink(MERGES))
            };
            sparse().map_or(0, shrunk) > 0
        })
    }
}
