//! The report of a salvage, and its account of missing data.

use std::fmt;
use std::path::PathBuf;

use crate::format::Defect;

/// Says why data of a damaged store is missing, or may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum DamageCause {
    /// The bytes are not what a store writes.
    Defect(Defect),
    /// The file is missing.
    Missing,
    /// The operating system cannot read it, with this error.
    Unreadable(String),
    /// The file belongs to another store, and was not read.
    Foreign,
    /// The file has this newer format version, and was not read.
    Newer(u16),
    /// The file was obsolete before the store was damaged, so it was not read.
    Obsolete,
    /// Compaction may have made the file obsolete before the store was damaged. It was read, so
    /// removed keys may have returned.
    Doubtful,
    /// The manifest is older than the segments.
    Outdated,
    /// The store is the result of an interrupted salvage.
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

/// A part of a file that held no intact data, or that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The offset of the part from the file's start, in bytes.
    pub offset: u64,
    /// The length of the part in bytes; zero if the file itself lost nothing.
    pub len: u64,
    /// The reason.
    pub cause: DamageCause,
    /// The lowest and the highest missing sequence number, if known. Some numbers between them may
    /// never have been used, and others may be in other files.
    pub missing: Option<(u64, u64)>,
}

/// The report of a salvage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SalvageReport {
    /// True if the store opens: its exact contents were copied. Otherwise every readable record was
    /// copied, including those after a torn write, which an open would cut off.
    pub intact: bool,
    /// Number of segment files read.
    pub segments: usize,
    /// Number of intact records, of all kinds.
    pub records: u64,
    /// Number of keys written to the other store.
    pub keys: u64,
    /// Number of these keys that a missing record may have overwritten or removed: some record that
    /// is or may be missing is newer. Zero if nothing is missing.
    pub doubtful_keys: u64,
    /// Names of the keyspaces that were written to, empty for the default one. A keyspace whose
    /// name is lost is called `salvaged-` and its number.
    pub keyspaces: Vec<String>,
    /// The greatest sequence number found.
    pub last_seq: u64,
    /// The missing data, and other findings. Empty if everything was copied.
    pub damage: Vec<Damage>,
}

/// The account of a salvage under way.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) report: SalvageReport,
    /// The sequence number below which a key is doubtful: a missing record may have overwritten or
    /// removed it.
    pub(super) doubt: u64,
}

impl Account {
    /// Notes damage that makes no key doubtful.
    pub(super) fn note(&mut self, path: PathBuf, len: u64, cause: DamageCause) {
        self.report.damage.push(Damage { path, offset: 0, len, cause, missing: None });
    }

    /// Notes that records up to a number may be missing; up to any number if `None`.
    pub(super) fn doubt(&mut self, upto: Option<u64>) {
        self.doubt = self.doubt.max(upto.unwrap_or(u64::MAX));
    }
}
