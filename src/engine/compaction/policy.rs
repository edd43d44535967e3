//! The compaction policy: which segments to compact next, and why. Numbers in, a decision out.
//!
//! **The bound.** At rest, compaction could free at most [`Limits::freeable`]: a share of the live
//! data, and a constant. The bytes that it cannot free are live, or tombstones that
//! `tombstone_rule` keeps. Those are bounded by a share as well: beyond it, the segment that keeps
//! most of them is rewritten.
//!
//! **The order.** Segments without live data come first, since they cost no copying. Then come
//! those that free most for the bytes to be copied, of one generation at a time. So values that are
//! overwritten often and other values get into different segments. No more are taken than the bound
//! requires: a segment left alone gets emptier by itself.

use super::copy_writer::size_of;
use super::report::CompactionReason as Reason;
use super::tombstone_rule::{SegmentBound, horizon};
use crate::format::{SegmentId, Seq};
use crate::mem::PAGE_SIZE;
use crate::mem::dead_bytes::DeadByteCounts;

/// The bytes that may be freeable, of a hundred live ones.
const FREEABLE_PERCENT: u64 = 35;
/// The bytes that kept tombstones may take, of a hundred live ones.
const KEPT_PERCENT: u64 = 12;
/// The least part of a segment that must be freeable for a rewrite, one in this many.
const GAIN_SHARE: u64 = 8;
/// The bytes that a pass must free so that there is space afterwards.
///
/// It is one page more than the last page of its output may waste. The keyspace names in the output
/// are not counted.
const ROOM: u64 = 2 * PAGE_SIZE as u64;
/// The number of segments that may be small.
const SMALL_MAX: usize = 8;
/// The most segments that one pass takes. It bounds the header of its output, and the time that it
/// holds resources.
const VICTIMS_MAX: usize = 256;

/// The stage of a segment's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentStage {
    /// Durable, and marked so in the manifest.
    Sealed,
    /// Never appended to again, and not yet known to be durable.
    Full,
    Active,
}

/// The facts about a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentFacts {
    pub(crate) id: SegmentId,
    pub(crate) stage: SegmentStage,
    /// Bytes that its file takes.
    pub(crate) footprint: u64,
    /// Bytes of its records.
    pub(crate) used: u64,
    pub(crate) counted: DeadByteCounts,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) filtered: Seq,
    pub(crate) generation: u8,
    /// True if it is damaged, and not to be compacted.
    pub(crate) spared: bool,
    /// True if change feeds may still need it: a segment of the log near its end. It is compacted
    /// only if space is short, or on request.
    pub(crate) recent: bool,
}

impl SegmentFacts {
    /// Returns the live bytes in it.
    pub(crate) fn live(&self) -> u64 {
        self.used.saturating_sub(self.counted.dead())
    }

    /// Returns its bound on tombstones elsewhere.
    pub(crate) fn sieve(&self) -> SegmentBound {
        SegmentBound { first: self.first, filtered: self.filtered, hidden: self.counted.hidden > 0 }
    }

    fn is_candidate(&self) -> bool {
        self.stage != SegmentStage::Active && !self.spared && !self.recent
    }
}

/// The inputs of the decision beside the segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that may be freeable even without live data.
    pub(crate) slack: u64,
    /// The most bytes that one pass writes.
    pub(crate) output: u64,
}

impl Limits {
    /// Returns the most bytes that may be freeable.
    pub(crate) fn freeable(&self, live: u64) -> u64 {
        self.slack + live / 100 * FREEABLE_PERCENT
    }

    fn kept(&self, live: u64) -> u64 {
        self.slack + live / 100 * KEPT_PERCENT
    }
}

/// The next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Nothing,
    /// Rewrite or remove these.
    Compact {
        victims: Vec<SegmentId>,
        reason: Reason,
    },
    /// First make the log durable, since the victim is not yet.
    Sync {
        victim: SegmentId,
        reason: Reason,
    },
}

/// The facts about all segments, computed once.
#[derive(Debug)]
pub(crate) struct SegmentSurvey {
    facts: Vec<SegmentFacts>,
    /// For each of them, the bytes of tombstones that must be kept.
    held: Vec<u64>,
    live: u64,
    limits: Limits,
}

