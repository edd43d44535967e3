//! Applying the log's records in order: to the indexes, the keyspace changes and the proofs of
//! durability.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::build_context::Superseded;
use super::hinted_parts::HintedParts;
use super::hints::UsedChunk;
use super::index_builder::IndexBuilder;
use super::index_builders::{IndexBuilders, StorePlace};
use super::read_ahead::ReadAhead;
use super::record_batch::{Begin, KeyspaceGroup, RecordBatch, Walked};
use super::recovered::RecoveredKeyspace;
use super::report::RecoveryReport;
use super::restore::Restored;
use super::tail_findings::change_of;
use crate::config::{RecoveryProgress, Tell};
use crate::error::{Error, Result};
use crate::format::hash::HashKey;
use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};
use crate::format::manifest::Manifest;
use crate::format::record_reader::RecordAt;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::fs::Dir;
use crate::index::hash::parts::WaitingParts;
use crate::index::keyspace_index::KeyspaceIndex;
use crate::log::segment::Segment;
use crate::mem::address_space::AddressSpace;
use crate::mem::dead_bytes::DeadCause;
use crate::mem::gone_ranges::GoneRanges;

/// Bytes between two reports of progress.
const TOLD_SPACING: u64 = 1 << 20;

/// Puts records into the indexes of their keyspaces.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) space: &'a AddressSpace,
    pub(crate) hash_key: &'a HashKey,
    /// The manifest, with the keyspaces of the log up to its durable number.
    listed: &'a Manifest,
    /// The numbers of its keyspaces, in ascending order.
    listed_ids: Vec<KeyspaceId>,
    /// The keyspaces that were dropped by records read so far.
    dropped: BTreeSet<KeyspaceId>,
    /// The records read, by keyspace.
    loading: IndexBuilders,
    /// The hash indexes with entries that lead to segments that are gone.
    to_purge: Vec<KeyspaceId>,
    /// The records that are put into the indexes later. `None` if all are put there at once.
    hinted: Option<HintedParts>,
    /// The store's directory.
    pub(super) dir: &'a dyn Dir,
    /// Changes to the keyspaces above the manifest's durable number, in the order they were read.
    changes: Vec<(Seq, KeyspaceChange, Arc<Segment>, u64)>,
    /// The greatest sequence number that is known to have been durable.
    pub(crate) durable: Seq,
    pub(crate) report: RecoveryReport,
    /// The progress callback, the progress so far, and the bytes read at the last report.
    tell: &'a Tell,
    progress: RecoveryProgress,
    told: u64,
}

/// The result of a replay.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// Every keyspace that exists.
    pub(crate) keyspaces: Vec<RecoveredKeyspace>,
    /// Their names, according to the log.
    pub(crate) names: KeyspaceSet,
    /// Their names, according to the log up to the number that is known to be durable.
    pub(crate) durable_names: KeyspaceSet,
    /// The changes from `durable_names` to `names`.
    pub(crate) pending: Vec<(Seq, KeyspaceChange)>,
    pub(crate) durable: Seq,
    /// The records that are not in the indexes yet.
    pub(crate) hinted: Option<HintedParts>,
    pub(crate) report: RecoveryReport,
}

impl<'a> Replay<'a> {
    /// Starts with only the manifest's knowledge.
    pub(crate) fn new(
        dir: &'a dyn Dir,
        space: &'a AddressSpace,
        hash_key: &'a HashKey,
        listed: &'a Manifest,
        durable: Seq,
        tell: &'a Tell,
    ) -> Self {
        let mut listed_ids: Vec<_> = listed.keyspaces.iter().map(|(_, named)| named.id).collect();
        listed_ids.sort_unstable();
        Self {
            space,
            hash_key,
            listed,
            listed_ids,
            dropped: BTreeSet::new(),
            loading: IndexBuilders::new(Superseded::Count),
            to_purge: Vec::new(),
            hinted: None,
            dir,
            changes: Vec::new(),
            durable,
            report: RecoveryReport::default(),
            tell,
            progress: RecoveryProgress::default(),
            told: 0,
        }
    }

    /// Sets the number of threads that put records into the indexes.
    pub(super) fn use_threads(&mut self, threads: usize) {
        self.loading.use_threads(threads);
    }

