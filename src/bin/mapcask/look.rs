//! Opening a store to look at it: beside a writer, and after one that was killed.
//!
//! Nothing in the directory changes, under any user. A follower takes no lock, so a look neither
//! waits for a writer nor keeps one out. It refuses a hole in the log, because a live log has none.
//! An open decides about such a hole, and a read-only one does so in memory. It needs the lock, so
//! it stands in only where a follower refuses. A verification uses it first, because an open judges
//! damage by more evidence than a follower has.

use std::path::Path;

use mapcask::{Error, Follower, Options, Reader, Result, Stats, Store, VerifyReport, WriterStatus};

/// A store that is open for looking at it.
pub(super) enum Looked {
    /// A writer may have the store open.
    Followed(Follower),
    /// No writer can have the store open.
    Locked(Store),
}

/// Returns the names and values of the counters that each view of a store begins with.
pub(super) fn counts_of(stats: &Stats) -> [(&'static str, u64); 6] {
    [
        ("keyspaces", stats.keyspaces as u64),
        ("keys", stats.keys),
        ("live_bytes", stats.live_bytes),
        ("dead_bytes", stats.dead_bytes),
        ("segments", stats.segments as u64),
        ("segment_bytes", stats.segment_bytes),
    ]
}

impl Looked {
    /// Opens a store without its lock, if it can be read so.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match Options::new().follow(path) {
            Err(refused) if refused.is_corruption() => match read_only(path) {
                Err(Error::Locked { .. }) => Err(refused),
                opened => opened.map(Self::Locked),
            },
            opened => opened.map(Self::Followed),
        }
    }

    /// Opens a store with its lock, if no writer has that.
    pub(super) fn open_to_verify(path: &Path) -> Result<Self> {
        match read_only(path) {
            Err(Error::Locked { .. }) => Options::new().follow(path).map(Self::Followed),
            opened => opened.map(Self::Locked),
        }
    }

    pub(super) fn keyspace(&self, name: &str) -> Result<Reader> {
        match self {
            Self::Followed(follower) => follower.keyspace(name),
            Self::Locked(store) => Ok(Reader::clone(&*store.open_keyspace(name)?)),
        }
    }

    pub(super) fn keyspace_names(&self) -> Vec<String> {
        match self {
            Self::Followed(follower) => follower.keyspace_names(),
            Self::Locked(store) => store.keyspace_names(),
        }
    }

    /// Returns the counters. Every durable write is among those that they count.
    pub(super) fn stats(&self) -> Result<Stats> {
        match self {
            Self::Followed(follower) => {
                let durable = follower.durable_seq()?;
                follower.refresh()?;
                let mut stats = follower.stats();
                stats.durable_seq = durable.0;
                Ok(stats)
            }
            Self::Locked(store) => Ok(store.stats()),
        }
    }

    /// Returns the state of the writer, as a word.
    pub(super) fn writer(&self) -> Result<&'static str> {
        Ok(match self {
            Self::Followed(follower) => word_of(follower.writer_status()?),
            Self::Locked(store) if store.recovery_report().clean => "closed",
            Self::Locked(_) => "killed",
        })
    }

    pub(super) fn size_on_disk(&self) -> Result<u64> {
        match self {
            Self::Followed(follower) => follower.size_on_disk(),
            Self::Locked(store) => store.size_on_disk(),
        }
    }

    pub(super) fn verify(&self) -> Result<VerifyReport> {
        match self {
            Self::Followed(follower) => follower.verify(),
            Self::Locked(store) => store.verify(),
        }
    }
}

/// Returns the state of a writer, as a word.
pub(super) fn word_of(status: WriterStatus) -> &'static str {
    match status {
        WriterStatus::Open => "open",
        WriterStatus::Closed => "closed",
        WriterStatus::Failed => "failed",
        _ => "unknown",
    }
}

fn read_only(path: &Path) -> Result<Store> {
    Options::new().read_only(true).open(path)
}
