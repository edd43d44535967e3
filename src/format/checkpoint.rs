//! An index checkpoint: the state of all indexes at one position of the log. With it, an open need
//! not read the log before that position.
//!
//! This module does not interpret the words of a line; `index` does. A checkpoint is disposable:
//! the log holds all of its information, so a refused file costs only a replay.
//!
//! **Format.** A *front* comes first: a fixed part of 128 bytes, then one entry per segment and one
//! per keyspace. *Frames* follow up to the end of the file. For each keyspace, in the order of the
//! front, these are the blocks of its buckets and then the blocks of its overflow lines. A frame is
//! a block of 4,096 bytes and the block's checksum. See docs/design/format.md, "Index checkpoint". There are no
//! bytes between front and frames, so every byte is covered by a checksum. An open reads the front
//! alone, whose length depends on the numbers of segments and keyspaces and not on the number of
//! keys. A frame is checked when it is read.
//!
//! A frame's checksum covers the frame's number and a nonce drawn for the file. So a block of
//! another checkpoint, or a block at another position, does not validate.

use super::segment_header::SEGMENT_HEADER_SIZE;
use super::{
    ByteReader, Defect, KeyspaceId, READ_VERSION, SUM_OFFSET, SegmentId, Seq, StoreId, WRITE_VERSION, sum,
};

const MAGIC: [u8; 8] = *b"MAPCASKI";
/// Size of the fixed part in bytes.
pub const IMAGE_HEADER_SIZE: usize = 128;
/// Size of a segment's entry in bytes.
pub const SEGMENT_ENTRY_SIZE: usize = 64;
/// Size of the fixed part of a keyspace's entry in bytes.
pub const KEYSPACE_ENTRY_SIZE: usize = 64;
/// Size of a pair of a segment's number and its live bytes.
const LIVE_SIZE: usize = 16;
/// The longest front that is accepted, in bytes.
pub const FRONT_LEN_MAX: u64 = 1 << 29;

/// Size of one line in bytes.
pub const LINE_SIZE: usize = 64;
/// Lines in a block.
pub const BLOCK_LINES: usize = 64;
/// Size of a block in bytes: the payload of a frame.
pub const BLOCK_LEN: usize = BLOCK_LINES * LINE_SIZE;
/// Size of a frame in bytes: the block and its checksum.
pub const FRAME_SIZE: usize = BLOCK_LEN + 4;

/// The fields of the fixed part: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 13] = [
    ("magic", 0, 8),
    ("write_version", 8, 2),
    ("read_version", 10, 2),
    ("sum", SUM_OFFSET, 4),
    ("len", 16, 8),
    ("size", 24, 8),
    ("store_id", 32, 16),
    ("number", 48, 8),
    ("nonce", 56, 8),
    ("last_seq", 64, 8),
    ("hash_id", 72, 4),
    ("segment_count, keyspace_count", 76, 8),
    ("reserved", 84, 44),
];

/// The fields of a segment's entry: name, offset and size in bytes, as docs/design/format.md prints them.
pub const SEGMENT_LAYOUT: [(&str, usize, usize); 9] = [
    ("segment_id", 0, 8),
    ("nonce", 8, 8),
    ("end", 16, 8),
    ("first_granule", 24, 4),
    ("granule_count", 28, 4),
    ("hidden", 32, 8),
    ("tombstones", 40, 8),
    ("notes", 48, 8),
    ("data_offset", 56, 8),
];

/// The fields of a keyspace's entry: name, offset and size in bytes, as docs/design/format.md prints them.
pub const KEYSPACE_LAYOUT: [(&str, usize, usize); 10] = [
    ("keyspace", 0, 4),
    ("base_bits, or level", 4, 4),
    ("keys", 8, 8),
    ("live_bytes", 16, 8),
    ("entries", 24, 8),
    ("lines, first row", 32, 8),
    ("lines, second row", 40, 8),
    ("live_count", 48, 4),
    ("root", 52, 4),
    ("reserved", 56, 8),
];

/// A segment's entry in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSegment {
    /// The segment's number.
    pub id: SegmentId,
    /// The nonce in the segment's header.
    pub nonce: u64,
    /// The end of the segment's published records, as an offset in bytes.
    pub end: u64,
    /// The first granule of the segment's range in the address space.
    pub first_granule: u32,
    /// The number of granules in that range.
    pub granules: u32,
    /// Dead bytes: superseded values, tombstones, and the log's own records.
    pub dead: [u64; 3],
    /// The offset of the first record in bytes, which is the length of the file's header.
    pub data_offset: u64,
}

