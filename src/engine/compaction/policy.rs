//! Which segments to compact next, and why: numbers in, a decision out.
//!
//! **The bound.** At rest what compaction could free is at most [`Limits::freeable`]: a share of what is alive, and a
//! constant. What it cannot free is alive, or a tombstone that the rule of `rule` keeps, and of those too more than a
//! share is not left: the segment that keeps most of them is rewritten.
//!
//! **The order.** Segments in which nothing is alive go first; they cost no copying. Then come those that give back
//! most for what is to be copied, of one generation at a time, so that values that are overwritten often and those
//! that are not come to lie in different segments. No more are taken than the bound asks for: what is left alone gets
//! emptier by itself.

use super::output::size_of;
use super::report::CompactionReason as Reason;
use super::tombstone_rule::{SegmentBound, horizon};
use crate::format::{SegmentId, Seq};
use crate::mem::dead_bytes::DeadByteCounts;
use crate::mem::mapping::PAGE_SIZE;

/// Of a hundred live bytes, how many may be freeable.
const FREEABLE_PERCENT: u64 = 35;
/// Of a hundred live bytes, how many kept tombstones may take.
const KEPT_PERCENT: u64 = 12;
/// The least share of a segment that must be freeable for it to be rewritten, one in so many.
const GAIN_SHARE: u64 = 8;
/// How much a pass must give back for there to be room afterwards, in bytes: one page more than what the last page of its
/// output may waste. Names of keyspaces, which the output has in addition, are left out of account.
const ROOM: u64 = 2 * PAGE_SIZE as u64;
/// How many segments may be small.
const SMALL_MAX: usize = 8;
/// The most segments that one pass takes: bounds the header of its output, and how long it holds on to things.
const VICTIMS_MAX: usize = 256;

/// How far the life of a segment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentStage {
    /// Durable, and named so by the manifest.
    Sealed,
    /// Never appended to again, and not yet known to be durable.
    Full,
    Active,
}

/// What is known of a segment.
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
    /// It is left alone.
    pub(crate) spared: bool,
}

impl SegmentFacts {
    /// Bytes of what is alive in it.
    pub(crate) fn live(&self) -> u64 {
        self.used.saturating_sub(self.counted.dead())
    }

    /// What it keeps of tombstones elsewhere.
    pub(crate) fn sieve(&self) -> SegmentBound {
        SegmentBound { first: self.first, filtered: self.filtered, hidden: self.counted.hidden > 0 }
    }

    fn is_candidate(&self) -> bool {
        self.stage != SegmentStage::Active && !self.spared
    }
}

/// What the decision depends on beside the segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that may be freeable whatever is alive.
    pub(crate) slack: u64,
    /// The most bytes that one pass writes.
    pub(crate) output: u64,
}

impl Limits {
    /// The most that may be freeable.
    pub(crate) fn freeable(&self, live: u64) -> u64 {
        self.slack + live / 100 * FREEABLE_PERCENT
    }

    fn kept(&self, live: u64) -> u64 {
        self.slack + live / 100 * KEPT_PERCENT
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Nothing,
    /// Rewrite or remove these.
    Compact {
        victims: Vec<SegmentId>,
        reason: Reason,
    },
    /// First make the log durable: what is to be compacted is not yet.
    Sync {
        victim: SegmentId,
        reason: Reason,
    },
}

/// What is to be decided about, worked out once.
#[derive(Debug)]
pub(crate) struct SegmentSurvey {
    facts: Vec<SegmentFacts>,
    /// Of each of them: bytes of tombstones that must be kept.
    held: Vec<u64>,
    live: u64,
    limits: Limits,
}

impl SegmentSurvey {
    /// Takes stock.
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

    /// Every segment, with the bytes that would have to be copied and those that would come back.
    fn weighed(&self) -> impl Iterator<Item = Weighed<'_>> {
        self.facts.iter().zip(&self.held).filter(|(facts, _)| facts.is_candidate()).map(|(facts, held)| {
            let cost = facts.live() + held;
            Weighed { facts, held: *held, cost, gain: facts.used.saturating_sub(cost) }
        })
    }

    /// Bytes that compaction could free.
    pub(crate) fn freeable(&self) -> u64 {
        self.weighed().map(|weighed| weighed.gain).sum()
    }

    /// Bytes of tombstones that must be kept.
    pub(crate) fn kept(&self) -> u64 {
        self.held.iter().sum()
    }

