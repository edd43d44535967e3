//! A segment that is in no file: the log's position while no segment exists that it can continue
//! in.
//!
//! It has no space, so the first record makes the log continue in a segment of the store, if one is
//! available. It is none of the store's segments: its number is zero, and nothing refers to it.

use std::path::Path;
use std::sync::Arc;

use super::{NO_PLACE, Prefault, Segment, SegmentShape};
use crate::error::{Error, Result};
use crate::format::SegmentId;
use crate::format::segment_header::Role;
use crate::mem::PAGE_SIZE;
use crate::mem::address_space::AddressSpace;
use crate::mem::mapping::Mapping;

impl Segment {
    /// Makes one. `path` is the store's, for messages.
    ///
    /// # Errors
    ///
    /// `Io` if memory is short, `Limit` if the address space is used up.
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
            piece: 0,
            role: Role::Log,
            generation: 0,
        };
        Ok(Self::of(path.to_owned(), shape, mapping, range, None))
    }

    /// Returns true if it is in no file.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.id == SegmentId(0)
    }
}
