//! The control page: data that other processes and the next open can read without a system call.
//!
//! **Format.** One page; see docs/design/format.md, "Control page". A fixed part with a checksum is written
//! once per open. Words on cache lines of their own follow; the writer changes them while it runs.
//! The page is disposable: it is valid only with the boot id and the writer nonce of the run that
//! wrote it, and for the manifest that [`ControlHeader::is_of`] accepts.

use super::manifest::Manifest;
use super::{ByteReader, Defect, READ_VERSION, SUM_OFFSET, Seq, StoreId, WRITE_VERSION, sum};

const MAGIC: [u8; 8] = *b"MAPCASKC";
/// Size of the page in bytes.
pub const CONTROL_SIZE: usize = 4096;
/// Size of the fixed part in bytes.
pub const CONTROL_HEADER_SIZE: usize = 64;
/// Offset of the writer's nonce.
pub const NONCE_OFFSET: usize = 56;
/// Offset of the word that holds the sequence number up to which the log is durable.
pub const DURABLE_OFFSET: usize = 64;
/// Offset of the word that holds the generation of the manifest that both copies hold.
pub const GENERATION_OFFSET: usize = 128;
/// Offset of the word that holds the state of the writer, a [`WriterStatus`].
pub const STATE_OFFSET: usize = 192;
/// Offset of the word that is raised with every wake-up of those who wait for records.
pub const RECORDS_WAKE_OFFSET: usize = 256;
/// Offset of the word that is raised with every wake-up of those who wait for durability.
pub const DURABLE_WAKE_OFFSET: usize = 320;

/// Offset of the place of the page.
pub const PLACE_OFFSET: usize = 384;
/// Size of the place in bytes.
pub const PLACE_SIZE: usize = 32;

/// The fields of the fixed part: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 17] = [
    ("magic", 0, 8),
    ("write_version", 8, 2),
    ("read_version", 10, 2),
    ("sum", SUM_OFFSET, 4),
    ("store_id", 16, 16),
    ("boot_id", 32, 16),
    ("incarnation", 48, 8),
    ("writer_nonce", NONCE_OFFSET, 8),
    ("durable", DURABLE_OFFSET, 8),
    ("generation", GENERATION_OFFSET, 8),
    ("state", STATE_OFFSET, 8),
    ("records_wake", RECORDS_WAKE_OFFSET, 8),
    ("durable_wake", DURABLE_WAKE_OFFSET, 8),
    ("mount_id", PLACE_OFFSET, 8),
    ("device", PLACE_OFFSET + 8, 8),
    ("inode", PLACE_OFFSET + 16, 8),
    ("place_sum", PLACE_OFFSET + 24, 8),
];

/// The state of the writer, as its control page tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterStatus {
    /// No writer has told its status, or one is opening the store.
    Unknown = 0,
    /// A writer opened the store, and has not closed it. It may have been killed.
    Open = 1,
    /// The last writer closed the store.
    Closed = 2,
    /// A sync or another step of the writer failed. It writes no more, and the next open recovers what
    /// is durable.
    Failed = 3,
}

impl WriterStatus {
    /// Decodes the word; a number of a later version counts as `Unknown`.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Open,
            2 => Self::Closed,
            3 => Self::Failed,
            _ => Self::Unknown,
        }
    }

    /// Encodes the word.
    #[must_use]
    pub fn to_word(self) -> u64 {
        self as u64
    }
}

/// The fixed part of the control page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlHeader {
    /// The identity of the store.
    pub store: StoreId,
    /// The id of the system's boot; zeros if it could not be read.
    pub boot_id: [u8; 16],
    /// The writer's incarnation, as in the manifest.
    pub incarnation: u64,
    /// A nonce that every writer draws for itself.
    pub writer_nonce: u64,
}

impl ControlHeader {
    /// Returns true if the page speaks of the records that the manifest describes. `generation` is
    /// that of the page.
    ///
    /// The page is then that of the manifest's incarnation, or of an open after a crash of it that
    /// wrote nothing so far, not even the manifest.
    #[must_use]
    pub fn is_of(&self, generation: u64, manifest: &Manifest) -> bool {
        let is_same = self.store == manifest.store && self.incarnation == manifest.incarnation;
        is_same || (self.is_waiting(generation, manifest) && !manifest.clean)
    }

    /// Returns true if the page is of an open that found this manifest and has not written another
    /// one.
    #[must_use]
    pub fn is_waiting(&self, generation: u64, manifest: &Manifest) -> bool {
        let is_next = self.incarnation == manifest.incarnation.saturating_add(1);
        self.store == manifest.store && is_next && generation == manifest.generation
    }

