//! Starting from an index checkpoint, so that the records it covers need not be read from the log.
//!
//! A checkpoint is exact at a number P0. An open must read besides:
//!
//! - the segments that the manifest names and the checkpoint does not, compaction's outputs
//!   included;
//! - behind P0, the segment that was active then.
//!
//! Every other segment that both name is sealed and wholly in the checkpoint. Entries into segments
//! that the manifest no longer names are removed before an entry of another record joins them, since
//! other segments may get their addresses. DESIGN.md,
//! "Recovery", argues that this is complete.
//!
//! Nothing here is fatal: any defect of a checkpoint is an error that names its file, and recovery
//! starts again without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record_batch::Begin;
use super::replay::Replay;
use crate::error::{Error, Result};
use crate::format::checkpoint::{self, CheckpointKeyspace};
use crate::format::hash::HASH_ID;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::segment_header::Role;
use crate::format::{KeyspaceId, SegmentId};
use crate::fs::Dir;
use crate::index::checkpoint::OpenedCheckpoint;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::segment::Segment;
use crate::log::segment_file::Unopened;
use crate::mem::address_space::{AddressSpace, GranuleRange};
use crate::mem::dead_bytes::DeadCause;
use crate::mem::gone_ranges::GoneRanges;

/// The checkpoint that an open begins with.
#[derive(Debug)]
pub(crate) struct Restore {
    opened: OpenedCheckpoint,
    /// The segments that both the checkpoint and the manifest name.
    segments: BTreeMap<SegmentId, Covered>,
    /// The ranges of the segments that only the checkpoint names.
    gone: Arc<GoneRanges>,
}

/// A segment that the checkpoint knows.
#[derive(Debug)]
pub(crate) struct Covered {
    pub(crate) segment: Arc<Segment>,
    /// The position to read from. `None` if the checkpoint covers all of it.
    pub(crate) begin: Option<Begin>,
}

/// The checkpoint's contents for a keyspace.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) id: KeyspaceId,
    pub(crate) slot: KeyspaceIndex,
    pub(crate) live_bytes: u64,
    /// True if entries of the index lead to segments that are gone.
    pub(crate) needs_purge: bool,
}

impl Restore {
    /// Opens the checkpoint that the manifest names, and assigns to each segment that both name its
    /// former addresses.
    ///
    /// Segments wholly in the checkpoint are opened when they are needed.
    ///
    /// # Errors
    ///
    /// An error about the checkpoint if it does not fit, and the errors of [`Segment::open`].
    pub(crate) fn open(
        dir: &Arc<dyn Dir>,
        space: &AddressSpace,
        manifest: &Manifest,
        entries: &[SegmentEntry],
        there: &[SegmentId],
    ) -> Result<Self> {
        let opened = OpenedCheckpoint::open(dir.as_ref(), manifest.checkpoint)?;
        check(&opened, manifest)?;
        let (mut segments, mut gone) = (BTreeMap::new(), Vec::new());
        let mut continued = 0;
        for listed in &opened.checkpoint.segments {
            let at = entries.binary_search_by_key(&listed.id, |entry| entry.id);
            let entry = at.ok().map(|at| &entries[at]).filter(|entry| entry.state != SegmentState::Retired);
            let range = GranuleRange::from_granules(listed.first_granule, listed.granules);
            let Some(entry) = entry else {
                gone.push(range.ok_or_else(|| opened.unfit("segment"))?);
                continue;
            };
            let whole = entry.state == SegmentState::Sealed && entry.end == listed.end;
            let fits =
                listed.nonce == entry.nonce && listed.end <= entry.size && listed.end.is_multiple_of(8);
            let Some(range) = range.filter(|_| fits) else { return Err(opened.unfit("segment")) };
            continued += u64::from(!whole);
            let follows =
                entry.role == Role::Log && (entry.state != SegmentState::Sealed || entry.end > listed.end);
            if continued > 1 || (!whole && !follows) {
                return Err(opened.unfit("end"));
            }
            let unfit = || opened.unfit("granules");
            let segment = if whole {
                let (dir, data_offset) = (Arc::clone(dir), listed.data_offset);
                let unopened = Unopened { dir, store: manifest.store, entry: *entry, data_offset };
                if there.binary_search(&entry.id).is_err() {
                    return Err(Error::MissingSegment { path: unopened.path() });
                }
                Segment::open_later(space, unopened, range, unfit)?
            } else {
                Segment::open_at(dir.as_ref(), space, manifest.store, entry, range, unfit)?
            };
            if listed.data_offset != segment.data_offset() {
                return Err(opened.unfit("data_offset"));
            }
            segment.mapping().publish_existing(listed.end);
            for (why, bytes) in
                [DeadCause::Hidden, DeadCause::Tombstone, DeadCause::Note].into_iter().zip(listed.dead)
            {
                segment.mapping().dead_bytes().add(why, bytes);
            }
            let begin = Begin { offset: listed.end, last: Some(opened.checkpoint.last) };
            segments.insert(listed.id, Covered { segment, begin: (!whole).then_some(begin) });
        }
        Ok(Self { opened, segments, gone: Arc::new(GoneRanges::new(gone)) })
    }

