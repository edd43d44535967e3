//! The hint writer: describes the log behind its end in hint files, so that an open after a kill need
//! not read it.
//!
//! It describes the copies that compaction made as well. It is a job of the worker, in slices of 2 MiB of the
//! log. A chunk covers about
//! [`Tuning::hint_chunk`](crate::fs::tuning::Tuning) bytes of one segment and ends between two frames.
//! It is written by one call, and never synced. Nothing is written for a log that is shorter than
//! one chunk, and nothing by the writers of the store.
//!
//! **Failure.** Hints are disposable. After an error no more are written until the next open, and
//! only a subscriber of events learns of it.
//!
//! **Checkpoints.** An open that has a checkpoint begins to read at its end. So a chunk ends there,
//! too ([`HintWriter::cut_at`]). Once the checkpoint is named, the hints before its end go.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::State;
use crate::error::{Error, Result};
use crate::format::checkpoint::CheckpointSegment;
use crate::format::hash::{HASH_ID, HashKey};
use crate::format::hint::{HintChunk, HintEntry, HintKeyspace};
use crate::format::record::{HEADER_SIZE, RawHeader, RecordHeader, RecordKind, RecordPlace};
use crate::format::segment_header::Role;
use crate::format::{Defect, KeyspaceId, SegmentId, Seq, file_name};
use crate::fs::Access;
use crate::log::segment::Segment;
use crate::mem::address_space::prefetch;
use crate::mem::alloc;
use crate::recovery::hinted_parts::in_parts;

/// Bytes of the log that one step reads.
const SLICE: u64 = 2 << 20;
/// The bytes between a record and those that are prefetched.
const AHEAD: usize = 3 << 10;
/// Size of a cache line in bytes.
const LINE: usize = 64;
/// The most cache lines that are prefetched for a record. A longer one has its header alone read.
const LINES_MAX: usize = 4;
/// The end of a full segment has no chunk of its own if it is smaller than this part of a chunk.
const LEAST_SHARE: u64 = 4;
/// The chunks without a description from which the job no longer waits for other work.
const CHUNKS_BEHIND: u64 = 4;

/// The job of writing hints.
#[derive(Debug)]
pub(crate) struct HintWriter {
    /// Bytes of the log for one chunk. `None` if no hints are written.
    chunk: Option<u64>,
    /// The first number that this incarnation gave out, and the number of its first segment.
    first: (Seq, SegmentId),
    /// True if there are copies that the job has not looked at.
    has_copies: AtomicBool,
    hints: Mutex<HintState>,
    /// The last end of a checkpoint, and its segment. Read after the end of the log.
    cut: Mutex<Option<(SegmentId, u64)>>,
}

#[derive(Debug, Default)]
struct HintState {
    /// The segments of this incarnation, and how far each is described.
    progress: BTreeMap<SegmentId, HintProgress>,
    building: Option<ChunkBuilder>,
    /// The segments that have a hint file.
    files: BTreeSet<SegmentId>,
    /// The active segment at the last check, and the offset in it from which there may be work.
    looked: Option<(SegmentId, u64)>,
    /// The bytes of the log without a description, when the last chunk began.
    left: u64,
    has_failed: bool,
}

/// The part of a segment that is described.
#[derive(Debug, Clone, Copy)]
struct HintProgress {
    /// The offset up to which it is.
    at: u64,
    /// The end of the hint file.
    file_end: u64,
    /// True if nothing more is to be described.
    is_done: bool,
}

/// A chunk in progress.
#[derive(Debug)]
struct ChunkBuilder {
    segment: Arc<Segment>,
    front: HintChunk,
    entries: Vec<HintEntry>,
    /// The position of each keyspace in the front.
    places: BTreeMap<KeyspaceId, u32>,
    /// The position of the last record's keyspace.
    before: Option<u32>,
    /// The offset of the next record.
    at: u64,
    /// The offset from which the chunk is large enough.
    enough: u64,
    /// The offset at which it ends at the latest.
    limit: u64,
    /// The end of the batch that the next record is in.
    frame_end: u64,
}

impl HintWriter {
    /// Starts for an incarnation that writes its first record with number `first`, and gives its next
    /// segment the number beside it. `files` are the hints that the open has used. If the log goes on in an old segment, `resumed` is that, and the
    /// offset up to which a checkpoint covers it.
    pub(super) fn new(
        chunk: Option<u64>,
        first: (Seq, SegmentId),
        files: BTreeSet<SegmentId>,
        resumed: Option<(SegmentId, u64)>,
    ) -> Self {
        let mut progress = BTreeMap::new();
        if let Some((id, at)) = resumed {
            // Its hints may be waiting to be read.
            let is_done = files.contains(&id);
            progress.insert(id, HintProgress { at, file_end: 0, is_done });
        }
        let hints = HintState { progress, files, ..HintState::default() };
        let has_copies = AtomicBool::new(false);
        Self { chunk, first, has_copies, hints: Mutex::new(hints), cut: Mutex::new(None) }
    }

