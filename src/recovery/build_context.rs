//! The inputs of all threads that fill an index, and their work: reading records that were published before,
//! and shares of a job.

use std::path::Path;
use std::thread;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::Defect;
use crate::format::record::MAX_ORDERED_KEY_LEN;
use crate::fs::tuning::Tuning;
use crate::mem::address_space::{AddressSpace, Record};
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The accounting of records that a newer one supersedes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Superseded {
    /// Their bytes become dead.
    Count,
    /// Their bytes are counted as dead already.
    IsCounted,
}

/// The inputs of all threads that fill an index.
#[derive(Debug)]
pub(super) struct BuildContext<'a> {
    pub(super) tuning: Tuning,
    pub(super) space: &'a AddressSpace,
    /// The store's directory.
    pub(super) path: &'a Path,
    /// The most threads to use.
    pub(super) threads: usize,
    /// True if there is only one keyspace.
    pub(super) alone: bool,
    pub(super) superseded: Superseded,
}

impl BuildContext<'_> {
    pub(super) fn failed(&self, error: std::io::Error) -> Error {
        Error::io("grow the index for", self.path, error)
    }

    /// Returns the number of threads that put this many records into an index.
    pub(super) fn threads_for(&self, records: usize) -> usize {
        if records < self.tuning.few { 1 } else { self.threads }
    }

    /// Returns the record at a location.
    pub(super) fn record_at<'p>(&'p self, location: Location, pin: &'p Pin) -> Result<Record<'p>> {
        record_at(self.space, self.path, location, pin)
    }

    /// Returns the key in the record at a location. The record is verified unless `is_verified` says that
    /// it was.
    pub(super) fn key_at<'p>(
        &'p self,
        location: Location,
        is_verified: bool,
        pin: &'p Pin,
    ) -> Result<&'p [u8]> {
        key_at(self.space, self.path, (location, is_verified), pin)
    }

    /// Returns true if a tree may hold a key. A tombstone of a longer one hides nothing.
    ///
    /// # Errors
    ///
    /// `Corrupt` if a value has a longer one.
    pub(super) fn check_len(&self, key: &[u8], is_tombstone: bool) -> Result<bool> {
        if key.len() > MAX_ORDERED_KEY_LEN && !is_tombstone {
            let (path, defect) = (self.path.to_owned(), Defect::BadField("key_len"));
            return Err(Error::Corrupt { path, offset: 0, defect });
        }
        Ok(key.len() <= MAX_ORDERED_KEY_LEN)
    }
}

/// Calls `work` with each share of a job, on up to `threads` threads, including this one. Returns the
/// results, in any order.
///
/// # Errors
///
/// The first error of `work`. The other shares are done.
pub(super) fn in_shares<S: Send, T: Send>(
    threads: usize,
    shares: Vec<S>,
    work: impl Fn(S) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let more = threads.min(shares.len()).saturating_sub(1);
    let (waiting, done) = (Mutex::new(shares), Mutex::new(Vec::new()));
    let turn = || {
        loop {
            let Some(share) = waiting.lock().pop() else { return };
            let came_to = work(share);
            done.lock().push(came_to);
        }
    };
    thread::scope(|scope| {
        for _ in 0..more {
            let thread = thread::Builder::new().name("mapcask-sort".to_owned());
            // The threads that were started do the work, or this one.
            if thread.spawn_scoped(scope, turn).is_err() {
                break;
            }
        }
        turn();
    });
    done.into_inner().into_iter().collect()
}

/// Returns a record that was read and published before.
pub(super) fn record_at<'p>(
    space: &'p AddressSpace,
    path: &Path,
    location: Location,
    pin: &'p Pin,
) -> Result<Record<'p>> {
    space.reach(location, pin)?;
    let lost = || Error::io("read", path, std::io::Error::other("a record changed while it was read"));
    let record = space.find(location, pin)?.ok_or_else(lost)?;
    record.unreadable().map_or(Ok(record), Err)
}

/// Returns the key of a record that was published before. The record is verified unless the flag says
/// that it was read.
pub(super) fn key_at<'p>(
    space: &'p AddressSpace,
    path: &Path,
    (location, is_verified): (Location, bool),
    pin: &'p Pin,
) -> Result<&'p [u8]> {
    let record = record_at(space, path, location, pin)?;
    let key = record.key();
    let found = if is_verified { Ok(()) } else { record.verify() };
    // The key, too, may lie on a page that cannot be read.
    record.unreadable().map_or(Ok(()), Err)?;
    found.map(|()| key).map_err(|defect| Error::Corrupt { path: path.to_owned(), offset: 0, defect })
}
