//! Reading the records of a segment back into the index.
//!
//! **Order.** The newest sequence number wins, whatever the order in which segments come; so a tombstone keeps an entry
//! until everything has been read.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::look::{change_of, durable_of};
use super::pieces::{End, Found, Piece, Reader};
use super::report::RecoveryReport;
use super::restore::Restored;
use super::source::FileSource;
use crate::catalog::{Loaded, Slot};
use crate::epoch::{self, Pin};
use crate::error::{Error, Result};
use crate::format::hash::{Hash, HashKey};
use crate::format::keyspace::{Change, Keyspaces};
use crate::format::manifest::Manifest;
use crate::format::record::{HEADER_SIZE, Header, Kind};
use crate::format::walk::{Placed, Walker};
use crate::format::{Defect, KeyspaceId, Seq};
use crate::index::Index;
use crate::index::load::Unread;
use crate::location::Location;
use crate::mapping::space::Space;
use crate::mapping::tally::Dead;
use crate::options::{RecoveryProgress, Tell};
use crate::segment::Segment;

/// How far apart the places are that are remembered for the rewrite after an unclean end, in bytes.
const SAMPLE_SPACING: u64 = 64 << 10;
/// How many bytes lie between two tellings of how far it is.
const TOLD_SPACING: u64 = 1 << 20;
/// How many records ahead the lines of the index are asked for.
const AHEAD: usize = 24;

/// What reading a segment found.
#[derive(Debug)]
pub(crate) struct Walked {
    /// Where the walk stopped.
    pub(crate) stop: u64,
    /// What stopped it, where it was not zeros or the known end.
    pub(crate) defect: Option<Defect>,
    /// The greatest sequence number.
    pub(crate) last: Option<Seq>,
    /// Records that somebody wrote, as opposed to the log's own.
    pub(crate) written: u64,
    /// Places in the segment: every record before the offset has at most this number.
    pub(crate) samples: Vec<(Seq, u64)>,
}

/// Where reading a segment begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    /// The offset, in bytes.
    pub(crate) offset: u64,
    /// The number of the record before it, where an image holds what is there.
    pub(crate) last: Option<Seq>,
}

impl Begin {
    /// The first record of a segment.
    pub(crate) fn of(segment: &Segment) -> Self {
        Self { offset: segment.data_offset(), last: None }
    }
}

/// Puts records into the indexes of their keyspaces.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) space: &'a Space,
    pub(crate) hash_key: &'a HashKey,
    /// The keyspaces that the manifest lists: those of the log up to the number it says was durable.
    listed: &'a Manifest,
    /// Their numbers, in ascending order.
    listed_ids: Vec<KeyspaceId>,
    /// Those that were dropped by what was read.
    dropped: BTreeSet<KeyspaceId>,
    /// What was read, by keyspace; the one that the last record belonged to is tried first.
    loading: Vec<Loading>,
    at: usize,
    /// Changes to the keyspaces behind the manifest's durable number, in the order in which they were met.
    changes: Vec<(Seq, Change, Arc<Segment>, u64)>,
    /// The greatest sequence number that is known to have been durable.
    pub(crate) durable: Seq,
    pub(crate) report: RecoveryReport,
    /// Whom to tell how far it is, how much there is to read, and what was told last.
    tell: &'a Tell,
    progress: RecoveryProgress,
    told: u64,
}

/// The records of one keyspace.
#[derive(Debug)]
struct Loading {
    id: KeyspaceId,
    /// The segment and the offset of the first one that was read; none where an image has the keyspace.
    first: Option<(Arc<Segment>, u64)>,
    slot: Slot,
    /// Entries that lead to tombstones.
    tombstones: Vec<(Hash, Location)>,
    /// Bytes of records that are the newest of their key.
    live_bytes: u64,
}

/// What a replay ends with.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// Every keyspace that is there.
    pub(crate) keyspaces: Vec<Loaded>,
    /// Their names, as the log has them.
    pub(crate) names: Keyspaces,
    /// Their names, as the log has them up to the number that is known to have been durable.
    pub(crate) durable_names: Keyspaces,
    /// The changes that lead from there to here.
    pub(crate) pending: Vec<(Seq, Change)>,
    pub(crate) durable: Seq,
    pub(crate) report: RecoveryReport,
}

