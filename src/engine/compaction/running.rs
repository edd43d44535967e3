//! The pass that is under way, and what was looked at before it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::compaction::job::Pass;
use crate::engine::compaction::report::CompactionReport;
use crate::format::{SegmentId, Seq};
use crate::log::sync_plan::SegmentRange;

/// How long a look at what is to be done serves, while writes go on in one segment.
const LOOK: Duration = Duration::from_millis(10);

/// A moment at which it was looked at what is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastSurvey {
    pub(crate) when: Duration,
    /// The last write.
    pub(crate) last: Seq,
    /// The segment that was written to.
    pub(crate) active: SegmentId,
}

impl LastSurvey {
    /// Whether a look now may find more than the one before.
    pub(crate) fn is_worth_it(self, before: Self) -> bool {
        let later = self.when >= before.when.saturating_add(LOOK);
        self.last != before.last && (later || self.active != before.active)
    }
}

/// What the one who drives it has in hand.
#[derive(Debug, Default)]
pub(crate) struct PassState {
    pub(crate) job: Option<Pass>,
    /// What is to be written back before the sync that the next pass needs; none where it needs none.
    pub(crate) ahead: Option<Vec<SegmentRange>>,
    /// Segments with a record that does not verify.
    pub(crate) damaged: BTreeSet<SegmentId>,
    /// When it was last looked at what is to be done.
    pub(crate) looked: Option<LastSurvey>,
    /// The limit on bandwidth allows no step before this.
    pub(crate) not_before: Duration,
    /// How many of those who compact all there is are in their caller's code, without the lock.
    pub(crate) lent: usize,
    /// What others did of that meanwhile.
    pub(crate) ended: CompactionReport,
}
