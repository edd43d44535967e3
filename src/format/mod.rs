//! The layouts of all files: pure functions on `&[u8]`, without input, output or unsafe code.
//!
//! No function here panics, hangs, reads outside of its input or allocates by an unchecked length,
//! for any input (I10). A [`Defect`] says why bytes are invalid; the caller knows their file and
//! offset.
//!
//! **Format.** All integers are little-endian. The tables are in docs/design/format.md, "Format"; tests compare
//! them with the constants here.
#![cfg_attr(
    not(mapcask_internal),
    expect(unreachable_pub, reason = "public to the fuzz targets, under `--cfg mapcask_internal`")
)]
#![cfg_attr(
    not(any(test, mapcask_internal)),
    expect(
        dead_code,
        reason = "the layout tables serve the tests, and some fields are kept for later formats"
    )
)]

pub mod backup_list;
pub mod checkpoint;
pub mod control_page;
pub mod feed_position;
pub mod file_name;
pub mod hash;
pub mod hint;
pub mod keyspace_change;
pub mod manifest;
pub mod record;
pub mod record_reader;
pub mod segment_header;
pub mod waiters;

use std::fmt;

/// The format version that this build writes. A reader that knows less must not write; see
/// [`READ_VERSION`].
pub const WRITE_VERSION: u16 = 1;
/// The lowest version that a reader must know to read the files of this build.
pub const READ_VERSION: u16 = 1;
/// Offset of the checksum of each file that has one checksum, behind its magic and its versions.
const SUM_OFFSET: usize = 12;

/// Returns the CRC-32 over bytes without the field at [`SUM_OFFSET`]. There are at least 16 bytes.
fn sum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..SUM_OFFSET]);
    hasher.update(&bytes[SUM_OFFSET + 4..]);
    hasher.finalize()
}

/// A segment's number. It is never reused in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// A keyspace's number. It is never reused in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyspaceId(pub u32);

impl KeyspaceId {
    /// The default keyspace, which every store has.
    pub const DEFAULT: Self = Self(0);
    /// The bit of an ordered keyspace.
    const ORDERED: u32 = 1 << 31;

    /// Returns the number of an ordered keyspace in place of one that is not.
    #[must_use]
    pub fn ordered(self) -> Self {
        Self(self.0 | Self::ORDERED)
    }

    /// Returns true if the keyspace is ordered. The number itself says so, because a record may be
    /// read before the one that creates its keyspace, or without it.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        self.0 & Self::ORDERED != 0
    }

    /// Returns the number without the bit of an ordered keyspace. These are given out in order.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 & !Self::ORDERED
    }
}

/// A sequence number: the position of a write in the order of all writes to a store.
///
/// Numbers increase and are never reused in a store, not even after a crash. Each write of a batch
/// has its own number. Every number that the API returns belongs to a write by a user, or to the
/// last such write at that moment. The log's own records have numbers too; the API does not return
/// those while the store is open, so callers see gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Seq {
    /// The number before every record.
    pub const ZERO: Self = Self(0);
    /// The greatest number that a record can carry: 2^56 - 1.
    pub const MAX: Self = Self((1 << 56) - 1);

    /// Checks a number that was read from a file. All sequence numbers from files pass through this
    /// function.
    ///
    /// # Errors
    ///
    /// Returns `BadField` for a number above [`Seq::MAX`].
    pub fn from_file(number: u64) -> Result<Self, Defect> {
        if number > Self::MAX.0 { Err(Defect::BadField("sequence number")) } else { Ok(Self(number)) }
    }

    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A store's identity, drawn when the store is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

/// A reason why bytes of a file are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Defect {
    /// The bytes end before the structure does.
    Truncated,
    /// The file does not begin with the magic of its kind.
    BadMagic,
    /// The header's checksum does not match its bytes and its place in the file.
    HeaderChecksum,
    /// The checksum over key and value does not match.
    PayloadChecksum,
    /// The checksum over a whole structure does not match.
    Checksum,
    /// An unknown kind of record.
    UnknownKind(u8),
    /// A flag or reserved field that must be zero in this format is set.
    Reserved,
    /// A length leads out of the segment.
    LengthOutOfRange,
    /// A sequence number does not follow from the numbers before it.
    BadSequence,
    /// A batch's records do not fill the batch exactly.
    BatchIncomplete,
    /// A count or a field has a value that no writer produces.
    BadField(&'static str),
    /// A segment holds records, and the intact manifest does not list it: the manifest is older
    /// than the segment.
    NotInManifest,
    /// The file's name and its header disagree.
    WrongSegment,
    /// The file's size differs from the size it was created with.
    WrongSize {
        /// The size that the file was created with, in bytes.
        expected: u64,
        /// The file's size now, in bytes.
        found: u64,
    },
    /// Records that were durable are missing.
    MissingRecords {
        /// The last sequence number that is present.
        last: u64,
        /// The sequence number up to which records were durable.
        durable: u64,
    },
    /// A segment's records do not continue the records of the segment before it.
    BrokenChain,
    /// An index entry leads to a record of another key.
    IndexMismatch,
}

