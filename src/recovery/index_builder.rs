//! The index of one keyspace, filled from the records of the log: by recovery, and by the rebuild
//! of an index whose checkpoint is damaged.
//!
//! Records are gathered, and put into the index many at a time, in the order of its buckets. In the
//! order of the log, a large index's lines are far apart, and each record would wait for memory.
//! Several threads take parts of the records, with disjoint buckets. One thread counts their
//! findings.
//!
//! **Order.** The newest sequence number wins, in any order of records. So a tombstone keeps an
//! entry until everything has been read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record_batch::{GatheredRecord, KeyspaceGroup};
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::format::record::RecordKind;
use crate::format::record_reader::RecordAt;
use crate::format::{Defect, KeyspaceId};
use crate::fs::tuning::Tuning;
use crate::index::hash::Index;
use crate::index::hash::partition::Partition;
use crate::index::key_index::SearchKey;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::index::lines::block_error::BlockError;
use crate::index::tree::Tree;
use crate::log::segment::Segment;
use crate::mem::address_space::{AddressSpace, Record};
use crate::mem::alloc;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The parts that gathered records are sorted into by bucket, a power of two.
///
/// The buckets of one part fit into a processor's cache, up to some millions of keys.
const PARTS_BITS: u32 = 8;
const PARTS: usize = 1 << PARTS_BITS;
/// The number of records between the prefetches for one record: its line, the next line, the
/// records they lead to, and its turn.
const AHEAD: usize = 10;

/// The number of records after a repeated key for which the records in the index are prefetched,
/// too.
const LOOKED_FOR: u32 = 64;

/// The records of one keyspace.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    pub(super) id: KeyspaceId,
    /// The segment and the offset of the first record read. `None` if a checkpoint has the
    /// keyspace.
    pub(super) first: Option<(Arc<Segment>, u64)>,
    pub(super) slot: KeyspaceIndex,
    /// Entries that lead to tombstones.
    tombstones: Vec<(Hash, Location)>,
    /// Bytes of the records that are the newest of their key in the index, and of all that are not
    /// in it yet.
    pub(super) live_bytes: u64,
    /// The records that are not in the index yet. Their values count as live.
    gathered: Vec<GatheredRecord>,
}

