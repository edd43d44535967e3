//! What a salvage gave back, and the account of what it could not.

use std::fmt;
use std::path::PathBuf;

use crate::format::Defect;

/// Why something of a damaged store did not come back, or may have come back older than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum DamageCause {
    /// The bytes are not what a store writes.
    Defect(Defect),
    /// The file is not there.
    Missing,
    /// The operating system cannot read it; what it says.
    Unreadable(String),
    /// The file is of another store, and was not read.
    Foreign,
    /// The file is of a newer format, of this version, and was not read.
    Newer(u16),
    /// The store was done with the file before it was damaged, so it was not read.
    Obsolete,
    /// Compaction may have been done with the file before the store was damaged. It was read, so a key that was removed
    /// may be back.
    Doubtful,
    /// The manifest is older than the segments are.
    Outdated,
    /// The store is itself what an interrupted salvage left.
    Unfinished,
}

impl fmt::Display for DamageCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defect(defect) => defect.fmt(f),
            Self::Missing => f.write_str("the file is missing"),
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Foreign => f.write_str("the file is of another store, and was not read"),
            Self::Newer(version) => {
                write!(f, "the file has format version {version}, which this build does not read")
            }
            Self::Obsolete => f.write_str("the store was done with the file, which was not read"),
            Self::Doubtful => {
                f.write_str("compaction may have been done with the file; keys that were removed may be back")
            }
            Self::Outdated => f.write_str("the manifest is older than the segments"),
            Self::Unfinished => f.write_str("the store is what an interrupted salvage left"),
        }
    }
}

/// A part of a file that gave nothing back, or that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where it begins, in bytes from the file's start.
    pub offset: u64,
    /// How long it is, in bytes; zero where nothing of the file itself is lost.
    pub len: u64,
    /// What is wrong.
    pub cause: DamageCause,
    /// The least and the greatest sequence number that are missing because of it, where they are known. Some of these may
    /// never have been given out, and others may be in other files.
    pub missing: Option<(u64, u64)>,
}

/// What a salvage gave back, and what it met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SalvageReport {
    /// The store can be opened, and what came back is what it holds then. Else every record came back that can be read,
    /// also one that an open would have cut off behind a torn write.
    pub intact: bool,
    /// Segment files read.
    pub segments: usize,
    /// Intact records, of all kinds.
    pub records: u64,
    /// Keys that were written to the other store.
    pub keys: u64,
    /// Those of them that a missing record may have overwritten or removed: each is older than some record which is
    /// missing, or may be. Zero where nothing is missing.
    pub doubtful_keys: u64,
    /// The keyspaces that they were written to; the default one has no name. One whose name is lost has the name
    /// `salvaged-` and its number.
    pub keyspaces: Vec<String>,
    /// The greatest sequence number met.
    pub last_seq: u64,
    /// What is missing, and what else is wrong. Empty where everything came back.
    pub damage: Vec<Damage>,
}

/// The account, while it is being made.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) report: SalvageReport,
    /// A key whose record has a smaller number may have been overwritten or removed by one that is missing.
    pub(super) doubt: u64,
}

impl Account {
    /// Notes damage that makes nothing doubtful.
    pub(super) fn note(&mut self, path: PathBuf, len: u64, cause: DamageCause) {
        self.report.damage.push(Damage { path, offset: 0, len, cause, missing: None });
    }

    /// Notes that records up to a number may be missing; of all numbers where that is not known.
    pub(super) fn doubt(&mut self, upto: Option<u64>) {
        self.doubt = self.doubt.max(upto.unwrap_or(u64::MAX));
    }
}
