//! The work on the indexes that an open has put off, by part: to put in the records that hints stand
//! for and those that it read beside them, and to remove entries that lead to segments that are gone.
//!
//! Reading a part touches each chunk once, and so does reading several parts that follow each other.
//! The engine puts the records into the indexes when a search needs the part, or in the background.
//!
//! **Memory.** The fronts of the chunks, and 24 bytes for each record that was read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::hints::UsedChunk;
use super::record_batch::{GatheredRecord, KeyspaceGroup};
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::hint::{HintChunk, HintEntry, HintPart, PART_SIZE, PARTS, part_of};
use crate::format::{Defect, KeyspaceId, SegmentId, file_name};
use crate::fs::{Access, Dir, File, read_exact_at};
use crate::index::hash::parts::WaitingParts;
use crate::log::segment::Segment;
use crate::mem::address_space::GranuleRange;
use crate::mem::alloc;
use crate::mem::gone_ranges::GoneRanges;
use crate::mem::location::Location;

/// The records that are read together, about: some milliseconds of work.
const GROUP_RECORDS: usize = 1 << 14;
/// The most parts that are read together.
const GROUP_MAX: usize = 64;

/// A value or a tombstone that is not in its index yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HintedRecord {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) hash: Hash,
    pub(crate) location: Location,
    pub(crate) is_tombstone: bool,
}

/// A chunk, and the place of its records.
#[derive(Debug)]
struct HintedChunk {
    front: HintChunk,
    at: u64,
    segment: SegmentId,
    range: GranuleRange,
}

/// The records that are not in the indexes yet.
#[derive(Debug)]
pub(crate) struct HintedParts {
    /// The parts whose records are not in the indexes.
    pub(crate) waiting: Arc<WaitingParts>,
    /// The keyspaces with entries that lead to segments that are gone.
    pub(crate) to_purge: Vec<KeyspaceId>,
    chunks: Vec<HintedChunk>,
    /// Records that were read, in the order of the parts once `sort` was called.
    gathered: Vec<(KeyspaceId, GatheredRecord)>,
    /// The start of each part in `gathered`, and the end of the last one.
    starts: Vec<usize>,
}

impl HintedParts {
    /// Starts without a record, for the store at `path`. The entries of `to_purge` that lead to segments
    /// that are gone are removed with the parts.
    pub(super) fn new(path: &Path, gone: Arc<GoneRanges>, to_purge: Vec<KeyspaceId>) -> Self {
        let waiting = Arc::new(WaitingParts::all(path, gone));
        Self { waiting, to_purge, chunks: Vec::new(), gathered: Vec::new(), starts: Vec::new() }
    }

    /// Adds the records of a chunk.
    pub(super) fn add_chunk(&mut self, segment: &Segment, chunk: &UsedChunk) {
        let (front, at) = (chunk.front.clone(), chunk.at);
        self.chunks.push(HintedChunk { front, at, segment: segment.id(), range: segment.range() });
    }

    /// Adds records that were read.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn gather(&mut self, segment: &Segment, group: &KeyspaceGroup) -> Result<()> {
        let room = alloc::reserve(&mut self.gathered, group.entries.len());
        room.map_err(|error| segment.io("read", error))?;
        self.gathered.extend(group.entries.iter().map(|entry| (group.id, *entry)));
        Ok(())
    }

    /// Puts the records that were read in the order of their parts, after the last one.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn sort(&mut self) -> io::Result<()> {
        (self.gathered, self.starts) = in_parts(&self.gathered, |(_, record)| record.hash)?;
        Ok(())
    }

    /// Returns the keyspaces with records here, and the number of their values.
    pub(super) fn keyspaces(&self) -> BTreeMap<KeyspaceId, u64> {
        let mut counts = BTreeMap::new();
        for keyspace in self.chunks.iter().flat_map(|chunk| &chunk.front.keyspaces) {
            *counts.entry(keyspace.id).or_insert(0) += u64::from(keyspace.count);
        }
        for (id, record) in &self.gathered {
            *counts.entry(*id).or_insert(0) += u64::from(!record.is_tombstone());
        }
        counts
    }

    /// Returns about how many keys each keyspace has here, by the hashes of one part.
    pub(super) fn estimate(&self, dir: &dyn Dir) -> BTreeMap<KeyspaceId, u64> {
        // A damaged part is found again when it is needed.
        let records = self.read(dir, 0..1).unwrap_or_default();
        let hashes: BTreeSet<_> =
            records.iter().flatten().map(|record| (record.keyspace, record.hash.to_bits())).collect();
        let mut keys = BTreeMap::new();
        for (id, _) in hashes {
            *keys.entry(id).or_insert(0) += PARTS as u64;
        }
        keys
    }

    /// Returns the number of parts that are worth reading together.
    pub(crate) fn group(&self) -> usize {
        let hinted = self.chunks.iter().map(|chunk| chunk.front.entries as usize).sum::<usize>();
        let each = (hinted + self.gathered.len()) / PARTS;
        (GROUP_RECORDS / each.max(1)).clamp(1, GROUP_MAX)
    }

    /// Reads the records of some parts, in each those of one segment in the order of the log.
    ///
    /// # Errors
    ///
    /// An error about a hint file, if it is damaged or cannot be read.
    pub(crate) fn read(&self, dir: &dyn Dir, parts: Range<usize>) -> Result<Vec<Vec<HintedRecord>>> {
        let mut read = vec![Vec::new(); parts.len()];
        let mut opened: Option<(SegmentId, Arc<dyn File>)> = None;
        for chunk in &self.chunks {
            let path = || dir.path().join(file_name::hint(chunk.segment));
            let file = match opened.take().filter(|(id, _)| *id == chunk.segment) {
                Some((_, file)) => file,
                None => {
                    let file = dir.open(&file_name::hint(chunk.segment), Access::Read);
                    file.map_err(|error| Error::io("open", path(), error))?
                }
            };
            let io = |error| Error::io("read", path(), error);
            let damage = |defect| Error::Corrupt { path: path(), offset: chunk.at, defect };
            let PartBytes { places, bytes } = chunk.bytes(&*file, &parts, io, damage)?;
            let mut rest = bytes.as_slice();
            for ((part, records), (len, sum)) in parts.clone().zip(&mut read).zip(places) {
                let (bytes, behind) = rest.split_at(len);
                rest = behind;
                let entries = chunk.front.part(part, sum, bytes).map_err(damage)?;
                alloc::reserve(records, entries.len()).map_err(io)?;
                records.extend(entries.iter().map(|entry| chunk.record(entry)));
            }
            opened = Some((chunk.segment, file));
        }
        for (part, records) in parts.zip(&mut read) {
            let gathered = &self.gathered[self.starts[part]..self.starts[part + 1]];
            records.extend(gathered.iter().map(|(keyspace, record)| HintedRecord {
                keyspace: *keyspace,
                hash: record.hash,
                location: record.location(),
                is_tombstone: record.is_tombstone(),
            }));
        }
        Ok(read)
    }
}