impl IndexBuilder {
    /// Returns a keyspace of which nothing is known.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn new(id: KeyspaceId, segment: &Arc<Segment>, offset: u64) -> Result<Self> {
        let slot = KeyspaceIndex::empty(id, segment.path())?;
        let first = Some((Arc::clone(segment), offset));
        Ok(Self { id, first, slot, tombstones: Vec::new(), live_bytes: 0, gathered: Vec::new() })
    }

    /// Returns a keyspace that is known to exist, with the index and the live bytes so far.
    pub(crate) fn known(id: KeyspaceId, slot: KeyspaceIndex, live_bytes: u64) -> Self {
        Self { id, first: None, slot, tombstones: Vec::new(), live_bytes, gathered: Vec::new() }
    }

    /// Gathers records of a segment.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn gather(&mut self, segment: &Segment, group: &KeyspaceGroup) -> Result<()> {
        alloc::reserve(&mut self.gathered, group.entries.len()).map_err(|error| segment.io("read", error))?;
        self.count(segment, group);
        self.gathered.extend_from_slice(&group.entries);
        Ok(())
    }

    /// Counts the values of a segment as live.
    pub(super) fn count(&mut self, segment: &Segment, group: &KeyspaceGroup) {
        self.slot.add_live(segment.mapping().ordinal(), group.values_size);
        self.live_bytes += group.values_size;
    }

    /// Gathers a value or a tombstone of a segment.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(super) fn gather_one(&mut self, segment: &Segment, placed: &RecordAt, hash: Hash) -> Result<()> {
        alloc::reserve(&mut self.gathered, 1).map_err(|error| segment.io("read", error))?;
        let (header, is_tombstone) = (&placed.header, placed.header.kind == RecordKind::Tombstone);
        if !is_tombstone {
            self.slot.add_live(segment.mapping().ordinal(), header.size());
            self.live_bytes += header.size();
        }
        self.gathered.push(GatheredRecord::new(hash, segment.range().at(placed.offset), is_tombstone));
        Ok(())
    }

    /// Returns true if as many records were gathered as there are keys, and at least `least`.
    pub(super) fn has_enough(&self, least: usize) -> bool {
        self.gathered.len() >= self.slot.index.len().max(least)
    }

    /// Puts the gathered records into the index, with at most `with.threads` threads.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or about the checkpoint if its index cannot be read.
    pub(super) fn flush(&mut self, with: &BuildContext<'_>, sorted: &mut Vec<GatheredRecord>) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let Some(writer) = self.slot.index.hashed() else { return self.put_into_tree(with) };
        let index = Arc::clone(writer.index());
        sorted.clear();
        alloc::reserve(sorted, self.gathered.len()).map_err(|error| with.failed(error))?;
        let starts = sort(&self.gathered, sorted, &index);
        if with.alone {
            self.gathered.clear();
        } else {
            // This frees its memory, since there may be thousands of keyspaces.
            self.gathered = Vec::new();
        }
        let threads = if sorted.len() < with.tuning.few { 1 } else { with.threads };
        // A few turns for each thread, so that none waits for long at the end.
        let parts = if threads == 1 { PARTS } else { PARTS.div_ceil(threads * 4) };
        let next = AtomicUsize::new(0);
        let found = writer.fill(threads, with.tuning, |shard| {
            let mut filling = Filling {
                with,
                index: &index,
                found: BuildFindings::default(),
                pin: with.space.domain().pin(),
            };
            loop {
                // Relaxed: only the number matters.
                let first = next.fetch_add(parts, Ordering::Relaxed);
                if first >= PARTS {
                    return Ok::<_, Error>(filling.found);
                }
                filling.take(shard, &sorted[starts[first]..starts[PARTS.min(first + parts)]])?;
            }
        })?;
        for found in found {
            self.note(with, found)?;
        }
        let Some(writer) = self.slot.index.hashed() else { return Ok(()) };
        writer.grow(threads, with.tuning).map_err(|error| with.failed(error))
    }

    /// Puts the gathered records into a tree, one after the other.
    fn put_into_tree(&mut self, with: &BuildContext<'_>) -> Result<()> {
        let pin = with.space.domain().pin();
        let mut found = BuildFindings::default();
        for entry in std::mem::take(&mut self.gathered) {
            let location = entry.location();
            let key = with.key_at(location, true, &pin)?;
            if key.len() > MAX_ORDERED_KEY_LEN {
                if entry.is_tombstone() {
                    // It hides nothing.
                    continue;
                }
                let (path, defect) = (with.path.to_owned(), Defect::BadField("key_len"));
                return Err(Error::Corrupt { path, offset: 0, defect });
            }
            let Some(tree) = self.slot.index.sorted() else { continue };
            let index = Arc::clone(tree.tree());
            // A record that nothing has read may hide the key. The insert then meets it as well, and
            // verifies it.
            let compare = |other| Ok::<_, Error>(with.key_at(other, true, &pin)?.cmp(key));
            if let Some(other) = tree.find(key, compare)? {
                if found.is_newer(with, other, entry, &pin)? {
                    tree.replace(key, other, location);
                }
                continue;
            }
            tree.reserve(1).map_err(|error| with.failed(error))?;
            let mut failed = None;
            tree.insert(key, location, |other, is_verified| {
                with.key_at(other, is_verified, &pin).inspect_err(|error| failed = Some(error.clone())).ok()
            });
            if let Some(error) = failed.filter(|_| index.has_ended()) {
                return Err(refusal(&index, error));
            }
            found.note(with, entry)?;
        }
        self.note(with, found)
    }

    /// Records the findings of a thread.
    fn note(&mut self, with: &BuildContext<'_>, found: BuildFindings) -> Result<()> {
        for (ordinal, (location, hidden)) in found.hidden {
            if with.superseded == Superseded::Count {
                with.space.add_dead(location, DeadCause::Hidden, hidden);
            }
            self.slot.sub_live(ordinal, hidden);
            self.live_bytes -= hidden;
        }
        let room = alloc::reserve(&mut self.tombstones, found.tombstones.len());
        room.map_err(|error| with.failed(error))?;
        self.tombstones.extend(found.tombstones);
        Ok(())
    }

    /// Returns the index without the entries of tombstones, after everything was read and flushed.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or the key of a tombstone in a tree cannot be read.
    pub(crate) fn finish(self, space: &AddressSpace, path: &Path) -> Result<(KeyspaceIndex, u64)> {
        debug_assert!(self.gathered.is_empty(), "settled before");
        let mut slot = self.slot;
        let pin = space.domain().pin();
        for (hash, location) in self.tombstones {
            if let Some(writer) = slot.index.hashed() {
                writer.remove(hash, location);
                continue;
            }
            let key = SearchKey { bytes: key_at(space, path, (location, true), &pin)?, hash };
            let reserved = slot.index.reserve_removals(1);
            reserved.map_err(|error| Error::io("grow the index for", path, error))?;
            slot.index.remove(key, location, |other, is_verified| {
                key_at(space, path, (other, is_verified), &pin).ok()
            });
        }
        Ok((slot, self.live_bytes))
    }
}

