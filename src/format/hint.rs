//! Hints: the keys of a piece of a segment, by their hashes, so that an open need not read the piece.
//!
//! A hint file is a row of *chunks*. A chunk describes the records of one range of a segment: sums
//! of their sizes, and an entry for each value and tombstone. Hints are disposable, because the log
//! holds all of their information.
//!
//! **Format.** A chunk is a *front* (a fixed part of 128 bytes, an entry per keyspace, an offset per
//! keyspace change), a table of [`PARTS`] parts, and the entries of the parts. See
//! docs/design/format.md, "Hints". An open reads the fronts alone. A part is read when a search
//! needs it, and has a checksum of its own, which covers its place. So a part of another chunk or of
//! another segment does not validate.

use super::hash::Hash;
use super::record::{ALIGNMENT, HEADER_SIZE};
use super::{
    ByteReader, Defect, KeyspaceId, READ_VERSION, SUM_OFFSET, SegmentId, Seq, StoreId, WRITE_VERSION, sum,
};

const MAGIC: [u8; 8] = *b"MAPCASKH";
/// Size of the fixed part in bytes.
pub const HINT_HEADER_SIZE: usize = 128;
/// Size of a keyspace's entry in bytes.
pub const HINT_KEYSPACE_SIZE: usize = 32;
/// Size of an entry in bytes.
pub const HINT_ENTRY_SIZE: usize = 16;
/// Size of a part's place in the table in bytes.
pub const PART_SIZE: usize = 8;
/// The low bits of a hash that name its part. Every index has more buckets than parts, so a part is
/// a set of whole buckets.
pub const PART_BITS: u32 = 10;
/// The number of parts.
pub const PARTS: usize = 1 << PART_BITS;
/// The longest front that is accepted, in bytes.
pub const HINT_FRONT_MAX: u64 = 1 << 28;

/// The fields of the fixed part: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 17] = [
    ("magic", 0, 8),
    ("write_version", 8, 2),
    ("read_version", 10, 2),
    ("sum", SUM_OFFSET, 4),
    ("store_id", 16, 16),
    ("segment_id", 32, 8),
    ("nonce", 40, 8),
    ("from", 48, 8),
    ("to", 56, 8),
    ("first_seq", 64, 8),
    ("last_seq", 72, 8),
    ("last_at", 80, 8),
    ("durable", 88, 8),
    ("notes", 96, 8),
    ("entry_count, keyspace_count", 104, 8),
    ("change_count, hash_id", 112, 8),
    ("reserved", 120, 8),
];

/// The fields of a keyspace's entry: name, offset and size in bytes, as docs/design/format.md prints them.
pub const KEYSPACE_LAYOUT: [(&str, usize, usize); 5] =
    [("keyspace", 0, 4), ("value_count", 4, 4), ("first", 8, 8), ("values", 16, 8), ("tombstones", 24, 8)];

/// A keyspace in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintKeyspace {
    /// The keyspace's number.
    pub id: KeyspaceId,
    /// The number of its values.
    pub count: u32,
    /// The offset of its first record in the range.
    pub first: u64,
    /// Bytes of the records of values.
    pub values: u64,
    /// Bytes of the records of tombstones.
    pub tombstones: u64,
}

/// The front of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HintChunk {
    /// The store.
    pub store: StoreId,
    /// The segment's number.
    pub segment: SegmentId,
    /// The nonce in the segment's header.
    pub nonce: u64,
    /// The range of the segment, as offsets in bytes.
    pub from: u64,
    /// The end of the range.
    pub to: u64,
    /// The number of the first record in the range.
    pub first: Seq,
    /// The number of the last record.
    pub last: Seq,
    /// The offset of the last record.
    pub last_at: u64,
    /// A number that was durable when the chunk was written.
    pub durable: Seq,
    /// Bytes of the log's own records.
    pub notes: u64,
    /// The number of entries.
    pub entries: u32,
    /// The hash function of the entries.
    pub hash_id: u32,
    /// The keyspaces in the range, in the order of their first records.
    pub keyspaces: Vec<HintKeyspace>,
    /// The offsets of the keyspace changes, in ascending order.
    pub changes: Vec<u64>,
}