impl std::error::Error for Defect {}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the file ends too early"),
            Self::BadMagic => f.write_str("the file does not begin as it should"),
            Self::HeaderChecksum => f.write_str("a record header's checksum does not match"),
            Self::PayloadChecksum => f.write_str("the checksum over a key and its value does not match"),
            Self::Checksum => f.write_str("the checksum does not match"),
            Self::UnknownKind(kind) => write!(f, "record kind {kind} is unknown"),
            Self::Reserved => f.write_str("a reserved field is not zero"),
            Self::LengthOutOfRange => f.write_str("a length leads out of the segment"),
            Self::BadSequence => f.write_str("a sequence number is out of order"),
            Self::BatchIncomplete => f.write_str("a batch does not hold the records it announces"),
            Self::BadField(field) => write!(f, "the field {field} has an impossible value"),
            Self::NotInManifest => f.write_str(
                "it is newer than the manifest, as where an older backup was copied over a newer store: a backup needs an \
                 empty directory",
            ),
            Self::WrongSegment => f.write_str("the file's name and header disagree"),
            Self::WrongSize { expected, found } => {
                write!(f, "the file has {found} bytes and was made with {expected}")
            }
            Self::MissingRecords { last, durable } => {
                write!(f, "records {} to {durable} were durable and are missing", last + 1)
            }
            Self::BrokenChain => f.write_str("the records do not continue those of the segment before"),
            Self::IndexMismatch => f.write_str("the index leads to a record of another key"),
        }
    }
}

/// Reads little-endian fields from the front of a slice and checks every length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteReader<'b>(pub(crate) &'b [u8]);

impl<'b> ByteReader<'b> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Defect> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Defect::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'b [u8], Defect> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Defect::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Defect> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Defect> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Defect> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Defect> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn seq(&mut self) -> Result<Seq, Defect> {
        Seq::from_file(self.u64()?)
    }
}

#[cfg(test)]
mod tests {
    use super::record::{RecordHeader, RecordKind, RecordPlace, payload_sum};
    use super::*;

    const DESIGN: &str = include_str!("../../docs/design/format.md");

    /// Returns the rows of the table behind a marker: name, offset, size.
    fn table(name: &str) -> Vec<(String, usize, usize)> {
        let marker = format!("<!-- layout: {name} -->");
        let (_, rest) = DESIGN.split_once(&marker).expect("the page has the table");
        let rows = rest.trim_start().lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].to_owned(), cells[1].parse().expect("an offset"), cells[2].parse().expect("a size"))
        })
        .collect()
    }

    fn owned(layout: &[(&str, usize, usize)]) -> Vec<(String, usize, usize)> {
        layout.iter().map(|(name, offset, size)| ((*name).to_owned(), *offset, *size)).collect()
    }

    #[test]
    fn the_tables_in_the_design_are_those_of_the_code() {
        assert_eq!(table("record"), owned(&record::LAYOUT));
        assert_eq!(table("segment_header"), owned(&segment_header::LAYOUT));
        assert_eq!(table("manifest"), owned(&manifest::LAYOUT));
        assert_eq!(table("control"), owned(&control_page::LAYOUT));
        assert_eq!(table("waiters"), owned(&waiters::LAYOUT));
        assert_eq!(table("checkpoint"), owned(&checkpoint::LAYOUT));
        assert_eq!(table("hint"), owned(&hint::LAYOUT));
        assert_eq!(table("hint keyspace"), owned(&hint::KEYSPACE_LAYOUT));
        assert_eq!(table("checkpoint segment"), owned(&checkpoint::SEGMENT_LAYOUT));
        assert_eq!(table("checkpoint keyspace"), owned(&checkpoint::KEYSPACE_LAYOUT));
    }

    #[test]
    fn the_example_in_the_design_is_what_the_code_writes() {
        let header = RecordHeader {
            kind: RecordKind::Put,
            flags: 0,
            keyspace: KeyspaceId::DEFAULT,
            key_len: 3,
            value_len: 5,
            seq: Seq(7),
            payload_sum: payload_sum(b"key", b"value"),
        };
        let mut bytes = header.encode(RecordPlace { nonce: 0x0123_4567_89ab_cdef, offset: 4096 }).to_vec();
        bytes.extend_from_slice(b"keyvalue");
        let (_, rest) = DESIGN.split_once("<!-- example: record -->").expect("the page has the example");
        let block = rest.trim_start().trim_start_matches("```").split("```").next().expect("a block");
        let hex =
            block.lines().map(|line| line.split("  ").next().unwrap_or("")).collect::<Vec<_>>().join(" ");
        let written: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.split_whitespace().collect::<Vec<_>>(), written, "{}", written.join(" "));
    }
}