/// The shape of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexTable {
    /// The kind of the index, and what only that kind has.
    pub kind: IndexKind,
    /// The number of entries.
    pub entries: u64,
    /// The numbers of lines of both rows: of buckets and of overflow lines, or of leaves and of inner
    /// nodes. Lines behind the first row's buckets count if they were ever used.
    pub lines: [u64; 2],
}

/// The kind of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexKind {
    /// A hash index.
    Hash {
        /// Hash bits that are stored only in a bucket's number.
        base_bits: u32,
    },
    /// A tree, of an ordered keyspace.
    Tree {
        /// The number of the root among the nodes of its level.
        root: u32,
        /// The level of the root: zero for a leaf.
        level: u32,
    },
}

impl IndexTable {
    /// Returns the numbers of blocks of both rows.
    #[must_use]
    pub fn blocks(&self) -> [u64; 2] {
        self.lines.map(|lines| lines.div_ceil(BLOCK_LINES as u64))
    }
}

/// A keyspace's entry in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointKeyspace {
    /// The keyspace's number.
    pub id: KeyspaceId,
    /// The number of keys.
    pub keys: u64,
    /// Bytes of the newest records of all keys.
    pub live_bytes: u64,
    /// The shape of the keyspace's index.
    pub table: IndexTable,
    /// Live bytes by segment, in ascending order of segment numbers.
    pub live: Vec<(SegmentId, u64)>,
}

/// The front of an index checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexCheckpoint {
    /// The identity of the store.
    pub store: StoreId,
    /// The checkpoint's number, as in the file's name.
    pub number: u64,
    /// A nonce drawn for this file.
    pub nonce: u64,
    /// The last sequence number that the checkpoint covers: it holds every record up to it and none
    /// above.
    pub last: Seq,
    /// The number of the hash function that the indexes use.
    pub hash_id: u32,
    /// The segments that entries may lead to, in ascending order of their numbers.
    pub segments: Vec<CheckpointSegment>,
    /// The keyspaces, in ascending order of their numbers.
    pub keyspaces: Vec<CheckpointKeyspace>,
}

impl IndexCheckpoint {
    /// Encodes the front.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(IMAGE_HEADER_SIZE + SEGMENT_ENTRY_SIZE * self.segments.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READ_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4 + 8 + 8]);
        bytes.extend_from_slice(&self.store.0);
        for word in [self.number, self.nonce, self.last.0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.hash_id.to_le_bytes());
        for count in [self.segments.len(), self.keyspaces.len()] {
            bytes.extend_from_slice(&count_of(count).to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 44]);
        debug_assert_eq!(bytes.len(), IMAGE_HEADER_SIZE);
        for segment in &self.segments {
            for word in [segment.id.0, segment.nonce, segment.end] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(&segment.first_granule.to_le_bytes());
            bytes.extend_from_slice(&segment.granules.to_le_bytes());
            for word in segment.dead {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(&segment.data_offset.to_le_bytes());
        }
        for keyspace in &self.keyspaces {
            keyspace.encode(&mut bytes);
        }
        let len = bytes.len() as u64;
        let size = len + self.frames_size();
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
        bytes[24..32].copy_from_slice(&size.to_le_bytes());
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        bytes
    }

    /// Returns the front's length in bytes, which the caller reads next. `bytes` are the first
    /// bytes of a file of `file_size` bytes. The returned length is at most `file_size`.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of these bytes.
    pub fn front_len(bytes: &[u8], file_size: u64) -> Result<usize, Defect> {
        let mut reader = ByteReader(bytes);
        if reader.array::<8>()? != MAGIC {
            return Err(Defect::BadMagic);
        }
        let _write_version = reader.u16()?;
        if reader.u16()? > READ_VERSION {
            return Err(Defect::BadField("read_version"));
        }
        let _sum = reader.u32()?;
        let len = reader.u64()?;
        if len < IMAGE_HEADER_SIZE as u64 || len > FRONT_LEN_MAX {
            return Err(Defect::LengthOutOfRange);
        }
        if len > file_size {
            return Err(Defect::Truncated);
        }
        usize::try_from(len).map_err(|_| Defect::LengthOutOfRange)
    }

