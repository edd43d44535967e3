//! The information in a segment's bytes: keyspace changes, proofs of durability, the segment's
//! start, and the records behind a stop.

use crate::error::Result;
use crate::format::keyspace_change::{KeyspaceChange, MAX_CODEC_LEN, MAX_NAME_LEN};
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind, StartRecord, proven_by};
use crate::format::record_reader::{
    Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader, beyond, next_published,
};
use crate::format::{Defect, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;

/// Decodes the change in the payload of a keyspace record.
///
/// # Errors
///
/// The defect of the payload.
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

/// The findings behind a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailFindings {
    /// True if any byte behind the stop is not zero.
    pub(crate) written: bool,
    /// The number of complete, valid records.
    pub(crate) records: u64,
    /// The later of two ends: of the last word that is not zero, and of the last complete record.
    pub(crate) end: u64,
    /// The greatest sequence number among them.
    pub(crate) last: Seq,
    /// The greatest sequence number that they prove durable.
    pub(crate) durable: Seq,
    /// True if the search stopped early because the file was made to be slow to search.
    pub(crate) given_up: bool,
}

/// Searches a segment behind a stop.
///
/// # Errors
///
/// Errors of the operating system.
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

/// Returns true if a record stands at the end of a closed store. Then the manifest is older than
/// the segment.
///
/// # Errors
///
/// `Io` if the file cannot be read.
pub(crate) fn is_record_at(dir: &dyn Dir, segment: &Segment, end: u64) -> Result<bool> {
    let mut source = SegmentReader::of(dir, segment)?;
    let mut word = [0; 8];
    if end.saturating_add(word.len() as u64) > segment.size() {
        return Ok(false);
    }
    // Usually this is the only read.
    source.read_into(&mut word, end)?;
    if word == [0; 8] {
        return Ok(false);
    }
    let step = RecordReader::new(segment.nonce(), end, segment.size() & !7, Order::Any).step(&mut source)?;
    Ok(matches!(step, ReadStep::Record(_)))
}

/// Returns the end of the last word that is not zero.
fn last_written(source: &mut SegmentReader, from: u64, size: u64) -> Result<u64> {
    let mut end = from;
    let mut at = source.skip_zeros(from);
    while at < size {
        let len = usize::try_from((size - at).min(READ_MAX as u64)).expect("at most READ_MAX");
        let bytes = source.bytes(at, len)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            end = (at + last as u64 + 1).next_multiple_of(8);
        }
        at = source.skip_zeros(at + len as u64);
    }
    Ok(end)
}

/// Returns the sequence number that a record proves durable at the time of its writing.
fn durable_in(source: &mut SegmentReader, placed: &RecordAt) -> Result<Option<Seq>> {
    if !matches!(placed.header.kind, RecordKind::Watermark | RecordKind::Start) {
        return Ok(None);
    }
    let len = usize::try_from(placed.header.payload_len()).unwrap_or(usize::MAX).min(READ_MAX);
    Ok(durable_of(&placed.header, source.bytes(placed.offset + HEADER_SIZE as u64, len)?))
}

/// Returns the sequence number that a record with this payload proves durable. The record reader
/// has refused impossible ones.
pub(crate) fn durable_of(header: &RecordHeader, payload: &[u8]) -> Option<Seq> {
    proven_by(header, payload).unwrap_or(None)
}

/// Returns the start record of a segment, with its number. `None` if it is missing or not whole.
///
/// # Errors
///
/// Errors of the operating system.
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
