//! The writer's index of one keyspace, with the live bytes of each segment.

use std::path::Path;
use std::sync::Arc;

use super::hash::Index;
use super::hash::parts::WaitingParts;
use super::key_index::KeyIndexWriter;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;

/// The index of a keyspace, for the writer.
#[derive(Debug)]
pub(crate) struct KeyspaceIndex {
    pub(crate) index: KeyIndexWriter,
    /// Live bytes by segment, so that a drop knows the newly dead bytes of each segment without
    /// reading anything. Indexed by the ordinal of the segment's mapping.
    live: Vec<u64>,
}

impl KeyspaceIndex {
    /// Makes an empty one for a keyspace, for the store or segment at `path`.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn empty(id: KeyspaceId, path: &Path) -> Result<Self> {
        let made = KeyIndexWriter::empty(id, path);
        made.map(Self::new).map_err(|error| Error::io("make an index for", path, error))
    }

    /// Makes one for an index whose records are counted from now on.
    pub(crate) fn new(index: KeyIndexWriter) -> Self {
        Self { index, live: Vec::new() }
    }

    /// Makes a hash index wait for the records of its parts. An empty one gets its size for `keys` keys.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn wait_for_parts(&mut self, parts: &Arc<WaitingParts>, keys: u64, path: &Path) -> Result<()> {
        let Some(writer) = self.index.hashed() else { return Ok(()) };
        let index = writer.index();
        if index.len() == 0 && !index.is_partial() {
            let made = Index::sized(keys).map_err(|error| Error::io("make an index for", path, error))?;
            *writer = made.1;
        }
        writer.wait_for_parts(parts);
        Ok(())
    }

    /// Ends an index of removed contents that waits for records. It never gets them, so a reader that
    /// still has the contents must not search it.
    pub(crate) fn supersede_if_waiting(&self) {
        let index = self.index.index();
        if index.hashed().is_some_and(|hashed| hashed.lacks_parts()) {
            index.lines().supersede();
        }
    }

    /// Counts a record in the segment with this ordinal as live.
    #[inline]
    pub(crate) fn add_live(&mut self, ordinal: usize, bytes: u64) {
        if ordinal >= self.live.len() {
            self.live.resize(ordinal + 1, 0);
        }
        self.live[ordinal] += bytes;
    }

    /// Stops counting a record as live.
    #[inline]
    pub(crate) fn sub_live(&mut self, ordinal: usize, bytes: u64) {
        debug_assert!(self.live.get(ordinal).is_some_and(|live| *live >= bytes), "it was counted as live");
        if let Some(live) = self.live.get_mut(ordinal) {
            *live = live.saturating_sub(bytes);
        }
    }

    /// Returns the index, and the live bytes by the ordinal of their segment.
    pub(crate) fn into_parts(self) -> (KeyIndexWriter, Vec<u64>) {
        (self.index, self.live)
    }

    /// Replaces the live bytes. Returns those that were counted too many, by the ordinal of their
    /// segment.
    pub(crate) fn recount(&mut self, live: Vec<u64>) -> Vec<(usize, u64)> {
        let before = std::mem::replace(&mut self.live, live);
        let now = |ordinal: usize| self.live.get(ordinal).copied().unwrap_or(0);
        let more = before.iter().enumerate().map(|(at, bytes)| (at, bytes.saturating_sub(now(at))));
        more.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Returns the live bytes in the segment with this ordinal.
    pub(crate) fn live_in(&self, ordinal: usize) -> u64 {
        self.live.get(ordinal).copied().unwrap_or(0)
    }

    /// Iterates over the segments with live bytes, by ordinal.
    pub(crate) fn live(&self) -> impl Iterator<Item = (usize, u64)> {
        self.live.iter().copied().enumerate().filter(|(_, live)| *live > 0)
    }
}
