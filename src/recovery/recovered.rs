//! The keyspaces that recovery passes to the engine.

use crate::format::KeyspaceId;
use crate::index::keyspace_index::KeyspaceIndex;

/// A keyspace as recovery found it.
#[derive(Debug)]
pub(crate) struct RecoveredKeyspace {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) codec: String,
    pub(crate) slot: KeyspaceIndex,
    pub(crate) keys: u64,
    pub(crate) live_bytes: u64,
}
