//! The header of a segment file: its store, its number and its size.
//!
//! **Format.** 128 bytes, then the numbers of the segments that this one replaces (compaction
//! output only), eight bytes each. See docs/design/format.md, "Segment header". Records begin at
//! [`SegmentHeader::data_offset`].

use super::{ByteReader, Defect, READ_VERSION, SUM_OFFSET, SegmentId, Seq, StoreId, WRITE_VERSION, sum};

const MAGIC: [u8; 8] = *b"MAPCASKS";
/// Size of the fixed part in bytes.
pub const SEGMENT_HEADER_SIZE: usize = 128;
const USED: usize = 72;
const _: () = assert!(USED < SEGMENT_HEADER_SIZE && SEGMENT_HEADER_SIZE.is_multiple_of(8));
/// The least space for records behind a header, in bytes: a start record and a watermark fit, with
/// a margin.
const SIZE_MIN: u64 = 1024;
/// The most segments that one segment may replace. It bounds the header's size and is no limit of
/// compaction.
pub const REPLACED_MAX: usize = 65_536;

/// The fields of the fixed part: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 14] = [
    ("magic", 0, 8),
    ("write_version", 8, 2),
    ("read_version", 10, 2),
    ("sum", SUM_OFFSET, 4),
    ("store_id", 16, 16),
    ("segment_id", 32, 8),
    ("size", 40, 8),
    ("nonce", 48, 8),
    ("first_seq", 56, 8),
    ("role", 64, 1),
    ("generation", 65, 1),
    ("reserved", 66, 2),
    ("replaced_count", 68, 4),
    ("reserved", USED, SEGMENT_HEADER_SIZE - USED),
];

/// The role of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Part of the log, with records in the order of writing.
    Log = 0,
    /// Copies made by compaction; they keep their sequence numbers.
    Copies = 1,
}

impl Role {
    pub(crate) fn from_byte(byte: u8) -> Result<Self, Defect> {
        match byte {
            0 => Ok(Self::Log),
            1 => Ok(Self::Copies),
            _ => Err(Defect::BadField("role")),
        }
    }
}

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The identity of the store.
    pub store: StoreId,
    /// The segment's number.
    pub id: SegmentId,
    /// The file's size in bytes, which never changes.
    pub size: u64,
    /// The nonce that seeds the checksums of its records.
    pub nonce: u64,
    /// The least sequence number in it if that was known at creation, else zero.
    pub first_seq: Seq,
    /// The segment's role.
    pub role: Role,
    /// The number of times that its records were moved.
    pub generation: u8,
    /// The numbers of the segments that this one replaces.
    pub replaced: Vec<SegmentId>,
}

impl SegmentHeader {
    /// Returns the offset of the first record, in bytes from the file's start.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        (SEGMENT_HEADER_SIZE + 8 * self.replaced.len()) as u64
    }

    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.replaced.len() <= REPLACED_MAX);
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_SIZE + 8 * self.replaced.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READ_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.id.0.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.first_seq.0.to_le_bytes());
        bytes.extend_from_slice(&[self.role as u8, self.generation, 0, 0]);
        let count = u32::try_from(self.replaced.len()).expect("bounded by REPLACED_MAX");
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.resize(SEGMENT_HEADER_SIZE, 0);
        for id in &self.replaced {
            bytes.extend_from_slice(&id.0.to_le_bytes());
        }
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        bytes
    }

    /// Returns the number of bytes that [`SegmentHeader::decode`] needs, from the first
    /// [`SEGMENT_HEADER_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// Returns `Truncated`, or `BadField` for a count that no writer produces.
    pub fn encoded_len(bytes: &[u8]) -> Result<usize, Defect> {
        let mut reader = ByteReader(bytes.get(68..).ok_or(Defect::Truncated)?);
        let count = usize::try_from(reader.u32()?).map_err(|_| Defect::BadField("replaced_count"))?;
        if count > REPLACED_MAX {
            return Err(Defect::BadField("replaced_count"));
        }
        Ok(SEGMENT_HEADER_SIZE + 8 * count)
    }

    /// Decodes a header. Returns `Ok(Err(version))` if the header needs a newer reader.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Result<Self, u16>, Defect> {
        let mut reader = ByteReader(bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(Defect::BadMagic);
        }
        let _write_version = reader.u16()?;
        let read_version = reader.u16()?;
        if read_version > READ_VERSION {
            return Ok(Err(read_version));
        }
        let len = Self::encoded_len(bytes)?;
        let bytes = bytes.get(..len).ok_or(Defect::Truncated)?;
        if reader.u32()? != sum(bytes) {
            return Err(Defect::Checksum);
        }
        let store = StoreId(reader.array()?);
        let id = SegmentId(reader.u64()?);
        let size = reader.u64()?;
        let nonce = reader.u64()?;
        let first_seq = reader.seq()?;
        let role = Role::from_byte(reader.u8()?)?;
        let generation = reader.u8()?;
        if reader.u16()? != 0 {
            return Err(Defect::Reserved);
        }
        let count = reader.u32()?;
        if reader.bytes(SEGMENT_HEADER_SIZE - USED)?.iter().any(|byte| *byte != 0) {
            return Err(Defect::Reserved);
        }
        let replaced = (0..count).map(|_| Ok(SegmentId(reader.u64()?))).collect::<Result<_, Defect>>()?;
        let header = Self { store, id, size, nonce, first_seq, role, generation, replaced };
        if size < header.data_offset() + SIZE_MIN || !size.is_multiple_of(8) || id.0 == 0 {
            return Err(Defect::BadField("size, number or sequence"));
        }
        Ok(Ok(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            id: SegmentId(3),
            size: 65_536,
            nonce: 0xfeed,
            first_seq: Seq(9),
            role: Role::Copies,
            generation: 2,
            replaced: vec![SegmentId(1), SegmentId(2)],
        }
    }

    #[test]
    fn a_header_comes_back_from_its_bytes() {
        assert_eq!(SegmentHeader::decode(&sample().encode()), Ok(Ok(sample())));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(SegmentHeader::decode(&damaged), Ok(Ok(sample())), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(SegmentHeader::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damage() {
        let mut bytes = sample().encode();
        bytes[10] = 9;
        assert_eq!(SegmentHeader::decode(&bytes), Ok(Err(9)));
    }
}