    /// Does one step, if there is work. Returns true if it did. Copies are described only if the worker is
    /// idle: compaction that falls behind delays writers.
    pub(crate) fn step(&self, state: &State, is_idle: bool) -> bool {
        let Some(chunk) = self.chunk else { return false };
        let Some(mut hints) = self.hints.try_lock() else { return false };
        if hints.has_failed || (hints.building.is_none() && !self.begin(state, chunk, &mut hints, is_idle)) {
            return false;
        }
        if let Err(error) = hints.advance(state) {
            crate::trace::hints_failed(&error);
            hints.has_failed = true;
            hints.building = None;
        }
        true
    }

    /// Returns true if so much of the log has no description that an open would take long.
    pub(crate) fn is_behind(&self) -> bool {
        let left = self.hints.try_lock().map_or(0, |hints| hints.left);
        self.chunk.is_some_and(|chunk| left > chunk.saturating_mul(CHUNKS_BEHIND))
    }

    /// Begins a chunk, if enough was written. Returns true if it did.
    fn begin(&self, state: &State, chunk: u64, hints: &mut HintState, is_idle: bool) -> bool {
        // In this order: a segment that was active before is full, and its end does not move.
        let active = state.allocator.active_id();
        let offset = state.allocator.offset();
        // Acquire: pairs with the release in `note_copies`.
        let with_copies = is_idle && self.has_copies.swap(false, Ordering::Acquire);
        if with_copies {
            hints.looked = None;
        }
        if hints.looked.is_some_and(|(id, from)| id == active && offset < from) {
            return false;
        }
        let segments = self.written(state, hints);
        let written: u64 = segments.iter().map(|segment| segment.mapping().published()).sum();
        hints.left = hints.left_in(&segments);
        let mut from = offset.saturating_add(chunk);
        for segment in segments {
            if segment.role() == Role::Copies && !with_copies {
                continue;
            }
            let new = HintProgress::new(&segment);
            let progress = hints.progress.entry(segment.id()).or_insert(new);
            if progress.is_done {
                continue;
            }
            let is_full = segment.id() != active;
            let end = segment.mapping().published();
            // After the end was read: a checkpoint that is begun later ends behind it.
            let cut = *self.cut.lock();
            let cut = cut.filter(|(id, at)| *id == segment.id() && *at > progress.at && *at < end);
            let limit = cut.map_or(end, |(_, at)| at);
            let left = limit.saturating_sub(progress.at);
            let is_worth = progress.file_end > 0 || left >= chunk / LEAST_SHARE;
            let is_due = left >= chunk || (left > 0 && is_worth && (is_full || cut.is_some()));
            if is_due && written >= chunk {
                // Relaxed: it was set, and nothing of it was looked at.
                self.has_copies.fetch_or(with_copies, Ordering::Relaxed);
                let front = self.front(state, &segment, progress.at);
                hints.building = Some(ChunkBuilder::new(segment, front, chunk, limit));
                return true;
            }
            match cut {
                // An open that has the checkpoint begins here.
                Some((_, at)) => progress.at = at,
                None => progress.is_done = is_full,
            }
            if !is_full {
                from = progress.at.saturating_add(chunk);
            }
        }
        hints.looked = Some((active, from));
        false
    }

    /// Returns the segments of this incarnation that were written to: those of the log in its order, and
    /// copies behind them.
    fn written(&self, state: &State, hints: &mut HintState) -> Vec<Arc<Segment>> {
        let segments = state.shared.segments.read();
        hints.progress.retain(|id, _| segments.contains_key(id));
        let is_ours = |segment: &&Arc<Segment>| {
            let is_written = segment.mapping().published() > segment.data_offset();
            is_written && (self.is_new(segment) || hints.progress.contains_key(&segment.id()))
        };
        let mut written: Vec<_> = segments.values().filter(is_ours).map(Arc::clone).collect();
        written.sort_by_key(|segment| (segment.role() == Role::Copies, segment.first_seq()));
        written
    }

    /// Returns true if this incarnation wrote all of a segment.
    fn is_new(&self, segment: &Segment) -> bool {
        match segment.role() {
            Role::Log => segment.first_seq() >= self.first.0,
            Role::Copies => segment.id() >= self.first.1,
        }
    }

    /// Makes the job look at the segments again: there are copies.
    pub(crate) fn note_copies(&self) {
        // Release: pairs with the acquire in `begin`; the copies are in the list of segments.
        self.has_copies.store(true, Ordering::Release);
    }

