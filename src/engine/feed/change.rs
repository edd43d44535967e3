//! One change of a feed, as a program sees it.

use crate::format::Seq;

/// A change of a store, in place in the mapped log.
///
/// It borrows the [`Changes`](crate::Changes) that returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<'a> {
    /// Its sequence number. Numbers rise, and have holes: the log's own records have numbers, too.
    /// The changes of a [state](crate::Since::State) have the number of the state.
    pub seq: Seq,
    /// The keyspace that it concerns.
    pub keyspace: KeyspaceRef<'a>,
    /// The effect.
    pub kind: ChangeKind<'a>,
    /// True if more changes of the same batch follow. They take effect together, so a consumer
    /// applies none of them before it has the last one.
    ///
    /// A state counts as a batch, up to its [`StateEnd`](ChangeKind::StateEnd).
    pub more: bool,
}

/// The effect of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind<'a> {
    /// A key has a value now.
    Insert {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A key is absent now. It may have been absent before.
    Remove {
        /// The key.
        key: &'a [u8],
    },
    /// A keyspace was created, and is empty. In a state, the keyspace is there, and its keys follow.
    Created {
        /// Its name.
        name: &'a str,
    },
    /// A keyspace has another name now. [`Change::keyspace`] has the old one.
    Renamed {
        /// The new name.
        name: &'a str,
    },
    /// A keyspace is empty now. It has a new number, which [`Change::keyspace`] names.
    Cleared {
        /// The number that it had before.
        before: u32,
    },
    /// A keyspace is gone, with its keys.
    Dropped,
    /// A key has this value as of the state's number.
    State {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The state is complete: a key or keyspace that did not come is not there. Later changes follow.
    StateEnd,
}

/// The keyspace that a [`Change`] concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceRef<'a> {
    /// Its number, which it keeps until it is cleared.
    pub id: u32,
    /// Its name before the change; empty for the default one.
    ///
    /// The log names a keyspace when it is created, renamed, cleared or dropped. For an earlier
    /// change it is the newest name that the store knows, and `None` if the keyspace is gone since.
    /// A feed that began with a state or with what comes next always knows the name.
    pub name: Option<&'a str>,
}