/// The accounting of records that a newer one supersedes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Superseded {
    /// Their bytes become dead.
    Count,
    /// Their bytes are counted as dead already.
    IsCounted,
}

/// The inputs of all threads that fill an index.
#[derive(Debug)]
pub(super) struct BuildContext<'a> {
    pub(super) tuning: Tuning,
    pub(super) space: &'a AddressSpace,
    /// The store's directory.
    pub(super) path: &'a Path,
    /// The most threads to use.
    pub(super) threads: usize,
    /// True if there is only one keyspace.
    pub(super) alone: bool,
    pub(super) superseded: Superseded,
}

impl BuildContext<'_> {
    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("grow the index for", self.path, error)
    }

    /// Returns the record at a location.
    fn record_at<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        record_at(self.space, self.path, location, pin)
    }

    /// Returns the key in the record at a location. The record is verified unless `is_verified` says that
    /// it was.
    fn key_at<'p>(&'p self, location: Location, is_verified: bool, pin: &'p Pin) -> Result<&'p [u8]> {
        key_at(self.space, self.path, (location, is_verified), pin)
    }
}

/// Returns the error for a record that cannot decide about another one. A checkpoint that leads to it is
/// not used: an open then reads the record as well, and says where it lies.
fn refusal(tree: &Tree, error: Error) -> Error {
    match error {
        Error::Corrupt { defect, .. } if tree.is_from_checkpoint() => tree.lines().refused(defect).into(),
        other => other,
    }
}

/// Returns a record that was read and published before.
fn record_at<'p>(
    space: &'p AddressSpace,
    path: &Path,
    location: Location,
    pin: &'p Pin,
) -> Result<Record<'p>> {
    space.reach(location, pin)?;
    let lost = || Error::io("read", path, std::io::Error::other("a record changed while it was read"));
    let record = space.find(location, pin)?.ok_or_else(lost)?;
    record.unreadable().map_or(Ok(record), Err)
}

/// Returns the key of a record that was published before. The record is verified unless the flag says
/// that it was read.
fn key_at<'p>(
    space: &'p AddressSpace,
    path: &Path,
    (location, is_verified): (Location, bool),
    pin: &'p Pin,
) -> Result<&'p [u8]> {
    let record = record_at(space, path, location, pin)?;
    let key = record.key();
    let found = if is_verified { Ok(()) } else { record.verify() };
    // The key, too, may lie on a page that cannot be read.
    record.unreadable().map_or(Ok(()), Err)?;
    found.map(|()| key).map_err(|defect| Error::Corrupt { path: path.to_owned(), offset: 0, defect })
}

/// The findings of one thread that fills an index.
#[derive(Debug, Default)]
struct BuildFindings {
    /// Entries that lead to tombstones.
    tombstones: Vec<(Hash, Location)>,
    /// Bytes of superseded values, by the ordinal of their segment, with a location in it.
    hidden: BTreeMap<usize, (Location, u64)>,
}

/// One thread that fills an index.
struct Filling<'a> {
    with: &'a BuildContext<'a>,
    index: &'a Index,
    found: BuildFindings,
    pin: Pin,
}

