//! Hints of a segment: deciding which of them an open uses instead of reading records.
//!
//! **Rule.** A chunk stands for its records if they are certainly in the file:
//!
//! - they are copies that the manifest names: those were durable before; or
//! - their last number is known to be durable; or
//! - the kernel still has every page of the writer before ([`HintUse::All`]).
//!
//! The chunks that are used follow each other from the place where reading would begin. At the first
//! one that does not fit, reading begins. Nothing here is an error of the open: the log holds all
//! information of a hint.
//!
//! A wrong trust gives no wrong answer. Entries from hints are unverified, so the first read of a
//! record verifies it, and the rewrite after the open verifies everything that is not known to be
//! durable.

use super::record_batch::Begin;
use crate::error::Result;
use crate::format::hash::HASH_ID;
use crate::format::hint::{HINT_HEADER_SIZE, HintChunk};
use crate::format::record::{HEADER_SIZE, RawHeader, RecordKind, RecordPlace};
use crate::format::record_reader::{Order, READ_MAX, ReadAt, ReadStep, RecordAt, RecordReader};
use crate::format::segment_header::Role;
use crate::format::{Seq, StoreId, file_name};
use crate::fs::{Access, Dir, File, read_exact_at};
use crate::log::segment::Segment;
use crate::log::segment_reader::SegmentReader;
use crate::mem::alloc;

/// Bytes that are read of each front at first: usually all of it.
const FIRST_READ: usize = 512;

/// The hints that an open may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HintUse {
    /// None.
    Never,
    /// Those of records that are known to be durable.
    Durable,
    /// All: the kernel still has every page of the writer before.
    All,
}

/// Keyspace changes with their payloads.
pub(super) type PlacedNotes = Vec<(RecordAt, Box<[u8]>)>;

/// A chunk that is used.
#[derive(Debug)]
pub(crate) struct UsedChunk {
    pub(crate) front: HintChunk,
    /// The offset of the chunk in its file.
    pub(crate) at: u64,
    /// The keyspace changes in its range.
    pub(super) notes: PlacedNotes,
    /// The bytes of it that were read.
    pub(super) bytes_read: u64,
}

/// The chunks of one segment, read one after the other.
struct HintReader<'a> {
    segment: &'a Segment,
    store: StoreId,
    file: std::sync::Arc<dyn File>,
    size: u64,
    at: u64,
}

/// Returns the chunks of a segment that stand for its records from `begin` on, up to `limit` at most.
/// `is_sure` says if the records up to a number are certainly in the file.
pub(super) fn usable(
    dir: &dyn Dir,
    store: StoreId,
    segment: &Segment,
    source: &mut SegmentReader,
    (begin, limit): (Begin, u64),
    is_sure: impl Fn(Seq) -> bool,
) -> Vec<UsedChunk> {
    let mut used = Vec::new();
    let Ok(file) = dir.open(&file_name::hint(segment.id()), Access::Read) else { return used };
    let Ok(identity) = file.identity() else { return used };
    let mut reader = HintReader { segment, store, file, size: identity.size, at: 0 };
    let Begin { offset: mut next, mut last } = begin;
    // Copies are in no order.
    let is_ordered = segment.role() == Role::Log;
    while let Some((front, at, bytes_read)) = reader.next() {
        if front.to <= next {
            continue;
        }
        let follows = front.from == next && (!is_ordered || last.is_none_or(|last| last < front.first));
        // A tree needs the keys, which no hint has.
        let has_ordered = front.keyspaces.iter().any(|keyspace| keyspace.id.is_ordered());
        if !follows || front.to > limit || !is_sure(front.last) || has_ordered {
            break;
        }
        let Ok(Some(notes)) = checked(segment, source, &front) else { break };
        (next, last) = (front.to, Some(front.last));
        used.push(UsedChunk { front, at, notes, bytes_read });
    }
    used
}

impl HintReader<'_> {
    /// Returns the next front, the offset of its chunk, and the bytes read for it. `None` at the end,
    /// and where a chunk is damaged or belongs to another file.
    fn next(&mut self) -> Option<(HintChunk, u64, u64)> {
        let (at, left) = (self.at, self.size.checked_sub(self.at)?);
        let first = FIRST_READ.min(usize::try_from(left).unwrap_or(FIRST_READ));
        if first < HINT_HEADER_SIZE {
            return None;
        }
        let mut bytes = vec![0; first];
        read_exact_at(&*self.file, &mut bytes, at).ok()?;
        let len = HintChunk::claimed_front_len(&bytes, left).ok()?;
        if len > first {
            alloc::resize(&mut bytes, len).ok()?;
            read_exact_at(&*self.file, &mut bytes[first..], at + first as u64).ok()?;
        }
        let front = HintChunk::decode(&bytes, left).ok()?;
        let is_of = front.store == self.store
            && front.segment == self.segment.id()
            && front.nonce == self.segment.nonce()
            && front.hash_id == HASH_ID;
        self.at = at + front.size();
        is_of.then_some((front, at, bytes.len() as u64))
    }
}

/// Returns the keyspace changes in the range of a chunk. `None` if they or its last record are not in
/// the file: then the file is not the one that the hint describes.
fn checked(segment: &Segment, source: &mut SegmentReader, front: &HintChunk) -> Result<Option<PlacedNotes>> {
    let mut header = [0; HEADER_SIZE];
    if front.to - front.last_at < HEADER_SIZE as u64 {
        return Ok(None);
    }
    source.read_into(&mut header, front.last_at)?;
    let place = RecordPlace { nonce: segment.nonce(), offset: front.last_at };
    let last = RawHeader::new(&header).validate(place, front.to - front.last_at);
    if !last.is_ok_and(|last| last.seq == front.last && front.last_at + last.size() == front.to) {
        return Ok(None);
    }
    let mut notes = Vec::new();
    for offset in &front.changes {
        let step = RecordReader::new(segment.nonce(), *offset, front.to, Order::Any).step(source)?;
        let ReadStep::Record(placed) = step else { return Ok(None) };
        let len = usize::try_from(placed.header.payload_len()).unwrap_or(READ_MAX);
        if placed.header.kind != RecordKind::Keyspace || len > READ_MAX {
            return Ok(None);
        }
        notes.push((placed, source.bytes(offset + HEADER_SIZE as u64, len)?.into()));
    }
    Ok(Some(notes))
}
