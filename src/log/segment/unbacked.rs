//! A segment that is in no file: where the log stands while there is none that it can go on in.
//!
//! It has no room, so the first record makes the log go on in a segment of the store, if one is to be had. It is none of
//! the store's segments, has the number that none of those has, and nothing refers to it.

use std::path::Path;
use std::sync::Arc;

use super::{NO_PLACE, Prefault, Segment, SegmentShape};
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::format::segment_header::Role;
use crate::mem::address_space::AddressSpace;
use crate::mem::mapping::{Mapping, PAGE_SIZE};

impl Segment {
    /// Makes one; `path` is the store's, for messages.
    ///
    /// # Errors
    ///
    /// `Io` where there is no memory; `Limit` where the space has no room.
    pub(crate) fn nowhere(space: &AddressSpace, path: &Path) -> Result<Arc<Self>> {
        let memory = Mapping::in_memory(PAGE_SIZE).map_err(|error| Error::io("map", path, error))?;
        let mapping = Arc::new(memory);
        let range = space.place(&mapping).ok_or(NO_PLACE)?;
        let shape = SegmentShape {
            id: SegmentId(0),
            size: 0,
            nonce: 0,
            data_offset: 0,
            prefault: Prefault::Plain,
            role: Role::Log,
            generation: 0,
        };
        Ok(Self::of(path.to_owned(), shape, mapping, range, None))
    }

    /// True where it is in no file.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.id == SegmentId(0)
    }
}
