//! The names of keyspaces at the place of a feed.

use std::collections::BTreeMap;

use crate::format::KeyspaceId;
use crate::format::keyspace_change::{KeyspaceChange, KeyspaceSet};

/// The names of keyspaces by number.
#[derive(Debug, Default)]
pub(super) struct KeyspaceNames(BTreeMap<KeyspaceId, String>);

impl KeyspaceNames {
    /// Returns the names that a manifest lists.
    pub(super) fn of(listed: &KeyspaceSet) -> Self {
        // It is never created, and the number that it has before its first clear is known.
        let default = [(KeyspaceId::DEFAULT, String::new())];
        let listed = listed.iter().map(|(name, named)| (named.id, name.to_owned()));
        Self(default.into_iter().chain(listed).collect())
    }

    /// Returns the name of a keyspace.
    pub(super) fn get(&self, id: KeyspaceId) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }

    /// Applies a change of the log. It may be older than the names.
    pub(super) fn apply(&mut self, change: &KeyspaceChange) {
        match change {
            KeyspaceChange::Create { id, name, .. } | KeyspaceChange::Rename { id, name } => {
                self.0.insert(*id, name.clone());
            }
            KeyspaceChange::Clear { id, old, name } => {
                self.0.remove(old);
                self.0.insert(*id, name.clone());
            }
            KeyspaceChange::Drop { id, .. } => {
                self.0.remove(id);
            }
        }
    }
}