impl SegmentSurvey {
    /// Computes the survey.
    pub(crate) fn of(facts: Vec<SegmentFacts>, live: u64, limits: Limits) -> Self {
        // The two that keep most: a segment does not keep its own tombstones.
        let mut bounds: Vec<(Seq, SegmentId)> =
            facts.iter().filter_map(|facts| Some((facts.sieve().bound()?, facts.id))).collect();
        bounds.sort_unstable();
        let held = facts.iter().map(|facts| {
            let other = bounds.iter().take(2).find(|(_, id)| *id != facts.id);
            let kept = other.is_some_and(|(bound, _)| *bound < facts.last);
            if kept { facts.counted.tombstones } else { 0 }
        });
        Self { held: held.collect(), facts, live, limits }
    }

    /// Counts recent segments as the others: space comes before the history of the store.
    #[must_use]
    pub(crate) fn with_recent(mut self) -> Self {
        self.facts.iter_mut().for_each(|facts| facts.recent = false);
        self
    }

    /// Returns every candidate, with the bytes that would be copied and those that would be freed.
    fn weighed(&self) -> impl Iterator<Item = Weighed<'_>> {
        self.facts.iter().zip(&self.held).filter(|(facts, _)| facts.is_candidate()).map(|(facts, held)| {
            let cost = facts.live() + held;
            Weighed { facts, held: *held, cost, gain: facts.used.saturating_sub(cost) }
        })
    }

    /// Returns the bytes that compaction could free.
    pub(crate) fn freeable(&self) -> u64 {
        self.weighed().map(|weighed| weighed.gain).sum()
    }

    /// Returns the bytes of tombstones that must be kept.
    pub(crate) fn kept(&self) -> u64 {
        self.held.iter().sum()
    }

    /// Returns the action that the bound requires.
    pub(crate) fn decide(&self) -> Decision {
        let dead = || self.weighed().filter(|weighed| weighed.cost == 0);
        // Even one page is all that such a segment takes.
        if dead().map(|weighed| weighed.facts.footprint).sum::<u64>() > self.limits.slack {
            let mut victims: Vec<_> = dead().collect();
            victims.truncate(VICTIMS_MAX);
            return self.compact(&victims, Reason::Dead);
        }
        let victims = self.for_space();
        if !victims.is_empty() {
            return self.compact(&victims, Reason::Space);
        }
        if self.kept() > self.limits.kept(self.live) {
            let keeps = |facts: &SegmentFacts| Some((facts.sieve().bound()?, facts.id));
            let worst = self
                .weighed()
                .filter_map(|weighed| Some((keeps(weighed.facts)?, weighed)))
                .min_by_key(|(key, _)| *key);
            // A recent segment that keeps more of them would keep them after the pass as well.
            let recent = self.facts.iter().filter(|facts| facts.recent).filter_map(keeps).min();
            if let Some((key, worst)) = worst
                && recent.is_none_or(|recent| key < recent)
            {
                return self.compact(&[worst], Reason::Tombstones);
            }
        }
        self.decide_small()
    }

    /// Returns a pass that frees space at once beyond the bound: some of the segments that are
    /// worth copying.
    pub(crate) fn decide_room(&self) -> Decision {
        let victims = self.worth(Some(ROOM));
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Space) }
    }

    /// Returns a pass that frees at least a page while its copies take at most `room` bytes, all in
    /// one file.
    ///
    /// The names of keyspaces take `names` of them. Unless it is `urgent`, only segments worth
    /// copying are taken. Those that waste most for the bytes to be copied come first, whatever the
    /// waste: the ends of files too are worth freeing when nothing else is left.
    pub(crate) fn decide_fitting(&self, room: u64, names: u64, urgent: bool) -> Decision {
        let dead = self.decide_dead();
        if dead != Decision::Nothing {
            return dead;
        }
        let lost = |weighed: &Weighed<'_>| u128::from(weighed.facts.footprint.saturating_sub(weighed.cost));
        let worth = |weighed: &Weighed<'_>| {
            urgent || lost(weighed) * u128::from(GAIN_SHARE) > weighed.facts.footprint.into()
        };
        let mut order: Vec<_> = self.weighed().filter(worth).collect();
        order.sort_by(|one, other| {
            let (this, that) = (lost(one) * u128::from(other.cost), lost(other) * u128::from(one.cost));
            that.cmp(&this).then(one.facts.id.cmp(&other.facts.id))
        });
        let (mut taken, mut best) = (Vec::new(), (0, 0));
        let (mut cost, mut footprint) = (names, 0);
        for weighed in order {
            let output = size_of(taken.len() + 1, cost + weighed.cost);
            if output > room || taken.len() == VICTIMS_MAX {
                continue;
            }
            cost += weighed.cost;
            footprint += weighed.facts.footprint;
            taken.push(weighed);
            if footprint > output + best.0 {
                best = (footprint - output, taken.len());
            }
        }
        taken.truncate(best.1);
        if taken.is_empty() { Decision::Nothing } else { self.compact(&taken, Reason::Space) }
    }

    /// Returns a pass that makes one file of at most `room` bytes from several: from those that
    /// cost least.
    ///
    /// If no two fit and it is `urgent`, it takes the two that cost least.
    pub(crate) fn decide_fewer(&self, room: u64, names: u64, urgent: bool) -> Decision {
        let dead = self.decide_dead();
        if dead != Decision::Nothing {
            return dead;
        }
        let mut order: Vec<_> = self.weighed().collect();
        order.sort_by_key(|weighed| (weighed.cost, weighed.facts.id));
        let mut cost = names;
        let fits = |(at, weighed): &(usize, &Weighed<'_>)| {
            cost += weighed.cost;
            size_of(at + 1, cost) <= room || (urgent && *at < 2)
        };
        let count = order.iter().take(VICTIMS_MAX).enumerate().take_while(fits).count();
        order.truncate(count);
        if count < 2 { Decision::Nothing } else { self.compact(&order, Reason::Space) }
    }

    /// Returns a pass over every segment without live data, however small.
    pub(crate) fn decide_dead(&self) -> Decision {
        let victims: Vec<_> = self.weighed().filter(|weighed| weighed.cost == 0).take(VICTIMS_MAX).collect();
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Dead) }
    }

    fn for_space(&self) -> Vec<Weighed<'_>> {
        let freeable = self.freeable();
        let most = self.limits.freeable(self.live);
        if freeable <= most {
            return Vec::new();
        }
        // A tenth below the bound, so that the next write does not require the next pass.
        self.worth(Some(freeable - most / 10 * 9))
    }

    /// Returns the segments of one generation that free most for their copying, until they free
    /// `wanted` bytes.
    fn worth(&self, wanted: Option<u64>) -> Vec<Weighed<'_>> {
        let worth = |weighed: &Weighed<'_>| weighed.gain > weighed.facts.used / GAIN_SHARE;
        let mut order: Vec<_> = self.weighed().filter(worth).collect();
        order.sort_by(|one, other| other.is_better(one).cmp(&one.is_better(other)));
        let Some(generation) = order.first().map(|best| best.facts.generation) else { return Vec::new() };
        order.retain(|weighed| weighed.facts.generation == generation);
        self.take(order, wanted)
    }

    /// Takes from `order`, at least one, as many as fit into one pass, until they free `wanted`
    /// bytes.
    fn take<'a>(&self, order: Vec<Weighed<'a>>, wanted: Option<u64>) -> Vec<Weighed<'a>> {
        let mut taken: Vec<Weighed<'a>> = Vec::new();
        let (mut cost, mut gain) = (0, 0);
        for weighed in order.into_iter().take(VICTIMS_MAX) {
            let enough = wanted.is_some_and(|wanted| gain >= wanted);
            if !taken.is_empty() && (enough || cost + weighed.cost > self.limits.output) {
                break;
            }
            cost += weighed.cost;
            gain += weighed.gain;
            taken.push(weighed);
        }
        taken
    }

    /// Merges small segments, if there are many.
    pub(crate) fn decide_small(&self) -> Decision {
        let victims = self.small();
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Small) }
    }

    fn small(&self) -> Vec<Weighed<'_>> {
        // By its contents: if segments have few pages, no file is much smaller than the others.
        let small = |weighed: &Weighed<'_>| weighed.facts.used.saturating_mul(8) <= self.limits.output;
        let all: Vec<_> = self.weighed().filter(small).collect();
        if all.len() <= SMALL_MAX { Vec::new() } else { self.take(all, None) }
    }

    /// Returns one pass over segments with a hidden value or a tombstone, among those that `wanted`
    /// accepts.
    ///
    /// Those that keep most tombstones elsewhere come first, so that later passes can drop theirs.
    pub(crate) fn decide_all(&self, wanted: impl Fn(&SegmentFacts, u64) -> bool) -> Decision {
        let dirty = |weighed: &Weighed<'_>| {
            let counted = weighed.facts.counted;
            wanted(weighed.facts, weighed.held)
                && (counted.hidden > 0 || counted.tombstones > 0 || weighed.cost == 0)
        };
        let mut order: Vec<_> = self.weighed().filter(dirty).collect();
        order.sort_by_key(|weighed| (weighed.facts.filtered, weighed.facts.id));
        let victims = self.take(order, None);
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Requested) }
    }

    fn compact(&self, victims: &[Weighed<'_>], reason: Reason) -> Decision {
        match victims.iter().find(|weighed| weighed.facts.stage == SegmentStage::Full) {
            Some(weighed) => Decision::Sync { victim: weighed.facts.id, reason },
            None => Decision::Compact {
                victims: victims.iter().map(|weighed| weighed.facts.id).collect(),
                reason,
            },
        }
    }

    /// Returns the candidates among some segments, with the most bytes that would be copied.
    pub(crate) fn costs(&self, ids: &[SegmentId]) -> impl Iterator<Item = (&SegmentFacts, u64)> {
        self.weighed()
            .filter(|weighed| ids.contains(&weighed.facts.id))
            .map(|weighed| (weighed.facts, weighed.cost))
    }

    /// Returns the number up to which the tombstones in these segments hide nothing elsewhere.
    pub(crate) fn horizon(&self, victims: &[SegmentId]) -> Seq {
        horizon(self.facts.iter().filter(|facts| !victims.contains(&facts.id)).map(SegmentFacts::sieve))
    }
}

