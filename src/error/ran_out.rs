//! Telling a resource that ran out from other errors of the operating system.

use std::fmt;
use std::io;

use super::{Error, Resource};

/// The operation of an open that needs address space.
pub(crate) const RESERVE_ADDRESSES: &str = "reserve address space for";

/// A known exhausted resource, wrapped in an [`io::Error`].
#[derive(Debug)]
pub(crate) struct RanOut(pub(crate) Resource);

impl fmt::Display for RanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for RanOut {}

/// Returns the resource that ran out, or `None` if it was space or is unknown.
pub(super) fn ran_out(operation: &str, error: &io::Error) -> Option<Resource> {
    if let Some(RanOut(resource)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Some(*resource);
    }
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::FileTooLarge, _) => Some(Resource::FileSize),
        // On every Unix these are ENFILE and EMFILE, which have no kind of their own.
        (_, Some(23 | 24)) if cfg!(unix) => Some(Resource::Descriptors),
        (io::ErrorKind::OutOfMemory, _) if MAPPING.contains(&operation) => Some(Resource::Mappings),
        _ => None,
    }
}

impl Error {
    /// Returns true if a file could not be created for lack of space.
    pub(crate) fn is_about_room(&self) -> bool {
        let resource = if let Self::Exhausted { resource, .. } = self { Some(resource) } else { None };
        matches!(self, Self::NoSpace { .. }) || matches!(resource, Some(Resource::Files | Resource::FileSize))
    }
}

/// The operations that map files or the memory of an index.
const MAPPING: [&str; 6] = [
    "map",
    RESERVE_ADDRESSES,
    "make a page for",
    "make an index for",
    "grow the index for",
    "grow the index of",
];
