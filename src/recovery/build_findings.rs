//! The findings of one thread that fills an index: tombstones, and bytes of superseded values.

use std::collections::BTreeMap;

use super::build_context::BuildContext;
use crate::error::Result;
use crate::format::hash::Hash;
use crate::format::record::RecordKind;
use crate::mem::alloc;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The findings of one thread that fills an index.
#[derive(Debug, Default)]
pub(super) struct BuildFindings {
    /// Entries that lead to tombstones.
    pub(super) tombstones: Vec<(Hash, Location)>,
    /// Bytes of superseded values, by the ordinal of their segment, with a location in it.
    pub(super) hidden: BTreeMap<usize, (Location, u64)>,
}

impl BuildFindings {
    /// Returns true if a record of a key is newer than the one at `other`. Notes the older one.
    pub(super) fn is_newer(
        &mut self,
        with: &BuildContext<'_>,
        other: Location,
        location: Location,
        pin: &Pin,
    ) -> Result<bool> {
        let facts = |location| {
            let record = with.record_at(location, pin)?;
            let facts = (record.header(), record.ordinal(), location);
            record.unreadable().map_or(Ok(facts), Err)
        };
        let (old, new) = (facts(other)?, facts(location)?);
        let is_newer = old.0.seq < new.0.seq;
        let (hidden, ordinal, at) = if is_newer { old } else { new };
        if hidden.kind == RecordKind::Put {
            self.hidden.entry(ordinal).or_insert((at, 0)).1 += hidden.size();
        }
        Ok(is_newer)
    }

    /// Notes a tombstone that the index leads to.
    pub(super) fn note_tombstone(
        &mut self,
        with: &BuildContext<'_>,
        hash: Hash,
        location: Location,
    ) -> Result<()> {
        alloc::reserve(&mut self.tombstones, 1).map_err(|error| with.failed(error))?;
        self.tombstones.push((hash, location));
        Ok(())
    }
}
