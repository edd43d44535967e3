//! What an open found and did.

use std::path::{Path, PathBuf};

use crate::format::Seq;
use crate::trace;

/// What opening the store found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the store was created by this open.
    pub created: bool,
    /// Whether the store had been closed; else its process ended without, or the power was cut.
    pub clean: bool,
    /// How many times the store has been opened and written to, this time included; or the number that it will be, once
    /// something is written.
    pub incarnation: u64,
    /// Segment files that make up the store.
    pub segments: usize,
    /// Records read, of all kinds.
    pub records: u64,
    /// Bytes of segment files read.
    pub bytes_read: u64,
    /// The index was taken from an image that held every record up to this number; only what follows was read. None where
    /// everything was read.
    pub checkpoint_seq: Option<u64>,
    /// Bytes of the image read by the open itself; the rest of it is read when it is needed, and in the background.
    pub checkpoint_bytes_read: u64,
    /// What was wrong with the image that the store names, if something was: everything was read instead, nothing is
    /// lost, and a new image is made in time.
    pub checkpoint_damage: Option<String>,
    /// Keyspaces found, the default one included.
    pub keyspaces: usize,
    /// Keys found, in all keyspaces.
    pub keys: usize,
    /// The last sequence number found.
    pub last_seq: u64,
    /// Every record up to this one was known to be durable.
    pub durable_seq: u64,
    /// Bytes behind the end of the log that were no complete record: a write that was under way.
    pub torn_bytes: u64,
    /// Complete records behind a hole in the log: written, never acknowledged as durable, and not part of a prefix of
    /// the history. They lie in the files named by `quarantined`.
    pub quarantined_records: u64,
    /// Files that hold what was set aside; none where the store was opened for reading only. Nothing of it is read again; remove
    /// them when you do not want them.
    pub quarantined: Vec<PathBuf>,
    /// Bytes that are being written again, because an earlier write-back may have failed unseen.
    pub rewritten_bytes: u64,
}

impl RecoveryReport {
    pub(crate) fn note_last(&mut self, seq: Seq) {
        self.last_seq = self.last_seq.max(seq.0);
    }

    /// Tells subscribers.
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
