//! Following compaction: leading the index to copies, and letting go of the segments they replace.
//!
//! A follower only leads entries that are there to copies of the same number. It never inserts an
//! absent key from a copy: the copy may be of a record whose tombstone the follower has applied, and
//! that the pass looked at before.

use std::sync::Arc;

use super::Inner;
use crate::engine::Engine;
use crate::engine::state::catalog::Indexes;
use crate::engine::state::lookup::Lookup;
use crate::error::Result;
use crate::format::record::{RecordHeader, RecordKind};
use crate::log::segment::Segment;
use crate::mem::dead_bytes::DeadCause;
use crate::sync::epoch::Pin;

/// The number of records that are handled while the writer mutex is held once.
const GROUP: usize = 64;

/// A segment of copies that the index does not lead to yet.
#[derive(Debug)]
pub(super) struct NewCopies {
    pub(super) segment: Arc<Segment>,
    /// The offset of the next record.
    pub(super) offset: u64,
    pub(super) end: u64,
}

impl NewCopies {
    /// Leads the index to the copies, where it leads to their originals.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a record's header does not verify.
    pub(super) fn repoint(&mut self, engine: &Engine) -> Result<()> {
        while self.offset < self.end {
            let pin = engine.pin();
            let mut writer = engine.writer.lock();
            for _ in 0..GROUP {
                if self.offset >= self.end {
                    break;
                }
                let record = engine.record(self.segment.range().at(self.offset), &pin)?;
                engine.check_header(&record)?;
                let header = record.header();
                self.repoint_one(engine, &mut writer.indexes, &header, record.key(), &pin)?;
                self.offset += header.size();
            }
        }
        Ok(())
    }

    fn repoint_one(
        &self,
        engine: &Engine,
        indexes: &mut Indexes,
        header: &RecordHeader,
        key: &[u8],
        pin: &Pin,
    ) -> Result<()> {
        let (mapping, size) = (self.segment.mapping(), header.size());
        let why = match header.kind {
            RecordKind::Put => DeadCause::Hidden,
            RecordKind::Tombstone => DeadCause::Tombstone,
            // Such a record only names a keyspace, and has the number of another record.
            RecordKind::Keyspace | RecordKind::Batch | RecordKind::Watermark | RecordKind::Start => {
                DeadCause::Note
            }
        };
        let keyspace = engine.catalog.by_id(header.keyspace).filter(|_| header.kind == RecordKind::Put);
        let contents = keyspace.as_ref().and_then(|keyspace| keyspace.contents(pin));
        let Some(contents) = contents else {
            mapping.dead_bytes().add(why, size);
            return Ok(());
        };
        let (slot, key) = (indexes.of(contents), engine.search_key(key));
        let found = Lookup { keyspace: contents.id, key }.find_readable(engine, &slot.index, pin)?;
        let original = found.filter(|found| found.record.is_put() && found.record.seq() == header.seq);
        let copy = self.segment.range().at(self.offset);
        let Some(old) = original.map(|found| found.location).filter(|old| *old != copy) else {
            mapping.dead_bytes().add(why, size);
            return Ok(());
        };
        slot.index.replace(key, old, copy);
        slot.add_live(mapping.ordinal(), size);
        if let Some(original) = engine.shared.space.mapping(old, pin) {
            slot.sub_live(original.ordinal(), size);
            original.dead_bytes().add(DeadCause::Hidden, size);
        }
        Ok(())
    }
}

impl Inner {
    /// Leads the index to all new copies.
    ///
    /// # Errors
    ///
    /// The errors of [`NewCopies::repoint`].
    pub(super) fn use_copies(&mut self, engine: &Engine) -> Result<()> {
        // Copies that have been moved again are found where they are now.
        let manifest = &self.manifest;
        self.copies.retain(|copies| manifest.has(copies.segment.id()));
        while let Some(copies) = self.copies.last_mut() {
            copies.repoint(engine)?;
            self.copies.pop();
        }
        Ok(())
    }

    /// Lets go of the segments that the manifest no longer names. Returns false if the index still
    /// leads to one.
    pub(super) fn let_go(&mut self, engine: &Engine) -> bool {
        let manifest = &self.manifest;
        let place = self.place.as_ref().map(|place| place.segment.id());
        let segments = engine.shared.segments.read();
        let is_gone = |segment: &&Arc<Segment>| !manifest.has(segment.id()) && place != Some(segment.id());
        let gone = segments.values().filter(is_gone);
        let gone: Vec<_> = gone.map(Arc::clone).collect();
        drop(segments);
        {
            let writer = engine.writer.lock();
            if gone.iter().any(|segment| writer.indexes.live_in(segment.mapping().ordinal()) > 0) {
                return false;
            }
        }
        self.ahead.retain(|ahead| !gone.iter().any(|gone| Arc::ptr_eq(gone, ahead)));
        for segment in gone {
            engine.shared.segments.write().remove(&segment.id());
            // The blocks on the disk are the writer's.
            engine.shared.space.retire(segment.mapping(), 0);
        }
        self.must_let_go = false;
        true
    }
}
