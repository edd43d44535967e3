//! Rebuilding indexes from the log, because the checkpoint that they come from is damaged.
//!
//! It runs under the writer mutex, so that nothing is written meanwhile. Readers continue with the
//! loaded parts. Reading one gigabyte takes about a second, and it happens once: a rebuilt index
//! needs no checkpoint any more.
//!
//! No pass of compaction is under way, because none begins before the indexes are whole. So the
//! records of all segments determine the index: it holds the newest of each key, and no record is
//! in two places.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use crate::engine::state::catalog::{KeyspaceData, KeyspaceState};
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::format::hash::Hash;
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::format::record_reader::{ReadAt, RecordAt};
use crate::index::hash::{Index, IndexWriter};
use crate::log::segment::Segment;
use crate::log::segment_reader::Records;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// An index that is being rebuilt.
#[derive(Debug)]
struct Building {
    keyspace: Arc<KeyspaceState>,
    writer: IndexWriter,
    /// Entries that lead to tombstones.
    tombstones: Vec<(Hash, Location)>,
}

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
        let mut building = BTreeMap::new();
        for keyspace in self.catalog.all() {
            let partial = keyspace.contents(&pin).filter(|contents| contents.index.is_partial());
            let Some(id) = partial.map(|contents| contents.id) else { continue };
            building.insert(id, Building { keyspace, writer: self.new_index()?, tombstones: Vec::new() });
        }
        if building.is_empty() {
            return Ok(());
        }
        self.loader.check_stuck()?;
        crate::trace::checkpoint_unusable(damage);
        self.loader.note_spoiled();
        self.read_all_back(&mut building, &pin).inspect_err(|error| self.loader.note_stuck(error))?;
        for Building { keyspace, writer: mut index, tombstones } in building.into_values() {
            for (hash, location) in tombstones {
                index.remove(hash, location);
            }
            let keys = keyspace.contents(&pin).map(KeyspaceData::keys);
            debug_assert_eq!(keys, Some(index.index().len() as u64), "the log says what the checkpoint said");
            self.catalog.reindex(&mut writer.indexes, &keyspace, index);
        }
        self.loader.note_rebuilt();
        Ok(())
    }

    fn read_all_back(&self, building: &mut BTreeMap<KeyspaceId, Building>, pin: &Pin) -> Result<()> {
        let segments: Vec<_> = self.shared.segments.read().values().map(Arc::clone).collect();
        let mut key = Vec::new();
        segments.iter().try_for_each(|segment| self.read_back(segment, building, &mut key, pin))
    }

    fn new_index(&self) -> Result<IndexWriter> {
        let made =
            Index::new().map_err(|error| Error::io("make an index for", self.shared.dir.path(), error));
        made.map(|(_, writer)| writer)
    }

    /// Reads the records of a segment.
    fn read_back(
        &self,
        segment: &Arc<Segment>,
        building: &mut BTreeMap<KeyspaceId, Building>,
        key: &mut Vec<u8>,
        pin: &Pin,
    ) -> Result<()> {
        let end = segment.mapping().published();
        if end == 0 {
            return Ok(());
        }
        let mut records = Records::open(self.shared.dir.as_ref(), segment, end)?;
        while let Some(record) = records.next()? {
            let Some(building) = building.get_mut(&record.header.keyspace) else { continue };
            if matches!(record.header.kind, RecordKind::Put | RecordKind::Tombstone) {
                let at = record.offset + HEADER_SIZE as u64;
                key.clear();
                key.extend_from_slice(records.source().bytes(at, usize::from(record.header.key_len))?);
                self.newest(building, segment, &record, key, pin)?;
            }
        }
        Ok(())
    }

    /// Makes a record the newest of its key, if it is.
    fn newest(
        &self,
        building: &mut Building,
        segment: &Segment,
        placed: &RecordAt,
        key: &[u8],
        pin: &Pin,
    ) -> Result<()> {
        let hash = self.hash_of(key);
        let location = segment.range().at(placed.offset);
        let index = &mut building.writer;
        let found = index.find(hash, |other| {
            let record = self.record_as_it_is(other, pin)?;
            let same = record.key() == key;
            self.check_replaced(&record)?;
            Ok::<_, Error>(same)
        })?;
        match found {
            Some(other) if self.record(other, pin)?.seq() > placed.header.seq => return Ok(()),
            Some(other) => {
                index.replace(hash, other, location);
            }
            None => {
                let grown = index.reserve();
                grown.map_err(|error| Error::io("grow the index for", segment.path(), error))?;
                index.insert(hash, location);
            }
        }
        if placed.header.kind == RecordKind::Tombstone {
            building.tombstones.push((hash, location));
        }
        Ok(())
    }
}