    /// Encodes the fixed part.
    #[must_use]
    pub fn encode(&self) -> [u8; CONTROL_HEADER_SIZE] {
        let mut bytes = [0; CONTROL_HEADER_SIZE];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&READ_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.0);
        bytes[32..48].copy_from_slice(&self.boot_id);
        bytes[48..56].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[NONCE_OFFSET..][..8].copy_from_slice(&self.writer_nonce.to_le_bytes());
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        bytes
    }

    /// Decodes the fixed part.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Defect> {
        let bytes = bytes.get(..CONTROL_HEADER_SIZE).ok_or(Defect::Truncated)?;
        let mut reader = ByteReader(bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(Defect::BadMagic);
        }
        let _versions = reader.u32()?;
        if reader.u32()? != sum(bytes) {
            return Err(Defect::Checksum);
        }
        Ok(Self {
            store: StoreId(reader.array()?),
            boot_id: reader.array()?,
            incarnation: reader.u64()?,
            writer_nonce: reader.u64()?,
        })
    }
}

/// The place of the page: the mount, and the file on it.
///
/// An open that finds the page in the place that its writer wrote there finds the page cache of that
/// writer, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPlace {
    /// The identity of the mount, which no other mount of the boot has.
    pub mount: u64,
    /// The device and the inode of the page's file.
    pub inode: (u64, u64),
}

impl ControlPlace {
    /// Encodes the place for a writer.
    #[must_use]
    pub fn encode(&self, writer_nonce: u64) -> [u8; PLACE_SIZE] {
        let mut bytes = [0; PLACE_SIZE];
        bytes[..8].copy_from_slice(&self.mount.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inode.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.inode.1.to_le_bytes());
        let sum = place_sum(&bytes, writer_nonce);
        bytes[24..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Decodes the place that a writer has written; `None` if the bytes are damaged, of another
    /// writer, or of a version without it.
    #[must_use]
    pub fn decode(bytes: &[u8], writer_nonce: u64) -> Option<Self> {
        let bytes: &[u8; PLACE_SIZE] = bytes.first_chunk()?;
        let words = bytes.as_chunks::<8>().0;
        let [mount, device, inode, sum] = std::array::from_fn(|n| u64::from_le_bytes(words[n]));
        (sum == place_sum(bytes, writer_nonce)).then_some(Self { mount, inode: (device, inode) })
    }
}

fn place_sum(bytes: &[u8; PLACE_SIZE], writer_nonce: u64) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..24]);
    hasher.update(&writer_nonce.to_le_bytes());
    u64::from(hasher.finalize())
}

/// Returns the durable word of a sequence number: its 56 bits below a check byte, so that a damaged
/// word is refused.
#[must_use]
pub fn durable_word(durable: Seq, writer_nonce: u64) -> u64 {
    durable.0 | u64::from(check(durable.0, writer_nonce)) << 56
}

/// Returns the sequence number in a durable word; `None` if the word is damaged or of another
/// writer.
#[must_use]
pub fn parse_durable_word(word: u64, writer_nonce: u64) -> Option<Seq> {
    let seq = word & Seq::MAX.0;
    (word == durable_word(Seq(seq), writer_nonce)).then_some(Seq(seq))
}

fn check(seq: u64, writer_nonce: u64) -> u8 {
    let sum = crc32fast::hash(&(seq ^ writer_nonce).to_le_bytes());
    u8::try_from(sum >> 24).expect("eight bits are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_part_comes_back_and_every_flipped_bit_is_found() {
        let control =
            ControlHeader { store: StoreId([1; 16]), boot_id: [2; 16], incarnation: 3, writer_nonce: 4 };
        let bytes = control.encode();
        assert_eq!(ControlHeader::decode(&bytes), Ok(control));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(ControlHeader::decode(&damaged), Ok(control), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_place_is_found() {
        let place = ControlPlace { mount: 77, inode: (5, 6) };
        let bytes = place.encode(9);
        assert_eq!(ControlPlace::decode(&bytes, 9), Some(place));
        assert_eq!(ControlPlace::decode(&bytes, 8), None, "another writer's");
        assert_eq!(ControlPlace::decode(&[0; PLACE_SIZE], 9), None, "a version without it");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ControlPlace::decode(&damaged, 9), None, "bit {bit}");
        }
    }

    #[test]
    fn every_state_of_the_writer_comes_back() {
        for state in [WriterStatus::Unknown, WriterStatus::Open, WriterStatus::Closed, WriterStatus::Failed] {
            assert_eq!(WriterStatus::from_word(state.to_word()), state);
        }
        assert_eq!(WriterStatus::from_word(4), WriterStatus::Unknown);
    }

    #[test]
    fn a_flipped_bit_in_the_durable_word_is_not_believed() {
        let word = durable_word(Seq(123_456), 99);
        assert_eq!(parse_durable_word(word, 99), Some(Seq(123_456)));
        for bit in 0..64 {
            assert_eq!(parse_durable_word(word ^ 1 << bit, 99), None, "bit {bit}");
        }
    }
}
