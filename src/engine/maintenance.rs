//! What the background does for a store: what keeps promises first, and then a piece of everything in turn.

use crate::engine::Engine;
use crate::error::{Error, Result};

/// How many steps are taken for a writer who finds little ready, before the next one for anybody else.
const PROVIDED: usize = 4;

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
            return Ok(self.load_some()? || self.map_some());
        }
        if self.syncer.unsynced().0 > 0 {
            self.sync()?;
            return Ok(true);
        }
        // What keeps promises comes before what saves time.
        if self.syncer.sync_in_time(self)? || self.seal()? || self.grow_ahead()? {
            return Ok(true);
        }
        // A piece of each: a fast writer keeps `allocator` at work for as long as it writes, and a pass takes long, too.
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
            || self.map_some()
            || self.checkpointer.step(self, &self.compactor)?
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
}