    /// What the bound asks for.
    pub(crate) fn decide(&self) -> Decision {
        let dead = || self.weighed().filter(|weighed| weighed.cost == 0);
        // Whatever page a segment takes, it is all there is of it.
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
            let keeps = |weighed: &Weighed<'_>| Some((weighed.facts.sieve().bound()?, weighed.facts.id));
            let worst = self
                .weighed()
                .filter_map(|weighed| Some((keeps(&weighed)?, weighed)))
                .min_by_key(|(key, _)| *key);
            if let Some((_, worst)) = worst {
                return self.compact(&[worst], Reason::Tombstones);
            }
        }
        self.decide_small()
    }

    /// What gives back room at once, although the bound does not ask for it: some of what is worth its copying.
    pub(crate) fn decide_room(&self) -> Decision {
        let victims = self.worth(Some(ROOM));
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Space) }
    }

    /// What gives back a page at least while its copies take at most `room` bytes, all in one file; the names of keyspaces
    /// take `names` of them. Unless it is `urgent`, only of what is worth its copying.
    ///
    /// Those that lose most for what is to be copied come first, whatever they lose it to: the ends of files too are
    /// worth winning where nothing else is left.
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

    /// A pass that makes one file, of at most `room` bytes, of several: of those that cost least. Where no two fit into that and
    /// it is `urgent`, of the two that cost least.
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

    /// Everything in which nothing is alive, however little it is.
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
        // A tenth below the bound, so that the next write does not ask for the next pass.
        self.worth(Some(freeable - most / 10 * 9))
    }

    /// Those that give back most for what is to be copied, of one generation, until they give back what is wanted.
    fn worth(&self, wanted: Option<u64>) -> Vec<Weighed<'_>> {
        let worth = |weighed: &Weighed<'_>| weighed.gain > weighed.facts.used / GAIN_SHARE;
        let mut order: Vec<_> = self.weighed().filter(worth).collect();
        order.sort_by(|one, other| other.is_better(one).cmp(&one.is_better(other)));
        let Some(generation) = order.first().map(|best| best.facts.generation) else { return Vec::new() };
        order.retain(|weighed| weighed.facts.generation == generation);
        self.take(order, wanted)
    }

    /// As many of `order`, one at least, as fit into one pass and give back what is wanted.
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

    /// Merges small segments, where there are many.
    pub(crate) fn decide_small(&self) -> Decision {
        let victims = self.small();
        if victims.is_empty() { Decision::Nothing } else { self.compact(&victims, Reason::Small) }
    }

    fn small(&self) -> Vec<Weighed<'_>> {
        // By what is in it: where segments are of few pages, a file is never much smaller than the others.
        let small = |weighed: &Weighed<'_>| weighed.facts.used.saturating_mul(8) <= self.limits.output;
        let all: Vec<_> = self.weighed().filter(small).collect();
        if all.len() <= SMALL_MAX { Vec::new() } else { self.take(all, None) }
    }

    /// What rewrites everything that holds a hidden value or a tombstone: one pass of it, among the segments that
    /// `wanted` accepts. Those that keep most tombstones elsewhere come first, so that the later ones can let theirs go.
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

    /// Those of some segments that are there, with the bytes that would be copied, at most.
    pub(crate) fn costs(&self, ids: &[SegmentId]) -> impl Iterator<Item = (&SegmentFacts, u64)> {
        self.weighed()
            .filter(|weighed| ids.contains(&weighed.facts.id))
            .map(|weighed| (weighed.facts, weighed.cost))
    }

    /// Up to which number the tombstones in these segments hide nothing elsewhere.
    pub(crate) fn horizon(&self, victims: &[SegmentId]) -> Seq {
        horizon(self.facts.iter().filter(|facts| !victims.contains(&facts.id)).map(SegmentFacts::sieve))
    }
}

/// A segment, with what rewriting it costs and gives back.
#[derive(Debug, Clone, Copy)]
struct Weighed<'a> {
    facts: &'a SegmentFacts,
    /// Bytes of tombstones that must be kept.
    held: u64,
    /// Bytes to be copied.
    cost: u64,
    /// Bytes that are not copied. Every pass makes the sum of them smaller, so that at rest passes come to an end; what is lost
    /// at the ends of files would come to no end.
    gain: u64,
}

impl Weighed<'_> {
    /// Whether it gives back more for each byte that is copied.
    fn is_better(&self, other: &Weighed<'_>) -> bool {
        let product = |gain: u64, cost: u64| u128::from(gain) * u128::from(cost + 1);
        product(self.gain, other.cost) > product(other.gain, self.cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    /// A sealed segment of some pages, of which `live` bytes are alive and `hidden` are not.
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
    fn a_pass_on_a_full_disk_fits_into_its_room_and_gives_back_a_page() {
        // A quarter of each page is dead: four fit into three, and no fewer into fewer than they are.
        let quarters: Vec<_> = (1..=6).map(|id| facts(id, 1, 2800, 1000)).collect();
        assert_eq!(fitting(&quarters, 2, true), [0; 0]);
        assert_eq!(fitting(&quarters, 3, true), [1, 2, 3, 4]);
        assert_eq!(fitting(&quarters[..3], 3, true), [0; 0]);
        // What has lost most comes first, and what does not fit is passed over.
        let mixed = [facts(1, 2, 3000, 4000), facts(2, 8, 9000, 23_000), facts(3, 1, 2800, 1000)];
        assert_eq!(fitting(&mixed, 1, true), [1]);
        assert_eq!(fitting(&mixed, 3, true), [2, 1]);
        assert_eq!(fitting(&mixed, 4, true), [2, 1]);
    }

    /// Values that are overwritten often stay apart from those that are not; and a pass has as much in hand as one file holds.
    #[test]
    fn a_pass_has_victims_of_one_generation_and_copies_no_more_than_a_file_holds() {
        let of = |id: u64, live: u64, generation: u8| SegmentFacts {
            generation,
            ..facts(id, 1, live, 4000 - live)
        };
        // By turns, and each worth a little less than the one before.
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
    fn what_is_dead_goes_first_and_needs_no_room() {
        let some = [facts(1, 1, 1000, 2000), facts(2, 1, 0, 3000), facts(3, 1, 1000, 2000)];
        assert_eq!(fitting(&some, 0, false), [2]);
        assert_eq!(fitting(&some[..1], 0, true), [0; 0]);
    }

    #[test]
    fn an_insertion_has_only_what_is_worth_it_rewritten() {
        let few: Vec<_> = (1..=20).map(|id| facts(id, 1, 3700, 260)).collect();
        assert_eq!(fitting(&few, 19, false), [0; 0]);
        // So many that what each has lost makes up a page, and no more.
        assert_eq!(fitting(&few, 19, true).len(), 11);
    }
}
