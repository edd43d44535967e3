//! Reading the records of a segment ahead of the code that puts them into an index.
//!
//! A [`BatchReader`] reads, verifies and hashes. It returns [`RecordBatch`]es, which hold only the
//! part of a record that an index needs, and its location. So it may run on its own thread, and far
//! ahead.

use std::io;
use std::sync::Arc;

use super::tail_findings::durable_of;
use crate::error::Result;
use crate::format::hash::{Hash, HashKey};
use crate::format::hint::{HintChunk, HintKeyspace};
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind};
use crate::format::record_reader::{READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader};
use crate::format::{Defect, KeyspaceId, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;
use crate::mem::alloc;
use crate::mem::location::{LOCATION_BITS, Location};

/// The approximate limits of a batch: its records, and its bytes of the log.
const RECORDS: u64 = 4096;
const SPAN: u64 = 256 << 10;
/// The distance in bytes between the positions kept for the rewrite after an unclean end.
const SAMPLE_SPACING: u64 = 64 << 10;

/// Some records of one segment, in order, sorted by their use.
#[derive(Debug, Default)]
pub(super) struct RecordBatch {
    /// Values and tombstones, by keyspace in ascending order.
    pub(super) groups: Vec<KeyspaceGroup>,
    /// Changes of the keyspaces, with their payloads.
    pub(super) notes: Vec<(RecordAt, Box<[u8]>)>,
    /// Bytes of all of the log's own records.
    pub(super) notes_size: u64,
    /// The greatest sequence number that the log's own records prove durable.
    pub(super) durable: Option<Seq>,
    /// The number of records.
    pub(super) records: u64,
    /// The greatest sequence number among them.
    pub(super) last: Option<Seq>,
    /// The end of the last record, in bytes.
    pub(super) end: u64,
    /// Bytes of all its records.
    span: u64,
    /// The group of the last record.
    at: usize,
    /// The number of records in the first group of the batch before.
    usual: usize,
}

/// The records of one keyspace.
#[derive(Debug)]
pub(super) struct KeyspaceGroup {
    pub(super) id: KeyspaceId,
    pub(super) entries: Vec<GatheredRecord>,
    /// The offset of the first one.
    pub(super) first: u64,
    /// Bytes of the records of values, and of tombstones.
    pub(super) values_size: u64,
    pub(super) tombstones_size: u64,
}

/// A value or a tombstone.
#[derive(Debug, Clone, Copy)]
pub(super) struct GatheredRecord {
    /// The hash of its key; none in an ordered keyspace.
    pub(super) hash: Hash,
    /// The location of the record, and a bit that is set for a tombstone.
    bits: u64,
}

const TOMBSTONE: u64 = 1 << LOCATION_BITS;

/// The position where reading a segment begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    /// The offset, in bytes.
    pub(crate) offset: u64,
    /// The number of the record before it, if a checkpoint covers the records up to there.
    pub(crate) last: Option<Seq>,
}

/// The findings of reading a segment.
#[derive(Debug)]
pub(crate) struct Walked {
    /// The offset where reading stopped.
    pub(crate) stop: u64,
    /// The defect that stopped it. `None` if zeros or the known end stopped it.
    pub(crate) defect: Option<Defect>,
    /// The greatest sequence number.
    pub(crate) last: Option<Seq>,
    /// The number of records that users wrote, without the log's own.
    pub(crate) written: u64,
    /// Positions in the segment: each record before the offset has at most this number.
    pub(crate) samples: Vec<(Seq, u64)>,
}

/// Reads the records of one segment.
#[derive(Debug)]
pub(super) struct BatchReader<'a> {
    segment: &'a Segment,
    walker: RecordReader,
    source: SegmentReader,
    hash_key: &'a HashKey,
    piece: RecordBatch,
    sampled: u64,
    samples: Vec<(Seq, u64)>,
    written: u64,
}

impl Begin {
    /// Returns the position of the first record of a segment.
    pub(crate) fn of(segment: &Segment) -> Self {
        Self { offset: segment.data_offset(), last: None }
    }
}

impl GatheredRecord {
    pub(super) fn new(hash: Hash, location: Location, is_tombstone: bool) -> Self {
        Self { hash, bits: location.to_bits() | if is_tombstone { TOMBSTONE } else { 0 } }
    }

    pub(super) fn location(self) -> Location {
        Location::from_bits(self.bits & (TOMBSTONE - 1))
    }

    pub(super) fn is_tombstone(self) -> bool {
        self.bits & TOMBSTONE != 0
    }
}

impl RecordBatch {
    fn is_full(&self) -> bool {
        self.records >= RECORDS || self.span >= SPAN
    }

    /// Returns the records of a range as its hint tells them, without their entries.
    pub(super) fn of_hint(front: &HintChunk, notes: Vec<(RecordAt, Box<[u8]>)>) -> Self {
        let group = |keyspace: &HintKeyspace| KeyspaceGroup {
            id: keyspace.id,
            entries: Vec::new(),
            first: keyspace.first,
            values_size: keyspace.values,
            tombstones_size: keyspace.tombstones,
        };
        Self {
            groups: front.keyspaces.iter().map(group).collect(),
            notes,
            notes_size: front.notes,
            durable: Some(front.durable),
            last: Some(front.last),
            end: front.to,
            ..Self::default()
        }
    }

