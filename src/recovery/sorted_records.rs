//! Gathered records of an ordered keyspace, sorted by their keys.
//!
//! Eight bytes of each key stand beside its record, so most comparisons read no record (`word_plan`). Records that
//! are equal in them are sorted among themselves, by eight other bytes, and so on. Each round reads a key once.
//!
//! Several threads read the first bytes, sort parts of about one size, and sort those that are equal.

use std::mem;

use super::build_context::{BuildContext, in_shares};
use super::build_findings::BuildFindings;
use super::record_batch::GatheredRecord;
use super::word_plan::{KeyFacts, WORD, WordPlan};
use crate::error::Result;
use crate::mem::alloc;
use crate::mem::location::{LOCATION_BITS, Location};
use crate::sync::epoch::Pin;

/// The number of records between the prefetch of a record and its turn.
pub(super) const AHEAD: usize = 16;
/// The records of a share of the reading, at least.
const SHARE: usize = 1 << 10;
/// The number of keys that tell at first how much all of them share.
const SAMPLES: usize = 16;

/// A record with some bytes of its key. The order is that of the keys, as far as these bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyedRecord {
    /// The bytes, from the highest to the lowest; zeros behind the end of the key.
    word: u64,
    /// In the highest bits the number of these bytes, so that a key is before its continuations by zeros;
    /// then the bit of a tombstone, and the location.
    bits: u64,
}

const TOMBSTONE: u64 = 1 << LOCATION_BITS;
const COUNT_SHIFT: u32 = LOCATION_BITS + 1;

impl KeyedRecord {
    /// A record that goes into no tree. It is behind all others.
    const NONE: Self = Self { word: u64::MAX, bits: u64::MAX };

    fn new(record: GatheredRecord) -> Self {
        let tombstone = if record.is_tombstone() { TOMBSTONE } else { 0 };
        Self { word: 0, bits: record.location().to_bits() | tombstone }
    }

    /// Takes bytes of the key, and their number.
    fn set_word(&mut self, (word, count): (u64, u64)) {
        self.word = word;
        self.bits = count << COUNT_SHIFT | self.bits & (2 * TOMBSTONE - 1);
    }

    pub(super) fn location(self) -> Location {
        Location::from_bits(self.bits & (TOMBSTONE - 1))
    }

    pub(super) fn is_tombstone(self) -> bool {
        self.bits & TOMBSTONE != 0
    }

    /// Returns true if the bytes do not tell which of two keys is before the other.
    fn is_tied(&self, other: &Self) -> bool {
        self.word == other.word && self.bits >> COUNT_SHIFT == other.bits >> COUNT_SHIFT
    }

    /// Returns true if the key ends with the bytes.
    fn is_whole(self) -> bool {
        self.bits >> COUNT_SHIFT < WORD as u64
    }
}

/// Records in the order of their keys, each key once, with the findings about others of these keys.
#[derive(Debug)]
pub(super) struct SortedRecords {
    pub(super) records: Vec<KeyedRecord>,
    /// True if the log had nearly all of them in this order, or in the reverse one.
    pub(super) is_series: bool,
    pub(super) found: Vec<BuildFindings>,
}

/// The numbers of words that are above the one before, and below it.
#[derive(Debug, Clone, Copy, Default)]
struct WordSteps {
    up: usize,
    down: usize,
}

impl WordSteps {
    fn and(self, other: Self) -> Self {
        Self { up: self.up + other.up, down: self.down + other.down }
    }
}

impl SortedRecords {
    /// Sorts gathered records by their keys.
    ///
    /// # Errors
    ///
    /// A record that cannot be read, a value whose key is too long for a tree, or memory is short.
    pub(super) fn of(with: &BuildContext<'_>, gathered: Vec<GatheredRecord>) -> Result<Self> {
        let threads = with.threads_for(gathered.len());
        let mut records = alloc::with_capacity(gathered.len()).map_err(|error| with.failed(error))?;
        records.extend(gathered.iter().map(|record| KeyedRecord::new(*record)));
        // This frees its memory before more is needed.
        drop(gathered);
        let (plan, steps) = read_first(with, &mut records, threads)?;
        let few = records.len() / 16;
        let is_series = steps.up.max(steps.down) + few >= records.len();
        let mut parts = Vec::new();
        divide(&mut records, threads, &mut parts);
        in_shares(threads, parts, |part: &mut [KeyedRecord]| {
            part.sort_unstable();
            Ok(())
        })?;
        let end = records.partition_point(|record| *record != KeyedRecord::NONE);
        records.truncate(end);
        let shares = between_keys(&mut records, end.div_ceil(threads * 4).max(SHARE));
        let found = in_shares(threads, shares, |share| {
            let mut ties = Ties { with, found: BuildFindings::default(), pin: with.space.domain().pin() };
            ties.settle(share, plan.decided())?;
            Ok(ties.found)
        })?;
        records.retain(|record| *record != KeyedRecord::NONE);
        Ok(Self { records, is_series, found })
    }
}

