//! The survey: the facts about every segment, from which the policy decides.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::compaction::Compactor;
use crate::engine::compaction::policy::{Limits, SegmentFacts, SegmentStage, SegmentSurvey};
use crate::engine::state::State;
use crate::engine::state::backpressure::slack;
use crate::format::manifest::SegmentState;
use crate::format::segment_header::Role;
use crate::format::{SegmentId, Seq};
use crate::log::segment::Segment;
use crate::mem::PAGE_SIZE;
use crate::mem::dead_bytes::DeadByteCounts;

/// The number of segments that are kept for feeds, however small they are.
const RECENT_MAX: u64 = 64;

impl Compactor {
    /// Collects the facts about every segment.
    pub(super) fn survey(&self, state: &State, damaged: &BTreeSet<SegmentId>) -> SegmentSurvey {
        let active = state.allocator.active_id();
        let segments: Vec<_> = state.shared.segments.read().values().map(Arc::clone).collect();
        let live = state.catalog.live_bytes();
        // While the manifest is held, no segment becomes sealed. So the counters read below include
        // every put that a record in a sealed segment hides.
        let mut facts: Vec<SegmentFacts> = state.shared.manifest.read(|manifest| {
            let of = |segment: &Arc<Segment>| {
                let sealed =
                    manifest.segment(segment.id()).filter(|entry| entry.state == SegmentState::Sealed);
                let published = segment.mapping().published();
                let end = sealed.map_or(published, |entry| entry.end);
                let stage = match sealed {
                    _ if segment.id() == active => SegmentStage::Active,
                    Some(_) => SegmentStage::Sealed,
                    None => SegmentStage::Full,
                };
                let used = end.checked_sub(segment.data_offset())?;
                // Behind its end a sealed segment has no blocks.
                let footprint = match stage {
                    SegmentStage::Sealed => end.next_multiple_of(PAGE_SIZE as u64).min(segment.size()),
                    SegmentStage::Full | SegmentStage::Active => segment.size(),
                };
                Some(SegmentFacts {
                    id: segment.id(),
                    stage,
                    footprint,
                    used,
                    counted: counted_of(segment),
                    first: segment.first_seq(),
                    last: sealed.map_or(Seq::MAX, |entry| entry.last_seq),
                    filtered: segment.filtered(),
                    generation: segment.generation(),
                    spared: damaged.contains(&segment.id()),
                    recent: false,
                })
            };
            // A segment that was never written to has nothing published.
            segments.iter().filter_map(of).collect()
        });
        if state.config.keep_changes > 0 {
            let (keep_changes, segment_bytes) = (state.config.keep_changes, state.config.segment_bytes);
            mark_recent(&mut facts, &segments, keep_changes, segment_bytes);
        }
        SegmentSurvey::of(facts, live, self.limits(state))
    }

    pub(super) fn limits(&self, state: &State) -> Limits {
        let output = state.config.segment_bytes;
        Limits { slack: slack(output), output }
    }
}

/// Marks the segments of the log that are nearer to its end than this number of bytes. Of small ones
/// it marks few: each process that is killed leaves one, and each takes a mapping.
fn mark_recent(facts: &mut [SegmentFacts], segments: &[Arc<Segment>], keep: u64, segment_bytes: u64) {
    let most = RECENT_MAX.saturating_add(keep / segment_bytes);
    let is_log = |segment: &&Arc<Segment>| segment.role() == Role::Log;
    let ids: BTreeSet<_> = segments.iter().filter(is_log).map(|segment| segment.id()).collect();
    let mut log: Vec<_> = facts.iter_mut().filter(|facts| ids.contains(&facts.id)).collect();
    log.sort_by_key(|facts| std::cmp::Reverse((facts.first, facts.id)));
    let mut distance = 0;
    for (number, facts) in (0..).zip(log) {
        facts.recent = distance < keep && number < most;
        distance += facts.footprint;
    }
}

/// Returns the dead bytes in a segment. In copies, the names of keyspaces would be written again,
/// so they are live.
fn counted_of(segment: &Segment) -> DeadByteCounts {
    let counted = segment.mapping().dead_bytes().counted();
    match segment.role() {
        Role::Log => counted,
        Role::Copies => DeadByteCounts { notes: 0, ..counted },
    }
}
