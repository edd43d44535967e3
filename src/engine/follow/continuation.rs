//! The search for the segment in which the log of another process continues, and for gaps.
//!
//! A segment's start record names the segment before it, and that one's end. The log continues in the
//! segment whose start record names the place. There are four signs of a gap:
//!
//! - The segment at the place is no longer named, or is being removed, and none continues from it.
//! - It is sealed, and none continues from it: the next one was begun before.
//! - A recovery cut it, and the log continues from elsewhere.
//! - A segment continues from the place, but its start record calls more durable than was read.
//!   Compaction had removed the segments between, and the recovery did not know of them.

use std::sync::Arc;

use super::Inner;
use super::log_tail::{is_published, start_of};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::manifest::SegmentState;
use crate::format::record::StartRecord;
use crate::format::{Defect, SegmentId, Seq};
use crate::log::segment::Segment;
use crate::recovery::attach::LogPlace;

/// The way in which the log continues behind a place.
pub(super) enum Continuation {
    Found(Arc<Segment>),
    /// A record was appended to the present segment meanwhile.
    LookAgain,
    /// The log ends at the place.
    None,
    /// The log continues, but not from the place.
    Gap,
}

impl Inner {
    /// Looks for the segment in which the log continues.
    ///
    /// # Errors
    ///
    /// `Io` if a page cannot be read.
    pub(super) fn continuation(&self, engine: &Engine) -> Result<Continuation> {
        let mut starts = Vec::new();
        for segment in &self.ahead {
            if is_published(segment, segment.data_offset())? {
                starts.extend(start_of(segment).map(|start| (segment, start)));
            }
        }
        let starts = starts.into_iter();
        let Some(place) = &self.place else {
            return Ok(self.first_segment(starts));
        };
        let mut others = false;
        for (segment, (_, start)) in starts {
            let previous = (SegmentId(start.previous), start.previous_end);
            let here = place.segment.id();
            let continues =
                previous == (here, place.offset) || (!place.is_used && self.before == Some(previous));
            // A recovery names the last segment that is left as the previous one. Segments that
            // compaction had removed before were durable, so the start record shows them.
            if continues && start.durable <= engine.last_seq() {
                return Ok(Continuation::Found(Arc::clone(segment)));
            }
            if previous.0 == here && previous.1 > place.offset && is_published(&place.segment, place.offset)?
            {
                return Ok(Continuation::LookAgain);
            }
            others = true;
        }
        Ok(if self.is_lost(place, others) { Continuation::Gap } else { Continuation::None })
    }

    /// Returns the error for a segment that the log may continue in, and whose start record is
    /// published and not valid.
    ///
    /// # Errors
    ///
    /// `Io` if a page cannot be read.
    pub(super) fn damaged_start(&self) -> Result<Option<Error>> {
        for segment in &self.ahead {
            let at = segment.data_offset();
            if !is_published(segment, at)? {
                continue;
            }
            // A segment that a recovery left empty may hold torn bytes.
            let is_open =
                self.manifest.segment(segment.id()).is_some_and(|entry| entry.state == SegmentState::Open);
            if is_open && start_of(segment).is_none() {
                return Ok(Some(segment.corrupt_at(at, Defect::BadField("start"))));
            }
        }
        Ok(None)
    }

    /// Looks for the segment with which the log begins, in a store that had none when it was read.
    fn first_segment<'s>(
        &self,
        starts: impl Iterator<Item = (&'s Arc<Segment>, (Seq, StartRecord))>,
    ) -> Continuation {
        let first = starts.min_by_key(|(_, (seq, _))| *seq);
        let is_whole = self.manifest.generation == self.whole_at;
        match first {
            Some((segment, (_, start))) if is_whole || start.previous == 0 => {
                Continuation::Found(Arc::clone(segment))
            }
            Some(_) => Continuation::Gap,
            None if is_whole || self.manifest.segments.iter().all(|entry| entry.end == 0) => {
                Continuation::None
            }
            None => Continuation::Gap,
        }
    }

    /// Returns true if the log continued behind the place and no longer does, although no segment
    /// continues from it. `others` is true if there are segments that continue from elsewhere.
    fn is_lost(&self, place: &LogPlace, others: bool) -> bool {
        if self.manifest.generation == self.whole_at {
            // A segment can only go with a change of the manifest.
            return false;
        }
        match self.manifest.segment(place.segment.id()).map(|entry| entry.state) {
            // The next segment was begun before this one was sealed.
            None | Some(SegmentState::Retired | SegmentState::Sealed) => true,
            // By a recovery, which begins the next segment.
            Some(SegmentState::Cut) => others,
            Some(SegmentState::Open) => false,
        }
    }
}
