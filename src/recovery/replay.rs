//! Applying the log's records in order: to the indexes, the keyspace changes and the proofs of
//! durability.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::from_checkpoint::Restored;
use super::index_builder::{BuildContext, IndexBuilder, new_slot};
use super::reader_pool::ReadAhead;
use super::record_batch::{Begin, GatheredRecord, KeyspaceGroup, RecordBatch, Walked};
use super::recovered::RecoveredKeyspace;
use super::report::RecoveryReport;
use super::tail_scan::change_of;
use crate::config::{RecoveryProgress, Tell};
use crate::error::Result;
use crate::format::hash::HashKey;
use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};
use crate::format::manifest::Manifest;
use crate::format::record_reader::RecordAt;
use crate::format::{Defect, KeyspaceId, Seq};
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::mem::address_space::AddressSpace;
use crate::mem::dead_bytes::DeadCause;

/// Bytes between two reports of progress.
const TOLD_SPACING: u64 = 1 << 20;
/// The part of the usual number of gathered records that suffices for a small keyspace's flush.
///
/// A keyspace is flushed once it has gathered as many records as it has keys, and this part at
/// least. Its index then grows for as many keys as they turned out to be. So its chains are at most
/// twice as long as they should be.
const FIRST_SHARE: usize = 16;

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
    /// The records read, by keyspace. The last record's keyspace is tried first.
    loading: Vec<IndexBuilder>,
    at: usize,
    /// The number of gathered records, and memory for sorting them.
    gathered: usize,
    sorted: Vec<GatheredRecord>,
    /// The number of threads that may put them into the indexes.
    threads: usize,
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
            loading: Vec::new(),
            at: 0,
            gathered: 0,
            sorted: Vec::new(),
            threads: 1,
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
        self.threads = threads.max(1);
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
    pub(crate) fn restore(&mut self, Restored { id, slot, live_bytes }: Restored) {
        debug_assert!(self.loading.last().is_none_or(|last| last.id < id), "in the order of the checkpoint");
        self.loading.push(IndexBuilder::restored(id, slot, live_bytes));
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
        for loading in &self.loading {
            loading.slot.index.index().load_all()?;
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
        let at = self.loading_of(group.id, segment, group.first)?;
        self.loading[at].gather(segment, group)?;
        self.gathered += group.entries.len();
        let most = self.dir.tuning().gathered;
        if self.gathered >= most || self.loading[at].has_enough(most / FIRST_SHARE) {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Puts the gathered records into the indexes.
    fn flush(&mut self) -> Result<()> {
        let (threads, alone) = (self.threads, self.loading.len() == 1);
        let with = BuildContext {
            tuning: self.dir.tuning(),
            space: self.space,
            path: self.dir.path(),
            threads,
            alone,
        };
        for loading in &mut self.loading {
            loading.flush(&with, &mut self.sorted)?;
        }
        self.gathered = 0;
        Ok(())
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
        if let Ok(at) = self.loading.binary_search_by_key(&id, |loading| loading.id) {
            for (ordinal, bytes) in self.loading.remove(at).slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
    }

    /// Returns true if everything in a keyspace is dead, by the manifest or by the records read.
    fn is_dropped(&self, id: KeyspaceId) -> bool {
        if self.loading.get(self.at).is_some_and(|loading| loading.id == id) {
            return false;
        }
        let by_manifest = id < self.listed.keyspaces.next() && self.listed_ids.binary_search(&id).is_err();
        by_manifest || self.dropped.contains(&id)
    }

    /// Returns the position of a keyspace among those being built.
    fn loading_of(&mut self, id: KeyspaceId, segment: &Arc<Segment>, offset: u64) -> Result<usize> {
        if self.loading.get(self.at).is_some_and(|loading| loading.id == id) {
            return Ok(self.at);
        }
        self.at = match self.loading.binary_search_by_key(&id, |loading| loading.id) {
            Ok(at) => at,
            Err(at) => {
                self.loading.insert(at, IndexBuilder::new(id, segment, offset)?);
                at
            }
        };
        Ok(self.at)
    }

    /// Removes the entries of tombstones and the dropped keyspaces, after everything has been read.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a change to the keyspaces cannot follow the earlier ones, or a record belongs
    /// to a keyspace that was never created. A keyspace counts as dropped only if a record says so.
    pub(crate) fn finish(mut self) -> Result<Replayed> {
        self.flush()?;
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
        for (name, named) in names.iter() {
            let (name, codec) = (name.to_owned(), named.codec.clone());
            let found = self.loading.binary_search_by_key(&named.id, |loading| loading.id);
            let mut loaded = match found {
                Ok(at) => {
                    let (slot, live_bytes) = self.loading.remove(at).finish();
                    RecoveredKeyspace { id: named.id, name, codec, slot, keys: 0, live_bytes }
                }
                Err(_) => {
                    let slot = new_slot(self.dir.path())?;
                    RecoveredKeyspace { id: named.id, name, codec, slot, keys: 0, live_bytes: 0 }
                }
            };
            loaded.keys = loaded.slot.index.index().len() as u64;
            self.report.keys += loaded.slot.index.index().len();
            keyspaces.push(loaded);
        }
        self.report.keyspaces = keyspaces.len();
        for left in &self.loading {
            if let Some((segment, offset)) = left.first.as_ref().filter(|_| !names.is_dropped(left.id)) {
                return Err(segment.corrupt_at(*offset, Defect::BadField("keyspace")));
            }
            for (ordinal, bytes) in left.slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
        let Self { durable, report, .. } = self;
        Ok(Replayed { keyspaces, names, durable_names, pending, durable, report })
    }
}
