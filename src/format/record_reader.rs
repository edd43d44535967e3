//! Reads the records of a segment in order: the only scanner, for recovery, verification, salvage
//! and the fuzzers.
//!
//! It reads through a [`ReadAt`], so that slices and files share the code. It never trusts a length
//! that is not under a verified checksum, and it never allocates. It returns the records of a batch
//! only after it has found the whole batch intact. It does not classify a stop as torn or corrupt:
//! `recovery` does.

use super::record::{BatchSum, HEADER_SIZE, RawHeader, RecordHeader, RecordKind, RecordPlace, proven_by};
use super::{Defect, Seq};

/// The most bytes that one call asks of a source.
pub const READ_MAX: usize = 1 << 16;

/// A source of bytes at offsets: a slice, or a file behind a buffer.
pub trait ReadAt {
    /// The error of a failed read.
    type Error;

    /// Returns `len` bytes at `offset`. `len` is at most [`READ_MAX`], and the range is below the
    /// reader's limit.
    ///
    /// # Errors
    ///
    /// Returns the source's error.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Self::Error>;

    /// Returns an offset at or behind `offset`, a multiple of 8 away from it, before which all bytes
    /// are zeros. A source that cannot tell returns `offset`.
    fn skip_zeros(&mut self, offset: u64) -> u64 {
        offset
    }

    /// Returns the CRC-32 over a range of any length.
    ///
    /// # Errors
    ///
    /// Returns the source's error.
    fn sum(&mut self, offset: u64, len: u64) -> Result<u32, Self::Error> {
        let mut hasher = crc32fast::Hasher::new();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let step = usize::try_from((end - at).min(READ_MAX as u64)).expect("at most READ_MAX");
            hasher.update(self.bytes(at, step)?);
            at += step as u64;
        }
        Ok(hasher.finalize())
    }
}

impl ReadAt for &[u8] {
    type Error = std::convert::Infallible;

    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Self::Error> {
        let offset =
            usize::try_from(offset).expect("the walk stays below its limit, which a slice's length bounds");
        Ok(&self[offset..offset + len])
    }
}

/// A record and its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAt {
    /// The offset of the header, in bytes from the file's start.
    pub offset: u64,
    /// The header. It is validated, and the payload's checksum was verified too.
    pub header: RecordHeader,
}

/// The result of one step of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStep {
    /// A valid record; of a batch, first its header and then each of its records.
    Record(RecordAt),
    /// No record was published here.
    Blank,
    /// The bytes here are no valid record.
    Invalid(Defect),
}

/// The order that a segment's sequence numbers must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each number is one more than the number before: the log.
    Consecutive,
    /// Any order: copies made by compaction.
    Any,
}

/// A reader of the records of one segment, in the order of the file.
#[derive(Debug, Clone)]
pub struct RecordReader {
    nonce: u64,
    at: u64,
    limit: u64,
    order: Order,
    last: Option<Seq>,
    /// The end of the current batch; zero outside of a batch.
    frame_end: u64,
}

impl RecordReader {
    /// Makes a reader from `start` to `limit`, both in bytes from the file's start; `start` is a
    /// multiple of eight.
    #[must_use]
    pub fn new(nonce: u64, start: u64, limit: u64, order: Order) -> Self {
        Self { nonce, at: start, limit, order, last: None, frame_end: 0 }
    }

    /// Makes the reader continue after a record of this number.
    #[must_use]
    pub fn behind(mut self, last: Seq) -> Self {
        self.last = Some(last);
        self
    }

    /// Returns the offset of the next record, or of the stop, in bytes from the file's start.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Returns the greatest sequence number so far; `None` before the first record.
    #[must_use]
    pub fn last_seq(&self) -> Option<Seq> {
        self.last
    }

