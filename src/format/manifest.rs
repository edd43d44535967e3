//! The manifest: the list of a store's segments and keyspaces, and its counters.
//!
//! **Format.** A fixed part of 160 bytes, then one entry per segment and one per keyspace. See
//! docs/design/format.md, "Manifest". Two copies are kept; each is intact or refused by its checksum. Bytes
//! behind the manifest's length are ignored.

use std::collections::BTreeMap;
use std::fmt;

use super::keyspace_change;
use super::keyspace_change::{KeyspaceSet, MAX_CODEC_LEN, MAX_NAME_LEN, NamedKeyspace};
use super::segment_header::Role;
use super::{
    ByteReader, Defect, KeyspaceId, READ_VERSION, SUM_OFFSET, SegmentId, Seq, StoreId, WRITE_VERSION, sum,
};

/// The first bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"MAPCASKM";
const RESERVED_SIZE: usize = 8;
/// Size of the fixed part in bytes.
pub const MANIFEST_HEADER_SIZE: usize = 160;
/// Size of a segment's entry in bytes.
pub const SEGMENT_ENTRY_SIZE: usize = 64;
/// The greatest generation, incarnation, segment number or checkpoint number.
const COUNTER_MAX: u64 = u64::MAX / 2;
/// The distance that every counter must have from its maximum when a store is opened.
const ROOM: u64 = 1 << 40;
/// The longest manifest that is accepted, in bytes: a million segments and as many keyspaces fit.
pub const MANIFEST_LEN_MAX: u64 = 1 << 29;

/// The fields of the fixed part: name, offset and size in bytes, as docs/design/format.md prints them.
pub const LAYOUT: [(&str, usize, usize); 21] = [
    ("magic", 0, 8),
    ("write_version", 8, 2),
    ("read_version", 10, 2),
    ("sum", SUM_OFFSET, 4),
    ("len", 16, 8),
    ("generation", 24, 8),
    ("store_id", 32, 16),
    ("hash_id", 48, 4),
    ("clean", 52, 1),
    ("reserved", 53, 3),
    ("secret", 56, 32),
    ("next_segment", 88, 8),
    ("incarnation", 96, 8),
    ("durable", 104, 8),
    ("next_seq", 112, 8),
    ("segment_count, keyspace_count", 120, 8),
    ("next_keyspace", 128, 4),
    ("reserved", 132, 4),
    ("retired_seq", 136, 8),
    ("checkpoint", 144, 8),
    ("reserved", 152, 8),
];

/// The state of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentState {
    /// Open for appends: preallocated, active or full.
    Open = 1,
    /// Recovered: the end is known, but records before it may not be durable yet. Never appended
    /// to.
    Cut = 2,
    /// Sealed: every record up to the end is durable. Never appended to.
    Sealed = 3,
    /// Retired by compaction: its live records are durable elsewhere, and its file is to be
    /// removed.
    Retired = 4,
}

/// A segment's entry in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentEntry {
    /// The segment's number.
    pub id: SegmentId,
    /// The file's size in bytes.
    pub size: u64,
    /// The nonce in the segment's header.
    pub nonce: u64,
    /// The end of its records, as an offset in bytes. For an open segment, the end at the last
    /// clean close, or zero.
    pub end: u64,
    /// The greatest sequence number in it. For an open segment, that at the last clean close, or
    /// zero.
    pub last_seq: Seq,
    /// The least sequence number in it once it is sealed or cut; zero before.
    pub first_seq: Seq,
    /// The segment holds no record that is superseded by a record with a number up to this one
    /// (I7).
    pub filtered: Seq,
    /// The segment's state.
    pub state: SegmentState,
    /// The segment's role.
    pub role: Role,
    /// The number of times that its records were moved.
    pub generation: u8,
}

impl SegmentEntry {
    /// Returns the entry of a new segment of the log.
    pub const fn new(id: SegmentId, size: u64, nonce: u64) -> Self {
        Self {
            id,
            size,
            nonce,
            end: 0,
            last_seq: Seq::ZERO,
            first_seq: Seq::ZERO,
            filtered: Seq::ZERO,
            state: SegmentState::Open,
            role: Role::Log,
            generation: 0,
        }
    }
}

