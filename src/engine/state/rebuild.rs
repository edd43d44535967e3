//! Rebuilding indexes from the log, because the checkpoint that they come from is damaged.
//!
//! It runs under the writer mutex, so that nothing is written meanwhile. Readers continue with the
//! loaded parts. Reading one gigabyte takes about a second, and it happens once: a rebuilt index
//! needs no checkpoint any more.
//!
//! No pass of compaction is under way, because none begins before the indexes are whole. So the
//! records of all segments determine the index: it holds the newest of each key, and no record is
//! in two places. Recovery fills an index from records in the same way (`IndexBuilders`).

use std::sync::Arc;

use super::{State, WriterState};
use crate::engine::state::catalog::KeyspaceData;
use crate::error::{Error, Result};
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::format::record_reader::ReadAt;
use crate::index::checkpoint::is_of_checkpoint;
use crate::index::key_index::KeyIndexWriter;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::segment::Segment;
use crate::log::segment_reader::Records;
use crate::recovery::build_context::Superseded;
use crate::recovery::index_builder::IndexBuilder;
use crate::recovery::index_builders::{IndexBuilders, StorePlace};

impl State {
    /// Rebuilds every index that is not whole. If all are, another thread has done it.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the log does not verify, and errors of the operating system. The indexes are
    /// unchanged, and later callers get the same error.
    pub(super) fn rebuild(&self, damage: &Error) -> Result<()> {
        self.rebuild_with(&mut self.writer.lock(), damage)
    }

    /// Rebuilds the indexes like [`State::rebuild`], for a caller that has the writer mutex.
    ///
    /// # Errors
    ///
    /// The errors of [`State::rebuild`].
    pub(super) fn rebuild_with(&self, writer: &mut WriterState, damage: &Error) -> Result<()> {
        let pin = self.pin();
        let mut builders = IndexBuilders::new(Superseded::IsCounted);
        let mut partial = Vec::new();
        for keyspace in self.catalog.all() {
            let contents = keyspace.contents(&pin).filter(|contents| contents.index.is_partial());
            let Some(id) = contents.map(|contents| contents.id) else { continue };
            builders.add(IndexBuilder::known(id, KeyspaceIndex::empty(id, self.shared.dir.path())?, 0));
            partial.push((id, keyspace));
        }
        if partial.is_empty() {
            // Keyspaces that waited for hints were cleared or dropped since: none needs them.
            self.end_waiting();
            return Ok(());
        }
        self.loader.check_stuck()?;
        // Superseded records in parts that wait still count as live.
        let is_waiting = self.hinted.waiting() > 0;
        if is_of_checkpoint(damage) {
            crate::trace::checkpoint_unusable(damage);
            self.loader.note_spoiled();
        } else {
            crate::trace::hints_unusable(damage);
        }
        self.read_all_back(&mut builders).inspect_err(|error| self.loader.note_stuck(error))?;
        for (id, keyspace) in partial {
            let Some(builder) = builders.remove(id) else { continue };
            let (slot, live_bytes) = builder.finish(&self.shared.space, self.shared.dir.path())?;
            let Some(contents) = keyspace.contents(&pin) else { continue };
            let found = slot.index.len() as u64;
            debug_assert!(is_waiting || contents.keys() == found, "the log says what the checkpoint said");
            contents.keys.set(found);
            contents.live_bytes.set(live_bytes);
            let index = self.recounted(writer, contents, slot);
            self.catalog.reindex(&mut writer.indexes, &keyspace, index);
        }
        self.end_waiting();
        self.loader.note_rebuilt();
        Ok(())
    }

    /// Takes over the live bytes that a rebuild has counted. Bytes that were
    /// live before and are not now are superseded. Returns the rebuilt index.
    fn recounted(
        &self,
        writer: &mut WriterState,
        contents: &KeyspaceData,
        slot: KeyspaceIndex,
    ) -> KeyIndexWriter {
        let (index, live) = slot.into_parts();
        for (ordinal, bytes) in writer.indexes.of(contents).recount(live) {
            self.shared.space.add_hidden_in(ordinal, bytes);
        }
        index
    }

    /// Reads the records of all segments into the indexes.
    fn read_all_back(&self, builders: &mut IndexBuilders) -> Result<()> {
        let store = StorePlace { dir: self.shared.dir.as_ref(), space: &self.shared.space };
        let segments: Vec<_> = self.shared.segments.read().values().map(Arc::clone).collect();
        for segment in &segments {
            self.read_back(store, segment, builders)?;
        }
        builders.flush(store)
    }

    /// Reads the records of a segment.
    fn read_back(
        &self,
        store: StorePlace<'_>,
        segment: &Arc<Segment>,
        builders: &mut IndexBuilders,
    ) -> Result<()> {
        let end = segment.mapping().published();
        if end == 0 {
            return Ok(());
        }
        let mut records = Records::open(store.dir, segment, end)?;
        while let Some(record) = records.next()? {
            let header = &record.header;
            let has_key = matches!(header.kind, RecordKind::Put | RecordKind::Tombstone);
            if has_key && builders.has(header.keyspace) {
                let at = record.offset + HEADER_SIZE as u64;
                let hash = self.hash_of(records.source().bytes(at, usize::from(header.key_len))?);
                builders.gather_one(store, segment, &record, hash)?;
            }
        }
        Ok(())
    }
}
