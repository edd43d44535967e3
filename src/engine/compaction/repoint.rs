//! Repointing the index from originals to copies.
//!
//! The writer mutex is held for a few entries at a time, so a writer waits for less than a
//! microsecond. All work that needs no mutex is done before: the copy is read, its key hashed, the
//! bucket's line prefetched. An entry is changed only if it still leads to the very location of the
//! original. Otherwise the copy is dead.

use std::sync::Arc;

use crate::engine::compaction::Compactor;
use crate::engine::compaction::pass::{Pass, Phase};
use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceState;
use crate::error::Result;
use crate::format::record::RecordKind;
use crate::format::{Defect, KeyspaceId};
use crate::index::key_index::SearchKey;
use crate::log::segment::Segment;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The number of entries that are changed while the writer mutex is held once.
const GROUP: usize = 8;
/// The number of records that one step handles.
const STEP: usize = 1024;

/// A record of an output.
struct Copied<'p> {
    kind: RecordKind,
    id: KeyspaceId,
    keyspace: Option<Arc<KeyspaceState>>,
    size: u64,
    key: SearchKey<'p>,
    offset: u64,
    /// The location of its original. Only a value has one.
    place: Option<Location>,
}

impl Compactor {
    /// Repoints the index to some of the copies.
    pub(super) fn repoint_some(
        &self,
        state: &State,
        pass: &mut Pass,
        output: usize,
        offset: u64,
        moved: usize,
    ) -> Result<()> {
        let Some(segment) = pass.made.get(output).map(Arc::clone) else {
            state.shared.dir.crash_point("compaction-switched");
            pass.phase = Phase::Retire;
            return Ok(());
        };
        let places = &pass.finished[output].moved;
        let end = pass.finished[output].entry.end;
        let (mut offset, mut moved) = (offset.max(segment.data_offset()), moved);
        let mut last: (KeyspaceId, Option<Arc<KeyspaceState>>) = (KeyspaceId::DEFAULT, None);
        for _ in 0..STEP / GROUP {
            let pin = state.pin();
            let mut group: Vec<Copied<'_>> = Vec::with_capacity(GROUP);
            while group.len() < GROUP && offset < end {
                let record = state.record(segment.range().at(offset), &pin)?;
                let header = record.header();
                let place = match header.kind {
                    RecordKind::Put => {
                        let place = places.get(moved).copied();
                        moved += 1;
                        Some(place.ok_or_else(|| segment.corrupt_at(offset, Defect::IndexMismatch))?)
                    }
                    _ => None,
                };
                let key = state.search_key(record.key());
                state.check_replaced(&record)?;
                if last.0 != header.keyspace || last.1.is_none() {
                    last = (header.keyspace, state.catalog.by_id(header.keyspace));
                }
                let keyspace = last.1.as_ref().filter(|_| place.is_some()).map(Arc::clone);
                if let Some(contents) = keyspace.as_ref().and_then(|keyspace| keyspace.contents(&pin)) {
                    contents.index.prefetch(key);
                }
                let (kind, id, size) = (header.kind, header.keyspace, header.size());
                group.push(Copied { kind, id, keyspace, size, key, offset, place });
                offset += size;
            }
            self.repoint_group(state, &segment, &group, &pin)?;
        }
        pass.phase = match offset < end {
            true => Phase::Switch { output, offset, moved },
            false => Phase::Switch { output: output + 1, offset: 0, moved: 0 },
        };
        Ok(())
    }

    /// Repoints the index to a few copies, where it still leads to the originals.
    fn repoint_group(&self, state: &State, segment: &Segment, group: &[Copied<'_>], pin: &Pin) -> Result<()> {
        let space = &state.shared.space;
        let (range, copies) = (segment.range(), segment.mapping());
        let mut writer = state.writer.lock();
        for Copied { kind, id, keyspace, size, key, offset, place } in group {
            let Some(old) = place else {
                let why = if *kind == RecordKind::Tombstone { DeadCause::Tombstone } else { DeadCause::Note };
                copies.dead_bytes().add(why, *size);
                continue;
            };
            let contents = keyspace.as_ref().and_then(|keyspace| keyspace.contents(pin));
            let contents = contents.filter(|contents| contents.id == *id);
            let slot = contents.map(|contents| writer.indexes.of(contents));
            let repointed =
                slot.and_then(|slot| slot.index.replace(*key, *old, range.at(*offset)).then_some(slot));
            let Some(slot) = repointed else {
                if id.is_ordered() && state.hash_of(key.bytes) != key.hash {
                    // The page of the key was replaced since it was read.
                    return Err(segment.corrupt_at(*offset, Defect::PayloadChecksum));
                }
                copies.dead_bytes().add(DeadCause::Hidden, *size);
                continue;
            };
            slot.add_live(copies.ordinal(), *size);
            if let Some(originals) = space.mapping(*old, pin) {
                slot.sub_live(originals.ordinal(), *size);
                originals.dead_bytes().add(DeadCause::Hidden, *size);
            }
        }
        Ok(())
    }
}