    /// Decodes the front of a file of `file_size` bytes.
    ///
    /// # Errors
    ///
    /// Returns the `Defect` of the front, or `WrongSize` if the file is shorter or longer than the
    /// front says.
    pub fn decode(bytes: &[u8], file_size: u64) -> Result<Self, Defect> {
        let len = Self::front_len(bytes, file_size)?;
        let bytes = bytes.get(..len).ok_or(Defect::Truncated)?;
        let mut reader = ByteReader(&bytes[SUM_OFFSET..]);
        if reader.u32()? != sum(bytes) {
            return Err(Defect::Checksum);
        }
        let mut reader = ByteReader(&bytes[24..]);
        let size = reader.u64()?;
        let store = StoreId(reader.array()?);
        let number = reader.u64()?;
        let nonce = reader.u64()?;
        let last = reader.seq()?;
        let hash_id = reader.u32()?;
        let segment_count = reader.u32()?;
        let keyspace_count = reader.u32()?;
        if reader.array::<44>()? != [0; 44] {
            return Err(Defect::Reserved);
        }
        // Counts reserve no capacity: the entries must exist first.
        let segments = (0..segment_count).map(|_| segment(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let keyspaces = (0..keyspace_count)
            .map(|_| CheckpointKeyspace::decode(&mut reader))
            .collect::<Result<Vec<_>, _>>()?;
        let checkpoint = Self { store, number, nonce, last, hash_id, segments, keyspaces };
        checkpoint.check(reader.0)?;
        let frames = checkpoint.frames().ok_or(Defect::LengthOutOfRange)?;
        let needed = frames.checked_mul(FRAME_SIZE as u64).and_then(|frames| frames.checked_add(len as u64));
        if needed != Some(size) {
            return Err(Defect::BadField("size"));
        }
        if size != file_size {
            return Err(Defect::WrongSize { expected: size, found: file_size });
        }
        Ok(checkpoint)
    }

    fn check(&self, rest: &[u8]) -> Result<(), Defect> {
        if !rest.is_empty() {
            return Err(Defect::BadField("len"));
        }
        if !self.segments.is_sorted_by(|one, next| one.id < next.id)
            || !self.keyspaces.is_sorted_by(|one, next| one.id < next.id)
        {
            return Err(Defect::BadField("order"));
        }
        let is_listed = |id: SegmentId| self.segments.binary_search_by_key(&id, |entry| entry.id).is_ok();
        if self.keyspaces.iter().flat_map(|keyspace| &keyspace.live).any(|(id, _)| !is_listed(*id)) {
            return Err(Defect::BadField("live segment"));
        }
        Ok(())
    }

    /// Returns the size of the whole file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        let live: usize = self.keyspaces.iter().map(|keyspace| keyspace.live.len() * LIVE_SIZE).sum();
        let entries =
            self.segments.len() * SEGMENT_ENTRY_SIZE + self.keyspaces.len() * KEYSPACE_ENTRY_SIZE + live;
        (IMAGE_HEADER_SIZE + entries) as u64 + self.frames_size()
    }

    fn frames_size(&self) -> u64 {
        self.frames().expect("the lines of an index in memory can be counted") * FRAME_SIZE as u64
    }

    /// Returns the number of frames behind the front, or `None` if it overflows.
    fn frames(&self) -> Option<u64> {
        let mut blocks = self.keyspaces.iter().flat_map(|keyspace| keyspace.table.blocks());
        blocks.try_fold(0u64, u64::checked_add)
    }
}

impl CheckpointKeyspace {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.id.0.to_le_bytes());
        let IndexTable { kind, entries, lines } = self.table;
        let (bits, root) = match kind {
            IndexKind::Hash { base_bits } => (base_bits, 0),
            IndexKind::Tree { root, level } => (level, root),
        };
        bytes.extend_from_slice(&bits.to_le_bytes());
        for word in [self.keys, self.live_bytes, entries, lines[0], lines[1]] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&count_of(self.live.len()).to_le_bytes());
        bytes.extend_from_slice(&root.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for (segment, live) in &self.live {
            bytes.extend_from_slice(&segment.0.to_le_bytes());
            bytes.extend_from_slice(&live.to_le_bytes());
        }
    }

    fn decode(reader: &mut ByteReader<'_>) -> Result<Self, Defect> {
        let id = KeyspaceId(reader.u32()?);
        let bits = reader.u32()?;
        let keys = reader.u64()?;
        let live_bytes = reader.u64()?;
        let entries = reader.u64()?;
        let lines = [reader.u64()?, reader.u64()?];
        let live_count = reader.u32()?;
        let root = reader.u32()?;
        if reader.array::<8>()? != [0; 8] || (root != 0 && !id.is_ordered()) {
            return Err(Defect::Reserved);
        }
        let kind = if id.is_ordered() {
            IndexKind::Tree { root, level: bits }
        } else {
            IndexKind::Hash { base_bits: bits }
        };
        let fits = match kind {
            // At least 2^base_bits buckets.
            IndexKind::Hash { base_bits } => base_bits <= 32 && lines[0] >= 1 << base_bits,
            IndexKind::Tree { .. } => lines[0] > 0,
        };
        // Far fewer than 2^64 lines.
        if !fits || lines[0].max(lines[1]) > 1 << 48 {
            return Err(Defect::BadField("lines"));
        }
        let table = IndexTable { kind, entries, lines };
        let pair = |reader: &mut ByteReader<'_>| Ok((SegmentId(reader.u64()?), reader.u64()?));
        let live = (0..live_count).map(|_| pair(reader)).collect::<Result<Vec<_>, _>>()?;
        if !live.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(Defect::BadField("order"));
        }
        Ok(Self { id, keys, live_bytes, table, live })
    }
}

