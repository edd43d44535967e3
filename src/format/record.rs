//! A record: a header of 32 bytes, the key, the value, and zeros up to a multiple of eight.
//!
//! **Format.** See docs/design/format.md, "Record". A record has two checksums. One covers the header and its
//! place: it is masked with the segment's random nonce and the offset, so that copied, moved,
//! restored or stale bytes never validate. The other covers key and value and does not depend on
//! the place. So it is computed before the writer mutex is taken, and compaction reuses it.
//! Decoding has two steps: [`RawHeader`] (bytes) to [`RecordHeader`] (validated).
//!
//! **Invariants.** The first word of a published record is never zero; zeros mean "no record", not
//! damage. I10.

use std::sync::LazyLock;

use super::{ByteReader, Defect, KeyspaceId, Seq};

const SUM_OFFSET: usize = 0;
const KIND_OFFSET: usize = SUM_OFFSET + 4;
const FLAGS_OFFSET: usize = KIND_OFFSET + 1;
const KEY_LEN_OFFSET: usize = FLAGS_OFFSET + 1;
const VALUE_LEN_OFFSET: usize = KEY_LEN_OFFSET + 2;
const KEYSPACE_OFFSET: usize = VALUE_LEN_OFFSET + 4;
const SEQ_OFFSET: usize = KEYSPACE_OFFSET + 4;
const PAYLOAD_SUM_OFFSET: usize = SEQ_OFFSET + 8;
const RESERVED_OFFSET: usize = PAYLOAD_SUM_OFFSET + 4;
/// Size of a record's header in bytes.
pub const HEADER_SIZE: usize = RESERVED_OFFSET + 4;
const _: () = assert!(HEADER_SIZE == 32);

/// The fields of the header: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 9] = [
    ("header_sum", SUM_OFFSET, 4),
    ("kind", KIND_OFFSET, 1),
    ("flags", FLAGS_OFFSET, 1),
    ("key_len", KEY_LEN_OFFSET, 2),
    ("value_len", VALUE_LEN_OFFSET, 4),
    ("keyspace", KEYSPACE_OFFSET, 4),
    ("seq", SEQ_OFFSET, 8),
    ("payload_sum", PAYLOAD_SUM_OFFSET, 4),
    ("reserved", RESERVED_OFFSET, 4),
];

/// The alignment of records, in bytes.
pub const ALIGNMENT: u64 = 8;
/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;
/// The longest key of an ordered keyspace, in bytes. Three separators of this length fit into a node of
/// its index.
pub const MAX_ORDERED_KEY_LEN: usize = 1024;
/// The longest value, in bytes.
pub const MAX_VALUE_LEN: usize = u32::MAX as usize;
/// Marks a record inside a batch, which is valid only with the whole batch.
pub const FLAG_INNER: u8 = 1;
/// Bits of `flags` that this format knows. Bit 1 is reserved for an expiry, bit 2 for compression,
/// bit 3 for a value that is stored elsewhere. A reader that meets an unknown flag refuses the
/// record.
const FLAGS_KNOWN: u8 = FLAG_INNER;

/// The kind of a record. The numbers are on disk: never change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A key and its value.
    Put = 1,
    /// A deleted key.
    Tombstone = 2,
    /// The header of a batch, which encloses the batch's records.
    Batch = 3,
    /// The sequence number up to which the log is durable.
    Watermark = 4,
    /// The first record of a log segment, which says where the log continues from.
    Start = 5,
    /// A keyspace was created, renamed, cleared or dropped.
    Keyspace = 6,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Result<Self, Defect> {
        match byte {
            1 => Ok(Self::Put),
            2 => Ok(Self::Tombstone),
            3 => Ok(Self::Batch),
            4 => Ok(Self::Watermark),
            5 => Ok(Self::Start),
            6 => Ok(Self::Keyspace),
            other => Err(Defect::UnknownKind(other)),
        }
    }
}

/// The place of a record, which its header checksum is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// The segment's random nonce.
    pub nonce: u64,
    /// The record's offset from the start of the file, in bytes.
    pub offset: u64,
}

impl RecordPlace {
    /// Folds nonce and offset to the mask of a header's CRC. Two different places of one store
    /// share a mask with probability 2^-32.
    fn mask(self) -> u32 {
        let mixed = (self.nonce ^ self.offset.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_mul(0xd6e8_feb8_6659_fd93);
        let folded = mixed ^ (mixed >> 32);
        u32::try_from(folded & u64::from(u32::MAX)).expect("masked to 32 bits")
    }
}

/// A header as stored in the file, not validated.
#[derive(Debug, Clone, Copy)]
pub struct RawHeader<'b>(&'b [u8; HEADER_SIZE]);

