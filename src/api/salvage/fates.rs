//! The names of keyspaces, from the manifest and from the records that change them.

use std::collections::BTreeMap;

use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};
use crate::format::manifest::Manifest;
use crate::format::{KeyspaceId, Seq};

/// The name of the keyspace that the target store has until a [`salvage()`](crate::salvage()) into it has finished.
pub const SALVAGE_UNFINISHED: &str = "salvage-unfinished";

/// The known facts about a keyspace.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) name: String,
    pub(super) codec: String,
    pub(super) dropped: bool,
}

impl Fate {
    fn new(name: &str, codec: &str) -> Self {
        Self { name: name.to_owned(), codec: codec.to_owned(), dropped: false }
    }
}

/// The known facts about all keyspaces.
#[derive(Debug)]
pub(super) struct Fates {
    known: BTreeMap<KeyspaceId, Fate>,
    /// The keyspaces that a manifest or an open lists. A smaller number that is not listed was
    /// dropped.
    listed: KeyspaceSet,
    is_complete: bool,
}

impl Fates {
    /// Returns the keyspaces that an open found: there are no others.
    pub(super) fn of_open(keyspaces: KeyspaceSet) -> Self {
        Self { known: known(&keyspaces), listed: keyspaces, is_complete: true }
    }

    /// Returns the keyspaces of the manifest, with the later changes applied.
    pub(super) fn gathered(manifest: Option<&Manifest>, changes: &mut [(Seq, KeyspaceChange)]) -> Self {
        let listed = manifest.map_or_else(KeyspaceSet::new, |manifest| manifest.keyspaces.clone());
        let upto = manifest.map_or(Seq::ZERO, |manifest| manifest.durable);
        let mut fates = known(&listed);
        changes.sort_by_key(|(seq, _)| *seq);
        for (_, change) in changes.iter().filter(|(seq, _)| *seq > upto) {
            match change {
                KeyspaceChange::Create { id, name, codec } => drop(fates.insert(*id, Fate::new(name, codec))),
                KeyspaceChange::Rename { id, name } => {
                    fates.entry(*id).or_insert_with(|| Fate::new(name, "")).name.clone_from(name);
                }
                KeyspaceChange::Clear { id, old, name } => {
                    let before = fates.entry(*old).or_insert_with(|| Fate::new(name, ""));
                    before.dropped = true;
                    let codec = before.codec.clone();
                    fates.insert(*id, Fate::new(name, &codec));
                }
                KeyspaceChange::Drop { id, name } => {
                    fates.entry(*id).or_insert_with(|| Fate::new(name, "")).dropped = true;
                }
            }
        }
        let listed = if manifest.is_some() { listed } else { KeyspaceSet::new() };
        Self { known: fates, listed, is_complete: false }
    }

    /// Returns the facts about a keyspace.
    pub(super) fn get(&self, id: KeyspaceId) -> Option<&Fate> {
        self.known.get(&id)
    }

    /// Returns `true` if the keyspace was dropped.
    pub(super) fn is_dropped(&self, id: KeyspaceId) -> bool {
        match self.known.get(&id) {
            Some(fate) => fate.dropped || self.listed.is_dropped(id),
            None => self.is_complete || self.listed.is_dropped(id),
        }
    }
}

fn known(listed: &KeyspaceSet) -> BTreeMap<KeyspaceId, Fate> {
    listed.iter().map(|(name, named)| (named.id, Fate::new(name, &named.codec))).collect()
}
