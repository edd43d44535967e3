//! Rewriting the records that an open found after an unclean end, so that they are certainly on the
//! disk.
//!
//! **Problem.** After a crash, an open may read data that exists in the page cache only. An earlier
//! write-back of it may have failed unseen. The kernel then marks the page clean and never writes
//! it again (DESIGN.md, "Sync").
//!
//! **Rule.** Everything above the durable number is read into memory, verified there, written again
//! byte for byte, and synced. Until then nothing counts as durable.
//!
//! Writing equal bytes over published ones changes nothing for readers (I1).

use std::sync::Arc;

use super::segment_reader::{Records, SegmentReader};
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::record::HEADER_SIZE;
use crate::format::record_reader::{Order, READ_MAX, ReadAt};
use crate::log::segment::Segment;
use crate::log::sync_plan::SegmentRange;
use crate::mem::alloc;

/// The ranges to rewrite, and the memory for it.
///
/// An open allocates it, since a sync that fails for lack of memory could not be repeated.
#[derive(Debug, Default)]
pub(crate) struct ToRewrite {
    pub(crate) ranges: Vec<SegmentRange>,
    window: Vec<u8>,
}

impl ToRewrite {
    /// Takes the ranges that an open found.
    ///
    /// # Errors
    ///
    /// Returns an error if memory is short.
    pub(crate) fn new(ranges: Vec<SegmentRange>) -> Result<Self> {
        let window = match ranges.first() {
            None => Vec::new(),
            Some(range) => alloc::zeros(READ_MAX).map_err(|error| range.segment.io("read", error))?,
        };
        Ok(Self { ranges, window })
    }
}

/// Rewrites and syncs the ranges that an open found above the durable number.
///
/// # Errors
///
/// `Corrupt` if a record read by the open no longer verifies, and errors of the operating system.
/// The caller poisons the store.
pub(crate) fn rewrite(unsynced: &mut ToRewrite) -> Result<()> {
    let ToRewrite { ranges, window } = unsynced;
    for range in ranges {
        let file = range.segment.file().expect("kept until the segment is durable");
        // This consumes the report of an earlier failure. Its pages are written again below.
        drop(file.sync());
        verify(range, window)?;
        let mut at = range.from;
        let mut source = SegmentReader::new(Arc::clone(&file), range.segment.path().clone(), range.to);
        source = source.with_window(std::mem::take(window));
        while at < range.to {
            let len = usize::try_from((range.to - at).min(READ_MAX as u64)).expect("at most READ_MAX");
            let bytes = source.bytes(at, len)?;
            file.write_at(bytes, at).map_err(|error| range.segment.io("write", error))?;
            at += len as u64;
        }
        *window = source.into_window();
        file.sync().map_err(|error| range.segment.io("sync", error))?;
    }
    Ok(())
}

/// Verifies every record of a range as it reads now.
fn verify(range: &SegmentRange, window: &mut Vec<u8>) -> Result<()> {
    let segment = &range.segment;
    let file = segment.file().expect("kept until the segment is durable");
    let source =
        SegmentReader::new(file, segment.path().clone(), range.to).with_window(std::mem::take(window));
    let mut records = Records::of(source, range, Order::Consecutive);
    while records.next()?.is_some() {}
    *window = records.into_source().into_window();
    Ok(())
}

/// Marks rewritten segments as sealed in the manifest's entries.
pub(crate) fn note_rewritten(manifest: &mut Manifest, rewritten: &[SegmentRange]) {
    for range in rewritten {
        if let Some(entry) = manifest.segment_mut(range.segment.id()) {
            entry.state = SegmentState::Sealed;
        }
    }
}

/// Frees the blocks behind a cut. Nothing is appended there any more, and complete records were
/// copied into quarantine first.
///
/// # Errors
///
/// Errors of the operating system. Only disk space is lost then.
pub(crate) fn free_behind(segment: &Segment, end: u64) -> Result<()> {
    let from = end.next_multiple_of(crate::mem::PAGE_SIZE as u64);
    if from + (HEADER_SIZE as u64) < segment.size() {
        let file = segment.file().expect("kept until the segment is durable");
        file.punch_hole(from, segment.size() - from).map_err(|error| segment.io("free space in", error))?;
    }
    Ok(())
}