impl<'b> RawHeader<'b> {
    /// Wraps a header's bytes.
    #[must_use]
    pub fn new(bytes: &'b [u8; HEADER_SIZE]) -> Self {
        Self(bytes)
    }

    /// True if no record was ever published here: the first word is zero.
    #[must_use]
    pub fn is_blank(self) -> bool {
        self.0[..8] == [0; 8]
    }

    /// Validates the header.
    ///
    /// `room` is the number of bytes from the header's first byte to the end of the space for
    /// records.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of the header.
    #[inline]
    pub fn validate(self, place: RecordPlace, room: u64) -> Result<RecordHeader, Defect> {
        let stored = u32::from_le_bytes(self.field(SUM_OFFSET));
        if sum_of(&self.0[KIND_OFFSET..]) ^ place.mask() != stored {
            return Err(Defect::HeaderChecksum);
        }
        let kind = RecordKind::from_byte(self.0[KIND_OFFSET])?;
        let header = self.fields(kind);
        let reserved = u32::from_le_bytes(self.field(RESERVED_OFFSET));
        if header.flags & !FLAGS_KNOWN != 0 || reserved != 0 || header.seq > Seq::MAX {
            return Err(Defect::Reserved);
        }
        if header.seq == Seq::ZERO {
            return Err(Defect::BadSequence);
        }
        if header.size() > room {
            return Err(Defect::LengthOutOfRange);
        }
        if header.kind == RecordKind::Tombstone && header.value_len != 0 {
            return Err(Defect::BadField("value_len"));
        }
        Ok(header)
    }

    /// Returns the key's length in bytes. This and the following methods return unverified fields.
    #[inline]
    pub(crate) fn key_len(self) -> usize {
        usize::from(u16::from_le_bytes(self.field(KEY_LEN_OFFSET)))
    }

    #[inline]
    pub(crate) fn value_len(self) -> usize {
        u32::from_le_bytes(self.field(VALUE_LEN_OFFSET)) as usize
    }

    #[inline]
    pub(crate) fn payload_len(self) -> u64 {
        self.key_len() as u64 + self.value_len() as u64
    }

    #[inline]
    pub(crate) fn keyspace(self) -> KeyspaceId {
        KeyspaceId(u32::from_le_bytes(self.field(KEYSPACE_OFFSET)))
    }

    #[inline]
    pub(crate) fn seq(self) -> Seq {
        Seq(u64::from_le_bytes(self.field(SEQ_OFFSET)))
    }

    #[inline]
    pub(crate) fn is_put(self) -> bool {
        self.0[KIND_OFFSET] == RecordKind::Put as u8
    }

    /// Returns the fields without any check, for bytes that were validated earlier.
    pub(crate) fn unverified(self) -> RecordHeader {
        self.fields(RecordKind::from_byte(self.0[KIND_OFFSET]).unwrap_or(RecordKind::Put))
    }

    #[inline]
    fn fields(self, kind: RecordKind) -> RecordHeader {
        RecordHeader {
            kind,
            flags: self.0[FLAGS_OFFSET],
            keyspace: KeyspaceId(u32::from_le_bytes(self.field(KEYSPACE_OFFSET))),
            key_len: u16::from_le_bytes(self.field(KEY_LEN_OFFSET)),
            value_len: u32::from_le_bytes(self.field(VALUE_LEN_OFFSET)),
            seq: Seq(u64::from_le_bytes(self.field(SEQ_OFFSET))),
            payload_sum: u32::from_le_bytes(self.field(PAYLOAD_SUM_OFFSET)),
        }
    }

    #[inline]
    fn field<const N: usize>(self, offset: usize) -> [u8; N] {
        self.0[offset..].first_chunk().copied().expect("fields lie inside the header")
    }
}

/// A record's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The record's kind.
    pub kind: RecordKind,
    /// `FLAG_` bits.
    pub flags: u8,
    /// The keyspace; in a batch header, the number of records of the batch.
    pub keyspace: KeyspaceId,
    /// The key's length in bytes.
    pub key_len: u16,
    /// The value's length in bytes; in a batch header, the size of the batch's records.
    pub value_len: u32,
    /// The record's sequence number.
    pub seq: Seq,
    /// The CRC-32 (IEEE) of key and value; in a batch header, of the records' payload sums.
    pub payload_sum: u32,
}