    fn front(&self, state: &State, segment: &Segment, from: u64) -> HintChunk {
        HintChunk {
            store: state.shared.store,
            segment: segment.id(),
            nonce: segment.nonce(),
            from,
            to: from,
            first: Seq::ZERO,
            last: Seq::ZERO,
            last_at: from,
            durable: Seq::ZERO,
            notes: 0,
            entries: 0,
            hash_id: HASH_ID,
            keyspaces: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Notes the end of a checkpoint, in the segment that is active. Called under the writer mutex.
    pub(crate) fn cut_at(&self, segment: SegmentId, offset: u64) {
        *self.cut.lock() = Some((segment, offset));
    }

    /// Removes the hints of the records that a checkpoint covers, once the manifest names it.
    pub(crate) fn forget_covered(&self, state: &State, covered: &[CheckpointSegment]) {
        let mut hints = self.hints.lock();
        for segment in covered {
            let progress = hints.progress.get(&segment.id).copied();
            if progress.is_some_and(|progress| progress.at > segment.end) {
                // Later chunks are in the same file.
                continue;
            }
            hints.remove(state, segment.id);
            if hints.building.as_ref().is_some_and(|building| building.segment.id() == segment.id) {
                hints.building = None;
            }
            let is_new = |id| state.shared.segments.read().get(&id).is_some_and(|there| self.is_new(there));
            let covered = HintProgress { at: segment.end, file_end: 0, is_done: false };
            if let Some(progress) = hints.progress.get_mut(&segment.id) {
                *progress = HintProgress { is_done: progress.is_done, ..covered };
            } else if is_new(segment.id) {
                hints.progress.insert(segment.id, covered);
            }
        }
        hints.looked = None;
    }

    /// Removes the hints of a segment whose file goes.
    pub(crate) fn forget(&self, state: &State, segment: SegmentId) {
        let mut hints = self.hints.lock();
        hints.progress.remove(&segment);
        hints.remove(state, segment);
    }
}

impl HintProgress {
    fn new(segment: &Segment) -> Self {
        Self { at: segment.data_offset(), file_end: 0, is_done: false }
    }
}

impl HintState {
    /// Returns the bytes of the log in some segments that have no description and are to get one.
    fn left_in(&self, segments: &[Arc<Segment>]) -> u64 {
        let left = |segment: &Arc<Segment>| {
            let progress = self.progress.get(&segment.id());
            let progress = progress.copied().unwrap_or_else(|| HintProgress::new(segment));
            let end = segment.mapping().published();
            let is_left = segment.role() == Role::Log && !progress.is_done;
            if is_left { end.saturating_sub(progress.at) } else { 0 }
        };
        segments.iter().map(left).sum()
    }

    fn remove(&mut self, state: &State, segment: SegmentId) {
        if self.files.remove(&segment) {
            state.shared.leftovers.remove(state.shared.dir.as_ref(), file_name::hint(segment), 0);
        }
    }

    /// Describes some more of the log, and writes the chunk once it is large enough.
    fn advance(&mut self, state: &State) -> Result<()> {
        let Some(building) = &mut self.building else { return Ok(()) };
        if building.read_some(&state.hash_key)? {
            return Ok(());
        }
        let Some(building) = self.building.take() else { return Ok(()) };
        state.shared.commit.check()?;
        // On a disk with little space, the rest is for the log.
        self.has_failed = state.allocator.space_budget(&state.shared).is_some();
        if self.has_failed {
            return Ok(());
        }
        let id = building.segment.id();
        let Some(progress) = self.progress.get_mut(&id) else { return Ok(()) };
        let segment = Arc::clone(&building.segment);
        let made = building.finish(state.shared.commit.durable());
        let (to, bytes) = made.map_err(|error| segment.io("describe", error))?;
        let is_new = progress.file_end == 0;
        let written = write(state, id, &bytes, progress.file_end);
        if is_new {
            self.files.insert(id);
        }
        written?;
        (progress.at, progress.file_end) = (to, progress.file_end + bytes.len() as u64);
        Ok(())
    }
}

/// Appends a chunk to a hint file, and makes the file for the first one.
fn write(state: &State, id: SegmentId, bytes: &[u8], at: u64) -> Result<()> {
    let (dir, name) = (state.shared.dir.as_ref(), file_name::hint(id));
    let failed = |error| Error::io("write", dir.path().join(&name), error);
    let file = match at {
        0 => match dir.create(&name) {
            // An open could not remove it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                dir.unlink(&name).and_then(|()| dir.create(&name))
            }
            created => created,
        },
        _ => dir.open(&name, Access::Write),
    };
    file.and_then(|file| file.write_at(bytes, at)).map_err(failed)
}

impl ChunkBuilder {
    fn new(segment: Arc<Segment>, front: HintChunk, chunk: u64, limit: u64) -> Self {
        let at = front.from;
        let enough = at.saturating_add(chunk);
        let (entries, places) = (Vec::new(), BTreeMap::new());
        Self { segment, front, entries, places, before: None, at, enough, limit, frame_end: 0 }
    }

