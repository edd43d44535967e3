//! The parameters of a new segment.

use super::Prefault;
use crate::format::segment_header::SegmentHeader;
use crate::format::{SegmentId, StoreId};
use crate::log::segment_file::header_of_log;

/// The size of the pieces that [`Prefault::Large`] writes, in bytes.
pub(crate) const LARGE_PIECE: u64 = 2 << 20;

/// The parameters of a new segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentPlan {
    pub(crate) store: StoreId,
    pub(crate) id: SegmentId,
    pub(crate) size: u64,
    /// The bytes that must be free beside it. Otherwise it is not made.
    pub(crate) beside: u64,
    pub(crate) nonce: u64,
    pub(crate) prefault: Prefault,
    /// Bytes that [`Prefault::Large`] writes with the file: its header, and zeros.
    pub(crate) piece: u64,
}

impl SegmentPlan {
    /// Returns the bytes that are written with the file, in the mode [`Prefault::Large`].
    pub(super) fn piece_written(&self) -> u64 {
        if self.prefault == Prefault::Large { self.size.min(self.piece) } else { 0 }
    }

    /// Returns the plan of a segment of the log, of a store for tests.
    #[cfg(test)]
    pub(crate) fn sample(id: u64, size: u64, prefault: Prefault) -> Self {
        let (store, id) = (StoreId([7; 16]), SegmentId(id));
        Self { store, id, size, beside: 0, nonce: 9, prefault, piece: LARGE_PIECE }
    }

    /// Returns the header of the file.
    pub(super) fn header(&self) -> SegmentHeader {
        header_of_log(self.store, self.id, self.size, self.nonce)
    }
}