impl RecordHeader {
    /// Returns the length of key and value together, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        u64::from(self.key_len) + u64::from(self.value_len)
    }

    /// Returns the record's size in the log, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        record_size(self.payload_len())
    }

    /// True if the record is inside a batch.
    #[must_use]
    pub fn is_inner(&self) -> bool {
        self.flags & FLAG_INNER != 0
    }

    /// Encodes the header for a place.
    #[must_use]
    pub fn encode(&self, place: RecordPlace) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[KIND_OFFSET] = self.kind as u8;
        bytes[FLAGS_OFFSET] = self.flags;
        bytes[KEY_LEN_OFFSET..][..2].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[VALUE_LEN_OFFSET..][..4].copy_from_slice(&self.value_len.to_le_bytes());
        bytes[KEYSPACE_OFFSET..][..4].copy_from_slice(&self.keyspace.0.to_le_bytes());
        bytes[SEQ_OFFSET..][..8].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[PAYLOAD_SUM_OFFSET..][..4].copy_from_slice(&self.payload_sum.to_le_bytes());
        let sum = sum_of(&bytes[KIND_OFFSET..]) ^ place.mask();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Returns the size in the log of a record with a payload of this length, in bytes.
#[must_use]
pub fn record_size(payload_len: u64) -> u64 {
    (HEADER_SIZE as u64 + payload_len).next_multiple_of(ALIGNMENT)
}

/// Returns the checksum over key and value.
#[must_use]
pub fn payload_sum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = FRESH.clone();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// A hasher of nothing. To make a new one asks for the processor's features, which takes longer than
/// a copy.
static FRESH: LazyLock<crc32fast::Hasher> = LazyLock::new(crc32fast::Hasher::new);

/// Returns the CRC-32 over bytes.
fn sum_of(bytes: &[u8]) -> u32 {
    let mut hasher = FRESH.clone();
    hasher.update(bytes);
    hasher.finalize()
}

/// Accumulates the payload sum of a batch: the CRC-32 of its records' payload sums in order.
#[derive(Debug, Clone, Default)]
pub struct BatchSum(crc32fast::Hasher);

impl BatchSum {
    /// Adds the next record's payload sum.
    pub fn add(&mut self, payload_sum: u32) {
        self.0.update(&payload_sum.to_le_bytes());
    }

    /// Returns the batch's payload sum.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// The value of a [`RecordKind::Start`] record: the position at which the segment continues the
/// log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartRecord {
    /// The number of the previous segment; zero for the first of a store.
    pub previous: u64,
    /// The end of the previous segment's records, in bytes from its start.
    pub previous_end: u64,
    /// The incarnation: the number of times that the store had been opened for writing.
    pub incarnation: u64,
    /// The sequence number up to which the log was durable when this was written.
    pub durable: Seq,
    /// The last number of the log that the segment continues; zero for the first of a store. The
    /// numbers between it and the start record's own were never kept.
    pub last: Seq,
}

impl StartRecord {
    /// Size of the record's value in bytes.
    pub const SIZE: usize = 40;

    /// Encodes the record's value.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.previous.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.last.0.to_le_bytes());
        bytes
    }

    /// Decodes the record's value.
    ///
    /// # Errors
    ///
    /// Returns `Truncated` or `Reserved` for a wrong length, and `BadField` for an impossible
    /// number.
    pub fn decode(value: &[u8]) -> Result<Self, Defect> {
        let mut reader = ByteReader(value);
        let start = Self {
            previous: reader.u64()?,
            previous_end: reader.u64()?,
            incarnation: reader.u64()?,
            durable: reader.seq()?,
            last: reader.seq()?,
        };
        if reader.0.is_empty() { Ok(start) } else { Err(Defect::Reserved) }
    }
}

/// The value of a [`RecordKind::Watermark`] record: every record up to this number is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark(pub Seq);

impl Watermark {
    /// Size of the record's value in bytes.
    pub const SIZE: usize = 8;

    /// Encodes the record's value.
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        self.0.0.to_le_bytes()
    }

    /// Decodes the record's value.
    ///
    /// # Errors
    ///
    /// Returns `Truncated` or `Reserved` for a wrong length, and `BadField` for an impossible
    /// number.
    pub fn decode(value: &[u8]) -> Result<Self, Defect> {
        let mut reader = ByteReader(value);
        let mark = Self(reader.seq()?);
        if reader.0.is_empty() { Ok(mark) } else { Err(Defect::Reserved) }
    }
}

