//! The tail of a log that another process appends to: one unit after the other.
//!
//! **Concurrency.** The writer publishes a record, or a whole batch, by a release store to its first
//! word (I1). A follower loads that word with acquire order before it reads the bytes behind it. It
//! copies bytes by atomic loads, because it does not know yet how far they are published. Only
//! after the checksums hold does it publish the unit in its own mapping, and references to the
//! bytes may exist.
//!
//! **Rule.** It never loads a word behind the first one of the next record. Pages that the writer
//! has not faulted yet must be faulted by the writer, in large folios.

use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::format::record::{HEADER_SIZE, RecordKind, StartRecord};
use crate::format::record_reader::{Order, ReadAt, ReadStep, RecordAt, RecordReader};
use crate::format::{Defect, Seq};
use crate::log::segment::Segment;
use crate::mem::mapping::Mapping;

/// Bytes of a mapping that another process may be writing, by copies.
struct SharedBytes<'m> {
    mapping: &'m Mapping,
    copy: Vec<u8>,
}

impl ReadAt for SharedBytes<'_> {
    type Error = std::convert::Infallible;

    fn bytes(&mut self, offset: u64, len: usize) -> std::result::Result<&[u8], Self::Error> {
        if self.copy.len() < len {
            self.copy.resize(len, 0);
        }
        let offset = usize::try_from(offset).expect("the reader stays below the mapping's length");
        self.mapping.copy_out(offset, &mut self.copy[..len]);
        Ok(&self.copy[..len])
    }
}

/// A unit of the log, which takes effect at one moment.
#[derive(Debug)]
pub(crate) enum LogUnit {
    /// One record.
    Record(RecordAt),
    /// A write batch: its header, and its records.
    Batch(RecordAt, Vec<RecordAt>),
}

impl LogUnit {
    /// Returns the offset of its end.
    pub(crate) fn end(&self) -> u64 {
        let (Self::Record(first) | Self::Batch(first, _)) = self;
        first.offset + first.header.size()
    }

    /// Returns the values and tombstones in it.
    pub(super) fn changes(&self) -> impl Iterator<Item = &RecordAt> {
        let (Self::Record(first) | Self::Batch(first, _)) = self;
        let inner = if let Self::Batch(_, records) = self { records.as_slice() } else { &[] };
        let is_change =
            |placed: &&RecordAt| matches!(placed.header.kind, RecordKind::Put | RecordKind::Tombstone);
        std::iter::once(first).chain(inner).filter(is_change)
    }

    /// Returns the number of its records.
    pub(super) fn records(&self) -> u64 {
        match self {
            Self::Record(_) => 1,
            Self::Batch(_, records) => 1 + records.len() as u64,
        }
    }

    /// Returns true if it holds more than the log's own records.
    pub(crate) fn is_used(&self) -> bool {
        let own = |placed: &RecordAt| matches!(placed.header.kind, RecordKind::Start | RecordKind::Watermark);
        !matches!(self, Self::Record(placed) if own(placed))
    }

    /// Returns its last number.
    pub(crate) fn last(&self) -> Seq {
        match self {
            Self::Record(record) => record.header.seq,
            Self::Batch(frame, records) => records.last().unwrap_or(frame).header.seq,
        }
    }
}

/// Reads the units of one segment.
pub(crate) struct LogTail<'s> {
    segment: &'s Segment,
    reader: RecordReader,
    source: SharedBytes<'s>,
}

impl<'s> LogTail<'s> {
    /// Reads from an offset, behind the record of number `last` if there is one before it.
    pub(crate) fn new(segment: &'s Segment, offset: u64, last: Option<Seq>) -> Self {
        let reader = RecordReader::new(segment.nonce(), offset, segment.size() & !7, Order::Consecutive);
        let reader = last.into_iter().fold(reader, RecordReader::behind);
        Self { segment, reader, source: SharedBytes { mapping: segment.mapping(), copy: Vec::new() } }
    }

    /// Reads up to `most` units, and publishes them in the mapping. Returns true where the log ends
    /// for now.
    ///
    /// # Errors
    ///
    /// The errors of [`LogTail::next`]. The units before are read.
    pub(crate) fn read_some(&mut self, units: &mut Vec<LogUnit>, most: usize) -> Result<bool> {
        while units.len() < most {
            let Some(unit) = self.next()? else { return Ok(true) };
            self.segment.mapping().publish_existing(unit.end());
            units.push(unit);
        }
        Ok(false)
    }

    /// Returns the next unit, or `None` where the log ends for now.
    ///
    /// # Errors
    ///
    /// `Corrupt` if published bytes form no record, `Io` if they cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<LogUnit>> {
        if !is_published(self.segment, self.reader.offset())? {
            return Ok(None);
        }
        let at = self.reader.offset();
        let frame = match self.step() {
            ReadStep::Record(frame) => frame,
            ReadStep::Blank => return Err(self.damage(at, Defect::LengthOutOfRange)),
            ReadStep::Invalid(defect) => return Err(self.damage(at, defect)),
        };
        if frame.header.kind != RecordKind::Batch {
            return Ok(Some(LogUnit::Record(frame)));
        }
        let mut records = Vec::new();
        let end = frame.offset + frame.header.size();
        while self.reader.offset() < end {
            let ReadStep::Record(record) = self.step() else {
                return Err(self.damage(at, Defect::BatchIncomplete));
            };
            records.push(record);
        }
        Ok(Some(LogUnit::Batch(frame, records)))
    }

    fn step(&mut self) -> ReadStep {
        let Ok(step) = self.reader.step(&mut self.source);
        step
    }

    /// Returns the error for a defect at an offset: that of the device, if a page could not be read.
    #[cold]
    fn damage(&self, at: u64, defect: Defect) -> crate::error::Error {
        let unreadable = self.segment.check_readable(at, self.segment.size()).err();
        unreadable.unwrap_or_else(|| self.segment.corrupt_at(at, defect))
    }
}

/// Returns true if the first word of a record at an offset of a segment is published.
///
/// # Errors
///
/// `Io` if its page cannot be read.
#[inline]
pub(crate) fn is_published(segment: &Segment, offset: u64) -> Result<bool> {
    if offset + HEADER_SIZE as u64 > segment.size() & !7 {
        return Ok(false);
    }
    let at = usize::try_from(offset).expect("inside the mapping");
    // Acquire: pairs with the release store of the writer, in another process.
    if segment.mapping().word(at).load(Ordering::Acquire) != 0 {
        return Ok(true);
    }
    // Zeros in place of a page that cannot be read are no end of the log.
    segment.check_readable(offset, offset + HEADER_SIZE as u64)?;
    Ok(false)
}

/// Returns the start record of a segment, with its number. `None` if it is not published, or not
/// valid.
pub(crate) fn start_of(segment: &Segment) -> Option<(Seq, StartRecord)> {
    let mut tail = LogTail::new(segment, segment.data_offset(), None);
    let Ok(Some(LogUnit::Record(placed))) = tail.next() else { return None };
    let len = usize::try_from(placed.header.value_len).ok()?;
    if placed.header.kind != RecordKind::Start || len != StartRecord::SIZE {
        return None;
    }
    let Ok(value) = tail.source.bytes(placed.offset + HEADER_SIZE as u64, len);
    Some((placed.header.seq, StartRecord::decode(value).ok()?))
}
