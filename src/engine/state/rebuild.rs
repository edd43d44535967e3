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

use super::State;
use crate::engine::state::catalog::KeyspaceData;
use crate::error::{Error, Result};
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::format::record_reader::ReadAt;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::segment::Segment;
use crate::log::segment_reader::Records;
use crate::recovery::index_builder::{IndexBuilder, Superseded};
use crate::recovery::index_builders::{IndexBuilders, StorePlace};

impl State {
    /// Rebuilds every index that is not whole. If all are, another thread has done it.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the log does not verify, and errors of the operating system. The indexes are
    /// unchanged, and later callers get the same error.
    pub(super) fn rebuild(&self, damage: &Error) -> Result<()> {
        let mut writer = self.writer.lock();
        let pin = self.pin();
        let mut builders = IndexBuilders::new(Superseded::IsCounted);
        let mut partial = Vec::new();
        for keyspace in self.catalog.all() {
            let contents = keyspace.contents(&pin).filter(|contents| contents.index.is_partial());
            let Some(id) = contents.map(|contents| contents.id) else { continue };
            builders.add(IndexBuilder::known(id, KeyspaceIndex::empty(self.shared.dir.path())?, 0));
            partial.push((id, keyspace));
        }
        if partial.is_empty() {
            return Ok(());
        }
        self.loader.check_stuck()?;
        crate::trace::checkpoint_unusable(damage);
        self.loader.note_spoiled();
        self.read_all_back(&mut builders).inspect_err(|error| self.loader.note_stuck(error))?;
        for (id, keyspace) in partial {
            let Some(builder) = builders.remove(id) else { continue };
            let (slot, _) = builder.finish();
            let keys = keyspace.contents(&pin).map(KeyspaceData::keys);
            let found = slot.index.index().len() as u64;
            debug_assert_eq!(keys, Some(found), "the log says what the checkpoint said");
            self.catalog.reindex(&mut writer.indexes, &keyspace, slot.index);
        }
        self.loader.note_rebuilt();
        Ok(())
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
