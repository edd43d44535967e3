//! The log writer: it appends records in one order, to one segment after the other.
//!
//! It knows the position of the next record and the synced part. It knows neither keys (the index
//! does), nor the waiters for a sync (`commit` does), nor how segments are made (`allocator` does).
//!
//! **Concurrency.** [`LogWriter`] lives under the store's writer mutex, so log order is index order
//! is visibility order. A sync has three parts, so that no writer waits for the device:
//! [`LogWriter::plan`] under the mutex, [`SyncPlan::execute`] without it, [`LogWriter::synced`]
//! under it again. One leader at a time runs the three (`commit`).
//!
//! **Invariants.** Behind every record there is space for a watermark, in the segment and in its
//! faulted pages. If two syncs share one record, the second writes no watermark. I1, I2, I5.
//!
//! **Crash points.** `append-payload` (a record is written, its first word is not),
//! `append-published`, `batch-record`, `batch-payload`, `rolled`.

mod roll;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::record::{
    FLAG_INNER, HEADER_SIZE, RecordHeader, RecordKind, RecordPlace, StartRecord, Watermark, payload_sum,
    record_size,
};
use crate::format::{KeyspaceId, SegmentId, Seq};
use crate::log::context::LogContext;
use crate::log::segment::Segment;
use crate::log::sync_plan::{FilledSegment, SegmentRange, SyncPlan};
use crate::mem::appender::Appender;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;

/// Bytes that a watermark takes in the log.
const WATERMARK_SIZE: u64 = (HEADER_SIZE + Watermark::SIZE) as u64;
/// Bytes that a start record takes in the log.
const START_SIZE: u64 = (HEADER_SIZE + StartRecord::SIZE) as u64;

/// A record to append, before it has a position and a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRecord<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// The lengths, checked against the format's limits.
    pub(crate) key_len: u16,
    pub(crate) value_len: u32,
    /// The checksum over key and value.
    pub(crate) payload_sum: u32,
}

impl<'a> NewRecord<'a> {
    /// Checks the lengths and computes the checksum.
    ///
    /// # Errors
    ///
    /// `KeyTooLarge` or `ValueTooLarge`.
    pub(crate) fn new(
        kind: RecordKind,
        keyspace: KeyspaceId,
        key: &'a [u8],
        value: &'a [u8],
    ) -> Result<Self> {
        let max = crate::format::record::MAX_KEY_LEN;
        let key_len = u16::try_from(key.len()).map_err(|_| Error::KeyTooLarge { len: key.len(), max })?;
        let max = crate::format::record::MAX_VALUE_LEN;
        let value_len =
            u32::try_from(value.len()).map_err(|_| Error::ValueTooLarge { len: value.len(), max })?;
        Ok(Self { kind, keyspace, key, value, key_len, value_len, payload_sum: payload_sum(key, value) })
    }

    /// Returns the bytes that it takes in the log.
    pub(crate) fn size(&self) -> u64 {
        record_size(u64::from(self.key_len) + u64::from(self.value_len))
    }

    fn header(&self, seq: Seq, flags: u8) -> RecordHeader {
        RecordHeader {
            kind: self.kind,
            flags,
            keyspace: self.keyspace,
            key_len: self.key_len,
            value_len: self.value_len,
            seq,
            payload_sum: self.payload_sum,
        }
    }
}

/// A write batch's header, before it has a position and a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchHeader {
    /// The number of its records.
    pub(crate) count: u32,
    /// Bytes of those records.
    pub(crate) len: u32,
    /// The checksum over their payload sums.
    pub(crate) sum: u32,
}

/// The end of the log in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) segment: SegmentId,
    /// The end of its records, in bytes.
    pub(crate) offset: u64,
    /// The last number of the log up to there.
    pub(crate) last: Seq,
}

/// The position where the log continues after an open.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The segment to append to.
    pub(crate) segment: Arc<Segment>,
    /// The end of its records. In a new segment it is the data offset.
    pub(crate) offset: u64,
    /// The end that it continues, if the segment is new or in no file.
    pub(crate) previous: Option<LogEnd>,
    pub(crate) next_seq: Seq,
    pub(crate) incarnation: u64,
    /// Every record up to this is durable.
    pub(crate) durable: Seq,
    /// The last record that was found.
    pub(crate) last: Seq,
}

