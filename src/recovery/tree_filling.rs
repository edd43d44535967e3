//! The way of sorted records into a tree.
//!
//! A tree that recovery began takes them all at once ([`TreeWriter::fill`]). One from a checkpoint takes them one
//! after the other: its blocks may not be loaded, and its records may not be verified, and an insert has the
//! rules for both.

use super::build_context::BuildContext;
use super::build_findings::BuildFindings;
use super::sorted_records::{AHEAD, KeyedRecord};
use crate::error::{Error, Result};
use crate::format::hash::Hash;
use crate::index::tree::{RunSource, Tree, TreeWriter};
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The bytes of a record that are prefetched: its header, and a key of up to 96 bytes.
const PREFETCHED: usize = 128;

/// Sorted records on their way into a tree.
pub(super) struct TreeFilling<'p> {
    with: &'p BuildContext<'p>,
    records: &'p [KeyedRecord],
    at: usize,
    found: BuildFindings,
    pin: &'p Pin,
}

impl<'p> TreeFilling<'p> {
    pub(super) fn new(with: &'p BuildContext<'p>, records: &'p [KeyedRecord], pin: &'p Pin) -> Self {
        Self { with, records, at: 0, found: BuildFindings::default(), pin }
    }

    /// Puts the records into a tree. `is_series` says that the log had them in order.
    ///
    /// # Errors
    ///
    /// A record that cannot be read, memory is short, or about the checkpoint of the tree. The tree must not
    /// be used then.
    pub(super) fn fill(&mut self, tree: &mut TreeWriter, is_series: bool) -> Result<()> {
        if !tree.tree().is_from_checkpoint() {
            return tree.fill(self, is_series);
        }
        while let Some((key, location)) = self.next()? {
            self.put(tree, key, location)?;
        }
        Ok(())
    }

    pub(super) fn into_found(self) -> BuildFindings {
        self.found
    }

    /// Puts one record into a tree.
    fn put(&mut self, tree: &mut TreeWriter, key: &'p [u8], location: Location) -> Result<()> {
        let (with, pin) = (self.with, self.pin);
        // A record that nothing has read may hide the key. The insert then meets it as well, and
        // verifies it.
        let compare = |other| Ok::<_, Error>(with.key_at(other, true, pin)?.cmp(key));
        if let Some(other) = tree.find(key, compare)? {
            if self.is_newer(other, location)? {
                tree.replace(key, other, location);
            }
            return Ok(());
        }
        tree.reserve(1).map_err(|error| with.failed(error))?;
        let mut failed = None;
        tree.insert(key, location, |other, is_verified| {
            with.key_at(other, is_verified, pin).inspect_err(|error| failed = Some(error.clone())).ok()
        });
        match failed.filter(|_| tree.tree().has_ended()) {
            Some(error) => Err(refusal(tree.tree(), error)),
            None => Ok(()),
        }
    }
}

impl<'p> RunSource<'p> for TreeFilling<'p> {
    type Error = Error;

    fn next(&mut self) -> Result<Option<(&'p [u8], Location)>> {
        if let Some(next) = self.records.get(self.at + AHEAD) {
            self.with.space.prefetch_record(next.location(), PREFETCHED);
        }
        let Some(record) = self.records.get(self.at) else { return Ok(None) };
        self.at += 1;
        if record.is_tombstone() {
            // No search in a tree needs its hash.
            self.found.note_tombstone(self.with, Hash::from_bits(0), record.location())?;
        }
        Ok(Some((self.key(record.location())?, record.location())))
    }

    fn key(&mut self, location: Location) -> Result<&'p [u8]> {
        self.with.key_at(location, true, self.pin)
    }

    fn prefetch(&self, location: Location) {
        self.with.space.prefetch_record(location, PREFETCHED);
    }

    fn is_newer(&mut self, other: Location, location: Location) -> Result<bool> {
        self.found.is_newer(self.with, other, location, self.pin)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        self.with.failed(error)
    }
}

/// Returns the error for a record that cannot decide about another one. A checkpoint that leads to it is
/// not used: an open then reads the record as well, and says where it lies.
fn refusal(tree: &Tree, error: Error) -> Error {
    match error {
        Error::Corrupt { defect, .. } if tree.is_from_checkpoint() => tree.lines().refused(defect).into(),
        other => other,
    }
}
