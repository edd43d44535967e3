//! Survivors of ordered keyspaces, gathered so that their copies lie in the order of keys.
//!
//! A scan of data that are larger than memory then finds neighbours on one page. Copies may lie in any order
//! (`Order::Any`), so nothing else depends on this.

use std::io;

use crate::format::record::RecordHeader;
use crate::format::record_reader::READ_MAX;
use crate::mem::alloc;
use crate::mem::location::Location;

/// The bytes of keys and values that are gathered. A scan of all keys needs one page of each run in memory.
const RUN: usize = 1 << 20;

/// A record that was gathered.
#[derive(Debug)]
pub(super) struct RunRecord {
    pub(super) header: RecordHeader,
    /// The location of a value; `None` for a tombstone.
    pub(super) from: Option<Location>,
    /// The position of its key in the bytes of the run. The value follows.
    at: usize,
}

/// Records of ordered keyspaces that are to be copied.
#[derive(Debug, Default)]
pub(crate) struct KeyRun {
    bytes: Vec<u8>,
    records: Vec<RunRecord>,
}

impl KeyRun {
    /// Returns true for a record that belongs into a run: a short one of an ordered keyspace.
    pub(super) fn takes(header: &RecordHeader) -> bool {
        header.keyspace.is_ordered() && header.payload_len() <= READ_MAX as u64
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// If memory is short.
    pub(super) fn add(
        &mut self,
        header: &RecordHeader,
        from: Option<Location>,
        payload: &[u8],
    ) -> io::Result<()> {
        alloc::reserve(&mut self.records, 1)?;
        alloc::reserve(&mut self.bytes, payload.len())?;
        self.records.push(RunRecord { header: *header, from, at: self.bytes.len() });
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    /// Returns true if the run is to be copied.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= RUN
    }

    /// Sorts the records by their keys.
    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |record: &RunRecord| &bytes[record.at..][..usize::from(record.header.key_len)];
        self.records.sort_unstable_by(|one, other| {
            (one.header.keyspace, key(one)).cmp(&(other.header.keyspace, key(other)))
        });
    }

    /// Returns the records.
    pub(super) fn records(&self) -> &[RunRecord] {
        &self.records
    }

    /// Returns the key and the value of a record.
    pub(super) fn payload(&self, record: &RunRecord) -> &[u8] {
        let len = usize::from(record.header.key_len) + record.header.value_len as usize;
        &self.bytes[record.at..][..len]
    }

    /// Forgets all records, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }
}