    /// Reads the next record. After `Blank` or `Invalid` the reader stays at its offset.
    ///
    /// # Errors
    ///
    /// Returns the source's error.
    pub fn step<S: ReadAt>(&mut self, source: &mut S) -> Result<ReadStep, S::Error> {
        let header = match self.header(source, self.at, self.limit)? {
            ReadStep::Record(placed) => placed.header,
            stop => return Ok(stop),
        };
        if let Some(defect) = self.misplaced(&header) {
            return Ok(ReadStep::Invalid(defect));
        }
        let step = if header.kind == RecordKind::Batch {
            let defect = self.batch_defect(source, &header)?;
            if let Some(defect) = defect {
                return Ok(ReadStep::Invalid(defect));
            }
            self.frame_end = self.at + header.size();
            HEADER_SIZE as u64
        } else {
            if !self.in_frame() && !payload_holds(source, self.at, &header)? {
                return Ok(ReadStep::Invalid(Defect::PayloadChecksum));
            }
            if let Some(defect) = proof_defect(source, self.at, &header)? {
                return Ok(ReadStep::Invalid(defect));
            }
            header.size()
        };
        let placed = RecordAt { offset: self.at, header };
        self.at += step;
        self.last = Some(self.last.map_or(header.seq, |last| last.max(header.seq)));
        if self.at >= self.frame_end {
            self.frame_end = 0;
        }
        Ok(ReadStep::Record(placed))
    }

    fn in_frame(&self) -> bool {
        self.frame_end != 0
    }

    #[inline]
    fn header<S: ReadAt>(&self, source: &mut S, at: u64, limit: u64) -> Result<ReadStep, S::Error> {
        let room = limit.saturating_sub(at);
        if room < HEADER_SIZE as u64 {
            return Ok(ReadStep::Blank);
        }
        let bytes = source.bytes(at, HEADER_SIZE)?;
        let raw = RawHeader::new(bytes.first_chunk().expect("as many bytes as were asked for"));
        if raw.is_blank() {
            return Ok(ReadStep::Blank);
        }
        Ok(match raw.validate(RecordPlace { nonce: self.nonce, offset: at }, room) {
            Ok(header) => ReadStep::Record(RecordAt { offset: at, header }),
            Err(defect) => ReadStep::Invalid(defect),
        })
    }

    /// Returns a defect if a valid header must not appear at this position.
    fn misplaced(&self, header: &RecordHeader) -> Option<Defect> {
        if header.is_inner() != self.in_frame() {
            return Some(Defect::BatchIncomplete);
        }
        let follows = match (self.order, self.last) {
            (Order::Consecutive, Some(last)) => header.seq == last.next(),
            _ => true,
        };
        (!follows).then_some(Defect::BadSequence)
    }

    /// Checks a whole batch before any of its records counts.
    fn batch_defect<S: ReadAt>(
        &self,
        source: &mut S,
        frame: &RecordHeader,
    ) -> Result<Option<Defect>, S::Error> {
        let end = self.at + HEADER_SIZE as u64 + u64::from(frame.value_len);
        let mut at = self.at + HEADER_SIZE as u64;
        let mut sum = BatchSum::default();
        let mut expected = frame.seq;
        let mut count = 0;
        while at < end {
            let ReadStep::Record(RecordAt { header, .. }) = self.header(source, at, end)? else {
                return Ok(Some(Defect::BatchIncomplete));
            };
            expected = expected.next();
            let belongs = header.is_inner() && matches!(header.kind, RecordKind::Put | RecordKind::Tombstone);
            if !belongs || header.seq != expected {
                return Ok(Some(Defect::BatchIncomplete));
            }
            if !payload_holds(source, at, &header)? {
                return Ok(Some(Defect::PayloadChecksum));
            }
            sum.add(header.payload_sum);
            count += 1;
            at += header.size();
        }
        let whole = at == end
            && count == frame.keyspace.0
            && count > 0
            && frame.key_len == 0
            && frame.payload_sum == sum.finish();
        Ok((!whole).then_some(Defect::BatchIncomplete))
    }
}

#[inline]
fn payload_holds<S: ReadAt>(source: &mut S, at: u64, header: &RecordHeader) -> Result<bool, S::Error> {
    Ok(source.sum(at + HEADER_SIZE as u64, header.payload_len())? == header.payload_sum)
}

/// Returns the defect of a record that proves how far the log was durable.
#[inline]
fn proof_defect<S: ReadAt>(
    source: &mut S,
    at: u64,
    header: &RecordHeader,
) -> Result<Option<Defect>, S::Error> {
    if !matches!(header.kind, RecordKind::Watermark | RecordKind::Start) {
        return Ok(None);
    }
    // The store writes no longer records of these kinds.
    let len = usize::try_from(header.payload_len()).unwrap_or(READ_MAX).min(READ_MAX);
    Ok(proven_by(header, source.bytes(at + HEADER_SIZE as u64, len)?).err())
}

