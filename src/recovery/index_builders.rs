//! The indexes of several keyspaces, filled from the records of the log.
//!
//! It decides when gathered records go into the indexes, so that memory is bounded and chains stay
//! short. `index_builder` puts them there.

use super::build_context::{BuildContext, Superseded};
use super::index_builder::IndexBuilder;
use super::record_batch::{GatheredRecord, KeyspaceGroup};
use crate::error::Result;
use crate::format::KeyspaceId;
use crate::format::hash::Hash;
use crate::format::record_reader::RecordAt;
use crate::fs::Dir;
use crate::log::segment::Segment;
use crate::mem::address_space::AddressSpace;

/// The indexes of all keyspaces that are filled.
#[derive(Debug)]
pub(crate) struct IndexBuilders {
    /// In the order of their numbers. The last record's keyspace is tried first.
    builders: Vec<IndexBuilder>,
    at: usize,
    /// The number of gathered records, and memory for sorting them.
    gathered: usize,
    sorted: Vec<GatheredRecord>,
    /// The number of threads that may put them into the indexes.
    threads: usize,
    superseded: Superseded,
}

impl IndexBuilders {
    /// Starts without any keyspace.
    pub(crate) fn new(superseded: Superseded) -> Self {
        Self { builders: Vec::new(), at: 0, gathered: 0, sorted: Vec::new(), threads: 1, superseded }
    }

    /// Sets the number of threads that put records into the indexes.
    pub(super) fn use_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
    }

    /// Returns the builders.
    pub(super) fn iter(&self) -> impl Iterator<Item = &IndexBuilder> {
        self.builders.iter()
    }

    /// Returns true if the last records were of this keyspace.
    pub(super) fn is_current(&self, id: KeyspaceId) -> bool {
        self.builders.get(self.at).is_some_and(|builder| builder.id == id)
    }

    /// Returns true if the index of a keyspace is filled.
    pub(crate) fn has(&mut self, id: KeyspaceId) -> bool {
        self.position(id).is_ok()
    }

    /// Adds a keyspace that is not there yet.
    pub(crate) fn add(&mut self, builder: IndexBuilder) {
        if let Err(at) = self.position(builder.id) {
            self.builders.insert(at, builder);
            self.at = at;
        }
    }

    /// Returns the builder of a keyspace.
    pub(super) fn get_mut(&mut self, id: KeyspaceId) -> Option<&mut IndexBuilder> {
        self.position(id).ok().map(|at| &mut self.builders[at])
    }

    /// Removes a keyspace. `None` if there is none with this number.
    pub(crate) fn remove(&mut self, id: KeyspaceId) -> Option<IndexBuilder> {
        self.position(id).ok().map(|at| self.builders.remove(at))
    }

    /// Returns the position of a keyspace, or the one where it belongs.
    fn position(&mut self, id: KeyspaceId) -> std::result::Result<usize, usize> {
        if self.is_current(id) {
            return Ok(self.at);
        }
        let found = self.builders.binary_search_by_key(&id, |builder| builder.id);
        if let Ok(at) = found {
            self.at = at;
        }
        found
    }

    /// Gathers records of a keyspace, if its index is filled.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short, or about the checkpoint if its index cannot be read.
    pub(super) fn gather(
        &mut self,
        store: StorePlace<'_>,
        segment: &Segment,
        group: &KeyspaceGroup,
    ) -> Result<()> {
        let Ok(at) = self.position(group.id) else { return Ok(()) };
        self.builders[at].gather(segment, group)?;
        self.flush_if_due(store, at, group.entries.len())
    }

    /// Counts records of a keyspace that are put into its index later.
    pub(super) fn count(&mut self, segment: &Segment, group: &KeyspaceGroup) {
        if let Ok(at) = self.position(group.id) {
            self.builders[at].count(segment, group);
        }
    }

    /// Gathers a value or a tombstone, if the index of its keyspace is filled.
    ///
    /// # Errors
    ///
    /// The errors of [`IndexBuilders::gather`].
    pub(crate) fn gather_one(
        &mut self,
        store: StorePlace<'_>,
        segment: &Segment,
        placed: &RecordAt,
        hash: Hash,
    ) -> Result<()> {
        let Ok(at) = self.position(placed.header.keyspace) else { return Ok(()) };
        self.builders[at].gather_one(segment, placed, hash)?;
        self.flush_if_due(store, at, 1)
    }

    fn flush_if_due(&mut self, store: StorePlace<'_>, at: usize, added: usize) -> Result<()> {
        self.gathered += added;
        let is_due = self.builders[at].is_due(self.gathered, store.dir.tuning().gathered);
        if is_due { self.flush(store) } else { Ok(()) }
    }

    /// Puts the gathered records into the indexes.
    ///
    /// # Errors
    ///
    /// The errors of [`IndexBuilders::gather`].
    pub(crate) fn flush(&mut self, store: StorePlace<'_>) -> Result<()> {
        let with = BuildContext {
            tuning: store.dir.tuning(),
            space: store.space,
            path: store.dir.path(),
            threads: self.threads,
            alone: self.builders.len() == 1,
            superseded: self.superseded,
        };
        for builder in &mut self.builders {
            builder.flush(&with, &mut self.sorted)?;
        }
        self.gathered = 0;
        Ok(())
    }
}

/// The place of the records: the directory of their files, and their address space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StorePlace<'a> {
    pub(crate) dir: &'a dyn Dir,
    pub(crate) space: &'a AddressSpace,
}