/// A value or a tombstone in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintEntry {
    /// The hash of the key.
    pub hash: Hash,
    /// The offset of the record in its segment.
    pub offset: u64,
    /// The position of its keyspace in the chunk.
    pub keyspace: u32,
    /// True for a tombstone.
    pub is_tombstone: bool,
}

/// The place of a part among the entries of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintPart {
    /// The number of entries in this part and those before it.
    pub end: u32,
    /// The checksum of the part's entries and of their place.
    pub sum: u32,
}

/// Bits of an entry's second word: the offset in units of [`ALIGNMENT`], a bit for a tombstone, and
/// the keyspace's position.
const OFFSET_BITS: u32 = 40;
const KEYSPACE_SHIFT: u32 = OFFSET_BITS + 1;
/// The most keyspaces of one chunk.
pub const HINT_KEYSPACES_MAX: u32 = 1 << (u64::BITS - KEYSPACE_SHIFT);

/// Returns the part of a hash.
#[must_use]
pub fn part_of(hash: Hash) -> usize {
    usize::try_from(hash.to_bits() & (PARTS as u64 - 1)).expect("few bits")
}

impl HintEntry {
    /// Encodes the entry.
    #[must_use]
    pub fn encode(&self) -> [u8; HINT_ENTRY_SIZE] {
        let place = (self.offset / ALIGNMENT)
            | (u64::from(self.is_tombstone) << OFFSET_BITS)
            | (u64::from(self.keyspace) << KEYSPACE_SHIFT);
        let mut bytes = [0; HINT_ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.hash.to_bits().to_le_bytes());
        bytes[8..].copy_from_slice(&place.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; HINT_ENTRY_SIZE]) -> Self {
        let words = bytes.as_chunks::<8>().0;
        let (hash, place) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        Self {
            hash: Hash::from_bits(hash),
            offset: (place & ((1 << OFFSET_BITS) - 1)) * ALIGNMENT,
            keyspace: u32::try_from(place >> KEYSPACE_SHIFT).expect("23 bits"),
            is_tombstone: (place >> OFFSET_BITS) & 1 != 0,
        }
    }
}