    /// Returns the checkpoint's knowledge of a segment.
    pub(crate) fn known(&self, id: SegmentId) -> Option<&Covered> {
        self.segments.get(&id)
    }

    /// Returns the bytes of a segment that the checkpoint covers.
    pub(crate) fn held(&self, id: SegmentId) -> Option<u64> {
        let segments = &self.opened.checkpoint.segments;
        segments.binary_search_by_key(&id, |segment| segment.id).ok().map(|at| segments[at].end)
    }

    /// Returns the checkpoint's header.
    pub(crate) fn into_checkpoint(self) -> checkpoint::IndexCheckpoint {
        self.opened.checkpoint
    }

    /// Returns the ranges of the segments that are gone.
    pub(super) fn gone(&self) -> &Arc<GoneRanges> {
        &self.gone
    }

    /// Removes the entries that lead to segments that are gone, unless the replay has put that off. Call
    /// it before the replay reads a record.
    ///
    /// # Errors
    ///
    /// An error about the checkpoint, if it cannot be read.
    pub(super) fn purge(&self, replay: &mut Replay<'_>) -> Result<()> {
        let purged = replay.purge(&self.gone);
        purged.map_err(|error| self.opened.failed("load an index from", error))
    }

    /// Passes its indexes to a replay, which continues from them. They are loaded as they are
    /// needed. Entries that lead to segments that are gone are removed later; see
    /// [`Restore::purge`] and `index::hash::purge`.
    ///
    /// # Errors
    ///
    /// An error about the checkpoint, if it cannot be read.
    pub(crate) fn fill(&self, replay: &mut Replay<'_>) -> Result<()> {
        let checkpoint = &self.opened.checkpoint;
        let is_gone = |(id, _): &(SegmentId, u64)| !self.segments.contains_key(id);
        // No entry stays where all segments are gone, so none is read.
        let is_needed = |entry: &CheckpointKeyspace| entry.live.is_empty() || !entry.live.iter().all(is_gone);
        for (entry, index) in checkpoint.keyspaces.iter().zip(self.opened.indexes(is_needed)?) {
            let live: u64 = entry.live.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
            let keys = index.as_ref().map_or(entry.keys, |index| index.len() as u64);
            if keys != entry.keys || live != entry.live_bytes {
                return Err(self.opened.unfit("keys"));
            }
            let needs_purge = index.is_some() && entry.live.iter().any(is_gone);
            let mut slot = match index {
                None => KeyspaceIndex::empty(entry.id, self.opened.path())?,
                Some(index) => KeyspaceIndex::new(index),
            };
            let mut live_bytes = 0;
            for (id, bytes) in &entry.live {
                if let Some(known) = self.segments.get(id) {
                    slot.add_live(known.segment.mapping().ordinal(), *bytes);
                    live_bytes += *bytes;
                }
            }
            replay.restore(Restored { id: entry.id, slot, live_bytes, needs_purge });
        }
        replay.report.checkpoint_seq = Some(checkpoint.last.0);
        replay.report.checkpoint_bytes_read = self.opened.front_len();
        replay.report.note_last(checkpoint.last);
        Ok(())
    }
}

/// Checks that a checkpoint belongs to this store, and names nothing that the store does not know.
fn check(opened: &OpenedCheckpoint, manifest: &Manifest) -> Result<()> {
    let checkpoint = &opened.checkpoint;
    let next = manifest.keyspaces.next();
    let fits = [
        ("store", checkpoint.store == manifest.store),
        ("hash_id", checkpoint.hash_id == HASH_ID),
        ("last_seq", checkpoint.last <= manifest.durable),
        ("keyspace", checkpoint.keyspaces.iter().all(|keyspace| keyspace.id.number() < next.0)),
    ];
    fits.iter().find(|(_, fits)| !fits).map_or(Ok(()), |(field, _)| Err(opened.unfit(field)))
}
