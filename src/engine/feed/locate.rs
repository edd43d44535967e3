//! Finding the place of a feed in the log.

use std::sync::Arc;

use super::keyspace_names::KeyspaceNames;
use super::mapped_log::MappedSegment;
use super::{Feed, FeedPlace, Mark};
use crate::engine::follow::log_tail::{LogTail, LogUnit};
use crate::error::{Error, Result};
use crate::format::Seq;
use crate::format::record::{HEADER_SIZE, RecordKind};
use crate::recovery::tail_findings::change_of;

/// The place that a feed is to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The oldest place from which the log is whole up to its end.
    Beginning,
    /// Behind the part that the consumer has seen.
    Behind(Mark),
    /// The end of the log.
    End,
}

/// A place that was found.
#[derive(Debug)]
struct Found {
    place: Option<FeedPlace>,
    mark: Mark,
    /// The names of keyspaces at the place.
    names: KeyspaceNames,
    /// The part of the history that is not there.
    loss: Option<Loss>,
}

/// A part of the history that is not there.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Lagged { from: Seq, to: Seq },
    Rewound { last: Seq, read: Seq },
}

/// The end of a walk through a part of a segment.
#[derive(Debug)]
struct WalkEnd {
    offset: u64,
    /// The last number of the log before the offset.
    last: Seq,
    /// The last number of a change in the segment. `None` if there is none.
    used: Option<Seq>,
    /// True if no further record was published there.
    is_end_of_log: bool,
}

impl WalkEnd {
    /// Returns the end of a walk before the first record.
    fn before(mapped: &MappedSegment) -> Self {
        let offset = mapped.segment.data_offset();
        Self { offset, last: mapped.start().last, used: None, is_end_of_log: true }
    }
}

impl Feed {
    /// Sets the place, and the loss if a part of the history before it is not there. The units before
    /// the place were all returned.
    ///
    /// # Errors
    ///
    /// Errors of reading. The place is as before.
    pub(super) fn locate(&mut self, target: Target) -> Result<()> {
        self.log.update(false)?;
        let found = loop {
            self.log.find_starts()?;
            self.log.dir().reader_point("feed-located");
            let found = self.find(target);
            // An old manifest does not name what was begun since.
            let is_certain = matches!(&found, Ok(Found { loss: None, place: Some(_), .. }));
            if is_certain || !self.log.update(true)? {
                break found?;
            }
        };
        let Found { place, mark, names, loss } = found;
        let error = loss.map(|loss| match loss {
            Loss::Lagged { from, to } => Error::Lagged { from: from.0, to: to.0 },
            Loss::Rewound { last, read } => Error::Rewound { last: last.0, read: read.0 },
        });
        let first = place.as_ref().and_then(|place| self.log.segment(place.segment.id()));
        if let Some(first) = first.map(MappedSegment::first) {
            self.log.pass(first);
        }
        (self.place, self.names) = (place, names);
        match error {
            // Until the error is returned, a position leads to it again.
            Some(error) => {
                if let Target::Behind(seen) = target {
                    self.mark = seen;
                }
                self.loss = Some((error, mark));
            }
            None => self.mark = mark,
        }
        Ok(())
    }

    fn find(&self, target: Target) -> Result<Found> {
        let whole = self.log.whole();
        let Some(oldest) = whole.first() else {
            // The last number of the log was in a removed segment. That of the last change is not known.
            let end = Mark { last: self.log.manifest.retired_seq, ..Mark::at(Seq::ZERO) };
            let mark = if let Target::Behind(mark) = target { mark } else { end };
            return Ok(Found { place: None, mark, names: self.listed_names(), loss: None });
        };
        match target {
            Target::Beginning => self.begin(whole, 0, Mark::at(oldest.start().last), None),
            Target::End => self.find_end(whole),
            Target::Behind(mark) => self.find_mark(whole, mark),
        }
    }

    fn listed_names(&self) -> KeyspaceNames {
        KeyspaceNames::of(&self.log.manifest.keyspaces)
    }

    fn find_end(&self, whole: &[MappedSegment]) -> Result<Found> {
        let at = whole.len() - 1;
        let (names, end) = self.names_at(whole, at, Seq::MAX)?;
        let start = whole[at].start();
        let incarnation = if end.used.is_some() { start.incarnation } else { 0 };
        let mark = Mark { seq: end.used.unwrap_or(start.last), last: end.last, incarnation };
        if self.is_open_ended(&end) {
            let last = self.log.manifest.retired_seq;
            return Ok(Found { place: None, mark: Mark { last, ..mark }, names, loss: None });
        }
        Ok(Found { place: Some(place_in(&whole[at], &end)), mark, names, loss: None })
    }