/// A segment, with the cost and the gain of rewriting it.
#[derive(Debug, Clone, Copy)]
struct Weighed<'a> {
    facts: &'a SegmentFacts,
    /// Bytes of tombstones that must be kept.
    held: u64,
    /// Bytes to be copied.
    cost: u64,
    /// Bytes that are not copied.
    ///
    /// Every pass makes their sum smaller, so at rest the passes end. By the waste at the ends of
    /// files, they would not.
    gain: u64,
}

impl Weighed<'_> {
    /// Returns true if it frees more for each byte that is copied.
    fn is_better(&self, other: &Weighed<'_>) -> bool {
        let product = |gain: u64, cost: u64| u128::from(gain) * u128::from(cost + 1);
        product(self.gain, other.cost) > product(other.gain, self.cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    /// A sealed segment of some pages, with `live` live bytes and `hidden` dead ones.
    fn facts(id: u64, pages: u64, live: u64, hidden: u64) -> SegmentFacts {
        SegmentFacts {
            id: SegmentId(id),
            stage: SegmentStage::Sealed,
            footprint: pages * PAGE,
            used: live + hidden,
            counted: DeadByteCounts { hidden, ..DeadByteCounts::default() },
            first: Seq(id * 1000),
            last: Seq(id * 1000 + 999),
            filtered: Seq(id * 1000 - 1),
            generation: 0,
            spared: false,
            recent: false,
        }
    }

    fn fitting(facts: &[SegmentFacts], room: u64, urgent: bool) -> Vec<u64> {
        let limits = Limits { slack: 0, output: PAGE };
        match SegmentSurvey::of(facts.to_vec(), 0, limits).decide_fitting(room * PAGE, 0, urgent) {
            Decision::Nothing => Vec::new(),
            Decision::Compact { victims, .. } => victims.iter().map(|id| id.0).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pass_on_a_full_disk_fits_its_space_and_frees_a_page() {
        // A quarter of each page is dead: four fit into three, and no fewer into fewer than they
        // are.
        let quarters: Vec<_> = (1..=6).map(|id| facts(id, 1, 2800, 1000)).collect();
        assert_eq!(fitting(&quarters, 2, true), [0; 0]);
        assert_eq!(fitting(&quarters, 3, true), [1, 2, 3, 4]);
        assert_eq!(fitting(&quarters[..3], 3, true), [0; 0]);
        // The one that wastes most comes first, and one that does not fit is skipped.
        let mixed = [facts(1, 2, 3000, 4000), facts(2, 8, 9000, 23_000), facts(3, 1, 2800, 1000)];
        assert_eq!(fitting(&mixed, 1, true), [1]);
        assert_eq!(fitting(&mixed, 3, true), [2, 1]);
        assert_eq!(fitting(&mixed, 4, true), [2, 1]);
    }

    /// Values that are overwritten often stay apart from others, and a pass copies no more than one
    /// file holds.
    #[test]
    fn pass_takes_one_generation_and_at_most_one_file_of_copies() {
        let of = |id: u64, live: u64, generation: u8| SegmentFacts {
            generation,
            ..facts(id, 1, live, 4000 - live)
        };
        // The generations alternate, and each segment is worth a little less than the one before.
        let all: Vec<_> = (0..12).map(|n| of(n + 1, 1000 + 10 * n, u8::from(n % 2 == 1))).collect();
        let live = 12 * 1055;
        for (pages, count) in [(1, 3), (1000, 6)] {
            for begin in 0..2 {
                let limits = Limits { slack: 0, output: pages * PAGE };
                let survey = SegmentSurvey::of(all[begin..].to_vec(), live, limits);
                let Decision::Compact { victims, reason: Reason::Space } = survey.decide() else {
                    panic!("{:?}", survey.decide())
                };
                let expected: Vec<_> = (0..6).map(|n| SegmentId(2 * n + 1 + begin as u64)).collect();
                assert!(victims.len() <= count && expected.starts_with(&victims), "{victims:?}");
                assert!(victims.len() > 1, "{victims:?}");
            }
        }
    }

    #[test]
    fn recent_segments_are_compacted_only_for_space_or_on_request() {
        let recent = |id| SegmentFacts { recent: true, ..facts(id, 1, 0, 3000) };
        let limits = Limits { slack: 0, output: PAGE };
        let survey = |facts: &[SegmentFacts]| SegmentSurvey::of(facts.to_vec(), 0, limits);
        let both = survey(&[recent(1), recent(2)]);
        assert_eq!(
            (both.decide(), both.decide_dead(), both.freeable()),
            (Decision::Nothing, Decision::Nothing, 0)
        );
        assert_ne!(both.with_recent().decide_dead(), Decision::Nothing);
        let Decision::Compact { victims, .. } = survey(&[facts(1, 1, 0, 3000), recent(2)]).decide() else {
            panic!("one of them is due");
        };
        assert_eq!(victims, [SegmentId(1)]);
    }

    #[test]
    fn tombstones_that_a_recent_segment_keeps_need_no_pass() {
        let keeping = |id: u64| {
            let counted = DeadByteCounts { hidden: 10, tombstones: 1000, ..DeadByteCounts::default() };
            SegmentFacts { counted, ..facts(id, 1, 3000, 1010) }
        };
        let limits = Limits { slack: 100, output: PAGE };
        let decide = |first: SegmentFacts| {
            SegmentSurvey::of(vec![first, keeping(2), keeping(3)], 3000, limits).decide()
        };
        let Decision::Compact { victims, reason: Reason::Tombstones } = decide(keeping(1)) else {
            panic!("{:?}", decide(keeping(1)))
        };
        assert_eq!(victims, [SegmentId(1)]);
        assert_eq!(decide(SegmentFacts { recent: true, ..keeping(1) }), Decision::Nothing);
    }

    #[test]
    fn dead_segments_are_removed_first_without_space() {
        let some = [facts(1, 1, 1000, 2000), facts(2, 1, 0, 3000), facts(3, 1, 1000, 2000)];
        assert_eq!(fitting(&some, 0, false), [2]);
        assert_eq!(fitting(&some[..1], 0, true), [0; 0]);
    }

    #[test]
    fn insertion_triggers_only_worthwhile_rewrites() {
        let few: Vec<_> = (1..=20).map(|id| facts(id, 1, 3700, 260)).collect();
        assert_eq!(fitting(&few, 19, false), [0; 0]);
        // Eleven of them waste one page together.
        assert_eq!(fitting(&few, 19, true).len(), 11);
    }
}