impl<'a> Replay<'a> {
    /// Starts with nothing but what the manifest knows.
    pub(crate) fn new(
        space: &'a Space,
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
            changes: Vec::new(),
            durable,
            report: RecoveryReport::default(),
            tell,
            progress: RecoveryProgress::default(),
            told: 0,
        }
    }

    /// Takes note of what there is to read, at most.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.progress.bytes_total = bytes;
    }

    /// Tells how far it is.
    fn advance(&mut self, bytes: u64) {
        self.progress.bytes_read += bytes;
        if self.progress.bytes_read >= self.told + TOLD_SPACING {
            self.told = self.progress.bytes_read;
            self.tell.tell(self.progress);
        }
    }

    /// Goes on from what an image holds of a keyspace; before anything is read.
    pub(crate) fn restore(&mut self, Restored { id, slot, live_bytes }: Restored) {
        debug_assert!(self.loading.last().is_none_or(|last| last.id < id), "in the order of the image");
        self.loading.push(Loading { id, first: None, slot, tombstones: Vec::new(), live_bytes });
        if self.listed_ids.binary_search(&id).is_err() {
            // Gone since, and the manifest has forgotten it already.
            self.bury(id);
        }
    }

    /// Reads a segment from `begin` up to `limit`, publishing what it holds.
    ///
    /// # Errors
    ///
    /// What the operating system says. Bytes that are no record end the walk; what that means is decided elsewhere.
    pub(crate) fn read(
        &mut self,
        segment: &Arc<Segment>,
        source: &mut FileSource,
        begin: Begin,
        limit: u64,
    ) -> Result<Walked> {
        let mut walker = Walker::new(segment.nonce(), begin.offset, limit, segment.order());
        if let Some(last) = begin.last {
            walker = walker.behind(last);
        }
        let mut samples = Vec::new();
        let mut sampled = begin.offset;
        // What an image holds is more than the log's own records, as a rule; and it is never in the way.
        let mut written = u64::from(begin.last.is_some());
        let reader = Reader { walker, source, hash_key: self.hash_key };
        let mut at = begin.offset;
        let End { walker, defect } = reader.read(limit, |piece| {
            for Found { placed, .. } in piece.records() {
                if placed.offset >= sampled + SAMPLE_SPACING && !placed.header.is_inner() {
                    sampled = placed.offset;
                    samples.push((Seq(placed.header.seq.0 - 1), placed.offset));
                }
                written += u64::from(!matches!(placed.header.kind, Kind::Start | Kind::Watermark));
            }
            self.take(segment, piece)?;
            let end = segment.mapping().published();
            self.advance(end - at);
            at = end;
            Ok(())
        })?;
        self.report.bytes_read += walker.offset() - begin.offset;
        Ok(Walked { stop: walker.offset(), defect, last: walker.last_seq(), written, samples })
    }

    /// Puts the records of a piece where they belong.
    fn take(&mut self, segment: &Arc<Segment>, piece: &Piece) -> Result<()> {
        let records = piece.records();
        let Some(last) = records.last() else { return Ok(()) };
        // A frame's own header lies before its records; publishing it alone shows nothing of them.
        segment.mapping().publish_existing(last.placed.offset + size_of(&last.placed.header));
        let space = self.space;
        let pin = epoch::pin();
        for (n, found) in records.iter().enumerate() {
            // The lines of the index first, and then what their entries lead to: neither is anywhere near.
            if let Some((index, hash)) = records.get(n + AHEAD).and_then(|next| self.index_of(next)) {
                index.prefetch(hash);
            }
            if let Some((index, hash)) = records.get(n + AHEAD / 2).and_then(|next| self.index_of(next)) {
                // What cannot be read is an error of the search that follows.
                drop(index.find(hash, |location| {
                    space.prefetch(location);
                    Ok::<bool, Unread>(false)
                }));
            }
            self.record(segment, found, piece.bytes(found), &pin)?;
        }
        Ok(())
    }

    /// The index that a record will be looked for in, where it is that of the record before.
    fn index_of(&self, found: &Found) -> Option<(&Index, Hash)> {
        let header = &found.placed.header;
        let loading = self.loading.get(self.at).filter(|loading| loading.id == header.keyspace)?;
        matches!(header.kind, Kind::Put | Kind::Tombstone)
            .then(|| (&**loading.slot.index.index(), found.hash))
    }

    fn record(&mut self, segment: &Arc<Segment>, found: &Found, bytes: &[u8], pin: &Pin) -> Result<()> {
        let Found { placed, hash, .. } = found;
        let header = &placed.header;
        self.report.records += 1;
        self.report.note_last(header.seq);
        let size = size_of(header);
        let location = segment.range().at(placed.offset);
        match header.kind {
            Kind::Put | Kind::Tombstone if self.is_dropped(header.keyspace) => {
                self.space.add_dead(location, why_dead(header.kind), size);
            }
            Kind::Put | Kind::Tombstone => self.newest(segment, placed, (*hash, bytes), pin)?,
            Kind::Keyspace => {
                self.space.add_dead(location, Dead::Note, size);
                self.note_change(segment, placed, bytes)?;
            }
            Kind::Batch | Kind::Watermark | Kind::Start => {
                self.space.add_dead(location, Dead::Note, size);
                self.durable = self.durable.max(durable_of(header, bytes).unwrap_or(Seq::ZERO));
            }
        }
        Ok(())
    }

    fn note_change(&mut self, segment: &Arc<Segment>, placed: &Placed, payload: &[u8]) -> Result<()> {
        let change = change_of(&placed.header, payload);
        let change = change.map_err(|defect| damage(segment, placed.offset, defect))?;
        // What the manifest says of the keyspaces is what the log says up to there.
        if placed.header.seq > self.listed.durable {
            match &change {
                Change::Clear { old: gone, .. } | Change::Drop { id: gone, .. } => self.bury(*gone),
                Change::Create { .. } | Change::Rename { .. } => {}
            }
            self.changes.push((placed.header.seq, change, Arc::clone(segment), placed.offset));
        }
        Ok(())
    }

    /// Gives back the index of a keyspace that is dropped by what was read: a store that clears a keyspace all the time
    /// must not need the memory of all that it ever held.
    fn bury(&mut self, id: KeyspaceId) {
        self.dropped.insert(id);
        if let Ok(at) = self.loading.binary_search_by_key(&id, |loading| loading.id) {
            for (ordinal, bytes) in self.loading.remove(at).slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
    }

    /// Whether everything in a keyspace is dead, by the manifest or by what was read.
    fn is_dropped(&self, id: KeyspaceId) -> bool {
        if self.loading.get(self.at).is_some_and(|loading| loading.id == id) {
            return false;
        }
        let by_manifest = id < self.listed.keyspaces.next() && self.listed_ids.binary_search(&id).is_err();
        by_manifest || self.dropped.contains(&id)
    }

    /// Makes a record the newest of its key, if it is.
    fn newest(
        &mut self,
        segment: &Arc<Segment>,
        placed: &Placed,
        (hash, key): (Hash, &[u8]),
        pin: &Pin,
    ) -> Result<()> {
        let (offset, header) = (placed.offset, &placed.header);
        let at = self.loading_of(header.keyspace, segment, offset)?;
        let loading = &mut self.loading[at];
        let location = segment.range().at(offset);
        let found = loading.slot.index.find(hash, |other| {
            let record = self.space.record(other, pin);
            Ok::<_, Error>(record.is_some_and(|record| record.key() == key))
        })?;
        let size = header.size();
        if let Some(other) = found {
            let record = self.space.record(other, pin).expect("just found there");
            let old = record.header();
            if old.seq >= header.seq {
                self.space.add_dead(location, why_dead(header.kind), size);
                return Ok(());
            }
            if old.kind == Kind::Put {
                self.space.add_dead(other, Dead::Hidden, old.size());
                loading.slot.sub_live(record.ordinal(), old.size());
                loading.live_bytes -= old.size();
            }
            loading.slot.index.replace(hash, other, location);
        } else {
            let grown = loading.slot.index.reserve();
            grown.map_err(|error| Error::io("grow the index for", segment.path(), error))?;
            loading.slot.index.insert(hash, location);
        }
        if header.kind == Kind::Tombstone {
            self.space.add_dead(location, Dead::Tombstone, size);
            loading.tombstones.push((hash, location));
        } else {
            loading.slot.add_live(segment.mapping().ordinal(), size);
            loading.live_bytes += size;
        }
        Ok(())
    }

    /// The place of a keyspace among those that are being read.
    fn loading_of(&mut self, id: KeyspaceId, segment: &Arc<Segment>, offset: u64) -> Result<usize> {
        if self.loading.get(self.at).is_some_and(|loading| loading.id == id) {
            return Ok(self.at);
        }
        self.at = match self.loading.binary_search_by_key(&id, |loading| loading.id) {
            Ok(at) => at,
            Err(at) => {
                let first = Some((Arc::clone(segment), offset));
                let slot = new_slot(segment.path())?;
                let loading = Loading { id, first, slot, tombstones: Vec::new(), live_bytes: 0 };
                self.loading.insert(at, loading);
                at
            }
        };
        Ok(self.at)
    }

    /// Removes the entries of tombstones and the keyspaces that were dropped: everything has been read.
    ///
    /// # Errors
    ///
    /// `Corrupt` where a change to the keyspaces cannot follow those before it, or a record belongs to a keyspace that
    /// nobody created: dropped is only what a record says was dropped.
    pub(crate) fn finish(mut self) -> Result<Replayed> {
        let mut names = self.listed.keyspaces.clone();
        let mut durable_names = names.clone();
        let mut pending = Vec::new();
        // Segments need not have come in the order of the log.
        self.changes.sort_by_key(|(seq, ..)| *seq);
        for (seq, change, segment, offset) in std::mem::take(&mut self.changes) {
            let impossible = |defect| damage(&segment, offset, defect);
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
                    let Loading { id, slot, tombstones, live_bytes, .. } = self.loading.remove(at);
                    let mut loaded = Loaded { id, name, codec, slot, keys: 0, live_bytes };
                    for (hash, location) in tombstones {
                        loaded.slot.index.remove(hash, location);
                    }
                    loaded
                }
                Err(_) => {
                    let slot = new_slot(std::path::Path::new(&name))?;
                    Loaded { id: named.id, name, codec, slot, keys: 0, live_bytes: 0 }
                }
            };
            loaded.keys = loaded.slot.index.index().len() as u64;
            self.report.keys += loaded.slot.index.index().len();
            keyspaces.push(loaded);
        }
        self.report.keyspaces = keyspaces.len();
        for left in &self.loading {
            if let Some((segment, offset)) = left.first.as_ref().filter(|_| !names.is_dropped(left.id)) {
                return Err(damage(segment, *offset, Defect::BadField("keyspace")));
            }
            for (ordinal, bytes) in left.slot.live() {
                self.space.add_hidden_in(ordinal, bytes);
            }
        }
        let Self { durable, report, .. } = self;
        Ok(Replayed { keyspaces, names, durable_names, pending, durable, report })
    }
}

/// Bytes that a record takes by itself.
fn size_of(header: &Header) -> u64 {
    if header.kind == Kind::Batch { HEADER_SIZE as u64 } else { header.size() }
}

/// Why a record of a key is dead, where it is.
fn why_dead(kind: Kind) -> Dead {
    if kind == Kind::Put { Dead::Hidden } else { Dead::Tombstone }
}

fn new_slot(path: &std::path::Path) -> Result<Slot> {
    let (_, writer) = Index::new().map_err(|error| Error::io("make an index for", path, error))?;
    Ok(Slot::new(writer))
}

fn damage(segment: &Segment, offset: u64, defect: Defect) -> Error {
    Error::Corrupt { path: segment.path().clone(), offset, defect }
}
