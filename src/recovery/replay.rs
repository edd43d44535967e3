//! Reading the records of a segment back into the index.
//!
//! **Order.** The newest sequence number wins, whatever the order in which segments come; so a tombstone keeps an entry
//! until everything has been read.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::report::RecoveryReport;
use super::restore::Restored;
use super::source::FileSource;
use crate::catalog::{Loaded, Slot};
use crate::epoch;
use crate::error::{Error, Result};
use crate::format::hash::{Hash, HashKey};
use crate::format::keyspace::{Change, Keyspaces, MAX_CODEC_LEN, MAX_NAME_LEN};
use crate::format::manifest::Manifest;
use crate::format::record::{HEADER_SIZE, Header, Kind, Start, Watermark};
use crate::format::walk::{Order, Placed, READ_MAX, Source, Step, Walker, beyond, next_published};
use crate::format::{Defect, KeyspaceId, Seq};
use crate::index::Index;
use crate::location::Location;
use crate::mapping::space::Space;
use crate::mapping::tally::Dead;
use crate::segment::Segment;

/// How far apart the places are that are remembered for the rewrite after an unclean end, in bytes.
const SAMPLE_SPACING: u64 = 64 << 10;

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
    key: Vec<u8>,
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
    pub(crate) fn new(space: &'a Space, hash_key: &'a HashKey, listed: &'a Manifest, durable: Seq) -> Self {
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
            key: Vec::new(),
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
        let defect = loop {
            match walker.step(source)? {
                Step::Record(placed) => {
                    if placed.offset >= sampled + SAMPLE_SPACING && !placed.header.is_inner() {
                        sampled = placed.offset;
                        samples.push((Seq(placed.header.seq.0 - 1), placed.offset));
                    }
                    written += u64::from(!matches!(placed.header.kind, Kind::Start | Kind::Watermark));
                    self.record(segment, source, &placed)?;
                }
                Step::Blank => break None,
                Step::Invalid(defect) => break Some(defect),
            }
        };
        self.report.bytes_read += walker.offset() - begin.offset;
        Ok(Walked { stop: walker.offset(), defect, last: walker.last_seq(), written, samples })
    }

    fn record(&mut self, segment: &Arc<Segment>, source: &mut FileSource, placed: &Placed) -> Result<()> {
        let header = &placed.header;
        self.report.records += 1;
        self.report.note_last(header.seq);
        // A frame's own header lies before its records; publishing it alone shows nothing of them.
        let size = if header.kind == Kind::Batch { HEADER_SIZE as u64 } else { header.size() };
        segment.mapping().publish_existing(placed.offset + size);
        let location = segment.range().at(placed.offset);
        match header.kind {
            Kind::Put | Kind::Tombstone => {
                if self.is_dropped(header.keyspace) {
                    self.space.add_dead(location, why_dead(header.kind), size);
                    return Ok(());
                }
                let key = source.bytes(placed.offset + HEADER_SIZE as u64, usize::from(header.key_len))?;
                self.key.clear();
                self.key.extend_from_slice(key);
                self.newest(segment, placed.offset, header)?;
            }
            Kind::Keyspace => {
                self.space.add_dead(location, Dead::Note, size);
                self.note_change(segment, source, placed)?;
            }
            Kind::Batch | Kind::Watermark | Kind::Start => {
                self.space.add_dead(location, Dead::Note, size);
                self.note_durable(source, placed)?;
            }
        }
        Ok(())
    }

    fn note_change(
        &mut self,
        segment: &Arc<Segment>,
        source: &mut FileSource,
        placed: &Placed,
    ) -> Result<()> {
        let damage = |defect| Error::Corrupt { path: segment.path().clone(), offset: placed.offset, defect };
        let change = change_in(source, placed)?.map_err(damage)?;
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

    fn note_durable(&mut self, source: &mut FileSource, placed: &Placed) -> Result<()> {
        if let Some(durable) = durable_in(source, placed)? {
            self.durable = self.durable.max(durable);
        }
        Ok(())
    }

    /// Makes a record the newest of its key, if it is.
    fn newest(&mut self, segment: &Arc<Segment>, offset: u64, header: &Header) -> Result<()> {
        let pin = epoch::pin();
        let hash = self.hash_key.hash(&self.key);
        let at = self.loading_of(header.keyspace, segment, offset)?;
        let loading = &mut self.loading[at];
        let location = segment.range().at(offset);
        let found = loading.slot.index.find(hash, |other| {
            let record = self.space.record(other, &pin);
            Ok::<_, Error>(record.is_some_and(|record| record.key() == self.key))
        })?;
        let size = header.size();
        if let Some(other) = found {
            let record = self.space.record(other, &pin).expect("just found there");
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

/// The change that a keyspace record says.
///
/// # Errors
///
/// What the operating system says; what is wrong with the record.
pub(crate) fn change_in(source: &mut FileSource, placed: &Placed) -> Result<Result<Change, Defect>> {
    let header = &placed.header;
    let key_len = usize::from(header.key_len);
    let max = MAX_NAME_LEN + 1 + MAX_CODEC_LEN;
    let len = usize::try_from(header.payload_len()).unwrap_or(usize::MAX);
    if len > max {
        return Ok(Err(Defect::BadField("keyspace change")));
    }
    let payload = source.bytes(placed.offset + HEADER_SIZE as u64, len)?;
    Ok(Change::decode(header.keyspace, &payload[..key_len], &payload[key_len..]))
}

/// What lies behind a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Whether there is anything but zeros.
    pub(crate) written: bool,
    /// Complete valid records.
    pub(crate) records: u64,
    /// Where the last byte lies that is not zero, rounded up, and the last complete record ends.
    pub(crate) end: u64,
    /// The greatest sequence number among them.
    pub(crate) last: Seq,
    /// What they prove to have been durable.
    pub(crate) durable: Seq,
    /// Whether the file was made to be slow and not all of it was looked at.
    pub(crate) given_up: bool,
}

/// Looks at what lies in a segment behind a stop.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn look_beyond(segment: &Segment, source: &mut FileSource, stop: u64) -> Result<Beyond> {
    let size = segment.size();
    let mut found = Beyond {
        written: next_published(source, stop, size)?.is_some(),
        records: 0,
        end: stop,
        last: Seq::ZERO,
        durable: Seq::ZERO,
        given_up: false,
    };
    if found.written {
        found.end = last_written(source, stop, size)?;
    }
    let whole = beyond(source, segment.nonce(), stop, size, |source, placed| {
        found.records += 1;
        found.end = found.end.max(placed.offset + placed.header.size());
        found.last = found.last.max(placed.header.seq);
        found.durable = found.durable.max(durable_in(source, placed)?.unwrap_or(Seq::ZERO));
        Ok(())
    })?;
    if !whole {
        found.given_up = true;
        found.end = size;
        found.records = found.records.max(1);
    }
    Ok(found)
}

/// Where the last word that is not zero ends.
fn last_written(source: &mut FileSource, from: u64, size: u64) -> Result<u64> {
    let mut end = from;
    let mut at = from;
    while at < size {
        let len = usize::try_from((size - at).min(READ_MAX as u64)).expect("at most READ_MAX");
        let bytes = source.bytes(at, len)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            end = (at + last as u64 + 1).next_multiple_of(8);
        }
        at += len as u64;
    }
    Ok(end)
}