/// Bounds the work of [`beyond`] on frames that fail their checks, as a multiple of the range's
/// length.
const BEYOND_WORK: u64 = 16;

/// Finds every complete valid frame behind a reader's stop, and calls `found` for each record of
/// it. A frame is a single record or a whole batch.
///
/// The header's checksum covers nonce and offset, so the result is reliable: bytes of another place
/// or of an earlier use of the disk block do not validate. The search gives up on a file made to be
/// slow, with many valid headers that announce long payloads and fail their checks. It returns
/// `false` then, and the caller must assume that the range holds more.
///
/// # Errors
///
/// Returns the source's error, or the error of `found`.
pub fn beyond<S: ReadAt>(
    source: &mut S,
    nonce: u64,
    from: u64,
    limit: u64,
    mut found: impl FnMut(&mut S, &RecordAt) -> Result<(), S::Error>,
) -> Result<bool, S::Error> {
    let mut search = Search::new(from, limit);
    let mut at = from;
    loop {
        let mut walker = match search.next(source, nonce, at)? {
            NextRecord::Frame(offset) => RecordReader::new(nonce, offset, limit, Order::Any),
            NextRecord::None => return Ok(true),
            NextRecord::GivenUp => return Ok(false),
        };
        while let ReadStep::Record(placed) = walker.step(source)? {
            found(source, &placed)?;
        }
        at = walker.offset();
    }
}

/// The result of a [`Search`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextRecord {
    /// A complete valid frame at this offset.
    Frame(u64),
    /// No valid frame exists up to the limit.
    None,
    /// The search gave up: the file was made to be slow.
    GivenUp,
}

/// A search for complete valid frames among invalid bytes, with a bound on its work.
#[derive(Debug, Clone)]
pub struct Search {
    limit: u64,
    work: u64,
}

impl Search {
    /// Makes a search of this range.
    #[must_use]
    pub fn new(from: u64, limit: u64) -> Self {
        Self { limit, work: BEYOND_WORK * limit.saturating_sub(from).max(1 << 16) }
    }

    /// Returns the first valid frame at or behind `from`.
    ///
    /// # Errors
    ///
    /// Returns the source's error.
    pub fn next<S: ReadAt>(&mut self, source: &mut S, nonce: u64, from: u64) -> Result<NextRecord, S::Error> {
        let mut at = from;
        while let Some(next) = next_published(source, at, self.limit)? {
            let mut walker = RecordReader::new(nonce, next, self.limit, Order::Any);
            if let ReadStep::Record(_) = walker.step(source)? {
                return Ok(NextRecord::Frame(next));
            }
            if let ReadStep::Record(placed) = walker.header(source, next, self.limit)? {
                match self.work.checked_sub(placed.header.payload_len()) {
                    Some(rest) => self.work = rest,
                    None => return Ok(NextRecord::GivenUp),
                }
            }
            at = next + 8;
        }
        Ok(NextRecord::None)
    }
}

