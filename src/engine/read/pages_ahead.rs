//! Requests to the kernel for the pages of records that a scan reads next, in a store that is larger
//! than memory.
//!
//! There the kernel reads one page at a fault (`state::read_around`), and a scan meets records in an
//! order that is not that of the log. One after the other, each would wait for the device. So a scan asks
//! for the pages of many records before it reads the first of them.
//!
//! It asks first if two of those pages are in memory. If they are, it takes the others to be there,
//! too: a question costs more than a read from memory. Where a page was missing last time, it asks about each.
//!
//! Nothing here affects a result. In a store that fits into memory, nothing is asked.

use std::ops::Range;

use crate::engine::state::State;
use crate::mem::PAGE_SIZE;
use crate::mem::location::Location;
use crate::sync::epoch::Pin;

/// The number of pages that stand for all of a group.
const PROBES: usize = 2;
/// The most records whose pages are asked for before one of them is read.
pub(super) const AHEAD_MAX: usize = 192;
/// The number of records whose pages are asked for at the begin of a scan that reads one record at a time.
const AHEAD_FIRST: usize = 8;

/// The pages of a scan's records, as far as the scan knows about them.
#[derive(Debug, Default)]
pub(crate) struct PagesAhead {
    /// True if one was missing the last time that enough of them were looked at.
    is_cold: bool,
}

impl PagesAhead {
    /// Asks for the pages of records that are all read next, about [`AHEAD_MAX`] at most.
    #[inline]
    pub(crate) fn ask<P>(&mut self, state: &State, places: &[P], of: impl Fn(&P) -> Location, pin: &Pin) {
        if state.reads_singly() {
            let locations = places.iter().map(&of);
            if self.look(state, locations.clone(), places.len(), pin) {
                ask_rests(state, locations, pin);
            }
        }
    }

    /// Asks for the pages of the headers of `count` records. Returns false if they seem to be in memory.
    fn look(
        &mut self,
        state: &State,
        locations: impl Iterator<Item = Location> + Clone,
        count: usize,
        pin: &Pin,
    ) -> bool {
        let step = if self.is_cold { 1 } else { count.div_ceil(PROBES).max(1) };
        let (pages, missing) = ask_headers(state, locations.clone().step_by(step), pin);
        if missing > 0 && step > 1 {
            ask_headers(state, locations, pin);
        }
        // Fewer pages say nothing about those that come next.
        let is_sure = missing > 0 || pages >= PROBES;
        if is_sure {
            self.is_cold = missing > 0;
        }
        self.is_cold || !is_sure
    }
}

/// Asks for the pages of records' headers. Returns the number of pages, and of those that were missing.
fn ask_headers(state: &State, locations: impl Iterator<Item = Location>, pin: &Pin) -> (usize, usize) {
    let (mut last, mut pages, mut missing) = (None, 0, 0);
    for location in locations {
        // Neighbours in the log may be neighbours here.
        let page = location.to_bits() * 8 / PAGE_SIZE as u64;
        if last.replace(page) != Some(page) {
            pages += 1;
            // If the kernel does not say it, the page is read when it is needed.
            missing += usize::from(!state.shared.space.bring_header_near(location, pin).unwrap_or(true));
        }
    }
    (pages, missing)
}

/// Asks for the pages behind those of the headers, which it waits for.
fn ask_rests(state: &State, locations: impl Iterator<Item = Location>, pin: &Pin) {
    for record in locations.filter_map(|location| state.shared.space.record(location, pin)) {
        record.bring_rest();
    }
}

/// The records that a scan has gathered at one end and reads one at a time: pages of the next few are
/// asked for, and of more the longer it goes on.
#[derive(Debug, Default)]
pub(crate) struct AheadWindow {
    pages: PagesAhead,
    /// The number of records that were gathered so far.
    gathered: usize,
    /// The number of those, the last ones, whose headers were not asked for.
    unasked: usize,
    /// The number of those, the last ones, whose pages behind the header were not asked for.
    unread: usize,
}

impl AheadWindow {
    /// Notes that records were gathered. Those that were gathered before have all been read.
    pub(crate) fn note(&mut self, count: usize) {
        self.gathered += count;
        (self.unasked, self.unread) = (count, count);
    }

    /// Returns true if [`AheadWindow::ask`] is due before the next of `left` records is read.
    #[inline]
    pub(crate) fn is_due(&self, left: usize) -> bool {
        left.wrapping_sub(1) < self.unread
    }

    /// Asks for the pages of the next few of `left` records: of [`AHEAD_FIRST`], and of as many more as were
    /// read so far. `of` returns the location of one of them.
    #[cold]
    pub(crate) fn ask(
        &mut self,
        state: &State,
        left: usize,
        of: impl Fn(usize) -> Option<Location>,
        pin: &Pin,
    ) {
        let read = self.gathered.saturating_sub(left);
        let asked = left.saturating_sub(self.unasked);
        let until = (read + AHEAD_FIRST).min(AHEAD_MAX).min(left).max(asked);
        let locations = |range: Range<usize>| range.filter_map(&of);
        let goes_on = until == asked || self.pages.look(state, locations(asked..until), until - asked, pin);
        if !goes_on {
            // No more is asked until more is gathered.
            ask_rests(state, locations(0..asked), pin);
            (self.unasked, self.unread) = (0, 0);
            return;
        }
        // The headers that were asked for last time have arrived, or arrive next.
        let rests = if asked == 0 { until.div_ceil(2) } else { asked };
        ask_rests(state, locations(0..rests), pin);
        (self.unasked, self.unread) = (left - until, left - rests);
    }
}
