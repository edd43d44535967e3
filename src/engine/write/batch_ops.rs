//! The operations of a batch, in the order in which they were added.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::state::catalog::KeyspaceState;
use crate::error::{Error, Result};

/// Writes and conditions, with their keys and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchOps {
    entries: Vec<BatchEntry>,
    /// Keys and values behind one another.
    bytes: Vec<u8>,
    /// The keyspaces that were named; the one that the batch is written to comes before them.
    places: Vec<Arc<KeyspaceState>>,
    /// The number of entries that are writes.
    writes: usize,
}

#[derive(Debug, Clone)]
struct BatchEntry {
    /// Zero for the keyspace that the batch is written to, else one more than the place in `places`.
    place: usize,
    kind: BatchOpKind,
    key: Range<usize>,
    value: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchOpKind {
    Insert,
    Remove,
    RequireValue,
    RequirePresent,
    RequireAbsent,
}

/// One entry of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BatchOp<'a> {
    Insert(&'a [u8]),
    Remove,
    Require(Expected<'a>),
}

/// What a condition expects of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    Absent,
    Present,
    Value(&'a [u8]),
}

impl BatchOps {
    /// The number of writes; conditions are not counted.
    pub(crate) fn len(&self) -> usize {
        self.writes
    }

    /// Removes all writes and conditions, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.places.clear();
        self.writes = 0;
    }

    /// The number by which [`BatchOps::push`] knows a keyspace; zero is the one that the batch is written to.
    pub(crate) fn place_of(&mut self, keyspace: &Arc<KeyspaceState>) -> usize {
        let known = self.places.iter().position(|place| Arc::ptr_eq(place, keyspace));
        let place = known.unwrap_or_else(|| {
            self.places.push(Arc::clone(keyspace));
            self.places.len() - 1
        });
        place + 1
    }

    /// Adds an operation on a key.
    pub(crate) fn push(&mut self, place: usize, kind: BatchOpKind, key: &[u8], value: &[u8]) {
        let key_start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value_start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let (key, value) = (key_start..value_start, value_start..self.bytes.len());
        self.entries.push(BatchEntry { place, kind, key, value });
        self.writes += usize::from(matches!(kind, BatchOpKind::Insert | BatchOpKind::Remove));
    }

    /// The keyspaces that were named; the numbers of [`BatchOps::iter`] count from one for them.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Arc<KeyspaceState>> {
        self.places.iter()
    }

    /// The entries in order: number of the keyspace, key, and what is to be done.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8], BatchOp<'_>)> {
        self.entries.iter().map(|entry| {
            let value = &self.bytes[entry.value.clone()];
            let step = match entry.kind {
                BatchOpKind::Insert => BatchOp::Insert(value),
                BatchOpKind::Remove => BatchOp::Remove,
                BatchOpKind::RequireValue => BatchOp::Require(Expected::Value(value)),
                BatchOpKind::RequirePresent => BatchOp::Require(Expected::Present),
                BatchOpKind::RequireAbsent => BatchOp::Require(Expected::Absent),
            };
            (entry.place, &self.bytes[entry.key.clone()], step)
        })
    }
}

/// The most bytes that the records of a batch may take in the log.
pub(crate) const BATCH_LEN_MAX: u64 = u32::MAX as u64;

/// The size of a batch's records as the frame's header holds it.
///
/// # Errors
///
/// `BatchTooLarge`.
pub(crate) fn frame_len(len: u64) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::BatchTooLarge { len, max: BATCH_LEN_MAX })
}