/// Returns the offset of the next non-zero word; `None` if all are zero.
///
/// # Errors
///
/// Returns the source's error.
pub fn next_published<S: ReadAt>(source: &mut S, from: u64, limit: u64) -> Result<Option<u64>, S::Error> {
    let mut at = source.skip_zeros(from);
    while at.saturating_add(8) <= limit {
        let len = usize::try_from((limit - at).min(4096)).expect("at most 4096") & !7;
        let bytes = source.bytes(at, len)?;
        if let Some(word) = bytes.chunks_exact(8).position(|word| word != [0; 8]) {
            return Ok(Some(at + 8 * word as u64));
        }
        at = source.skip_zeros(at + len as u64);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::KeyspaceId;
    use super::super::record::{FLAG_INNER, payload_sum, record_size};
    use super::*;

    const NONCE: u64 = 42;

    fn put(bytes: &mut Vec<u8>, kind: RecordKind, flags: u8, seq: u64, key: &[u8], value: &[u8]) {
        let place = RecordPlace { nonce: NONCE, offset: bytes.len() as u64 };
        let header = RecordHeader {
            kind,
            flags,
            keyspace: KeyspaceId::DEFAULT,
            key_len: u16::try_from(key.len()).expect("short"),
            value_len: u32::try_from(value.len()).expect("short"),
            seq: Seq(seq),
            payload_sum: payload_sum(key, value),
        };
        let end = bytes.len() + usize::try_from(header.size()).expect("short");
        bytes.extend_from_slice(&header.encode(place));
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        bytes.resize(end, 0);
    }

    fn batch(bytes: &mut Vec<u8>, seq: u64, keys: &[&[u8]]) {
        let at = bytes.len();
        bytes.resize(at + HEADER_SIZE, 0);
        let mut sum = BatchSum::default();
        let mut size = 0;
        for (n, key) in (1u64..).zip(keys) {
            put(bytes, RecordKind::Put, FLAG_INNER, seq + n, key, b"v");
            sum.add(payload_sum(key, b"v"));
            size += record_size(key.len() as u64 + 1);
        }
        let header = RecordHeader {
            kind: RecordKind::Batch,
            flags: 0,
            keyspace: KeyspaceId(u32::try_from(keys.len()).expect("few")),
            key_len: 0,
            value_len: u32::try_from(size).expect("short"),
            seq: Seq(seq),
            payload_sum: sum.finish(),
        };
        bytes[at..at + HEADER_SIZE]
            .copy_from_slice(&header.encode(RecordPlace { nonce: NONCE, offset: at as u64 }));
    }

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, RecordKind::Put, 0, 1, b"a", b"one");
        batch(&mut bytes, 2, &[b"b", b"cc"]);
        put(&mut bytes, RecordKind::Tombstone, 0, 5, b"a", b"");
        bytes.resize(bytes.len() + 64, 0);
        bytes
    }

    fn seqs(bytes: &[u8]) -> (Vec<u64>, ReadStep) {
        let mut walker = RecordReader::new(NONCE, 0, bytes.len() as u64, Order::Consecutive);
        let mut seqs = Vec::new();
        let mut source = bytes;
        loop {
            let Ok(step) = walker.step(&mut source);
            match step {
                ReadStep::Record(placed) => seqs.push(placed.header.seq.0),
                stop => return (seqs, stop),
            }
        }
    }

    /// Each record of the batch is intact, yet one of them is not the record that the header summed
    /// up.
    #[test]
    fn batch_is_incomplete_if_a_record_was_replaced() {
        let mut bytes = Vec::new();
        batch(&mut bytes, 2, &[b"b", b"cc"]);
        let whole = bytes.clone();
        let at = HEADER_SIZE;
        bytes.truncate(at);
        put(&mut bytes, RecordKind::Put, FLAG_INNER, 3, b"b", b"w");
        let end = bytes.len();
        bytes.extend_from_slice(&whole[end..]);
        assert_eq!(bytes.len(), whole.len());
        assert!(!seqs(&whole).0.is_empty());
        let (found, stop) = seqs(&bytes);
        assert!(found.is_empty(), "{found:?}");
        assert!(matches!(stop, ReadStep::Invalid(Defect::BatchIncomplete)), "{stop:?}");
    }

    /// Makes a batch of two records whose headers are changed before they are encoded.
    fn changed(change: impl Fn(usize, &mut RecordHeader)) -> Vec<u8> {
        let mut bytes = Vec::new();
        batch(&mut bytes, 2, &[b"b", b"cc"]);
        for (n, at) in [0, HEADER_SIZE, HEADER_SIZE + 40].into_iter().enumerate() {
            let raw = RawHeader::new(bytes[at..].first_chunk().expect("a whole header"));
            let place = RecordPlace { nonce: NONCE, offset: at as u64 };
            let mut header = raw.validate(place, u64::MAX).expect("just encoded");
            change(n, &mut header);
            bytes[at..at + HEADER_SIZE].copy_from_slice(&header.encode(place));
        }
        bytes
    }

    #[test]
    fn batch_is_incomplete_if_its_frame_describes_other_records() {
        assert_eq!(seqs(&changed(|_, _| ())), (vec![2, 3, 4], ReadStep::Blank));
        let changes: [fn(usize, &mut RecordHeader); 5] = [
            |n, header| header.keyspace.0 += u32::from(n == 0),
            |n, header| header.keyspace.0 -= u32::from(n == 0),
            // A number is missing or repeated.
            |n, header| header.seq.0 += u64::from(n == 2),
            |n, header| header.seq.0 -= u64::from(n == 2),
            |n, header| header.kind = if n == 1 { RecordKind::Watermark } else { header.kind },
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let (found, stop) = seqs(&changed(change));
            assert!(found.is_empty(), "change {n}: {found:?}");
            assert!(matches!(stop, ReadStep::Invalid(Defect::BatchIncomplete)), "change {n}: {stop:?}");
        }
    }

    #[test]
    fn missing_or_repeated_number_ends_the_log() {
        for next in [1, 3] {
            let mut bytes = Vec::new();
            put(&mut bytes, RecordKind::Put, 0, 1, b"a", b"one");
            put(&mut bytes, RecordKind::Put, 0, next, b"b", b"two");
            assert_eq!(seqs(&bytes), (vec![1], ReadStep::Invalid(Defect::BadSequence)), "{next}");
        }
    }

    #[test]
    fn record_reader_yields_all_records_and_stops_at_zeros() {
        assert_eq!(seqs(&sample()), (vec![1, 2, 3, 4, 5], ReadStep::Blank));
    }

    #[test]
    fn flipped_bit_ends_the_reader_at_its_frame() {
        let bytes = sample();
        let whole = seqs(&bytes).0;
        let mut padding = 0;
        for bit in 0..(bytes.len() - 64) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (found, stop) = seqs(&damaged);
            let in_padding = found == whole;
            padding += u32::from(in_padding);
            assert!(in_padding || matches!(stop, ReadStep::Invalid(_)), "bit {bit}: {stop:?}");
            assert!(whole.starts_with(&found), "bit {bit}");
            assert!(![2, 3].contains(&found.len()), "bit {bit}: part of a batch");
        }
        // Payloads of 4, 2, 3 and 1 bytes are padded to 8: no other change may pass unnoticed.
        assert_eq!(padding, (4 + 6 + 5 + 7) * 8);
    }

    #[test]
    fn frames_behind_damage_are_found() {
        let mut bytes = sample();
        bytes[5] ^= 1;
        let mut found = Vec::new();
        let mut source = bytes.as_slice();
        let whole = beyond(&mut source, NONCE, 0, bytes.len() as u64, |_, placed| {
            found.push(placed.header.seq.0);
            Ok(())
        });
        assert_eq!((whole, found), (Ok(true), vec![2, 3, 4, 5]));
    }

    #[test]
    fn records_of_a_damaged_batch_are_not_found_behind_it() {
        let mut bytes = sample();
        let frame = usize::try_from(record_size(4)).expect("short");
        bytes[frame + 5] ^= 1;
        let mut found = Vec::new();
        let mut source = bytes.as_slice();
        let whole = beyond(&mut source, NONCE, frame as u64, bytes.len() as u64, |_, placed| {
            found.push(placed.header.seq.0);
            Ok(())
        });
        assert_eq!((whole, found), (Ok(true), vec![5]));
    }

    #[test]
    fn a_file_made_to_be_slow_is_given_up() {
        let mut bytes = vec![0; 1 << 20];
        let len = bytes.len() as u64;
        for offset in (0..bytes.len() - HEADER_SIZE).step_by(HEADER_SIZE) {
            let room = len - offset as u64 - HEADER_SIZE as u64;
            let header = RecordHeader {
                kind: RecordKind::Put,
                flags: 0,
                keyspace: KeyspaceId::DEFAULT,
                key_len: 0,
                value_len: u32::try_from(room).expect("short"),
                seq: Seq(1),
                payload_sum: 0,
            };
            bytes[offset..offset + HEADER_SIZE]
                .copy_from_slice(&header.encode(RecordPlace { nonce: NONCE, offset: offset as u64 }));
        }
        let mut source = bytes.as_slice();
        assert_eq!(beyond(&mut source, NONCE, 0, len, |_, _| Ok(())), Ok(false));
    }
}
