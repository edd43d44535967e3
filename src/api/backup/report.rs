//! The reports of a backup and a restore.

use crate::format::Seq;

/// The result of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BackupReport {
    /// The sequence number of the last write in the backup.
    pub last_seq: u64,
    /// The number of segment files in the backup.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
    /// The number of files that were copied now. The others were there already.
    pub files_copied: usize,
    /// Bytes of the files that were copied now.
    pub bytes_copied: u64,
    /// The number of files of earlier or unfinished backups that were removed.
    pub files_removed: usize,
}

/// The result of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RestoreReport {
    /// The sequence number of the last write in the backup.
    pub last_seq: u64,
    /// The number of segment files.
    pub files: usize,
    /// Bytes that were copied.
    pub bytes: u64,
}

impl BackupReport {
    pub(super) fn new(last: Seq) -> Self {
        Self { last_seq: last.0, ..Self::default() }
    }

    /// Counts a file of the backup.
    pub(super) fn count(&mut self, bytes: u64, is_copied: bool) {
        self.files += 1;
        self.bytes += bytes;
        if is_copied {
            self.files_copied += 1;
            self.bytes_copied += bytes;
        }
    }
}