/// Takes bytes of all keys. Returns their choice, and the number of keys that are not below the one before.
fn read_first(
    with: &BuildContext<'_>,
    records: &mut [KeyedRecord],
    threads: usize,
) -> Result<(WordPlan, WordSteps)> {
    let pin = with.space.domain().pin();
    let (first, mut plan) = guess(with, records, &pin)?;
    loop {
        let size = records.len().div_ceil(threads).max(SHARE);
        let shares = records.chunks_mut(size).collect();
        let read = in_shares(threads, shares, |share| {
            read_words(with, share, (first, plan), &with.space.domain().pin())
        })?;
        let facts = read.iter().fold(KeyFacts::new(plan), |all, (facts, _)| all.and(facts));
        let corrected = plan.corrected(&facts);
        if corrected == plan {
            let steps = read.iter().fold(WordSteps::default(), |all, (_, steps)| all.and(*steps));
            return Ok((plan, steps));
        }
        plan = corrected;
    }
}

/// Returns the key of the first record of a group, and a choice of bytes.
fn guess<'p>(
    with: &'p BuildContext<'_>,
    records: &[KeyedRecord],
    pin: &'p Pin,
) -> Result<(&'p [u8], WordPlan)> {
    let key = |record: &KeyedRecord| with.key_at(record.location(), true, pin);
    let samples = records.iter().step_by(records.len().div_ceil(SAMPLES).max(1));
    let samples = samples.chain(records.last()).map(key).collect::<Result<Vec<_>>>()?;
    let first = samples.first().copied().unwrap_or_default();
    Ok((first, WordPlan::guess(first, &samples)))
}

/// Takes bytes of the keys of records. `first` is one of them. Returns the facts about all, and the steps
/// from each to the next.
fn read_words(
    with: &BuildContext<'_>,
    records: &mut [KeyedRecord],
    (first, plan): (&[u8], WordPlan),
    pin: &Pin,
) -> Result<(KeyFacts, WordSteps)> {
    let (mut facts, mut steps, mut before) = (KeyFacts::new(plan), WordSteps::default(), None);
    for at in 0..records.len() {
        if let Some(next) = records.get(at + AHEAD) {
            with.space.prefetch(next.location());
        }
        let record = &mut records[at];
        if *record == KeyedRecord::NONE {
            continue;
        }
        let key = with.key_at(record.location(), true, pin)?;
        if !with.check_len(key, record.is_tombstone())? {
            *record = KeyedRecord::NONE;
            continue;
        }
        record.set_word(plan.word_of(key, first, &mut facts));
        match before.replace(record.word) {
            Some(before) if before < record.word => steps.up += 1,
            Some(before) if before > record.word => steps.down += 1,
            // Equal words say nothing.
            _ => {}
        }
    }
    Ok((facts, steps))
}

/// Divides records into parts of about one size, in the order of their keys.
fn divide<'r>(records: &'r mut [KeyedRecord], count: usize, parts: &mut Vec<&'r mut [KeyedRecord]>) {
    if count <= 1 || records.len() <= SHARE {
        parts.push(records);
        return;
    }
    let fewer = count / 2;
    let at = records.len() / count * fewer;
    records.select_nth_unstable(at);
    let (below, rest) = records.split_at_mut(at);
    divide(below, fewer, parts);
    divide(rest, count - fewer, parts);
}

/// Divides sorted records into shares of this size or more, none of which ends between two that are tied.
fn between_keys(mut records: &mut [KeyedRecord], size: usize) -> Vec<&mut [KeyedRecord]> {
    let mut shares = Vec::new();
    while let Some(end) = (size..records.len()).find(|at| !records[at - 1].is_tied(&records[*at])) {
        let (share, rest) = mem::take(&mut records).split_at_mut(end);
        shares.push(share);
        records = rest;
    }
    shares.push(records);
    shares
}

/// One thread that sorts tied records.
struct Ties<'a> {
    with: &'a BuildContext<'a>,
    found: BuildFindings,
    pin: Pin,
}

impl Ties<'_> {
    /// Sorts records that are sorted by the first bytes of their keys, and leaves the newest of each key. Those
    /// that are tied share `decided` bytes.
    fn settle(&mut self, records: &mut [KeyedRecord], decided: usize) -> Result<()> {
        for tied in records.chunk_by_mut(KeyedRecord::is_tied).filter(|tied| tied.len() > 1) {
            if tied[0].is_whole() {
                self.keep_newest(tied)?;
                continue;
            }
            let (first, mut plan) = guess(self.with, tied, &self.pin)?;
            loop {
                let (facts, _) = read_words(self.with, tied, (first, plan), &self.pin)?;
                let corrected = plan.corrected(&facts);
                if corrected == plan {
                    break;
                }
                plan = corrected;
            }
            debug_assert!(plan.decided() > decided, "they were tied up to there");
            tied.sort_unstable();
            self.settle(tied, plan.decided())?;
        }
        Ok(())
    }

    /// Leaves the newest of some records of one key, and notes the others.
    fn keep_newest(&mut self, records: &mut [KeyedRecord]) -> Result<()> {
        let mut newest = 0;
        for at in 1..records.len() {
            let (one, other) = (records[newest].location(), records[at].location());
            let older = if self.found.is_newer(self.with, one, other, &self.pin)? {
                mem::replace(&mut newest, at)
            } else {
                at
            };
            records[older] = KeyedRecord::NONE;
        }
        Ok(())
    }
}
