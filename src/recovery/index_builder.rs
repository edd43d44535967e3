//! The index of one keyspace, filled from the records of the log: by recovery, and by the rebuild
//! of an index whose checkpoint is damaged.
//!
//! Records are gathered, and put into the index many at a time, in the order of its buckets. In the
//! order of the log, a large index's lines are far apart, and each record would wait for memory.
//! Several threads take parts of the records, with disjoint buckets. One thread counts their
//! findings. Records of an ordered keyspace are sorted by their keys (`sorted_records`), and put into
//! the tree in this order (`tree_filling`).
//!
//! **Order.** The newest sequence number wins, in any order of records. So a tombstone keeps an
//! entry until everything has been read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::build_context::{BuildContext, Superseded, key_at};
use super::build_findings::BuildFindings;
use super::record_batch::{GatheredRecord, KeyspaceGroup};
use super::sorted_records::SortedRecords;
use super::tree_filling::TreeFilling;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::format::hash::Hash;
use crate::format::record::RecordKind;
use crate::format::record_reader::RecordAt;
use crate::index::hash::Index;
use crate::index::hash::partition::Partition;
use crate::index::key_index::SearchKey;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::index::lines::block_error::BlockError;
use crate::log::segment::Segment;
use crate::mem::address_space::AddressSpace;
use crate::mem::alloc;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The part of the usual number of gathered records that suffices for a small hash index.
const FIRST_SHARE: usize = 16;
/// The most that are gathered for a tree, as a multiple of the usual number.
const TREE_SHARES: usize = 8;
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

/// Returns the number of gathered records from which they are put into the index of a keyspace that has so many
/// keys. `usual` is that of a large hash index.
///
/// A hash index that gets as many as it has keys grows for as many keys as they turned out to be, so its chains
/// are at most twice as long as they should be. A tree does not grow for later records. Each time, most of its
/// leaves are built anew, so it gets as many as it has keys, which takes fewer times.
fn enough(id: KeyspaceId, keys: usize, usual: usize) -> usize {
    if id.is_ordered() {
        keys.clamp(usual, usual * TREE_SHARES)
    } else {
        keys.clamp(usual / FIRST_SHARE, usual)
    }
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

    /// Returns true if the gathered records are enough; `all` are gathered for all indexes.
    pub(super) fn is_due(&self, all: usize, usual: usize) -> bool {
        let enough = enough(self.id, self.slot.index.len(), usual);
        self.gathered.len() >= enough || all >= enough.max(usual)
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
        let threads = with.threads_for(sorted.len());
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

    /// Puts the gathered records into a tree, in the order of their keys.
    fn put_into_tree(&mut self, with: &BuildContext<'_>) -> Result<()> {
        let sorted = SortedRecords::of(with, std::mem::take(&mut self.gathered))?;
        let pin = with.space.domain().pin();
        let mut filling = TreeFilling::new(with, &sorted.records, &pin);
        if let Some(tree) = self.slot.index.sorted() {
            filling.fill(tree, sorted.is_series)?;
        }
        let found = filling.into_found();
        sorted.found.into_iter().chain([found]).try_for_each(|found| self.note(with, found))
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
        let is_found = found.is_some();
        if let Some(other) = found {
            if !self.found.is_newer(with, other, location, pin)? {
                return Ok(true);
            }
            shard.replace(entry.hash, other, location);
        }
        if entry.is_tombstone() {
            self.found.note_tombstone(with, entry.hash, location)?;
        }
        Ok(is_found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tuning::Tuning;

    /// Returns the number of times that ten million new keys are put into an index.
    fn times(id: KeyspaceId) -> usize {
        let (mut keys, mut times) = (0, 0);
        while keys < 10_000_000 {
            keys += enough(id, keys, Tuning::REAL.gathered);
            times += 1;
        }
        times
    }

    #[test]
    fn leaves_of_a_tree_are_built_anew_a_few_times() {
        assert_eq!(times(KeyspaceId::DEFAULT), 43);
        assert_eq!(times(KeyspaceId::DEFAULT.ordered()), 8);
    }
}