impl Filling<'_> {
    /// Puts records into the index, in the order of their buckets.
    fn take(&mut self, shard: &mut Partition<'_>, sorted: &[GatheredRecord]) -> Result<()> {
        let (space, index) = (self.with.space, self.index);
        let mut found = 0u32;
        for (n, entry) in sorted.iter().enumerate() {
            // None of this memory is in the cache, and each line leads to the next.
            if let Some(next) = sorted.get(n + 3 * AHEAD) {
                index.prefetch(next.hash);
            }
            if let Some(next) = sorted.get(n + 2 * AHEAD) {
                index.prefetch_next(next.hash);
            }
            if let Some(next) = sorted.get(n + AHEAD).filter(|_| found > 0) {
                // A line that cannot be read is an error of the search that follows.
                drop(index.find(next.hash, |location| {
                    space.prefetch(location);
                    space.prefetch(next.location());
                    Ok::<bool, BlockError>(false)
                }));
            }
            // Where keys repeat, they repeat all the time.
            found = if self.newest(shard, *entry)? { LOOKED_FOR } else { found.saturating_sub(1) };
        }
        Ok(())
    }

    /// Makes a record the newest of its key, if it is. Returns true if there was another one.
    fn newest(&mut self, shard: &mut Partition<'_>, entry: GatheredRecord) -> Result<bool> {
        let (with, pin, location) = (self.with, &self.pin, entry.location());
        shard.reserve().map_err(|error| with.failed(error))?;
        // Only read if the tag matches, and then the key is almost always equal.
        let found = shard.find_or_insert(entry.hash, location, |other| {
            with.space.reach(other, pin)?;
            let (Some(other), own) = (with.space.find(other, pin)?, with.record_at(location, pin)?) else {
                return Ok(false);
            };
            let same = other.key() == own.key();
            // The keys, too, may lie on pages that cannot be read.
            other.unreadable().or_else(|| own.unreadable()).map_or(Ok(same), Err)
        })?;
        let Some(other) = found else {
            self.found.note(with, entry)?;
            return Ok(false);
        };
        if self.found.is_newer(with, other, entry, pin)? {
            shard.replace(entry.hash, other, location);
        }
        Ok(true)
    }
}

impl BuildFindings {
    /// Returns true if a record of a key is newer than the one at `other`. Notes the older one.
    fn is_newer(
        &mut self,
        with: &BuildContext<'_>,
        other: Location,
        entry: GatheredRecord,
        pin: &Pin,
    ) -> Result<bool> {
        let facts = |location| {
            let record = with.record_at(location, pin)?;
            let facts = (record.header(), record.ordinal(), location);
            record.unreadable().map_or(Ok(facts), Err)
        };
        let (old, new) = (facts(other)?, facts(entry.location())?);
        let is_newer = old.0.seq < new.0.seq;
        let (hidden, ordinal, at) = if is_newer { old } else { new };
        if hidden.kind == RecordKind::Put {
            self.hidden.entry(ordinal).or_insert((at, 0)).1 += hidden.size();
        }
        if is_newer {
            self.note(with, entry)?;
        }
        Ok(is_newer)
    }

    /// Notes a record that the index leads to, if it is a tombstone.
    fn note(&mut self, with: &BuildContext<'_>, entry: GatheredRecord) -> Result<()> {
        if entry.is_tombstone() {
            alloc::reserve(&mut self.tombstones, 1).map_err(|error| with.failed(error))?;
            self.tombstones.push((entry.hash, entry.location()));
        }
        Ok(())
    }
}

/// Sorts entries roughly by bucket into `sorted`, which has the space. Entries of one part keep
/// their order.
///
/// Returns the start of each part, and the end of the last one.
fn sort(entries: &[GatheredRecord], sorted: &mut Vec<GatheredRecord>, index: &Index) -> [usize; PARTS + 1] {
    sorted.clear();
    let mut starts = [0; PARTS + 1];
    let Some(first) = entries.first() else { return starts };
    for entry in entries {
        starts[index.part_of(entry.hash, PARTS_BITS) + 1] += 1;
    }
    for part in 0..PARTS {
        starts[part + 1] += starts[part];
    }
    let mut ends = starts;
    sorted.resize(entries.len(), *first);
    for entry in entries {
        let at = &mut ends[index.part_of(entry.hash, PARTS_BITS)];
        sorted[*at] = *entry;
        *at += 1;
    }
    starts
}