/// What a record proves to have been durable when it was written.
fn durable_in(source: &mut FileSource, placed: &Placed) -> Result<Option<Seq>> {
    let len = usize::try_from(placed.header.value_len).unwrap_or(usize::MAX);
    let value = placed.offset + HEADER_SIZE as u64 + u64::from(placed.header.key_len);
    // A record of another length was not written by us; its checksums hold, so it proves nothing either way.
    Ok(match placed.header.kind {
        Kind::Watermark if len == Watermark::SIZE => {
            Watermark::decode(source.bytes(value, len)?).ok().map(|Watermark(seq)| seq)
        }
        Kind::Start if len == Start::SIZE => {
            Start::decode(source.bytes(value, len)?).ok().map(|start| start.durable)
        }
        _ => None,
    })
}

/// The start record of a segment, with its number, if it is there and whole.
///
/// # Errors
///
/// What the operating system says.
pub(crate) fn start_of(segment: &Segment, source: &mut FileSource) -> Result<Option<(Seq, Start)>> {
    let mut walker = Walker::new(segment.nonce(), segment.data_offset(), segment.size(), Order::Consecutive);
    let Step::Record(placed) = walker.step(source)? else { return Ok(None) };
    let len = usize::try_from(placed.header.value_len).unwrap_or(usize::MAX);
    if placed.header.kind != Kind::Start || len != Start::SIZE {
        return Ok(None);
    }
    let value = source.bytes(placed.offset + HEADER_SIZE as u64, len)?;
    Ok(Start::decode(value).ok().map(|start| (placed.header.seq, start)))
}