/// Returns the sequence number that a record proves to have been durable when it was written;
/// `None` if it proves nothing.
///
/// # Errors
///
/// Returns `BadField` if the proven number is not below the record's own: no writer can know that
/// such a record is durable.
pub fn proven_by(header: &RecordHeader, payload: &[u8]) -> Result<Option<Seq>, Defect> {
    let len = usize::try_from(header.value_len).unwrap_or(usize::MAX);
    let Some(value) = payload.get(usize::from(header.key_len)..) else { return Ok(None) };
    // The store writes no record of another length. The checksums hold, so it proves nothing.
    let durable = match header.kind {
        RecordKind::Watermark if len == Watermark::SIZE => Watermark::decode(value)?.0,
        RecordKind::Start if len == StartRecord::SIZE => StartRecord::decode(value)?.durable,
        _ => return Ok(None),
    };
    if durable < header.seq { Ok(Some(durable)) } else { Err(Defect::BadField("durable")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: RecordPlace = RecordPlace { nonce: 0x0123_4567_89ab_cdef, offset: 4096 };

    fn sample() -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Put,
            flags: 0,
            keyspace: KeyspaceId::DEFAULT,
            key_len: 3,
            value_len: 5,
            seq: Seq(7),
            payload_sum: payload_sum(b"key", b"value"),
        }
    }

    #[test]
    fn a_header_comes_back_from_its_bytes() {
        for (kind, flags) in [
            (RecordKind::Put, FLAG_INNER),
            (RecordKind::Batch, 0),
            (RecordKind::Start, 0),
            (RecordKind::Keyspace, 0),
        ] {
            let header = RecordHeader { kind, flags, ..sample() };
            let bytes = header.encode(PLACE);
            assert_eq!(RawHeader::new(&bytes).validate(PLACE, 40), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let bytes = sample().encode(PLACE);
        for bit in 0..HEADER_SIZE * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(RawHeader::new(&damaged).validate(PLACE, 40).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_does_not_validate_at_another_place() {
        let bytes = sample().encode(PLACE);
        for offset in (0..1 << 16).step_by(8).filter(|offset| *offset != PLACE.offset) {
            let place = RecordPlace { offset, ..PLACE };
            assert_eq!(RawHeader::new(&bytes).validate(place, 40), Err(Defect::HeaderChecksum));
        }
        let place = RecordPlace { nonce: PLACE.nonce + 1, ..PLACE };
        assert_eq!(RawHeader::new(&bytes).validate(place, 40), Err(Defect::HeaderChecksum));
    }

    #[test]
    fn a_length_that_leads_out_of_the_segment_is_refused() {
        let bytes = sample().encode(PLACE);
        assert_eq!(RawHeader::new(&bytes).validate(PLACE, 39), Err(Defect::LengthOutOfRange));
        let header = RecordHeader { value_len: u32::MAX, ..sample() };
        let bytes = header.encode(PLACE);
        assert_eq!(RawHeader::new(&bytes).validate(PLACE, 1 << 20), Err(Defect::LengthOutOfRange));
    }

    #[test]
    fn zeros_are_blank_and_not_a_record() {
        let bytes = [0; HEADER_SIZE];
        assert!(RawHeader::new(&bytes).is_blank());
        assert!(RawHeader::new(&bytes).validate(PLACE, 40).is_err());
    }

    #[test]
    fn fields_lie_behind_one_another() {
        let mut end = 0;
        for (_, offset, size) in LAYOUT {
            assert_eq!(offset, end);
            end = offset + size;
        }
        assert_eq!(end, HEADER_SIZE);
    }

    #[test]
    fn start_and_watermark_come_back_from_their_bytes() {
        let (durable, last) = (Seq(4), Seq(5));
        let start = StartRecord { previous: 1, previous_end: 2, incarnation: 3, durable, last };
        assert_eq!(StartRecord::decode(&start.encode()), Ok(start));
        assert_eq!(StartRecord::decode(&start.encode()[..39]), Err(Defect::Truncated));
        assert_eq!(Watermark::decode(&Watermark(Seq(9)).encode()), Ok(Watermark(Seq(9))));
        assert_eq!(Watermark::decode(&[0; 9]), Err(Defect::Reserved));
    }

    #[test]
    fn a_proof_of_what_cannot_be_known_yet_is_refused() {
        let header = |kind, value_len| RecordHeader { kind, key_len: 0, value_len, seq: Seq(9), ..sample() };
        for durable in [0, 8, 9, 10, Seq::MAX.0, Seq::MAX.0 + 1, u64::MAX] {
            let start = StartRecord {
                previous: 0,
                previous_end: 0,
                incarnation: 1,
                durable: Seq(durable),
                last: Seq::ZERO,
            };
            let proofs = [
                proven_by(&header(RecordKind::Watermark, 8), &Watermark(Seq(durable)).encode()),
                proven_by(&header(RecordKind::Start, 40), &start.encode()),
            ];
            for proof in proofs {
                assert_eq!(proof.ok(), (durable < 9).then_some(Some(Seq(durable))), "{durable}");
            }
        }
        assert_eq!(proven_by(&header(RecordKind::Watermark, 7), &[0xff; 7]), Ok(None));
        assert_eq!(proven_by(&header(RecordKind::Put, 8), &[0xff; 8]), Ok(None));
    }
}
