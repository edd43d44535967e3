//! The tombstone rule: the tombstones that a compaction may drop.
//!
//! **Problem.** A tombstone is needed as long as recovery may read a put of its key with a smaller
//! number and no newer record of the key. Without the tombstone that put would be the newest again,
//! and a removed key would return. To search for such puts key by key would mean reading the whole
//! store.
//!
//! **Rule.** Three facts that cost nothing to keep describe each segment ([`SegmentBound`]). A
//! tombstone stays if any segment that is not compacted with it *might* hold such a put. Only puts
//! matter here: a tombstone that outlives the record that superseded it brings nothing back.
//!
//! **The pass.** In this order:
//!
//! 1. It notes F, the last number assigned, under the writer mutex. All writes up to F are in the
//!    index.
//! 2. It chooses its victims among the sealed segments and, in the same look, takes down the bounds
//!    of all other segments.
//! 3. It looks at the victims' records one by one, while writers continue. A put is copied if the
//!    index leads to it. A tombstone is dropped if the index has an entry for its key, or if
//!    [`may_go`] says so. Otherwise it is copied.
//! 4. It syncs the log, at least up to the records appended before the last look. Then it names its
//!    outputs and unnames its victims in one step. Only then is the index repointed to the copies,
//!    where it still leads to the originals. A copy that was superseded meanwhile counts as hidden.
//!
//! **Proof.** A put is *hidden* if it is not the newest record of its key. The meaning of a
//! [`SegmentBound`] is R1: the segment holds no put that is hidden by a record, kept or not,
//! numbered at or below `filtered`.
//!
//! R1 holds from the beginning. A segment of the log holds no record older than its first one. An
//! output of a pass holds only puts that the index led to when all writes up to F were in it. So
//! none of these writes hides any. R1 stays true, since a number at or below `filtered` is durable
//! and never assigned again (R2, R3).
//!
//! No removed key returns. There are three ways to drop a record:
//!
//! 1. *A tombstone dropped by `may_go`.* Let T, numbered t, remove k. Let r, outside the victims,
//!    be a put of k numbered n < t. Then T hides r, and three facts hold for the segment S of r:
//!    - S has `hidden`. T was in the index before its segment was sealed, so before the victims
//!      were chosen, and the count is read after that.
//!    - `first` <= n < t.
//!    - `filtered` < t, by R1.
//!
//!    So S blocks t, and T was not dropped. Segments begun later hold greater numbers than any
//!    victim. If r is in the victims, it was not copied: the index did not lead to it.
//! 2. *A tombstone dropped for an entry.* The index leads to a put p of k with a number above t. By
//!    step 4, p is durable before T is gone. If p is removed later, by a tombstone numbered above
//!    t, that one is subject to this rule in turn. An older put r that p hid makes its segment
//!    block it, as above: R1 speaks of records kept or not.
//! 3. *A put dropped.* The record that hides it is durable before the put is gone (step 4). This
//!    rule keeps that record as long as it is needed.
//!
//! **Invariants.**
//!
//! - R1: as above.
//! - R2: `filtered` is at or below the last number that is durable when the manifest first names
//!   it. Whenever a victim is unnamed, all numbers that its pass looked at in the index are durable.
//!   (I11 is this.)
//! - R3: A number is assigned once (I5), *even if its record no longer exists*. With the last
//!   tombstone dropped, the greatest number found in records is below `filtered` of the output. If
//!   it were assigned again, it would count as one that was filtered. An open begins above every
//!   `first - 1` and `filtered` in the manifest.
//! - R4: `hidden` is never false if a put in the segment was hidden when the victims were chosen.
//!
//! **Slack.** Of the three facts, `first` is needed least. If a put is hidden by a tombstone
//! outside, `filtered` < t alone says so. `first` only spares a tombstone a second pass if victims
//! were sealed after F was noted. `filtered` may be lower than F, and then tombstones stay longer.
//! It must not be higher than both F and every number in the segment.
//!
//! **Progress.** In a store at rest the output of a pass hides nothing, and so blocks nothing. A
//! segment that hides a put and blocks t has `filtered` below t. So it comes before the output that
//! t was copied to, whose `filtered` is at least t. Compact the segments one by one, each time the
//! one with the lowest `filtered` of those that hide a put or hold tombstones. That drops all
//! hidden puts and all tombstones after at most two jobs for each segment.
//!
//! `model` tries every run of a small store against this text, and every run with one of its steps
//! left out or reordered.

use crate::format::Seq;

/// The facts that the rule needs about one segment outside the victims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentBound {
    /// The least number of its records.
    pub(crate) first: Seq,
    /// No put in it is hidden by a record numbered at or below this (R1).
    pub(crate) filtered: Seq,
    /// True if it holds a put that is not the newest record of its key (R4).
    pub(crate) hidden: bool,
}

impl SegmentBound {
    /// Returns true if the segment might hold a put that only this tombstone hides.
    #[cfg(test)]
    pub(crate) fn blocks(self, tombstone: Seq) -> bool {
        self.bound().is_some_and(|bound| bound < tombstone)
    }

    /// Returns the greatest number of a tombstone that it does not block. `None` if it blocks none.
    pub(crate) fn bound(self) -> Option<Seq> {
        self.hidden.then(|| self.first.max(self.filtered))
    }
}

/// Returns true if a tombstone whose key has no entry in the index may be dropped.
///
/// `others` are all segments beside the victims when these were chosen, the active one included.
#[cfg(test)]
pub(crate) fn may_go(tombstone: Seq, others: impl IntoIterator<Item = SegmentBound>) -> bool {
    tombstone <= horizon(others)
}

/// Returns the greatest number of a tombstone that may be dropped, see [`may_go`], once for a whole
/// pass.
pub(crate) fn horizon(others: impl IntoIterator<Item = SegmentBound>) -> Seq {
    others.into_iter().filter_map(SegmentBound::bound).min().unwrap_or(Seq::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKING: SegmentBound = SegmentBound { first: Seq(3), filtered: Seq(5), hidden: true };

    #[test]
    fn segment_that_hides_a_record_blocks_later_tombstones() {
        assert!(BLOCKING.blocks(Seq(6)));
        assert!(!BLOCKING.blocks(Seq(5)), "everything hidden by this one was left out of the segment");
        assert!(!SegmentBound { hidden: false, ..BLOCKING }.blocks(Seq(6)));
        let begun_late = SegmentBound { first: Seq(7), filtered: Seq(0), hidden: true };
        assert!(!begun_late.blocks(Seq(6)) && !begun_late.blocks(Seq(7)) && begun_late.blocks(Seq(8)));
    }

    #[test]
    fn a_tombstone_stays_if_any_segment_blocks_it() {
        let idle = SegmentBound { hidden: false, ..BLOCKING };
        assert!(may_go(Seq(6), []));
        assert!(may_go(Seq(6), [idle, idle]));
        assert!(!may_go(Seq(6), [idle, BLOCKING, idle]));
    }
}
