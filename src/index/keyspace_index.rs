//! The writer's index of one keyspace, with the live bytes of each segment.

use std::path::Path;

use super::hash::{Index, IndexWriter};
use crate::error::{Error, Result};

/// The index of a keyspace, for the writer.
#[derive(Debug)]
pub(crate) struct KeyspaceIndex {
    pub(crate) index: IndexWriter,
    /// Live bytes by segment, so that a drop knows the newly dead bytes of each segment without
    /// reading anything. Indexed by the ordinal of the segment's mapping.
    live: Vec<u64>,
}

impl KeyspaceIndex {
    /// Makes an empty one, for the store or segment at `path`.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn empty(path: &Path) -> Result<Self> {
        let made = Index::new().map_err(|error| Error::io("make an index for", path, error));
        made.map(|(_, writer)| Self::new(writer))
    }

    /// Makes one for an index whose records are counted from now on.
    pub(crate) fn new(index: IndexWriter) -> Self {
        Self { index, live: Vec::new() }
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

    /// Returns the live bytes in the segment with this ordinal.
    pub(crate) fn live_in(&self, ordinal: usize) -> u64 {
        self.live.get(ordinal).copied().unwrap_or(0)
    }

    /// Iterates over the segments with live bytes, by ordinal.
    pub(crate) fn live(&self) -> impl Iterator<Item = (usize, u64)> {
        self.live.iter().copied().enumerate().filter(|(_, live)| *live > 0)
    }
}
