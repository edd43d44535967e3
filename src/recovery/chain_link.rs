//! The segments of the log as links of a chain: opening them, and putting them in order.

use std::sync::Arc;

use super::hints;
use super::hints::{HintUse, UsedChunk};
use super::read_ahead::ReadTask;
use super::record_batch::Begin;
use super::replay::Replay;
use super::restore::{Covered, Restore};
use super::segment_chain::SegmentChain;
use super::tail_findings::start_of;
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::record::StartRecord;
use crate::format::record_reader::{ReadAt, next_published};
use crate::format::segment_header::Role;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;

/// The length of the word of a record that is stored last.
const WORD: usize = 8;

/// A segment of the log that has been written to.
#[derive(Debug)]
pub(super) struct ChainLink {
    pub(super) entry: SegmentEntry,
    pub(super) segment: Arc<Segment>,
    pub(super) start: Option<(Seq, StartRecord)>,
    /// The position where reading begins.
    pub(super) begin: Begin,
    /// The hints that stand for the records before it, from `origin` on.
    pub(super) hinted: Vec<UsedChunk>,
    /// The position where reading would begin without hints.
    origin: Begin,
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
        ReadTask { segment: Arc::clone(&self.segment), begin: self.begin, limit: self.limit(manifest) }
    }

    /// Returns the offset up to which records are read.
    fn limit(&self, manifest: &Manifest) -> u64 {
        let has_known_end = self.entry.state != SegmentState::Open || manifest.clean;
        if has_known_end { self.entry.end } else { self.entry.size }
    }

    /// Returns the bytes to be read of a segment whose end is known.
    pub(super) fn known_bytes(&self, manifest: &Manifest) -> u64 {
        let is_known = self.entry.state != SegmentState::Open || manifest.clean;
        if is_known { self.entry.end.saturating_sub(self.begin.offset) } else { 0 }
    }

    pub(super) fn new(
        entry: SegmentEntry,
        segment: Arc<Segment>,
        start: Option<(Seq, StartRecord)>,
        begin: Begin,
    ) -> Self {
        Self { entry, segment, start, begin, hinted: Vec::new(), origin: begin }
    }

    /// Uses hints for the records at the beginning.
    fn use_hints(&mut self, hinted: Vec<UsedChunk>) {
        if let Some(chunk) = hinted.last() {
            self.begin = Begin { offset: chunk.front.to, last: Some(chunk.front.last) };
        }
        self.hinted = hinted;
    }

    /// True if hints are used, and the kernel tells that it has lost pages of the segment.
    pub(super) fn has_lost_pages(&self) -> bool {
        !self.hinted.is_empty() && self.segment.file().is_some_and(|file| file.has_lost_pages())
    }

    /// Reads the records instead of using hints.
    pub(super) fn forget_hints(&mut self) {
        self.hinted.clear();
        self.begin = self.origin;
    }

    /// Returns the offset of a record, so that all before it are at or below a number. It is the last
    /// such place that is known without reading.
    pub(super) fn place_behind(&self, seq: Seq) -> u64 {
        let chunks = self.hinted.iter().map(|chunk| (chunk.front.last, chunk.front.to));
        chunks.take_while(|(last, _)| *last <= seq).last().map_or(self.origin.offset, |(_, to)| to)
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
                let mut copy = ChainLink::new(*entry, segment, None, begin);
                self.find_hints(dir, manifest, &mut copy, &mut window, |_| true);
                copies.push(copy);
                continue;
            }
            let is_live = entry.state == SegmentState::Open && !manifest.clean && !self.is_followed;
            if is_live && self.hints == HintUse::All && window.bytes(from, WORD)? == [0; WORD] {
                self.unbegun.push((segment, *entry));
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
            links.push(self.link(dir, manifest, (*entry, segment, begin), &mut window, replay.durable)?);
        }
        links.sort_by_key(ChainLink::place_in_order);
        Ok(Links { copies, links })
    }

    /// Returns the link of a segment that was written to, with the hints that may be used for it.
    fn link(
        &self,
        dir: &dyn Dir,
        manifest: &Manifest,
        (entry, segment, begin): (SegmentEntry, Arc<Segment>, Begin),
        window: &mut SegmentReader,
        durable: Seq,
    ) -> Result<ChainLink> {
        let start = start_of(&segment, window)?;
        if let Some((first, _)) = start {
            segment.begins_at(first);
        }
        let mut link = ChainLink::new(entry, segment, start, begin);
        if start.is_some() {
            let is_sure = |seq| self.hints == HintUse::All || seq <= durable;
            self.find_hints(dir, manifest, &mut link, window, is_sure);
        }
        Ok(link)
    }

    /// Lets a link use the hints of its segment. `is_sure` says if the records up to a number are
    /// certainly in the file.
    fn find_hints(
        &self,
        dir: &dyn Dir,
        manifest: &Manifest,
        link: &mut ChainLink,
        window: &mut SegmentReader,
        is_sure: impl Fn(Seq) -> bool,
    ) {
        if self.hints != HintUse::Never {
            let place = (link.begin, link.limit(manifest));
            link.use_hints(hints::usable(dir, manifest.store, &link.segment, window, place, is_sure));
        }
    }

    /// Decides about the segments in which no record was begun.
    ///
    /// If the kernel has every page of the writer, they hold nothing. They are not used again
    /// unread, since nothing may validate behind new records (I8). Otherwise all of each is read.
    pub(super) fn settle_unbegun(
        &mut self,
        dir: &dyn Dir,
        links: &mut Vec<ChainLink>,
        replay: &Replay<'_>,
    ) -> Result<()> {
        for (segment, entry) in std::mem::take(&mut self.unbegun) {
            if self.has_cache {
                replay.space.retire(segment.mapping(), segment.size());
                self.retire(entry);
                continue;
            }
            let from = segment.data_offset();
            if next_published(&mut SegmentReader::of(dir, &segment)?, from, entry.size)?.is_none() {
                self.ready.push(Arc::clone(&segment));
                self.keep(segment, entry);
            } else {
                let begin = Begin::of(&segment);
                links.push(ChainLink::new(entry, segment, None, begin));
            }
        }
        links.sort_by_key(ChainLink::place_in_order);
        Ok(())
    }
}
