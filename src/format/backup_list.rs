//! The list of a backup: the manifest of the copied moment, and the files that hold its segments.
//!
//! **Format.** A fixed part of 64 bytes, then the encoded manifest, then one entry of 28 bytes per
//! segment. See docs/design/backup.md, "Files". A checksum covers all of it.

use super::manifest::{Manifest, SegmentState};
use super::segment_header::SEGMENT_HEADER_SIZE;
use super::{ByteReader, Defect, READ_VERSION, SUM_OFFSET, SegmentId, Seq, WRITE_VERSION, sum};

/// The first bytes of a list.
pub const MAGIC: [u8; 8] = *b"MAPCASKB";
const FIXED_SIZE: usize = 64;
const RESERVED_SIZE: usize = 16;
/// The longest list that is accepted, in bytes.
pub const LIST_LEN_MAX: u64 = 1 << 30;

/// A copied segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedSegment {
    /// The segment's number.
    pub id: SegmentId,
    /// The nonce in its header.
    pub nonce: u64,
    /// The number of bytes that were copied: all up to the end of its records.
    pub end: u64,
    /// The checksum over these bytes.
    pub sum: u32,
}

/// The contents of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupList {
    /// The number of the list. The newest list of a directory is its backup.
    pub number: u64,
    /// The number of the last write in the backup.
    pub last: Seq,
    /// The manifest. It names exactly the copied segments, and does not call the store closed.
    pub manifest: Manifest,
    /// The copies, in the order of the manifest.
    pub copies: Vec<CopiedSegment>,
}

impl BackupList {
    /// Encodes the list.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let manifest = self.manifest.encode();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READ_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        for field in [self.number, self.last.0, manifest.len() as u64] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; RESERVED_SIZE]);
        debug_assert_eq!(bytes.len(), FIXED_SIZE);
        bytes.extend_from_slice(&manifest);
        for copy in &self.copies {
            for field in [copy.id.0, copy.nonce, copy.end] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            bytes.extend_from_slice(&copy.sum.to_le_bytes());
        }
        let len = (bytes.len() as u64).to_le_bytes();
        bytes[SUM_OFFSET + 4..][..8].copy_from_slice(&len);
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        bytes
    }

    /// Decodes a list. Returns `Ok(Err(version))` if the list needs a newer reader.
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
        let stored = reader.u32()?;
        let len = usize::try_from(reader.u64()?).map_err(|_| Defect::LengthOutOfRange)?;
        let bytes = bytes.get(..len).ok_or(Defect::Truncated)?;
        if len < FIXED_SIZE || stored != sum(bytes) {
            return Err(Defect::Checksum);
        }
        let mut reader = ByteReader(&bytes[SUM_OFFSET + 12..]);
        let number = reader.u64()?;
        let last = reader.seq()?;
        let manifest_len = usize::try_from(reader.u64()?).map_err(|_| Defect::LengthOutOfRange)?;
        if reader.array::<RESERVED_SIZE>()? != [0; RESERVED_SIZE] {
            return Err(Defect::Reserved);
        }
        let manifest = match Manifest::decode(reader.bytes(manifest_len)?)? {
            Ok(manifest) => manifest,
            Err(version) => return Ok(Err(version)),
        };
        let mut copies = Vec::new();
        while !reader.0.is_empty() {
            let (id, nonce, end) = (SegmentId(reader.u64()?), reader.u64()?, reader.u64()?);
            copies.push(CopiedSegment { id, nonce, end, sum: reader.u32()? });
        }
        let list = Self { number, last, manifest, copies };
        list.check().map(|()| Ok(list))
    }

    /// Checks that the list and its manifest name the same segments.
    fn check(&self) -> Result<(), Defect> {
        let segments = &self.manifest.segments;
        let is_pair = segments.len() == self.copies.len()
            && segments.iter().zip(&self.copies).all(|(entry, copy)| {
                (entry.id, entry.nonce) == (copy.id, copy.nonce)
                    && entry.state != SegmentState::Retired
                    && (SEGMENT_HEADER_SIZE as u64..=entry.size).contains(&copy.end)
            });
        if !is_pair || self.manifest.clean {
            return Err(Defect::BadField("segments of a backup"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::StoreId;
    use crate::format::keyspace_change::KeyspaceSet;
    use crate::format::manifest::SegmentEntry;

    fn sample() -> BackupList {
        let entry = SegmentEntry::new(SegmentId(3), 8192, 77);
        let manifest = Manifest {
            generation: 12,
            store: StoreId([3; 16]),
            hash_id: 1,
            secret: [9; 32],
            clean: false,
            next_segment: SegmentId(6),
            incarnation: 4,
            durable: Seq(40),
            next_seq: Seq(60),
            segments: vec![entry],
            retired_seq: Seq(19),
            checkpoint: 0,
            keyspaces: KeyspaceSet::new(),
        };
        let copies = vec![CopiedSegment { id: SegmentId(3), nonce: 77, end: 4096, sum: 5 }];
        BackupList { number: 2, last: Seq(50), manifest, copies }
    }

    #[test]
    fn a_list_comes_back_from_its_bytes_whatever_follows_them() {
        let mut bytes = sample().encode();
        assert_eq!(BackupList::decode(&bytes), Ok(Ok(sample())));
        bytes.extend_from_slice(&[0xff; 100]);
        assert_eq!(BackupList::decode(&bytes), Ok(Ok(sample())));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_list_is_found() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(BackupList::decode(&damaged), Ok(Ok(sample())), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(BackupList::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_list_whose_manifest_names_other_segments_is_refused() {
        let changes: [fn(&mut BackupList); 7] = [
            |list| list.copies.clear(),
            |list| list.copies[0].id = SegmentId(4),
            |list| list.copies[0].nonce = 78,
            |list| list.copies[0].end = 8193,
            |list| list.copies[0].end = 127,
            |list| list.manifest.segments[0].state = SegmentState::Retired,
            |list| list.manifest.clean = true,
        ];
        for change in changes {
            let mut list = sample();
            change(&mut list);
            let refused = Defect::BadField("segments of a backup");
            assert_eq!(BackupList::decode(&list.encode()), Err(refused));
        }
    }

    #[test]
    fn a_list_of_a_newer_format_is_named() {
        let mut bytes = sample().encode();
        bytes[10] = 2;
        assert_eq!(BackupList::decode(&bytes), Ok(Err(2)));
    }
}
