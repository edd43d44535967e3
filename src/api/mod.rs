//! The public handles: stores, keyspaces, snapshots, typed keyspaces, salvage.

pub(crate) mod admin;
pub(crate) mod auto_refresh;
pub(crate) mod backup;
pub(crate) mod batch_on;
mod both_ends;
pub(crate) mod changes;
#[cfg(test)]
mod closing_tests;
pub(crate) mod conditional;
pub(crate) mod destroy;
pub(crate) mod follower;
pub(crate) mod keyspace;
pub(crate) mod opening;
#[cfg(test)]
mod opening_tests;
pub(crate) mod options;
pub(crate) mod ordered;
#[cfg(all(test, target_os = "linux", not(miri)))]
mod pages_ahead_tests;
#[cfg(all(test, target_os = "linux", not(miri)))]
mod read_around_tests;
pub(crate) mod reader;
pub(crate) mod salvage;
pub(crate) mod snapshot;
pub(crate) mod snapshot_range;
pub(crate) mod store;
pub(crate) mod take_over;
pub(crate) mod transact;
pub(crate) mod transaction;
pub(crate) mod tx_range;
pub(crate) mod tx_value;
#[cfg(feature = "serde")]
pub(crate) mod typed;
pub(crate) mod waiting;
#[cfg(test)]
mod waiting_index_tests;
pub(crate) mod write_batch;
