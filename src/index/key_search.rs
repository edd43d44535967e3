//! The search for a key in an index of either kind.

use std::cmp::Ordering;

use super::key_index::{KeyIndex, KeyIndexWriter, SearchKey};
use super::lines::block_error::BlockError;
use super::tree::EntryPlace;
use crate::mem::location::Location;

/// The comparison of a key with those in records.
pub(crate) trait KeyCompare<E> {
    /// Returns true if the record at a location is of the key. A hash index asks for the few entries
    /// whose tags match, possibly twice for one.
    fn is_key(&mut self, location: Location) -> Result<bool, E>;

    /// Returns the order of the key in the record at a place and of the key. A tree asks for some keys of a
    /// leaf.
    fn order(&mut self, place: EntryPlace) -> Result<Ordering, E>;

    /// Checks a record next to the place where a tree did not find the key. If a damaged key led the search
    /// astray, the last one that did is one of these (see `Beside`).
    fn check_beside(&mut self, location: Location) -> Result<(), E>;
}

/// An index that can be searched: [`KeyIndex`] beside the writer, [`KeyIndexWriter`] under the writer
/// mutex, while nothing moves.
pub(crate) trait KeySearch {
    /// Finds the entry of a key. Returns its location, and the comparison that found it.
    ///
    /// An error of the comparison, or an unreadable block of a checkpoint, ends the search.
    fn find<E: From<BlockError>, C: KeyCompare<E>>(
        &self,
        key: SearchKey<'_>,
        compare: C,
    ) -> Result<Option<(Location, C)>, E>;
}

// In both, the tree has a copy of the comparison, so that the other one stays in registers. The arms stand
// twice: a function for the tree's, inlined or not, costs a get in a hash index 23 instructions of 540.

impl KeySearch for KeyIndex {
    #[inline]
    fn find<E: From<BlockError>, C: KeyCompare<E>>(
        &self,
        key: SearchKey<'_>,
        mut compare: C,
    ) -> Result<Option<(Location, C)>, E> {
        match self {
            Self::Hash(index) => {
                let found = index.find(key.hash, |location| compare.is_key(location))?;
                Ok(found.map(|location| (location, compare)))
            }
            Self::Tree(tree) => {
                let mut compare = compare;
                match tree.look_for(key.bytes, |place| compare.order(place))? {
                    Ok(location) => Ok(Some((location, compare))),
                    Err(beside) => {
                        beside.locations().try_for_each(|location| compare.check_beside(location))?;
                        Ok(None)
                    }
                }
            }
        }
    }
}

impl KeySearch for KeyIndexWriter {
    #[inline]
    fn find<E: From<BlockError>, C: KeyCompare<E>>(
        &self,
        key: SearchKey<'_>,
        mut compare: C,
    ) -> Result<Option<(Location, C)>, E> {
        match self {
            Self::Hash(writer) => {
                let found = writer.find(key.hash, |location| compare.is_key(location))?;
                Ok(found.map(|location| (location, compare)))
            }
            Self::Tree(writer) => {
                let mut compare = compare;
                match writer.look_for(key.bytes, |place| compare.order(place))? {
                    Ok(location) => Ok(Some((location, compare))),
                    Err(beside) => {
                        beside.locations().try_for_each(|location| compare.check_beside(location))?;
                        Ok(None)
                    }
                }
            }
        }
    }
}