    /// Describes a slice of the log. Returns true if more is to come.
    fn read_some(&mut self, hash_key: &HashKey) -> Result<bool> {
        let end = self.at.saturating_add(SLICE);
        let segment = Arc::clone(&self.segment);
        while self.at < end {
            let is_between = self.at >= self.frame_end;
            if is_between && (self.at >= self.enough || self.at >= self.limit) {
                return Ok(false);
            }
            self.read_one(&segment, hash_key)?;
        }
        Ok(true)
    }

    /// Describes the next record.
    fn read_one(&mut self, segment: &Segment, hash_key: &HashKey) -> Result<()> {
        let at = self.at;
        let damage = |defect| segment.corrupt_at(at, defect);
        let mapping = segment.mapping();
        let bytes = mapping.bytes(at, HEADER_SIZE as u64).and_then(|bytes| bytes.first_chunk());
        let bytes = bytes.ok_or_else(|| damage(Defect::Truncated))?;
        let raw = RawHeader::new(bytes);
        let place = RecordPlace { nonce: segment.nonce(), offset: at };
        let header = raw.validate(place, mapping.published() - at).map_err(damage)?;
        let size = match header.kind {
            RecordKind::Batch => HEADER_SIZE as u64,
            _ => header.size(),
        };
        prefetch_lines(bytes.as_ptr().wrapping_add(AHEAD), size);
        match header.kind {
            RecordKind::Put | RecordKind::Tombstone => {
                let key = mapping.bytes(at + HEADER_SIZE as u64, u64::from(header.key_len));
                let key = key.ok_or_else(|| damage(Defect::Truncated))?;
                let hash = hash_key.hash(key);
                let is_tombstone = header.kind == RecordKind::Tombstone;
                let keyspace = self.count(&header, size);
                alloc::reserve(&mut self.entries, 1).map_err(|error| segment.io("describe", error))?;
                self.entries.push(HintEntry { hash, offset: at, keyspace, is_tombstone });
            }
            RecordKind::Batch => {
                self.frame_end = at + header.size();
                self.front.notes += size;
            }
            RecordKind::Keyspace => {
                self.front.changes.push(at);
                self.front.notes += size;
            }
            RecordKind::Watermark | RecordKind::Start => self.front.notes += size,
        }
        let is_first = self.front.first == Seq::ZERO;
        self.front.first = if is_first { header.seq } else { self.front.first.min(header.seq) };
        (self.front.last, self.front.last_at) = (header.seq, at);
        self.at += size;
        Ok(())
    }

    /// Counts a value or a tombstone. Returns the position of its keyspace.
    fn count(&mut self, header: &RecordHeader, size: u64) -> u32 {
        let (id, first, keyspaces) = (header.keyspace, self.at, &mut self.front.keyspaces);
        // Usually it is that of the record before.
        let before = self.before.filter(|at| keyspaces[*at as usize].id == id);
        let place = before.unwrap_or_else(|| {
            *self.places.entry(id).or_insert_with(|| {
                keyspaces.push(HintKeyspace { id, count: 0, first, values: 0, tombstones: 0 });
                u32::try_from(keyspaces.len() - 1).expect("fewer than the records of a chunk")
            })
        });
        self.before = Some(place);
        let keyspace = &mut keyspaces[place as usize];
        if header.kind == RecordKind::Tombstone {
            keyspace.tombstones += size;
        } else {
            keyspace.count += 1;
            keyspace.values += size;
        }
        place
    }

    /// Returns the end of the range, and the chunk. `durable` is known to be durable.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    fn finish(mut self, durable: Seq) -> io::Result<(u64, Vec<u8>)> {
        let (entries, _) = in_parts(&self.entries, |entry| entry.hash)?;
        self.front.to = self.at;
        self.front.durable = durable;
        self.front.entries = u32::try_from(self.entries.len()).expect("fewer than the bytes of a chunk");
        let len = usize::try_from(self.front.size()).unwrap_or(usize::MAX);
        let mut bytes = alloc::with_capacity(len)?;
        self.front.encode(&entries, &mut bytes);
        Ok((self.at, bytes))
    }
}

/// Prefetches as many cache lines as a record has, up to a few. They are in the cache of the writer's
/// processor.
fn prefetch_lines(from: *const u8, size: u64) {
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    for line in 0..len.div_ceil(LINE).min(LINES_MAX) {
        prefetch(from.wrapping_add(line * LINE));
    }
}