/// The append state, under the store's writer mutex.
#[derive(Debug)]
pub(crate) struct LogWriter {
    segment: Arc<Segment>,
    appender: Appender,
    offset: u64,
    /// Bytes of the active segment below this are durable.
    synced: u64,
    next_seq: Seq,
    /// The last record that a user wrote, without the log's own.
    last_user: Seq,
    /// The last record that a watermark covers.
    marked: Seq,
    durable: Seq,
    incarnation: u64,
    full: Vec<FilledSegment>,
    /// The end that the next segment continues, if the log has no file to append to.
    previous: Option<LogEnd>,
    /// The value at this offset is already written. Its record comes next.
    written: Option<u64>,
    /// Bytes of no record may lie behind the end, so the log continues in another segment.
    is_soiled: bool,
    holes: Holes,
    observed: bool,
}

/// Holes at the end of the active segment, where a close has given blocks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// The segment was continued, and nothing was written yet.
    Unknown,
    /// There is none.
    None,
    /// There are some, and the disk has no blocks for them.
    Left,
}

impl LogWriter {
    /// Continues the log.
    ///
    /// # Errors
    ///
    /// `NoSpace` if the first pages cannot be faulted.
    pub(crate) fn open(shared: &LogContext, tail: Tail) -> Result<Self> {
        let appender = Appender::claim(tail.segment.mapping()).expect("a segment is made active once");
        let is_nowhere = tail.segment.is_nowhere();
        let mut writer = Self {
            segment: tail.segment,
            appender,
            offset: tail.offset,
            synced: tail.offset,
            next_seq: tail.next_seq,
            last_user: tail.last,
            marked: tail.last,
            durable: tail.durable,
            incarnation: tail.incarnation,
            full: Vec::new(),
            previous: tail.previous.filter(|_| is_nowhere),
            written: None,
            is_soiled: false,
            holes: if is_nowhere || tail.previous.is_some() { Holes::None } else { Holes::Unknown },
            observed: shared.dir.observes(),
        };
        if let Some(previous) = tail.previous.filter(|_| !is_nowhere) {
            writer.start(shared, previous)?;
        }
        Ok(writer)
    }

