//! The file that a pass writes its copies to.
//!
//! It is written under a temporary name, by `write_at` and not through a mapping, so that a full
//! disk is an error and never a signal. Then it is synced and renamed. Nothing refers to it before
//! the manifest names it.
//!
//! **Crash points.** `compaction-copied` before the sync, `compaction-renamed` before the
//! directory's sync.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::keyspace_change::KeyspaceChange;
use crate::format::manifest::{SegmentEntry, SegmentState};
use crate::format::record::{HEADER_SIZE, RecordHeader, RecordKind, RecordPlace, payload_sum, record_size};
use crate::format::record_reader::READ_MAX;
use crate::format::segment_header::{Role, SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::format::{KeyspaceId, SegmentId, Seq, file_name};
use crate::fs::leftovers::Leftovers;
use crate::fs::{Dir, File};
use crate::log::context::LogContext;
use crate::mem::PAGE_SIZE;
use crate::mem::alloc;
use crate::mem::location::Location;

/// The bytes gathered before a write.
const BUFFER: usize = 1 << 20;
/// The bytes written before a sync: one sync of everything would delay the worker.
const SYNC_SPACING: u64 = 4 << 20;

/// A file of copies that is being written.
#[derive(Debug)]
pub(crate) struct CopyWriter {
    dir: Arc<dyn Dir>,
    leftovers: Arc<Leftovers>,
    file: Arc<dyn File>,
    temporary: String,
    id: SegmentId,
    size: u64,
    nonce: u64,
    generation: u8,
    filtered: Seq,
    first: Seq,
    last: Seq,
    /// Keyspaces whose names are in it.
    introduced: BTreeSet<KeyspaceId>,
    /// The bytes that are not written yet, and the offset where they belong.
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    /// The location of each value's original, in the order of their records here.
    moved: Vec<Location>,
    /// True if the file has its final name.
    named: bool,
}

/// A file of copies that is complete and durable.
#[derive(Debug)]
pub(crate) struct FinishedCopy {
    pub(crate) entry: SegmentEntry,
    pub(crate) moved: Vec<Location>,
    dir: Arc<dyn Dir>,
    leftovers: Arc<Leftovers>,
}

impl FinishedCopy {
    /// Removes the file, which the manifest does not name.
    pub(crate) fn remove(&self) {
        self.leftovers.remove(self.dir.as_ref(), file_name::segment(self.entry.id), self.entry.size);
    }
}

/// The parameters of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyPlan<'a> {
    /// Bytes of records that it takes, padding included.
    pub(crate) room: u64,
    pub(crate) generation: u8,
    pub(crate) filtered: Seq,
    pub(crate) replaced: &'a [SegmentId],
}

/// Returns the size of a file that replaces `replaced` segments, with space for `room` bytes of
/// records.
pub(crate) fn size_of(replaced: usize, room: u64) -> u64 {
    let header_len = (SEGMENT_HEADER_SIZE + 8 * replaced) as u64;
    // Space for the least that a header accepts.
    (header_len + room.max(PAGE_SIZE as u64 / 2)).next_multiple_of(PAGE_SIZE as u64)
}

impl CopyWriter {
    /// Creates an empty file, with its blocks reserved.
    ///
    /// # Errors
    ///
    /// `NoSpace`, or an error of the operating system. Then there is no file.
    pub(crate) fn create(shared: &LogContext, plan: &CopyPlan<'_>) -> Result<Self> {
        let dir = Arc::clone(&shared.dir);
        let mut nonce = [0; 8];
        dir.random(&mut nonce).map_err(|error| Error::io("draw random bytes for", dir.path(), error))?;
        let id = shared.manifest.next_segment();
        let size = size_of(plan.replaced.len(), plan.room);
        let temporary = file_name::temporary(&file_name::segment(id));
        let path = dir.path().join(&temporary);
        // Before the file exists.
        let len = usize::try_from(size).unwrap_or(usize::MAX).min(BUFFER + READ_MAX + PAGE_SIZE);
        let mut buffer = alloc::with_capacity(len).map_err(|error| Error::io("write", &path, error))?;
        let header = SegmentHeader {
            store: shared.store,
            id,
            size,
            nonce: u64::from_le_bytes(nonce),
            first_seq: Seq::ZERO,
            role: Role::Copies,
            generation: plan.generation,
            replaced: plan.replaced.to_vec(),
        };
        buffer.extend_from_slice(&header.encode());
        let file = dir.create(&temporary).map_err(|error| Error::io("create", &path, error))?;
        let output = Self {
            file,
            temporary,
            id,
            size,
            nonce: header.nonce,
            generation: plan.generation,
            filtered: plan.filtered,
            first: Seq::MAX,
            last: Seq::ZERO,
            introduced: BTreeSet::new(),
            buffer,
            written: 0,
            synced: 0,
            moved: Vec::new(),
            named: false,
            dir,
            leftovers: Arc::clone(&shared.leftovers),
        };
        output.file.allocate(size).map_err(|error| match Error::io("allocate", &path, error) {
            Error::NoSpace { path, source, .. } => Error::NoSpace { path, needed: size, source },
            other => other,
        })?;
        Ok(output)
    }

