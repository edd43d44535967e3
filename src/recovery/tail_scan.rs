//! What the bytes of a segment say by themselves: changes of the keyspaces, proofs of durability, where a segment begins, what
//! lies behind a stop.

use crate::error::{Error, Result};
use crate::format::keyspace_change::{KeyspaceChange, MAX_CODEC_LEN, MAX_NAME_LEN};
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind, StartRecord, proven_by};
use crate::format::record_reader::{
    Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader, beyond, next_published,
};
use crate::format::{Defect, Seq};
use crate::fs::{Dir, read_exact_at};
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;

/// The change that the payload of a keyspace record says.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn change_of(
    header: &RecordHeader,
    payload: &[u8],
) -> std::result::Result<KeyspaceChange, Defect> {
    let max = MAX_NAME_LEN + 1 + MAX_CODEC_LEN;
    if header.payload_len() > max as u64 {
        return Err(Defect::BadField("keyspace change"));
    }
    let (name, change) = payload.split_at(usize::from(header.key_len));
    KeyspaceChange::decode(header.keyspace, name, change)
}

/// What lies behind a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailFindings {
    /// Whether there is anything but zeros.
    pub(crate) written: bool,
    /// Complete valid records.
    pub(crate) records: u64,
    /// Where the last byte lies that is not zero, rounded up, and the last complete record ends.
    pub(crate) end: u64,
    /// The greatest sequence number among them.
    pub(crate) last: Seq,
    /// What they prove to have been durable.
    pub(crate) durable: Seq,
    /// Whether the file was made to be slow and not all of it was looked at.
    pub(crate) given_up: bool,
}

/// Looks at what lies in a segment behind a stop.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn look_beyond(segment: &Segment, source: &mut SegmentReader, stop: u64) -> Result<TailFindings> {
    let size = segment.size();
    let mut found = TailFindings {
        written: next_published(source, stop, size)?.is_some(),
        records: 0,
        end: stop,
        last: Seq::ZERO,
        durable: Seq::ZERO,
        given_up: false,
    };
    if found.written {
        found.end = last_written(source, stop, size)?;
    }
    let whole = beyond(source, segment.nonce(), stop, size, |source, placed| {
        found.records += 1;
        found.end = found.end.max(placed.offset + placed.header.size());
        found.last = found.last.max(placed.header.seq);
        found.durable = found.durable.max(durable_in(source, placed)?.unwrap_or(Seq::ZERO));
        Ok(())
    })?;
    if !whole {
        found.given_up = true;
        found.end = size;
        found.records = found.records.max(1);
    }
    Ok(found)
}

/// True where a record stands at the end of a closed store: then the manifest is older than the segment.
///
/// # Errors
///
/// `Io` where the file cannot be read.
pub(crate) fn is_record_at(dir: &dyn Dir, segment: &Segment, end: u64) -> Result<bool> {
    let mut source = SegmentReader::of(dir, segment)?;
    let mut word = [0; 8];
    if end.saturating_add(word.len() as u64) > segment.size() {
        return Ok(false);
    }
    // As a rule this is all that is read.
    let read = read_exact_at(source.file().as_ref(), &mut word, end);
    read.map_err(|error| Error::io("read", segment.path(), error))?;
    if word == [0; 8] {
        return Ok(false);
    }
    let step = RecordReader::new(segment.nonce(), end, segment.size() & !7, Order::Any).step(&mut source)?;
    Ok(matches!(step, ReadStep::Record(_)))
}

/// Where the last word that is not zero ends.
fn last_written(source: &mut SegmentReader, from: u64, size: u64) -> Result<u64> {
    let mut end = from;
    let mut at = from;
    while at < size {
        let len = usize::try_from((size - at).min(READ_MAX as u64)).expect("at most READ_MAX");
        let bytes = source.bytes(at, len)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            end = (at + last as u64 + 1).next_multiple_of(8);
        }
        at += len as u64;
    }
    Ok(end)
}

/// What a record proves to have been durable when it was written.
fn durable_in(source: &mut SegmentReader, placed: &RecordAt) -> Result<Option<Seq>> {
    if !matches!(placed.header.kind, RecordKind::Watermark | RecordKind::Start) {
        return Ok(None);
    }
    let len = usize::try_from(placed.header.payload_len()).unwrap_or(usize::MAX).min(READ_MAX);
    Ok(durable_of(&placed.header, source.bytes(placed.offset + HEADER_SIZE as u64, len)?))
}

/// What a record with this payload proves to have been durable; the walk that gave it has refused the impossible.
pub(crate) fn durable_of(header: &RecordHeader, payload: &[u8]) -> Option<Seq> {
    proven_by(header, payload).unwrap_or(None)
}

/// The start record of a segment, with its number, if it is there and whole.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn start_of(segment: &Segment, source: &mut SegmentReader) -> Result<Option<(Seq, StartRecord)>> {
    let mut walker =
        RecordReader::new(segment.nonce(), segment.data_offset(), segment.size(), Order::Consecutive);
    let ReadStep::Record(placed) = walker.step(source)? else { return Ok(None) };
    let len = usize::try_from(placed.header.value_len).unwrap_or(usize::MAX);
    if placed.header.kind != RecordKind::Start || len != StartRecord::SIZE {
        return Ok(None);
    }
    let value = source.bytes(placed.offset + HEADER_SIZE as u64, len)?;
    Ok(StartRecord::decode(value).ok().map(|start| (placed.header.seq, start)))
}