/// The contents of the manifest.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The generation, which grows by one with every change.
    pub generation: u64,
    /// The store's identity.
    pub store: StoreId,
    /// The number of the hash function that the index uses.
    pub hash_id: u32,
    /// The secret that keys the hash.
    pub secret: [u8; 32],
    /// True if the store was closed with everything synced, and not opened for writing since.
    pub clean: bool,
    /// The number of the next segment.
    pub next_segment: SegmentId,
    /// The incarnation: the number of times that the store was opened for writing.
    pub incarnation: u64,
    /// The durable number: every record up to it was durable when this manifest was written.
    pub durable: Seq,
    /// A lower bound of the sequence numbers of all records written after this manifest.
    pub next_seq: Seq,
    /// The segments, in ascending order of their numbers.
    pub segments: Vec<SegmentEntry>,
    /// The greatest sequence number that was in a log segment retired by compaction.
    pub retired_seq: Seq,
    /// The number of the index checkpoint that an open may start from; zero if there is none.
    pub checkpoint: u64,
    /// The keyspaces, as of `durable`.
    pub keyspaces: KeyspaceSet,
}

/// Omits the secret: a reader of a log file could use it to craft keys that collide.
impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("store", &self.store)
            .field("generation", &self.generation)
            .field("clean", &self.clean)
            .field("incarnation", &self.incarnation)
            .field("durable", &self.durable)
            .field("segments", &self.segments)
            .field("keyspaces", &self.keyspaces)
            .finish_non_exhaustive()
    }
}

