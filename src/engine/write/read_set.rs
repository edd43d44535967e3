//! The reads of a transaction, noted so that its commit can find out if they still hold.
//!
//! A key is noted once, with one bit: it was there or it was not. A range is noted as far as it was
//! read, with the number of keys that the snapshot has there. Nothing of a value is kept: a record that
//! is not newer than the snapshot is the one that was read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::engine::read::key_range::KeyRange;
use crate::engine::read::range_buffer::End;
use crate::engine::state::catalog::KeyspaceState;
use crate::format::{KeyspaceId, Seq};

/// The reads of a transaction.
#[derive(Debug)]
pub(crate) struct ReadSet<'r> {
    /// The number of the snapshot that they come from.
    pub(crate) at: Seq,
    pub(crate) keyspaces: Vec<&'r KeyspaceReads>,
}

impl ReadSet<'_> {
    /// Returns all noted keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keyspaces.iter().flat_map(|of| of.keys()).map(|(key, _)| key)
    }
}

/// The reads of a transaction from one keyspace.
#[derive(Debug)]
pub(crate) struct KeyspaceReads {
    pub(crate) keyspace: Arc<KeyspaceState>,
    /// The contents that were read; `None` if the snapshot has no such keyspace.
    pub(crate) id: Option<KeyspaceId>,
    keys: BTreeMap<Box<[u8]>, bool>,
    /// The ranges that were read from the front, by their begins, and those from the back, by their ends.
    /// The widest one of each is kept: if it holds, the others do.
    fronts: BTreeMap<Vec<u8>, RangePart>,
    backs: BTreeMap<Option<Vec<u8>>, RangePart>,
    /// The range that is being read.
    open: Option<OpenRange>,
    /// The bytes of the noted keys, and of the ends of the noted ranges.
    key_bytes: usize,
}

/// A part of a range, with the number of keys that the snapshot has there.
#[derive(Debug)]
struct RangePart {
    range: KeyRange,
    count: u64,
}

/// A range that is being read from both ends.
#[derive(Debug)]
struct OpenRange {
    whole: KeyRange,
    front: Option<RangePart>,
    back: Option<RangePart>,
}

/// The number of ranges that an open one may become.
const OPEN_RANGE: usize = 2;

impl KeyspaceReads {
    pub(crate) fn new(keyspace: Arc<KeyspaceState>, id: Option<KeyspaceId>) -> Self {
        let (fronts, backs) = (BTreeMap::new(), BTreeMap::new());
        Self { keyspace, id, keys: BTreeMap::new(), fronts, backs, open: None, key_bytes: 0 }
    }

    /// Returns the number of noted reads. A range that is being read counts as two.
    pub(crate) fn len(&self) -> usize {
        self.keys.len() + self.fronts.len() + self.backs.len() + self.open.as_ref().map_or(0, |_| OPEN_RANGE)
    }

    /// Returns the bytes of the noted keys, and of the ends of the noted ranges. A range that is being read has
    /// none.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Returns true if the read of a key is noted.
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Notes the read of a key that is not noted yet. `is_there` is true if the snapshot has it.
    pub(crate) fn note_key(&mut self, key: &[u8], is_there: bool) {
        self.key_bytes += key.len();
        let known = self.keys.insert(key.into(), is_there);
        debug_assert_eq!(known, None, "its caller asks first");
    }

    /// Begins the read of a range: the range before it is complete.
    pub(crate) fn begin_range(&mut self, whole: KeyRange) {
        self.end_range();
        self.open = Some(OpenRange { whole, front: None, back: None });
    }

    /// Ends the read of a range. The part that was not read is not noted.
    pub(crate) fn end_range(&mut self) {
        let Some(OpenRange { front, back, .. }) = self.open.take() else { return };
        if let Some(part) = front {
            note_wider(&mut self.fronts, part.range.from.clone(), part, &mut self.key_bytes);
        }
        if let Some(part) = back {
            note_wider(&mut self.backs, part.range.to.clone(), part, &mut self.key_bytes);
        }
    }

    /// Notes that the open range was read up to a key, from an end. `is_there` is true if the
    /// snapshot has the key.
    pub(crate) fn note_step(&mut self, end: End, key: &[u8], is_there: bool) {
        let Some(OpenRange { whole, front, back }) = &mut self.open else { return };
        let count = match end {
            End::Front => {
                let nothing =
                    || RangePart { range: KeyRange { from: whole.from.clone(), to: None }, count: 0 };
                let RangePart { range, count } = front.get_or_insert_with(nothing);
                let to = range.to.get_or_insert_default();
                to.clear();
                // The least key above it.
                to.extend_from_slice(key);
                to.push(0);
                count
            }
            End::Back => {
                let nothing =
                    || RangePart { range: KeyRange { from: Vec::new(), to: whole.to.clone() }, count: 0 };
                let RangePart { range, count } = back.get_or_insert_with(nothing);
                range.from.clear();
                range.from.extend_from_slice(key);
                count
            }
        };
        *count += u64::from(is_there);
    }

    /// Notes that the open range has no more keys than those that were read.
    pub(crate) fn note_rest(&mut self) {
        let Some(OpenRange { whole, front, back }) = &mut self.open else { return };
        let parts = [front.take(), back.take()];
        let count = parts.iter().flatten().map(|part| part.count).sum();
        *front = Some(RangePart { range: whole.clone(), count }).filter(|_| !whole.is_empty());
    }

    /// Returns the noted keys, in order, each with true if it was there.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.keys.iter().map(|(key, is_there)| (&**key, *is_there))
    }

    /// Returns the noted ranges, each with the number of its keys.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (&KeyRange, u64)> {
        debug_assert!(self.open.is_none(), "the last range was ended");
        self.fronts.values().chain(self.backs.values()).map(|part| (&part.range, part.count))
    }

    /// Returns true if nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.fronts.is_empty() && self.backs.is_empty()
    }
}

/// Notes a part of a range, unless a wider one is known that begins or ends at the same place. `key_bytes`
/// counts the bytes of the ends.
fn note_wider<K: Ord>(parts: &mut BTreeMap<K, RangePart>, place: K, part: RangePart, key_bytes: &mut usize) {
    match parts.entry(place) {
        Entry::Occupied(known) if known.get().has(&part) => {}
        Entry::Occupied(mut known) => {
            *key_bytes += part.key_bytes();
            *key_bytes -= known.insert(part).key_bytes();
        }
        Entry::Vacant(free) => {
            *key_bytes += part.key_bytes();
            free.insert(part);
        }
    }
}

impl RangePart {
    /// Returns the bytes of its ends.
    fn key_bytes(&self) -> usize {
        self.range.from.len() + self.range.to.as_ref().map_or(0, Vec::len)
    }

    /// Returns true if another part lies in this one.
    fn has(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.range, &other.range);
        let is_before = |end: &Vec<u8>| theirs.to.as_ref().is_some_and(|other| other <= end);
        ours.from <= theirs.from && ours.to.as_ref().is_none_or(is_before)
    }
}
