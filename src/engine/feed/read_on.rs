//! Reading on: the records behind the place of a feed, and the segment that follows.

use std::sync::Arc;

use super::locate::Target;
use super::{Feed, FeedPlace};
use crate::engine::follow::log_tail::{LogTail, is_published};
use crate::error::{Error, Result};

/// The most units that are read at once.
const GROUP: usize = 64;

impl Feed {
    /// Reads the next units of the log. Returns false if there are none yet, or a part is lost.
    pub(super) fn read_on(&mut self) -> Result<bool> {
        loop {
            if self.is_place_gone() && !self.relocate()? {
                return Ok(false);
            }
            match self.read_segment() {
                Err(Error::Corrupt { .. }) if self.may_end_here() => {
                    if self.log.update(false)? || self.end_unnamed() {
                        // A recovery may have cut the log here.
                        continue;
                    }
                    if !self.log.may_have_writer() {
                        // A power cut leaves damage at the end, and the next writer cuts the log there.
                        return Ok(false);
                    }
                    self.read_segment()?;
                }
                other => other?,
            }
            if !self.units.is_empty() {
                return Ok(true);
            }
            self.log.dir().reader_point("feed-segment");
            if !self.go_on()? {
                return Ok(false);
            }
        }
    }

    /// Reads units of the present segment.
    fn read_segment(&mut self) -> Result<()> {
        let Self { log, place: Some(place), units, .. } = self else { return Ok(()) };
        let mapped = log.segment(place.segment.id());
        let has_ended = mapped.is_some_and(|mapped| mapped.has_ended_at(place.offset));
        if has_ended || !is_published(&place.segment, place.offset)? {
            // Behind the end of a segment that a recovery cut, torn bytes may lie.
            return Ok(());
        }
        let is_first = place.offset == place.segment.data_offset();
        let mut tail = LogTail::new(&place.segment, place.offset, (!is_first).then_some(place.last));
        let mut found = Vec::with_capacity(GROUP);
        let read = tail.read_some(&mut found, GROUP);
        if let Some(unit) = found.last() {
            (place.offset, place.last) = (unit.end(), unit.last());
        }
        units.extend(found);
        // The units before the damage come first.
        if units.is_empty() { read.map(drop) } else { Ok(()) }
    }

    /// Returns true if the log has let go of the segment at the place.
    fn is_place_gone(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !self.log.holds(&place.segment))
    }

    /// Ends the segment at the place if the manifest no longer names it. A recovery can have cut it
    /// there, and compaction removed it, since the last call. Returns false if it is named.
    fn end_unnamed(&mut self) -> bool {
        let Self { log, place: Some(place), .. } = self else { return false };
        log.end_unnamed(place.segment.id(), place.offset, place.last)
    }

    /// Returns true unless the manifest knows that the log continues behind the place.
    fn may_end_here(&self) -> bool {
        let Some(place) = &self.place else { return true };
        self.log.segment(place.segment.id()).is_none_or(|mapped| mapped.may_end_at(place.offset))
    }

    /// Goes on behind the end of the present segment. Returns false if the log ends there.
    fn go_on(&mut self) -> Result<bool> {
        self.log.update(false)?;
        self.log.find_starts()?;
        if self.is_place_gone() {
            return self.relocate();
        }
        let last = self.place.as_ref().map_or(self.mark.last, |place| place.last);
        let Some(next) = self.log.written().iter().find(|mapped| mapped.first() > last) else {
            return Ok(false);
        };
        if let Some(place) = &self.place
            && !self.log.segment(place.segment.id()).is_some_and(|mapped| mapped.has_ended_at(place.offset))
            && is_published(&place.segment, place.offset)?
        {
            // A record was appended meanwhile.
            return Ok(true);
        }
        let start = next.start();
        // Below the last record: a recovery has dropped records of the log itself.
        if start.last < self.mark.seq || start.last > last {
            return self.relocate();
        }
        self.place = Some(FeedPlace {
            segment: Arc::clone(&next.segment),
            offset: next.segment.data_offset(),
            last: start.last,
            incarnation: start.incarnation,
        });
        let first = next.first();
        self.log.pass(first);
        Ok(true)
    }

    /// Finds the place anew. Returns false if a part of the history is lost.
    fn relocate(&mut self) -> Result<bool> {
        self.locate(Target::Behind(self.mark))?;
        Ok(self.loss.is_none())
    }
}