    /// Returns the offset of the next record.
    fn at(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Returns the most bytes that the record with a keyspace's name takes.
    pub(crate) fn name_size(change: &KeyspaceChange) -> u64 {
        record_size((change.name().len() + change.encode().len()) as u64)
    }

    /// Writes a keyspace's name, unless this file already has it.
    pub(crate) fn introduce(&mut self, id: KeyspaceId, change: &KeyspaceChange) {
        if !self.introduced.insert(id) {
            return;
        }
        let (name, value) = (change.name().as_bytes(), change.encode());
        let header = RecordHeader {
            kind: RecordKind::Keyspace,
            flags: 0,
            keyspace: id,
            key_len: u16::try_from(name.len()).expect("names are at most 255 bytes long"),
            value_len: u32::try_from(value.len()).expect("a short value"),
            // Below every later change, and above those that made the keyspace's present state.
            seq: self.filtered,
            payload_sum: payload_sum(name, &value),
        };
        let place = RecordPlace { nonce: self.nonce, offset: self.at() };
        self.buffer.extend_from_slice(&header.encode(place));
        self.buffer.extend_from_slice(name);
        self.buffer.extend_from_slice(&value);
        self.end_record();
    }

    /// Returns true if a record of this size fits.
    pub(crate) fn fits(&self, size: u64) -> bool {
        self.at() + size <= self.size
    }

    /// Records the location of the original of the last record, a value.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn note_moved(&mut self, from: Location) -> Result<()> {
        alloc::reserve(&mut self.moved, 1).map_err(|error| self.io("write", error))?;
        self.moved.push(from);
        Ok(())
    }

    /// Begins a record. Its key and value follow, and then [`CopyWriter::end_record`].
    pub(crate) fn begin_record(&mut self, header: &RecordHeader) {
        let place = RecordPlace { nonce: self.nonce, offset: self.at() };
        // The copy is a single record, even if its original was in a batch.
        let header = RecordHeader { flags: 0, ..*header };
        self.buffer.extend_from_slice(&header.encode(place));
        self.first = self.first.min(header.seq);
        self.last = self.last.max(header.seq);
    }

    /// Appends a part of the record that was begun.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Ends a record: the next one starts at a multiple of eight.
    pub(crate) fn end_record(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(8), 0);
    }

    fn flush(&mut self) -> Result<()> {
        // In whole words, so that the buffer's length shows where a record may begin.
        let len = self.buffer.len() / 8 * 8;
        self.file.write_at(&self.buffer[..len], self.written).map_err(|error| self.io("write", error))?;
        self.buffer.drain(..len);
        self.written += len as u64;
        if self.written - self.synced >= SYNC_SPACING {
            self.file.sync().map_err(|error| self.io("sync", error))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Makes the file durable, and renames it to its final name.
    ///
    /// # Errors
    ///
    /// Errors of the operating system.
    pub(crate) fn finish(mut self, shared: &LogContext) -> Result<FinishedCopy> {
        self.flush()?;
        // Records that were expected to be live and are not need no blocks.
        let end = self.written.next_multiple_of(PAGE_SIZE as u64);
        if end < self.size {
            self.file.punch_hole(end, self.size - end).map_err(|error| self.io("free space in", error))?;
        }
        self.dir.crash_point("compaction-copied");
        self.file.sync().map_err(|error| self.io("sync", error))?;
        self.dir
            .rename(&self.temporary, &file_name::segment(self.id))
            .map_err(|error| self.io("rename", error))?;
        self.named = true;
        self.dir.crash_point("compaction-renamed");
        shared.sync_dir()?;
        let entry = SegmentEntry {
            id: self.id,
            size: self.size,
            nonce: self.nonce,
            end: self.written,
            last_seq: self.last,
            first_seq: self.first,
            filtered: self.filtered,
            state: SegmentState::Sealed,
            role: Role::Copies,
            generation: self.generation,
        };
        let moved = std::mem::take(&mut self.moved);
        // Its file must not be removed.
        self.temporary.clear();
        let (dir, leftovers) = (Arc::clone(&self.dir), Arc::clone(&self.leftovers));
        Ok(FinishedCopy { entry, moved, dir, leftovers })
    }

    fn io(&self, operation: &'static str, error: std::io::Error) -> Error {
        let path = self.dir.path().join(&self.temporary);
        match Error::io(operation, path, error) {
            Error::NoSpace { path, source, .. } => Error::NoSpace { path, needed: self.size, source },
            other => other,
        }
    }
}

/// Removes an unfinished file.
impl Drop for CopyWriter {
    fn drop(&mut self) {
        if self.temporary.is_empty() {
            return;
        }
        let name = if self.named { file_name::segment(self.id) } else { std::mem::take(&mut self.temporary) };
        self.leftovers.remove(self.dir.as_ref(), name, self.size);
    }
}

const _: () = assert!(HEADER_SIZE.is_multiple_of(8) && SEGMENT_HEADER_SIZE.is_multiple_of(8));
