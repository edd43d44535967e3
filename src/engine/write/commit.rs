//! The commit of a transaction: a batch that is written if all that the transaction read still holds.
//!
//! **Concurrency.** The reads are checked without the writer mutex, and again under it if a write took
//! effect since the first check began. Only then can another answer come out. So a commit beside no
//! other writer holds the mutex as long as a batch does.
//!
//! A key holds if the index leads to a record that is not newer than the snapshot, or to none if there
//! was none. A range holds if no version that the snapshot sees in it has ended, and it has as many keys
//! as the snapshot. Proof: by the first, all keys of the snapshot are there, unchanged; by the second
//! there is no other. The versions are retained as long as the snapshot lives, and it outlives this.
//!
//! Compaction moves records, and keeps their numbers.

use crate::config::Durability;
use crate::engine::Engine;
use crate::engine::read::key_range::KeyRange;
use crate::engine::state::State;
use crate::engine::state::catalog::KeyspaceData;
use crate::engine::write::batch_ops::BatchOps;
use crate::engine::write::read_set::{KeyspaceReads, ReadSet};
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::index::key_index::ScanPosition;
use crate::sync::epoch::Pin;

/// The first read that does not hold, if there is one.
type Changed = Option<Error>;

impl Engine {
    /// Writes a batch if all reads still hold, and returns its last number. It is visible on return, and
    /// not necessarily durable.
    ///
    /// # Errors
    ///
    /// See [`Transaction::commit`](crate::Transaction::commit).
    pub(crate) fn commit(&self, reads: &ReadSet<'_>, batch: &BatchOps) -> Result<Seq> {
        self.write_after(Some(reads), &self.default, batch, Durability::Os)
    }

    /// Checks reads without the writer mutex. Returns the number of the last write before, for
    /// [`Engine::check_reads_again`].
    ///
    /// # Errors
    ///
    /// `Conflict`, and the errors of a get.
    pub(super) fn check_reads(&self, reads: &ReadSet<'_>, pin: &Pin) -> Result<Seq> {
        let start = self.seqlock.now();
        let is_quiet = || self.seqlock.is_unchanged_since(start);
        self.first_changed(reads, &is_quiet, pin)?.map_or(Ok(start), Err)
    }

    /// Checks reads under the writer mutex, unless nothing was written since `checked`.
    ///
    /// # Errors
    ///
    /// The errors of [`Engine::check_reads`].
    pub(super) fn check_reads_again(&self, reads: &ReadSet<'_>, checked: Seq, pin: &Pin) -> Result<()> {
        if self.seqlock.is_unchanged_since(checked) {
            return Ok(());
        }
        self.first_changed(reads, &|| true, pin)?.map_or(Ok(()), Err)
    }
}

impl State {
    /// Returns the first read that does not hold. While writes take effect, which `is_quiet` tells,
    /// keys that were added to a range may be missed.
    fn first_changed(&self, reads: &ReadSet<'_>, is_quiet: &dyn Fn() -> bool, pin: &Pin) -> Result<Changed> {
        for of in reads.keyspaces.iter().filter(|of| !of.is_empty()) {
            let contents = of.keyspace.contents(pin);
            if contents.map(|contents| contents.id) != of.id {
                return Ok(Some(conflict(of, None)));
            }
            let Some(contents) = contents else { continue };
            for (key, was_there) in of.keys() {
                let found = self.lookup(contents, self.search_key(key), pin)?;
                let holds = found.map_or(!was_there, |record| was_there && record.seq() <= reads.at);
                if !holds {
                    if let Some(record) = found {
                        // Not a conflict for ever with a rotten number.
                        self.check_header(&record)?;
                    }
                    return Ok(Some(conflict(of, Some(key))));
                }
            }
            for range in of.ranges() {
                let changed = self.range_change((of, contents), range, reads.at, is_quiet, pin)?;
                if changed.is_some() {
                    return Ok(changed);
                }
            }
        }
        Ok(None)
    }

    /// Returns the change of a range that had so many keys, if there is one.
    fn range_change(
        &self,
        (of, contents): (&KeyspaceReads, &KeyspaceData),
        (range, count): (&KeyRange, u64),
        at: Seq,
        is_quiet: &dyn Fn() -> bool,
        pin: &Pin,
    ) -> Result<Changed> {
        let to = range.to.as_deref().map(ScanPosition::of_key);
        let ended = contents.versions.first_between(&ScanPosition::of_key(&range.from), to.as_ref(), at);
        if let Some(ended) = ended {
            return Ok(Some(conflict(of, Some(ended.key()))));
        }
        let now = self.count_upto(contents, range, count, pin)?;
        // Entries of a batch that is taking effect count, and are not to be seen yet.
        Ok(Some(conflict(of, None)).filter(|_| now != count && is_quiet()))
    }
}

#[cold]
fn conflict(of: &KeyspaceReads, key: Option<&[u8]>) -> Error {
    Error::Conflict { keyspace: of.keyspace.name().to_string(), key: key.map(<[u8]>::to_vec) }
}