    /// Takes the finished batch and begins the next one.
    fn begin_next(&mut self) -> Self {
        let usual = self.groups.first().map_or(0, |group| group.entries.len());
        std::mem::replace(self, Self { usual, ..Self::default() })
    }

    /// Returns the group of a keyspace, for a record at `offset`.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    fn group(&mut self, id: KeyspaceId, offset: u64) -> io::Result<&mut KeyspaceGroup> {
        if self.groups.get(self.at).is_none_or(|group| group.id != id) {
            self.at = match self.groups.binary_search_by_key(&id, |group| group.id) {
                Ok(at) => at,
                Err(at) => {
                    // Usually there is one group, as large as the one before.
                    let usual = if self.groups.is_empty() { self.usual } else { 0 };
                    let entries = alloc::with_capacity(usual)?;
                    let group =
                        KeyspaceGroup { id, entries, first: offset, values_size: 0, tombstones_size: 0 };
                    self.groups.insert(at, group);
                    at
                }
            };
        }
        let group = &mut self.groups[self.at];
        alloc::reserve(&mut group.entries, 1)?;
        Ok(group)
    }
}

impl<'a> BatchReader<'a> {
    /// Reads a segment from `begin` up to `limit`.
    ///
    /// # Errors
    ///
    /// Returns an error if its file cannot be opened.
    pub(super) fn open(
        dir: &dyn Dir,
        segment: &'a Arc<Segment>,
        begin: Begin,
        limit: u64,
        hash_key: &'a HashKey,
    ) -> Result<Self> {
        let walker = RecordReader::new(segment.nonce(), begin.offset, limit, segment.order());
        Ok(Self {
            segment,
            walker: begin.last.into_iter().fold(walker, RecordReader::behind),
            source: SegmentReader::of(dir, segment)?,
            hash_key,
            piece: RecordBatch::default(),
            sampled: begin.offset,
            samples: Vec::new(),
            // Covered records count as a user's. A count that is too high only keeps the segment.
            written: u64::from(begin.last.is_some()),
        })
    }

    /// Reads to the end and passes each batch, in order, to `give`, which returns true to go on.
    ///
    /// If it returns false, the result describes what was read so far.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. Bytes that form no record end the reading, and their meaning
    /// is decided elsewhere.
    pub(super) fn read(mut self, mut give: impl FnMut(RecordBatch) -> bool) -> Result<Walked> {
        let defect = loop {
            // By reference: a value that was just stored in parts is slow to copy as a whole.
            match self.walker.step(&mut self.source) {
                Ok(ReadStep::Record(ref placed)) => self.push(placed)?,
                Ok(ReadStep::Blank) => break None,
                Ok(ReadStep::Invalid(defect)) => break Some(defect),
                Err(error) => return Err(error),
            }
            if self.piece.is_full() && !give(self.piece.begin_next()) {
                break None;
            }
        };
        if self.piece.records > 0 {
            give(self.piece);
        }
        Ok(Walked {
            stop: self.walker.offset(),
            defect,
            last: self.walker.last_seq(),
            written: self.written,
            samples: self.samples,
        })
    }

    fn push(&mut self, placed: &RecordAt) -> Result<()> {
        let RecordAt { offset, header } = placed;
        if *offset >= self.sampled + SAMPLE_SPACING && !header.is_inner() {
            self.sampled = *offset;
            self.samples.push((Seq(header.seq.0 - 1), *offset));
        }
        self.written += u64::from(!matches!(header.kind, RecordKind::Start | RecordKind::Watermark));
        let size = size_of(header);
        self.piece.records += 1;
        self.piece.last = self.piece.last.max(Some(header.seq));
        self.piece.end = offset + size;
        self.piece.span += size;
        let payload = offset + HEADER_SIZE as u64;
        match header.kind {
            RecordKind::Put | RecordKind::Tombstone => {
                let hash = if header.keyspace.is_ordered() {
                    // A tree needs none.
                    Hash::from_bits(0)
                } else {
                    self.hash_key.hash(self.source.bytes(payload, usize::from(header.key_len))?)
                };
                let is_tombstone = header.kind == RecordKind::Tombstone;
                let location = self.segment.range().at(*offset);
                let entry = GatheredRecord::new(hash, location, is_tombstone);
                let group = self.piece.group(header.keyspace, *offset);
                let group = group.map_err(|error| self.segment.io("read", error))?;
                let sizes = if is_tombstone { &mut group.tombstones_size } else { &mut group.values_size };
                *sizes += size;
                group.entries.push(entry);
            }
            RecordKind::Keyspace | RecordKind::Watermark | RecordKind::Start => {
                // The store writes none that is longer.
                let len = usize::try_from(header.payload_len()).unwrap_or(READ_MAX).min(READ_MAX);
                let bytes = self.source.bytes(payload, len)?;
                self.piece.notes_size += size;
                if header.kind == RecordKind::Keyspace {
                    self.piece.notes.push((*placed, bytes.into()));
                } else {
                    self.piece.durable = self.piece.durable.max(durable_of(header, bytes));
                }
            }
            RecordKind::Batch => self.piece.notes_size += size,
        }
        Ok(())
    }
}

/// Returns the bytes that a record takes itself. For a batch that is its header, since its records
/// follow it.
fn size_of(header: &RecordHeader) -> u64 {
    if header.kind == RecordKind::Batch { HEADER_SIZE as u64 } else { header.size() }
}
