//! The operations of a batch, in the order in which they were added.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::state::catalog::KeyspaceState;
use crate::error::{Error, Result};

/// Writes and conditions, with their keys and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchOps {
    entries: Vec<BatchEntry>,
    /// Keys and values, one after another.
    bytes: Vec<u8>,
    /// The keyspaces that operations name. The batch's own keyspace is not among them.
    places: Vec<Arc<KeyspaceState>>,
    /// The number of entries that are writes.
    writes: usize,
}

#[derive(Debug, Clone)]
struct BatchEntry {
    /// Zero for the batch's own keyspace, else one more than the position in `places`.
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

/// The expected state of a key in a condition.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    Absent,
    Present,
    Value(&'a [u8]),
}

impl BatchOps {
    /// Returns the number of writes, without conditions.
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

    /// Returns the number by which [`BatchOps::push`] knows a keyspace. Zero is the batch's own.
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

    /// Returns the keyspaces that operations name. In [`BatchOps::iter`] their numbers count from
    /// one.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Arc<KeyspaceState>> {
        self.places.iter()
    }

    /// Returns the entries in order: the number of the keyspace, the key, and the operation.
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

/// Converts the size of a batch's records to the field of the batch's header.
///
/// # Errors
///
/// `BatchTooLarge`.
pub(crate) fn frame_len(len: u64) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::BatchTooLarge { len, max: BATCH_LEN_MAX })
}
