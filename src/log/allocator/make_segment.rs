//! Making one segment: its file, its name in the manifest, and the space that must stay free beside
//! it.

use std::sync::Arc;

use super::{LogContext, SegmentAllocator};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::log::segment::segment_plan::{LARGE_PIECE, SegmentPlan};
use crate::log::segment::{Prefault, Segment};
use crate::mem::PAGE_SIZE;
use crate::trace;

/// A new segment, and the result of naming it durably.
type Made = (Arc<Segment>, Result<()>);

/// The shape of a segment that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) size: u64,
    /// The number of further segments that the manifest keeps space for.
    pub(super) spare: usize,
    /// The bytes that must be free beside it. Otherwise it is not made.
    pub(super) beside: u64,
    /// See [`SegmentPlan::piece`].
    pub(super) piece: u64,
}

impl SegmentAllocator {
    /// Makes the segment that a new incarnation begins with.
    ///
    /// # Errors
    ///
    /// The errors of `make_segment`.
    pub(crate) fn make_first(
        shared: &LogContext,
        config: &Config,
        prefault: Prefault,
    ) -> Result<Arc<Segment>> {
        let size = Self::first_size(config, shared);
        let beside = Self::kept_at_open(shared, config);
        let wanted = Wanted { size, spare: 0, beside, piece: LARGE_PIECE };
        let made = match make_segment(shared, prefault, &wanted) {
            // The reserve is in use, or larger than the disk: the first insertion checks.
            Err(Error::NoSpace { .. }) => {
                let size = if shared.doubt.is_there() { PAGE_SIZE as u64 } else { size };
                make_segment(shared, prefault, &Wanted { size, beside: 0, ..wanted })
            }
            made => made,
        };
        let (segment, named) = made.map_err(Error::into_cause)?;
        named.map_err(Error::into_cause)?;
        Ok(segment)
    }
}

/// Makes one segment, and has the manifest name it, with space for some more names.
///
/// # Errors
///
/// `NoSpace`, or an error of the operating system. Then there is no segment.
pub(super) fn make_segment(shared: &LogContext, prefault: Prefault, wanted: &Wanted) -> Result<Made> {
    let made = make_and_name(shared, prefault, wanted);
    let bytes = wanted.size.saturating_add(wanted.beside);
    if let Err(error) = &made {
        shared.doubt.refused(shared.dir.as_ref(), bytes, error);
    }
    made
}

fn make_and_name(shared: &LogContext, prefault: Prefault, wanted: &Wanted) -> Result<Made> {
    let Wanted { size, spare, beside, piece } = *wanted;
    shared.manifest.check_place()?;
    shared.manifest.reserve(1 + spare)?;
    let mut nonce = [0; 8];
    shared
        .dir
        .random(&mut nonce)
        .map_err(|error| Error::io("draw random bytes for", shared.dir.path(), error))?;
    shared.remove_stray()?;
    let plan = SegmentPlan {
        store: shared.store,
        id: shared.manifest.next_segment(),
        size,
        beside,
        nonce: u64::from_le_bytes(nonce),
        prefault,
        piece,
    };
    let created = Segment::create(shared.dir.as_ref(), &shared.space, &plan).and_then(|segment| {
        let synced = shared.sync_dir();
        if synced.is_err() {
            // Nothing refers to it.
            shared.space.retire(segment.mapping(), segment.size());
        }
        synced.map(|()| segment)
    });
    let segment = created.inspect_err(|_| {
        *shared.stray.lock() = Some((plan.id, plan.size));
        // Repeated before another one is made.
        drop(shared.remove_stray());
    })?;
    trace::segment_made(segment.id().0, segment.size());
    let named = shared.manifest.add(segment.entry());
    shared.add_segment(&segment);
    Ok((segment, named))
}