impl Manifest {
    /// Encodes the manifest.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MANIFEST_HEADER_SIZE + SEGMENT_ENTRY_SIZE * self.segments.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&WRITE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READ_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&self.hash_id.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(self.clean), 0, 0, 0]);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.next_segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.durable.0.to_le_bytes());
        bytes.extend_from_slice(&self.next_seq.0.to_le_bytes());
        for count in [self.segments.len(), self.keyspaces.iter().len()] {
            let count = u32::try_from(count).expect("fewer than 2^32 segments and keyspaces");
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&self.keyspaces.next().0.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.retired_seq.0.to_le_bytes());
        bytes.extend_from_slice(&self.checkpoint.to_le_bytes());
        bytes.extend_from_slice(&[0; RESERVED_SIZE]);
        debug_assert_eq!(bytes.len(), MANIFEST_HEADER_SIZE);
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.id.0.to_le_bytes());
            bytes.extend_from_slice(&segment.size.to_le_bytes());
            bytes.extend_from_slice(&segment.nonce.to_le_bytes());
            bytes.extend_from_slice(&segment.end.to_le_bytes());
            for seq in [segment.last_seq, segment.first_seq, segment.filtered] {
                bytes.extend_from_slice(&seq.0.to_le_bytes());
            }
            bytes.extend_from_slice(&[
                segment.state as u8,
                segment.role as u8,
                segment.generation,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
        for (name, named) in self.keyspaces.iter() {
            bytes.extend_from_slice(&named.id.0.to_le_bytes());
            for text in [name, &named.codec] {
                bytes.push(u8::try_from(text.len()).expect("names are at most 255 bytes long"));
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        debug_assert_eq!(bytes.len() as u64, self.encoded_len());
        let len = (bytes.len() as u64).to_le_bytes();
        bytes[SUM_OFFSET + 4..][..8].copy_from_slice(&len);
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        bytes
    }

    /// Returns the length in bytes that a manifest's first bytes claim; `None` if they are too few
    /// or no manifest's.
    #[must_use]
    pub fn claimed_len(bytes: &[u8]) -> Option<u64> {
        let mut reader = ByteReader(bytes.strip_prefix(&MAGIC)?);
        let _versions_and_sum = reader.u64().ok()?;
        reader.u64().ok()
    }

    /// Decodes a manifest from the front of `bytes`. Returns `Ok(Err(version))` if the manifest
    /// needs a newer reader.
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
        if len < MANIFEST_HEADER_SIZE || stored != sum(bytes) {
            return Err(Defect::Checksum);
        }
        let mut reader = ByteReader(&bytes[24..]);
        let generation = reader.u64()?;
        let store = StoreId(reader.array()?);
        let hash_id = reader.u32()?;
        let clean = reader.array::<4>()?;
        if clean[0] > 1 || clean[1..] != [0; 3] {
            return Err(Defect::BadField("clean"));
        }
        let secret = reader.array()?;
        let next_segment = SegmentId(reader.u64()?);
        let incarnation = reader.u64()?;
        let durable = reader.seq()?;
        let next_seq = reader.seq()?;
        let segment_count = reader.u32()?;
        let keyspace_count = reader.u32()?;
        let next_keyspace = KeyspaceId(reader.u32()?);
        let before = reader.array::<4>()?;
        let retired_seq = reader.seq()?;
        let checkpoint = reader.u64()?;
        if before != [0; 4] || reader.array()? != [0; RESERVED_SIZE] {
            return Err(Defect::Reserved);
        }
        // Counts reserve no capacity: the entries must exist first.
        let segments =
            (0..segment_count).map(|_| segment_entry(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let keyspaces = keyspaces(&mut reader, keyspace_count, next_keyspace)?;
        let clean = clean[0] == 1;
        let manifest = Self {
            generation,
            store,
            hash_id,
            secret,
            clean,
            next_segment,
            incarnation,
            durable,
            next_seq,
            segments,
            retired_seq,
            checkpoint,
            keyspaces,
        };
        manifest.check(reader.0)?;
        Ok(Ok(manifest))
    }

    fn check(&self, rest: &[u8]) -> Result<(), Defect> {
        if !rest.is_empty() {
            return Err(Defect::BadField("len"));
        }
        if !self.segments.windows(2).all(|pair| pair[0].id < pair[1].id)
            || self.segments.last().is_some_and(|last| last.id >= self.next_segment)
            || self.segments.first().is_some_and(|first| first.id.0 == 0)
        {
            return Err(Defect::BadField("segment numbers"));
        }
        // These numbers only count up, and no store lives long enough to reach the bound.
        if self.counters().iter().any(|counter| *counter > COUNTER_MAX) {
            return Err(Defect::BadField("generation, incarnation, segment or checkpoint number"));
        }
        Ok(())
    }

    fn counters(&self) -> [u64; 4] {
        [self.generation, self.incarnation, self.next_segment.0, self.checkpoint]
    }

    /// Checks that every counter has enough distance from its maximum for the life of a store.
    ///
    /// No store writes a counter without that distance. Counting on from it would produce a
    /// manifest that every later open refuses.
    ///
    /// # Errors
    ///
    /// Returns `BadField` for a counter that is too large.
    pub fn check_room(&self) -> Result<(), Defect> {
        if self.counters().iter().any(|counter| *counter > COUNTER_MAX - ROOM) {
            return Err(Defect::BadField("generation, incarnation, segment or checkpoint number"));
        }
        if self.next_seq.0 > Seq::MAX.0 - ROOM {
            return Err(Defect::BadField("sequence number"));
        }
        Ok(())
    }

    /// Returns the length of [`Manifest::encode`], in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> u64 {
        (MANIFEST_HEADER_SIZE + SEGMENT_ENTRY_SIZE * self.segments.len()) as u64
            + self.keyspaces.encoded_len()
    }

    /// Adds a segment's entry, unless it is listed already.
    pub fn add(&mut self, entry: SegmentEntry) {
        if let Err(at) = self.segments.binary_search_by_key(&entry.id, |other| other.id) {
            self.segments.insert(at, entry);
        }
    }

    /// True if the segment is part of the store: it is listed and not retired.
    #[must_use]
    pub fn has(&self, id: SegmentId) -> bool {
        self.segment(id).is_some_and(|entry| entry.state != SegmentState::Retired)
    }

    /// Removes the entries of segments whose files no longer exist.
    pub fn forget(&mut self, ids: &[SegmentId]) {
        self.segments.retain(|entry| !ids.contains(&entry.id));
    }

    /// Returns the entry of a segment; `None` if it is not listed.
    #[must_use]
    pub fn segment(&self, id: SegmentId) -> Option<&SegmentEntry> {
        self.segments.binary_search_by_key(&id, |entry| entry.id).ok().map(|at| &self.segments[at])
    }

    /// Returns the entry of a segment for changes; `None` if it is not listed.
    pub fn segment_mut(&mut self, id: SegmentId) -> Option<&mut SegmentEntry> {
        self.segments.binary_search_by_key(&id, |entry| entry.id).ok().map(|at| &mut self.segments[at])
    }
}

fn segment_entry(reader: &mut ByteReader<'_>) -> Result<SegmentEntry, Defect> {
    let id = SegmentId(reader.u64()?);
    let size = reader.u64()?;
    let nonce = reader.u64()?;
    let end = reader.u64()?;
    let last_seq = reader.seq()?;
    let first_seq = reader.seq()?;
    let filtered = reader.seq()?;
    let [state, role, generation, reserved @ ..] = reader.array::<8>()?;
    let state = match state {
        1 => SegmentState::Open,
        2 => SegmentState::Cut,
        3 => SegmentState::Sealed,
        4 => SegmentState::Retired,
        _ => return Err(Defect::BadField("state")),
    };
    if reserved != [0; 5] {
        return Err(Defect::Reserved);
    }
    if end > size || !end.is_multiple_of(8) {
        return Err(Defect::BadField("end"));
    }
    let role = Role::from_byte(role)?;
    Ok(SegmentEntry { id, size, nonce, end, last_seq, first_seq, filtered, state, role, generation })
}

fn keyspaces(reader: &mut ByteReader<'_>, count: u32, next: KeyspaceId) -> Result<KeyspaceSet, Defect> {
    let mut names = BTreeMap::new();
    let mut last = None;
    for _ in 0..count {
        let id = KeyspaceId(reader.u32()?);
        let len = usize::from(reader.u8()?);
        let name = keyspace_change::text(reader.bytes(len)?, MAX_NAME_LEN)?;
        let len = usize::from(reader.u8()?);
        let codec = keyspace_change::codec(reader.bytes(len)?)?;
        if last.is_some_and(|last| last >= name) {
            return Err(Defect::BadField("keyspaces"));
        }
        last = Some(name);
        names.insert(name.to_owned(), NamedKeyspace { id, codec: codec.to_owned() });
    }
    KeyspaceSet::from_parts(names, next)
}

const _: () = assert!(MAX_NAME_LEN <= 255 && MAX_CODEC_LEN <= 255);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::keyspace_change::KeyspaceChange;

    fn keyspaces_of(names: &[&str]) -> KeyspaceSet {
        let mut keyspaces = KeyspaceSet::new();
        for name in names {
            let (name, codec) = ((*name).to_owned(), "codec".to_owned());
            keyspaces
                .apply(&KeyspaceChange::Create { id: keyspaces.next(), name, codec })
                .expect("a new name");
        }
        keyspaces
    }

    fn sample() -> Manifest {
        let segment = |id, state| SegmentEntry {
            id: SegmentId(id),
            size: 65_536,
            nonce: id * 77,
            end: 4096,
            last_seq: Seq(50),
            first_seq: Seq(20),
            filtered: Seq(19),
            state,
            role: Role::Log,
            generation: 0,
        };
        Manifest {
            generation: 12,
            store: StoreId([3; 16]),
            hash_id: 1,
            secret: [9; 32],
            clean: true,
            next_segment: SegmentId(6),
            incarnation: 4,
            durable: Seq(40),
            next_seq: Seq(60),
            segments: vec![
                segment(2, SegmentState::Sealed),
                segment(4, SegmentState::Retired),
                segment(5, SegmentState::Open),
            ],
            retired_seq: Seq(19),
            checkpoint: 3,
            keyspaces: keyspaces_of(&["käse", "a"]),
        }
    }

    #[test]
    fn a_manifest_comes_back_from_its_bytes_whatever_follows_them() {
        let mut bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(Ok(sample())));
        bytes.extend_from_slice(&[0xff; 100]);
        assert_eq!(Manifest::decode(&bytes), Ok(Ok(sample())));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Manifest::decode(&damaged), Ok(Ok(sample())), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn numbers_that_no_record_can_have_are_refused() {
        let refused = |change: fn(&mut Manifest)| {
            let mut manifest = sample();
            change(&mut manifest);
            Manifest::decode(&manifest.encode()) == Err(Defect::BadField("sequence number"))
        };
        let changes: [fn(&mut Manifest); 6] = [
            |manifest| manifest.durable = Seq(u64::MAX),
            |manifest| manifest.next_seq = Seq(Seq::MAX.0 + 1),
            |manifest| manifest.retired_seq = Seq(Seq::MAX.0 + 1),
            |manifest| manifest.segments[0].last_seq = Seq(Seq::MAX.0 + 1),
            |manifest| manifest.segments[0].first_seq = Seq(Seq::MAX.0 + 1),
            |manifest| manifest.segments[0].filtered = Seq(Seq::MAX.0 + 1),
        ];
        assert!(changes.into_iter().all(refused));
    }

    #[test]
    fn check_room_fails_if_a_counter_is_at_its_end() {
        assert_eq!(sample().check_room(), Ok(()));
        let changes: [fn(&mut Manifest); 5] = [
            |manifest| manifest.generation = COUNTER_MAX,
            |manifest| manifest.incarnation = COUNTER_MAX,
            |manifest| manifest.next_segment = SegmentId(COUNTER_MAX),
            |manifest| manifest.checkpoint = COUNTER_MAX,
            |manifest| manifest.next_seq = Seq::MAX,
        ];
        for change in changes {
            let mut manifest = sample();
            change(&mut manifest);
            assert!(
                Manifest::decode(&manifest.encode()).is_ok(),
                "it is only the next one that would not be"
            );
            assert!(manifest.check_room().is_err());
        }
    }

    #[test]
    fn counters_that_no_store_reaches_are_refused() {
        let changes: [fn(&mut Manifest); 4] = [
            |manifest| manifest.generation = COUNTER_MAX + 1,
            |manifest| manifest.incarnation = COUNTER_MAX + 1,
            |manifest| manifest.next_segment = SegmentId(COUNTER_MAX + 1),
            |manifest| manifest.checkpoint = COUNTER_MAX + 1,
        ];
        for change in changes {
            let mut manifest = sample();
            change(&mut manifest);
            let refused = Defect::BadField("generation, incarnation, segment or checkpoint number");
            assert_eq!(Manifest::decode(&manifest.encode()), Err(refused));
        }
    }

    #[test]
    fn manifest_counts_without_entries_are_refused_early() {
        let mut bytes = sample().encode();
        bytes[120..128].copy_from_slice(&[0xff; 8]);
        let sum = sum(&bytes).to_le_bytes();
        bytes[SUM_OFFSET..][..4].copy_from_slice(&sum);
        assert_eq!(Manifest::decode(&bytes), Err(Defect::Truncated));
    }

    #[test]
    fn a_newer_format_is_named_and_not_called_damage() {
        let mut bytes = sample().encode();
        bytes[10] = 2;
        assert_eq!(Manifest::decode(&bytes), Ok(Err(2)));
    }

    #[test]
    fn segments_out_of_order_are_refused() {
        let mut manifest = sample();
        manifest.segments.swap(0, 1);
        assert_eq!(Manifest::decode(&manifest.encode()), Err(Defect::BadField("segment numbers")));
    }
}
