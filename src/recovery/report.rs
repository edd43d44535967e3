//! The report of an open.

use std::path::{Path, PathBuf};

use crate::format::Seq;
use crate::trace;

/// The report of an open: what it found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// True if this open created the store.
    pub created: bool,
    /// True if the store had been closed. False after a kill or a power cut.
    pub clean: bool,
    /// Number of times that the store has been opened and written to, this time included. Until the
    /// first write it is the number that this incarnation will have.
    pub incarnation: u64,
    /// Number of segment files that make up the store.
    pub segments: usize,
    /// Number of records read, of all kinds.
    pub records: u64,
    /// Bytes of segment files read.
    pub bytes_read: u64,
    /// Sequence number up to which an index checkpoint held every record, so that only later
    /// records were read. `None` if everything was read.
    pub checkpoint_seq: Option<u64>,
    /// Bytes of the checkpoint that the open itself read. The rest is read on demand and in the
    /// background.
    pub checkpoint_bytes_read: u64,
    /// The damage found in the checkpoint that the store names; `None` if there was none.
    /// Everything was read instead, nothing is lost, and a new checkpoint is written in time.
    pub checkpoint_damage: Option<String>,
    /// Bytes of segment files that were not read, because hints say which keys they hold. The open
    /// trusts a hint of records that are known to be on the disk, and after a kill of all records.
    pub hinted_bytes: u64,
    /// Bytes of hint files that the open itself read. The rest is read on demand and in the
    /// background.
    pub hint_bytes_read: u64,
    /// Number of keyspaces found, the default one included.
    pub keyspaces: usize,
    /// Number of keys found, in all keyspaces. At most so many, if the indexes are completed later:
    /// [`Reader::len`](crate::Reader::len) is exact. Each value in a part of the log that was not read
    /// counts, and so does each key of the checkpoint whose segment compaction has replaced.
    pub keys: usize,
    /// The last sequence number found.
    pub last_seq: u64,
    /// Sequence number up to which every record was known to be durable.
    pub durable_seq: u64,
    /// Bytes after the end of the log that form no complete record: an unfinished write.
    pub torn_bytes: u64,
    /// Number of complete records after a hole in the log. They were never acknowledged as durable,
    /// and belong to no prefix of the history. The files in `quarantined` hold them.
    pub quarantined_records: u64,
    /// Files that hold quarantined data; empty if the store was opened for reading only. They are
    /// never read again, and may be removed.
    pub quarantined: Vec<PathBuf>,
    /// Bytes that are rewritten because an earlier write-back may have failed unnoticed.
    pub rewritten_bytes: u64,
}

impl RecoveryReport {
    pub(crate) fn note_last(&mut self, seq: Seq) {
        self.last_seq = self.last_seq.max(seq.0);
    }

    /// Emits the event of an open.
    pub(crate) fn announce(&self, path: &Path) {
        trace::opened(&trace::OpenedEvent {
            path,
            clean: self.clean,
            keys: self.keys,
            segments: self.segments,
            incarnation: self.incarnation,
            records: self.records,
            bytes_read: self.bytes_read,
            torn_bytes: self.torn_bytes,
            quarantined_records: self.quarantined_records,
            quarantined_files: self.quarantined.len(),
        });
    }
}
