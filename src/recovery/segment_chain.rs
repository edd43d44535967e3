//! The segments of the log in order: reading them, and deciding where the log ends.
//!
//! Nothing is changed here. The changes are collected, and carried out after every decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::chain_link::{ChainLink, Links, begin};
use super::decision::{Behind, Known, NextSegment, StopAction, StopFacts, stop};
use super::hints::HintUse;
use super::read_ahead;
use super::read_ahead::ReadAhead;
use super::replay::Replay;
use super::restore::Restore;
use super::tail_findings::{TailFindings, is_record_at, look_beyond};
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::segment_header::Role;
use crate::format::{Defect, SegmentId, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;
use crate::log::sync_plan::SegmentRange;
use crate::log::writer::LogEnd;

/// With so many bytes to read behind a checkpoint, its lines are needed all over: it is loaded
/// whole.
pub(super) const LOAD_ALL: u64 = 8 << 20;

/// The most bytes to read beside hints. Their records are kept in memory, 24 bytes each, until their
/// parts are complete. So they take about as much as their part of the index.
const BESIDES_MAX: u64 = 256 << 20;

/// The findings of reading the log.
#[derive(Debug)]
pub(crate) struct SegmentChain {
    /// The manifest's new entry for each segment.
    pub(crate) entries: Vec<SegmentEntry>,
    /// Preallocated segments, not yet written to.
    pub(crate) ready: Vec<Arc<Segment>>,
    /// Every segment that belongs to the store, preallocated ones included.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The segment to continue after a clean close, and the offset in it.
    pub(crate) resume: Option<(Arc<Segment>, u64)>,
    /// The end of the log.
    pub(crate) previous: Option<LogEnd>,
    /// The last sequence number in a segment of the log that a checkpoint covers whole.
    known_last: Seq,
    /// The last sequence number of the log.
    pub(crate) last: Seq,
    /// The greatest sequence number found anywhere, behind holes too.
    pub(crate) seen: Seq,
    pub(crate) asides: Vec<SegmentRange>,
    pub(crate) quarantined: Vec<SegmentId>,
    /// Segments whose files are to be removed: released by compaction, or never written.
    pub(crate) retired: Vec<(SegmentId, u64)>,
    /// The greatest sequence number that was durable in one of them.
    pub(crate) retired_seq: Seq,
    pub(crate) unsynced: Vec<SegmentRange>,
    /// Every segment that was opened for it.
    pub(super) opened: Vec<Arc<Segment>>,
    /// True if another process owns the segments.
    pub(super) is_followed: bool,
    /// The hints that may be used.
    pub(super) hints: HintUse,
    /// True if hints are used because the kernel has every page of the writer.
    pub(super) has_cache: bool,
    /// Segments whose first record was not begun.
    pub(super) unbegun: Vec<(Arc<Segment>, SegmentEntry)>,
    /// The segments whose hints are used.
    pub(crate) hinted: BTreeSet<SegmentId>,
}

/// Reads the log.
///
/// # Errors
///
/// `Corrupt` if durable data is damaged, and errors of the operating system.
pub(crate) fn read(
    dir: &dyn Dir,
    manifest: &Manifest,
    entries: &[SegmentEntry],
    checkpoint: Option<&Restore>,
    hints: HintUse,
    replay: &mut Replay<'_>,
) -> Result<SegmentChain> {
    let mut chain = SegmentChain { hints, ..SegmentChain::new(manifest) };
    let to_read = begin(manifest, entries, checkpoint, replay)?;
    let sealed =
        entries.iter().filter(|entry| entry.state == SegmentState::Sealed).map(|entry| entry.last_seq).max();
    replay.durable = replay.durable.max(sealed.unwrap_or(Seq::ZERO));
    let Links { mut copies, mut links } = chain.links(dir, manifest, entries, checkpoint, replay)?;
    let hinted = use_hints(manifest, &mut copies, &mut links);
    let may_purge_later = hints != HintUse::Never && to_read < LOAD_ALL;
    put_off(checkpoint, hinted > 0, may_purge_later, replay)?;
    chain.has_cache = hinted > 0 && hints == HintUse::All;
    chain.settle_unbegun(dir, &mut links, replay)?;
    let to_read = to_read.saturating_sub(hinted);
    replay.expect(to_read);
    let mut ended = match links.first() {
        Some(_) => !chain.begins(manifest, entries, &links, replay)?,
        None => true,
    };
    let mut tasks: Vec<_> = copies.iter().map(|copy| copy.task(manifest)).collect();
    if !ended {
        tasks.extend(links.iter().map(|link| link.task(manifest)));
    }
    let threads = read_ahead::threads_for(&tasks);
    replay.use_threads(threads);
    read_ahead::read(dir, &tasks, threads, replay.hash_key, |mut ahead| {
        if to_read >= LOAD_ALL && hinted == 0 {
            replay.load_all()?;
        }
        for mut copy in copies {
            chain.take_hints(&mut copy, replay)?;
            chain.copies(copy, &mut ahead, replay)?;
        }
        for at in 0..links.len() {
            if ended {
                chain.drop_link(&links[at], replay)?;
            } else {
                chain.take_hints(&mut links[at], replay)?;
                ended = !chain.follow(manifest, &links, at, &mut ahead, replay)?;
            }
        }
        Ok(())
    })?;
    chain.entries.sort_unstable_by_key(|entry| entry.id);
    Ok(chain)
}

/// Decides if hints are used: not if much is to be read besides, since that must be kept in memory, and
/// not if the kernel has lost pages.
/// Returns the bytes of the log that need not be read.
fn use_hints(manifest: &Manifest, copies: &mut [ChainLink], links: &mut [ChainLink]) -> u64 {
    let all = || copies.iter().chain(&*links);
    let chunks = all().flat_map(|link| &link.hinted);
    let hinted: u64 = chunks.map(|chunk| chunk.front.to - chunk.front.from).sum();
    let besides: u64 = all().map(|link| link.known_bytes(manifest)).sum();
    if hinted == 0 || besides > BESIDES_MAX || links.iter().any(ChainLink::has_lost_pages) {
        copies.iter_mut().chain(links).for_each(ChainLink::forget_hints);
        return 0;
    }
    hinted
}

/// Puts off the work on the indexes if hints are used, or if it may be and there are entries to remove.
/// Otherwise removes them now.
fn put_off(
    checkpoint: Option<&Restore>,
    uses_hints: bool,
    may_purge_later: bool,
    replay: &mut Replay<'_>,
) -> Result<()> {
    if uses_hints || (may_purge_later && replay.needs_purge()) {
        replay.put_off(checkpoint.map(|checkpoint| Arc::clone(checkpoint.gone())).unwrap_or_default());
    }
    checkpoint.map_or(Ok(()), |checkpoint| checkpoint.purge(replay))
}

impl SegmentChain {
    /// Starts with only the manifest's knowledge.
    pub(super) fn new(manifest: &Manifest) -> Self {
        Self {
            entries: Vec::new(),
            ready: Vec::new(),
            segments: Vec::new(),
            resume: None,
            previous: None,
            known_last: Seq::ZERO,
            // Released segments were durable, and can no longer be found.
            last: manifest.retired_seq,
            seen: Seq::ZERO,
            asides: Vec::new(),
            quarantined: Vec::new(),
            retired: Vec::new(),
            retired_seq: manifest.retired_seq,
            unsynced: Vec::new(),
            opened: Vec::new(),
            is_followed: false,
            hints: HintUse::Never,
            has_cache: false,
            unbegun: Vec::new(),
            hinted: BTreeSet::new(),
        }
    }

    /// Reads a segment of copies. All of it was durable before the manifest named it.
    pub(super) fn copies(
        &mut self,
        ChainLink { entry, segment, begin, .. }: ChainLink,
        ahead: &mut ReadAhead<'_>,
        replay: &mut Replay<'_>,
    ) -> Result<()> {
        if entry.state != SegmentState::Sealed || entry.role != Role::Copies {
            return Err(segment.corrupt_at(0, Defect::BadField("state or role")));
        }
        let walked = replay.read(ahead, &segment, begin)?;
        if walked.stop != entry.end {
            return Err(segment.corrupt_at(walked.stop, walked.defect.unwrap_or(Defect::Truncated)));
        }
        // The records that name its keyspaces are numbered by `filtered`.
        if walked.last > Some(entry.last_seq.max(entry.filtered)) {
            return Err(segment.corrupt_at(segment.data_offset(), Defect::BadSequence));
        }
        // A hint tells the number of its last record, which may not be the greatest.
        replay.report.note_last(entry.last_seq);
        self.seen = self.seen.max(entry.last_seq).max(walked.last.unwrap_or(Seq::ZERO));
        self.keep(segment, entry);
        Ok(())
    }

    /// Applies the records of a segment that hints stand for.
    fn take_hints(&mut self, link: &mut ChainLink, replay: &mut Replay<'_>) -> Result<()> {
        for chunk in &mut link.hinted {
            replay.take_hint(&link.segment, chunk)?;
            self.hinted.insert(link.segment.id());
        }
        Ok(())
    }

    /// Keeps a sealed segment that the checkpoint covers whole.
    pub(super) fn known(&mut self, segment: &Arc<Segment>, entry: SegmentEntry) {
        self.seen = self.seen.max(entry.last_seq);
        if segment.role() == Role::Log && entry.last_seq >= self.known_last {
            self.last = self.last.max(entry.last_seq);
            self.known_last = entry.last_seq;
            self.previous = Some(LogEnd { segment: entry.id, offset: entry.end, last: entry.last_seq });
        }
        self.keep(Arc::clone(segment), entry);
    }

    /// Keeps a segment in the manifest only until its file is removed.
    pub(super) fn retire(&mut self, entry: SegmentEntry) {
        self.retired.push((entry.id, entry.nonce));
        self.entries.push(SegmentEntry { state: SegmentState::Retired, ..entry });
    }

    pub(super) fn keep(&mut self, segment: Arc<Segment>, entry: SegmentEntry) {
        self.entries.push(entry);
        self.segments.push(segment);
    }

    /// Returns true if the log begins with this segment, and false if its predecessor is lost.
    ///
    /// A segment that was lost whole looks never written, so only the next start record shows the
    /// hole.
    fn begins(
        &mut self,
        manifest: &Manifest,
        entries: &[SegmentEntry],
        links: &[ChainLink],
        replay: &mut Replay<'_>,
    ) -> Result<bool> {
        let first = &links[0];
        let Some((_, start)) = first.start else { return Ok(true) };
        let named =
            |entry: &&SegmentEntry| entry.id.0 == start.previous && entry.state != SegmentState::Retired;
        let previous = entries.iter().find(named);
        // Its predecessor is none, or was durable if no longer named. A cut can leave nothing.
        let fits = previous.is_none_or(|previous| {
            previous.state != SegmentState::Open && previous.end == start.previous_end
        });
        if fits {
            return Ok(true);
        }
        for link in links {
            let there = look_behind(&link.segment, link.segment.data_offset(), replay)?;
            replay.durable = replay.durable.max(there.durable);
            self.seen = self.seen.max(there.last);
        }
        // The durable records may all have been in released segments.
        if replay.durable > manifest.retired_seq {
            let last = manifest.retired_seq.0;
            let defect = Defect::MissingRecords { last, durable: replay.durable.0 };
            return Err(first.segment.corrupt_at(first.segment.data_offset(), defect));
        }
        Ok(false)
    }

    /// Reads one segment of the log. Returns true if the log continues behind it.
    fn follow(
        &mut self,
        manifest: &Manifest,
        links: &[ChainLink],
        at: usize,
        ahead: &mut ReadAhead<'_>,
        replay: &mut Replay<'_>,
    ) -> Result<bool> {
        let ChainLink { entry, segment, begin, .. } = &links[at];
        let clean = manifest.clean && entry.state == SegmentState::Open;
        let walked = replay.read(ahead, segment, *begin)?;
        self.last = self.last.max(walked.last.unwrap_or(Seq::ZERO));
        if let Some(defect @ Defect::BadField(_)) = walked.defect {
            // Its checksums hold, so it is no torn write: no writer produces it.
            return Err(segment.corrupt_at(walked.stop, defect));
        }
        let known = known_of(entry, clean, walked.stop);
        let next = next_of(manifest, links, at, walked.stop, known);
        // A clean close leaves nothing behind the end, so an open reads only the first word there.
        let is_closed = known == Known::CleanAt && next == NextSegment::None;
        if is_closed && is_record_at(replay.dir, segment, walked.stop)? {
            return Err(segment.corrupt_at(walked.stop, Defect::NotInManifest));
        }
        // The writer had begun one frame at most, and nothing behind it.
        let is_end = self.has_cache && known == Known::Open && next == NextSegment::None;
        let whole = next == NextSegment::Continues || is_closed || is_end;
        let beyond = if whole { None } else { Some(self.beyond(links, at, walked.stop, replay)?) };
        let behind = match beyond {
            Some(TailFindings { records: 1.., .. }) => Behind::Frames,
            Some(TailFindings { written: true, .. }) => Behind::Torn,
            _ => Behind::Nothing,
        };
        let durable_missing = replay.durable > self.last;
        let action = stop(StopFacts { known, next, behind, durable_missing });
        if action == StopAction::Damage {
            let missing = Defect::MissingRecords { last: self.last.0, durable: replay.durable.0 };
            let otherwise = if durable_missing { missing } else { Defect::BrokenChain };
            return Err(segment.corrupt_at(walked.stop, walked.defect.unwrap_or(otherwise)));
        }
        let last_seq = walked.last.unwrap_or(Seq::ZERO);
        let unused = walked.written == 0 && known != Known::SealedAt && !clean && behind != Behind::Frames;
        if unused && action != StopAction::Continue && self.drop_unused(&links[at], last_seq, replay) {
            return Ok(false);
        }
        self.previous = Some(self.end_at(&links[at], walked.stop, walked.last));
        let mut kept = *entry;
        if clean {
            check_resumed(manifest, segment, entry, walked.last)?;
            self.resume = Some((Arc::clone(segment), walked.stop));
        } else if entry.state != SegmentState::Sealed {
            let (first_seq, filtered) = (segment.first_seq(), segment.filtered());
            kept = SegmentEntry {
                state: SegmentState::Cut,
                end: walked.stop,
                last_seq,
                first_seq,
                filtered,
                ..*entry
            };
            let sample = walked.samples.iter().rev().find(|(seq, _)| *seq <= replay.durable);
            let from = sample.map_or_else(|| links[at].place_behind(replay.durable), |(_, offset)| *offset);
            self.unsynced.push(SegmentRange::new(segment, from, walked.stop));
        }
        self.keep(Arc::clone(segment), kept);
        if let (StopAction::Cut, Some(beyond)) = (action, beyond) {
            self.note_cut(segment, walked.stop, &beyond, replay);
        }
        Ok(action == StopAction::Continue)
    }

    /// Returns the findings behind a stop that the log does not plainly continue from.
    ///
    /// It collects the proofs of durability from there and every later segment before any decision.
    fn beyond(
        &mut self,
        links: &[ChainLink],
        at: usize,
        stop: u64,
        replay: &mut Replay<'_>,
    ) -> Result<TailFindings> {
        let here = look_behind(&links[at].segment, stop, replay)?;
        let mut proof = here.durable;
        self.seen = self.seen.max(here.last);
        for link in &links[at + 1..] {
            let there = look_behind(&link.segment, link.segment.data_offset(), replay)?;
            proof = proof.max(there.durable);
            self.seen = self.seen.max(there.last);
        }
        replay.durable = replay.durable.max(proof);
        Ok(here)
    }

    /// Returns the end of the log in a segment, with the last number in it if there is one.
    fn end_at(&self, link: &ChainLink, offset: u64, last: Option<Seq>) -> LogEnd {
        let before = || self.previous.map_or(self.last, |end| end.last);
        LogEnd { segment: link.entry.id, offset, last: last.unwrap_or_else(before) }
    }

    /// Removes the last segment, which holds only the log's own records. Returns false if it must
    /// stay.
    ///
    /// Otherwise each open that ends with a kill would add a segment.
    fn drop_unused(&mut self, link: &ChainLink, last: Seq, replay: &mut Replay<'_>) -> bool {
        // Its durable records must no longer be missed. That must not hide an earlier loss.
        let proven = last.min(replay.durable);
        if proven >= link.segment.first_seq() && !self.unsynced.is_empty() {
            return false;
        }
        self.retired_seq = self.retired_seq.max(proven);
        replay.space.retire(link.segment.mapping(), link.segment.size());
        if let Some((_, start)) = link.start {
            // Compaction may have removed segments before it, which hold the last numbers.
            let named = (SegmentId(start.previous), start.previous_end);
            let (segment, offset) = self.previous.map_or(named, |end| (end.segment, end.offset));
            self.previous = Some(LogEnd { segment, offset, last: start.last });
        }
        self.retire(link.entry);
        true
    }

    fn note_cut(
        &mut self,
        segment: &Arc<Segment>,
        stop: u64,
        beyond: &TailFindings,
        replay: &mut Replay<'_>,
    ) {
        if beyond.records > 0 {
            replay.report.quarantined_records += beyond.records;
            self.asides.push(SegmentRange::new(segment, stop, beyond.end));
        } else {
            replay.report.torn_bytes += beyond.end - stop;
        }
    }

    /// Removes a segment behind a hole from the log. One with torn bytes but no record stays,
    /// empty.
    ///
    /// # Errors
    ///
    /// `Corrupt` for a sealed segment: its records were durable.
    fn drop_link(&mut self, link: &ChainLink, replay: &mut Replay<'_>) -> Result<()> {
        let from = link.segment.data_offset();
        if link.entry.state == SegmentState::Sealed {
            return Err(link.segment.corrupt_at(from, Defect::BrokenChain));
        }
        let found = look_behind(&link.segment, from, replay)?;
        if found.records > 0 {
            replay.report.quarantined_records += found.records;
            self.quarantined.push(link.entry.id);
        } else {
            replay.report.torn_bytes += found.end - from;
            let entry =
                SegmentEntry { state: SegmentState::Cut, end: from, last_seq: Seq::ZERO, ..link.entry };
            self.unsynced.push(SegmentRange::new(&link.segment, from, from));
            self.keep(Arc::clone(&link.segment), entry);
        }
        Ok(())
    }
}

/// Searches a segment behind an offset.
pub(super) fn look_behind(segment: &Segment, from: u64, replay: &Replay<'_>) -> Result<TailFindings> {
    look_beyond(segment, &mut SegmentReader::of(replay.dir, segment)?, from)
}

/// Classifies the end that the manifest knows of a segment whose records end at `stop`.
pub(super) fn known_of(entry: &SegmentEntry, clean: bool, stop: u64) -> Known {
    match (entry.state, clean, stop == entry.end) {
        (SegmentState::Sealed, _, true) => Known::SealedAt,
        (SegmentState::Sealed, _, false) => Known::SealedBefore,
        (SegmentState::Cut, _, true) => Known::CutAt,
        (SegmentState::Cut, _, false) => Known::CutBefore,
        (SegmentState::Open, true, true) => Known::CleanAt,
        (SegmentState::Open, true, false) => Known::CleanBefore,
        (SegmentState::Open, false, _) => Known::Open,
        (SegmentState::Retired, ..) => unreachable!("left out of the links"),
    }
}

/// Classifies the way the next segment continues after a stop.
pub(super) fn next_of(
    manifest: &Manifest,
    links: &[ChainLink],
    at: usize,
    stop: u64,
    known: Known,
) -> NextSegment {
    let Some(next) = links.get(at + 1) else { return NextSegment::None };
    let Some((_, start)) = next.start else { return NextSegment::Elsewhere };
    let here = links[at].entry.id;
    let linked = start.previous == here.0 && start.previous_end == stop;
    // The segment between is no longer part of the store: it was durable, so this one is.
    let bridged = known == Known::SealedAt && !manifest.has(SegmentId(start.previous));
    if linked || bridged { NextSegment::Continues } else { NextSegment::Elsewhere }
}

/// Refuses numbers that no close writes. The log continues where it stopped, with the next number.
fn check_resumed(
    manifest: &Manifest,
    segment: &Segment,
    entry: &SegmentEntry,
    last: Option<Seq>,
) -> Result<()> {
    let fits = last.is_none_or(|last| last == entry.last_seq) && manifest.next_seq == entry.last_seq.next();
    if fits { Ok(()) } else { Err(segment.corrupt_at(entry.end, Defect::BadField("next_seq"))) }
}
