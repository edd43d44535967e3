//! Making sure, after an unclean end, that what was read is on the disk.
//!
//! What an open reads after a crash may exist in the page cache only, and an earlier write-back of it may have failed
//! with nobody watching: the kernel then calls the page clean and never writes it again (measured;
//! docs/design/sync.md, "A failed sync is final"). So everything above the durable point is read into memory, verified
//! there, written again byte for byte, and synced. Until that has happened nothing counts as durable.
//!
//! Writing the same bytes over published ones changes nothing for those who read them (I1).

use std::sync::Arc;

use super::segment_reader::{Records, SegmentReader};
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentState};
use crate::format::record::HEADER_SIZE;
use crate::format::record_reader::{Order, READ_MAX, ReadAt};
use crate::log::segment::Segment;
use crate::log::sync_plan::SegmentRange;
use crate::mem::alloc;

/// What is to be rewritten, and the memory for that: a sync that has none could not be tried again.
#[derive(Debug, Default)]
pub(crate) struct ToRewrite {
    pub(crate) ranges: Vec<SegmentRange>,
    window: Vec<u8>,
}

impl ToRewrite {
    /// What an open found.
    ///
    /// # Errors
    ///
    /// When memory is short.
    pub(crate) fn new(ranges: Vec<SegmentRange>) -> Result<Self> {
        let window = match ranges.first() {
            None => Vec::new(),
            Some(range) => alloc::zeros(READ_MAX).map_err(|error| range.segment.io("read", error))?,
        };
        Ok(Self { ranges, window })
    }
}

/// Rewrites and syncs what an open found above the durable point.
///
/// # Errors
///
/// `Corrupt` where what was read while opening does not verify now; what the operating system says. The caller poisons
/// the store.
pub(crate) fn rewrite(unsynced: &mut ToRewrite) -> Result<()> {
    let ToRewrite { ranges, window } = unsynced;
    for range in ranges {
        let file = range.segment.file().expect("kept until the segment is durable");
        // Takes up the report of an earlier failure; the pages it speaks of are written again below.
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

/// Verifies every record of a range as it can be read now.
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

/// Has the manifest's entries call healed segments sealed.
pub(crate) fn note_rewritten(manifest: &mut Manifest, rewritten: &[SegmentRange]) {
    for range in rewritten {
        if let Some(entry) = manifest.segment_mut(range.segment.id()) {
            entry.state = SegmentState::Sealed;
        }
    }
}

/// Gives back the blocks behind a cut: nothing is appended there any more, and complete records were copied aside
/// before the manifest was written.
///
/// # Errors
///
/// What the operating system says; nothing but space is lost.
pub(crate) fn free_behind(segment: &Segment, end: u64) -> Result<()> {
    let from = end.next_multiple_of(crate::mem::mapping::PAGE_SIZE as u64);
    if from + (HEADER_SIZE as u64) < segment.size() {
        let file = segment.file().expect("kept until the segment is durable");
        file.punch_hole(from, segment.size() - from).map_err(|error| segment.io("free space in", error))?;
    }
    Ok(())
}