fn segment(reader: &mut ByteReader<'_>) -> Result<CheckpointSegment, Defect> {
    let entry = CheckpointSegment {
        id: SegmentId(reader.u64()?),
        nonce: reader.u64()?,
        end: reader.u64()?,
        first_granule: reader.u32()?,
        granules: reader.u32()?,
        dead: [reader.u64()?, reader.u64()?, reader.u64()?],
        data_offset: reader.u64()?,
    };
    if entry.data_offset < SEGMENT_HEADER_SIZE as u64 || entry.data_offset > entry.end {
        return Err(Defect::BadField("data_offset"));
    }
    // Granule zero is never used, because location zero means "no location".
    if entry.first_granule == 0 || entry.granules == 0 {
        return Err(Defect::BadField("granules"));
    }
    Ok(entry)
}

fn count_of(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 segments and keyspaces")
}

const _: () = assert!(BLOCK_LEN == 4096 && LIVE_SIZE == 16);

/// Returns the checksum of a block.
#[must_use]
pub fn frame_sum(nonce: u64, number: u64, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(block);
    hasher.finalize()
}

/// Returns the block in a frame.
///
/// # Errors
///
/// Returns `Truncated`, or `Checksum` if the block was not written to this file under this number.
pub fn block_of(nonce: u64, number: u64, frame: &[u8]) -> Result<&[u8; BLOCK_LEN], Defect> {
    let (block, rest) = frame.split_first_chunk::<BLOCK_LEN>().ok_or(Defect::Truncated)?;
    if ByteReader(rest).u32()? != frame_sum(nonce, number, block) {
        return Err(Defect::Checksum);
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> IndexCheckpoint {
        let segment = |id: u64, first_granule| CheckpointSegment {
            id: SegmentId(id),
            nonce: id * 77,
            end: 4096,
            first_granule,
            granules: 3,
            dead: [8, 16, 24],
            data_offset: 128 + 8 * id,
        };
        let table = |kind| IndexTable { kind, entries: 5, lines: [9, 65] };
        let keyspace =
            |id, kind, live| CheckpointKeyspace { id, keys: 5, live_bytes: 90, table: table(kind), live };
        let hash = IndexKind::Hash { base_bits: 3 };
        let tree = IndexKind::Tree { root: 1, level: 2 };
        IndexCheckpoint {
            store: StoreId([3; 16]),
            number: 7,
            nonce: 0x0123_4567_89ab_cdef,
            last: Seq(41),
            hash_id: 1,
            segments: vec![segment(2, 4), segment(5, 1)],
            keyspaces: vec![
                keyspace(KeyspaceId(0), hash, vec![(SegmentId(2), 60), (SegmentId(5), 30)]),
                keyspace(KeyspaceId(4).ordered(), tree, Vec::new()),
            ],
        }
    }

    const FRAMES: u64 = 2 * 3;

    fn file_size(front: &[u8]) -> u64 {
        front.len() as u64 + FRAMES * FRAME_SIZE as u64
    }

    /// Recomputes the checksum of a front, as an attacker would.
    fn sealed(mut front: Vec<u8>) -> Vec<u8> {
        let sum = sum(&front).to_le_bytes();
        front[SUM_OFFSET..][..4].copy_from_slice(&sum);
        front
    }

    #[test]
    fn a_front_comes_back_from_its_bytes() {
        let mut empty = sample();
        empty.segments.clear();
        empty.keyspaces.clear();
        assert_eq!(IndexCheckpoint::decode(&empty.encode(), IMAGE_HEADER_SIZE as u64), Ok(empty));
        let front = sample().encode();
        let size = IMAGE_HEADER_SIZE + 2 * SEGMENT_ENTRY_SIZE + 2 * KEYSPACE_ENTRY_SIZE + 2 * LIVE_SIZE;
        assert_eq!(front.len(), size);
        assert_eq!(sample().size(), file_size(&front));
        assert_eq!(IndexCheckpoint::front_len(&front[..24], file_size(&front)), Ok(size));
        assert_eq!(IndexCheckpoint::decode(&front, file_size(&front)), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_of_a_front_is_found() {
        let front = sample().encode();
        for bit in 0..front.len() * 8 {
            let mut bytes = front.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(IndexCheckpoint::decode(&bytes, file_size(&front)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn front_of_any_other_size_is_refused() {
        let front = sample().encode();
        for len in 0..front.len() {
            assert!(IndexCheckpoint::decode(&front[..len], file_size(&front)).is_err(), "{len}");
            assert!(IndexCheckpoint::decode(&front[..len], len as u64).is_err(), "{len}");
        }
        for size in [0, front.len() as u64, file_size(&front) - 1, file_size(&front) + 1, u64::MAX] {
            assert!(IndexCheckpoint::decode(&front, size).is_err(), "{size}");
        }
    }

    #[test]
    fn root_of_a_hash_index_is_refused() {
        let mut checkpoint = sample();
        let last = checkpoint.keyspaces.last_mut().expect("there are two");
        // Its number says that it has no order, and its entry has a root.
        last.id = KeyspaceId(4);
        let front = checkpoint.encode();
        assert_eq!(IndexCheckpoint::decode(&front, file_size(&front)), Err(Defect::Reserved));
    }

    #[test]
    fn hostile_fields_are_refused_and_reserve_nothing() {
        let front = sample().encode();
        // Every word of the fixed part and of the entries takes its greatest value and others that
        // overflow sums.
        for at in (16..front.len()).step_by(4) {
            for value in [u32::MAX, 1 << 31, 0x0100_0000, 0] {
                let mut bytes = front.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                for file_size in [file_size(&front), u64::MAX] {
                    if let Ok(checkpoint) = IndexCheckpoint::decode(&sealed(bytes.clone()), file_size) {
                        assert_eq!(checkpoint.encode(), sealed(bytes.clone()), "field at {at}");
                    }
                }
            }
        }
        for (at, defect) in [(76, Defect::Truncated), (80, Defect::Truncated)] {
            let mut bytes = front.clone();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(
                matches!(IndexCheckpoint::decode(&sealed(bytes), file_size(&front)), Err(found) if found == defect
                || matches!(found, Defect::BadField("granules" | "data_offset")))
            );
        }
    }

    #[test]
    fn block_is_valid_only_whole_in_its_file_and_place() {
        let block: Vec<u8> = (0..BLOCK_LEN).map(|n| n.to_le_bytes()[0]).collect();
        let mut frame = block.clone();
        frame.extend_from_slice(&frame_sum(5, 6, &block).to_le_bytes());
        assert_eq!(frame.len(), FRAME_SIZE);
        assert_eq!(block_of(5, 6, &frame).map(|block| block.to_vec()), Ok(block));
        for (nonce, number) in [(5, 7), (4, 6), (6, 5)] {
            assert_eq!(block_of(nonce, number, &frame), Err(Defect::Checksum));
        }
        for bit in 0..FRAME_SIZE * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(block_of(5, 6, &frame), Err(Defect::Checksum), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..FRAME_SIZE {
            assert_eq!(block_of(5, 6, &frame[..len]), Err(Defect::Truncated));
        }
    }
}
