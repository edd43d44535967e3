//! Reserving space for the next write: in the active segment or in the next one, in faulted pages.
//!
//! Every part of a write that can fail fails here, before any of it is visible.

use super::{FilledSegment, HEADER_SIZE, Holes, LogEnd, LogWriter, NewRecord, START_SIZE, WATERMARK_SIZE};
use crate::error::{Error, Result};
use crate::format::record::{RecordKind, StartRecord};
use crate::format::{KeyspaceId, Seq};
use crate::log::allocator::SegmentAllocator;
use crate::log::allocator::quota::SpaceClass;
use crate::log::context::LogContext;
use crate::mem::appender::Appender;
use crate::mem::dead_bytes::DeadCause;
use crate::trace;

/// The length from which a value is written by a call instead of stores into faulted pages, in
/// bytes.
///
/// The pages are then written once and not twice.
const WRITTEN_BY_CALL: usize = 64 << 10;
/// The most bytes of a segment that are kept for removals if the next one cannot be made.
const KEPT_BACK: u64 = 64 << 10;

impl LogWriter {
    /// Reserves space for a write of `size` bytes. Appending it then fails only as
    /// [`LogWriter::append`] says.
    ///
    /// # Errors
    ///
    /// `DiskLimit`, `NoSpace`, or an error of the operating system. Nothing has been written.
    pub(crate) fn reserve(
        &mut self,
        shared: &LogContext,
        allocator: &SegmentAllocator,
        want: SpaceClass,
        size: u64,
    ) -> Result<()> {
        self.make_room(shared, allocator, want, size)?;
        match self.make_ready(shared, allocator, self.offset + size + WATERMARK_SIZE) {
            Err(error) if self.holes == Holes::Left && error.is_about_room() => {
                self.roll(shared, allocator, want, size)?;
                self.make_ready(shared, allocator, self.offset + size + WATERMARK_SIZE)
            }
            other => other,
        }
    }

    /// Takes the blocks again that a close gave back, before the first write.
    #[cold]
    fn fill_holes(&mut self, shared: &LogContext) -> Result<()> {
        shared.manifest.begin()?;
        self.holes = match self.segment.own_blocks() {
            Ok(()) => Holes::None,
            // Those behind the log that the close has kept are used, and then the next segment.
            Err(error) if error.is_about_room() => Holes::Left,
            Err(other) => return Err(other),
        };
        Ok(())
    }

    /// Reserves space like [`LogWriter::reserve`], for one record.
    ///
    /// A large value is written to its position at once. It is invisible until the record's first
    /// word is stored.
    ///
    /// # Errors
    ///
    /// The errors of [`LogWriter::reserve`].
    pub(crate) fn reserve_record(
        &mut self,
        shared: &LogContext,
        allocator: &SegmentAllocator,
        want: SpaceClass,
        draft: &NewRecord<'_>,
    ) -> Result<()> {
        if draft.value.len() < WRITTEN_BY_CALL {
            return self.reserve(shared, allocator, want, draft.size());
        }
        self.reserve_large(shared, allocator, want, draft)
    }

    #[cold]
    fn reserve_large(
        &mut self,
        shared: &LogContext,
        allocator: &SegmentAllocator,
        want: SpaceClass,
        draft: &NewRecord<'_>,
    ) -> Result<()> {
        allocator.writer_makes_pages(true);
        self.make_room(shared, allocator, want, draft.size())?;
        shared.manifest.begin()?;
        let value_at = self.offset + HEADER_SIZE as u64 + u64::from(draft.key_len);
        // A failed write may have written a part. The next record must not be placed before it.
        self.is_soiled = true;
        let end = self.offset + draft.size() + WATERMARK_SIZE;
        self.segment.write_value(self.offset, value_at, draft.value, end)?;
        self.is_soiled = false;
        self.written = Some(value_at);
        Ok(())
    }

