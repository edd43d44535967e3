//! Errors that name the file of a segment.

use super::Segment;
use crate::error::Error;
use crate::format::Defect;

impl Segment {
    /// Returns the error for damage at an offset of the segment.
    pub(crate) fn corrupt_at(&self, offset: u64, defect: Defect) -> Error {
        Error::Corrupt { path: self.path().clone(), offset, defect }
    }

    /// Returns an error of the operating system about this file.
    pub(crate) fn io(&self, operation: &'static str, error: std::io::Error) -> Error {
        Error::io(operation, &self.path, error)
    }
}
