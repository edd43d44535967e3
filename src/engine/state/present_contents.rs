//! Which contents a keyspace has at present, in one word: an iterator asks before each item, without
//! a pin.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::KeyspaceId;

/// The value if there are no contents.
const NONE: u64 = u64::MAX;

/// The number of the present contents of a keyspace, if it has any.
#[derive(Debug)]
pub(crate) struct PresentContents(AtomicU64);

impl PresentContents {
    pub(crate) fn new(id: KeyspaceId) -> Self {
        Self(AtomicU64::new(bits_of(Some(id))))
    }

    /// True if contents are still the present ones. A caller that gets false asks the keyspace,
    /// because its contents are replaced a moment earlier.
    #[inline]
    pub(crate) fn is(&self, id: Option<KeyspaceId>) -> bool {
        // Acquire: pairs with the release in `set`.
        self.0.load(Ordering::Acquire) == bits_of(id)
    }

    /// Changes the number, after the contents were replaced.
    pub(crate) fn set(&self, id: Option<KeyspaceId>) {
        // Release: pairs with the acquire in `is`.
        self.0.store(bits_of(id), Ordering::Release);
    }
}

#[inline]
fn bits_of(id: Option<KeyspaceId>) -> u64 {
    id.map_or(NONE, |id| u64::from(id.0))
}