    /// Returns true if the log has no segment to append to yet.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.segment.is_nowhere()
    }

    /// Records that another process has appended up to this number. This log has no file.
    pub(crate) fn follow(&mut self, last: Seq) {
        debug_assert!(self.segment.is_nowhere(), "a follower appends nothing");
        self.last_user = last;
        self.next_seq = last.next();
    }

    /// Returns the number of the last record.
    ///
    /// If the log has no file to append to, it is the last record found. No record exists between
    /// it and the next number.
    pub(crate) fn last_seq(&self) -> Seq {
        if self.previous.is_some() { self.last_user } else { Seq(self.next_seq.0 - 1) }
    }

    /// Returns the next sequence number to be assigned.
    pub(crate) fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Returns the last record that a user wrote, which a flush must make durable.
    pub(crate) fn last_user(&self) -> Seq {
        self.last_user
    }

    /// Returns the number of segments that are full and not yet durable.
    pub(crate) fn full_count(&self) -> u64 {
        self.full.len() as u64
    }

    /// Returns the segments that are full and not yet durable, and their ends.
    pub(crate) fn full_ends(&self) -> Vec<(SegmentId, u64)> {
        self.full.iter().map(|full| (full.segment.id(), full.end)).collect()
    }

    /// Returns the active segment and the offset in it.
    pub(crate) fn position(&self) -> (&Arc<Segment>, u64) {
        (&self.segment, self.offset)
    }

    /// Appends a record for which space was reserved.
    ///
    /// # Errors
    ///
    /// `NoSpace`, `Io` or `Corrupt` if a faulted page could not be written to all the same. Its
    /// block is shared with a copy of the file and the disk is full, or the disk failed, or the
    /// file was truncated. Nothing was appended, and the next write continues in another segment.
    pub(crate) fn append(&mut self, shared: &LogContext, draft: &NewRecord<'_>) -> Result<(Location, Seq)> {
        let (location, seq) = self.put(shared, draft)?;
        self.last_user = seq;
        Ok((location, seq))
    }

    fn put(&mut self, shared: &LogContext, draft: &NewRecord<'_>) -> Result<(Location, Seq)> {
        let seq = self.next_seq;
        let offset = self.offset;
        let header = draft.header(seq, 0).encode(self.place(offset));
        self.appender.write(offset + 8, &header[8..]);
        self.write_payload(offset, draft);
        self.observe(shared, "append-payload");
        let end = offset + draft.size();
        if !self.appender.publish(offset, first_word(&header), end) {
            return Err(self.take_back(end));
        }
        self.offset = end;
        self.next_seq = seq.next();
        self.observe(shared, "append-published");
        Ok((self.segment.range().at(offset), seq))
    }

    /// Erases the bytes behind the last record, so that they are never read as one. Returns the
    /// reason of the failure.
    #[cold]
    fn take_back(&mut self, end: u64) -> Error {
        const ZEROS: [u8; 4096] = [0; 4096];
        for at in (self.offset..end).step_by(ZEROS.len()) {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.appender.write(at, &ZEROS[..len]);
        }
        self.segment.unwritten(self.offset, end)
    }

    fn write_payload(&mut self, offset: u64, draft: &NewRecord<'_>) {
        let key_at = offset + HEADER_SIZE as u64;
        self.appender.write(key_at, draft.key);
        let value_at = key_at + u64::from(draft.key_len);
        if self.written.take() != Some(value_at) {
            self.appender.write(value_at, draft.value);
        }
    }

    /// Appends a batch for which space was reserved: every record, then the batch's first word,
    /// which publishes all.
    ///
    /// Returns the batch's number, and the offset of its first record.
    ///
    /// # Errors
    ///
    /// The errors of [`LogWriter::append`].
    pub(crate) fn append_batch<'a>(
        &mut self,
        shared: &LogContext,
        frame: BatchHeader,
        drafts: impl Iterator<Item = NewRecord<'a>>,
    ) -> Result<(Seq, u64)> {
        let seq = self.next_seq;
        let start = self.offset;
        let mut at = start + HEADER_SIZE as u64;
        let mut last = seq;
        for draft in drafts {
            last = last.next();
            let header = draft.header(last, FLAG_INNER).encode(self.place(at));
            self.appender.write(at, &header);
            self.write_payload(at, &draft);
            at += draft.size();
            self.observe(shared, "batch-record");
        }
        let header = RecordHeader {
            kind: RecordKind::Batch,
            flags: 0,
            keyspace: KeyspaceId(frame.count),
            key_len: 0,
            value_len: frame.len,
            seq,
            payload_sum: frame.sum,
        };
        debug_assert_eq!(at, start + header.size());
        let header = header.encode(self.place(start));
        self.appender.write(start + 8, &header[8..]);
        self.observe(shared, "batch-payload");
        if !self.appender.publish(start, first_word(&header), at) {
            return Err(self.take_back(at));
        }
        self.offset = at;
        self.next_seq = last.next();
        self.last_user = last;
        self.observe(shared, "append-published");
        Ok((seq, start + HEADER_SIZE as u64))
    }

    fn place(&self, offset: u64) -> RecordPlace {
        RecordPlace { nonce: self.segment.nonce(), offset }
    }

    /// Returns the ranges that are appended and not yet synced.
    pub(crate) fn plan(&self) -> SyncPlan {
        let full = self.full.iter().map(FilledSegment::unsynced);
        let active = SegmentRange::new(&self.segment, self.synced, self.offset);
        SyncPlan::new(full.chain([active]).collect(), self.last_seq())
    }

    /// Records that a plan has been executed, and writes the watermark.
    ///
    /// Returns the segments that became durable whole.
    pub(crate) fn synced(&mut self, shared: &LogContext, plan: &SyncPlan) -> Vec<FilledSegment> {
        self.durable = self.durable.max(plan.upto());
        for SegmentRange { segment, to, .. } in plan.ranges() {
            if segment.id() == self.segment.id() {
                self.synced = *to;
            } else if let Some(full) = self.full.iter_mut().find(|full| full.segment.id() == segment.id()) {
                full.synced = *to;
            }
        }
        let (durable, rest) =
            std::mem::take(&mut self.full).into_iter().partition(|full| full.synced == full.end);
        self.full = rest;
        // An idle store does not sync, so a watermark follows records only, never another
        // watermark.
        if self.marked < self.last_user.min(plan.upto()) {
            self.marked = plan.upto();
            self.mark(shared, plan.upto());
        }
        durable
    }

    fn mark(&mut self, shared: &LogContext, upto: Seq) {
        // Every `reserve` keeps this space, and one watermark uses it. Without a newer record there
        // is none.
        let room = self.segment.size().min(self.segment.ready()) - self.offset;
        if room < WATERMARK_SIZE {
            return;
        }
        let value = Watermark(upto).encode();
        let draft =
            NewRecord::new(RecordKind::Watermark, KeyspaceId::DEFAULT, &[], &value).expect("a short value");
        // A watermark that cannot be written may be left out.
        let Ok((location, _)) = self.put(shared, &draft) else { return };
        shared.space.add_dead(location, DeadCause::Note, draft.size());
    }

    fn observe(&self, shared: &LogContext, point: &'static str) {
        if self.observed {
            shared.dir.crash_point(point);
        }
    }
}

fn first_word(header: &[u8; HEADER_SIZE]) -> [u8; 8] {
    *header.first_chunk().expect("a header is longer than a word")
}