impl HintPart {
    /// Encodes the place.
    #[must_use]
    pub fn encode(self) -> [u8; PART_SIZE] {
        let mut bytes = [0; PART_SIZE];
        bytes[..4].copy_from_slice(&self.end.to_le_bytes());
        bytes[4..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// Decodes the place.
    #[must_use]
    pub fn decode(bytes: [u8; PART_SIZE]) -> Self {
        let words = bytes.as_chunks::<4>().0;
        Self { end: u32::from_le_bytes(words[0]), sum: u32::from_le_bytes(words[1]) }
    }
}

impl HintChunk {
    /// Returns the length of the front in bytes.
    #[must_use]
    pub fn front_len(&self) -> usize {
        HINT_HEADER_SIZE + self.keyspaces.len() * HINT_KEYSPACE_SIZE + self.changes.len() * 8
    }

    /// Returns the size of the chunk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries_at() + u64::from(self.entries) * HINT_ENTRY_SIZE as u64
    }

    /// Returns the offset of the first entry in the chunk.
    #[must_use]
    pub fn entries_at(&self) -> u64 {
        (self.front_len() + PARTS * PART_SIZE) as u64
    }

    /// Encodes the chunk into `bytes`, which are empty and have the space. The entries are sorted by
    /// part, and as many as the front says.
    pub fn encode(&self, entries: &[HintEntry], bytes: &mut Vec<u8>) {
        self.encode_front(bytes);
        let table = bytes.len();
        bytes.resize(table + PARTS * PART_SIZE, 0);
        let mut end = 0;
        for part in 0..PARTS {
            let start = bytes.len();
            let count = entries[end..].iter().take_while(|entry| part_of(entry.hash) == part).count();
            for entry in &entries[end..end + count] {
                bytes.extend_from_slice(&entry.encode());
            }
            end += count;
            let place = HintPart {
                end: u32::try_from(end).expect("as many as the front says"),
                sum: self.part_sum(part, &bytes[start..]),
            };
            bytes[table + part * PART_SIZE..][..PART_SIZE].copy_from_slice(&place.encode());
        }
    }

    /// Encodes the front into `bytes`, which are empty.
    pub fn encode_front(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READ_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.store.0);
        let numbers = [self.segment.0, self.nonce, self.from, self.to, self.first.0, self.last.0];
        for number in numbers.into_iter().chain([self.last_at, self.durable.0, self.notes]) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let count = |len: usize| u32::try_from(len).expect("fewer than the records of a range");
        let counts =
            [self.entries, count(self.keyspaces.len()), count(self.changes.len()), self.hash_id, 0, 0];
        for number in counts {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for keyspace in &self.keyspaces {
            bytes.extend_from_slice(&keyspace.id.0.to_le_bytes());
            bytes.extend_from_slice(&keyspace.count.to_le_bytes());
            for number in [keyspace.first, keyspace.values, keyspace.tombstones] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        for offset in &self.changes {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let sum = sum(bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
    }

    /// Returns the length of the front that begins with these bytes, before its checksum can be
    /// compared. `left` is the number of bytes in the file from its first one on.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of the fixed part.
    pub fn claimed_front_len(bytes: &[u8], left: u64) -> Result<usize, Defect> {
        let bytes = bytes.get(..HINT_HEADER_SIZE).ok_or(Defect::Truncated)?;
        if bytes[..8] != MAGIC {
            return Err(Defect::BadMagic);
        }
        let mut counts = ByteReader(&bytes[108..]);
        let (keyspaces, changes) = (u64::from(counts.u32()?), u64::from(counts.u32()?));
        let len = HINT_HEADER_SIZE as u64 + keyspaces * HINT_KEYSPACE_SIZE as u64 + changes * 8;
        if len > left.min(HINT_FRONT_MAX) {
            return Err(Defect::LengthOutOfRange);
        }
        usize::try_from(len).map_err(|_| Defect::LengthOutOfRange)
    }

    /// Decodes a front. `left` is the number of bytes in the file from its first one on.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of these bytes.
    pub fn decode(bytes: &[u8], left: u64) -> Result<Self, Defect> {
        let len = Self::claimed_front_len(bytes, left)?;
        let bytes = bytes.get(..len).ok_or(Defect::Truncated)?;
        let mut reader = ByteReader(&bytes[8..]);
        let versions = reader.u32()?;
        if reader.u32()? != sum(bytes) {
            return Err(Defect::Checksum);
        }
        if versions >> 16 > u32::from(READ_VERSION) {
            return Err(Defect::BadField("read_version"));
        }
        let store = StoreId(reader.array()?);
        let (segment, nonce) = (SegmentId(reader.u64()?), reader.u64()?);
        let (from, to) = (reader.u64()?, reader.u64()?);
        let (first, last) = (Seq::from_file(reader.u64()?)?, Seq::from_file(reader.u64()?)?);
        let last_at = reader.u64()?;
        let (durable, notes) = (Seq::from_file(reader.u64()?)?, reader.u64()?);
        let entries = reader.u32()?;
        let (keyspace_count, change_count) = (reader.u32()?, reader.u32()?);
        let hash_id = reader.u32()?;
        let _reserved = reader.u64()?;
        let mut keyspaces = Vec::with_capacity(usize::try_from(keyspace_count).unwrap_or(0));
        for _ in 0..keyspace_count {
            let (id, count) = (KeyspaceId(reader.u32()?), reader.u32()?);
            let (first, values, tombstones) = (reader.u64()?, reader.u64()?, reader.u64()?);
            keyspaces.push(HintKeyspace { id, count, first, values, tombstones });
        }
        let mut changes = Vec::with_capacity(usize::try_from(change_count).unwrap_or(0));
        for _ in 0..change_count {
            changes.push(reader.u64()?);
        }
        let chunk = Self {
            store,
            segment,
            nonce,
            from,
            to,
            first,
            last,
            last_at,
            durable,
            notes,
            entries,
            hash_id,
            keyspaces,
            changes,
        };
        chunk.check(left)?;
        Ok(chunk)
    }

    /// Checks that the numbers of a front can be those of one range.
    fn check(&self, left: u64) -> Result<(), Defect> {
        let size = self.to.checked_sub(self.from).filter(|size| *size > 0).ok_or(Defect::BadField("to"))?;
        let fits = |at: u64| at >= self.from && at < self.to && at.is_multiple_of(ALIGNMENT);
        let bytes = self.keyspaces.iter().try_fold(self.notes, |bytes, keyspace| {
            bytes.checked_add(keyspace.values)?.checked_add(keyspace.tombstones)
        });
        let ids: std::collections::BTreeSet<_> =
            self.keyspaces.iter().map(|keyspace| keyspace.id.0).collect();
        let places = (1u64 << OFFSET_BITS).saturating_mul(ALIGNMENT);
        let checks = [
            ("from", self.from.is_multiple_of(ALIGNMENT) && self.to.is_multiple_of(ALIGNMENT)),
            ("to", self.to <= places),
            ("first_seq", self.first > Seq::ZERO && self.first <= self.last),
            ("last_at", fits(self.last_at)),
            ("entry_count", u64::from(self.entries) <= size / HEADER_SIZE as u64),
            (
                "keyspace_count",
                self.keyspaces.len() as u64 <= u64::from(self.entries.min(HINT_KEYSPACES_MAX)),
            ),
            ("keyspace", ids.len() == self.keyspaces.len()),
            ("first", self.keyspaces.iter().all(|keyspace| fits(keyspace.first))),
            ("values", bytes == Some(size)),
            ("changes", self.changes.iter().all(|at| fits(*at)) && self.changes.is_sorted()),
        ];
        if let Some((field, _)) = checks.iter().find(|(_, holds)| !holds) {
            return Err(Defect::BadField(field));
        }
        if self.size() > left { Err(Defect::Truncated) } else { Ok(()) }
    }

    /// Returns the entries between two places of the table, in bytes from the chunk's start.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of the table.
    pub fn part_range(&self, before: u32, part: HintPart) -> Result<std::ops::Range<u64>, Defect> {
        if before > part.end || part.end > self.entries {
            return Err(Defect::BadField("part"));
        }
        let at = |count: u32| self.entries_at() + u64::from(count) * HINT_ENTRY_SIZE as u64;
        Ok(at(before)..at(part.end))
    }

    /// Decodes the entries of a part.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of these bytes.
    pub fn part(&self, part: usize, sum: u32, bytes: &[u8]) -> Result<Vec<HintEntry>, Defect> {
        if self.part_sum(part, bytes) != sum {
            return Err(Defect::Checksum);
        }
        let (chunks, rest) = bytes.as_chunks::<HINT_ENTRY_SIZE>();
        let entries: Vec<_> = chunks.iter().map(|chunk| HintEntry::decode(*chunk)).collect();
        let fits = |entry: &HintEntry| {
            part_of(entry.hash) == part
                && (self.from..self.to).contains(&entry.offset)
                && (entry.keyspace as usize) < self.keyspaces.len()
        };
        if !rest.is_empty() || !entries.iter().all(fits) {
            return Err(Defect::BadField("entry"));
        }
        Ok(entries)
    }

    fn part_sum(&self, part: usize, entries: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.nonce, self.from, part as u64] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(entries);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bits: u64, offset: u64, is_tombstone: bool) -> HintEntry {
        HintEntry {
            hash: Hash::from_bits(bits),
            offset,
            keyspace: u32::from(bits.is_multiple_of(3)),
            is_tombstone,
        }
    }

    fn sample() -> (HintChunk, Vec<HintEntry>) {
        let mut entries: Vec<_> = (0u64..60)
            .map(|n| entry(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 4096 + n * 64, n.is_multiple_of(7)))
            .collect();
        entries.sort_by_key(|entry| part_of(entry.hash));
        let keyspace =
            |id, values| HintKeyspace { id: KeyspaceId(id), count: 9, first: 4096, values, tombstones: 40 };
        let chunk = HintChunk {
            store: StoreId([3; 16]),
            segment: SegmentId(7),
            nonce: 0x0123_4567_89ab_cdef,
            from: 4096,
            to: 4096 + 64 * 64,
            first: Seq(5),
            last: Seq(70),
            last_at: 4096 + 63 * 64,
            durable: Seq(4),
            notes: 16,
            entries: 60,
            hash_id: 1,
            keyspaces: vec![keyspace(4, 1000), keyspace(2, 64 * 64 - 1096)],
            changes: vec![4096, 4160],
        };
        (chunk, entries)
    }

    fn encoded(chunk: &HintChunk, entries: &[HintEntry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        chunk.encode(entries, &mut bytes);
        bytes
    }

    fn entries_of(bytes: &[u8]) -> Result<(HintChunk, Vec<HintEntry>), Defect> {
        let chunk = HintChunk::decode(bytes, bytes.len() as u64)?;
        let mut all = Vec::new();
        let mut before = 0;
        for part in 0..PARTS {
            let at = chunk.front_len() + part * PART_SIZE;
            let place = HintPart::decode(bytes[at..][..PART_SIZE].try_into().unwrap());
            let range = chunk.part_range(before, place)?;
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            all.extend(chunk.part(part, place.sum, &bytes[range])?);
            before = place.end;
        }
        Ok((chunk, all))
    }

    #[test]
    fn a_chunk_comes_back_whole() {
        let (chunk, entries) = sample();
        let bytes = encoded(&chunk, &entries);
        assert_eq!(bytes.len() as u64, chunk.size());
        assert_eq!(entries_of(&bytes), Ok((chunk, entries)));
    }

    #[test]
    fn every_flipped_bit_of_a_chunk_is_found() {
        let (chunk, entries) = sample();
        let bytes = encoded(&chunk, &entries);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(entries_of(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_chunk_is_refused() {
        let (chunk, entries) = sample();
        let bytes = encoded(&chunk, &entries);
        for len in 0..bytes.len() {
            assert!(HintChunk::decode(&bytes[..len], len as u64).is_err(), "{len}");
        }
    }

    #[test]
    fn a_part_of_another_place_is_refused() {
        let (chunk, entries) = sample();
        let part = part_of(entries[0].hash);
        let bytes: Vec<_> = entries[..1].iter().flat_map(HintEntry::encode).collect();
        let sum = chunk.part_sum(part, &bytes);
        assert!(chunk.part(part, sum, &bytes).is_ok());
        let other = HintChunk { nonce: 1, ..chunk.clone() };
        assert_eq!(other.part(part, sum, &bytes), Err(Defect::Checksum));
        let other = HintChunk { from: 0, ..chunk.clone() };
        assert_eq!(other.part(part, sum, &bytes), Err(Defect::Checksum));
        assert_eq!(chunk.part(part ^ 1, sum, &bytes), Err(Defect::Checksum));
    }

    #[test]
    fn a_front_of_impossible_numbers_is_refused() {
        let (chunk, _) = sample();
        let refused = |change: &dyn Fn(&mut HintChunk)| {
            let mut changed = chunk.clone();
            change(&mut changed);
            let mut bytes = Vec::new();
            changed.encode_front(&mut bytes);
            HintChunk::decode(&bytes, 1 << 20).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|chunk| chunk.to = chunk.from));
        assert!(refused(&|chunk| chunk.from += 4));
        assert!(refused(&|chunk| chunk.first = Seq(71)));
        assert!(refused(&|chunk| chunk.last_at = chunk.to));
        assert!(refused(&|chunk| chunk.entries = 1000));
        assert!(refused(&|chunk| chunk.notes = u64::MAX));
        assert!(refused(&|chunk| chunk.keyspaces[1].id = chunk.keyspaces[0].id));
        assert!(refused(&|chunk| chunk.keyspaces[1].first = 0));
        assert!(refused(&|chunk| chunk.changes[0] = 4168));
        assert!(refused(&|chunk| chunk.last = Seq(u64::MAX)));
    }
}
