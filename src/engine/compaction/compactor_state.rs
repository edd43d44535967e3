//! The state of the compactor: the pass under way, and the last survey.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::compaction::pass::Pass;
use crate::engine::compaction::report::CompactionReport;
use crate::format::{SegmentId, Seq};
use crate::log::sync_plan::SegmentRange;

/// The time for which a survey serves, while writes continue in one segment.
const LOOK: Duration = Duration::from_millis(10);

/// The moment of a survey.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastSurvey {
    pub(crate) when: Duration,
    /// The last write.
    pub(crate) last: Seq,
    /// The active segment.
    pub(crate) active: SegmentId,
}

impl LastSurvey {
    /// Returns true if a survey now may find more than the one before.
    pub(crate) fn is_worth_it(self, before: Self) -> bool {
        let later = self.when >= before.when.saturating_add(LOOK);
        self.last != before.last && (later || self.active != before.active)
    }
}

/// The state of the thread that drives compaction.
#[derive(Debug, Default)]
pub(crate) struct CompactorState {
    pub(crate) pass: Option<Pass>,
    /// The ranges to be written back before the sync that the next pass needs. `None` if it needs
    /// none.
    pub(crate) ahead: Option<Vec<SegmentRange>>,
    /// Segments with a record that does not verify.
    pub(crate) damaged: BTreeSet<SegmentId>,
    /// The moment of the last survey.
    pub(crate) looked: Option<LastSurvey>,
    /// The bandwidth limit allows no step before this time.
    pub(crate) not_before: Duration,
    /// The number of calls that compact everything and are in their callback, without the lock.
    pub(crate) lent: usize,
    /// The passes of those calls that other threads finished meanwhile.
    pub(crate) ended: CompactionReport,
}
