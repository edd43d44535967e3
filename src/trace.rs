//! What the store tells of itself to `tracing`, where the feature is on. (Placeholder until the module lands.)

pub(crate) fn keyspace_created(_name: &str, _id: u32) {}
pub(crate) fn keyspace_renamed(_from: &str, _to: &str, _id: u32) {}
pub(crate) fn keyspace_dropped(_name: &str, _id: u32) {}
pub(crate) fn keyspace_cleared(_name: &str, _id: u32) {}