    /// Ensures that a write of `size` bytes fits into the active segment.
    fn make_room(
        &mut self,
        shared: &LogContext,
        allocator: &SegmentAllocator,
        want: SpaceClass,
        size: u64,
    ) -> Result<()> {
        allocator.check(shared, want, size)?;
        if self.holes == Holes::Unknown {
            self.fill_holes(shared)?;
        }
        // A write of so many bytes holds fewer records than that.
        if self.next_seq.0 + size > Seq::MAX.0 {
            return Err(Error::Limit {
                what: "all 2^56 sequence numbers of the store are used",
                advice: "copy its content to a new store",
            });
        }
        if self.is_soiled
            || self.appender.is_replaced()
            || self.offset + size + WATERMARK_SIZE > self.segment.size()
        {
            self.roll(shared, allocator, want, size)
        } else if want == SpaceClass::Insertion && self.offset + size + self.kept_back() > self.segment.size()
        {
            // The rest is for removals, unless a segment follows: on a full disk they free space.
            allocator.have_next(shared)
        } else {
            Ok(())
        }
    }

    /// Ensures that the pages below an offset are faulted.
    fn make_ready(&self, shared: &LogContext, allocator: &SegmentAllocator, need: u64) -> Result<()> {
        if need <= self.segment.ready() {
            return Ok(());
        }
        // The manifest says that the store is open before any page is faulted.
        shared.manifest.begin()?;
        allocator.count_stall();
        allocator.writer_makes_pages(false);
        self.segment.extend(need)
    }

    /// Returns the bytes at the end of a segment that insertions leave to removals if there is no
    /// next segment.
    fn kept_back(&self) -> u64 {
        (self.segment.size() / 16).min(KEPT_BACK)
    }

    /// Continues in the next segment, even if this one has space.
    ///
    /// # Errors
    ///
    /// The errors of [`LogWriter::reserve`].
    pub(crate) fn roll_now(&mut self, shared: &LogContext, allocator: &SegmentAllocator) -> Result<()> {
        self.roll(shared, allocator, SpaceClass::Last, 0)
    }

    #[cold]
    fn roll(
        &mut self,
        shared: &LogContext,
        allocator: &SegmentAllocator,
        want: SpaceClass,
        size: u64,
    ) -> Result<()> {
        shared.manifest.begin()?;
        let next = allocator.take(shared, want, size)?;
        // Before any switch: the next recovery cuts off a segment without its start record.
        let made_ready = next.extend(next.data_offset() + START_SIZE + WATERMARK_SIZE);
        // If faulted pages could not be written to, those of the next segment may be no better.
        let made_ready = made_ready.and_then(|()| match self.appender.is_replaced() || self.is_soiled {
            true => next.make_ready_again(),
            false => Ok(()),
        });
        if let Err(error) = made_ready {
            allocator.give_back(next);
            return Err(error);
        }
        let appender = Appender::claim(next.mapping()).expect("a segment is made active once");
        let last_seq = self.last_seq();
        let end = self.offset;
        let offset = next.data_offset();
        let segment = std::mem::replace(&mut self.segment, next);
        let appender = std::mem::replace(&mut self.appender, appender);
        let here = LogEnd { segment: segment.id(), offset: end, last: last_seq };
        let previous = self.previous.unwrap_or(here);
        self.offset = offset;
        if let Err(error) = self.start(shared, previous) {
            // The segment stays empty, and the next open removes it. The log does not continue in
            // this one.
            (self.segment, self.appender, self.offset) = (segment, appender, end);
            self.is_soiled = true;
            return Err(error);
        }
        if self.previous.take().is_none() {
            self.full.push(FilledSegment { segment, synced: self.synced, end, last_seq });
            trace::segment_full(previous.segment.0, end);
        }
        self.synced = offset;
        self.is_soiled = false;
        self.holes = Holes::None;
        allocator.set_active(&self.segment, self.offset);
        self.observe(shared, "rolled");
        Ok(())
    }

    /// Writes the record that names the end that this segment continues.
    pub(super) fn start(&mut self, shared: &LogContext, previous: LogEnd) -> Result<()> {
        let start = StartRecord {
            previous: previous.segment.0,
            previous_end: previous.offset,
            incarnation: self.incarnation,
            durable: self.durable,
            last: previous.last,
        };
        let value = start.encode();
        let draft = NewRecord::new(RecordKind::Start, KeyspaceId::DEFAULT, &[], &value)?;
        debug_assert_eq!(draft.size(), START_SIZE);
        self.segment.extend(self.offset + draft.size() + WATERMARK_SIZE)?;
        let (location, seq) = self.put(shared, &draft)?;
        self.segment.begins_at(seq);
        shared.space.add_dead(location, DeadCause::Note, draft.size());
        Ok(())
    }
}