/// Returns the items in the order of their parts, and the start of each part, with the end of the last.
/// Those of one part keep their order.
///
/// # Errors
///
/// Returns an error if memory is short.
pub(crate) fn in_parts<T: Copy>(items: &[T], hash: impl Fn(&T) -> Hash) -> io::Result<(Vec<T>, Vec<usize>)> {
    let mut starts = vec![0; PARTS + 1];
    for item in items {
        starts[part_of(hash(item)) + 1] += 1;
    }
    for part in 0..PARTS {
        starts[part + 1] += starts[part];
    }
    let mut next = starts.clone();
    let mut placed = alloc::with_capacity(items.len())?;
    placed.extend_from_slice(items);
    for item in items {
        let place = &mut next[part_of(hash(item))];
        placed[*place] = *item;
        *place += 1;
    }
    Ok((placed, starts))
}

/// The entries of some parts of a chunk, as they are in the file.
struct PartBytes {
    /// The length in bytes and the checksum of each part.
    places: Vec<(usize, u32)>,
    bytes: Vec<u8>,
}

/// Returns the length of some entries.
fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("at most 16 bytes for each of 2^32")
}

impl HintedChunk {
    fn record(&self, entry: &HintEntry) -> HintedRecord {
        HintedRecord {
            keyspace: self.front.keyspaces[entry.keyspace as usize].id,
            hash: entry.hash,
            location: self.range.at(entry.offset),
            is_tombstone: entry.is_tombstone,
        }
    }

    /// Reads the entries of some parts.
    fn bytes(
        &self,
        file: &dyn File,
        parts: &Range<usize>,
        io: impl Fn(io::Error) -> Error,
        damage: impl Fn(Defect) -> Error,
    ) -> Result<PartBytes> {
        let table = self.at + self.front.front_len() as u64;
        // The end of the part before is the start of the first.
        let before = usize::from(parts.start > 0);
        let mut table_bytes = vec![0; (before + parts.len()) * PART_SIZE];
        let read = |buffer: &mut [u8], at| {
            read_exact_at(file, buffer, at).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => damage(Defect::Truncated),
                _ => io(error),
            })
        };
        read(&mut table_bytes, table + ((parts.start - before) * PART_SIZE) as u64)?;
        let (decoded, _) = table_bytes.as_chunks::<PART_SIZE>();
        let mut end = if before == 1 { HintPart::decode(decoded[0]).end } else { 0 };
        let (mut places, mut whole) = (Vec::with_capacity(parts.len()), 0..0);
        for place in decoded[before..].iter().map(|bytes| HintPart::decode(*bytes)) {
            let range = self.front.part_range(end, place).map_err(&damage)?;
            let start = if places.is_empty() { range.start } else { whole.start };
            whole = start..range.end;
            places.push((len_of(&range), place.sum));
            end = place.end;
        }
        let mut bytes = alloc::zeros(len_of(&whole)).map_err(&io)?;
        read(&mut bytes, self.at + whole.start)?;
        Ok(PartBytes { places, bytes })
    }
}
