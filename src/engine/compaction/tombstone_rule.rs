//! The tombstone rule: which removals a compaction may forget.
//!
//! A tombstone is needed for as long as recovery may read a put of its key with a smaller number and no newer record of
//! the key: without it that put would be the newest again, and a removed key be back. Looking for such a put, key by
//! key, would mean to read the whole store. So each segment is described by three facts that cost nothing to keep, and
//! a tombstone stays if any segment that is not compacted with it *might* hold such a put. Puts alone matter here: a
//! tombstone that outlives the one that overtook it brings nothing back.
//!
//! **The job.** In this order:
//!
//! 1. It notes F, the last number given out, under the writer mutex. All writes up to F are in the index.
//! 2. It chooses its victims among the sealed segments and, in the same look, takes down all other segments there are.
//! 3. It looks at the victims' records one by one; writers go on meanwhile. A put is copied if the index leads to it. A
//!    tombstone is left out if the index has an entry for its key, or if [`may_go`] says so; else it is copied.
//! 4. It syncs the log, up to what was appended before the last look at least, and then names its outputs and unnames
//!    its victims in one step. Only then does the index lead to the copies, where it still leads to the originals; a
//!    copy that was overtaken meanwhile counts as hidden.
//!
//! **Why it is right.** *Hidden* is a put that is not the newest record of its key. The meaning of a [`SegmentBound`] is (R1):
//! the segment holds no put that is hidden by a record, kept or not, numbered at or below `filtered`. A segment of the
//! log holds nothing that is older than its first record. An output of a job holds only puts which the index led to
//! when all writes up to F were in it, so none of these hides any. R1 stays true, since a number at or below `filtered`
//! is durable and never given out again (R2, R3).
//!
//! - *Left out by `may_go`.* Let T, numbered t, remove k, and let there be, outside of the victims, a put r of k
//!   numbered n < t. T hides r. So its segment S has `hidden` (T was in the index before its segment was sealed, so
//!   before the victims were chosen, and the count is looked at after that), `first` <= n < t, and by R1 `filtered` < t.
//!   All three: S blocks t, and T was not left out. Segments begun later hold greater numbers than any victim. In the
//!   victims, r was not copied: the index did not lead to it.
//! - *Left out for an entry.* The index leads to a put p of k with a number above t. By step 4, p is durable before T is
//!   gone. When p is removed later, by a tombstone numbered above t, that one is subject to this rule in its turn, and
//!   an older put r that p used to hide makes its segment block it, as above: R1 speaks of records kept or not.
//! - *A put left out* is hidden by a record that is durable before the put is gone (step 4), and which this rule keeps
//!   for as long as it is needed.
//!
//! **Invariants.**
//! - R1: as above.
//! - R2: `filtered` is at or below the last number that is durable when the manifest first names it; and whenever a
//!   victim is unnamed, all numbers that its job looked at in the index are durable. (I11 is this.)
//! - R3: A number is given out once (I5), *also if its record is no longer there*: with the last tombstone left out, the
//!   greatest number found in records is below `filtered` of the output, and a number given out again would pass for
//!   one that was filtered. What opens the store begins above every `first - 1` and `filtered` in the manifest.
//! - R4: `hidden` is never false where a put is hidden that was so when the victims were chosen.
//!
//! **Slack.** Of the three facts `first` is needed least: wherever a put is hidden by a tombstone outside, `filtered` <
//! t alone says so, and `first` only spares a tombstone a second job where victims were sealed after F was noted. And
//! `filtered` may be lower than F, at the price of tombstones that stay longer, but never higher than F and than every
//! number in the segment.
//!
//! **Progress.** In a store at rest the output of a job hides nothing, and so blocks nothing. A segment that hides
//! something and blocks t has `filtered` below t, and stands before the output that t was copied to, whose `filtered` is
//! t at least. So compacting the segments one by one, each time the one with the lowest `filtered` of those that hide
//! something or hold tombstones, takes out all hidden puts and all tombstones after two jobs for each segment at most.
//!
//! `model` tries every run of a small store against this text, and each step of it left out or done in another order.

use crate::format::Seq;

/// What the rule knows about one segment outside of the victims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentBound {
    /// The least number of its records.
    pub(crate) first: Seq,
    /// No put in it is hidden by a record numbered at or below this (R1).
    pub(crate) filtered: Seq,
    /// Whether it holds a put that is not the newest record of its key (R4).
    pub(crate) hidden: bool,
}

impl SegmentBound {
    /// Whether the segment might hold a put that this tombstone alone hides.
    #[cfg(test)]
    pub(crate) fn blocks(self, tombstone: Seq) -> bool {
        self.bound().is_some_and(|bound| bound < tombstone)
    }

    /// The greatest number of a tombstone that it does not block; `None` where it blocks none.
    pub(crate) fn bound(self) -> Option<Seq> {
        self.hidden.then(|| self.first.max(self.filtered))
    }
}

/// Whether a tombstone whose key has no entry in the index may be left out; `others` are all segments that there were
/// besides the victims when these were chosen, the one being written included.
#[cfg(test)]
pub(crate) fn may_go(tombstone: Seq, others: impl IntoIterator<Item = SegmentBound>) -> bool {
    tombstone <= horizon(others)
}

/// The greatest number of a tombstone that may be left out, see [`may_go`]: worked out once for all of a job's.
pub(crate) fn horizon(others: impl IntoIterator<Item = SegmentBound>) -> Seq {
    others.into_iter().filter_map(SegmentBound::bound).min().unwrap_or(Seq::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKING: SegmentBound = SegmentBound { first: Seq(3), filtered: Seq(5), hidden: true };

    #[test]
    fn a_segment_blocks_tombstones_above_both_its_numbers_while_it_hides_something() {
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