    /// Records the bytes to be read, at most.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.progress.bytes_total = bytes;
    }

    /// Reports progress.
    fn advance(&mut self, bytes: u64) {
        self.progress.bytes_read += bytes;
        if self.progress.bytes_read >= self.told + TOLD_SPACING {
            self.told = self.progress.bytes_read;
            self.tell.tell(self.progress);
        }
    }

    /// Continues from a checkpoint's index of a keyspace, before anything is read.
    pub(crate) fn restore(&mut self, Restored { id, slot, live_bytes, needs_purge }: Restored) {
        self.to_purge.extend(needs_purge.then_some(id));
        self.loading.add(IndexBuilder::known(id, slot, live_bytes));
        if self.listed_ids.binary_search(&id).is_err() {
            // Dropped since, and the manifest has already forgotten it.
            self.bury(id);
        }
    }

    /// Loads the checkpoint's indexes whole, because the records to read need them all over.
    ///
    /// # Errors
    ///
    /// An error about the checkpoint, if it cannot be read.
    pub(super) fn load_all(&self) -> Result<()> {
        for loading in self.loading.iter() {
            loading.slot.index.index().lines().load_all()?;
        }
        Ok(())
    }

    /// Puts the records into the hash indexes later, and then removes the entries that lead to segments
    /// that are gone.
    pub(super) fn put_off(&mut self, gone: Arc<GoneRanges>) {
        let (put_off, now) = self.to_purge.drain(..).partition(|id| !id.is_ordered());
        self.to_purge = now;
        self.hinted = Some(HintedParts::new(self.dir.path(), gone, put_off));
    }

    /// Returns true if a hash index has entries that lead to segments that are gone.
    pub(super) fn needs_purge(&self) -> bool {
        self.to_purge.iter().any(|id| !id.is_ordered())
    }

    /// Removes the entries that lead to segments that are gone, unless that was put off.
    ///
    /// # Errors
    ///
    /// The errors of [`KeyIndexWriter::purge`](crate::index::key_index::KeyIndexWriter::purge).
    pub(super) fn purge(&mut self, gone: &GoneRanges) -> io::Result<()> {
        for id in self.to_purge.drain(..) {
            if let Some(loading) = self.loading.get_mut(id) {
                loading.slot.index.purge(gone)?;
            }
        }
        Ok(())
    }

    /// Applies the records that a chunk of hints stands for, and publishes them.
    ///
    /// # Errors
    ///
    /// The errors of [`Replay::read`].
    pub(super) fn take_hint(&mut self, segment: &Arc<Segment>, chunk: &mut UsedChunk) -> Result<()> {
        let notes = std::mem::take(&mut chunk.notes);
        self.take(segment, &RecordBatch::of_hint(&chunk.front, notes))?;
        self.report.hinted_bytes += chunk.front.to - chunk.front.from;
        self.report.hint_bytes_read += chunk.bytes_read;
        if let Some(hinted) = &mut self.hinted {
            hinted.add_chunk(segment, chunk);
        }
        Ok(())
    }

    /// Applies the records of the next segment, and publishes them.
    ///
    /// # Errors
    ///
    /// Errors of the operating system. Bytes that form no record end the reading, and their meaning
    /// is decided elsewhere.
    pub(super) fn read(
        &mut self,
        ahead: &mut ReadAhead<'_>,
        segment: &Arc<Segment>,
        begin: Begin,
    ) -> Result<Walked> {
        let mut at = begin.offset;
        let walked = ahead.next(|piece| {
            self.take(segment, &piece)?;
            self.advance(piece.end - at);
            at = piece.end;
            Ok(())
        })?;
        self.report.bytes_read += walked.stop - begin.offset;
        Ok(walked)
    }

    /// Applies a batch of records.
    fn take(&mut self, segment: &Arc<Segment>, piece: &RecordBatch) -> Result<()> {
        // A write batch's header precedes its records. Publishing it alone shows none of them.
        segment.mapping().publish_existing(piece.end);
        self.report.records += piece.records;
        self.report.note_last(piece.last.unwrap_or(Seq::ZERO));
        segment.mapping().dead_bytes().add(DeadCause::Note, piece.notes_size);
        self.durable = self.durable.max(piece.durable.unwrap_or(Seq::ZERO));
        for (placed, payload) in &piece.notes {
            self.note_change(segment, placed, payload)?;
        }
        for group in &piece.groups {
            self.gather(segment, group)?;
        }
        Ok(())
    }

    /// Gathers the records of one keyspace.
    fn gather(&mut self, segment: &Arc<Segment>, group: &KeyspaceGroup) -> Result<()> {
        let dead_bytes = segment.mapping().dead_bytes();
        // A tombstone is always dead.
        dead_bytes.add(DeadCause::Tombstone, group.tombstones_size);
        if self.is_dropped(group.id) {
            dead_bytes.add(DeadCause::Hidden, group.values_size);
            return Ok(());
        }
        if !self.loading.has(group.id) {
            self.loading.add(IndexBuilder::new(group.id, segment, group.first)?);
        }
        // No hint stands for a record of a tree.
        if let Some(hinted) = self.hinted.as_mut().filter(|_| !group.id.is_ordered()) {
            self.loading.count(segment, group);
            return hinted.gather(segment, group);
        }
        self.loading.gather(self.store(), segment, group)
    }

    fn store(&self) -> StorePlace<'a> {
        StorePlace { dir: self.dir, space: self.space }
    }

    fn note_change(&mut self, segment: &Arc<Segment>, placed: &RecordAt, payload: &[u8]) -> Result<()> {
        let change = change_of(&placed.header, payload);
        let change = change.map_err(|defect| segment.corrupt_at(placed.offset, defect))?;
        // Up to its durable number, the manifest's keyspaces are those of the log.
        if placed.header.seq > self.listed.durable {
            match &change {
                KeyspaceChange::Clear { old: gone, .. } | KeyspaceChange::Drop { id: gone, .. } => {
                    self.bury(*gone)
                }
                KeyspaceChange::Create { .. } | KeyspaceChange::Rename { .. } => {}
            }
            self.changes.push((placed.header.seq, change, Arc::clone(segment), placed.offset));
        }
        Ok(())
    }

    /// Frees the index of a keyspace that a record dropped.
    ///
    /// A store that clears a keyspace again and again must not need memory for everything it ever
    /// held.
    fn bury(&mut self, id: KeyspaceId) {
        self.dropped.insert(id);
        if let Some(loading) = self.loading.remove(id) {
            for (ordinal, bytes) in loading.slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
    }

    /// Returns true if everything in a keyspace is dead, by the manifest or by the records read.
    fn is_dropped(&self, id: KeyspaceId) -> bool {
        if self.loading.is_current(id) {
            return false;
        }
        let is_older = id.number() < self.listed.keyspaces.next().0;
        let by_manifest = is_older && self.listed_ids.binary_search(&id).is_err();
        by_manifest || self.dropped.contains(&id)
    }

    /// Removes the entries of tombstones and the dropped keyspaces, after everything has been read.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a change to the keyspaces cannot follow the earlier ones, or a record belongs
    /// to a keyspace that was never created. A keyspace counts as dropped only if a record says so.
    pub(crate) fn finish(mut self) -> Result<Replayed> {
        self.loading.flush(self.store())?;
        let mut names = self.listed.keyspaces.clone();
        let mut durable_names = names.clone();
        let mut pending = Vec::new();
        // Segments may have come in another order than the log's.
        self.changes.sort_by_key(|(seq, ..)| *seq);
        for (seq, change, segment, offset) in std::mem::take(&mut self.changes) {
            let impossible = |defect| segment.corrupt_at(offset, defect);
            names.apply(&change).map_err(impossible)?;
            if seq <= self.durable {
                durable_names.apply(&change).map_err(impossible)?;
            } else {
                pending.push((seq, change));
            }
        }
        let mut keyspaces = Vec::new();
        let put_off = self.hinted.as_mut().map(|hinted| PutOff::of(hinted, self.dir)).transpose()?;
        for (name, named) in names.iter() {
            let (name, codec) = (name.to_owned(), named.codec.clone());
            let (mut slot, live_bytes) = match self.loading.remove(named.id) {
                Some(loading) => loading.finish(self.space, self.dir.path())?,
                None => (KeyspaceIndex::empty(named.id, self.dir.path())?, 0),
            };
            let keys = slot.index.len();
            self.report.keys += keys;
            if let Some(put_off) = put_off.as_ref().filter(|_| !named.id.is_ordered()) {
                self.report.keys += put_off.make_wait(named.id, &mut slot, self.dir.path())?;
            }
            keyspaces.push(RecoveredKeyspace {
                id: named.id,
                name,
                codec,
                slot,
                keys: keys as u64,
                live_bytes,
            });
        }
        self.report.keyspaces = keyspaces.len();
        for left in self.loading.iter() {
            if let Some((segment, offset)) = left.first.as_ref().filter(|_| !names.is_dropped(left.id)) {
                return Err(segment.corrupt_at(*offset, Defect::BadField("keyspace")));
            }
            for (ordinal, bytes) in left.slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
        let Self { durable, hinted, report, .. } = self;
        Ok(Replayed { keyspaces, names, durable_names, pending, durable, hinted, report })
    }
}

/// The keyspaces whose indexes are completed later.
struct PutOff {
    waiting: Arc<WaitingParts>,
    /// The number of values that are not in the index, by keyspace.
    values: BTreeMap<KeyspaceId, u64>,
    /// About how many keys they are.
    keys: BTreeMap<KeyspaceId, u64>,
}

impl PutOff {
    fn of(hinted: &mut HintedParts, dir: &dyn Dir) -> Result<Self> {
        hinted.sort().map_err(|error| Error::io("read", dir.path(), error))?;
        let (mut values, keys) = (hinted.keyspaces(), hinted.estimate(dir));
        for id in &hinted.to_purge {
            values.entry(*id).or_insert(0);
        }
        Ok(Self { waiting: Arc::clone(&hinted.waiting), values, keys })
    }

    /// Makes the index of a keyspace wait, if anything was put off for it. Returns the number of values
    /// that are not in it.
    fn make_wait(&self, id: KeyspaceId, slot: &mut KeyspaceIndex, path: &Path) -> Result<usize> {
        let Some(values) = self.values.get(&id) else { return Ok(0) };
        let keys = self.keys.get(&id).copied().unwrap_or(0);
        slot.wait_for_parts(&self.waiting, keys, path)?;
        Ok(usize::try_from(*values).unwrap_or(usize::MAX))
    }
}