    fn find_mark(&self, whole: &[MappedSegment], mark: Mark) -> Result<Found> {
        let oldest = whole[0].start().last;
        if oldest > mark.last {
            let loss = Loss::Lagged { from: mark.seq.next(), to: oldest };
            return self.begin(whole, 0, Mark::at(oldest), Some(loss));
        }
        let rewound = |last| Some(Loss::Rewound { last, read: mark.seq });
        let begun = whole.iter().take_while(|mapped| mapped.first() <= mark.last).count();
        if let Some(next) = whole.get(begun)
            && next.start().last < mark.seq
        {
            let last = next.start().last;
            return self.begin(whole, begun, Mark::at(last), rewound(last));
        }
        // Two histories may differ from any number on.
        let other = || self.begin(whole, 0, Mark::at(oldest), rewound(Seq::ZERO));
        let is_other = has_other_history(whole, mark);
        let Some(at) = begun.checked_sub(1) else {
            return if is_other { other() } else { self.begin(whole, 0, mark, None) };
        };
        let (names, end) = self.names_at(whole, at, mark.last)?;
        let place = Some(place_in(&whole[at], &end));
        if begun == whole.len() && end.last < mark.last && end.is_end_of_log {
            if self.is_open_ended(&end) {
                return Ok(Found { place: None, mark, names, loss: None });
            }
            if end.last < mark.seq {
                return Ok(Found { place, mark: Mark::at(end.last), names, loss: rewound(end.last) });
            }
        }
        if is_other {
            return other();
        }
        // A number within a batch leads to its beginning.
        let seq = mark.seq.min(end.last);
        Ok(Found { place, mark: Mark { seq, last: end.last, ..mark }, names, loss: None })
    }

    /// Returns true if compaction or a recovery has removed segments behind the end of the log. The
    /// next segment will name the last number in them. Until then the feed has no place.
    fn is_open_ended(&self, end: &WalkEnd) -> bool {
        self.log.manifest.retired_seq > end.last
    }

    /// Places the feed at the beginning of a segment.
    fn begin(&self, whole: &[MappedSegment], at: usize, mark: Mark, loss: Option<Loss>) -> Result<Found> {
        let mapped = &whole[at];
        let mut names = self.listed_names();
        for before in self.unlisted(whole, at) {
            self.walk(before, Seq::MAX, &mut names)?;
        }
        let place = Some(place_in(mapped, &WalkEnd::before(mapped)));
        Ok(Found { place, mark, names, loss })
    }

    /// Returns the end of the records of a segment up to a number, and the names of keyspaces there.
    fn names_at(&self, whole: &[MappedSegment], at: usize, upto: Seq) -> Result<(KeyspaceNames, WalkEnd)> {
        let mut names = self.listed_names();
        for before in self.unlisted(whole, at) {
            self.walk(before, Seq::MAX, &mut names)?;
        }
        let end = self.walk(&whole[at], upto, &mut names)?;
        Ok((names, end))
    }

    /// Returns the segments before one whose changes of keyspaces may not be in the manifest yet.
    fn unlisted<'w>(&self, whole: &'w [MappedSegment], at: usize) -> &'w [MappedSegment] {
        let listed = self.log.manifest.durable;
        let begun = whole[..at].iter().take_while(|mapped| mapped.first() <= listed).count();
        &whole[begun.saturating_sub(1)..at]
    }

    /// Walks through the records of a segment up to a number, and applies the changes of keyspaces
    /// that the manifest does not have.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the log is damaged before its end, `Io` if it cannot be read.
    fn walk(&self, mapped: &MappedSegment, upto: Seq, names: &mut KeyspaceNames) -> Result<WalkEnd> {
        let segment = &mapped.segment;
        let mut tail = LogTail::new(segment, segment.data_offset(), None);
        let mut end = WalkEnd::before(mapped);
        while !mapped.has_ended_at(end.offset) {
            let unit = match tail.next() {
                // A power cut leaves damage at the end, and the next writer cuts the log there.
                Err(Error::Corrupt { .. })
                    if mapped.may_end_at(end.offset) && !self.log.may_have_writer() =>
                {
                    break;
                }
                other => other?,
            };
            let Some(unit) = unit else { break };
            if unit.last() > upto {
                end.is_end_of_log = false;
                break;
            }
            segment.mapping().publish_existing(unit.end());
            if let LogUnit::Record(record) = &unit
                && record.header.kind == RecordKind::Keyspace
                && record.header.seq > self.log.manifest.durable
            {
                let (offset, len) = (record.offset + HEADER_SIZE as u64, record.header.payload_len());
                let payload = segment.mapping().bytes(offset, len).expect("just published");
                let change = change_of(&record.header, payload);
                names.apply(&change.map_err(|defect| segment.corrupt_at(record.offset, defect))?);
            }
            (end.offset, end.last) = (unit.end(), unit.last());
            if unit.is_used() {
                end.used = Some(end.last);
            }
        }
        Ok(end)
    }
}

/// Returns true if the change of a mark was written by another incarnation than the one that the log
/// names: an earlier state of the store was put back.
fn has_other_history(whole: &[MappedSegment], mark: Mark) -> bool {
    if mark.incarnation == 0 {
        return false;
    }
    let held = whole.iter().take_while(|mapped| mapped.first() <= mark.seq).last();
    match held {
        Some(mapped) => mapped.start().incarnation != mark.incarnation,
        None => whole[0].start().incarnation < mark.incarnation,
    }
}

fn place_in(mapped: &MappedSegment, end: &WalkEnd) -> FeedPlace {
    FeedPlace {
        segment: Arc::clone(&mapped.segment),
        offset: end.offset,
        last: end.last,
        incarnation: mapped.start().incarnation,
    }
}
