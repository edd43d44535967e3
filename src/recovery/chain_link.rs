//! The segments of the log as links of a chain: opening them, and putting them in order.

use std::sync::Arc;

use super::read_ahead::ReadTask;
use super::record_batch::Begin;
use super::replay::Replay;
use super::restore::{Covered, Restore};
use super::segment_chain::SegmentChain;
use super::tail_findings::start_of;
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::StartRecord;
use crate::format::record_reader::next_published;
use crate::format::segment_header::Role;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;

/// A segment of the log that has been written to.
#[derive(Debug)]
pub(super) struct ChainLink {
    pub(super) entry: SegmentEntry,
    pub(super) segment: Arc<Segment>,
    pub(super) start: Option<(Seq, StartRecord)>,
    /// The position where reading begins.
    pub(super) begin: Begin,
}

/// The segments to be read.
#[derive(Debug)]
pub(super) struct Links {
    /// The segments of copies, in no order.
    pub(super) copies: Vec<ChainLink>,
    /// The segments of the log, in its order.
    pub(super) links: Vec<ChainLink>,
}

/// Tells a replay how much there is to read, and fills it from the checkpoint. Returns that number
/// of bytes.
///
/// # Errors
///
/// An error about the checkpoint, if it cannot be read.
pub(super) fn begin(
    manifest: &Manifest,
    entries: &[SegmentEntry],
    checkpoint: Option<&Restore>,
    replay: &mut Replay<'_>,
) -> Result<u64> {
    let held =
        |entry: &SegmentEntry| checkpoint.and_then(|checkpoint| checkpoint.held(entry.id)).unwrap_or(0);
    let written = |entry: &SegmentEntry| match entry.state {
        SegmentState::Open if !manifest.clean => entry.size,
        _ => entry.end,
    };
    let entries_read = entries.iter().filter(|entry| entry.state != SegmentState::Retired);
    let to_read = entries_read.map(|entry| written(entry).saturating_sub(held(entry))).sum();
    replay.expect(to_read);
    checkpoint.map_or(Ok(()), |checkpoint| checkpoint.fill(replay))?;
    Ok(to_read)
}

impl ChainLink {
    pub(super) fn task(&self, manifest: &Manifest) -> ReadTask {
        let Self { entry, segment, begin, .. } = self;
        let has_known_end = entry.state != SegmentState::Open || manifest.clean;
        let limit = if has_known_end { entry.end } else { entry.size };
        ReadTask { segment: Arc::clone(segment), begin: *begin, limit }
    }

    /// Returns the key that sorts segments into the order of the log.
    pub(super) fn place_in_order(&self) -> (Seq, SegmentId) {
        match (&self.start, self.entry.state) {
            (Some((seq, _)), _) => (*seq, self.entry.id),
            (None, SegmentState::Open) => (Seq::MAX, self.entry.id),
            (None, _) => (self.entry.last_seq, self.entry.id),
        }
    }
}

impl SegmentChain {
    /// Opens every segment, and puts those that were written to in the order of the log.
    pub(super) fn links(
        &mut self,
        dir: &dyn Dir,
        manifest: &Manifest,
        entries: &[SegmentEntry],
        checkpoint: Option<&Restore>,
        replay: &mut Replay<'_>,
    ) -> Result<Links> {
        let (mut copies, mut links) = (Vec::new(), Vec::new());
        for entry in entries {
            if entry.state == SegmentState::Retired {
                self.retire(*entry);
                continue;
            }
            let (segment, begin) = match checkpoint.and_then(|checkpoint| checkpoint.known(entry.id)) {
                Some(Covered { segment, begin: None }) => {
                    self.known(segment, *entry);
                    continue;
                }
                Some(Covered { segment, begin: Some(begin) }) => (Arc::clone(segment), *begin),
                None => {
                    let segment = Segment::open(dir, replay.space, manifest.store, entry)?;
                    self.opened.push(Arc::clone(&segment));
                    let begin = Begin::of(&segment);
                    (segment, begin)
                }
            };
            let from = segment.data_offset();
            if entry.end != 0 && entry.end < from {
                return Err(segment.corrupt_at(0, Defect::BadField("end")));
            }
            if self.is_followed {
                segment.follow();
            }
            let mut window = SegmentReader::of(dir, &segment)?;
            if entry.state == SegmentState::Sealed {
                // Durable and immutable. Many segments must not need as many descriptors.
                segment.release_file();
            }
            if segment.role() == Role::Copies {
                copies.push(ChainLink { entry: *entry, segment, start: None, begin });
                continue;
            }
            let empty = match entry.state {
                SegmentState::Sealed | SegmentState::Cut => entry.end == from,
                SegmentState::Open if manifest.clean => entry.end == 0,
                // A segment is begun once its start record is published.
                SegmentState::Open if self.is_followed => start_of(&segment, &mut window)?.is_none(),
                SegmentState::Open => next_published(&mut window, from, entry.size)?.is_none(),
                SegmentState::Retired => unreachable!("left out above"),
            };
            if empty {
                if entry.state == SegmentState::Open {
                    self.ready.push(Arc::clone(&segment));
                }
                self.keep(segment, *entry);
                continue;
            }
            let start = start_of(&segment, &mut window)?;
            if let Some((first, _)) = start {
                segment.begins_at(first);
            }
            links.push(ChainLink { entry: *entry, segment, start, begin });
        }
        links.sort_by_key(ChainLink::place_in_order);
        Ok(Links { copies, links })
    }
}
